//! The audit log's hash chain: what an entry's hash covers, and how a log is checked against it.
//!
//! The hash of an entry is SHA-256 over [`DOMAIN`], the hash of the entry before (32 zero bytes before
//! the first), number and time as 8 bytes each, big-endian, and the texts: actor, source, action, target
//! and detail in this order, each with its length in bytes before it as 8 bytes, big-endian. An absent
//! source counts as the length [`ABSENT`] and no text. Detail is JSON in the canonical form of RFC 8785,
//! of which only objects, arrays, strings, whole numbers, `true`, `false` and `null` are used.
//!
//! A chain shows that nothing inside it was changed, taken out or put in. It can't show by itself that its end was cut
//! off, or that all of it was made anew: for that, compare it with a [`AuditHead`] that was noted elsewhere.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Keeps these hashes apart from all others.
const DOMAIN: &[u8] = b"meetpoint audit v1";
/// No text has this length.
const ABSENT: u64 = u64::MAX;
const HASH_LEN: usize = 32;

/// The hash of an entry, and by it of all before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHash([u8; HASH_LEN]);

impl AuditHash {
    /// What stands in the place of a hash before the first entry.
    const NONE: Self = Self([0; HASH_LEN]);

    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// Not a hash, or not a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected 64 lower-case hexadecimal digits, for a head after a number and a colon")]
pub struct ParseHashError;

impl FromStr for AuditHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseHashError)?;
        Ok(Self(bytes.try_into().map_err(|_| ParseHashError)?))
    }
}

/// An entry of the audit log, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number. The first one is 1.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// From which address.
    pub source: Option<String>,
    /// Did what.
    pub action: String,
    /// With what.
    pub target: String,
    /// The particulars: a JSON object in canonical form.
    pub detail: String,
}

impl AuditEntry {
    /// Its hash, after an entry with that one.
    fn hash(&self, before: AuditHash) -> AuditHash {
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        hasher.update(before.0);
        hasher.update(self.seq.to_be_bytes());
        hasher.update(self.at_ms.to_be_bytes());
        let source = self.source.as_deref();
        for text in
            [Some(&*self.actor), source, Some(&*self.action), Some(&*self.target), Some(&*self.detail)]
        {
            hasher.update(text.map_or(ABSENT, |text| text.len() as u64).to_be_bytes());
            hasher.update(text.unwrap_or_default());
        }
        AuditHash(hasher.finalize().into())
    }
}

/// The end of a log: its last number and hash. Whoever notes it elsewhere can tell later whether what the
/// log said then is still in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// The number of the last entry; 0 for an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: AuditHash,
}

impl AuditHead {
    /// Of an empty log.
    pub const EMPTY: Self = Self { seq: 0, hash: AuditHash::NONE };

    /// The head after one more entry, which has to have the next number.
    #[must_use]
    pub fn after(self, entry: &AuditEntry) -> Self {
        Self { seq: entry.seq, hash: entry.hash(self.hash) }
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for AuditHead {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let (seq, hash) = text.split_once(':').ok_or(ParseHashError)?;
        Ok(Self { seq: seq.parse().map_err(|_| ParseHashError)?, hash: hash.parse()? })
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditBroken {
    /// An entry is not there.
    #[error("entry {seq} is missing: the next one that is there is {found}")]
    Missing {
        /// The first one that is missing.
        seq: u64,
        /// What is there in its place.
        found: u64,
    },
    /// An entry is not what was written.
    #[error("entry {seq} was changed, or one before it was made anew")]
    Changed {
        /// Which.
        seq: u64,
    },
    /// The log holds together, but is another one than the one whose head was noted.
    #[error("entry {seq} is not the one whose hash was noted: the log was made anew")]
    MadeAnew {
        /// Which.
        seq: u64,
    },
    /// The log ends before the head that was noted.
    #[error("the log ends with entry {last}, but entry {noted} was noted: its end was cut off")]
    CutOff {
        /// The last entry that is there.
        last: u64,
        /// The last entry that was there.
        noted: u64,
    },
}

/// Checks a log, entry by entry.
#[derive(Debug, Clone)]
pub struct AuditChain {
    head: AuditHead,
    noted: Option<AuditHead>,
}

impl AuditChain {
    /// Before the first entry. With the head that was noted, if there is one.
    #[must_use]
    pub const fn new(noted: Option<AuditHead>) -> Self {
        Self { head: AuditHead::EMPTY, noted }
    }

    /// Checks the next entry.
    ///
    /// # Errors
    /// [`AuditBroken`]; the chain stays where it was.
    pub fn check(&mut self, entry: &AuditEntry, hash: AuditHash) -> Result<(), AuditBroken> {
        let expected = self.head.seq + 1;
        if entry.seq > expected {
            return Err(AuditBroken::Missing { seq: expected, found: entry.seq });
        }
        let head = self.head.after(entry);
        if entry.seq < expected || head.hash != hash {
            return Err(AuditBroken::Changed { seq: entry.seq });
        }
        if self.noted.is_some_and(|noted| noted.seq == head.seq && noted.hash != head.hash) {
            return Err(AuditBroken::MadeAnew { seq: head.seq });
        }
        self.head = head;
        Ok(())
    }

    /// The head so far: the place after which the next entries are to be read.
    #[must_use]
    pub const fn head(&self) -> AuditHead {
        self.head
    }

    /// There is no further entry.
    ///
    /// # Errors
    /// [`AuditBroken::CutOff`] if there was one.
    pub fn finish(self) -> Result<AuditHead, AuditBroken> {
        match self.noted {
            Some(noted) if noted.seq > self.head.seq => {
                Err(AuditBroken::CutOff { last: self.head.seq, noted: noted.seq })
            }
            _ => Ok(self.head),
        }
    }
}

/// JSON in canonical form (RFC 8785): without white space, the members of objects in their order.
///
/// Members are sorted by code point; theirs is the order of the RFC as long as names have no character
/// beyond U+FFFF, and ours have none. Numbers have to be whole.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    let separate = |text: &mut String, index: usize| {
        if index > 0 {
            text.push(',');
        }
    };
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                separate(text, index);
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonical(member, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(text, index);
                write_canonical(item, text);
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests;
