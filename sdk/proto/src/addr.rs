//! What an address is worth: the IANA special-purpose registries.
//!
//! Addresses are canonicalised first ([`canonical`]), because every bypass of an address
//! rule in this field's history was the same address in another dress.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How the rules look at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressClass {
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// RFC 1918, carrier NAT (RFC 6598), unique local, link local.
    Private,
    /// Globally routable unicast.
    Public,
    /// Never a node's address: unspecified, multicast, documentation, reserved.
    Special,
}

impl AddressClass {
    /// How the tables see a host's address: one for special purposes is nobody's public address, and
    /// counts as private.
    #[must_use]
    pub const fn of_a_host(self) -> Self {
        match self {
            Self::Special => Self::Private,
            other => other,
        }
    }
}

/// The address an IPv6 dress stands for: IPv4-mapped, IPv4-compatible, NAT64
/// (RFC 6052, RFC 8215) and 6to4 (RFC 3056) become the IPv4 address inside.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => embedded_ipv4(v6).map_or(ip, IpAddr::V4),
    }
}

/// [`canonical`] for the address of an endpoint; the port stays.
#[must_use]
pub fn canonical_endpoint(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical(addr.ip()), addr.port())
}

/// `::ffff:a.b.c.d` becomes `a.b.c.d`, as a dual-stack socket reports IPv4 peers; every other
/// address stays. Unlike [`canonical`] the result still names the same endpoint on the wire.
#[must_use]
pub fn unmap(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, addr.port())),
        // As it is: a link-local address means nothing without its scope.
        IpAddr::V6(_) => addr,
    }
}

fn embedded_ipv4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let tail = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    let head = Ipv4Addr::from((u32::from(s[1]) << 16) | u32::from(s[2]));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(tail),
        [0x64, 0xff9b, 1, ..] => Some(tail),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => Some(tail),
        [0x2002, ..] => Some(head),
        _ => None,
    }
}

/// Special-purpose IPv4 blocks that are neither loopback nor private: (network, prefix length).
/// IANA IPv4 Special-Purpose Address Registry, and multicast (RFC 5771).
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// RFC 1918, RFC 6598 (carrier NAT), RFC 3927 (link local).
const PRIVATE_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Unique local (RFC 4193), link local (RFC 4291), and the deprecated site local (RFC 3879).
const PRIVATE_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// Special-purpose blocks inside 2000::/3; everything outside 2000::/3 is special anyway.
const SPECIAL_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn in_v4(ip: Ipv4Addr, blocks: &[(Ipv4Addr, u32)]) -> bool {
    blocks.iter().any(|&(network, len)| (u32::from(ip) ^ u32::from(network)) >> (32 - len) == 0)
}

fn in_v6(ip: Ipv6Addr, blocks: &[(Ipv6Addr, u32)]) -> bool {
    blocks.iter().any(|&(network, len)| (u128::from(ip) ^ u128::from(network)) >> (128 - len) == 0)
}

/// The class of an address, after [`canonical`].
#[must_use]
pub fn classify(ip: IpAddr) -> AddressClass {
    match canonical(ip) {
        IpAddr::V4(v4) if v4.is_loopback() => AddressClass::Loopback,
        IpAddr::V4(v4) if in_v4(v4, PRIVATE_V4) => AddressClass::Private,
        IpAddr::V4(v4) if in_v4(v4, SPECIAL_V4) => AddressClass::Special,
        IpAddr::V4(_) => AddressClass::Public,
        IpAddr::V6(v6) if v6.is_loopback() => AddressClass::Loopback,
        IpAddr::V6(v6) if in_v6(v6, PRIVATE_V6) => AddressClass::Private,
        IpAddr::V6(v6) if v6.segments()[0] & 0xe000 != 0x2000 || in_v6(v6, SPECIAL_V6) => {
            AddressClass::Special
        }
        IpAddr::V6(_) => AddressClass::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_table() {
        use AddressClass::{Loopback, Private, Public, Special};
        let cases = [
            ("127.0.0.1", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("10.1.2.3", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.168.1.10", Private),
            ("100.64.0.1", Private),
            ("100.128.0.1", Public),
            ("169.254.1.1", Private),
            ("::ffff:10.0.0.1", Private),
            ("::10.0.0.1", Private),
            ("2002:a00:1::1", Private),
            ("64:ff9b:1::a00:1", Private),
            ("fc00::1", Private),
            ("fe80::1", Private),
            ("0.0.0.0", Special),
            ("::", Special),
            ("192.0.2.1", Special),
            ("198.18.0.1", Special),
            ("198.51.100.7", Special),
            ("203.0.113.9", Special),
            ("224.0.0.1", Special),
            ("255.255.255.255", Special),
            ("2001:db8::1", Special),
            ("2001::1", Special),
            ("ff02::1", Special),
            ("100::1", Special),
            ("20.0.0.1", Public),
            ("8.8.8.8", Public),
            ("2606:4700::1111", Public),
            ("64:ff9b::808:808", Public),
        ];
        for (text, expect) in cases {
            assert_eq!(classify(text.parse().unwrap()), expect, "{text}");
        }
    }
}
