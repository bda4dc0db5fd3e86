//! Reads a STUN message from borrowed bytes (RFC 8489, section 5). Nothing is copied, nothing is
//! allocated, and nothing is logged: a stranger must not be able to write our log.
//!
//! [`Message::parse`] checks everything that concerns the whole datagram (header, lengths,
//! FINGERPRINT), and notes where the protected part ends. What an attribute means is decided by
//! whoever asks for it.
//!
//! The codec is our own rather than a library's because of what a server on a public address
//! needs and the available crates do not give: the datagram ends where its header says, attributes
//! behind MESSAGE-INTEGRITY are invisible, a failed parse is silent, and a key schedule is computed
//! once and shared by check and answer without a lock. The benchmark prints its cost next to the
//! library's, and a test compares both on the same bytes.

use thiserror::Error;

use crate::attr;
use crate::crypto::{IntegrityKey, IntegrityKind, fingerprint};

/// Length of the STUN header (RFC 8489, section 5).
pub const HEADER_LEN: usize = 20;
/// Length of an attribute's type and length fields (RFC 8489, section 14).
pub const ATTRIBUTE_HEADER_LEN: usize = 4;
/// The magic cookie (RFC 8489, section 5).
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// The Binding method (RFC 8489, section 18.2).
pub const BINDING: u16 = 0x001;
/// Asks for a relayed address (RFC 8656, section 17).
pub const ALLOCATE: u16 = 0x003;
/// Keeps or ends an allocation (RFC 8656, section 17).
pub const REFRESH: u16 = 0x004;
/// Indication: bytes for a peer (RFC 8656, section 17).
pub const SEND: u16 = 0x006;
/// Indication: bytes from a peer (RFC 8656, section 17).
pub const DATA: u16 = 0x007;
/// Lets peers' addresses in (RFC 8656, section 17).
pub const CREATE_PERMISSION: u16 = 0x008;
/// Gives a peer a number (RFC 8656, section 17).
pub const CHANNEL_BIND: u16 = 0x009;

/// The two class bits of a message type (RFC 8489, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// Asks for nothing.
    Indication,
    /// A good answer.
    Success,
    /// A bad answer.
    Error,
}

impl Class {
    /// The class bits in their places within the message type.
    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }
}

/// Packs class and method into the 14-bit message type (RFC 8489, section 5, figure 3).
#[must_use]
#[inline]
pub const fn message_type(class: Class, method: u16) -> u16 {
    (method & 0x00F) | (method & 0x070) << 1 | (method & 0xF80) << 2 | class.bits()
}

/// The 96-bit number that ties an answer to its question (RFC 8489, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// Why a datagram is not a message to act on. RFC 8489, section 6.3: all of these are dropped
/// in silence, because answering garbage makes a reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Shorter than a header, wrong first bits, or no magic cookie.
    #[error("not a STUN message")]
    NotStun,
    /// The lengths do not add up, or an attribute is where it must not be.
    #[error("a STUN message whose lengths or attribute order are wrong")]
    Malformed,
    /// FINGERPRINT is there and does not match.
    #[error("the FINGERPRINT does not match the message")]
    Fingerprint,
}

/// A whole STUN message within a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the attributes end that mean something: the first integrity or fingerprint
    /// attribute, or the end of the message.
    body_end: usize,
    sha1_at: Option<usize>,
    sha256_at: Option<usize>,
    has_fingerprint: bool,
}

