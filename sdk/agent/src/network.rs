//! The machine's own addresses: which of them are offered, and which foreign ones may be probed.

use std::net::{IpAddr, SocketAddr};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::wire::MAX_HOST_CANDIDATES;

use crate::api::Interface;

/// Addresses beyond this are ignored: no machine that needs them all has candidates to spare.
const MAX_INTERFACES: usize = 64;

/// The machine's addresses and the main socket's ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    interfaces: Vec<Interface>,
    port_v4: Option<u16>,
    port_v6: Option<u16>,
}

impl Network {
    pub(crate) fn new(list: Vec<Interface>, port_v4: Option<u16>, port_v6: Option<u16>) -> Self {
        let mut interfaces: Vec<Interface> = list
            .into_iter()
            .map(|interface| Interface { ip: interface.ip.to_canonical(), ..interface })
            .filter(|interface| !is_link_local_v6(interface.ip))
            .take(MAX_INTERFACES)
            .collect();
        interfaces.sort_by_key(|interface| (interface.ip, interface.prefix_len));
        interfaces.dedup();
        Self { interfaces, port_v4, port_v6 }
    }

    pub(crate) fn has_family(&self, ipv6: bool) -> bool {
        self.port(ipv6).is_some()
    }

    /// The machine has an address of this family by which somebody else might be reached.
    pub(crate) fn has_uplink(&self, ipv6: bool) -> bool {
        let leads_out = |ip: IpAddr| ip.is_ipv6() == ipv6 && !ip.is_loopback() && !is_link_local_v6(ip);
        self.has_family(ipv6) && self.interfaces.iter().any(|interface| leads_out(interface.ip))
    }

    fn port(&self, ipv6: bool) -> Option<u16> {
        if ipv6 { self.port_v6 } else { self.port_v4 }
    }

    pub(crate) fn has_ip(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| interface.ip == ip)
    }

    /// It has a private IPv4 address, and no public one.
    pub(crate) fn is_behind_nat(&self) -> bool {
        let has = |class| {
            self.interfaces
                .iter()
                .any(|interface| interface.ip.is_ipv4() && addr::classify(interface.ip) == class)
        };
        has(AddressClass::Private) && !has(AddressClass::Public)
    }

    /// It has an address that the other has not.
    pub(crate) fn has_more_than(&self, other: &Self) -> bool {
        self.interfaces.iter().any(|interface| !other.has_ip(interface.ip))
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| in_prefix(ip, interface))
    }

    /// The addresses to offer: the one used towards the server first.
    pub(crate) fn candidates(&self, reach: &Reach) -> Vec<SocketAddr> {
        let fits = |ip: IpAddr| match addr::classify(ip) {
            AddressClass::Loopback => reach.loopback,
            AddressClass::Private => true,
            AddressClass::Public => !reach.private_only,
            AddressClass::Special => false,
        };
        let mut ips: Vec<IpAddr> =
            self.interfaces.iter().map(|interface| interface.ip).filter(|ip| fits(*ip)).collect();
        ips.dedup();
        ips.sort_by_key(|ip| (*ip != reach.local, ip.is_ipv6()));
        let with_port = |ip: IpAddr| self.port(ip.is_ipv6()).map(|port| SocketAddr::new(ip, port));
        ips.into_iter().filter_map(with_port).take(MAX_HOST_CANDIDATES).collect()
    }
}

/// Where this node may send checks: what its cluster and its own place allow.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// The cluster is effectively PRIVATE, or the node is sealed.
    pub(crate) private_only: bool,
    /// The node itself reaches the server over loopback.
    pub(crate) loopback: bool,
    /// The source address towards the server.
    pub(crate) local: IpAddr,
    /// The server's alternate addresses: the main socket never sends there, or a dial-back
    /// from there would prove nothing.
    pub(crate) alternates: Vec<IpAddr>,
}

impl Reach {
    /// May a candidate be probed? Whatever kind it is said to be: its address decides.
    pub(crate) fn may_probe(&self, network: &Network, to: SocketAddr) -> bool {
        let ip = to.ip();
        let is_own = network.has_ip(ip) && network.port(ip.is_ipv6()) == Some(to.port());
        if !network.has_family(ip.is_ipv6()) || is_own || !self.may_answer(to) {
            return false;
        }
        // In a PUBLIC cluster a private address is worth trying on the own link only: anywhere
        // else it is somebody else's machine.
        addr::classify(ip) != AddressClass::Private || self.private_only || network.is_on_link(ip)
    }

    /// May an authenticated check from there be answered, and probed back?
    pub(crate) fn may_answer(&self, source: SocketAddr) -> bool {
        let ip = source.ip();
        if source.port() == 0 || is_link_local_v6(ip) || self.alternates.contains(&ip) {
            return false;
        }
        match addr::classify(ip) {
            AddressClass::Loopback => self.loopback,
            AddressClass::Private => true,
            AddressClass::Public => !self.private_only,
            AddressClass::Special => false,
        }
    }
}

