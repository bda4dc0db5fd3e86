//! Which real address carries which peer.
//!
//! QUIC knows each peer by one **synthetic address** that never changes: `fd` followed by the
//! first 15 bytes of the peer's id, one fixed port. It lies in the unique local range (RFC 4193),
//! is never on a wire, and is the same on every node, so logs of two nodes can be laid side by
//! side. The table maps it to the real route when a datagram leaves, and a datagram's real source
//! back to it on arrival.
//!
//! Before that a handshake may have begun by the relay ([`crate::provisional`]).
//!
//! Whoever sets a path vouches that a key-authenticated check was answered on it: synthetic
//! addresses bypass QUIC's own path validation, so this table is what keeps a node from being
//! aimed at a stranger, and a stranger's datagrams from reaching QUIC.
//!
//! Deliberately absent: which path is best, and when to change it. That is the agent's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use meetpoint_agent::{Channel, Leg, Socket, Way};
use meetpoint_proto::{NodeId, addr};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::provisional::{Packets, Provisional, Wanted};
use crate::usage::Flow;

/// First byte of every synthetic address (RFC 4193, section 3.1).
const SYNTHETIC_PREFIX: u8 = 0xfd;

/// Port of every synthetic address; QUIC refuses none but zero.
const SYNTHETIC_PORT: u16 = 1;

/// Peers with a path at one time. A node's cluster may be larger; its direct neighbours are not.
pub(crate) const MAX_PEERS: usize = 4096;

/// Verified addresses of one peer that are still listened to: the current one and those before
/// it, because datagrams sent before a change are in flight, and the peer changes when it likes.
/// Where ports are guessed all sockets of a peer may meet this node, and it may settle on any of them.
const REMOTES_PER_PEER: usize = 128;

/// A peer's address as QUIC sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SyntheticAddr(Ipv6Addr);

impl SyntheticAddr {
    /// The address of a peer. Two ids that share one would share 120 bits of a public key.
    pub(crate) fn of(peer: &NodeId) -> Self {
        let mut octets = [SYNTHETIC_PREFIX; 16];
        octets[1..].copy_from_slice(&peer.as_bytes()[..15]);
        Self(octets.into())
    }

    /// As QUIC's interfaces take it.
    pub(crate) fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.0.into(), SYNTHETIC_PORT)
    }

    /// Reads back what QUIC hands out; any other address is nobody's.
    fn from_socket_addr(addr: SocketAddr) -> Option<Self> {
        match addr.ip() {
            IpAddr::V6(ip) if ip.octets()[0] == SYNTHETIC_PREFIX && addr.port() == SYNTHETIC_PORT => {
                Some(Self(ip))
            }
            _ => None,
        }
    }
}

/// How a peer's datagrams travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Straight to this address.
    Direct(SocketAddr),
    /// In this channel of a relay.
    Relayed(Channel),
}

/// Why a path was not set. The table is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum PathError {
    /// The table is full.
    #[error("{MAX_PEERS} peers have a path already; remove one first")]
    Full,
    /// Another peer has the same synthetic address.
    #[error("the peer's id collides with that of a connected peer")]
    Collision,
}

/// The paths of all peers, shared by the driver, which writes it, and the socket, which reads it.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    table: RwLock<Table>,
    /// Data goes to a peer that nobody watches.
    woken: Notify,
    /// A peer has a path, or has one no more.
    rerouted: Notify,
}

/// The first datagram of a handshake, and where it is to go now.
pub(crate) type Flight = (Route, Box<[u8]>);

#[derive(Debug, Default)]
struct Table {
    peers: HashMap<SyntheticAddr, Peer>,
    sources: HashMap<Way, SyntheticAddr>,
    /// The channels of all relay legs: there and back.
    channels: HashMap<Way, Channel>,
    ways: HashMap<Channel, Way>,
    /// Ways of the relay on which a handshake may come before its check is read.
    expected: HashMap<Way, SyntheticAddr>,
}

