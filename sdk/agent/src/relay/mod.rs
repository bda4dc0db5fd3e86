//! The node's allocations on the server's relay: when there is one, by which socket, and what goes by it.
//!
//! Who is likely to be relayed has an allocation before anybody is to be met, and keeps it: a node behind a symmetric
//! NAT, one that UDP does not reach, one without IPv4. A pair with one such node has relayed addresses in its very
//! introduction, and channels are asked for with the first checks; so it is met by the relay within one and a half
//! relayed round trips of the connect call: half a one to be introduced, one for a check and its answer. For all
//! others an allocation is asked for with the first reason to need one (a connect call, an introduction), beside the
//! punch and without waiting for it, and given back a while after the last: the server lends ports.
//!
//! Where UDP does not reach the server (no answer to the observation's Binding for one and a half round trips), the
//! allocation is made over TCP, or over TLS where TCP's port is closed too. Who wants to meet somebody before that is
//! known, or hears that it is wanted itself, does not wait for it: the stream is opened beside, and closed again if UDP
//! answers.
//!
//! An allocation outlives the control connection: it ends with its own credential, not with the session. A
//! fresh credential of the same session goes on with it. One of another session does not: see [`replace`].
//!
//! Deliberately absent: which path is used (the link's), and the bytes of QUIC, which the shell puts into channels
//! by itself.

mod client;
mod replace;
mod streams;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::wire::{StunAccess, StunServer};
use meetpoint_proto::{EffectiveNetwork, Mapping, NodeId};
use meetpoint_stun::is_channel_data;

use crate::agent::{Agent, Timer, stun_servers};
use crate::api::{AllocationId, Channel, Leg, Output, PathKind, Socket, StreamId, Way};
use crate::defence::Defence;
use crate::link::Link;
use crate::stun::{Class, Credential, Datagram, Method};
use client::{Access, Client, News};
use streams::Opening;

/// Allocations at once: one in use, and those that are ending.
const MAX_ALLOCATIONS: usize = 4;
/// Addresses to which a relay may send this node on.
const MAX_ALTERNATES: usize = 8;
/// How long an allocation is kept after it was last needed: the next connect call finds it there.
const LINGER: Duration = Duration::from_secs(60);
/// How many of the control connection's round trips the Binding may stay unanswered until the server is tried by a
/// stream: its answer takes one. If it was only late or lost, the stream is there for nothing, and goes at once.
const UDP_PATIENCE_TRIPS: f64 = 1.5;
/// At least and at most so long. A lost datagram has been repeated twice by the latter.
const UDP_PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Channels asked for before it is known who answers, for each list of candidates: a peer's mapping, and its relayed
/// addresses of either family.
const EARLY_CHANNELS: usize = 3;

/// What is known of UDP towards the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Udp {
    /// Nothing yet; it is silent if nothing comes by then.
    #[default]
    Unknown,
    Waiting {
        until: Instant,
    },
    Works,
    Silent,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    last_id: u32,
    last_stream: u32,
    clients: BTreeMap<AllocationId, Client>,
    /// While there is an allocation: when to see whether anything still needs it.
    review: Option<Instant>,
    /// An allocation is wanted, not before then.
    retry: Option<Instant>,
    udp: Udp,
    opening: Vec<Opening>,
    /// When to try TLS as well.
    tls_at: Option<Instant>,
    /// Those that are given up, and until when they still take what comes.
    retiring: BTreeMap<AllocationId, Instant>,
    /// When to go on with replacing.
    replace_at: Option<Instant>,
    /// When peers were last asked to meet the node at new addresses.
    asked_at: Option<Instant>,
    /// The node's NAT shows another address to each destination, as far as was found out.
    is_symmetric: bool,
}

impl Relays {
    fn deadline(&self) -> Option<Instant> {
        let clients = self.clients.values().map(Client::deadline);
        let udp = match self.udp {
            Udp::Waiting { until } => Some(until),
            Udp::Unknown | Udp::Works | Udp::Silent => None,
        };
        let opening = self.opening.iter().map(|opening| Some(opening.until));
        let own = [self.review, self.retry, udp, self.tls_at, self.replace_at];
        clients.chain(own).chain(opening).flatten().min()
    }

