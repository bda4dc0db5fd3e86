//! Membership certificates: a cluster's word that a key is a member under a name; and its word that
//! one is no more.
//!
//! Peers check them in every introduction, so the server can't pass off a stranger as a
//! member without the cluster's key, and another server can admit a member without asking home.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey};
use thiserror::Error;

use crate::id::{NodeId, PublicKey, Signature};
use crate::join::{field, verify_strict};
use crate::name::{Capability, ClusterName, NodeName};
use crate::wire::{CertificateText, MAX_CAPABILITIES, RevocationText};

const DOMAIN: &[u8] = b"meetpoint/v1/membership";
const REVOCATION_DOMAIN: &[u8] = b"meetpoint/v1/revocation";
/// A certificate is taken this long before it begins: the clocks of two servers are never the same.
pub const MAX_SKEW_S: u64 = 300;

/// A verified membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The cluster it is for.
    pub cluster: ClusterName,
    /// The member's key.
    pub node: NodeId,
    /// The member's name.
    pub name: NodeName,
    /// Seconds since 1970; when it was made.
    pub not_before_unix_s: u64,
    /// Seconds since 1970; not valid from then on.
    pub not_after_unix_s: u64,
    /// What the member says it can do, in order.
    pub capabilities: Vec<Capability>,
}

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A field that does not parse.
    #[error("the membership certificate has a bad field: {0}")]
    BadField(&'static str),
    /// Not signed by this cluster.
    #[error("the membership certificate is not signed by this cluster's key")]
    BadSignature,
    /// Over.
    #[error(
        "the membership certificate has expired {ago_s} s ago by this clock; the clock may be wrong, or the node was away too long"
    )]
    Expired {
        /// How long ago, in seconds.
        ago_s: u64,
    },
    /// Not begun.
    #[error(
        "the membership certificate begins {ahead_s} s from now by this clock: it or the home server's is wrong by at least so much"
    )]
    NotYetValid {
        /// In how many seconds it would begin.
        ahead_s: u64,
    },
}

impl Certificate {
    /// Signs it with the cluster's key.
    #[must_use]
    pub fn sign(&self, cluster_key: &SigningKey) -> CertificateText {
        let signature = Signature::from_bytes(cluster_key.sign(&self.message()).to_bytes());
        CertificateText {
            cluster: self.cluster.to_string(),
            node_id: self.node,
            name: self.name.to_string(),
            not_before_unix_s: self.not_before_unix_s,
            not_after_unix_s: self.not_after_unix_s,
            capabilities: self.capabilities.iter().map(ToString::to_string).collect(),
            signature,
        }
    }

    /// Checks signature and time.
    ///
    /// # Errors
    /// [`CertificateError`] says which check failed; nothing of a refused certificate is to be used.
    pub fn verify(
        text: &CertificateText,
        cluster_key: &PublicKey,
        now_unix_s: u64,
    ) -> Result<Self, CertificateError> {
        let certificate = Self::parse(text)?;
        if !verify_strict(cluster_key, &certificate.message(), &text.signature) {
            return Err(CertificateError::BadSignature);
        }
        let Self { not_before_unix_s, not_after_unix_s, .. } = certificate;
        if now_unix_s >= not_after_unix_s {
            return Err(CertificateError::Expired { ago_s: now_unix_s - not_after_unix_s });
        }
        if now_unix_s.saturating_add(MAX_SKEW_S) < not_before_unix_s {
            return Err(CertificateError::NotYetValid { ahead_s: not_before_unix_s - now_unix_s });
        }
        Ok(certificate)
    }

    fn parse(text: &CertificateText) -> Result<Self, CertificateError> {
        let capabilities = text.capabilities.iter().take(MAX_CAPABILITIES + 1).map(|text| text.parse());
        let capabilities = capabilities.collect::<Result<Vec<Capability>, _>>();
        let capabilities = capabilities.ok().filter(|list| list.len() <= MAX_CAPABILITIES);
        Ok(Self {
            cluster: text.cluster.parse().map_err(|_| CertificateError::BadField("cluster"))?,
            node: text.node_id,
            name: text.name.parse().map_err(|_| CertificateError::BadField("name"))?,
            not_before_unix_s: text.not_before_unix_s,
            not_after_unix_s: text.not_after_unix_s,
            capabilities: capabilities.ok_or(CertificateError::BadField("capabilities"))?,
        })
    }

    fn message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        field(&mut message, DOMAIN);
        field(&mut message, self.cluster.as_str().as_bytes());
        field(&mut message, self.node.as_bytes());
        field(&mut message, self.name.as_str().as_bytes());
        field(&mut message, &self.not_before_unix_s.to_be_bytes());
        field(&mut message, &self.not_after_unix_s.to_be_bytes());
        for capability in &self.capabilities {
            field(&mut message, capability.as_str().as_bytes());
        }
        message
    }
}

/// A cluster's word that a key is no member any more, whatever certificate it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// The former member's key.
    pub node: NodeId,
    /// Seconds since 1970: its last certificate has ended by then.
    pub until_unix_s: u64,
}

impl Revocation {
    /// Signs it with the cluster's key.
    #[must_use]
    pub fn sign(&self, cluster: &ClusterName, cluster_key: &SigningKey) -> RevocationText {
        let signature = Signature::from_bytes(cluster_key.sign(&self.message(cluster)).to_bytes());
        RevocationText { id: self.node, until_unix_s: self.until_unix_s, signature }
    }

    /// The revocation, if this cluster has signed it.
    #[must_use]
    pub fn verify(text: &RevocationText, cluster: &ClusterName, cluster_key: &PublicKey) -> Option<Self> {
        let revocation = Self { node: text.id, until_unix_s: text.until_unix_s };
        verify_strict(cluster_key, &revocation.message(cluster), &text.signature).then_some(revocation)
    }

    fn message(&self, cluster: &ClusterName) -> Vec<u8> {
        let mut message = Vec::with_capacity(192);
        field(&mut message, REVOCATION_DOMAIN);
        field(&mut message, cluster.as_str().as_bytes());
        field(&mut message, self.node.as_bytes());
        field(&mut message, &self.until_unix_s.to_be_bytes());
        message
    }
}

/// What a member takes along to a server that is not the cluster's home: its certificate, and the key
/// to check those of its peers. Its text form is one line; it holds no secret, and is of use only to
/// the holder of the node's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The cluster's key.
    pub cluster_key: PublicKey,
    /// The certificate. Not yet verified.
    pub certificate: CertificateText,
}

/// The text is no membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a membership: expected the cluster's key and a certificate, as a node at home gives them")]
pub struct ParseMembershipError;

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cluster_key, crate::wire::encode(&self.certificate))
    }
}

impl FromStr for Membership {
    type Err = ParseMembershipError;

    fn from_str(text: &str) -> Result<Self, ParseMembershipError> {
        let (key, certificate) = text.trim().split_once(' ').ok_or(ParseMembershipError)?;
        let certificate = serde_json::from_str(certificate).map_err(|_| ParseMembershipError)?;
        Ok(Self { cluster_key: key.parse().map_err(|_| ParseMembershipError)?, certificate })
    }
}
