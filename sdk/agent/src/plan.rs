//! By what art two nodes can meet directly, told from what both found out about their NATs.
//!
//! A node whose mapping is the same towards everybody is where the server observed it. One whose NAT is
//! symmetric comes from a port that nobody has seen, and a strict filter on the other side lets it in only
//! if that port was guessed. What makes guessing feasible is the NAT's way of choosing ports; where it is
//! feasible for neither, only a relay helps, and no ticket's time is spent on trying.
//!
//! Both sides are shown the same two behaviours and so make plans that fit each other. Only judgement is
//! here; [`crate::guess`] carries it out.

use std::fmt;

use meetpoint_proto::{Allocator, Filtering, Mapping, NatBehavior};

/// Sockets that a symmetric side with random ports opens towards its peer: with [`PROBES`] guesses among
/// all 64,512 ports one meets another with a probability of 99.99 %.
const SOCKETS_RANDOM: u16 = 512;
/// The same for a block: one socket would do, more make it quick. 32 of 1,024 ports are met by the first 140
/// guesses with a probability of 99 %.
const SOCKETS_BLOCK: u16 = 32;
/// The same for a sequence: one would do if no packet were lost.
const SOCKETS_SEQUENCE: u16 = 8;
/// Different ports guessed under one ticket.
pub(crate) const PROBES: u16 = meetpoint_proto::wire::MAX_GUESSED_PORTS;
/// Ports of a sequence that are guessed: how many others may have taken one since the newest was seen.
const PROBES_SEQUENCE: u16 = 128;
/// Two sequences cross where each side's sockets come by the one port that the other side sends to, half-way.
const SOCKETS_CROSS: u16 = 64;
/// Sockets for two blocks: 3,600 flows a side, of which 1,774 meet with a probability of 95 %.
const SOCKETS_TWO_BLOCKS: u16 = 3;
/// Sockets of a block's side towards a sequence, whose own side has one flow for each of its ports: 6,000 flows meet
/// one of 1,200 with a probability of 99 %.
const SOCKETS_BLOCK_TO_SEQUENCE: u16 = 5;

/// What one side does under a ticket, besides sending checks to the peer's candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: candidates are enough, or too little is known.
    Checks,
    /// Sends from so many sockets to where the peer was observed; the peer guesses where they come from.
    Spread {
        /// How many.
        sockets: u16,
    },
    /// Guesses so many of the ports by which the peer may come.
    Guess {
        /// How many.
        ports: u16,
    },
    /// Sends from so many sockets to the one port that the peer's sequence is going to come by.
    Cross {
        /// How many; half of them come before the port that the peer sends to.
        sockets: u16,
    },
    /// Sends from so many sockets to each of so many ports, as the peer does: two of the flows meet.
    Grid {
        /// How many sockets.
        sockets: u16,
        /// How many ports.
        ports: u16,
    },
    /// Nothing can help.
    Relay(Forbidden),
}

/// Why two nodes can't meet directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forbidden {
    /// One NAT chooses any port for each destination, and the other another one for each too: some four thousand
    /// million pairs of ports.
    RandomAndSymmetric,
    /// One NAT has a block of ports, each of which serves one destination: they are used up before two of them meet,
    /// and nothing else gets out meanwhile.
    TooFewPorts,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RandomAndSymmetric => {
                "both NATs are symmetric and at least one of them gives out random ports: no port can be guessed"
            }
            Self::TooFewPorts => {
                "both NATs are symmetric and one has a block of ports, each for one destination only: they are used up \
                 before a guess hits"
            }
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checks => f.write_str("checks to the peer's candidates"),
            Self::Spread { sockets } => write!(f, "{sockets} sockets whose ports the peer guesses"),
            Self::Guess { ports } => write!(f, "{ports} guesses at the peer's port"),
            Self::Cross { sockets } => write!(f, "{sockets} sockets towards the next ports of a sequence"),
            Self::Grid { sockets, ports } => write!(f, "{sockets} sockets towards {ports} ports each"),
            Self::Relay(forbidden) => forbidden.fmt(f),
        }
    }
}