    fn find(&self, socket: Socket, source: SocketAddr) -> Vec<AllocationId> {
        let is_its = |client: &&Client| client.access().socket == socket && client.access().server == source;
        self.clients.values().filter(is_its).map(|client| client.id).collect()
    }

    /// The channel that carries data by this way.
    pub(crate) fn channel(&self, way: Way) -> Option<Channel> {
        let Leg::Relay(id) = way.leg else { return None };
        let client = self.clients.get(&id)?;
        let number = client.channel(way.remote)?;
        Some(Channel { socket: client.access().socket, server: client.access().server, number })
    }

    /// The same, if it was asked for: the server may not have made it yet.
    pub(crate) fn asked_channel(&self, way: Way) -> Option<Channel> {
        let Leg::Relay(id) = way.leg else { return None };
        let client = self.clients.get(&id)?;
        let number = client.asked_channel(way.remote)?;
        Some(Channel { socket: client.access().socket, server: client.access().server, number })
    }

    /// Who has a channel of an allocation.
    pub(crate) fn remotes(&self, id: AllocationId) -> Vec<SocketAddr> {
        self.clients.get(&id).map(|client| client.remotes().collect()).unwrap_or_default()
    }

    /// A relayed way goes on when the node's NAT gives it another mapping.
    pub(crate) fn outlives_mapping(&self, way: Way) -> bool {
        match way.leg {
            Leg::Relay(id) => self.clients.get(&id).is_some_and(Client::is_mobile),
            Leg::Main | Leg::Extra(_) => true,
        }
    }

    /// The ways by which a peer's candidate can be met.
    pub(crate) fn ways(&self, remote: SocketAddr) -> impl Iterator<Item = Way> + '_ {
        let is_public = addr::classify(remote.ip()) == AddressClass::Public;
        let usable = self.clients.values().filter(|client| !self.retiring.contains_key(&client.id));
        let reaching = usable.filter(move |client| is_public && client.reaches(remote));
        reaching.map(move |client| Way { leg: Leg::Relay(client.id), remote })
    }
}

impl Agent {
    /// Something may have to be relayed: has an allocation made, if there is none.
    pub(crate) fn want_relay(&mut self, now: Instant) {
        if self.relay_access().is_none() {
            return;
        }
        if !self.has_relay() && self.relays.retry.is_none_or(|at| at <= now) {
            self.relays.retry = None;
            self.allocate(now);
        }
        self.relays.review = Some(now + LINGER);
        self.set_relay_timer();
    }

    /// Where a relay may be used at all: in effectively PUBLIC clusters, of a node that is not sealed.
    pub(crate) fn relay_access(&self) -> Option<&StunAccess> {
        let membership = self.membership.as_ref()?;
        let is_open = membership.effective == EffectiveNetwork::Public && !self.env.sealed();
        membership.stun.as_ref().filter(|access| is_open && !access.relay.is_empty())
    }

    /// True for an address at which the server relays: what comes from there and was not named as the peer's own
    /// place was relayed for the peer.
    pub(crate) fn is_relay(&self, remote: SocketAddr) -> bool {
        self.relay_access().is_some_and(|access| access.relay.contains(&remote.ip()))
    }

    fn allocate(&mut self, now: Instant) {
        if self.relays.clients.len() >= MAX_ALLOCATIONS {
            return;
        }
        if self.relays.udp == Udp::Silent || self.is_socket_taken() {
            return self.open_streams(now);
        }
        let (Some(membership), Some(access)) = (&self.membership, self.relay_access()) else { return };
        let servers = stun_servers(membership);
        let mut primaries = servers.iter().map(|server| server.primary);
        let server = primaries.find(|server| self.network.has_uplink(server.is_ipv6()));
        let Some(server) = server else { return };
        let credential = self.observers.get(&server.is_ipv6()).and_then(|observer| observer.credential());
        let credential = credential.cloned();
        let (username, password) = (access.username.clone(), access.password.clone());
        let others = alternates(access, &servers);
        let access = Access { socket: Socket::Main, server, username, password, others };
        self.add_client(now, access, credential);
        if matches!(self.relays.udp, Udp::Waiting { .. }) {
            // Both at once, in the spirit of RFC 8305.
            self.open_streams(now);
        }
    }

