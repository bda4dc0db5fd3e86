//! How many members come from where.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv6 customer has at least a /64 (RFC 6177), so addresses in it are free to whoever has it.
const IPV6_PREFIX_BITS: u32 = 64;

/// Counts members by IPv4 address or IPv6 /64. As many entries as there are members at most.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    members: BTreeMap<IpAddr, usize>,
}

impl Sources {
    pub(crate) fn members(&self, source: IpAddr) -> usize {
        self.members.get(&principal(source)).copied().unwrap_or(0)
    }

    pub(crate) fn enter(&mut self, source: IpAddr) {
        // Whoever is on this machine has better ways to use it up.
        if !source.is_loopback() {
            *self.members.entry(principal(source)).or_default() += 1;
        }
    }

    pub(crate) fn leave(&mut self, source: IpAddr) {
        let source = principal(source);
        if let Some(count) = self.members.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&source);
            }
        }
    }
}

pub(crate) fn principal(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => {
            let host_bits = u128::BITS - IPV6_PREFIX_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> host_bits << host_bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_address_or_prefix() {
        let mut sources = Sources::default();
        let [a, b, other] =
            ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());
        for source in [a, b, IpAddr::from([20, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])] {
            sources.enter(source);
        }
        assert_eq!((sources.members(a), sources.members(other)), (2, 0));
        assert_eq!((sources.members([20, 0, 0, 1].into()), sources.members([20, 0, 0, 2].into())), (1, 0));
        assert_eq!(sources.members([127, 0, 0, 1].into()), 0);
        for source in [a, b, a, IpAddr::from([20, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])] {
            sources.leave(source);
        }
        assert!(sources.members.is_empty());
    }
}
