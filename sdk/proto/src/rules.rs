//! Who may join, and as what: the rules as data.
//!
//! Each table is a list of rows, read from the top; the first row that fits decides. Server,
//! node and simulator decide by these rows alone.

use std::net::IpAddr;

use crate::addr::{self, AddressClass};
use crate::code::Code;
use crate::network::{ClusterNetwork, EffectiveNetwork, Evidence, NetworkClass, NetworkType};

/// What the rules know of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedFacts {
    /// Its address is public, or its operator declared it so, and nothing contradicts.
    pub public: bool,
}

/// What a cluster amounts to, by its type and its seeds.
///
/// # Errors
/// The [`Code`] that says why a cluster of this type can't have these seeds.
pub fn effective(kind: ClusterNetwork, seeds: &[SeedFacts]) -> Result<EffectiveNetwork, Code> {
    let any_public = seeds.iter().any(|seed| seed.public);
    let all_public = seeds.iter().all(|seed| seed.public);
    match kind {
        ClusterNetwork::Private if any_public => Err(Code::PublicSeedInPrivateCluster),
        ClusterNetwork::Private => Ok(EffectiveNetwork::Private),
        ClusterNetwork::Public if seeds.is_empty() => Err(Code::NoSeedInPublicCluster),
        ClusterNetwork::Public if !all_public => Err(Code::BadSeedInPublicCluster),
        ClusterNetwork::Public => Ok(EffectiveNetwork::Public),
        ClusterNetwork::Dynamic if any_public => Ok(EffectiveNetwork::Public),
        ClusterNetwork::Dynamic => Ok(EffectiveNetwork::Private),
    }
}

/// A seed's own check: trust the user unless the facts contradict. Tells whether the seed
/// counts as public. `declared` is the user's word; a public host in the operator's own list
/// of seeds is such a word too.
///
/// # Errors
/// The [`Code`] of the contradiction.
pub fn seed_check(declared: Option<NetworkType>, address: AddressClass) -> Result<SeedFacts, Code> {
    let public = address == AddressClass::Public;
    match (declared, public) {
        (Some(NetworkType::Public), false) => Err(Code::DeclaredPublicButPrivate),
        (Some(NetworkType::Private), true) => Err(Code::DeclaredPrivateButPublic),
        (_, public) => Ok(SeedFacts { public }),
    }
}

/// What the admission table looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    /// The cluster's effective network at this moment.
    pub effective: EffectiveNetwork,
    /// The cluster's type.
    pub kind: ClusterNetwork,
    /// The class of the node's own address ([`node_address`]).
    pub address: AddressClass,
    /// What the node says of itself.
    pub declared: Option<NetworkType>,
}

/// What the admission table answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// In, at once.
    Admit {
        /// As what.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
    },
    /// In for now; STUN decides ([`refine`]).
    Discover(Discovery),
    /// Out.
    Reject(Code),
}

/// What each outcome of the STUN discovery makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// The class while and if STUN answers but reachability is not proven.
    pub answered: NetworkClass,
    /// Being merely answered is not enough: it must be proven within [`PROBATION_MS`].
    pub must_prove: bool,
}

/// How long a node may be a member of a PUBLIC cluster without proof.
pub const PROBATION_MS: u64 = 60_000;

/// What STUN found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StunOutcome {
    /// A dial-back from a place it had never sent to arrived.
    Proven,
    /// The node's mapping was observed, but no dial-back arrived.
    Answered,
    /// Nothing was observed in time.
    NoAnswer,
}

/// One row of the admission table. An empty list means "any".
#[derive(Debug)]
pub struct AdmissionRow {
    /// Effective network.
    pub effective: EffectiveNetwork,
    /// Cluster types.
    pub kinds: &'static [ClusterNetwork],
    /// Address classes.
    pub addresses: &'static [AddressClass],
    /// What the node declares.
    pub declared: &'static [Option<NetworkType>],
    /// The answer; for PRIVATE clusters the class follows the address.
    pub verdict: Admission,
}