    fn add_client(&mut self, now: Instant, access: Access, credential: Option<Credential>) {
        self.relays.last_id = self.relays.last_id.wrapping_add(1);
        let id = AllocationId(self.relays.last_id);
        let client = Client::new(&mut self.env, now, id, access, credential);
        self.relays.clients.insert(id, client);
    }

    /// The server was asked by UDP, and is expected to answer.
    pub(crate) fn await_udp(&mut self, now: Instant) {
        if self.relay_access().is_some() && self.relays.udp != Udp::Silent {
            let trips = self.membership.as_ref().and_then(|membership| membership.round_trip);
            let patience = trips.map_or(UDP_PATIENCE.1, |trip| trip.mul_f64(UDP_PATIENCE_TRIPS));
            let until = now + patience.clamp(UDP_PATIENCE.0, UDP_PATIENCE.1);
            self.relays.udp = Udp::Waiting { until };
            self.set_relay_timer();
        }
    }

    /// It has. A stream that carries no allocation yet is not needed then.
    pub(crate) fn udp_works(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.relays.udp, Udp::Works);
        if before != Udp::Works && !self.is_socket_replaced() {
            for opening in std::mem::take(&mut self.relays.opening) {
                self.env.push(Output::CloseStream { stream: opening.stream });
            }
            self.relays.tls_at = None;
            for client in self.relays.clients.values_mut() {
                if matches!(client.access().socket, Socket::Stream(_)) && !client.is_granted() {
                    client.end(&mut self.env, now);
                }
            }
            self.relay_news(now);
        }
        if before != Udp::Works && self.needs_relay() {
            self.want_relay(now);
        }
        self.set_relay_timer();
    }

    /// What the discovery found, once or again.
    pub(crate) fn mapping_found(&mut self, now: Instant, mapping: Mapping) {
        let is_symmetric = match mapping {
            Mapping::AddressDependent | Mapping::AddressAndPortDependent => true,
            Mapping::None | Mapping::EndpointIndependent => false,
        };
        if !std::mem::replace(&mut self.relays.is_symmetric, is_symmetric) && is_symmetric {
            self.want_relay(now);
        }
    }

    /// Does what is due.
    pub(crate) fn run_relays(&mut self, now: Instant) {
        for client in self.relays.clients.values_mut() {
            client.handle_timeout(&mut self.env, now);
        }
        if matches!(self.relays.udp, Udp::Waiting { until } if until <= now) {
            self.relays.udp = Udp::Silent;
            self.give_up_udp(now);
        }
        if self.relays.tls_at.take_if(|at| *at <= now).is_some()
            && let Some(port) = self.relay_access().and_then(|access| access.tls)
        {
            self.open_stream(now, port, true);
        }
        let is_late = |opening: &&Opening| opening.until <= now;
        let late: Vec<StreamId> =
            self.relays.opening.iter().filter(is_late).map(|opening| opening.stream).collect();
        for stream in late {
            self.env.push(Output::CloseStream { stream });
            self.stream_closed(now, stream);
        }
        if self.relays.retry.take_if(|at| *at <= now).is_some() && self.needs_relay() {
            self.want_relay(now);
        }
        if self.relays.review.take_if(|at| *at <= now).is_some() {
            self.review_relays(now);
        }
        self.relay_news(now);
        if self.relays.replace_at.take_if(|at| *at <= now).is_some() {
            self.replace_relays(now);
        }
    }

    /// What is not granted by UDP will not be; the server is tried by a stream instead.
    fn give_up_udp(&mut self, now: Instant) {
        for client in self.relays.clients.values_mut() {
            if client.access().socket == Socket::Main && !client.is_granted() {
                client.end(&mut self.env, now);
            }
        }
        self.want_relay(now);
    }

    fn review_relays(&mut self, now: Instant) {
        if self.needs_relay() {
            self.relays.review = Some(now + LINGER);
            self.replace_relays(now);
        } else {
            self.end_relays(now);
        }
    }

    fn needs_relay(&self) -> bool {
        let is_used = self.links.values().any(|link| link.uses_relay());
        // Who has a way and no data on it lets a ticket find another in its own time.
        let is_met = self.punches.values().any(|punch| !punch.is_unhurried);
        is_used || is_met || !self.requests.is_empty() || self.is_likely_relayed()
    }

    /// Most of those that the node will meet are met by a relay, or by a relay first.
    pub(crate) fn is_likely_relayed(&self) -> bool {
        self.relays.udp == Udp::Silent || self.relays.is_symmetric || !self.network.has_uplink(false)
    }

    /// Gives all allocations back.
    pub(crate) fn end_relays(&mut self, now: Instant) {
        for client in self.relays.clients.values_mut() {
            client.end(&mut self.env, now);
        }
        for opening in std::mem::take(&mut self.relays.opening) {
            self.env.push(Output::CloseStream { stream: opening.stream });
        }
        (self.relays.retry, self.relays.review, self.relays.tls_at) = (None, None, None);
        (self.relays.replace_at, self.relays.asked_at) = (None, None);
        self.relays.retiring.clear();
        self.relay_news(now);
        for id in self.relays.clients.keys().copied().collect::<Vec<AllocationId>>() {
            self.leg_lost(now, id);
        }
        self.tell_candidates();
    }

    /// The network has changed: whether the allocation is still ours, its server can tell at once.
    pub(crate) fn probe_relays(&mut self, now: Instant) {
        if self.relays.udp == Udp::Silent {
            self.relays.udp = Udp::Unknown;
        }
        for client in self.relays.clients.values_mut() {
            client.probe(&mut self.env, now);
        }
        self.set_relay_timer();
    }

    /// The NAT has given this node another mapping: allocations that somebody depends on are to follow. The server's
    /// challenge to the new one is known from the observation.
    pub(crate) fn move_relays(&mut self, now: Instant) {
        let is_relayed = |link: &Link| link.settles_for_relay || link.kind() == Some(PathKind::Relayed);
        let is_needed = self.is_likely_relayed() || self.links.values().any(is_relayed);
        for client in self.relays.clients.values_mut() {
            let observer = self.observers.get(&client.access().server.is_ipv6());
            let challenged = observer.and_then(|observer| observer.credential());
            client.moved(&mut self.env, now, challenged, is_needed);
        }
        self.set_relay_timer();
    }

    /// A fresh credential of the same session goes on with the allocation.
    pub(crate) fn renew_relays(&mut self) {
        let Some(access) = self.relay_access() else { return };
        let (username, password) = (access.username.clone(), access.password.clone());
        for client in self.relays.clients.values_mut() {
            if client.is_of(&username) {
                client.renew(&username, &password);
            }
        }
    }

    /// ChannelData, if that is what it is and a relay of ours sent it.
    pub(crate) fn channel_data(
        &mut self,
        now: Instant,
        socket: Socket,
        source: SocketAddr,
        frame: &[u8],
    ) -> bool {
        if !frame.first().is_some_and(|first| is_channel_data(*first)) {
            return false;
        }
        for id in self.find_relays(socket, source) {
            // Another one has begun to number its channels anew.
            let client = self.relays.clients.get(&id).filter(|client| !client.is_ending());
            let carried = client.and_then(|client| client.read_channel(frame));
            if let Some((remote, data)) = carried {
                self.relayed(now, Way { leg: Leg::Relay(id), remote }, data);
                return true;
            }
        }
        self.env.counters.unsolicited += 1;
        true
    }

    fn find_relays(&self, socket: Socket, source: SocketAddr) -> Vec<AllocationId> {
        if self.rendezvous.defences.stand(Defence::RelaySource) {
            self.relays.find(socket, source)
        } else {
            self.relays.clients.keys().copied().collect()
        }
    }

    /// A relay's answer or indication. Whoever else sends one is ignored.
    pub(crate) fn turn_message(
        &mut self,
        now: Instant,
        socket: Socket,
        source: SocketAddr,
        datagram: &Datagram<'_>,
    ) {
        for id in self.find_relays(socket, source) {
            let Some(client) = self.relays.clients.get_mut(&id) else { continue };
            if datagram.method() == Some(Method::Turn) {
                if client.handle(&mut self.env, now, datagram) {
                    return self.relay_news(now);
                }
            } else if let Some((remote, data)) = datagram.data().filter(|(remote, _)| client.reaches(*remote))
            {
                return self.relayed(now, Way { leg: Leg::Relay(id), remote: addr::unmap(remote) }, data);
            }
        }
        self.env.counters.unsolicited += 1;
    }

    /// A check, or the answer to one, by way of a relay. Data that came before its channel is lost, as any may be.
    fn relayed(&mut self, now: Instant, way: Way, data: &[u8]) {
        let datagram = Datagram::parse(data).filter(|datagram| datagram.method() == Some(Method::Binding));
        let Some(datagram) = datagram else {
            self.env.counters.malformed += 1;
            return;
        };
        match datagram.class() {
            Class::Request => self.check(now, way, &datagram),
            Class::Success | Class::Error => self.check_answered(now, way, &datagram),
            Class::Indication => {}
        }
    }

    /// Sends a check, or the answer to one, by way of a relay. An allocation that is gone carries nothing: the
    /// way dies of silence.
    pub(crate) fn transmit_relayed(
        &mut self,
        now: Instant,
        id: AllocationId,
        remote: SocketAddr,
        payload: &[u8],
    ) {
        if let Some(client) = self.relays.clients.get_mut(&id) {
            client.send(&mut self.env, now, remote, payload);
            self.set_relay_timer();
        }
    }

    /// Has a channel made for a way that will carry data.
    pub(crate) fn bind_channel(&mut self, now: Instant, way: Way) {
        let Leg::Relay(id) = way.leg else { return };
        if let Some(client) = self.relays.clients.get_mut(&id) {
            client.bind(&mut self.env, now, way.remote);
            self.set_relay_timer();
        }
    }

    /// Does what became of the allocations.
    fn relay_news(&mut self, now: Instant) {
        let ids: Vec<AllocationId> = self.relays.clients.keys().copied().collect();
        for id in ids {
            while let Some(news) = self.relays.clients.get_mut(&id).and_then(Client::poll_news) {
                let way = |remote| Way { leg: Leg::Relay(id), remote };
                match news {
                    News::Granted => self.relay_granted(now, id),
                    News::Followed => self.relay_followed(now, id),
                    News::Bound { remote } => self.channel_bound(now, way(remote)),
                    News::Forgotten { remote } => self.way_lost(now, way(remote)),
                    News::Over { retry } => {
                        self.leg_lost(now, id);
                        self.relays.retry = Some(now + retry);
                        self.tell_candidates();
                    }
                }
            }
            if self.relays.clients.get(&id).is_some_and(Client::is_over)
                && let Some(client) = self.relays.clients.remove(&id)
                && let Socket::Stream(stream) = client.access().socket
            {
                self.env.push(Output::CloseStream { stream });
            }
        }
        self.set_relay_timer();
    }

    /// There are relayed addresses: the peers are told, and running tickets go on by way of them too.
    fn relay_granted(&mut self, now: Instant, id: AllocationId) {
        self.env.counters.allocations += 1;
        self.tell_candidates();
        let tickets: Vec<_> = self.punches.keys().copied().collect();
        for ticket in tickets {
            let Some(punch) = self.punches.get(&ticket) else { continue };
            let named = punch.named();
            self.add_relay_ways(now, ticket, &named, Some(id));
        }
        self.relays.asked_at = None;
        self.replace_relays(now);
    }

    /// An allocation is where this node is now: what goes by it has to show at once that it still does.
    fn relay_followed(&mut self, now: Instant, id: AllocationId) {
        self.env.counters.allocations_moved += 1;
        let users = self.links.iter().filter(|(_, link)| link.uses_leg(id)).map(|(peer, _)| *peer);
        for peer in users.collect::<Vec<NodeId>>() {
            self.ask_way_in_use(now, peer);
        }
    }

    /// The relayed addresses to offer: those of before only while there are no others.
    pub(crate) fn relay_candidates(&self) -> Vec<SocketAddr> {
        let outgoing = self.outgoing();
        let granted = || self.relays.clients.values().filter(|client| client.is_granted());
        let lasting: Vec<SocketAddr> =
            granted().filter(|client| !outgoing.contains(&client.id)).flat_map(Client::relayed).collect();
        if lasting.is_empty() { granted().flat_map(Client::relayed).collect() } else { lasting }
    }

    /// Lets the peer's candidates in, and checks them by way of the relay.
    pub(crate) fn add_relay_ways(
        &mut self,
        now: Instant,
        ticket: meetpoint_proto::TicketId,
        remotes: &[SocketAddr],
        only: Option<AllocationId>,
    ) {
        let fits = |way: &Way| only.is_none_or(|id| way.leg == Leg::Relay(id));
        let ways: Vec<Way> =
            remotes.iter().flat_map(|remote| self.relays.ways(*remote)).filter(fits).collect();
        let of_client = |client: &Client| -> Vec<SocketAddr> {
            let its = ways.iter().filter(|way| way.leg == Leg::Relay(client.id));
            its.map(|way| way.remote).collect()
        };
        for client in self.relays.clients.values_mut() {
            let its = of_client(client);
            client.permit(&mut self.env, now, &its);
        }
        if let Some(punch) = self.punches.get_mut(&ticket).filter(|_| !ways.is_empty()) {
            punch.add_late(now, &ways);
            self.run_ticket(now, ticket);
        }
        // Behind the checks, so that the channel is there when the first of them is answered.
        for client in self.relays.clients.values_mut() {
            let its = of_client(client);
            its.into_iter().take(EARLY_CHANNELS).for_each(|remote| client.bind(&mut self.env, now, remote));
        }
        self.run_starts(ticket);
        self.set_relay_timer();
    }

    pub(crate) fn set_relay_timer(&mut self) {
        self.timers.set(Timer::Relay, self.relays.deadline());
    }
}

