//! Who is admitted, and as what.

use super::{Discovery, fits};
use crate::addr::AddressClass;
use crate::code::Code;
use crate::network::{ClusterNetwork, EffectiveNetwork, Evidence, NetworkClass, NetworkType};

/// What the admission table looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    /// The cluster's effective network at this moment.
    pub effective: EffectiveNetwork,
    /// The cluster's type.
    pub kind: ClusterNetwork,
    /// The class of the node's address: in an effectively PRIVATE cluster that of its source, for a
    /// public source is refused there even if a NAT hides a private node; else by
    /// [`super::node_address`].
    pub address: AddressClass,
    /// What the node says of itself.
    pub declared: Option<NetworkType>,
}

/// What the admission table answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// In, at once, and without STUN.
    Admit {
        /// As what.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
    },
    /// In for now; STUN decides ([`super::DISCOVERY`]).
    Discover(Discovery),
    /// Out.
    Reject(Code),
}

/// One row of [`ADMISSION`]. An empty list means "any".
#[derive(Debug)]
pub struct AdmissionRow {
    /// Stable.
    pub name: &'static str,
    /// Effective network.
    pub effective: EffectiveNetwork,
    /// Cluster types.
    pub kinds: &'static [ClusterNetwork],
    /// Address classes; special-purpose addresses count as private.
    pub addresses: &'static [AddressClass],
    /// What the node declares.
    pub declared: &'static [Option<NetworkType>],
    /// The answer.
    pub verdict: Admission,
}

const NOT_PUBLIC: &[AddressClass] = &[AddressClass::Loopback, AddressClass::Private];
const LOOPBACK: &[AddressClass] = &[AddressClass::Loopback];
const PRIVATE: &[AddressClass] = &[AddressClass::Private];
const PUBLIC: &[AddressClass] = &[AddressClass::Public];
const DECLARED_PUBLIC: &[Option<NetworkType>] = &[Some(NetworkType::Public)];
const DECLARED_PRIVATE: &[Option<NetworkType>] = &[Some(NetworkType::Private)];
const NOT_DECLARED_PUBLIC: &[Option<NetworkType>] = &[None, Some(NetworkType::Private)];

