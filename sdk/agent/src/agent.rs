//! The machine itself: its four verbs, and who is told what. Meeting peers is in [`crate::meet`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::wire::{
    ClientMessage, MAX_TEXT_LEN, PeerInfo, Refusal, Renewal, ServerMessage, StunAccess, StunServer,
};
use meetpoint_proto::{
    ClusterNetwork, Code, EffectiveNetwork, NatBehavior, NodeId, NodeName, TicketId, addr,
};

use crate::api::{Config, Event, Input, Output, ServerRank, Socket, Way};
use crate::backoff::Backoff;
use crate::checks::Outstanding;
use crate::control::{Control, Membership, Step};
use crate::counters::Counters;
use crate::discover::Discovery;
use crate::env::Env;
use crate::guessing::Extras;
use crate::lifetime::Lifetime;
use crate::link::Link;
use crate::network::{Network, Reach};
use crate::observe::Observer;
use crate::pace::Pacer;
use crate::punch::Punch;
use crate::relay::Relays;
use crate::rendezvous::Rendezvous;
use crate::requests::Requests;
use crate::roam::Doubt;
use crate::stun::{Class, Datagram, Method};
use meetpoint_proto::Timers;

/// Dial-backs passed on within [`DIAL_BACK_WINDOW`]. A server sends three copies of one at a time;
/// whoever else writes such datagrams must not make the node talk.
const MAX_DIAL_BACKS: u32 = 8;
const DIAL_BACK_WINDOW: Duration = Duration::from_secs(10);
/// Announced peers whose arrival is noticed; a server announces 100.
const MAX_PRESENT: usize = 1_024;
/// A discovery that packets were lost to, or that nothing answered, is made again so much later, and after twice as long the next
/// time; so often in all.
const REDISCOVERY: Duration = Duration::from_secs(10);
const MAX_DISCOVERIES: u32 = 4;
/// STUN servers taken of a welcome: one an address family is what the protocol has.
const MAX_STUN_SERVERS: usize = 2;

/// What the agent's clock is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Control,
    /// By family: IPv6 or not.
    Observe(bool),
    Discover,
    Lifetime,
    Ticket(TicketId),
    Link(NodeId),
    Request(u32),
    Repair(NodeId),
    Doubt(NodeId),
    Extras,
    Upgrade(NodeId),
    Relay,
    Introducers,
}

/// What the server has said of a peer that is here.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) name: NodeName,
    /// It can only be relayed.
    pub(crate) relayed: bool,
}