/// Where a relay may send this node on to: addresses at which its servers answer and relay. Not those from which they
/// prove that a mapping is reachable: the main socket sends nothing there.
fn alternates(access: &StunAccess, servers: &[StunServer]) -> Vec<IpAddr> {
    let relays = access.relay.iter().map(|ip| ip.to_canonical());
    let known = relays.chain(servers.iter().map(|server| server.primary.ip()));
    let is_silent = |ip: &IpAddr| servers.iter().any(|server| server.alternate == Some(*ip));
    known.filter(|ip| !is_silent(ip)).take(MAX_ALTERNATES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_relay_may_send_a_node_on_to() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let server = |primary: &str, alternate: Option<&str>| StunServer {
            primary: primary.parse().unwrap(),
            alternate: alternate.map(ip),
            alternate_port: None,
        };
        let (plain, proving) = (server("20.0.0.1:3478", None), server("20.0.0.1:3478", Some("20.0.0.2")));
        for (relay, servers, expect) in [
            (vec![], vec![], vec![]),
            (vec![], vec![plain], vec!["20.0.0.1"]),
            (vec!["20.0.0.3"], vec![plain], vec!["20.0.0.3", "20.0.0.1"]),
            (vec!["::ffff:20.0.0.3"], vec![], vec!["20.0.0.3"]),
            // From there the server proves that the main socket can be reached.
            (vec!["20.0.0.2", "20.0.0.3"], vec![proving], vec!["20.0.0.3", "20.0.0.1"]),
            (vec!["20.0.0.9"; 100], vec![plain], vec!["20.0.0.9"; MAX_ALTERNATES]),
        ] {
            let access = StunAccess {
                servers: servers.clone(),
                username: String::new(),
                password: String::new(),
                relay: relay.iter().map(|text| ip(text)).collect(),
                tcp: None,
                tls: None,
                stream_nonce: None,
            };
            let expect: Vec<IpAddr> = expect.into_iter().map(ip).collect();
            assert_eq!(alternates(&access, &servers), expect, "{relay:?}");
        }
    }
}
