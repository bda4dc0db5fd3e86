//! Membership certificates: a cluster's word that a key is a member under a name.
//!
//! Peers check them in every introduction, so the server can't pass off a stranger as a
//! member without the cluster's key, and another server can admit a member without asking home.

use ed25519_dalek::{Signer, SigningKey};
use thiserror::Error;

use crate::id::{NodeId, PublicKey, Signature};
use crate::join::{field, verify_strict};
use crate::name::{ClusterName, NodeName};
use crate::wire::CertificateText;

const DOMAIN: &[u8] = b"meetpoint/v1/membership";

/// A verified membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The cluster it is for.
    pub cluster: ClusterName,
    /// The member's key.
    pub node: NodeId,
    /// The member's name.
    pub name: NodeName,
    /// Seconds since 1970; not valid from then on.
    pub not_after_unix_s: u64,
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
    #[error("the membership certificate has expired; the clock may be wrong, or the node was away too long")]
    Expired,
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
            not_after_unix_s: self.not_after_unix_s,
            signature,
        }
    }

    /// Checks signature and expiry.
    ///
    /// # Errors
    /// [`CertificateError`] says which check failed; nothing of a refused certificate is to be used.
    pub fn verify(
        text: &CertificateText,
        cluster_key: &PublicKey,
        now_unix_s: u64,
    ) -> Result<Self, CertificateError> {
        let certificate = Self {
            cluster: text.cluster.parse().map_err(|_| CertificateError::BadField("cluster"))?,
            node: text.node_id,
            name: text.name.parse().map_err(|_| CertificateError::BadField("name"))?,
            not_after_unix_s: text.not_after_unix_s,
        };
        if !verify_strict(cluster_key, &certificate.message(), &text.signature) {
            return Err(CertificateError::BadSignature);
        }
        if now_unix_s >= certificate.not_after_unix_s {
            return Err(CertificateError::Expired);
        }
        Ok(certificate)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        field(&mut message, DOMAIN);
        field(&mut message, self.cluster.as_str().as_bytes());
        field(&mut message, self.node.as_bytes());
        field(&mut message, self.name.as_str().as_bytes());
        field(&mut message, &self.not_after_unix_s.to_be_bytes());
        message
    }
}