/// How a NAT's external ports look to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    /// Where the server observed it.
    Fixed,
    /// The next of a sequence.
    Sequence,
    /// One of a block.
    Block,
    /// Any.
    Random,
}

fn face(behavior: &NatBehavior) -> Option<Face> {
    match (behavior.mapping?, behavior.allocator) {
        (Mapping::None | Mapping::EndpointIndependent, _) => Some(Face::Fixed),
        (_, Some(Allocator::Sequential { .. })) => Some(Face::Sequence),
        (_, Some(Allocator::Block { .. })) => Some(Face::Block),
        (_, Some(Allocator::Random)) => Some(Face::Random),
        (_, Some(Allocator::Preserving) | None) => None,
    }
}

/// What the side that found `own` does to meet the one that found `peer`; `None` stands for nothing found.
#[must_use]
pub fn plan(own: Option<&NatBehavior>, peer: Option<&NatBehavior>) -> Plan {
    let (Some(own), Some(peer)) = (own, peer) else { return Plan::Checks };
    let (Some(mine), Some(theirs)) = (face(own), face(peer)) else { return Plan::Checks };
    if meets_by_checks(own, mine, peer, theirs) {
        return Plan::Checks;
    }
    let is_used_up = own.port_reuse == Some(false) || peer.port_reuse == Some(false);
    match (mine, theirs) {
        (Face::Sequence, Face::Block) | (Face::Block, Face::Sequence | Face::Block) if is_used_up => {
            Plan::Relay(Forbidden::TooFewPorts)
        }
        (Face::Fixed, Face::Fixed) => Plan::Checks,
        (Face::Fixed, Face::Sequence) => Plan::Guess { ports: PROBES_SEQUENCE },
        (Face::Fixed, Face::Block | Face::Random) => Plan::Guess { ports: PROBES },
        (Face::Sequence, Face::Fixed) => Plan::Spread { sockets: SOCKETS_SEQUENCE },
        (Face::Block, Face::Fixed) => Plan::Spread { sockets: SOCKETS_BLOCK },
        (Face::Random, Face::Fixed) => Plan::Spread { sockets: SOCKETS_RANDOM },
        (Face::Sequence, Face::Sequence) => Plan::Cross { sockets: SOCKETS_CROSS },
        (Face::Sequence, Face::Block) => Plan::Grid { sockets: 1, ports: PROBES },
        (Face::Block, Face::Sequence) => Plan::Grid { sockets: SOCKETS_BLOCK_TO_SEQUENCE, ports: PROBES },
        (Face::Block, Face::Block) => Plan::Grid { sockets: SOCKETS_TWO_BLOCKS, ports: PROBES },
        (Face::Random, _) | (_, Face::Random) => Plan::Relay(Forbidden::RandomAndSymmetric),
    }
}

