//! Cluster secrets: the other right to become a member.
//!
//! All nodes of a cluster may hold the same secret, so it can be replaced for all of them: servers
//! and nodes hold several at once. A node proves that it holds one by HMAC-SHA256 over the join's
//! transcript, under a key derived from the secret and the cluster's name. The server keeps that
//! key: unlike a join token's public half it could be used to join, in this cluster only. The
//! secret itself never travels and can't be found from the key.

use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::{BASE32, SecretId};
use crate::name::ClusterName;

/// Marks a secret, and its layout.
const PREFIX: &str = "mps1";
/// Domain of everything derived from a secret.
const DOMAIN: &[u8] = b"meetpoint/v1/cluster-secret";
/// Catches typing errors before they become "unknown secret".
const CHECKSUM_LEN: usize = 3;

/// A cluster secret of 256 bits. Never logged: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; Self::LEN]);

/// What of a secret proves a join, and checks one.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

/// Why a text is not a cluster secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseSecretError {
    /// Something else.
    #[error("a cluster secret starts with {PREFIX}; `meetpoint secrets create` makes one")]
    NotASecret,
    /// Not whole.
    #[error("this cluster secret is damaged: copy it again, whole")]
    Damaged,
}

impl ClusterSecret {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// From random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Names it in one cluster, without revealing it.
    #[must_use]
    pub fn id(&self, cluster: &ClusterName) -> SecretId {
        SecretId::from_bytes(self.derive(b"id", cluster))
    }

    /// What proves and checks joins to one cluster.
    #[must_use]
    pub fn key(&self, cluster: &ClusterName) -> SecretKey {
        SecretKey(self.derive(b"key", cluster))
    }

    /// The secret text, to hand to its owner. The only way to get at it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut bytes = self.0.to_vec();
        bytes.extend_from_slice(&checksum(&self.0));
        format!("{PREFIX}{}", BASE32.encode(&bytes))
    }

    fn derive<const N: usize>(&self, label: &[u8], cluster: &ClusterName) -> [u8; N] {
        let mut out = [0; N];
        let hkdf = Hkdf::<Sha256>::new(Some(DOMAIN), &self.0);
        // A label has no zero byte and a name has none, so no two pairs are the same bytes.
        #[allow(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
        hkdf.expand_multi_info(&[label, &[0], cluster.as_str().as_bytes()], &mut out).expect("N is small");
        out
    }
}

impl SecretKey {
    /// From what [`SecretKey::as_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be stored by the server. Whoever reads it can join.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA256 (RFC 2104) of a message, not finished.
    pub(crate) fn hmac(&self, message: &[u8]) -> Hmac<Sha256> {
        #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("32 bytes are a key");
        hmac::Mac::update(&mut hmac, message);
        hmac
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Sha256::new().chain_update(DOMAIN).chain_update(bytes).finalize();
    [digest[0], digest[1], digest[2]]
}

impl FromStr for ClusterSecret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        let body = text.strip_prefix(PREFIX).ok_or(ParseSecretError::NotASecret)?;
        let bytes = BASE32.decode(body.as_bytes()).map_err(|_| ParseSecretError::Damaged)?;
        let (secret, sum) = bytes.split_at_checked(Self::LEN).ok_or(ParseSecretError::Damaged)?;
        if sum != checksum(secret) {
            return Err(ParseSecretError::Damaged);
        }
        secret.try_into().map(Self).map_err(|_| ParseSecretError::Damaged)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_hides_and_is_of_one_cluster() {
        let secret = ClusterSecret::from_bytes([3; 32]);
        let text = secret.reveal();
        assert_eq!(text.parse(), Ok(secret.clone()));
        assert!(text.starts_with(PREFIX) && text.len() == 60, "{text}");
        let [a, b] = ["a", "b"].map(|name| name.parse::<ClusterName>().unwrap());
        assert_ne!(secret.id(&a), secret.id(&b));
        assert_ne!(secret.key(&a), secret.key(&b));
        let shown = format!("{secret:?}{:?}", secret.key(&a));
        assert_eq!(shown, "ClusterSecret(..)SecretKey(..)");
    }

    #[test]
    fn refused_texts() {
        let good = ClusterSecret::from_bytes([3; 32]).reveal();
        let cases = [
            ("", ParseSecretError::NotASecret),
            ("correct-horse-battery", ParseSecretError::NotASecret),
            ("mps1", ParseSecretError::Damaged),
            (&good[..40], ParseSecretError::Damaged),
            (&good.replace("mps1a", "mps1b"), ParseSecretError::Damaged),
            (&format!("{good}a"), ParseSecretError::Damaged),
        ];
        for (text, expect) in cases {
            assert_eq!(text.parse::<ClusterSecret>(), Err(expect), "{text}");
        }
    }
}
