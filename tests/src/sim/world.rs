//! The simulated internet and the shells around the machines.
//!
//! It does what the real shells do and no more: carries bytes and messages, answers the broker's
//! question to the registry, and wakes each machine at its own deadline. It also watches: a node
//! that sends where it must not, or too much, is written down as a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Agent, BackoffConfig, Config, Input, Interface, Socket, StreamId, Way};
use meetpoint_broker::{Broker, ClusterConfig, ConnId, Limits, SessionView};
use meetpoint_proto::wire::{ClientMessage, ServerMessage};
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, JoinToken, NetworkType, NodeId};
use meetpoint_turn::credentials::MAX_SECRETS;
use meetpoint_turn::{Secret, Secrets, StunServer as StunMachine};

use super::dice::Dice;
use super::gate::{Gate, GateKind};
use super::handshake::{Handshake, is_handshake};
use super::meets::{Meets, Word};
pub use super::node::{Node, Traffic};
use super::relays::Relaying;
use super::shells::{CERTIFICATE_LIFE_S, MAX_TOKENS, cluster, join_token, stun_machine};
use super::wires::SERVER_ONE_WAY;

pub(super) const CONTROL_PORT: u16 = 8080;
const MAIN_PORT: u16 = 40_000;
pub(super) const FIRST_PROBE_PORT: u16 = 50_000;
/// Seconds since 1970 when the world begins.
pub(super) const BIRTH_UNIX_S: u64 = 1_790_000_000;
/// A case that takes more steps is a storm.
const MAX_STEPS: u64 = 200_000;

/// Where the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPlace {
    /// On two public addresses; the cluster is effectively PUBLIC.
    Internet,
    /// On this address of site 0; the cluster is effectively PRIVATE.
    Inside(IpAddr),
    /// On both, and on its own machine's loopback; see [`World::set_cluster`].
    Both(IpAddr),
}

/// What makes one node differ from another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Claims {
    /// What it says of itself.
    pub declared: Option<NetworkType>,
    /// The address that its user names.
    pub node_addr: Option<SocketAddr>,
}

/// The ways of the network.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// From each site to the middle of the internet.
    pub one_way: [Duration; 2],
    /// Added to each packet, evenly from nothing up to this: it also reorders.
    pub jitter: Duration,
    /// UDP packets lost on the internet.
    pub loss_permille: u64,
    /// Control messages travel as their JSON.
    pub json: bool,
}

