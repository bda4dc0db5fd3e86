//! How datagrams and control messages travel, and the rules about sending that hold in every case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use meetpoint_agent::Socket;
use meetpoint_proto::EffectiveNetwork;
use meetpoint_turn::{Listener, ListenerId, ListenerRole};

use super::gate::Gate;
use super::relays::is_relayed;
use super::world::{Arrival, ServerPlace, World};

/// The server's two public addresses.
pub(super) const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(20, 0, 0, 1), Ipv4Addr::new(20, 0, 0, 2)];
/// Where it is by IPv6, which nothing stands in the way of.
pub(super) const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 1);
pub(super) const STUN_PORTS: [u16; 2] = [3478, 3479];
/// The site that the server is on, if it is on one.
pub(super) const SERVER_SITE: usize = 0;
/// From the server to the middle of the internet, unless a world says otherwise.
pub(super) const SERVER_ONE_WAY: Duration = Duration::from_millis(1);
/// How uneven a site's own network is in uneven weather.
const LAN_JITTER: Duration = Duration::from_micros(300);
/// The first router of the internet on the way to the server.
const FIRST_ROUTER: [u8; 4] = [20, 255, 0, 1];
/// Routers of the internet between two sites, at the least.
const ROUTERS: usize = 3;
/// Within a site.
const LAN_ONE_WAY: Duration = Duration::from_micros(200);

impl World {
    /// A node sends a datagram: watched, then carried.
    pub(super) fn transmit(
        &mut self,
        index: usize,
        socket: Socket,
        to: SocketAddr,
        payload: Vec<u8>,
        ttl: Option<u8>,
    ) {
        self.watch(index, socket, to);
        if let Socket::Stream(stream) = socket {
            return self.send_frame(index, stream, payload);
        }
        let node = &mut self.nodes[index];
        let (port, count) = match socket {
            Socket::Main => (node.main_port, &mut node.sent[0]),
            Socket::Probe | Socket::Stream(_) => (node.probe.unwrap_or(0), &mut node.sent[1]),
            Socket::Extra(number) => (node.extras.get(&number).copied().unwrap_or(0), &mut node.sent[2]),
        };
        *count += 1;
        node.traffic.note_udp(0, &payload);
        let (site, from) = (node.site, SocketAddr::new(node.source_ip(to.ip()), port));
        if self.nodes.iter().any(|other| other.site == site && other.has_ip(to.ip())) {
            // Which of two networks of a site is quicker is chance, for each datagram anew.
            let delay = LAN_ONE_WAY + self.weather.jitter.min(LAN_JITTER) * (self.dice.below(5) as u32);
            return self.push(delay, Arrival::AtHost { site, from, to, payload });
        }
        if is_private(to.ip()) {
            return;
        }
        if to.is_ipv6() {
            if ttl.is_none_or(|ttl| usize::from(ttl) > ROUTERS) {
                self.cross(self.sites[site].one_way, from, to, payload);
            }
            return;
        }
        if self.sites[site].is_blocked {
            return;
        }
        let (now, dice) = (self.now, &mut self.dice);
        let depth = self.sites[site].gates.len();
        // Who forwards a packet with a time to live of one drops it.
        let passed = depth.min(ttl.map_or(depth, |ttl| usize::from(ttl.saturating_sub(1))));
        let mut gates = self.sites[site].gates.iter_mut().take(passed);
        let Some(seen) = gates.try_fold(from, |from, gate| gate.outbound(now, dice, from, to)) else {
            return;
        };
        if ttl.is_some_and(|ttl| usize::from(ttl) <= depth + ROUTERS) {
            return;
        }
        let outermost = self.sites[site].gates.last();
        if let Some(gate) = outermost.filter(|gate| gate.public() == Some(to.ip())) {
            if gate.has_hairpin() {
                self.push(LAN_ONE_WAY, Arrival::AtGate { site, from: seen, to, payload });
            }
            return;
        }
        self.cross(self.sites[site].one_way, seen, to, payload);
    }

    /// What the routers say of whom a node asks: each answers from its address on the near side.
    pub(super) fn trace_route(&mut self, index: usize, number: u32, to: SocketAddr) {
        let primary = SocketAddr::new(IpAddr::V4(SERVER[0]), STUN_PORTS[0]);
        if to != primary || self.nodes[index].effective != Some(EffectiveNetwork::Public) {
            self.violations.push(format!("node {index} asked for the way to {to} without cause"));
        }
        let IpAddr::V4(ip) = self.nodes[index].ip else { return };
        let [a, b, c, _] = ip.octets();
        let site = self.nodes[index].site;
        let carriers = (1..self.sites[site].gates.len()).map(|at| [100, 64, site as u8, at as u8]);
        let near = std::iter::once([a, b, c, 1]).chain(carriers);
        let hops = near.chain([FIRST_ROUTER]).map(|ip| Some(IpAddr::from(ip))).collect();
        self.push(self.sites[site].one_way * 2, Arrival::RouteTold { node: index, number, hops });
    }

