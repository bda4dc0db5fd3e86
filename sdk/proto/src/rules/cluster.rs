//! What a cluster amounts to.

use crate::code::Code;
use crate::network::{ClusterNetwork, EffectiveNetwork};

/// What the rules know of a seed. That it is down is no fact of theirs: it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedFacts {
    /// It is public and reachable: its operator says so and nothing contradicts, or it is proven.
    pub public: bool,
}

/// What a row asks of a cluster's seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeds {
    /// Nothing.
    Any,
    /// There is none.
    None,
    /// At least one is public and reachable.
    SomePublic,
    /// At least one is not.
    SomeNotPublic,
}

/// One row of [`CLUSTER`].
#[derive(Debug)]
pub struct ClusterRow {
    /// Stable.
    pub name: &'static str,
    /// The cluster's type.
    pub kind: ClusterNetwork,
    /// Its seeds.
    pub seeds: Seeds,
    /// What it amounts to, or why there can't be such a cluster.
    pub outcome: Result<EffectiveNetwork, Code>,
}

/// What a cluster amounts to. The last row of each type takes any seeds.
pub const CLUSTER: &[ClusterRow] = {
    use ClusterNetwork::{Dynamic, Private, Public};
    use EffectiveNetwork as E;
    &[
        ClusterRow {
            name: "cluster/private-with-public-seed",
            kind: Private,
            seeds: Seeds::SomePublic,
            outcome: Err(Code::PublicSeedInPrivateCluster),
        },
        ClusterRow { name: "cluster/private", kind: Private, seeds: Seeds::Any, outcome: Ok(E::Private) },
        ClusterRow {
            name: "cluster/public-without-seed",
            kind: Public,
            seeds: Seeds::None,
            outcome: Err(Code::NoSeedInPublicCluster),
        },
        ClusterRow {
            name: "cluster/public-with-bad-seed",
            kind: Public,
            seeds: Seeds::SomeNotPublic,
            outcome: Err(Code::BadSeedInPublicCluster),
        },
        ClusterRow { name: "cluster/public", kind: Public, seeds: Seeds::Any, outcome: Ok(E::Public) },
        ClusterRow {
            name: "cluster/dynamic-lifted",
            kind: Dynamic,
            seeds: Seeds::SomePublic,
            outcome: Ok(E::Public),
        },
        ClusterRow { name: "cluster/dynamic", kind: Dynamic, seeds: Seeds::Any, outcome: Ok(E::Private) },
    ]
};

impl Seeds {
    fn fit(self, seeds: &[SeedFacts]) -> bool {
        match self {
            Self::Any => true,
            Self::None => seeds.is_empty(),
            Self::SomePublic => seeds.iter().any(|seed| seed.public),
            Self::SomeNotPublic => seeds.iter().any(|seed| !seed.public),
        }
    }
}

/// The row of [`CLUSTER`] that decides; there is one for each type and all seeds.
#[must_use]
pub fn cluster(kind: ClusterNetwork, seeds: &[SeedFacts]) -> Option<&'static ClusterRow> {
    CLUSTER.iter().find(|row| row.kind == kind && row.seeds.fit(seeds))
}

/// What a cluster amounts to, by its type and its seeds.
///
/// # Errors
/// The [`Code`] that says why a cluster of this type can't have these seeds.
pub fn effective(kind: ClusterNetwork, seeds: &[SeedFacts]) -> Result<EffectiveNetwork, Code> {
    cluster(kind, seeds).map_or(Err(Code::BadSeedInPublicCluster), |row| row.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