/// A node's decisions. See the [crate] for the model.
pub struct Agent {
    pub(crate) env: Env,
    pub(crate) id: NodeId,
    pub(crate) control: Control,
    pub(crate) network: Network,
    /// Of the newest welcome; kept while the connection is lost, since tickets and links go on.
    pub(crate) membership: Option<Membership>,
    pub(crate) reach: Option<Reach>,
    pub(crate) observers: BTreeMap<bool, Observer>,
    pub(crate) discovery: Option<Discovery>,
    /// What the last complete discovery found of the network that the node is in.
    pub(crate) behavior: Option<NatBehavior>,
    pub(crate) lifetime: Option<Lifetime>,
    /// Discoveries started since the network was last another one.
    discoveries: u32,
    /// What the server was told last: the node's own addresses, the relayed, and the mapped ones.
    told_candidates: Option<[Vec<SocketAddr>; 3]>,
    pub(crate) mapped: Vec<SocketAddr>,
    pub(crate) wants_mapping: bool,
    dial_backs: Option<(Instant, u32)>,
    dial_back_seen: VecDeque<DialBackNonce>,
    pub(crate) requests: Requests,
    /// Peers that the server has announced.
    pub(crate) present: BTreeMap<NodeId, Announced>,
    pub(crate) links: BTreeMap<NodeId, Link>,
    pub(crate) punches: BTreeMap<TicketId, Punch>,
    pub(crate) used_tickets: BTreeSet<TicketId>,
    pub(crate) used_order: VecDeque<TicketId>,
    pub(crate) outstanding: Outstanding,
    pub(crate) pacer: Pacer,
    pub(crate) extras: Extras,
    pub(crate) relays: Relays,
    /// As `pacer`, for what leaves by a relay, which is another sender to whom it reaches.
    pub(crate) relay_pacer: Pacer,
    pub(crate) repairs: BTreeMap<NodeId, Backoff>,
    /// Peers that are reached by a relay only.
    pub(crate) upgrades: BTreeMap<NodeId, Backoff>,
    pub(crate) doubts: BTreeMap<NodeId, Doubt>,
    /// What the machine sends to the server from.
    pub(crate) source: Option<IpAddr>,
    /// Removed peers, and when the last certificate of each ends, in seconds since 1970.
    pub(crate) revoked: BTreeMap<NodeId, u64>,
    pub(crate) rendezvous: Rendezvous,
    pub(crate) timers: Timers<Timer>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that wants to join: its first output asks for the control connection. `seed` is
    /// the source of all its nonces and jitter, and must be unpredictable.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self::with_servers(config, vec![ServerRank::default()], seed)
    }

    /// The same, with several servers of the cluster to choose from; one, if none is given.
    #[must_use]
    pub fn with_servers(mut config: Config, mut servers: Vec<ServerRank>, seed: [u8; 32]) -> Self {
        if servers.is_empty() {
            servers.push(ServerRank::default());
        }
        config.version = printable(&config.version);
        let id = NodeId::from(&config.key);
        let mut env = Env::new(config, seed);
        let control = Control::new(&mut env, servers);
        Self {
            env,
            id,
            control,
            network: Network::default(),
            membership: None,
            reach: None,
            observers: BTreeMap::new(),
            discovery: None,
            behavior: None,
            lifetime: None,
            discoveries: 0,
            told_candidates: None,
            mapped: Vec::new(),
            wants_mapping: false,
            dial_backs: None,
            dial_back_seen: VecDeque::new(),
            requests: Requests::default(),
            present: BTreeMap::new(),
            links: BTreeMap::new(),
            punches: BTreeMap::new(),
            used_tickets: BTreeSet::new(),
            used_order: VecDeque::new(),
            outstanding: Outstanding::default(),
            pacer: Pacer::default(),
            extras: Extras::default(),
            relays: Relays::default(),
            relay_pacer: Pacer::default(),
            repairs: BTreeMap::new(),
            upgrades: BTreeMap::new(),
            doubts: BTreeMap::new(),
            source: None,
            revoked: BTreeMap::new(),
            rendezvous: Rendezvous::default(),
            timers: Timers::new(),
        }
    }

    /// Has certificates judged by a clock of the node's own, which stands there at the next welcome.
    #[cfg(feature = "attack-tests")]
    pub fn trust_own_clock(&mut self, unix_ms: u64) {
        self.env.own_clock_unix_ms = Some(unix_ms);
    }

    /// Takes an input; then poll the outputs.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        if self.control.has_ended() {
            return;
        }
        self.control.start_clock(now);
        match input {
            Input::Interfaces { list, port_v4, port_v6 } => {
                self.set_network(now, Network::new(list, port_v4, port_v6));
            }
            Input::Mapped { addrs } => self.mapped(addrs),
            Input::Route { number, hops } => self.route_told(number, &hops),
            Input::Rerouted { source } => self.rerouted(now, source.map(|ip| ip.to_canonical())),
            Input::ControlOpened { local, remote } => {
                self.source = Some(addr::unmap(local).ip());
                self.control.opened(&mut self.env, now, local, remote);
            }
            Input::ControlClosed => {
                let step = self.control.closed(&mut self.env, now);
                self.step(now, step);
            }
            Input::Server { rank } => self.control.add_server(&mut self.env, now, rank),
            Input::Knocked { server, ok } => {
                let step = self.control.knocked(&mut self.env, now, server, ok);
                self.step(now, step);
            }
            Input::ControlMessage(message) => {
                let step = self.control.message(&mut self.env, now, message);
                self.step(now, step);
            }
            Input::Datagram { socket, source, payload } => self.datagram(now, socket, source, payload),
            Input::Stream { stream, open: true } => self.stream_opened(now, stream),
            Input::Stream { stream, open: false } => self.stream_closed(now, stream),
            Input::ProbeOpened { port } => {
                if let Some(discovery) = &mut self.discovery {
                    discovery.opened(&mut self.env, now, port);
                    self.set_discovery_timer(now);
                } else {
                    self.silent_socket_opened(now, port.is_some());
                }
            }
            Input::SocketsOpened { first, count } => self.sockets_opened(first, count),
            Input::Connect { request, peer, wait } => self.connect(now, request, peer, wait),
            Input::Begun { request, datagram } => self.handshake_begun(request, datagram),
            Input::HandshakeDone { peer } => self.handshake_done(now, peer),
            Input::CancelConnect { request } => self.cancel_connect(request),
            Input::Busy { peer } => self.busy(now, peer),
            Input::Unheard { peer } => self.unheard(now, peer),
            Input::Release { peer } => self.release(now, peer),
            Input::Introducer { peer, open } => self.introducer_opened(now, peer, open),
            Input::FromIntroducer { peer, message } => self.introducer_said(now, peer, message),
            Input::Secrets(secrets) => self.env.config.secrets = secrets,
            Input::Leave => {
                self.end_relays(now);
                let step = self.control.leave(&mut self.env, now);
                self.step(now, step);
            }
        }
        self.set_control_timer();
    }

    /// Does what is due. To be called when [`Agent::poll_timeout`] has come; early or late is
    /// harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Control => {
                    let step = self.control.handle_timeout(&mut self.env, now);
                    self.step(now, step);
                    self.set_control_timer();
                }
                Timer::Observe(ipv6) => {
                    if let Some(observer) = self.observers.get_mut(&ipv6) {
                        observer.handle_timeout(&mut self.env, now);
                        self.timers.set(timer, Some(observer.deadline()));
                    }
                    self.review_udp(now);
                }
                Timer::Discover => {
                    if let Some(discovery) = &mut self.discovery {
                        discovery.handle_timeout(&mut self.env, &self.network, now);
                        self.set_discovery_timer(now);
                    } else if self.control.is_member() {
                        self.start_stun(now);
                    }
                }
                Timer::Lifetime => self.run_lifetime(now),
                Timer::Ticket(ticket) => self.run_ticket(now, ticket),
                Timer::Link(peer) => self.run_link(now, peer),
                Timer::Request(number) => self.send_request(number),
                Timer::Repair(peer) => self.repair(now, peer),
                Timer::Doubt(peer) => self.run_doubt(now, peer),
                Timer::Extras => self.close_extras(now),
                Timer::Upgrade(peer) => self.upgrade(now, peer),
                Timer::Relay => self.run_relays(now),
                Timer::Introducers => self.look_for_introducers(now),
            }
        }
    }

    /// When [`Agent::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.env.pop()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.env.counters
    }

    fn set_control_timer(&mut self) {
        self.timers.set(Timer::Control, self.control.deadline());
        if self.control.has_ended() {
            self.timers = Timers::new();
        }
    }

    fn set_discovery_timer(&mut self, now: Instant) {
        if let Some(mapping) = self.discovery.as_ref().and_then(Discovery::mapping_found) {
            self.mapping_found(now, mapping);
        }
        let mut deadline = self.discovery.as_ref().and_then(Discovery::deadline);
        if let Some(done) = self.discovery.take_if(|discovery| discovery.is_done()) {
            let again = !done.is_complete() && self.discoveries < MAX_DISCOVERIES;
            deadline = again.then(|| now + REDISCOVERY * 2u32.pow(self.discoveries.saturating_sub(1)));
            self.discovered(now, &done);
        }
        self.timers.set(Timer::Discover, deadline);
    }

    /// Does what a step of the control connection means for the rest.
    pub(crate) fn step(&mut self, now: Instant, step: Step) {
        match step {
            Step::Quiet => {}
            Step::Joined(membership) => self.joined(now, *membership),
            Step::Renewed(renewal) => self.renewed(now, *renewal),
            Step::Lost => {
                self.stop_stun();
                self.server_lost(now);
            }
            Step::Deliver(message) => self.deliver(now, message),
        }
    }

    fn joined(&mut self, now: Instant, mut membership: Membership) {
        let Membership { kind, effective, again, .. } = membership;
        let revoked = std::mem::take(&mut membership.revoked);
        self.env.event(Event::Joined { effective, kind, again });
        self.present.clear();
        self.told_candidates = None;
        self.settle_in(now, membership);
        for text in &revoked {
            self.peer_revoked(now, text);
        }
        for number in self.requests.unanswered() {
            self.send_request(number);
        }
        self.replace_relays(now);
    }

    /// Does what the cluster's network allows, and stops what it does not.
    fn settle_in(&mut self, now: Instant, membership: Membership) {
        let servers = stun_servers(&membership);
        self.reach = Some(Reach {
            private_only: membership.effective == EffectiveNetwork::Private || self.env.sealed(),
            loopback: membership.local.is_loopback(),
            local: membership.local,
            alternates: servers.iter().filter_map(|server| server.alternate).collect(),
        });
        self.membership = Some(membership);
        self.end_introducers();
        self.restrict(now);
        self.review_mapping();
        self.tell_candidates();
        self.start_stun(now);
    }

    /// The cluster amounts to something else. Only a DYNAMIC one can, and never for a sealed node: it is
    /// not told so by a server that means well.
    fn cluster_changed(&mut self, now: Instant, effective: EffectiveNetwork, stun: Option<StunAccess>) {
        let Some(mut membership) = self.membership.clone() else { return };
        let is_sealed = self.env.sealed() && effective == EffectiveNetwork::Public;
        let is_fixed = membership.kind != ClusterNetwork::Dynamic && membership.effective != effective;
        if is_sealed || is_fixed {
            self.stop_stun();
            let detail = format!("a {} cluster was said to be effectively {effective}", membership.kind);
            let refusal = Refusal::new(Code::ClusterTypeMismatch).detail(detail);
            let step = self.control.quit(&mut self.env, refusal);
            return self.step(now, step);
        }
        let changed = membership.effective != effective;
        membership.effective = effective;
        membership.stun = stun.filter(|_| effective == EffectiveNetwork::Public);
        // A credential of before is void, and so is what the discovery found of another network.
        self.stop_stun();
        let mut again = Vec::new();
        if changed {
            self.env.event(Event::ClusterChanged { effective });
            // Introductions on their way name the addresses of before; where the peer is to be met now, only another
            // one can tell.
            again = self.requests.ask_again();
        }
        self.settle_in(now, membership);
        for number in again {
            self.send_request(number);
        }
    }

    /// The membership goes on, with a fresh STUN credential: the mappings stay observed.
    fn renewed(&mut self, now: Instant, renewal: Renewal) {
        let Some(membership) = &mut self.membership else { return };
        membership.certificate = renewal.certificate;
        if membership.stun.is_some() && renewal.stun.is_some() {
            membership.stun = renewal.stun;
            self.renew_relays();
            self.observers.clear();
            self.start_observers(now);
        }
    }

    fn set_network(&mut self, now: Instant, network: Network) {
        if network == self.network {
            return;
        }
        let has_lost_some = self.network.has_more_than(&network);
        self.network = network;
        if has_lost_some {
            self.rendezvous.moved();
            // Some way may have led there.
            for peer in self.links.keys().copied().collect::<Vec<NodeId>>() {
                self.doubt(now, peer);
            }
        }
        self.discoveries = 0;
        self.env.keepalive.reset();
        self.env.double_nat = None;
        self.env.route.forget();
        self.behavior = None;
        self.review_mapping();
        self.extras.network_changed();
        self.tell_candidates();
        self.refresh_observations(now);
        self.probe_relays(now);
        self.hasten_upgrades(now);
        if self.control.is_member() {
            self.start_stun(now);
        }
    }

    pub(crate) fn tell_candidates(&mut self) {
        let (true, Some(reach)) = (self.control.is_member(), &self.reach) else { return };
        let host = self.network.candidates(reach);
        let mapped = if reach.private_only { Vec::new() } else { self.mapped.clone() };
        let told = [host, self.relay_candidates(), mapped];
        if self.told_candidates.as_ref() != Some(&told) {
            let [host, relay, mapped] = told.clone();
            self.env.send(ClientMessage::Candidates { host, relay, mapped });
            self.told_candidates = Some(told);
        }
    }

    /// Starts what is not running yet: an observation for each family, and the discovery.
    pub(crate) fn start_stun(&mut self, now: Instant) {
        self.start_observers(now);
        let Some(membership) = &self.membership else { return };
        let hint = membership.hint;
        let servers = stun_servers(membership);
        let servers = servers.iter().filter(|server| self.network.has_uplink(server.primary.is_ipv6()));
        // NAT is IPv4's business; IPv6 is looked at where there is nothing else.
        let tells = |server: &&StunServer| server.alternate.is_some() || server.alternate_port.is_some();
        let server = servers.filter(tells).min_by_key(|server| server.primary.is_ipv6()).copied();
        if let Some(server) = server.filter(|_| self.discovery.is_none()) {
            self.stop_lifetime();
            self.discoveries += 1;
            self.discovery = Some(Discovery::new(&mut self.env, now, server, hint));
            self.set_discovery_timer(now);
        }
    }

    /// Finds out about the NAT, now that there is somebody to answer.
    pub(crate) fn discover_anew(&mut self, now: Instant) {
        self.discoveries = 0;
        self.start_stun(now);
    }

    /// The credential ends with the session.
    fn stop_stun(&mut self) {
        for ipv6 in std::mem::take(&mut self.observers).into_keys() {
            self.timers.set(Timer::Observe(ipv6), None);
        }
        if let Some(mut discovery) = self.discovery.take() {
            discovery.stop(&mut self.env);
        }
        self.timers.set(Timer::Discover, None);
        self.stop_lifetime();
    }

    fn deliver(&mut self, now: Instant, message: ServerMessage) {
        match message {
            ServerMessage::Classified { class, evidence, observed, relayed } => {
                self.rendezvous.classified(class, evidence, observed);
                self.env.event(Event::Classified { class, evidence, observed, relayed });
            }
            ServerMessage::Cluster { effective, stun } => self.cluster_changed(now, effective, stun),
            ServerMessage::Peers { peers } => {
                for peer in peers {
                    self.peer(now, peer);
                }
            }
            ServerMessage::PeerLeft { id } => {
                self.present.remove(&id);
                if let Some(link) = self.links.get_mut(&id) {
                    link.present = false;
                }
                self.env.event(Event::PeerLeft(id));
            }
            ServerMessage::Revoked(revocation) => self.peer_revoked(now, &revocation),
            ServerMessage::Wanted => self.wanted(now),
            ServerMessage::Introduction(introduction) => self.introduced(now, *introduction),
            ServerMessage::Candidates { ticket, candidates } => {
                self.more_candidates(now, ticket, &candidates);
            }
            ServerMessage::ConnectFailed { request, refusal } => self.connect_failed(now, request, refusal),
            // The control connection keeps all others to itself.
            _ => self.env.counters.control_refused += 1,
        }
    }

    /// Names are shown to people: one that is none is not passed on.
    fn peer(&mut self, now: Instant, peer: PeerInfo) {
        let Ok(name) = peer.name.parse::<NodeName>() else {
            self.env.counters.control_refused += 1;
            return;
        };
        if peer.id != self.id {
            if self.present.len() < MAX_PRESENT || self.present.contains_key(&peer.id) {
                let announced = Announced { name: name.clone(), relayed: peer.relayed };
                if self.present.insert(peer.id, announced).is_none() {
                    self.requests.arrived(now, &peer.id, &name);
                }
            }
            self.rendezvous.peer_classified(peer.id, peer.class);
            if let Some(link) = self.links.get_mut(&peer.id) {
                link.present = peer.name == link.name.as_str();
            }
            self.env.event(Event::Peer(peer));
        }
    }

    fn datagram(&mut self, now: Instant, socket: Socket, source: SocketAddr, payload: &[u8]) {
        let source = addr::unmap(source);
        if self.channel_data(now, socket, source, payload) {
            return;
        }
        let datagram = Datagram::parse(payload);
        let Some((method, datagram)) = datagram.and_then(|datagram| Some((datagram.method()?, datagram)))
        else {
            self.env.counters.malformed += 1;
            return;
        };
        if method != Method::Binding {
            return self.turn_message(now, socket, source, &datagram);
        }
        match (socket, datagram.class()) {
            (Socket::Probe, _) => {
                if let Some(discovery) = &mut self.discovery {
                    discovery.handle(&mut self.env, &self.network, now, source, &datagram);
                    self.set_discovery_timer(now);
                } else {
                    self.silent_socket_heard(now, source, &datagram);
                }
            }
            (Socket::Extra(number), class) => self.extra_datagram(now, number, source, class, &datagram),
            // Nothing but the relay's own messages belongs on a stream.
            (Socket::Stream(_), _) => self.env.counters.unsolicited += 1,
            (Socket::Main, Class::Request) => self.check(now, Way::main(source), &datagram),
            (Socket::Main, Class::Indication) => self.dial_back(now, &datagram),
            (Socket::Main, Class::Success | Class::Error) => {
                if !self.observed(now, source, &datagram) {
                    self.check_answered(now, Way::main(source), &datagram);
                }
            }
        }
    }

    /// Passes a dial-back's nonce on, once, to the server that judges it.
    fn dial_back(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let Some(nonce) = datagram.dial_back_nonce() else { return };
        if self.observers.is_empty() || !self.control.is_member() || self.dial_back_seen.contains(&nonce) {
            return;
        }
        let (start, count) =
            self.dial_backs.filter(|(start, _)| now < *start + DIAL_BACK_WINDOW).unwrap_or((now, 0));
        if count >= MAX_DIAL_BACKS {
            self.env.counters.dial_backs_refused += 1;
            return;
        }
        self.dial_backs = Some((start, count + 1));
        self.dial_back_seen.push_back(nonce);
        if self.dial_back_seen.len() > MAX_DIAL_BACKS as usize {
            self.dial_back_seen.pop_front();
        }
        self.env.counters.dial_backs += 1;
        self.env.send(ClientMessage::DialBackSeen { nonce });
    }
}