    /// The rules about sending that hold in every case.
    fn watch(&mut self, index: usize, socket: Socket, to: SocketAddr) {
        let primaries =
            [IpAddr::V4(SERVER[0]), IpAddr::V6(SERVER_V6)].map(|ip| SocketAddr::new(ip, STUN_PORTS[0]));
        let is_server = to.ip() == SERVER_V6 || SERVER.iter().any(|ip| to.ip() == IpAddr::V4(*ip));
        let is_own = self.external(self.nodes[index].site) == Some(to.ip());
        let node = &self.nodes[index];
        let is_inside = match self.server_place {
            ServerPlace::Inside(_) => true,
            ServerPlace::Internet => false,
            // From the moment it is told, and before it was told anything.
            ServerPlace::Both(_) => node.effective != Some(EffectiveNetwork::Public),
        };
        let is_fine = match socket {
            Socket::Probe => (is_server || is_own) && node.probe.is_some() && !is_inside,
            Socket::Stream(_) => !is_inside,
            Socket::Main if is_relayed(to) => node.may_send.contains(&to) && !is_inside,
            Socket::Main if is_server => primaries.contains(&to) && !is_inside,
            Socket::Extra(number) if is_server || !node.extras.contains_key(&number) => false,
            Socket::Main | Socket::Extra(_) => {
                let is_ticketed = node.may_send.contains(&to) || node.may_guess(to);
                is_ticketed && (!is_inside || is_private(to.ip()))
            }
        };
        if !is_fine {
            self.violations.push(format!("node {index} sent to {to} from {socket:?} without cause"));
        }
    }

    /// Carries a datagram over the internet, or loses it.
    pub(super) fn cross(&mut self, first_leg: Duration, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let delay = first_leg + self.jitter();
        if self.dice.chance(self.weather.loss_permille) || self.is_apart(from, to) {
            return;
        }
        if let Some(listener) = listeners().iter().position(|listener| listener.addr == to) {
            let arrival = Arrival::AtServer { listener: listener as u8, from, payload };
            return self.push(delay + self.server_one_way, arrival);
        }
        if is_relayed(to) {
            return self.push(delay + self.server_one_way, Arrival::AtRelay { from, to, payload });
        }
        let IpAddr::V4(ip) = to.ip() else {
            let site = self.nodes.iter().find(|node| node.has_ip(to.ip())).map(|node| node.site);
            let Some(site) = site else { return };
            let delay = delay + self.sites[site].one_way;
            return self.push(delay, Arrival::AtHost { site, from, to, payload });
        };
        let site = usize::from(ip.octets()[2]).wrapping_sub(10);
        if let Some(one_way) = self.sites.get(site).filter(|site| !site.is_blocked).map(|site| site.one_way) {
            self.push(delay + one_way, Arrival::AtGate { site, from, to, payload });
        }
    }

    fn jitter(&mut self) -> Duration {
        let most = self.weather.jitter.as_micros() as u64;
        Duration::from_micros(self.dice.below(most + 1))
    }

    pub(super) fn control_one_way(&self, node: usize) -> Duration {
        match self.server_place {
            ServerPlace::Inside(_) => LAN_ONE_WAY,
            ServerPlace::Both(_) if self.nodes[node].site == SERVER_SITE => LAN_ONE_WAY,
            ServerPlace::Internet | ServerPlace::Both(_) => {
                self.sites[self.nodes[node].site].one_way + self.server_one_way
            }
        }
    }

    pub(super) fn control_delay(&mut self, node: usize) -> Duration {
        self.control_one_way(node) + self.jitter()
    }

    /// Where a node finds the server.
    pub(super) fn control_ip(&self, node: usize) -> IpAddr {
        let node = &self.nodes[node];
        match self.server_place {
            ServerPlace::Inside(ip) => ip,
            ServerPlace::Both(_) if node.ip.is_loopback() => node.ip,
            ServerPlace::Both(ip) if node.site == SERVER_SITE => ip,
            ServerPlace::Internet | ServerPlace::Both(_) => IpAddr::V4(SERVER[0]),
        }
    }

    /// Where the server sees a node's control connection come from.
    pub(super) fn control_source(&self, node: usize) -> IpAddr {
        let node = &self.nodes[node];
        let is_beside = match self.server_place {
            ServerPlace::Inside(_) => true,
            ServerPlace::Both(_) => node.site == SERVER_SITE,
            ServerPlace::Internet => false,
        };
        let external = self.sites[node.site].gates.last().and_then(Gate::public);
        external.filter(|_| !is_beside).unwrap_or(node.ip)
    }
}

pub(super) fn is_private(ip: IpAddr) -> bool {
    meetpoint_proto::addr::classify(ip) != meetpoint_proto::AddressClass::Public
}

pub(super) fn listeners() -> [Listener; 5] {
    use ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};
    let [first, second] = SERVER.map(IpAddr::V4);
    let places = [
        (PrimaryMain, first, STUN_PORTS[0]),
        (PrimaryAlt, first, STUN_PORTS[1]),
        (AlternateMain, second, STUN_PORTS[0]),
        (AlternateAlt, second, STUN_PORTS[1]),
        (PrimaryMain, IpAddr::V6(SERVER_V6), STUN_PORTS[0]),
    ];
    std::array::from_fn(|index| {
        let (role, ip, port) = places[index];
        Listener { id: ListenerId(index as u8), role, addr: SocketAddr::new(ip, port) }
    })
}
