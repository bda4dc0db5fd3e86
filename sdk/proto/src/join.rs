//! What is signed when a node joins.
//!
//! One transcript binds both nonces, both keys and every word of the hello. Each signature
//! over it has a domain of its own, so that none can stand for another.

use ed25519_dalek::{Signer, SigningKey};
use hmac::Mac as _;

use crate::id::{Mac, NodeId, Nonce, PublicKey, Signature, TokenId};
use crate::secret::SecretKey;
use crate::wire::Hello;

/// What a signature over the transcript means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The node holds the key of its id.
    Node,
    /// The node holds the join token.
    Admission,
    /// The node holds a cluster secret.
    Secret,
    /// The server holds the cluster's key, or its own, and has admitted this very join.
    Welcome,
}

impl Domain {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Node => b"meetpoint/v1/join/node",
            Self::Admission => b"meetpoint/v1/join/admission",
            Self::Secret => b"meetpoint/v1/join/secret",
            Self::Welcome => b"meetpoint/v1/join/welcome",
        }
    }
}

/// The facts of one join, as both sides see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    body: Vec<u8>,
    node: NodeId,
    token: Option<TokenId>,
}

impl Transcript {
    /// From the hello as sent, and the server's challenge.
    #[must_use]
    pub fn new(hello: &Hello, server_nonce: &Nonce, cluster_key: &PublicKey) -> Self {
        let mut body = Vec::with_capacity(512);
        field(&mut body, hello.node_id.as_bytes());
        field(&mut body, cluster_key.as_bytes());
        field(&mut body, hello.nonce.as_bytes());
        field(&mut body, server_nonce.as_bytes());
        // The hello is canonical JSON here: both sides serialise the same struct with the
        // same library order, whatever white space travelled.
        let words = serde_json::to_vec(hello).unwrap_or_default();
        field(&mut body, &words);
        Self { body, node: hello.node_id, token: hello.token }
    }

    /// The same join at a server that does not hold the cluster's key: this one signs the welcome.
    #[must_use]
    pub fn served_by(mut self, server_key: &PublicKey) -> Self {
        field(&mut self.body, server_key.as_bytes());
        self
    }

    /// The node whose join this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The token that the node means to use.
    #[must_use]
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    /// Signs for one domain.
    #[must_use]
    pub fn sign(&self, domain: Domain, key: &SigningKey) -> Signature {
        Signature::from_bytes(key.sign(&self.message(domain)).to_bytes())
    }

    /// Verifies strictly (no malleable signatures, no small-order keys).
    #[must_use]
    pub fn verify(&self, domain: Domain, key: &PublicKey, signature: &Signature) -> bool {
        verify_strict(key, &self.message(domain), signature)
    }

    /// Proves that the node holds a cluster secret.
    #[must_use]
    pub fn mac(&self, key: &SecretKey) -> Mac {
        let digest = key.hmac(&self.message(Domain::Secret)).finalize().into_bytes();
        Mac::from_bytes(digest.into())
    }

    /// Checks such a proof, in constant time.
    #[must_use]
    pub fn verify_mac(&self, key: &SecretKey, mac: &Mac) -> bool {
        key.hmac(&self.message(Domain::Secret)).verify_slice(mac.as_bytes()).is_ok()
    }

    fn message(&self, domain: Domain) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.body.len() + 64);
        field(&mut message, domain.tag());
        message.extend_from_slice(&self.body);
        message
    }
}

/// Appends a length-prefixed field, so that no two field lists have the same bytes.
pub(crate) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Strict Ed25519 verification (attack: signature malleability).
pub(crate) fn verify_strict(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    key.key().is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> Self {
        Self::from_bytes(*node.as_bytes())
    }
}
