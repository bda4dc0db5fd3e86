//! The few STUN facts that server and node must agree on.
//!
//! Each has a codec of its own choice; here are only the numbers that are ours.

/// Carries a dial-back's nonce. Comprehension-optional (RFC 8489, section 14), in the part
/// of the registry that IANA has not assigned: other STUN agents ignore it.
pub const MEETPOINT_NONCE: u16 = 0xC0F1;

/// The realm of the server's credentials (RFC 8489, section 14.9).
pub const REALM: &str = "meetpoint";

/// True for what RFC 7983 calls STUN: first two bits zero, the magic cookie, a whole header.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] < 4 && datagram[4..8] == [0x21, 0x12, 0xA4, 0x42]
}
