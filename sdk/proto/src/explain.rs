//! Why two nodes meet as they do, in a sentence.
//!
//! One function makes the text from the evidence, so that a server, a node and a command line say the same of
//! the same. It decides nothing: what NATs allow is said by [`prospect`], from what both nodes found out about
//! theirs, and that is a claim of theirs.

use std::fmt::Write;

use crate::network::{Allocator, Filtering, Mapping, NatBehavior, NetworkClass};

/// What is known of one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a> {
    /// Its name.
    pub name: &'a str,
    /// It is here.
    pub present: bool,
    /// What it was found to be.
    pub class: Option<NetworkClass>,
    /// What it found out about its NAT.
    pub behavior: Option<NatBehavior>,
}

/// What became of an introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is not over.
    Pending,
    /// One of the two says that a direct path works.
    Direct {
        /// From the introduction to the first verified packet, in milliseconds.
        elapsed_ms: u32,
    },
    /// It is over, and a relay carries what they say.
    Relayed,
    /// It is over, and nobody has said that there is a path.
    Failed,
}

impl Outcome {
    /// It is over, and there is no direct path.
    const fn is_without_direct(self) -> bool {
        match self {
            Self::Relayed | Self::Failed => true,
            Self::Pending | Self::Direct { .. } => false,
        }
    }
}

/// An introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How long ago it began, in milliseconds.
    pub ago_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The way by which the two speak now, if whoever explains can see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The word for its kind, for example `direct`.
    pub kind: &'a str,
    /// Its round trip, in milliseconds.
    pub rtt_ms: u64,
}

/// All that the sentence is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// The two.
    pub parties: [Party<'a>; 2],
    /// Their last introductions, the newest first.
    pub attempts: &'a [Attempt],
    /// How they speak now.
    pub way: Option<Way<'a>>,
}

/// How two NATs let their nodes meet, if both send at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// Directly.
    Direct,
    /// Directly, if somebody guesses a port: the one is mapped anew for each destination, and the other lets in
    /// only whom it has sent to.
    Guess,
    /// Directly, if both guess: both are mapped anew for each destination, and to ports that can be foretold.
    GuessBoth,
    /// By a relay: both are mapped anew for each destination, and one of them runs out of ports before a guess hits.
    TooFewPorts,
    /// By a relay: both are mapped anew for each destination, and at least one to any port.
    Relay,
    /// By a relay over TCP: no UDP gets through on one side.
    NoUdp,
    /// Not both have found out.
    Unknown,
}

/// How two nodes can meet, by what they found out.
#[must_use]
pub fn prospect(a: &Party<'_>, b: &Party<'_>) -> Prospect {
    let parties = [a, b];
    let is_blocked = |party: &&Party<'_>| {
        party.class == Some(NetworkClass::Unreachable)
            || party.behavior.is_some_and(|behavior| behavior.udp_blocked)
    };
    if parties.iter().any(is_blocked) {
        return Prospect::NoUdp;
    }
    if parties.iter().any(|party| party.class.is_some_and(NetworkClass::is_public_and_reachable)) {
        return Prospect::Direct;
    }
    let behaviors = parties.map(|party| party.behavior.unwrap_or_default());
    let [Some(a), Some(b)] = behaviors.map(|behavior| behavior.mapping) else { return Prospect::Unknown };
    match (is_stable(a), is_stable(b)) {
        (true, true) => Prospect::Direct,
        (false, false) if behaviors.iter().all(is_foreseeable) => {
            let is_used_up = |behavior: &NatBehavior| behavior.port_reuse == Some(false);
            if behaviors.iter().any(is_used_up) { Prospect::TooFewPorts } else { Prospect::GuessBoth }
        }
        (false, false) => Prospect::Relay,
        (true, false) => by_filter(behaviors[0]),
        (false, true) => by_filter(behaviors[1]),
    }
}

/// By the filter of the side whose mapping is the same for all, towards one that comes from any port.
fn by_filter(stable: NatBehavior) -> Prospect {
    match stable.filtering {
        Some(Filtering::EndpointIndependent | Filtering::AddressDependent) => Prospect::Direct,
        Some(Filtering::AddressAndPortDependent) => Prospect::Guess,
        None => Prospect::Unknown,
    }
}