/// One attribute as it lies in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, see [`crate::attr`].
    pub kind: u16,
    /// Its value without the padding.
    pub value: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a datagram that must be exactly one message.
    ///
    /// # Errors
    /// See [`ParseError`]; there is nothing to answer in any case.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() < HEADER_LEN || bytes[0] & 0xC0 != 0 || bytes[4..8] != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        let body_len = usize::from(u16_at(bytes, 2));
        if !body_len.is_multiple_of(4) || HEADER_LEN + body_len != bytes.len() {
            return Err(ParseError::Malformed);
        }
        let mut message =
            Message { bytes, body_end: bytes.len(), sha1_at: None, sha256_at: None, has_fingerprint: false };
        let mut at = HEADER_LEN;
        while at < bytes.len() {
            let (attribute, next) = attribute_at(bytes, at).ok_or(ParseError::Malformed)?;
            message.note(attribute, at, next)?;
            at = next;
        }
        Ok(message)
    }

    /// Notes the attributes that end the body. RFC 8489, sections 14.5 to 14.7: behind
    /// MESSAGE-INTEGRITY only MESSAGE-INTEGRITY-SHA256 and FINGERPRINT count, behind the former
    /// only FINGERPRINT, and FINGERPRINT is the last of all.
    #[inline]
    fn note(&mut self, attribute: Attribute<'a>, at: usize, next: usize) -> Result<(), ParseError> {
        match attribute.kind {
            attr::MESSAGE_INTEGRITY if self.sha1_at.is_none() && self.sha256_at.is_none() => {
                self.sha1_at = Some(at);
            }
            attr::MESSAGE_INTEGRITY_SHA256 if self.sha256_at.is_none() => {
                self.sha256_at = Some(at);
            }
            attr::FINGERPRINT => {
                if next != self.bytes.len() {
                    return Err(ParseError::Malformed);
                }
                if attribute.value != fingerprint(&self.bytes[..at]) {
                    return Err(ParseError::Fingerprint);
                }
                self.has_fingerprint = true;
            }
            _ => return Ok(()),
        }
        self.body_end = self.body_end.min(at);
        Ok(())
    }

    /// The message's class.
    #[must_use]
    #[inline]
    pub fn class(&self) -> Class {
        match (self.bytes[0] & 0x01, self.bytes[1] & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            (_, _) => Class::Error,
        }
    }

    /// The message's method.
    #[must_use]
    #[inline]
    pub fn method(&self) -> u16 {
        let kind = u16_at(self.bytes, 0);
        (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2
    }

    /// The transaction the message belongs to.
    #[must_use]
    #[inline]
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }

    /// The message's length on the wire.
    #[must_use]
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.bytes.len()
    }

    /// True if the message carries a FINGERPRINT (a wrong one does not parse).
    #[must_use]
    #[inline]
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    /// The attributes that count, in their order: none behind an integrity attribute.
    #[inline]
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let body = &self.bytes[..self.body_end];
        let mut at = HEADER_LEN;
        std::iter::from_fn(move || {
            let (attribute, next) = attribute_at(body, at)?;
            at = next;
            Some(attribute)
        })
    }

    /// The value of the first attribute of this kind; later ones do not count
    /// (RFC 8489, section 14).
    #[must_use]
    #[inline]
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.kind == kind).map(|a| a.value)
    }

    /// Which integrity attribute decides: SHA-256 if present (RFC 8489, section 9.2.4).
    #[must_use]
    #[inline]
    pub fn integrity(&self) -> Option<IntegrityKind> {
        match (self.sha256_at, self.sha1_at) {
            (Some(_), _) => Some(IntegrityKind::Sha256),
            (None, Some(_)) => Some(IntegrityKind::Sha1),
            (None, None) => None,
        }
    }

    /// True if the deciding integrity attribute is of the key's kind and was made with it.
    /// Compared in constant time.
    ///
    /// A truncated MESSAGE-INTEGRITY-SHA256 never verifies: RFC 8489, section 14.6 allows it only
    /// where a usage says so, and neither Binding nor TURN does.
    #[must_use]
    #[inline]
    pub fn verify(&self, key: &IntegrityKey) -> bool {
        if self.integrity() != Some(key.kind()) {
            return false;
        }
        let at = match key.kind() {
            IntegrityKind::Sha1 => self.sha1_at,
            IntegrityKind::Sha256 => self.sha256_at,
        };
        at.is_some_and(|at| {
            attribute_at(self.bytes, at)
                .is_some_and(|(attribute, _)| key.verify(&self.bytes[..at], attribute.value))
        })
    }
}

/// The attribute that starts at `at`, and where the next one starts.
#[inline]
fn attribute_at(bytes: &[u8], at: usize) -> Option<(Attribute<'_>, usize)> {
    let value_at = at + ATTRIBUTE_HEADER_LEN;
    let header = bytes.get(at..value_at)?;
    let len = usize::from(u16_at(header, 2));
    let next = value_at + len.next_multiple_of(4);
    let value = bytes.get(value_at..next)?.get(..len)?;
    let kind = u16_at(header, 0);
    Some((Attribute { kind, value }, next))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