#[derive(Debug)]
struct Peer {
    id: NodeId,
    /// None once another peer has verified the address this peer was reached at.
    route: Option<Route>,
    /// Verified ways, the newest first; each is a key of `sources`.
    remotes: VecDeque<Way>,
    /// A handshake that did not wait for a path.
    provisional: Option<Box<Provisional>>,
    /// QUIC's sends to it, of one datagram or a batch.
    sent: AtomicU64,
    /// QUIC's datagrams from it.
    received: AtomicU64,
    /// Somebody looks at these counts now and then.
    is_watched: AtomicBool,
}

impl Peer {
    fn new(id: NodeId) -> Self {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let is_watched = AtomicBool::new(false);
        let (route, remotes, provisional) = (None, VecDeque::new(), None);
        Self { id, route, remotes, provisional, sent, received, is_watched }
    }

    /// What QUIC would answer can be sent.
    fn can_be_answered(&self) -> bool {
        self.route.is_some() || self.provisional.as_ref().is_some_and(|begun| begun.may_answer())
    }
}

impl PathTable {
    /// Sends to `peer` by `way` from now on, and hears it by that and by its last few ways. If the way
    /// was another peer's, it is no longer: a NAT gives a mapping to one host at a time, and the newest
    /// check tells to which. Gives what of a handshake that has begun before is to be sent again.
    pub(crate) fn set(&self, peer: &NodeId, way: Way) -> Result<Vec<Flight>, PathError> {
        let flights = self.write().set(peer, normal(way))?;
        self.rerouted.notify_waiters();
        Ok(flights)
    }

    /// QUIC's handshake may go to `peer` by `way` once more, although nothing was verified. Gives what is to be sent.
    pub(crate) fn expect(&self, peer: &NodeId, way: Way) -> Result<Vec<Flight>, PathError> {
        self.write().expect(peer, normal(way))
    }

    /// QUIC's handshake with `peer` may begin before there is any way, and somebody wants its first datagram. False if
    /// it has begun already, or need not: the peer has a path.
    pub(crate) fn begin(&self, peer: &NodeId, wanted: Wanted) -> Result<bool, PathError> {
        let mut table = self.write();
        let peer = table.peer(peer)?;
        Ok(peer.route.is_none() && peer.provisional.get_or_insert_default().want(wanted))
    }

    /// The peer's handshake comes with its introduction. False if it has a path, by which it can come as well.
    pub(crate) fn come(&self, peer: &NodeId) -> Result<bool, PathError> {
        let mut table = self.write();
        let peer = table.peer(peer)?;
        if peer.route.is_none() {
            peer.provisional.get_or_insert_default().come();
        }
        Ok(peer.route.is_none())
    }

    /// By which ways a datagram goes to a peer that has no path, and how much of it.
    pub(crate) fn provisional(&self, addr: SocketAddr, datagram: &[u8]) -> (Vec<Route>, usize) {
        self.write().provisional(addr, datagram)
    }

    /// A handshake with `peer` may begin before there is a path.
    pub(crate) fn is_expected(&self, peer: &NodeId) -> bool {
        let table = self.read();
        table.peers.get(&SyntheticAddr::of(peer)).is_some_and(|peer| peer.provisional.is_some())
    }

    /// Keeps what came by a way that is expected, until the check in front of it has been read. If that was just now,
    /// gives it back, with its sender.
    pub(crate) fn hold(&self, way: Way, packet: Box<[u8]>) -> Option<(SyntheticAddr, Box<[u8]>)> {
        let mut table = self.write();
        if let Some(sender) = table.verified_by(way) {
            return Some((sender, packet));
        }
        let sender = table.expected.get(&way).copied()?;
        let begun = table.peers.get_mut(&sender)?.provisional.as_mut()?;
        begun.hold(way, packet);
        None
    }

    /// Lets whatever QUIC says go by the ways that are only expected, to show what the bounds are for.
    #[cfg(test)]
    pub(crate) fn unbound(&self, peer: &NodeId) {
        let mut table = self.write();
        let peer = table.peers.get_mut(&SyntheticAddr::of(peer));
        if let Some(begun) = peer.and_then(|peer| peer.provisional.as_mut()) {
            begun.is_unbounded = true;
        }
    }

    /// Waits until `peer` has a path.
    pub(crate) async fn routed(&self, peer: &NodeId) {
        self.until(|| self.route_to(peer).is_some()).await;
    }