const NOT_PUBLIC: &[AddressClass] = &[AddressClass::Loopback, AddressClass::Private];
const PUBLIC: &[AddressClass] = &[AddressClass::Public];
const DECLARED_PUBLIC: &[Option<NetworkType>] = &[Some(NetworkType::Public)];
const DECLARED_PRIVATE: &[Option<NetworkType>] = &[Some(NetworkType::Private)];
const DECLARED_PUBLICLY_REACHABLE: Admission =
    Admission::Admit { class: NetworkClass::PublicReachable, evidence: Evidence::Declared };
const ADMIT_PRIVATE: Admission =
    Admission::Admit { class: NetworkClass::Private, evidence: Evidence::Observed };
const ADMIT_LOOPBACK: Admission =
    Admission::Admit { class: NetworkClass::Loopback, evidence: Evidence::Observed };

/// The admission table. Every combination of [`NodeFacts`] fits exactly one first row.
pub const ADMISSION: &[AdmissionRow] = {
    use AddressClass::{Loopback, Private};
    use EffectiveNetwork as E;
    const PUBLIC_ONLY: &[ClusterNetwork] = &[ClusterNetwork::Public];
    const DYNAMIC: &[ClusterNetwork] = &[ClusterNetwork::Dynamic];
    &[
        AdmissionRow {
            effective: E::Private,
            kinds: &[],
            addresses: NOT_PUBLIC,
            declared: DECLARED_PUBLIC,
            verdict: Admission::Reject(Code::DeclaredPublicButPrivate),
        },
        AdmissionRow {
            effective: E::Private,
            kinds: &[],
            addresses: &[Loopback],
            declared: &[],
            verdict: ADMIT_LOOPBACK,
        },
        AdmissionRow {
            effective: E::Private,
            kinds: &[],
            addresses: &[Private],
            declared: &[],
            verdict: ADMIT_PRIVATE,
        },
        AdmissionRow {
            effective: E::Private,
            kinds: &[],
            addresses: PUBLIC,
            declared: &[],
            verdict: Admission::Reject(Code::PublicNodeInPrivateCluster),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: PUBLIC_ONLY,
            addresses: NOT_PUBLIC,
            declared: &[],
            verdict: Admission::Reject(Code::PrivateNodeInPublicCluster),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: PUBLIC_ONLY,
            addresses: PUBLIC,
            declared: DECLARED_PUBLIC,
            verdict: DECLARED_PUBLICLY_REACHABLE,
        },
        AdmissionRow {
            effective: E::Public,
            kinds: PUBLIC_ONLY,
            addresses: PUBLIC,
            declared: DECLARED_PRIVATE,
            verdict: Admission::Reject(Code::DeclaredPrivateInPublicCluster),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: PUBLIC_ONLY,
            addresses: PUBLIC,
            declared: &[None],
            verdict: Admission::Discover(Discovery {
                answered: NetworkClass::PublicUndefined,
                must_prove: true,
            }),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: DYNAMIC,
            addresses: &[Loopback],
            declared: &[],
            verdict: Admission::Reject(Code::LoopbackInPublicCluster),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: DYNAMIC,
            addresses: PUBLIC,
            declared: DECLARED_PUBLIC,
            verdict: DECLARED_PUBLICLY_REACHABLE,
        },
        AdmissionRow {
            effective: E::Public,
            kinds: DYNAMIC,
            addresses: PUBLIC,
            declared: &[None, Some(NetworkType::Private)],
            verdict: Admission::Discover(Discovery {
                answered: NetworkClass::PublicUndefined,
                must_prove: false,
            }),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: DYNAMIC,
            addresses: &[Private],
            declared: DECLARED_PUBLIC,
            verdict: Admission::Reject(Code::DeclaredPublicButPrivate),
        },
        AdmissionRow {
            effective: E::Public,
            kinds: DYNAMIC,
            addresses: &[Private],
            declared: &[None, Some(NetworkType::Private)],
            verdict: Admission::Discover(Discovery { answered: NetworkClass::Private, must_prove: false }),
        },
    ]
};

