//! What a seed signs: that it is met at an address, and that it wants to be a seed of a cluster.
//!
//! A seed is a server, and its key is the same in all clusters. Each message that it signs has a
//! domain of its own, so that none can stand for another, nor for a node's.

use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

use crate::id::{Nonce, PublicKey, Signature, TokenId};
use crate::join::{field, verify_strict};
use crate::network::NetworkType;
use crate::seed::SeedAddr;

/// Where a server shows its key: `GET /v1/seed-proof?nonce=NONCE&at=HOST:PORT`.
pub const PROOF_PATH: &str = "/v1/seed-proof";

/// How far the clocks of a server and of a seed that registers with it may be apart.
pub const MAX_SKEW_MS: u64 = 5 * 60 * 1000;

/// What a message of a seed is for.
#[derive(Debug, Clone, Copy)]
enum Domain {
    /// The holder of the key answers at the address.
    Proof,
    /// The holder of the key wants to be a seed.
    Registration,
    /// The holder of the token wants it too.
    RegistrationToken,
}

impl Domain {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Proof => b"meetpoint/v1/seed/proof",
            Self::Registration => b"meetpoint/v1/seed/registration",
            Self::RegistrationToken => b"meetpoint/v1/seed/registration/token",
        }
    }
}

/// A server's answer to whether it is met at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedProof {
    /// The server's seed key.
    pub public_key: PublicKey,
    /// Over the asker's nonce, this key, and the address that was asked for.
    pub signature: Signature,
}

impl SeedProof {
    /// Shows that the holder of `key` is met at `at`, an address in the text form `HOST:PORT`.
    #[must_use]
    pub fn sign(key: &SigningKey, nonce: &Nonce, at: &str) -> Self {
        let public_key = PublicKey::from(key);
        let message = proof_message(&public_key, nonce, at);
        Self { public_key, signature: Signature::from_bytes(key.sign(&message).to_bytes()) }
    }

    /// Whether [`Self::public_key`] answered this very question.
    #[must_use]
    pub fn answers(&self, nonce: &Nonce, at: &str) -> bool {
        verify_strict(&self.public_key, &proof_message(&self.public_key, nonce, at), &self.signature)
    }
}

fn proof_message(key: &PublicKey, nonce: &Nonce, at: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(256);
    field(&mut message, Domain::Proof.tag());
    field(&mut message, key.as_bytes());
    field(&mut message, nonce.as_bytes());
    field(&mut message, at.as_bytes());
    message
}

/// A server's wish to be a seed of a cluster. Signed twice: with its seed key and with the key of a
/// join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The cluster's name.
    pub cluster: String,
    /// The seed key of the server that is asked, so that the message says nothing to another one.
    pub audience: PublicKey,
    /// The name it wants, and where it is met.
    pub seed: SeedAddr,
    /// What it says of itself.
    pub declared: Option<NetworkType>,
    /// Its seed key.
    pub public_key: PublicKey,
    /// The join token that lets it register.
    pub token: TokenId,
    /// When it was signed, by the clock of the server that is asked, in milliseconds since 1970. A
    /// later registration has a later time.
    pub issued_unix_ms: u64,
}

impl Registration {
    /// Signs with the seed key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Signature {
        Signature::from_bytes(key.sign(&self.message(Domain::Registration)).to_bytes())
    }

    /// Signs with the join token's key.
    #[must_use]
    pub fn sign_by_token(&self, key: &SigningKey) -> Signature {
        Signature::from_bytes(key.sign(&self.message(Domain::RegistrationToken)).to_bytes())
    }

    /// Whether the holder of [`Self::public_key`] signed it.
    #[must_use]
    pub fn is_signed(&self, signature: &Signature) -> bool {
        verify_strict(&self.public_key, &self.message(Domain::Registration), signature)
    }

    /// Whether the holder of the join token with this public half signed it.
    #[must_use]
    pub fn is_signed_by_token(&self, token: &PublicKey, signature: &Signature) -> bool {
        verify_strict(token, &self.message(Domain::RegistrationToken), signature)
    }

    fn message(&self, domain: Domain) -> Vec<u8> {
        let mut message = Vec::with_capacity(512);
        field(&mut message, domain.tag());
        field(&mut message, self.cluster.as_bytes());
        field(&mut message, self.audience.as_bytes());
        field(&mut message, self.seed.to_string().as_bytes());
        field(&mut message, self.declared.map_or("", NetworkType::as_str).as_bytes());
        field(&mut message, self.public_key.as_bytes());
        field(&mut message, self.token.as_bytes());
        field(&mut message, &self.issued_unix_ms.to_be_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32])
    }

    #[test]
    fn a_proof_is_for_one_question() {
        let (nonce, at) = (Nonce::from_bytes([3; 32]), "20.0.0.1:8080");
        let proof = SeedProof::sign(&key(1), &nonce, at);
        assert!(proof.answers(&nonce, at));
        assert!(!proof.answers(&Nonce::from_bytes([4; 32]), at));
        assert!(!proof.answers(&nonce, "20.0.0.1:8081"));
        assert!(!proof.answers(&nonce, "20.0.0.2:8080"));
        let other = SeedProof { public_key: PublicKey::from(&key(2)), ..proof };
        assert!(!other.answers(&nonce, at));
    }

    #[test]
    fn a_registration_is_signed_word_by_word() {
        let good = Registration {
            cluster: "default".to_owned(),
            audience: PublicKey::from(&key(9)),
            seed: "a@20.0.0.1:8080".parse().unwrap(),
            declared: None,
            public_key: PublicKey::from(&key(1)),
            token: TokenId::from_bytes([5; 10]),
            issued_unix_ms: 7,
        };
        let by_seed = good.sign(&key(1));
        let by_token = good.sign_by_token(&key(2));
        let token = PublicKey::from(&key(2));
        assert!(good.is_signed(&by_seed) && good.is_signed_by_token(&token, &by_token));
        // Neither signature does for the other, even under one key.
        assert!(!good.is_signed(&good.sign_by_token(&key(1))));
        assert!(!good.is_signed_by_token(&token, &good.sign(&key(2))));
        let changed = [
            Registration { cluster: "other".to_owned(), ..good.clone() },
            Registration { audience: PublicKey::from(&key(8)), ..good.clone() },
            Registration { seed: "b@20.0.0.1:8080".parse().unwrap(), ..good.clone() },
            Registration { seed: "a@20.0.0.2:8080".parse().unwrap(), ..good.clone() },
            Registration { declared: Some(NetworkType::Public), ..good.clone() },
            Registration { public_key: PublicKey::from(&key(3)), ..good.clone() },
            Registration { token: TokenId::from_bytes([6; 10]), ..good.clone() },
            Registration { issued_unix_ms: 8, ..good },
        ];
        for other in changed {
            assert!(!other.is_signed(&by_seed), "{other:?}");
            assert!(!other.is_signed_by_token(&token, &by_token), "{other:?}");
        }
    }
}