    /// Waits until `peer` has had no path for so long.
    pub(crate) async fn unrouted_for(&self, peer: &NodeId, patience: Duration) {
        loop {
            self.until(|| self.route_to(peer).is_none()).await;
            if timeout(patience, self.routed(peer)).await.is_err() {
                return;
            }
        }
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.rerouted.notified();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    /// Data by a way with a relay leg goes in this channel; `None`: no longer.
    pub(crate) fn set_channel(&self, way: Way, channel: Option<Channel>) {
        self.write().set_channel(normal(way), channel);
    }

    /// Hears `peer` by `way` too, once it has a route: an answer without one would be lost, and QUIC would wait for a
    /// second where the peer's own repetition takes milliseconds. Nothing is sent there, but for the answers to a
    /// handshake that may begin by this way. Gives what was kept of one, and what is to be sent again.
    pub(crate) fn hear(&self, peer: &NodeId, way: Way) -> Result<(Packets, Vec<Flight>), PathError> {
        let way = normal(way);
        let mut table = self.write();
        let peer = table.hear(peer, way)?;
        let begun = peer.provisional.as_mut().filter(|_| peer.route.is_none());
        let (held, again) = begun.map(|begun| begun.heard(way)).unwrap_or_default();
        Ok((held, table.flights(way, again)))
    }

    /// Forgets all of a peer's paths: nothing is sent to it, nothing heard from it.
    pub(crate) fn remove(&self, peer: &NodeId) {
        self.write().remove(peer);
        self.rerouted.notify_waiters();
    }

    /// The way to `peer`, if it has one.
    pub(crate) fn route_to(&self, peer: &NodeId) -> Option<Route> {
        let table = self.read();
        table.peers.get(&SyntheticAddr::of(peer)).filter(|entry| entry.id == *peer)?.route
    }

    /// Whose synthetic address this is.
    pub(crate) fn peer_at(&self, addr: SocketAddr) -> Option<NodeId> {
        let addr = SyntheticAddr::from_socket_addr(addr)?;
        self.read().peers.get(&addr).map(|peer| peer.id)
    }

    /// The way to the peer whose synthetic address QUIC sends to.
    pub(crate) fn route(&self, addr: SocketAddr) -> Option<Route> {
        let addr = SyntheticAddr::from_socket_addr(addr)?;
        let table = self.read();
        let peer = table.peers.get(&addr)?;
        peer.sent.fetch_add(1, Ordering::Relaxed);
        if !peer.is_watched.load(Ordering::Relaxed) && !peer.is_watched.swap(true, Ordering::Relaxed) {
            self.woken.notify_one();
        }
        peer.route
    }

    /// Waits until data goes to a peer that is not watched, which it is from then on.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// What has gone to and come from those that are watched.
    pub(crate) fn flows(&self) -> BTreeMap<NodeId, Flow> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let table = self.read();
        let watched = table.peers.values().filter(|peer| peer.is_watched.load(Ordering::Relaxed));
        watched
            .map(|peer| (peer.id, Flow { sent: read(&peer.sent), received: read(&peer.received) }))
            .collect()
    }

    /// Ends the watch over a peer, until data goes to it again.
    pub(crate) fn unwatch(&self, peer: &NodeId) {
        if let Some(peer) = self.read().peers.get(&SyntheticAddr::of(peer)) {
            peer.is_watched.store(false, Ordering::Relaxed);
        }
    }

    /// A view for one batch of received datagrams.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources(self.read())
    }

    /// Every write leaves the table whole, so a poisoned lock (a panic elsewhere) harms nothing.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks up who sent what, under one lock for a whole batch.
pub(crate) struct Sources<'a>(RwLockReadGuard<'a, Table>);

