//! The server that is played with, who plays, and which peers nobody may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use meetpoint_proto::SessionId;
use meetpoint_turn::{
    ByteRate, Config, Limits, Listener, ListenerId, ListenerRole, Rate, RelayConfig, RelayIp, RelayLimits,
    Secret, Secrets, StreamListener, Transport, node_user,
};

use crate::input::Input;

pub(super) const REALM: &str = "meetpoint";
pub(super) const NOW_UNIX_S: u64 = 1_800_000_000;
/// Few ports, so that they run out.
pub(super) const PORTS: RangeInclusive<u16> = 50_000..=50_007;
/// Something of this machine listens there: nobody is given it.
pub(super) const WITHHELD_PORT: u16 = 50_003;
pub(super) const RELAY_IP4: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 9);
pub(super) const RELAY_IP6: Ipv6Addr = Ipv6Addr::new(0x2a00, 9, 0, 0, 0, 0, 0, 9);
/// Behind a 1:1 NAT the relay's own address.
const INNER_IP4: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const OWN_IP: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 77);
pub(super) const SECRETS: [&str; 3] = ["the first secret", "the other secret", "the third secret"];

pub(super) const LISTENERS: [(ListenerRole, &str); 5] = [
    (ListenerRole::PrimaryMain, "20.0.0.1:3478"),
    (ListenerRole::PrimaryAlt, "20.0.0.1:3479"),
    (ListenerRole::AlternateMain, "20.0.0.2:3478"),
    (ListenerRole::AlternateAlt, "20.0.0.2:3479"),
    (ListenerRole::PrimaryMain, "[2a00::1]:3478"),
];

/// The listener of streams, behind those of datagrams.
pub(super) const STREAM: ListenerId = ListenerId(LISTENERS.len() as u8);

/// Clients, by the listener they use. Some share an address or a /64, one comes from a dual-stack socket, and the last
/// two by a stream.
pub(super) const CLIENTS: [(u8, &str); 9] = [
    (0, "20.0.1.1:40000"),
    (0, "20.0.1.1:40001"),
    (0, "20.0.1.2:40000"),
    (1, "20.0.1.2:40000"),
    (4, "[::ffff:20.0.1.3]:40000"),
    (4, "[2a00:1:2:3::4]:40000"),
    (4, "[2a00:1:2:3::5]:40000"),
    (STREAM.0, "20.0.1.4:40000"),
    (STREAM.0, "20.0.1.4:40001"),
];

/// Users; the last ones are nodes.
const USERS: usize = 5;
/// How many of them are nobody's nodes.
const OTHERS: usize = 3;

/// The nodes' sessions.
pub(super) fn node(number: usize) -> SessionId {
    SessionId::from_bytes([number as u8; 16])
}

/// The user with this number, counted around.
pub(super) fn user(number: usize) -> String {
    match number % USERS {
        number @ 0..OTHERS => format!("user{number}"),
        number => node_user(&node(number - OTHERS)),
    }
}

/// Peers: strangers, and then those of whom each rule is afraid.
pub(super) const PEERS: [&str; 17] = [
    "30.0.0.1:7000",
    "30.0.0.1:7001",
    "30.0.0.2:7000",
    "30.0.0.3:7000",
    "[2a00:30::1]:7000",
    "10.0.7.1:7000",
    "10.0.0.1:7000",
    "127.0.0.1:7000",
    "169.254.169.254:80",
    "[::ffff:10.0.0.1]:7000",
    "[::1]:7000",
    "[2002:a00:1::1]:7000",
    "[64:ff9b::7f00:1]:7000",
    "30.0.9.1:7000",
    "20.0.0.1:3478",
    "20.0.0.9:22",
    "20.0.0.77:7000",
];

/// What differs from play to play.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// Budgets that never end: then whatever is permitted has to be relayed.
    pub(super) is_generous: bool,
    /// The shell opens sockets at once.
    pub(super) is_prompt: bool,
    /// The shell takes routes as outputs.
    pub(super) is_copying: bool,
    /// The relay is behind a 1:1 NAT.
    pub(super) is_behind_nat: bool,
}

