//! Whose events are counted together.

use std::net::IpAddr;

use meetpoint_proto::{NodeId, addr};

/// What counts as one source: an IPv4 address or an IPv6 /64, which is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match addr::canonical(ip) {
            IpAddr::V4(v4) => Self(u64::from(u32::from(v4))),
            // The upper half; it is never a bare IPv4 number, since those have 32 leading zeros.
            IpAddr::V6(v6) => Self((u128::from(v6) >> 64) as u64 | 1 << 63),
        }
    }
}

/// Whose events are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Somebody who has proven nothing.
    Source(Source),
    /// Whoever bears the admin token.
    Admin,
    /// Whoever bears the viewer token.
    Viewer,
    /// A node that has signed with its key.
    Node(NodeId),
    /// The digest of whatever was presented: the mistake that a test shows the price of.
    #[cfg(feature = "attack-tests")]
    Presented([u8; 32]),
}

impl Key {
    pub(crate) fn source(ip: IpAddr) -> Self {
        Self::Source(Source::of(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_table() {
        let check = |a: &str, b: &str, same: bool| {
            let of = |text: &str| Source::of(text.parse().unwrap());
            assert_eq!(of(a) == of(b), same, "{a} {b}");
        };
        check("20.0.0.1", "20.0.0.1", true);
        check("20.0.0.1", "20.0.0.2", false);
        check("20.0.0.1", "::ffff:20.0.0.1", true);
        check("2a00::1", "2a00::ffff:1:2:3", true);
        check("2a00:0:0:1::1", "2a00:0:0:2::1", false);
        check("20.0.0.1", "2a00::1400:1", false);
    }
}