/// The world sees the node at one address.
const fn is_stable(mapping: Mapping) -> bool {
    match mapping {
        Mapping::None | Mapping::EndpointIndependent => true,
        Mapping::AddressDependent | Mapping::AddressAndPortDependent => false,
    }
}

/// The ports of its NAT are a sequence or few.
const fn is_foreseeable(behavior: &NatBehavior) -> bool {
    matches!(behavior.allocator, Some(Allocator::Sequential { .. } | Allocator::Block { .. }))
}

/// The common word for what a node sits behind.
#[must_use]
pub fn nat(behavior: Option<NatBehavior>) -> &'static str {
    let NatBehavior { mapping, filtering, allocator, udp_blocked, .. } = behavior.unwrap_or_default();
    if udp_blocked {
        return "a network that passes no UDP";
    }
    match (mapping, filtering) {
        (Some(Mapping::None), Some(Filtering::EndpointIndependent)) => "no NAT",
        (Some(Mapping::None), Some(Filtering::AddressDependent | Filtering::AddressAndPortDependent)) => {
            "no NAT, but a firewall"
        }
        (Some(Mapping::None), None) => "no NAT",
        (Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent)) => "a full-cone NAT",
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent)) => {
            "an address-restricted NAT"
        }
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressAndPortDependent)) => {
            "a port-restricted NAT"
        }
        (Some(Mapping::EndpointIndependent), None) => "a NAT with one mapping for all destinations",
        (Some(Mapping::AddressDependent), _) => "a NAT with another mapping for each address",
        (Some(Mapping::AddressAndPortDependent), _) => match allocator {
            Some(Allocator::Sequential { .. }) => "a symmetric NAT that gives out ports in a row",
            Some(Allocator::Block { .. }) => "a symmetric NAT with a block of ports",
            Some(Allocator::Random) => "a symmetric NAT with random ports",
            Some(Allocator::Preserving) | None => "a symmetric NAT",
        },
        (None, _) => "an unknown NAT",
    }
}