/// The table without the words of Rust that each row would repeat.
const fn row(
    name: &'static str,
    (effective, kinds): (EffectiveNetwork, &'static [ClusterNetwork]),
    addresses: &'static [AddressClass],
    declared: &'static [Option<NetworkType>],
    verdict: Admission,
) -> AdmissionRow {
    AdmissionRow { name, effective, kinds, addresses, declared, verdict }
}

/// What a PRIVATE cluster says to the world, and what everybody is told if no row fits.
const PUBLIC_SOURCE: AdmissionRow = row(
    "private/public-source",
    (EffectiveNetwork::Private, &[]),
    PUBLIC,
    &[],
    Admission::Reject(Code::PublicNodeInPrivateCluster),
);

/// Who is admitted. There is no row for a PRIVATE cluster that is effectively PUBLIC: no row of
/// [`super::CLUSTER`] makes one.
pub const ADMISSION: &[AdmissionRow] = {
    use Admission::{Discover, Reject};
    const IN_PRIVATE: (EffectiveNetwork, &[ClusterNetwork]) = (EffectiveNetwork::Private, &[]);
    const IN_PUBLIC: (EffectiveNetwork, &[ClusterNetwork]) =
        (EffectiveNetwork::Public, &[ClusterNetwork::Public]);
    const LIFTED: (EffectiveNetwork, &[ClusterNetwork]) =
        (EffectiveNetwork::Public, &[ClusterNetwork::Dynamic]);
    const REACHABLE: Admission =
        Admission::Admit { class: NetworkClass::PublicReachable, evidence: Evidence::Declared };
    const AS_PRIVATE: Admission =
        Admission::Admit { class: NetworkClass::Private, evidence: Evidence::Observed };
    const AS_LOOPBACK: Admission =
        Admission::Admit { class: NetworkClass::Loopback, evidence: Evidence::Observed };
    const fn found(answered: NetworkClass, must_prove: bool) -> Admission {
        Discover(Discovery { answered, must_prove })
    }
    &[
        row(
            "private/declared-public",
            IN_PRIVATE,
            NOT_PUBLIC,
            DECLARED_PUBLIC,
            Reject(Code::DeclaredPublicButPrivate),
        ),
        row("private/loopback", IN_PRIVATE, LOOPBACK, &[], AS_LOOPBACK),
        row("private/private", IN_PRIVATE, PRIVATE, &[], AS_PRIVATE),
        PUBLIC_SOURCE,
        row("public/private-node", IN_PUBLIC, NOT_PUBLIC, &[], Reject(Code::PrivateNodeInPublicCluster)),
        row("public/declared-public", IN_PUBLIC, PUBLIC, DECLARED_PUBLIC, REACHABLE),
        row(
            "public/declared-private",
            IN_PUBLIC,
            PUBLIC,
            DECLARED_PRIVATE,
            Reject(Code::DeclaredPrivateInPublicCluster),
        ),
        row("public/undeclared", IN_PUBLIC, PUBLIC, &[None], found(NetworkClass::PublicUndefined, true)),
        row("dynamic/loopback", LIFTED, LOOPBACK, &[], Reject(Code::LoopbackInPublicCluster)),
        row("dynamic/declared-public", LIFTED, PUBLIC, DECLARED_PUBLIC, REACHABLE),
        row(
            "dynamic/public",
            LIFTED,
            PUBLIC,
            NOT_DECLARED_PUBLIC,
            found(NetworkClass::PublicUndefined, false),
        ),
        row(
            "dynamic/declared-public-but-private",
            LIFTED,
            PRIVATE,
            DECLARED_PUBLIC,
            Reject(Code::DeclaredPublicButPrivate),
        ),
        row("dynamic/private", LIFTED, PRIVATE, NOT_DECLARED_PUBLIC, found(NetworkClass::Private, false)),
    ]
};

impl AdmissionRow {
    fn fits(&self, facts: &NodeFacts) -> bool {
        self.effective == facts.effective
            && fits(self.kinds, &facts.kind)
            && fits(self.addresses, &facts.address.of_a_host())
            && fits(self.declared, &facts.declared)
    }
}

/// The row of [`ADMISSION`] that decides.
#[must_use]
pub fn admission(facts: &NodeFacts) -> &'static AdmissionRow {
    ADMISSION.iter().find(|row| row.fits(facts)).unwrap_or(const { &PUBLIC_SOURCE })
}

/// Looks the facts up in [`ADMISSION`].
#[must_use]
pub fn admit(facts: &NodeFacts) -> Admission {
    admission(facts).verdict
}

#[cfg(test)]
mod tests {
    use super::super::CLUSTER;
    use super::*;

    fn all_facts() -> impl Iterator<Item = NodeFacts> {
        let addresses =
            [AddressClass::Loopback, AddressClass::Private, AddressClass::Public, AddressClass::Special];
        let declared = [None, Some(NetworkType::Private), Some(NetworkType::Public)];
        EffectiveNetwork::ALL.iter().flat_map(move |&effective| {
            ClusterNetwork::ALL.iter().flat_map(move |&kind| {
                addresses.into_iter().flat_map(move |address| {
                    declared.into_iter().map(move |declared| NodeFacts { effective, kind, address, declared })
                })
            })
        })
    }

    #[test]
    fn every_combination_is_decided_by_a_row() {
        for facts in all_facts() {
            let is_possible = CLUSTER
                .iter()
                .any(|cluster| cluster.kind == facts.kind && cluster.outcome == Ok(facts.effective));
            let is_decided = ADMISSION.iter().any(|row| row.fits(&facts));
            let is_lifted = facts.effective == EffectiveNetwork::Public;
            assert!(is_decided || (is_lifted && !is_possible), "{facts:?}");
            let is_refused = matches!(admit(&facts), Admission::Reject(_));
            assert!(is_decided || is_refused, "{facts:?}");
        }
    }

    #[test]
    fn no_row_is_out_of_reach() {
        for row in ADMISSION {
            assert!(
                all_facts().any(|facts| admission(&facts).name == row.name),
                "{} never decides",
                row.name
            );
        }
    }
}