impl Sources<'_> {
    /// The peer verified at `source`, as the main socket sees it.
    pub(crate) fn verified(&self, source: SocketAddr) -> Option<SyntheticAddr> {
        self.verified_by(normal(Way::main(source)))
    }

    /// The peer verified behind a channel of a relay.
    pub(crate) fn relayed(&self, channel: Channel) -> Option<SyntheticAddr> {
        self.verified_by(*self.0.ways.get(&channel)?)
    }

    /// True for the address of a server that relays for this node by the main socket.
    pub(crate) fn is_relay(&self, source: SocketAddr) -> bool {
        // A node has a relay or none, so the list of their addresses is as short as lists get.
        !self.0.ways.is_empty()
            && self.0.ways.keys().any(|channel| channel.socket == Socket::Main && channel.server == source)
    }

    /// The way by the main socket from `source`, if a handshake may come by it whose check is still to be read.
    pub(crate) fn expected(&self, source: SocketAddr) -> Option<Way> {
        let is_any = !self.0.expected.is_empty();
        is_any.then(|| normal(Way::main(source))).filter(|way| self.0.expected.contains_key(way))
    }

    /// The same for the way that a channel stands for.
    pub(crate) fn expected_by(&self, channel: Channel) -> Option<Way> {
        self.0.ways.get(&channel).copied().filter(|way| self.0.expected.contains_key(way))
    }

    fn verified_by(&self, way: Way) -> Option<SyntheticAddr> {
        self.0.verified_by(way)
    }
}

impl Table {
    fn verified_by(&self, way: Way) -> Option<SyntheticAddr> {
        let addr = self.sources.get(&way).copied()?;
        let peer = self.peers.get(&addr).filter(|peer| peer.can_be_answered())?;
        peer.received.fetch_add(1, Ordering::Relaxed);
        Some(addr)
    }

    /// What goes by a way now.
    fn flights(&self, way: Way, datagrams: Packets) -> Vec<Flight> {
        let Some(route) = self.route_by(way) else { return Vec::new() };
        datagrams.into_iter().map(|datagram| (route, datagram)).collect()
    }

    fn set(&mut self, id: &NodeId, way: Way) -> Result<Vec<Flight>, PathError> {
        let route = self.route_by(way);
        let peer = self.hear(id, way)?;
        peer.route = route;
        let is_answered = peer.received.load(Ordering::Relaxed) > 0;
        let flights = self.end_provisional(SyntheticAddr::of(id));
        Ok(if is_answered { Vec::new() } else { self.flights(way, flights) })
    }

    fn expect(&mut self, id: &NodeId, way: Way) -> Result<Vec<Flight>, PathError> {
        let peer = self.peer(id)?;
        if peer.route.is_some() {
            return Ok(Vec::new());
        }
        let begun = peer.provisional.get_or_insert_default();
        let flights = begun.allow(way);
        if begun.ways().contains(&way) {
            self.expected.insert(way, SyntheticAddr::of(id));
        }
        Ok(self.flights(way, flights))
    }

    fn provisional(&mut self, addr: SocketAddr, datagram: &[u8]) -> (Vec<Route>, usize) {
        let peer = SyntheticAddr::from_socket_addr(addr).and_then(|addr| self.peers.get_mut(&addr));
        let begun = peer.filter(|peer| peer.route.is_none()).and_then(|peer| peer.provisional.as_mut());
        let (ways, len) = begun.map(|begun| begun.send(datagram)).unwrap_or_default();
        (ways.into_iter().filter_map(|way| self.route_by(way)).collect(), len)
    }

    fn end_provisional(&mut self, addr: SyntheticAddr) -> Packets {
        let begun = self.peers.get_mut(&addr).and_then(|peer| peer.provisional.take());
        let Some(begun) = begun else { return Vec::new() };
        for way in begun.ways() {
            self.expected.remove(way);
        }
        begun.into_flights()
    }

    fn route_by(&self, way: Way) -> Option<Route> {
        match way.leg {
            Leg::Main | Leg::Extra(_) => Some(Route::Direct(way.remote)),
            Leg::Relay(_) => self.channels.get(&way).copied().map(Route::Relayed),
        }
    }

    fn set_channel(&mut self, way: Way, channel: Option<Channel>) {
        let before = match channel {
            Some(channel) => {
                self.ways.insert(channel, way);
                self.channels.insert(way, channel).filter(|before| *before != channel)
            }
            None => self.channels.remove(&way),
        };
        let Some(before) = before else { return };
        self.ways.remove(&before);
        if let Some(peer) = self.sources.get(&way).and_then(|addr| self.peers.get_mut(addr))
            && peer.route == Some(Route::Relayed(before))
        {
            peer.route = channel.map(Route::Relayed);
        }
    }