fn place(party: &Party<'_>) -> &'static str {
    match party.class {
        Some(NetworkClass::Loopback) => "on the server's machine",
        Some(NetworkClass::Unreachable) => "no UDP gets through",
        Some(NetworkClass::PublicReachable) => "reachable by everybody",
        Some(NetworkClass::PublicOpen) => "open to everybody",
        Some(NetworkClass::Private | NetworkClass::PublicUndefined) | None => nat(party.behavior),
    }
}

/// The text, one sentence without a full stop.
#[must_use]
pub fn sentence(evidence: &Evidence<'_>) -> String {
    let Evidence { parties: [a, b], attempts, way } = evidence;
    let mut text = format!("{}; {}; ", side(a), side(b));
    let failed = attempts.iter().take_while(|attempt| attempt.outcome.is_without_direct()).count();
    // Writing to a string can't fail.
    let _ = match (way, attempts.first()) {
        (Some(Way { kind, rtt_ms }), first) => {
            let met = first.and_then(|first| match first.outcome {
                Outcome::Direct { elapsed_ms } => Some(elapsed_ms),
                Outcome::Pending | Outcome::Relayed | Outcome::Failed => None,
            });
            let after = met.map_or_else(String::new, |met| format!(", found after {met} ms"));
            write!(text, "they speak by a {kind} path of {rtt_ms} ms{after}")
        }
        (None, None) => write!(text, "they were not introduced lately"),
        (None, Some(Attempt { ago_ms, outcome })) => match outcome {
            Outcome::Direct { elapsed_ms } => {
                write!(text, "they met directly {} ago, after {elapsed_ms} ms", span(*ago_ms))
            }
            Outcome::Pending => write!(text, "they are being introduced"),
            Outcome::Relayed => write!(text, "they were met by a relay {} ago", span(*ago_ms)),
            Outcome::Failed if failed == 1 => {
                write!(text, "an introduction {} ago found no direct path", span(*ago_ms))
            }
            Outcome::Failed => {
                write!(text, "{failed} introductions found no direct path, the last {} ago", span(*ago_ms))
            }
        },
    };
    if let Some(reason) = reason(evidence, failed) {
        let _ = write!(text, ": {reason}");
    }
    text
}

fn side(party: &Party<'_>) -> String {
    let away = if party.present { "" } else { ", not present" };
    format!("{}: {}{away}", party.name, place(party))
}

/// Why they do not meet directly, or would not.
fn reason(evidence: &Evidence<'_>, failed: usize) -> Option<&'static str> {
    let [a, b] = &evidence.parties;
    let is_direct = evidence.way.is_some_and(|way| way.kind == "direct")
        || matches!(evidence.attempts.first(), Some(Attempt { outcome: Outcome::Direct { .. }, .. }));
    if is_direct {
        return None;
    }
    match prospect(a, b) {
        Prospect::Direct if failed > 0 => {
            Some("their NATs allow one, so a firewall between them or lost packets keep it away")
        }
        Prospect::Direct => None,
        Prospect::Guess => Some(
            "the one comes from another port for each destination, and the other lets in only whom it has sent to, \
             so a port has to be guessed",
        ),
        Prospect::GuessBoth => Some(
            "both come from another port for each destination, but from ports that can be foretold, so both have to \
             guess",
        ),
        Prospect::TooFewPorts => Some(
            "both come from another port for each destination, and the NAT of one has a block of few ports, each for one \
             destination only, which would be used up before a guess hits; that takes a relay",
        ),
        Prospect::Relay => Some(
            "both come from another port for each destination, so neither can know where to send; that takes a relay",
        ),
        Prospect::NoUdp => Some("without UDP there is no direct path; that takes a relay over TCP"),
        Prospect::Unknown => (failed > 0).then_some("what NATs are between is not known"),
    }
}

/// Some time ago, in the largest unit that says enough.
fn span(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn behavior(mapping: Mapping, filtering: Filtering) -> Option<NatBehavior> {
        let (mapping, filtering) = (Some(mapping), Some(filtering));
        Some(NatBehavior {
            mapping,
            filtering,
            allocator: None,
            hairpin: None,
            early_inbound: None,
            port_reuse: None,
            lifetime_s: None,
            double_nat: None,
            depth: None,
            udp_blocked: false,
        })
    }

    const OPEN: Option<NatBehavior> = behavior(Mapping::None, Filtering::EndpointIndependent);
    const CONE: Option<NatBehavior> = behavior(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    const ADDRESS: Option<NatBehavior> = behavior(Mapping::EndpointIndependent, Filtering::AddressDependent);
    const PORT: Option<NatBehavior> =
        behavior(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    const SYMMETRIC: Option<NatBehavior> =
        behavior(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);

    fn party(name: &str, behavior: Option<NatBehavior>) -> Party<'_> {
        Party { name, present: true, class: Some(NetworkClass::Private), behavior }
    }

    /// Which pairs can meet directly, by mapping and filtering alone.
    #[test]
    fn prospects_table() {
        use Prospect::{Direct, Guess, Relay, Unknown};
        let kinds = [OPEN, CONE, ADDRESS, PORT, SYMMETRIC, None];
        let expect = [
            [Direct, Direct, Direct, Direct, Direct, Unknown],
            [Direct, Direct, Direct, Direct, Direct, Unknown],
            [Direct, Direct, Direct, Direct, Direct, Unknown],
            [Direct, Direct, Direct, Direct, Guess, Unknown],
            [Direct, Direct, Direct, Guess, Relay, Unknown],
            [Unknown; 6],
        ];
        for (a, row) in kinds.into_iter().zip(expect) {
            for (b, expect) in kinds.into_iter().zip(row) {
                assert_eq!(prospect(&party("a", a), &party("b", b)), expect, "{} and {}", nat(a), nat(b));
            }
        }
        let symmetric =
            |allocator| SYMMETRIC.map(|known| NatBehavior { allocator: Some(allocator), ..known });
        let sequence = symmetric(Allocator::Sequential { delta: 1, newest: 4_000 });
        let block = symmetric(Allocator::Block { first: 4_000, last: 4_900 });
        let random = symmetric(Allocator::Random);
        let once = block.map(|known| NatBehavior { port_reuse: Some(false), ..known });
        for (a, b, expect) in [
            (PORT, random, Guess),
            (ADDRESS, random, Direct),
            (sequence, block, Prospect::GuessBoth),
            (block, block, Prospect::GuessBoth),
            (block, once, Prospect::TooFewPorts),
            (once, sequence, Prospect::TooFewPorts),
            (once, random, Relay),
            (once, PORT, Guess),
            (random, sequence, Relay),
            (random, random, Relay),
        ] {
            assert_eq!(prospect(&party("a", a), &party("b", b)), expect, "{} and {}", nat(a), nat(b));
        }
        let reachable = Party { class: Some(NetworkClass::PublicReachable), ..party("a", None) };
        assert_eq!(prospect(&reachable, &party("b", SYMMETRIC)), Direct);
        let blocked = Party { class: Some(NetworkClass::Unreachable), ..party("b", None) };
        assert_eq!(prospect(&reachable, &blocked), Prospect::NoUdp);
    }

    #[test]
    fn sentences_table() {
        let direct = Attempt { ago_ms: 90_000, outcome: Outcome::Direct { elapsed_ms: 84 } };
        let failed = |ago_ms| Attempt { ago_ms, outcome: Outcome::Failed };
        let pending = Attempt { ago_ms: 10, outcome: Outcome::Pending };
        let way = |kind| Some(Way { kind, rtt_ms: 31 });
        let blocked = Party { class: Some(NetworkClass::Unreachable), ..party("bob", None) };
        let away = Party { present: false, ..party("bob", None) };
        let open = Party { class: Some(NetworkClass::PublicOpen), ..party("bob", None) };
        let bob = |behavior| party("bob", behavior);
        type Case<'a> = (Option<NatBehavior>, Party<'a>, &'a [Attempt], Option<Way<'a>>, &'a str);
        let cases: &[Case<'_>] = &[
            (
                PORT,
                bob(CONE),
                &[direct],
                None,
                "bob: a full-cone NAT; they met directly 90 s ago, after 84 ms",
            ),
            (
                PORT,
                bob(CONE),
                &[direct],
                way("direct"),
                "bob: a full-cone NAT; they speak by a direct path of 31 ms, found after 84 ms",
            ),
            (
                PORT,
                bob(SYMMETRIC),
                &[failed(500), failed(60_000)],
                None,
                "bob: a symmetric NAT; 2 introductions found no direct path, the last 500 ms ago: the one comes from \
                 another port for each destination, and the other lets in only whom it has sent to, so a port has to be \
                 guessed",
            ),
            (
                SYMMETRIC,
                bob(SYMMETRIC),
                &[failed(7_200_000), direct],
                way("relayed"),
                "bob: a symmetric NAT; they speak by a relayed path of 31 ms: both come from another port for each \
                 destination, so neither can know where to send; that takes a relay",
            ),
            (
                CONE,
                bob(CONE),
                &[failed(180_000), direct],
                None,
                "bob: a full-cone NAT; an introduction 3 min ago found no direct path: their NATs allow one, so a \
                 firewall between them or lost packets keep it away",
            ),
            (
                CONE,
                blocked,
                &[],
                None,
                "bob: no UDP gets through; they were not introduced lately: without UDP there is no direct path; that \
                 takes a relay over TCP",
            ),
            (CONE, away, &[], None, "bob: an unknown NAT, not present; they were not introduced lately"),
            (CONE, open, &[pending], None, "bob: open to everybody; they are being introduced"),
        ];
        for (own, bob, attempts, way, expect) in cases {
            let alice = party("alice", *own);
            let evidence = Evidence { parties: [alice, *bob], attempts, way: *way };
            let expect = format!("alice: {}; {expect}", nat(*own));
            assert_eq!(sentence(&evidence), expect);
        }
    }

    #[test]
    fn a_time_is_said_in_one_unit() {
        let cases =
            [(0, "0 ms"), (999, "999 ms"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")];
        for (ms, expect) in cases {
            assert_eq!(span(ms), expect);
        }
    }
}