impl AdmissionRow {
    fn fits(&self, facts: &NodeFacts) -> bool {
        fn any_or<T: PartialEq>(list: &[T], value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        // Special-purpose addresses are nobody's public address: the rules see them as private.
        let address = match facts.address {
            AddressClass::Special => AddressClass::Private,
            other => other,
        };
        self.effective == facts.effective
            && any_or(self.kinds, &facts.kind)
            && any_or(self.addresses, &address)
            && any_or(self.declared, &facts.declared)
    }
}

/// Looks the facts up in [`ADMISSION`]. A cluster that can't exist (a PRIVATE one that is
/// effectively PUBLIC) admits nobody.
#[must_use]
pub fn admit(facts: &NodeFacts) -> Admission {
    ADMISSION
        .iter()
        .find(|row| row.fits(facts))
        .map_or(Admission::Reject(Code::PublicNodeInPrivateCluster), |row| row.verdict)
}

/// What a node becomes by the discovery's outcome.
///
/// # Errors
/// [`Code::Unreachable`] if the cluster doesn't keep such a node.
pub fn refine(
    discovery: Discovery,
    outcome: StunOutcome,
    admit_relayed: bool,
) -> Result<(NetworkClass, Evidence), Code> {
    match outcome {
        StunOutcome::Proven => Ok((NetworkClass::PublicReachable, Evidence::Proven)),
        StunOutcome::Answered if !discovery.must_prove => Ok((discovery.answered, Evidence::Observed)),
        StunOutcome::NoAnswer if admit_relayed && !discovery.must_prove => {
            Ok((NetworkClass::Unreachable, Evidence::Observed))
        }
        StunOutcome::Answered | StunOutcome::NoAnswer => Err(Code::Unreachable),
    }
}

/// The class of the address a node is judged by.
///
/// `observed` is the source address the server sees, `local` the one the node says it uses
/// towards the server, `declared` its `--node-addr`. A public source in front of a different
/// local address is a NAT's, so the node behind it is private, whatever its own address claims.
///
/// # Errors
/// [`Code::NodeAddrMismatch`] if the declared address is not the one the server sees.
pub fn node_address(observed: IpAddr, local: IpAddr, declared: Option<IpAddr>) -> Result<AddressClass, Code> {
    let (observed, local) = (addr::canonical(observed), addr::canonical(local));
    if let Some(declared) = declared {
        if addr::canonical(declared) != observed {
            return Err(Code::NodeAddrMismatch);
        }
        return Ok(addr::classify(observed));
    }
    let seen = addr::classify(observed);
    if seen == AddressClass::Public && local != observed {
        return Ok(AddressClass::Private);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_decided_by_a_row() {
        let addresses =
            [AddressClass::Loopback, AddressClass::Private, AddressClass::Public, AddressClass::Special];
        let declared = [None, Some(NetworkType::Private), Some(NetworkType::Public)];
        for &effective in EffectiveNetwork::ALL {
            for &kind in ClusterNetwork::ALL {
                if (effective, kind) == (EffectiveNetwork::Public, ClusterNetwork::Private)
                    || (effective, kind) == (EffectiveNetwork::Private, ClusterNetwork::Public)
                {
                    // `serve` allows the second without any seed nowhere: it exits instead.
                    continue;
                }
                for address in addresses {
                    for declared in declared {
                        let facts = NodeFacts { effective, kind, address, declared };
                        assert!(ADMISSION.iter().any(|row| row.fits(&facts)), "{facts:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_row_is_unreachable() {
        let addresses = [AddressClass::Loopback, AddressClass::Private, AddressClass::Public];
        let declared = [None, Some(NetworkType::Private), Some(NetworkType::Public)];
        for (index, row) in ADMISSION.iter().enumerate() {
            let first_hit = addresses.iter().flat_map(|&address| {
                declared.iter().flat_map(move |&declared| {
                    ClusterNetwork::ALL.iter().map(move |&kind| NodeFacts {
                        effective: row.effective,
                        kind,
                        address,
                        declared,
                    })
                })
            });
            assert!(
                first_hit
                    .into_iter()
                    .any(|facts| { ADMISSION.iter().position(|row| row.fits(&facts)) == Some(index) }),
                "row {index} never decides"
            );
        }
    }

    #[test]
    fn effective_table() {
        use ClusterNetwork::{Dynamic, Private, Public};
        let (public, private) = (SeedFacts { public: true }, SeedFacts { public: false });
        let cases: &[(ClusterNetwork, &[SeedFacts], Result<EffectiveNetwork, Code>)] = &[
            (Private, &[], Ok(EffectiveNetwork::Private)),
            (Private, &[private], Ok(EffectiveNetwork::Private)),
            (Private, &[private, public], Err(Code::PublicSeedInPrivateCluster)),
            (Public, &[], Err(Code::NoSeedInPublicCluster)),
            (Public, &[public, private], Err(Code::BadSeedInPublicCluster)),
            (Public, &[public], Ok(EffectiveNetwork::Public)),
            (Dynamic, &[], Ok(EffectiveNetwork::Private)),
            (Dynamic, &[private], Ok(EffectiveNetwork::Private)),
            (Dynamic, &[private, public], Ok(EffectiveNetwork::Public)),
        ];
        for (kind, seeds, expect) in cases {
            assert_eq!(effective(*kind, seeds), *expect, "{kind} {seeds:?}");
        }
    }

    #[test]
    fn node_address_table() {
        use AddressClass::{Loopback, Private, Public};
        let cases = [
            ("127.0.0.1", "127.0.0.1", None, Ok(Loopback)),
            ("10.0.0.2", "10.0.0.2", None, Ok(Private)),
            ("20.0.0.9", "10.0.0.2", None, Ok(Private)),
            ("20.0.0.9", "20.0.0.9", None, Ok(Public)),
            ("20.0.0.9", "20.0.0.8", None, Ok(Private)),
            ("20.0.0.9", "10.0.0.2", Some("20.0.0.9"), Ok(Public)),
            ("20.0.0.9", "10.0.0.2", Some("20.0.0.7"), Err(Code::NodeAddrMismatch)),
            ("::ffff:10.0.0.2", "10.0.0.2", None, Ok(Private)),
        ];
        for (observed, local, declared, expect) in cases {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let found = node_address(ip(observed), ip(local), declared.map(ip));
            assert_eq!(found, expect, "{observed} {local} {declared:?}");
        }
    }

    #[test]
    fn refine_table() {
        use StunOutcome::{Answered, NoAnswer, Proven};
        let private = Discovery { answered: NetworkClass::Private, must_prove: false };
        let probation = Discovery { answered: NetworkClass::PublicUndefined, must_prove: true };
        let cases = [
            (private, Proven, false, Ok((NetworkClass::PublicReachable, Evidence::Proven))),
            (private, Answered, false, Ok((NetworkClass::Private, Evidence::Observed))),
            (private, NoAnswer, false, Err(Code::Unreachable)),
            (private, NoAnswer, true, Ok((NetworkClass::Unreachable, Evidence::Observed))),
            (probation, Proven, false, Ok((NetworkClass::PublicReachable, Evidence::Proven))),
            (probation, Answered, true, Err(Code::Unreachable)),
            (probation, NoAnswer, true, Err(Code::Unreachable)),
        ];
        for (discovery, outcome, relayed, expect) in cases {
            assert_eq!(refine(discovery, outcome, relayed), expect, "{discovery:?} {outcome:?}");
        }
    }
}
