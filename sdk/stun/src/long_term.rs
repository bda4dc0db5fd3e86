//! Long-term credentials (RFC 8489, sections 9.2 and 18.5): from a password to a key.

use md5::{Digest, Md5};
use sha2::Sha256;

use crate::crypto::{IntegrityKey, IntegrityKind};

/// How a long-term key is made of a password (RFC 8489, section 18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// `MD5(username ":" realm ":" password)`, what RFC 5389 had.
    Md5,
    /// The same with SHA-256.
    Sha256,
}

/// The long-term key (RFC 8489, sections 18.5.1.1 and 18.5.1.2), prepared for integrity
/// attributes of this kind.
#[must_use]
pub fn long_term_key(
    algorithm: PasswordAlgorithm,
    kind: IntegrityKind,
    username: &str,
    realm: &str,
    password: &[u8],
) -> IntegrityKey {
    let parts = [username.as_bytes(), b":", realm.as_bytes(), b":", password];
    match algorithm {
        PasswordAlgorithm::Md5 => IntegrityKey::new(kind, &digest::<Md5, 5>(parts)),
        PasswordAlgorithm::Sha256 => IntegrityKey::new(kind, &digest::<Sha256, 5>(parts)),
    }
}

/// The hash over several parts.
pub fn digest<D: Digest, const N: usize>(parts: [&[u8]; N]) -> md5::digest::Output<D> {
    parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize()
}