/// What arrives where.
#[derive(Debug)]
pub(super) enum Arrival {
    AtGate { site: usize, from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    AtHost { site: usize, from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    AtServer { listener: u8, from: SocketAddr, payload: Vec<u8> },
    ControlAccepted { conn: ConnId, source: SocketAddr },
    ControlOpened { node: usize, conn: ConnId },
    ToServer { conn: ConnId, message: ClientMessage },
    ToNode { conn: ConnId, message: ServerMessage },
    ClosedAtServer { conn: ConnId },
    ClosedAtNode { conn: ConnId },
    ProbeOpened { node: usize },
    RouteTold { node: usize, number: u32, hops: Vec<Option<IpAddr>> },
    SocketsOpened { node: usize, first: u16, count: u16 },
    AtRelay { from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    StreamOpened { node: usize, stream: StreamId },
    Frame { node: usize, stream: StreamId, payload: Vec<u8> },
    Word(Word),
}

#[derive(Debug)]
pub(super) struct Site {
    /// What is passed on the way out, in this order.
    pub(super) gates: Vec<Gate>,
    pub(super) one_way: Duration,
    /// UDP by IPv4 does not pass.
    pub(super) is_blocked: bool,
}

/// A control connection in flight: each direction keeps its order.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: usize,
    pub(super) to_server: Duration,
    pub(super) to_node: Duration,
}

/// A datagram that reached a node, or `None`, the server: whence, and what.
pub type Tapped = (Option<usize>, SocketAddr, Vec<u8>);

/// What stands for data: no STUN, and not for the agent.
pub(super) const DATA: &[u8] = b"\x40 data";

/// See the module.
pub struct World {
    pub(super) start: Instant,
    pub(super) now: Duration,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    pub(super) server_place: ServerPlace,
    /// From the server to the middle of the internet.
    pub server_one_way: Duration,
    pub(super) broker: Broker,
    pub(super) stun: StunMachine,
    pub(super) secrets: Secrets,
    rotations: u32,
    /// The one that admits now.
    pub(super) token: JoinToken,
    pub(super) token_number: usize,
    pub(super) cluster: ClusterConfig,
    pub(super) sites: Vec<Site>,
    /// The nodes.
    pub nodes: Vec<Node>,
    pub(super) conns: BTreeMap<ConnId, Connection>,
    pub(super) next_conn: u64,
    queue: BTreeMap<(Duration, u64), Arrival>,
    sequence: u64,
    steps: u64,
    trace: u64,
    /// What must never happen, and did.
    pub violations: Vec<String>,
    pub(super) relaying: Relaying,
    relays: bool,
    /// How long a membership lasts from when it was made or renewed, in seconds.
    pub membership_s: u64,
    /// Nodes that introduce others.
    pub meets: Meets,
    /// Nodes that connect begin with QUIC's handshake.
    pub speaks_quic: bool,
    /// Who listens on the line hears here what arrives.
    pub tap: Option<Vec<Tapped>>,
}

fn secret(number: u32) -> Secret {
    Secret::new(format!("the simulator's secret {number}").as_bytes()).expect("long enough")
}

impl World {
    /// A world with a server and no nodes.
    #[must_use]
    pub fn new(seed: u64, server_place: ServerPlace, weather: Weather) -> Self {
        Self::build(seed, server_place, weather, false)
    }

    /// The same, with a server that relays, by datagrams and by TCP.
    #[must_use]
    pub fn with_relay(seed: u64, server_place: ServerPlace, weather: Weather) -> Self {
        Self::build(seed, server_place, weather, true)
    }

    fn build(seed: u64, server_place: ServerPlace, weather: Weather, relays: bool) -> Self {
        let mut dice = Dice::new(seed);
        let secrets = Secrets::new(vec![secret(0)]).expect("one secret");
        let mut world = Self {
            start: Instant::now(),
            now: Duration::ZERO,
            weather,
            server_place,
            server_one_way: SERVER_ONE_WAY,
            broker: Broker::new(Limits::default(), dice.seed()),
            stun: stun_machine(secrets.clone(), dice.seed(), relays),
            secrets,
            rotations: 0,
            token: join_token(0),
            token_number: 0,
            cluster: cluster(server_place),
            dice,
            sites: Vec::new(),
            nodes: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            violations: Vec::new(),
            relaying: Relaying::default(),
            relays,
            membership_s: CERTIFICATE_LIFE_S,
            meets: Meets::default(),
            speaks_quic: false,
            tap: None,
        };
        let unix_ms = BIRTH_UNIX_S * 1000;
        let at = world.start;
        world.broker.handle(at, meetpoint_broker::Input::Wall { unix_ms });
        world.stun.handle(at, meetpoint_turn::Input::Wall { unix_ms });
        world.tell_relay();
        let cluster = world.cluster.clone();
        world.broker.handle(at, meetpoint_broker::Input::Cluster(cluster));
        world
    }

    /// The server serves its cluster anew, to whose members it offers the relay as that is now.
    pub(super) fn offer_relay_anew(&mut self) {
        let (at, cluster) = (self.start + self.now, self.cluster.clone());
        let gone = meetpoint_broker::Input::ClusterGone { cluster: cluster.name.clone() };
        self.broker.handle(at, gone);
        self.tell_relay();
        self.broker.handle(at, meetpoint_broker::Input::Cluster(cluster));
    }

    fn tell_relay(&mut self) {
        if self.relays {
            let input = meetpoint_broker::Input::Relay(self.relay_access());
            self.broker.handle(self.start + self.now, input);
        }
    }

    /// The cluster becomes this.
    pub fn set_cluster(&mut self, kind: ClusterNetwork, effective: EffectiveNetwork, admit_relayed: bool) {
        self.cluster = ClusterConfig { kind, effective, admit_relayed, ..self.cluster.clone() };
        let input = meetpoint_broker::Input::Cluster(self.cluster.clone());
        self.broker.handle(self.start + self.now, input);
        self.drain_broker();
    }

    /// What the cluster amounts to.
    #[must_use]
    pub fn effective(&self) -> EffectiveNetwork {
        self.cluster.effective
    }

    /// Where the server would see a node's next control connection come from.
    #[must_use]
    pub fn source(&self, node: usize) -> IpAddr {
        self.control_source(node)
    }

    /// A member, as the server sees it.
    #[must_use]
    pub fn session(&self, node: usize) -> Option<SessionView> {
        self.broker.session_of(&self.cluster.name, &self.nodes[node].id)
    }

    /// The server starts anew: it knows of no session, and all its connections break.
    pub fn restart_server(&mut self) {
        self.broker = Broker::new(Limits::default(), self.dice.seed());
        let at = self.start + self.now;
        let unix_ms = (BIRTH_UNIX_S + self.now.as_secs()) * 1000;
        self.broker.handle(at, meetpoint_broker::Input::Wall { unix_ms });
        self.tell_relay();
        self.broker.handle(at, meetpoint_broker::Input::Cluster(self.cluster.clone()));
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.push(Duration::ZERO, Arrival::ClosedAtNode { conn });
        }
    }

    /// A new join token; none of those before admits any more. False if there have been too many.
    pub fn rotate_token(&mut self) -> bool {
        if self.token_number + 1 == MAX_TOKENS {
            return false;
        }
        self.token_number += 1;
        self.token = join_token(self.token_number);
        true
    }

    /// Credentials are minted with another secret from now on; those of the ones before still hold.
    pub fn rotate_secret(&mut self) {
        if self.rotations as usize + 1 == MAX_SECRETS {
            return;
        }
        self.rotations += 1;
        let all = (0..=self.rotations).rev().map(secret).collect();
        self.secrets = Secrets::new(all).expect("few secrets");
        let input = meetpoint_turn::Input::Secrets(self.secrets.clone());
        self.stun.handle(self.start + self.now, input);
    }

    /// UDP by IPv4 passes a site, or not.
    pub fn block_udp(&mut self, site: usize, is_blocked: bool) {
        self.sites[site].is_blocked = is_blocked;
    }

    /// A site's gates remember mappings for so long from now on.
    pub fn remember_for(&mut self, site: usize, lifetime: Duration) {
        self.sites[site].gates.iter_mut().for_each(|gate| gate.remember_for(lifetime));
    }

    /// Another gate of this kind takes the place of a site's only one, at the same address.
    pub fn replace_gate(&mut self, site: usize, kind: GateKind) {
        let Some(public) = self.external(site) else { return };
        let next_port = 1024 + self.dice.below(60_000) as u16;
        self.sites[site].gates = vec![Gate::new(kind, public, next_port)];
    }

    /// A site's gates forget all mappings, and give other ports from now on.
    pub fn rebind_gate(&mut self, site: usize) {
        self.sites[site].gates.iter_mut().for_each(Gate::rebind);
    }

    /// A site gets another external address, number `host` of its network.
    pub fn move_gate(&mut self, site: usize, host: u8) {
        if let Some(gate) = self.sites[site].gates.last_mut() {
            gate.move_to([20, 0, 10 + site as u8, host].into());
        }
    }

    /// A site's external address, if it has a NAT.
    #[must_use]
    pub fn external(&self, site: usize) -> Option<IpAddr> {
        self.sites[site].gates.last().and_then(Gate::public)
    }

    /// A node goes to another network, and its control connection breaks.
    pub fn move_node(&mut self, node: usize, site: usize, ip: IpAddr) {
        self.cut_control(node);
        self.nodes[node].site = site;
        self.nodes[node].ip = ip;
        self.tell_addresses(node, &[(ip, 24)]);
    }

    /// Adds a site; gives its number.
    pub fn add_site(&mut self, gate: Option<GateKind>) -> usize {
        self.add_site_behind(gate.as_slice())
    }

    /// The same, with several gates in a row, the outermost last.
    pub fn add_site_behind(&mut self, kinds: &[GateKind]) -> usize {
        let site = self.sites.len();
        let next_port = 1024 + self.dice.below(60_000) as u16;
        let gate = |(at, kind): (usize, &GateKind)| {
            // Between a home and its carrier addresses are the carrier's own (RFC 6598).
            let carriers = IpAddr::from([100, 64, site as u8, 2 + at as u8]);
            let is_last = at + 1 == kinds.len();
            let public = if is_last { IpAddr::from([20, 0, 10 + site as u8, 1]) } else { carriers };
            Gate::new(*kind, public, next_port)
        };
        let gates = kinds.iter().enumerate().map(gate).collect();
        self.sites.push(Site { gates, one_way: self.weather.one_way[site % 2], is_blocked: false });
        site
    }

    /// Adds a node to a site and starts it.
    pub fn add_node(&mut self, site: usize, ip: IpAddr, prefix_len: u8, key: SigningKey) -> usize {
        self.add_node_as(site, ip, prefix_len, key, Claims::default())
    }

    /// The same, with a node that says something of itself.
    pub fn add_node_as(
        &mut self,
        site: usize,
        ip: IpAddr,
        prefix_len: u8,
        key: SigningKey,
        claims: Claims,
    ) -> usize {
        let node = self.nodes.len();
        let id = NodeId::from(&key);
        let name = format!("node-{node}");
        let config = Config {
            key,
            cluster: "default".parse().expect("a name"),
            name: name.parse().expect("a name"),
            token: Some(self.token.clone()),
            secrets: Vec::new(),
            membership: None,
            profile: Default::default(),
            declared: claims.declared,
            node_addr: claims.node_addr,
            expect: None,
            ephemeral: true,
            version: "sim".to_owned(),
            backoff: BackoffConfig::default(),
        };
        let agent = Agent::new(config, self.dice.seed());
        // On one machine two sockets have two ports.
        let main_port = MAIN_PORT + if ip.is_loopback() { node as u16 } else { 0 };
        self.nodes.push(Node {
            agent,
            id,
            name,
            class: None,
            relayed: false,
            effective: None,
            classes: Vec::new(),
            behavior: None,
            paths: BTreeMap::new(),
            heard: BTreeSet::new(),
            channels: BTreeMap::new(),
            ended: BTreeMap::new(),
            over: None,
            sent: [0; 3],
            traffic: Traffic::default(),
            site,
            ip,
            second_ip: None,
            has_data: false,
            handshake: Handshake::default(),
            main_port,
            probe: None,
            extras: BTreeMap::new(),
            next_probe: FIRST_PROBE_PORT + 100 * node as u16,
            conn: None,
            may_send: BTreeSet::new(),
            windows: Vec::new(),
        });
        self.tell_addresses(node, &[(ip, prefix_len)]);
        node
    }

    /// Puts a node on a second network of its site, by IPv4 or IPv6.
    pub fn join_second_network(&mut self, node: usize, second_ip: IpAddr) {
        self.nodes[node].second_ip = Some(second_ip);
        let ip = self.nodes[node].ip;
        self.tell_addresses(node, &[(ip, 24), (second_ip, if second_ip.is_ipv6() { 64 } else { 24 })]);
    }

    fn tell_addresses(&mut self, node: usize, addresses: &[(IpAddr, u8)]) {
        let loopback = (IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
        let all = std::iter::once(&loopback).chain(addresses);
        let list: Vec<Interface> = all.map(|&(ip, prefix_len)| Interface { ip, prefix_len }).collect();
        let port = self.nodes[node].main_port;
        let port_v6 = list.iter().any(|interface| interface.ip.is_ipv6()).then_some(port);
        self.input(node, Input::Interfaces { list, port_v4: Some(port), port_v6 });
    }

    /// A node sends data by its path, as QUIC would.
    pub fn send_data(&mut self, node: usize) {
        let Some(way) = self.nodes[node].paths.values().next().map(|path| path.way) else { return };
        self.send_by(node, way, DATA);
    }

    /// How many sockets a node has besides its main one and the one for tests.
    #[must_use]
    pub fn extra_sockets(&self, node: usize) -> usize {
        self.nodes[node].extras.len()
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A hash over all that happened.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Gives a node an input and does what it says.
    pub fn input(&mut self, node: usize, input: Input<'_>) {
        let at = self.start + self.now;
        self.nodes[node].agent.handle(at, input);
        self.drain_node(node);
    }

    /// Runs until the condition holds. False if the time ran out first.
    pub fn run_until(&mut self, end: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if self.steps >= MAX_STEPS {
                self.violations.push("an endless storm".to_owned());
                return false;
            }
            let Some(next) = self.next_at().filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            self.steps += 1;
            self.step();
        }
    }

    /// Cuts a node's control connection, as a proxy or a router that restarts does.
    pub fn cut_control(&mut self, node: usize) {
        if let Some(conn) = self.nodes[node].conn {
            self.push(Duration::ZERO, Arrival::ClosedAtServer { conn });
            self.push(Duration::ZERO, Arrival::ClosedAtNode { conn });
        }
    }

    /// Somebody gives a node, or the server, a datagram under any source.
    pub fn inject(&mut self, node: Option<usize>, source: SocketAddr, payload: &[u8]) {
        match node {
            Some(node) => self.input(node, Input::Datagram { socket: Socket::Main, source, payload }),
            None => {
                let arrival = Arrival::AtServer { listener: 0, from: source, payload: payload.to_vec() };
                self.push(Duration::ZERO, arrival);
            }
        }
    }

    /// How many datagrams the server's relay has refused, since nobody has an allocation where they came from.
    #[must_use]
    pub fn without_allocation(&self) -> u64 {
        self.stun.counters().relay.dropped.no_allocation
    }

    /// A site's gates restart: they forget all their mappings.
    pub fn restart_gate(&mut self, site: usize) {
        self.sites[site].gates.iter_mut().for_each(Gate::restart);
    }

    fn next_at(&self) -> Option<Duration> {
        let deadlines = self.nodes.iter().map(|node| node.agent.poll_timeout());
        let introducers = self.meets.machines.values().map(meetpoint_broker::Introducer::poll_timeout);
        let deadlines =
            deadlines.chain(introducers).chain([self.broker.poll_timeout(), self.stun.poll_timeout()]);
        let deadline = deadlines.flatten().min().map(|at| at.saturating_duration_since(self.start));
        let arrival = self.queue.first_key_value().map(|((at, _), _)| *at);
        [deadline, arrival].into_iter().flatten().min()
    }

    fn step(&mut self) {
        let at = self.start + self.now;
        let arrival = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now);
        if let Some(arrival) = arrival.map(|entry| entry.remove()) {
            return self.arrive(arrival);
        }
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= at);
        if is_due(self.broker.poll_timeout()) {
            self.broker.handle_timeout(at);
            self.drain_broker();
        }
        if is_due(self.stun.poll_timeout()) {
            self.stun.handle_timeout(at);
            self.drain_stun();
        }
        self.introducers_due(at);
        for node in 0..self.nodes.len() {
            if is_due(self.nodes[node].agent.poll_timeout()) {
                self.nodes[node].agent.handle_timeout(at);
                self.drain_node(node);
            }
        }
    }

    pub(super) fn quic_packet(&mut self, index: usize, way: Way, payload: &[u8]) {
        if is_handshake(payload) {
            return self.quic(index, way, payload);
        }
        let node = &mut self.nodes[index];
        node.has_data |= payload == DATA && node.hears(way);
    }

    pub(super) fn push(&mut self, delay: Duration, arrival: Arrival) {
        self.push_at(self.now + delay, arrival);
    }

    pub(super) fn push_at(&mut self, at: Duration, arrival: Arrival) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), arrival);
    }

    /// FNV-1a over when, where, whence and what.
    pub(super) fn note(&mut self, place: u64, from: SocketAddr, payload: &[u8]) {
        let mut hash = self.trace;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        let when = self.now.as_nanos() as u64;
        for number in [when, place, u64::from(from.port())] {
            number.to_le_bytes().into_iter().for_each(&mut eat);
        }
        payload.iter().copied().for_each(&mut eat);
        self.trace = hash;
    }
}