/// Each sends to where the other was observed, or to where it really came from: whoever lets in the first packet
/// from an unforeseen port of the peer's learns that port.
fn meets_by_checks(own: &NatBehavior, mine: Face, peer: &NatBehavior, theirs: Face) -> bool {
    let is_strict = |behavior: &NatBehavior| {
        matches!(behavior.filtering, Some(Filtering::AddressAndPortDependent) | None)
    };
    let is_open = |behavior: &NatBehavior| behavior.filtering == Some(Filtering::EndpointIndependent);
    let is_chasing = |behavior: &NatBehavior| behavior.mapping == Some(Mapping::AddressAndPortDependent);
    match (mine, theirs) {
        (Face::Fixed, Face::Fixed) => true,
        (Face::Fixed, _) => !is_strict(own),
        (_, Face::Fixed) => !is_strict(peer),
        _ if is_chasing(own) && is_chasing(peer) => false,
        _ => (is_open(own) && !is_strict(peer)) || (is_open(peer) && !is_strict(own)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behavior(word: &str) -> NatBehavior {
        use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let (mapping, filtering, allocator) = match word {
            "open" => (Mapping::None, EndpointIndependent, None),
            "firewall" => (Mapping::None, AddressAndPortDependent, None),
            "full" => (Mapping::EndpointIndependent, EndpointIndependent, Some(Allocator::Preserving)),
            "addr" => (Mapping::EndpointIndependent, AddressDependent, Some(Allocator::Preserving)),
            "port" => (Mapping::EndpointIndependent, AddressAndPortDependent, None),
            symmetric => {
                let allocator = match symmetric {
                    "seq" => Some(Allocator::Sequential { delta: 1, newest: 5_000 }),
                    "block" => Some(Allocator::Block { first: 40_000, last: 40_900 }),
                    "random" | "random-lax" => Some(Allocator::Random),
                    _ => None,
                };
                let filtering =
                    if symmetric == "random-lax" { AddressDependent } else { AddressAndPortDependent };
                (Mapping::AddressAndPortDependent, filtering, allocator)
            }
        };
        NatBehavior {
            mapping: Some(mapping),
            filtering: Some(filtering),
            allocator,
            ..NatBehavior::default()
        }
    }

    /// Every ordered pair: rows and columns are the same words.
    #[test]
    fn table_of_all_pairs() {
        let words = ["open", "full", "addr", "port", "firewall", "seq", "block", "random", "untold"];
        // c: checks, S: spreads, G: guesses, X: crosses, #: grid, -: relay.
        let table = [
            "c c c c c c c c c",
            "c c c c c c c c c",
            "c c c c c c c c c",
            "c c c c c G G G c",
            "c c c c c G G G c",
            "c c c S S X # - c",
            "c c c S S # # - c",
            "c c c S S - - - c",
            "c c c c c c c c c",
        ];
        for (mine, row) in words.iter().zip(table) {
            for (theirs, expect) in words.iter().zip(row.split(' ')) {
                let plan = plan(Some(&behavior(mine)), Some(&behavior(theirs)));
                let letter = match plan {
                    Plan::Checks => "c",
                    Plan::Spread { .. } => "S",
                    Plan::Guess { .. } => "G",
                    Plan::Cross { .. } => "X",
                    Plan::Grid { .. } => "#",
                    Plan::Relay(_) => "-",
                };
                assert_eq!(letter, expect, "{mine} towards {theirs}: {plan}");
            }
        }
    }

    /// Many flows would use up the ports of a block; the few that one side needs towards a fixed one do not.
    #[test]
    fn a_block_that_is_used_up_is_not_guessed_in() {
        let once = NatBehavior { port_reuse: Some(false), ..behavior("block") };
        for word in ["seq", "block"] {
            for (mine, theirs) in [(once, behavior(word)), (behavior(word), once)] {
                assert_eq!(plan(Some(&mine), Some(&theirs)), Plan::Relay(Forbidden::TooFewPorts), "{word}");
            }
        }
        let port = behavior("port");
        assert_eq!(plan(Some(&once), Some(&port)), Plan::Spread { sockets: SOCKETS_BLOCK });
        assert_eq!(plan(Some(&port), Some(&once)), Plan::Guess { ports: PROBES });
        let random = behavior("random");
        assert_eq!(plan(Some(&once), Some(&random)), Plan::Relay(Forbidden::RandomAndSymmetric));
    }

    #[test]
    fn what_is_not_known_is_tried() {
        let port = behavior("port");
        for pair in [(None, None), (Some(&port), None), (None, Some(&port))] {
            assert_eq!(plan(pair.0, pair.1), Plan::Checks);
        }
    }

    /// A symmetric NAT whose filter looks at addresses only still can't be met by checks behind a strict one.
    #[test]
    fn a_filter_of_addresses_counts_on_the_fixed_side_only() {
        let (lax, port, addr) = (behavior("random-lax"), behavior("port"), behavior("addr"));
        assert_eq!(plan(Some(&lax), Some(&port)), Plan::Spread { sockets: SOCKETS_RANDOM });
        assert_eq!(plan(Some(&lax), Some(&addr)), Plan::Checks);
    }
}
