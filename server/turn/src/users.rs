//! Static users: those the server knows by name, for whom credentials hold until they are removed.
//!
//! Of a password only the two long-term keys are kept (RFC 8489, section 18.5). They are **password
//! equivalents**: whoever has them can sign as the user in this realm, though he does not learn what
//! the user may have as a password elsewhere. Store them as carefully as passwords.
//!
//! A static user may be named by USERHASH (section 14.4), because the hash of each name is computed
//! beforehand. The name of a static user has no colon, so no time-limited username
//! ([`crate::credentials`]) is one, and no node's.
//!
//! Who proves himself under a name is that user, whichever way: quotas count what static and
//! time-limited credentials of one name hold together. Whoever mints for people who choose their own
//! names should mint names of another form.

use std::sync::Arc;

use md5::Md5;
use meetpoint_stun::{IntegrityKey, IntegrityKind, PasswordAlgorithm, digest};
use sha2::Sha256;
use thiserror::Error;

/// The longest name of a static user.
pub const MAX_USER_NAME_LEN: usize = 63;
/// Static users at most: some 2 MB. They are made by hand or by a script; services with more mint
/// time-limited credentials.
pub const MAX_USERS: usize = 10_000;
/// Length of USERHASH (RFC 8489, section 14.4).
const USERHASH_LEN: usize = 32;

/// The value of USERHASH for a user in a realm: `SHA-256(name ":" realm)` (RFC 8489, section 14.4).
#[must_use]
pub fn userhash(name: &str, realm: &str) -> [u8; USERHASH_LEN] {
    digest::<Sha256, 3>([name, ":", realm].map(str::as_bytes)).into()
}

/// Why a static user, or a list of them, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is empty, too long, or has a character that names do not have.
    #[error(
        "a user's name is 1 to {MAX_USER_NAME_LEN} letters, digits and `.`, `_`, `-`, `+`, `@`, and neither `.` nor `..`"
    )]
    Name,
    /// Two of one name.
    #[error("two users have one name")]
    Duplicate,
    /// More than [`MAX_USERS`].
    #[error("there are at most {MAX_USERS} users")]
    Count,
}

/// The long-term keys of one user in one realm: password equivalents. They do not say what they are
/// when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LongTermKeys {
    /// `MD5(name ":" realm ":" password)` (RFC 8489, section 18.5.1.1).
    pub md5: [u8; 16],
    /// The same with SHA-256 (section 18.5.1.2).
    pub sha256: [u8; 32],
}

impl std::fmt::Debug for LongTermKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LongTermKeys(..)")
    }
}

impl LongTermKeys {
    /// Derives both keys. Name, realm and password are taken as they are: the caller has applied the
    /// OpaqueString profile (RFC 8265), or has seen to it that they are printable ASCII, which it
    /// leaves alone.
    #[must_use]
    pub fn derive(name: &str, realm: &str, password: &str) -> Self {
        let parts = [name, ":", realm, ":", password].map(str::as_bytes);
        Self { md5: digest::<Md5, 5>(parts).into(), sha256: digest::<Sha256, 5>(parts).into() }
    }

    pub(crate) fn key(&self, algorithm: PasswordAlgorithm, kind: IntegrityKind) -> IntegrityKey {
        match algorithm {
            PasswordAlgorithm::Md5 => IntegrityKey::new(kind, &self.md5),
            PasswordAlgorithm::Sha256 => IntegrityKey::new(kind, &self.sha256),
        }
    }
}

/// A static user.
#[derive(Debug, Clone)]
pub struct User {
    name: Arc<str>,
    hash: [u8; USERHASH_LEN],
    keys: LongTermKeys,
}

impl User {
    /// A user of this name in this realm, for which `keys` were derived.
    ///
    /// # Errors
    /// [`UserError::Name`].
    pub fn new(name: &str, realm: &str, keys: LongTermKeys) -> Result<Self, UserError> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+@".contains(&b);
        // Clients of REST take these two out of a path before they send it.
        let is_step = matches!(name, "." | "..");
        if name.is_empty() || is_step || name.len() > MAX_USER_NAME_LEN || !name.bytes().all(is_plain) {
            return Err(UserError::Name);
        }
        Ok(Self { name: name.into(), hash: userhash(name, realm), keys })
    }

    /// Who it is.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What stands for the password.
    #[must_use]
    pub const fn keys(&self) -> &LongTermKeys {
        &self.keys
    }
}

/// The static users in force. Clones share one table, so that all parts of a server can.
#[derive(Debug, Clone, Default)]
pub struct Users {
    table: Arc<Table>,
    announces_hashes: bool,
}

