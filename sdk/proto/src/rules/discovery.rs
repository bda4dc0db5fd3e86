//! What STUN makes of a node.

use crate::code::Code;
use crate::network::{Evidence, Mapping, NetworkClass};

/// What each outcome of the STUN discovery makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// The class while and if STUN answers but reachability is not proven.
    pub answered: NetworkClass,
    /// Being merely answered is not enough: it must be proven within [`super::PROBATION_MS`].
    pub must_prove: bool,
}

/// What STUN found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StunOutcome {
    /// Nothing was observed in time.
    NoAnswer,
    /// The node's mapping was observed, but no dial-back arrived.
    Answered,
    /// A nonce arrived from a place it had never sent to.
    Proven,
    /// Besides, an authenticated check of a peer arrived from an address that it had sent nothing to for
    /// [`super::UNSOLICITED_MS`].
    Unsolicited,
}

/// What a node becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// Reachable, by proof.
    Reachable,
    /// Open, by proof.
    Open,
    /// What [`Discovery::answered`] says.
    Answered,
    /// A member that can only be relayed; its class stays Unreachable.
    Relayed,
    /// Nothing here.
    Rejected(Code),
}

/// One row of [`DISCOVERY`]; `None` means "either way".
#[derive(Debug)]
pub struct DiscoveryRow {
    /// Stable.
    pub name: &'static str,
    /// What was found.
    pub outcome: StunOutcome,
    /// The node has to prove that it is reachable.
    pub must_prove: Option<bool>,
    /// The cluster keeps nodes that can only be relayed.
    pub admit_relayed: Option<bool>,
    /// What follows.
    pub becomes: Becomes,
}

/// What the discovery's outcome makes of a node. The last row takes whatever is left.
pub const DISCOVERY: &[DiscoveryRow] = &[
    DiscoveryRow {
        name: "stun/unsolicited",
        outcome: StunOutcome::Unsolicited,
        must_prove: None,
        admit_relayed: None,
        becomes: Becomes::Open,
    },
    DiscoveryRow {
        name: "stun/proven",
        outcome: StunOutcome::Proven,
        must_prove: None,
        admit_relayed: None,
        becomes: Becomes::Reachable,
    },
    DiscoveryRow {
        name: "stun/answered",
        outcome: StunOutcome::Answered,
        must_prove: Some(false),
        admit_relayed: None,
        becomes: Becomes::Answered,
    },
    DiscoveryRow {
        name: "stun/not-proven",
        outcome: StunOutcome::Answered,
        must_prove: Some(true),
        admit_relayed: None,
        becomes: Becomes::Rejected(Code::Unreachable),
    },
    DiscoveryRow {
        name: "stun/relayed",
        outcome: StunOutcome::NoAnswer,
        must_prove: Some(false),
        admit_relayed: Some(true),
        becomes: Becomes::Relayed,
    },
    DiscoveryRow {
        name: "stun/no-answer",
        outcome: StunOutcome::NoAnswer,
        must_prove: None,
        admit_relayed: None,
        becomes: Becomes::Rejected(Code::Unreachable),
    },
];

/// A class, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The class.
    pub class: NetworkClass,
    /// On what ground.
    pub evidence: Evidence,
    /// It can only be relayed.
    pub relayed: bool,
}

impl Found {
    /// A class that needs no relay.
    #[must_use]
    pub const fn new(class: NetworkClass, evidence: Evidence) -> Self {
        Self { class, evidence, relayed: false }
    }
}

/// What a node becomes by the discovery's outcome, and the row that says so.
///
/// # Errors
/// [`Code::Unreachable`] if the cluster doesn't keep such a node.
pub fn refine(
    discovery: Discovery,
    outcome: StunOutcome,
    admit_relayed: bool,
) -> (&'static DiscoveryRow, Result<Found, Code>) {
    let row = DISCOVERY.iter().find(|row| {
        row.outcome == outcome
            && row.must_prove.is_none_or(|wanted| wanted == discovery.must_prove)
            && row.admit_relayed.is_none_or(|wanted| wanted == admit_relayed)
    });
    let row = row.unwrap_or(&DISCOVERY[DISCOVERY.len() - 1]);
    let found = match row.becomes {
        Becomes::Reachable => Ok(Found::new(NetworkClass::PublicReachable, Evidence::Proven)),
        Becomes::Open => Ok(Found::new(NetworkClass::PublicOpen, Evidence::Proven)),
        Becomes::Answered => Ok(Found::new(discovery.answered, Evidence::Observed)),
        Becomes::Relayed => {
            Ok(Found { relayed: true, ..Found::new(NetworkClass::Unreachable, Evidence::Observed) })
        }
        Becomes::Rejected(code) => Err(code),
    };
    (row, found)
}

