//! The datagram that two peers begin with, as far as a server carries it for them.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;

/// The longest that is carried. A first datagram of QUIC has 1,200 bytes (RFC 9000, section 14.1), and this leaves room
/// for a transport that fills its packets better; a second datagram would not fit.
pub const MAX_HANDSHAKE_START_BYTES: usize = 1_350;

/// The first datagram of a handshake between two nodes, which goes with their introduction: a round trip earlier than
/// by any way of their own. Nobody but the peer looks into it. On the wire it is unpadded base64url (RFC 4648, section
/// 5).
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakeStart(Box<[u8]>);

/// Why bytes are no start of a handshake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeStartError {
    /// More than one datagram.
    #[error("a handshake's first datagram has at most {MAX_HANDSHAKE_START_BYTES} bytes, not {len}")]
    TooLong {
        /// How many there are.
        len: usize,
    },
    /// There are none.
    #[error("a handshake's first datagram is empty")]
    Empty,
    /// Not the text form.
    #[error("a handshake's first datagram is written as base64url without padding")]
    Malformed,
}

impl HandshakeStart {
    /// A datagram's bytes.
    ///
    /// # Errors
    /// [`HandshakeStartError`] if there are none, or too many.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, HandshakeStartError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(HandshakeStartError::Empty),
            len if len > MAX_HANDSHAKE_START_BYTES => Err(HandshakeStartError::TooLong { len }),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, HandshakeStartError> {
        // Four characters are three bytes. What is too long is not decoded.
        let len = text.len() / 4 * 3 + text.len() % 4 * 3 / 4;
        if len > MAX_HANDSHAKE_START_BYTES {
            return Err(HandshakeStartError::TooLong { len });
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| HandshakeStartError::Malformed)?;
        Self::new(bytes)
    }
}

/// Its length; the rest is nobody's business.
impl fmt::Debug for HandshakeStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandshakeStart({} bytes)", self.0.len())
    }
}

impl serde::Serialize for HandshakeStart {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for HandshakeStart {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(de)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_datagram_is_carried() {
        use HandshakeStartError::{Empty, Malformed, TooLong};
        let text = |len: usize| BASE64URL_NOPAD.encode(&vec![7; len]);
        for (text, expect) in [
            (text(1), Ok(1)),
            (text(2), Ok(2)),
            (text(1_200), Ok(1_200)),
            (text(MAX_HANDSHAKE_START_BYTES), Ok(MAX_HANDSHAKE_START_BYTES)),
            (text(MAX_HANDSHAKE_START_BYTES + 1), Err(TooLong { len: MAX_HANDSHAKE_START_BYTES + 1 })),
            ("A".repeat(60_000), Err(TooLong { len: 45_000 })),
            (String::new(), Err(Empty)),
            ("A".to_owned(), Err(Malformed)),
            ("AA==".to_owned(), Err(Malformed)),
            ("A+/A".to_owned(), Err(Malformed)),
            ("é".to_owned(), Err(Malformed)),
        ] {
            assert_eq!(HandshakeStart::parse(&text).map(|start| start.as_bytes().len()), expect);
        }
    }
}
