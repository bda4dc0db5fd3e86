//! The few STUN facts that server and node must agree on.
//!
//! The codec is a crate of its own.

/// The realm of the server's credentials (RFC 8489, section 14.9).
pub const REALM: &str = "meetpoint";

/// PASSWORD-ALGORITHMS as the server sends it and wants it back, in order of preference: SHA-256 (2), then MD5 (1),
/// both without parameters (RFC 8489, sections 14.11 and 18.5).
pub const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// True for what RFC 7983 calls STUN: first two bits zero, the magic cookie, a whole header.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] < 4 && datagram[4..8] == [0x21, 0x12, 0xA4, 0x42]
}
