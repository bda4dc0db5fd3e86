//! A seed's own check: trust the user unless the facts contradict.

use super::{SeedFacts, fits};
use crate::addr::AddressClass;
use crate::code::Code;
use crate::network::{Evidence, NetworkClass, NetworkType};

/// What was said of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedWord {
    /// It was declared PUBLIC.
    Public,
    /// It was declared PRIVATE.
    Private,
    /// The operator lists it among the cluster's seeds, and says no more.
    Listed,
    /// Nobody vouches for it.
    None,
}

/// What a seed counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedOutcome {
    /// What was said contradicts what was found.
    Mismatch(Code),
    /// This, on this ground.
    Counts {
        /// As what.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
    },
    /// Whatever a full discovery proves; until then it is not public.
    Discover,
}

/// One row of [`SEED`]. An empty list means "any".
#[derive(Debug)]
pub struct SeedRow {
    /// Stable.
    pub name: &'static str,
    /// What was said of it.
    pub words: &'static [SeedWord],
    /// What its address is; special-purpose addresses count as private.
    pub addresses: &'static [AddressClass],
    /// What follows.
    pub outcome: SeedOutcome,
}

/// What a seed counts as. The last row takes whatever is left.
pub const SEED: &[SeedRow] = {
    use AddressClass::{Loopback, Private, Public};
    const DECLARED: SeedOutcome =
        SeedOutcome::Counts { class: NetworkClass::PublicReachable, evidence: Evidence::Declared };
    &[
        SeedRow {
            name: "seed/declared-public-but-private",
            words: &[SeedWord::Public],
            addresses: &[Loopback, Private],
            outcome: SeedOutcome::Mismatch(Code::DeclaredPublicButPrivate),
        },
        SeedRow {
            name: "seed/declared-public",
            words: &[SeedWord::Public],
            addresses: &[Public],
            outcome: DECLARED,
        },
        SeedRow {
            name: "seed/declared-private-but-public",
            words: &[SeedWord::Private],
            addresses: &[Public],
            outcome: SeedOutcome::Mismatch(Code::DeclaredPrivateButPublic),
        },
        SeedRow {
            name: "seed/listed-public",
            words: &[SeedWord::Listed],
            addresses: &[Public],
            outcome: DECLARED,
        },
        SeedRow {
            name: "seed/loopback",
            words: &[SeedWord::Private, SeedWord::Listed],
            addresses: &[Loopback],
            outcome: SeedOutcome::Counts { class: NetworkClass::Loopback, evidence: Evidence::Observed },
        },
        SeedRow {
            name: "seed/private",
            words: &[SeedWord::Private, SeedWord::Listed],
            addresses: &[Private],
            outcome: SeedOutcome::Counts { class: NetworkClass::Private, evidence: Evidence::Observed },
        },
        SeedRow { name: "seed/unvouched", words: &[], addresses: &[], outcome: SeedOutcome::Discover },
    ]
};

/// The row of [`SEED`] that decides.
#[must_use]
pub fn seed(word: SeedWord, address: AddressClass) -> &'static SeedRow {
    let address = address.of_a_host();
    let row = SEED.iter().find(|row| fits(row.words, &word) && fits(row.addresses, &address));
    row.unwrap_or(&SEED[SEED.len() - 1])
}

/// The check of a seed in the operator's own list: whether it counts as public. `declared` is the
/// user's further word; being listed with a public host is such a word too.
///
/// # Errors
/// The [`Code`] of the contradiction.
pub fn seed_check(declared: Option<NetworkType>, address: AddressClass) -> Result<SeedFacts, Code> {
    let word = match declared {
        Some(NetworkType::Public) => SeedWord::Public,
        Some(NetworkType::Private) => SeedWord::Private,
        None => SeedWord::Listed,
    };
    match seed(word, address).outcome {
        SeedOutcome::Mismatch(code) => Err(code),
        SeedOutcome::Counts { class, .. } => Ok(SeedFacts { public: class.is_public_and_reachable() }),
        SeedOutcome::Discover => Ok(SeedFacts { public: false }),
    }
}