    fn peer(&mut self, id: &NodeId) -> Result<&mut Peer, PathError> {
        let addr = SyntheticAddr::of(id);
        match self.peers.get(&addr) {
            Some(peer) if peer.id != *id => return Err(PathError::Collision),
            None if self.peers.len() >= MAX_PEERS => return Err(PathError::Full),
            Some(_) | None => {}
        }
        Ok(self.peers.entry(addr).or_insert_with(|| Peer::new(*id)))
    }

    fn hear(&mut self, id: &NodeId, remote: Way) -> Result<&mut Peer, PathError> {
        let addr = SyntheticAddr::of(id);
        self.peer(id)?;
        if let Some(before) = self.sources.insert(remote, addr)
            && before != addr
        {
            self.withdraw(before, remote);
        }
        let peer = self.peers.entry(addr).or_insert_with(|| Peer::new(*id));
        peer.remotes.retain(|known| *known != remote);
        peer.remotes.push_front(remote);
        for forgotten in peer.remotes.drain(REMOTES_PER_PEER.min(peer.remotes.len())..) {
            self.sources.remove(&forgotten);
        }
        Ok(peer)
    }

    fn withdraw(&mut self, addr: SyntheticAddr, remote: Way) {
        let route = self.route_by(remote);
        if let Some(peer) = self.peers.get_mut(&addr) {
            peer.remotes.retain(|known| *known != remote);
            if peer.route == route {
                peer.route = None;
            }
        }
    }

    fn remove(&mut self, id: &NodeId) {
        let addr = SyntheticAddr::of(id);
        let is_its = self.peers.get(&addr).is_some_and(|peer| peer.id == *id);
        if is_its {
            self.end_provisional(addr);
        }
        if is_its && let Some(peer) = self.peers.remove(&addr) {
            for remote in peer.remotes {
                self.sources.remove(&remote);
            }
        }
    }
}