/// What the Bindings of one socket show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// The node's own address and port.
    Own,
    /// Another one, the same towards two destinations.
    Same,
    /// One that differs between destinations.
    Different,
    /// Nothing: no answer.
    Nothing,
}

/// Whom a node can meet by hole punching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Punchable {
    /// Whoever sends at the same time.
    Anybody,
    /// Those with an endpoint-independent mapping; towards others ports are predicted, or a relay helps.
    EndpointIndependent,
    /// Nobody.
    Nobody,
}

/// One row of [`EVIDENCE`].
#[derive(Debug)]
pub struct EvidenceRow {
    /// Stable.
    pub name: &'static str,
    /// What was seen.
    pub mapped: Mapped,
    /// What it is called (RFC 4787).
    pub mapping: &'static [Mapping],
    /// Whom the node can meet.
    pub punchable: Punchable,
    /// In words.
    pub meaning: &'static str,
}

/// What a mapping tells of the NAT in front of a node.
pub const EVIDENCE: &[EvidenceRow] = &[
    EvidenceRow {
        name: "mapping/own",
        mapped: Mapped::Own,
        mapping: &[Mapping::None],
        punchable: Punchable::Anybody,
        meaning: "no NAT; reachability still to be proven",
    },
    EvidenceRow {
        name: "mapping/same",
        mapped: Mapped::Same,
        mapping: &[Mapping::EndpointIndependent],
        punchable: Punchable::Anybody,
        meaning: "endpoint-independent, port kept or rewritten",
    },
    EvidenceRow {
        name: "mapping/different",
        mapped: Mapped::Different,
        mapping: &[Mapping::AddressDependent, Mapping::AddressAndPortDependent],
        punchable: Punchable::EndpointIndependent,
        meaning: "symmetric",
    },
    EvidenceRow {
        name: "mapping/nothing",
        mapped: Mapped::Nothing,
        mapping: &[],
        punchable: Punchable::Nobody,
        meaning: "Unreachable",
    },
];

/// The row of [`EVIDENCE`] for what was seen.
#[must_use]
pub fn evidence(mapped: Mapped) -> Option<&'static EvidenceRow> {
    EVIDENCE.iter().find(|row| row.mapped == mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refine_table() {
        use StunOutcome::{Answered, NoAnswer, Proven, Unsolicited};
        let open = Ok(Found::new(NetworkClass::PublicOpen, Evidence::Proven));
        let private = Discovery { answered: NetworkClass::Private, must_prove: false };
        let probation = Discovery { answered: NetworkClass::PublicUndefined, must_prove: true };
        let proven = Ok(Found::new(NetworkClass::PublicReachable, Evidence::Proven));
        let unreachable = Found::new(NetworkClass::Unreachable, Evidence::Observed);
        let cases = [
            (private, Unsolicited, false, open),
            (private, Proven, false, proven),
            (private, Answered, false, Ok(Found::new(NetworkClass::Private, Evidence::Observed))),
            (private, NoAnswer, false, Err(Code::Unreachable)),
            (private, NoAnswer, true, Ok(Found { relayed: true, ..unreachable })),
            (probation, Proven, false, proven),
            (probation, Answered, true, Err(Code::Unreachable)),
            (probation, NoAnswer, true, Err(Code::Unreachable)),
        ];
        for (discovery, outcome, relayed, expect) in cases {
            assert_eq!(refine(discovery, outcome, relayed).1, expect, "{discovery:?} {outcome:?}");
        }
    }
}
