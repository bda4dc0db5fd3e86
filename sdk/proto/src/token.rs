//! Join tokens: the right to become a member.
//!
//! A token's secret is the seed of an Ed25519 key. The node signs the join's transcript with
//! it; the server keeps only the public half. So the secret never travels, and whoever reads
//! the server's database cannot join with what he finds there (an HMAC under the token would
//! need the server to keep the very key that admits).

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::{BASE32, Fingerprint, PublicKey, TokenId};

/// Marks a minted token, and its layout.
const PREFIX: &str = "mpj1";
const SECRET_LEN: usize = 16;
/// Catches typing errors before they become "unknown token".
const CHECKSUM_LEN: usize = 3;
const MINTED_LEN: usize = SECRET_LEN + Fingerprint::LEN + CHECKSUM_LEN;
/// A token the operator thought of himself; shorter ones would be guessed.
pub const MIN_GIVEN_LEN: usize = 16;
/// Bounds what is kept and hashed.
pub const MAX_GIVEN_LEN: usize = 256;

/// A join token, either minted by a server (with the server's fingerprint inside) or given by
/// the operator as a text of his own. Never logged: `Debug` and `Display` hide it.
#[derive(Clone)]
pub struct JoinToken {
    text: String,
    secret: Vec<u8>,
    fingerprint: Option<Fingerprint>,
}

/// What a join token admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenScope {
    /// Nodes.
    Node,
    /// Seeds, which register themselves.
    Seed,
}

impl TokenScope {
    /// The word in flags, requests and the registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Seed => "seed",
        }
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected node or seed")]
pub struct ParseScopeError;

impl FromStr for TokenScope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        match text {
            "node" => Ok(Self::Node),
            "seed" => Ok(Self::Seed),
            _ => Err(ParseScopeError),
        }
    }
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseTokenError {
    /// Too short to be safe.
    #[error("a join token has at least {MIN_GIVEN_LEN} characters, this one has {len}")]
    TooShort {
        /// Its length in bytes.
        len: usize,
    },
    /// Longer than any token.
    #[error("a join token has at most {MAX_GIVEN_LEN} characters, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// White space or control characters.
    #[error("a join token has only visible ASCII characters")]
    BadCharacter,
    /// Starts like a minted token, but is not whole.
    #[error("this join token is damaged: copy it again, whole")]
    Damaged,
}

impl JoinToken {
    /// Makes a token of 16 random bytes that carries the server's fingerprint.
    #[must_use]
    pub fn mint(secret: [u8; SECRET_LEN], fingerprint: Fingerprint) -> Self {
        let mut bytes = Vec::with_capacity(MINTED_LEN);
        bytes.extend_from_slice(&secret);
        bytes.extend_from_slice(fingerprint.as_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Self {
            text: format!("{PREFIX}{}", BASE32.encode(&bytes)),
            secret: secret.to_vec(),
            fingerprint: Some(fingerprint),
        }
    }

    /// The server's TLS fingerprint, in minted tokens.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// The same right, bound to another server certificate.
    #[must_use]
    pub fn with_fingerprint(&self, fingerprint: Fingerprint) -> Self {
        match <[u8; SECRET_LEN]>::try_from(self.secret.as_slice()) {
            Ok(secret) if self.fingerprint.is_some() => Self::mint(secret, fingerprint),
            _ => self.clone(),
        }
    }

    /// Names the token without revealing it.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId::from_bytes(self.derive(b"id"))
    }

    /// The key that signs joins.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive(b"key"))
    }

    /// What the server keeps to check joins.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from(&self.signing_key())
    }

    /// The secret text, to hand to its owner. The only way to get at it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        let hkdf = Hkdf::<Sha256>::new(Some(b"meetpoint/v1/join-token"), &self.secret);
        #[allow(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
        hkdf.expand(label, &mut out).expect("N is small");
        out
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Sha256::new().chain_update(b"meetpoint/v1/join-token").chain_update(bytes).finalize();
    [digest[0], digest[1], digest[2]]
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let len = text.len();
        if len > MAX_GIVEN_LEN {
            return Err(ParseTokenError::TooLong { len });
        }
        if let Some(body) = text.strip_prefix(PREFIX) {
            return minted(body).ok_or(ParseTokenError::Damaged);
        }
        if len < MIN_GIVEN_LEN {
            return Err(ParseTokenError::TooShort { len });
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ParseTokenError::BadCharacter);
        }
        Ok(Self { text: text.to_owned(), secret: text.as_bytes().to_vec(), fingerprint: None })
    }
}

fn minted(body: &str) -> Option<JoinToken> {
    let bytes = BASE32.decode(body.as_bytes()).ok()?;
    let (payload, sum) = bytes.split_at_checked(MINTED_LEN - CHECKSUM_LEN)?;
    if sum != checksum(payload) {
        return None;
    }
    let (secret, fingerprint) = payload.split_at(SECRET_LEN);
    let fingerprint = Fingerprint::from_bytes(fingerprint.try_into().ok()?);
    Some(JoinToken::mint(secret.try_into().ok()?, fingerprint))
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(id: {}, ..)", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_round_trips_and_hides() {
        let token = JoinToken::mint([3; 16], Fingerprint::from_bytes([9; 32]));
        let back: JoinToken = token.reveal().parse().unwrap();
        assert_eq!(back.fingerprint(), Some(Fingerprint::from_bytes([9; 32])));
        assert_eq!(back.id(), token.id());
        assert_eq!(back.public_key(), token.public_key());
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn the_right_survives_a_new_certificate() {
        let token = JoinToken::mint([3; 16], Fingerprint::from_bytes([9; 32]));
        let renewed = token.with_fingerprint(Fingerprint::from_bytes([1; 32]));
        assert_eq!(renewed.id(), token.id());
        assert_ne!(renewed.reveal(), token.reveal());
    }

    #[test]
    fn refused_texts() {
        let good = JoinToken::mint([3; 16], Fingerprint::from_bytes([9; 32]));
        let damaged = good.reveal().replace("mpj1a", "mpj1b");
        let cases = [
            ("short", ParseTokenError::TooShort { len: 5 }),
            ("mpj1", ParseTokenError::Damaged),
            (&good.reveal()[..60], ParseTokenError::Damaged),
            (damaged.as_str(), ParseTokenError::Damaged),
            ("with white space in it", ParseTokenError::BadCharacter),
        ];
        for (text, expect) in cases {
            assert_eq!(text.parse::<JoinToken>().unwrap_err(), expect, "{text}");
        }
        let given: JoinToken = "correct-horse-battery".parse().unwrap();
        assert_eq!(given.fingerprint(), None);
    }
}