/// Where the node's mapping is observed: an unspecified address stands for the one by which the
/// node reached the server.
pub(crate) fn stun_servers(membership: &Membership) -> Vec<StunServer> {
    let Some(access) = &membership.stun else { return Vec::new() };
    let resolve = |server: &StunServer| {
        let mut server = *server;
        server.primary = addr::unmap(server.primary);
        if server.primary.ip().is_unspecified() {
            if server.primary.is_ipv6() != membership.server.is_ipv6() {
                return None;
            }
            server.primary.set_ip(membership.server);
        }
        let is_usable = |ip: &IpAddr| {
            !ip.is_unspecified() && ip.is_ipv6() == server.primary.is_ipv6() && *ip != server.primary.ip()
        };
        server.alternate = server.alternate.map(|ip| ip.to_canonical()).filter(is_usable);
        server.alternate_port =
            server.alternate_port.filter(|port| *port != 0 && *port != server.primary.port());
        (server.primary.port() != 0).then_some(server)
    };
    access.servers.iter().take(MAX_STUN_SERVERS).filter_map(resolve).collect()
}

/// The server refuses a version that is long or has control characters.
fn printable(version: &str) -> String {
    version.chars().filter(char::is_ascii_graphic).take(MAX_TEXT_LEN).collect()
}