impl Setup {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        let flags = input.byte();
        Self {
            is_generous: flags & 1 == 0,
            is_prompt: flags & 2 == 0,
            is_copying: flags & 4 != 0,
            is_behind_nat: flags & 8 != 0,
        }
    }

    pub(super) fn bind_ip4(self) -> Ipv4Addr {
        if self.is_behind_nat { INNER_IP4 } else { RELAY_IP4 }
    }

    pub(super) fn limits(self) -> Limits {
        let relay = RelayLimits {
            allocations_per_user: 2,
            allocations_per_source: 2,
            allocations: 4,
            permissions: 3,
            channels: 3,
            rate: ByteRate::new(1000, 3000),
            ..RelayLimits::default()
        };
        let tight = Limits {
            source: Rate::new(20, 40),
            amplified: Rate::new(2, 4),
            redirected: Rate::new(1, 2),
            source_slots: 16,
            relay,
        };
        if !self.is_generous {
            return tight;
        }
        let rate = ByteRate::new(u64::MAX, u64::MAX);
        let relay =
            RelayLimits { rate, rate_per_user: rate, rate_per_source: rate, rate_total: rate, ..relay };
        Limits { source: Rate::unlimited(), amplified: Rate::unlimited(), relay, ..tight }
    }

    pub(super) fn config(self) -> Config {
        let listener = |(index, (role, text)): (usize, &(ListenerRole, &str))| Listener {
            id: ListenerId(index as u8),
            role: *role,
            addr: addr(text),
        };
        let block = |text: &str| vec![text.parse().expect("a block")];
        let relay = RelayConfig {
            ipv4: Some(RelayIp { bind: self.bind_ip4().into(), seen: RELAY_IP4.into() }),
            ipv6: Some(RelayIp { bind: RELAY_IP6.into(), seen: RELAY_IP6.into() }),
            ports: Some(PORTS),
            own_ips: vec![OWN_IP.into()],
            own_listeners: vec![SocketAddr::new(RELAY_IP4.into(), WITHHELD_PORT)],
            allow: block("10.0.7.0/24"),
            deny: block("30.0.9.0/24"),
            dont_fragment: false,
        };
        Config {
            listeners: LISTENERS.iter().enumerate().map(listener).collect(),
            realm: REALM.to_owned(),
            secrets: secrets(&[0, 1]),
            limits: self.limits(),
            relay: Some(relay),
            streams: vec![StreamListener {
                id: STREAM,
                transport: Transport::Tcp,
                addr: addr("20.0.0.1:3478"),
            }],
        }
    }
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn secrets(which: &[usize]) -> Secrets {
    let secret = |index: &usize| Secret::new(SECRETS[*index].as_bytes()).expect("long enough");
    Secrets::new(which.iter().map(secret).collect()).expect("a few")
}

/// True for the addresses that relayed addresses have.
pub(super) fn is_inside(peer: SocketAddr) -> bool {
    (peer.ip() == IpAddr::from(RELAY_IP4) || peer.ip() == IpAddr::from(RELAY_IP6))
        && PORTS.contains(&peer.port())
}

/// The IPv4 address that an IPv6 address is another form of.
fn inner(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let ipv4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0 | 0xffff) => Some(ipv4(g, h)),
        (0x64, 0xff9b, ..) => Some(ipv4(g, h)),
        (0x2002, ..) => Some(ipv4(b, c)),
        _ => None,
    }
}

/// True for peers that no datagram may leave for. Not the server's table, but the words of the standard library and a
/// few more.
pub(super) fn is_forbidden(peer: SocketAddr) -> bool {
    match peer.ip() {
        IpAddr::V4(ip) => is_forbidden_v4(ip),
        IpAddr::V6(ip) => {
            let is_odd = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
            let is_local = ip.is_unique_local() || ip.is_unicast_link_local();
            let is_own = ip == RELAY_IP6 || LISTENERS.iter().any(|(_, text)| addr(text).ip() == peer.ip());
            is_odd || is_local || is_own || inner(ip).is_some_and(is_forbidden_v4)
        }
    }
}

fn is_forbidden_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    if (a, b, c) == (10, 0, 7) {
        return false;
    }
    let is_local = ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xC0 == 64);
    let is_odd = a == 0 || a >= 224 || ip.is_documentation() || (a == 198 && b & 0xFE == 18);
    let is_own = [RELAY_IP4, OWN_IP, Ipv4Addr::new(20, 0, 0, 1), Ipv4Addr::new(20, 0, 0, 2)].contains(&ip);
    is_local || is_odd || is_own || (a, b, c) == (30, 0, 9)
}