/// One spelling per endpoint: IPv4 without its IPv6 dress, no flow label, and a scope only where
/// an address means nothing without one (RFC 4007, section 6).
fn normal(way: Way) -> Way {
    let remote = match addr::unmap(way.remote) {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
        }
        other => SocketAddr::new(other.ip(), other.port()),
    };
    // Which of the node's own sockets carries what goes straight there, the socket knows.
    let leg = if matches!(way.leg, Leg::Extra(_)) { Leg::Main } else { way.leg };
    Way { leg, remote }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::from(([20, 0, 0, 1], port))
    }

    fn heard(paths: &PathTable, ports: impl IntoIterator<Item = u16>) -> Vec<u16> {
        let sources = paths.sources();
        ports.into_iter().filter(|port| sources.verified(remote(*port)).is_some()).collect()
    }

    #[test]
    fn a_change_keeps_the_last_addresses_and_no_more() {
        let (paths, peer) = (PathTable::default(), node(1));
        let newest = 2 + REMOTES_PER_PEER as u16;
        for port in 1..=newest {
            paths.set(&peer, Way::main(remote(port))).unwrap();
            assert_eq!(paths.route_to(&peer), Some(Route::Direct(remote(port))));
        }
        let kept: Vec<u16> = (3..=newest).collect();
        assert_eq!(heard(&paths, 1..=newest + 1), kept);

        paths.set(&peer, Way::main(remote(3))).unwrap();
        assert_eq!(paths.route_to(&peer), Some(Route::Direct(remote(3))));
        assert_eq!(heard(&paths, 1..=newest + 1), kept, "going back displaces nothing");

        paths.remove(&peer);
        assert_eq!(paths.route_to(&peer), None);
        assert_eq!(heard(&paths, 1..=7), [0; 0]);
    }

    #[test]
    fn hearing_is_not_sending() {
        let (paths, peer) = (PathTable::default(), node(1));
        paths.hear(&peer, Way::main(remote(1))).unwrap();
        assert_eq!((paths.route_to(&peer), heard(&paths, [1])), (None, vec![]), "no answer could go out yet");
        paths.set(&peer, Way::main(remote(2))).unwrap();
        paths.hear(&peer, Way::main(remote(3))).unwrap();
        assert_eq!(paths.route_to(&peer), Some(Route::Direct(remote(2))));
        assert_eq!(heard(&paths, 1..=4), [1, 2, 3]);
    }

    #[test]
    fn a_relayed_way_is_a_channel() {
        let (paths, peer) = (PathTable::default(), node(1));
        let server: SocketAddr = "20.0.0.9:3478".parse().unwrap();
        let channel = |number| Channel { socket: Socket::Main, server, number };
        let way = Way { leg: Leg::Relay(meetpoint_agent::AllocationId(1)), remote: remote(1) };
        paths.set_channel(way, Some(channel(0x4000)));
        paths.set(&peer, way).unwrap();
        assert_eq!(paths.route_to(&peer), Some(Route::Relayed(channel(0x4000))));
        let addr = SyntheticAddr::of(&peer);
        let relayed = |number| paths.sources().relayed(channel(number));
        assert_eq!((relayed(0x4000), relayed(0x4001)), (Some(addr), None));
        assert!(paths.sources().is_relay(server) && !paths.sources().is_relay(remote(1)));
        assert_eq!(heard(&paths, [1]), [0; 0], "the same address is somebody else by the main socket");

        paths.set(&peer, Way::main(remote(2))).unwrap();
        assert_eq!(relayed(0x4000), Some(addr), "what is under way still arrives");
        paths.set(&peer, way).unwrap();
        paths.set_channel(way, None);
        assert_eq!((paths.route_to(&peer), relayed(0x4000)), (None, None));
    }

    #[test]
    fn the_newest_check_owns_an_address() {
        let (paths, old, new) = (PathTable::default(), node(1), node(2));
        paths.set(&old, Way::main(remote(1))).unwrap();
        paths.set(&new, Way::main(remote(1))).unwrap();
        assert_eq!(paths.route_to(&old), None);
        assert_eq!(paths.sources().verified(remote(1)), Some(SyntheticAddr::of(&new)));

        paths.remove(&old);
        assert_eq!(heard(&paths, [1]), [1], "the address is no longer the old peer's to remove");
    }

    #[test]
    fn one_endpoint_has_one_spelling() {
        let cases = [
            ("20.0.0.1:5", "[::ffff:20.0.0.1]:5", true),
            ("[2606:4700::1]:5", "[2606:4700::1%7]:5", true),
            ("[fe80::1%2]:5", "[fe80::1%3]:5", false),
            ("20.0.0.1:5", "20.0.0.1:6", false),
        ];
        for (set, seen, expect) in cases {
            let paths = PathTable::default();
            paths.set(&node(1), Way::main(set.parse().unwrap())).unwrap();
            let verified = paths.sources().verified(seen.parse().unwrap());
            assert_eq!(verified.is_some(), expect, "{set} heard as {seen}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_fails_closed() {
        let paths = PathTable::default();
        for number in 0..u16::try_from(MAX_PEERS).unwrap() {
            paths.set(&node(number), Way::main(remote(number))).unwrap();
        }
        assert_eq!(paths.set(&node(u16::MAX), Way::main(remote(65_000))), Err(PathError::Full));
        assert_eq!(
            paths.set(&node(7), Way::main(remote(65_000))),
            Ok(Vec::new()),
            "a known peer may always move"
        );

        let mut twin = *node(7).as_bytes();
        twin[31] ^= 1;
        let twin = NodeId::from_bytes(twin);
        assert_eq!(paths.set(&twin, Way::main(remote(65_001))), Err(PathError::Collision));
        assert_eq!(paths.route_to(&twin), None);
        paths.remove(&twin);
        assert!(paths.route_to(&node(7)).is_some());
    }

    #[test]
    fn only_synthetic_addresses_are_peers() {
        let paths = PathTable::default();
        paths.set(&node(1), Way::main(remote(1))).unwrap();
        let addr = SyntheticAddr::of(&node(1)).socket_addr();
        assert_eq!(paths.peer_at(addr), Some(node(1)));
        assert_eq!(paths.route(addr), Some(Route::Direct(remote(1))));
        for other in [remote(1), SocketAddr::new(addr.ip(), 2), "[fd00::1]:1".parse().unwrap()] {
            assert_eq!(paths.route(other), None, "{other}");
        }
    }
}