#[derive(Debug, Default)]
struct Table {
    /// Sorted by name.
    users: Vec<User>,
    /// Indices of the same, sorted by hash.
    by_hash: Vec<u32>,
}

impl Users {
    /// Takes the users, in any order.
    ///
    /// # Errors
    /// [`UserError::Count`] and [`UserError::Duplicate`].
    pub fn new(mut users: Vec<User>) -> Result<Self, UserError> {
        if users.len() > MAX_USERS {
            return Err(UserError::Count);
        }
        users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if users.windows(2).any(|pair| pair[0].name == pair[1].name) {
            return Err(UserError::Duplicate);
        }
        let mut by_hash: Vec<u32> = (0..users.len() as u32).collect();
        by_hash.sort_unstable_by_key(|index| users[*index as usize].hash);
        Ok(Self { table: Arc::new(Table { users, by_hash }), announces_hashes: false })
    }

    /// Other users, announced as these are.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn with(&self, users: Vec<User>) -> Result<Self, UserError> {
        Ok(Self { announces_hashes: self.announces_hashes, ..Self::new(users)? })
    }

    /// The same users, and nonces that say "username anonymity" (RFC 8489, section 18.1).
    ///
    /// A client that knows this feature and sees it announced **must** send USERHASH and nothing else
    /// (section 9.2.5), and of a time-limited username the server cannot tell whose hash it is. So
    /// this is for servers whose clients are all static users; USERHASH is understood without it.
    #[must_use]
    pub fn announcing_hashes(self) -> Self {
        Self { announces_hashes: true, ..self }
    }

    /// All of them, by name.
    #[must_use]
    pub fn as_slice(&self) -> &[User] {
        &self.table.users
    }

    pub(crate) const fn announces_hashes(&self) -> bool {
        self.announces_hashes
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&User> {
        let users = &self.table.users;
        users.binary_search_by(|user| (*user.name).cmp(name)).ok().map(|at| &users[at])
    }

    pub(crate) fn by_hash(&self, hash: &[u8]) -> Option<&User> {
        let Table { users, by_hash } = &*self.table;
        let place = by_hash.binary_search_by(|index| users[*index as usize].hash[..].cmp(hash));
        place.ok().map(|at| &users[by_hash[at] as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Result<User, UserError> {
        User::new(name, "realm", LongTermKeys::derive(name, "realm", "password"))
    }

    #[test]
    fn keys_are_what_other_implementations_compute() {
        // Made with: printf %s user:realm:pass | md5sum; printf %s user:realm:pass | sha256sum
        let keys = LongTermKeys::derive("user", "realm", "pass");
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(hex(&keys.md5), "8493fbc53ba582fb4c044c456bdc40eb", "RFC 8489, section 18.5.1.1");
        assert_eq!(hex(&keys.sha256), "07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b");
        assert_eq!(format!("{keys:?}"), "LongTermKeys(..)");
    }

    #[test]
    fn a_name_is_no_time_limited_one() {
        let check = |name: &str, is_good: bool| assert_eq!(user(name).is_ok(), is_good, "{name:?}");
        check("alice", true);
        check("alice.b_c-d+e@example.org", true);
        check("1700000000", true);
        check(&"x".repeat(63), true);
        check(&"x".repeat(64), false);
        check("", false);
        check("1700000000:alice", false);
        check("alice:", false);
        check("al ice", false);
        check("al\u{e9}", false);
        check("a/b", false);
        check("a~b", false);
    }

    #[test]
    fn users_are_found_by_name_and_by_hash() {
        let names: Vec<String> = (0..100).map(|n| format!("user{n}")).collect();
        let made: Vec<User> = names.iter().rev().map(|name| user(name).unwrap()).collect();
        let hashes: Vec<_> = made.iter().map(|user| (user.hash, Arc::clone(&user.name))).collect();
        let users = Users::new(made.clone()).unwrap();
        assert!(names.iter().all(|name| *users.by_name(name).unwrap().name == **name));
        assert!(hashes.iter().all(|(hash, name)| users.by_hash(hash).unwrap().name == *name));
        assert!(users.by_name("user100").is_none() && users.by_name("").is_none());
        for wrong in [&hashes[0].0[..31], &[0; 32], &[], &[hashes[0].0.as_slice(), &[0]].concat()] {
            assert!(users.by_hash(wrong).is_none());
        }
        assert!(users.as_slice().is_sorted_by(|a, b| a.name < b.name));

        let twice = vec![made[0].clone(), made[1].clone(), made[0].clone()];
        assert_eq!(Users::new(twice).unwrap_err(), UserError::Duplicate);
        assert_eq!(Users::new(vec![made[0].clone(); MAX_USERS + 1]).unwrap_err(), UserError::Count);
    }
}