/// An IPv6 link-local address means nothing without a zone, which no message carries.
fn is_link_local_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn in_prefix(ip: IpAddr, interface: &Interface) -> bool {
    let len = u32::from(interface.prefix_len);
    match (ip, interface.ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= len.min(32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= len.min(128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let list = [
            ("127.0.0.1", 8),
            ("::1", 128),
            ("10.0.1.2", 24),
            ("192.168.7.9", 16),
            ("20.0.0.5", 24),
            ("fe80::1", 64),
            ("fd00::5", 64),
            ("2606:4700::5", 64),
        ];
        let list = list.map(|(ip, prefix_len)| Interface { ip: ip.parse().unwrap(), prefix_len });
        Network::new(list.to_vec(), Some(4000), Some(6000))
    }

    fn reach(private_only: bool, local: &str) -> Reach {
        let local: IpAddr = local.parse().unwrap();
        let alternates = vec!["20.0.0.2".parse().unwrap()];
        Reach { private_only, loopback: local.is_loopback(), local, alternates }
    }

    #[test]
    fn candidates_table() {
        let public = "20.0.0.5:4000 10.0.1.2:4000 192.168.7.9:4000 [2606:4700::5]:6000 [fd00::5]:6000";
        let private = "10.0.1.2:4000 192.168.7.9:4000 [fd00::5]:6000";
        let loopback = "127.0.0.1:4000 10.0.1.2:4000 192.168.7.9:4000 [::1]:6000 [fd00::5]:6000";
        let cases = [(false, "20.0.0.5", public), (true, "10.0.1.2", private), (true, "127.0.0.1", loopback)];
        for (private_only, local, expect) in cases {
            let found = network().candidates(&reach(private_only, local));
            let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
            let mut expect: Vec<String> = expect.split(' ').map(ToString::to_string).collect();
            assert_eq!(found[0], expect[0], "the source towards the server comes first");
            found.sort();
            expect.sort();
            assert_eq!(found, expect, "{private_only} {local}");
        }
    }

    /// Every machine has loopback addresses, and most a link-local one: a STUN server is asked by a family that leads
    /// out.
    #[test]
    fn uplink_table() {
        let cases = [
            ("10.0.1.2", true, false),
            ("2606:4700::5", false, true),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("fe80::1", false, false),
        ];
        for (ip, v4, v6) in cases {
            let list = vec![Interface { ip: ip.parse().unwrap(), prefix_len: 64 }];
            let network = Network::new(list, Some(4000), Some(6000));
            assert_eq!((network.has_uplink(false), network.has_uplink(true)), (v4, v6), "{ip}");
            let portless = Network { port_v4: None, port_v6: None, ..network };
            assert!(!portless.has_uplink(false) && !portless.has_uplink(true), "{ip}");
        }
    }

    #[test]
    fn probe_table() {
        let cases = [
            // In a PUBLIC cluster: public anywhere, private on-link only, loopback never.
            (false, "10.0.1.2", "20.0.9.9:1", true),
            (false, "10.0.1.2", "10.0.1.77:1", true),
            (false, "10.0.1.2", "10.0.2.77:1", false),
            (false, "10.0.1.2", "192.168.200.1:1", true),
            (false, "10.0.1.2", "100.64.0.1:1", false),
            (false, "10.0.1.2", "127.0.0.1:1", false),
            (false, "10.0.1.2", "[::ffff:127.0.0.1]:1", false),
            (false, "10.0.1.2", "[2606:4700::9]:1", true),
            (false, "10.0.1.2", "[fe80::9]:1", false),
            (false, "10.0.1.2", "[fd00::9]:1", true),
            (false, "10.0.1.2", "[fd01::9]:1", false),
            // In a PRIVATE one: private anywhere, public never.
            (true, "10.0.1.2", "20.0.9.9:1", false),
            (true, "10.0.1.2", "10.0.2.77:1", true),
            (true, "10.0.1.2", "127.0.0.1:1", false),
            (true, "127.0.0.1", "127.0.0.1:1", true),
            (true, "10.0.1.2", "[2606:4700::9]:1", false),
            // Never: special purpose, port 0, itself, the server's alternate address.
            (false, "10.0.1.2", "0.0.0.0:1", false),
            (false, "10.0.1.2", "224.0.0.1:1", false),
            (false, "10.0.1.2", "255.255.255.255:1", false),
            (false, "10.0.1.2", "203.0.113.1:1", false),
            (false, "10.0.1.2", "20.0.9.9:0", false),
            (false, "10.0.1.2", "10.0.1.2:4000", false),
            (false, "10.0.1.2", "10.0.1.2:4001", true),
            (false, "10.0.1.2", "20.0.0.2:1", false),
        ];
        for (private_only, local, to, expect) in cases {
            let found = reach(private_only, local).may_probe(&network(), to.parse().unwrap());
            assert_eq!(found, expect, "{private_only} {local} {to}");
        }
    }

    #[test]
    fn a_family_without_a_socket_is_not_probed() {
        let network = Network::new(Vec::new(), Some(4000), None);
        assert!(!reach(false, "10.0.1.2").may_probe(&network, "[2606:4700::9]:1".parse().unwrap()));
    }
}
