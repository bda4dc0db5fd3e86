//! Fixed-size identifiers and their text.
//!
//! All of them read and print as lower-case base32 without padding (RFC 4648): no case to
//! lose in a DNS name or a spoken message, no character that a shell or URL would touch.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use thiserror::Error;

/// The one text form of every identifier.
pub(crate) static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    spec.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    #[allow(clippy::expect_used, reason = "a constant specification")]
    spec.encoding().expect("the specification is valid")
});

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not base32 of the expected number of bytes.
    #[error("expected {expected} characters of lower-case base32 (a-z, 2-7)")]
    Malformed {
        /// Length of a correct text, in characters.
        expected: usize,
    },
    /// The right shape, but not a point of the curve.
    #[error("not a valid Ed25519 public key")]
    NotAKey,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $show:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// From raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                BASE32.encode_display(&self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if $show {
                    write!(f, concat!(stringify!($name), "({})"), self)
                } else {
                    f.write_str(concat!(stringify!($name), "(..)"))
                }
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let malformed = ParseIdError::Malformed { expected: ($len * 8usize).div_ceil(5) };
                let bytes = BASE32.decode(text.as_bytes()).map_err(|_| malformed.clone())?;
                Ok(Self(bytes.try_into().map_err(|_| malformed)?))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(de)?;
                text.parse().map_err(|error| {
                    serde::de::Error::custom(format_args!("{}: {error}", stringify!($name)))
                })
            }
        }
    };
}

byte_id!(
    /// A node: its Ed25519 public key.
    NodeId, 32, true
);
byte_id!(
    /// An Ed25519 public key that is not a node's (a cluster's, a token's).
    PublicKey, 32, true
);
byte_id!(
    /// An Ed25519 signature.
    Signature, 64, true
);
byte_id!(
    /// A random value used once in a join.
    Nonce, 32, true
);
byte_id!(
    /// One stay of a node at a server, from welcome to leave.
    SessionId, 16, true
);
byte_id!(
    /// One introduction: the single-use artefact both sides punch with.
    TicketId, 16, true
);
byte_id!(
    /// Names a join token without revealing it; derived from its secret.
    TokenId, 10, true
);
byte_id!(
    /// Names a cluster secret without revealing it; derived from it and the cluster's name.
    SecretId, 10, true
);
byte_id!(
    /// HMAC-SHA256 over a join's transcript.
    Mac, 32, true
);
byte_id!(
    /// Names a node's membership when it comes back. Worth nothing without the node's key. Never logged.
    SessionToken, 32, false
);
byte_id!(
    /// SHA-256 over the SubjectPublicKeyInfo of a server's TLS certificate.
    Fingerprint, 32, true
);
byte_id!(
    /// Keys the checks of one direction of one ticket. Never logged.
    TicketKey, 32, false
);
byte_id!(
    /// An X25519 public key, made for one introduction.
    AgreementKey, 32, true
);
byte_id!(
    /// A dial-back's payload: whoever can repeat it has received it.
    DialBackNonce, 16, false
);

impl NodeId {
    /// The verifying key behind the id.
    ///
    /// # Errors
    /// [`ParseIdError::NotAKey`] if the bytes are not a point of the curve.
    pub fn key(&self) -> Result<ed25519_dalek::VerifyingKey, ParseIdError> {
        verifying_key(&self.0)
    }
}

impl PublicKey {
    /// The verifying key behind the bytes.
    ///
    /// # Errors
    /// [`ParseIdError::NotAKey`] if the bytes are not a point of the curve.
    pub fn key(&self) -> Result<ed25519_dalek::VerifyingKey, ParseIdError> {
        verifying_key(&self.0)
    }
}

fn verifying_key(bytes: &[u8; 32]) -> Result<ed25519_dalek::VerifyingKey, ParseIdError> {
    ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| ParseIdError::NotAKey)
}

impl From<&ed25519_dalek::SigningKey> for NodeId {
    fn from(key: &ed25519_dalek::SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
}

impl From<&ed25519_dalek::SigningKey> for PublicKey {
    fn from(key: &ed25519_dalek::SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_folds_case() {
        let id = TicketId::from_bytes([0xA5; 16]);
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn wrong_texts_say_what_is_expected() {
        for text in ["", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaa=", "!!!!!!!!!!!!!!!!!!!!!!!!!!", "é"] {
            let error = text.parse::<TicketId>().unwrap_err();
            assert_eq!(error, ParseIdError::Malformed { expected: 26 }, "{text:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", TicketKey::from_bytes([7; 32])), "TicketKey(..)");
    }
}
