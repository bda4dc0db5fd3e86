//! Attribute numbers (IANA "STUN Attributes"), each with the section that defines it.
//!
//! Numbers below `0x8000` are comprehension-required: a request that carries one this server
//! does not know is answered with 420 (RFC 8489, section 14).

/// RFC 8489, section 14.1. Sent next to XOR-MAPPED-ADDRESS because RFC 5780, section 6.1 demands both.
pub const MAPPED_ADDRESS: u16 = 0x0001;
/// RFC 5780, section 7.2.
pub const CHANGE_REQUEST: u16 = 0x0003;
/// RFC 8489, section 14.3.
pub const USERNAME: u16 = 0x0006;
/// RFC 8489, section 14.5.
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
/// RFC 8489, section 14.8.
pub const ERROR_CODE: u16 = 0x0009;
/// RFC 8489, section 14.13.
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
/// RFC 8489, section 14.9.
pub const REALM: u16 = 0x0014;
/// RFC 8489, section 14.10.
pub const NONCE: u16 = 0x0015;
/// RFC 8656, section 18.1.
pub const CHANNEL_NUMBER: u16 = 0x000C;
/// RFC 8656, section 18.2.
pub const LIFETIME: u16 = 0x000D;
/// RFC 8656, section 18.3.
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// RFC 8656, section 18.4.
pub const DATA: u16 = 0x0013;
/// RFC 8656, section 18.5.
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// RFC 8656, section 18.6.
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
/// RFC 8656, section 18.7.
pub const EVEN_PORT: u16 = 0x0018;
/// RFC 8656, section 18.8.
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
/// RFC 8656, section 18.9.
pub const DONT_FRAGMENT: u16 = 0x001A;
/// RFC 8656, section 18.10.
pub const RESERVATION_TOKEN: u16 = 0x0022;
/// RFC 8656, section 18.11.
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
/// RFC 8656, section 18.12.
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
/// RFC 8656, section 18.13.
pub const ICMP: u16 = 0x8004;
/// RFC 8489, section 14.6.
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
/// RFC 8489, section 14.12.
pub const PASSWORD_ALGORITHM: u16 = 0x001D;
/// RFC 8489, section 14.4.
pub const USERHASH: u16 = 0x001E;
/// RFC 8489, section 14.2.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5780, section 7.6.
pub const PADDING: u16 = 0x0026;
/// RFC 5780, section 7.5.
pub const RESPONSE_PORT: u16 = 0x0027;
/// RFC 8489, section 14.11.
pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
/// RFC 8489, section 14.7.
pub const FINGERPRINT: u16 = 0x8028;
/// RFC 8489, section 14.15.
pub const ALTERNATE_SERVER: u16 = 0x8023;
/// RFC 8016, section 3.3.
pub const MOBILITY_TICKET: u16 = 0x8030;
/// RFC 5780, section 7.3.
pub const RESPONSE_ORIGIN: u16 = 0x802B;
/// RFC 5780, section 7.4.
pub const OTHER_ADDRESS: u16 = 0x802C;
/// Carries the nonce of a dial-back of ours. Comprehension-optional (RFC 8489, section 14), in the part of the
/// registry that IANA has not assigned: other STUN agents ignore it.
pub const MEETPOINT_NONCE: u16 = 0xC0F1;
/// Empty, in a check or in the answer to one: its sender knows a peer by the short form of USERNAME too. Of the same
/// part of the registry.
pub const MEETPOINT_SHORT_NAMES: u16 = 0xC0F2;

/// True for numbers a receiver has to understand (RFC 8489, section 14).
#[must_use]
pub const fn is_comprehension_required(kind: u16) -> bool {
    kind < 0x8000
}

/// True for the comprehension-required attributes this server understands in a Binding request.
/// Those that only make sense in responses are known too: RFC 8489, section 6.3 asks to ignore
/// known but unexpected attributes.
#[must_use]
pub const fn is_known_in_binding(kind: u16) -> bool {
    matches!(
        kind,
        MAPPED_ADDRESS
            | CHANGE_REQUEST
            | USERNAME
            | MESSAGE_INTEGRITY
            | ERROR_CODE
            | UNKNOWN_ATTRIBUTES
            | REALM
            | NONCE
            | MESSAGE_INTEGRITY_SHA256
            | PASSWORD_ALGORITHM
            | USERHASH
            | XOR_MAPPED_ADDRESS
            | PADDING
            | RESPONSE_PORT
    )
}

/// True for the attributes that send an answer elsewhere than back. On a stream there is no
/// elsewhere, and a server that can't do it answers 420 (RFC 5780, section 6.1).
#[must_use]
pub const fn is_redirection(kind: u16) -> bool {
    matches!(kind, CHANGE_REQUEST | RESPONSE_PORT)
}

/// True for the comprehension-required attributes this server understands in a message about
/// relaying. DONT-FRAGMENT is one of them only where it can be done (RFC 8656, section 7.2).
#[must_use]
pub const fn is_known_in_turn(kind: u16, can_refuse_fragments: bool) -> bool {
    match kind {
        CHANNEL_NUMBER
        | LIFETIME
        | XOR_PEER_ADDRESS
        | DATA
        | XOR_RELAYED_ADDRESS
        | REQUESTED_ADDRESS_FAMILY
        | EVEN_PORT
        | REQUESTED_TRANSPORT
        | RESERVATION_TOKEN => true,
        DONT_FRAGMENT => can_refuse_fragments,
        _ => is_known_in_binding(kind),
    }
}
