//! The three checks over a message's bytes: HMAC-SHA1, HMAC-SHA256 and CRC-32.
//!
//! All of them cover the header with its length field set as if the attribute that carries the
//! check were the last one (RFC 8489, sections 14.5 to 14.7), so the functions take the bytes
//! before that attribute and correct the length themselves.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::message::{ATTRIBUTE_HEADER_LEN, HEADER_LEN};

/// XORed into FINGERPRINT so that an application's own CRC-32 is not taken for it
/// (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Length of FINGERPRINT's value.
const FINGERPRINT_LEN: usize = 4;
/// Which attribute protects a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntegrityKind {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

impl IntegrityKind {
    /// Length of the attribute's value.
    #[must_use]
    #[inline]
    pub const fn value_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A key for one kind of integrity attribute, with its schedule already computed: checking a
/// question and protecting its answer start from the same prepared state. It does not say what
/// it is when printed.
#[derive(Clone)]
pub struct IntegrityKey(Keyed);

#[derive(Clone)]
enum Keyed {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
}

impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IntegrityKey({:?}, ..)", self.kind())
    }
}

impl IntegrityKey {
    /// Prepares `key`: a password for short-term credentials (RFC 8489, section 9.1.1), or what
    /// [`crate::long_term_key`] makes.
    #[must_use]
    pub fn new(kind: IntegrityKind, key: &[u8]) -> Self {
        Self(match kind {
            IntegrityKind::Sha1 => Keyed::Sha1(keyed(key)),
            IntegrityKind::Sha256 => Keyed::Sha256(keyed(key)),
        })
    }

    /// The attribute it is for.
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> IntegrityKind {
        match self.0 {
            Keyed::Sha1(_) => IntegrityKind::Sha1,
            Keyed::Sha256(_) => IntegrityKind::Sha256,
        }
    }

    /// Checks `value`, found behind `before`. False if its length is not the kind's.
    pub(crate) fn verify(&self, before: &[u8], value: &[u8]) -> bool {
        // `ct_eq` on slices answers false at once for unequal lengths, which are no secret.
        self.compute(before).as_ref().ct_eq(value).into()
    }

    /// The value of the integrity attribute to put behind `before`.
    #[inline]
    pub(crate) fn compute(&self, before: &[u8]) -> Tag {
        let head = head_with_length(before, self.kind().value_len());
        let rest = &before[head.len()..];
        match &self.0 {
            Keyed::Sha1(mac) => Tag::Sha1(tag(mac, head, rest).into()),
            Keyed::Sha256(mac) => Tag::Sha256(tag(mac, head, rest).into()),
        }
    }
}

fn tag<M: Mac + Clone>(mac: &M, head: [u8; 4], rest: &[u8]) -> hmac::digest::Output<M> {
    mac.clone().chain_update(head).chain_update(rest).finalize().into_bytes()
}

/// The value of an integrity attribute.
pub(crate) enum Tag {
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Sha1(tag) => tag,
            Self::Sha256(tag) => tag,
        }
    }
}

/// A MAC with its key set.
#[must_use]
pub fn keyed<M: KeyInit>(key: &[u8]) -> M {
    M::new_from_slice(key).expect("HMAC takes a key of any length (RFC 2104)")
}

/// The value of the FINGERPRINT to put behind `before`.
pub(crate) fn fingerprint(before: &[u8]) -> [u8; FINGERPRINT_LEN] {
    let head = head_with_length(before, FINGERPRINT_LEN);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&before[head.len()..]);
    (crc.finalize() ^ FINGERPRINT_XOR).to_be_bytes()
}

/// The first four bytes of the header, with the length of a message that ends with the
/// checking attribute.
#[inline]
fn head_with_length(before: &[u8], value_len: usize) -> [u8; 4] {
    let body_len = before.len() - HEADER_LEN + ATTRIBUTE_HEADER_LEN + value_len;
    // A datagram is shorter than 64 KiB, and so is what it says of itself.
    let [high, low] = (body_len as u16).to_be_bytes();
    [before[0], before[1], high, low]
}
