//! The node's one socket: STUN, punch checks and QUIC share its ports.
//!
//! A check opens a NAT for the port it was sent from, so everything a peer is to reach must leave
//! by that port. The socket is a pair: one for IPv4 and, where the system has it, one for IPv6
//! only. A dual-stack socket would save a descriptor, but a node of a private cluster must be
//! able to bind no IPv6 at all, and the per-packet options that punching needs differ by family.
//!
//! QUIC drives reception: while an endpoint runs on it, [`Mux`] hands QUIC what verified peers
//! sent, under their synthetic addresses ([`crate::paths`]), and the driver all STUN through a
//! bounded channel. Everything else is dropped and counted.
//!
//! **No error of a socket reaches QUIC**, where it would end the endpoint or a connection: an
//! unreachable network is a path that the agent will replace, and until then loss, which QUIC
//! repairs. Only the end of the runtime is passed on.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use meetpoint_agent::{Channel, Socket as Leg, StreamId, Way};
use meetpoint_proto::stun::is_stun;
use meetpoint_proto::{NodeId, addr};
use meetpoint_stun::{CHANNEL_HEADER_LEN, read_channel_data};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::demux::{self, Tally};
use crate::egress::Egress;
use crate::extras::{Arrived, Extras};
use crate::paths::{Flight, PathError, PathTable, Route, Sources, SyntheticAddr};
use crate::provisional::is_handshake;
use crate::relay::{self, Relayed, Streams};

/// STUN messages waiting for the driver. A punch is tens of them; a flood is dropped here.
const STUN_QUEUE: usize = 256;

/// Kernel buffers asked for, in bytes: 10 ms at 1.6 Gbit/s. The system may grant less.
const SOCKET_BUFFER_LEN: usize = 2 << 20;

/// Failed reads in a row before the socket yields; each consumed one queued error.
const MAX_FAILED_READS: usize = 32;

/// Where to bind. Port 0 takes a free one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BindAddrs {
    /// The IPv4 side.
    pub(crate) v4: SocketAddrV4,
    /// The IPv6 side; `None` binds none.
    pub(crate) v6: Option<SocketAddrV6>,
}

/// Why the socket could not be had.
#[derive(Debug, Error)]
#[error("cannot bind UDP {addr}: {source}; choose another port, or 0 for a free one")]
pub(crate) struct BindError {
    addr: SocketAddr,
    source: io::Error,
}

/// One STUN message, copied out of the socket's buffer.
#[derive(Debug, Clone)]
pub(crate) struct StunDatagram {
    /// On which socket.
    pub(crate) socket: meetpoint_agent::Socket,
    /// Where it came from, as received: nothing is known about this address yet.
    pub(crate) source: SocketAddr,
    /// The message.
    pub(crate) bytes: Box<[u8]>,
    /// When it was read, so that waiting in the channel does not count as round trip.
    pub(crate) received: Instant,
}

/// Datagrams counted since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// QUIC packets from verified peers.
    pub quic: u64,
    /// STUN messages given to the driver.
    pub stun: u64,
    /// STUN messages dropped because the driver was behind.
    pub stun_dropped: u64,
    /// Datagrams other than STUN from a source no check has verified; dropped, but for handshakes whose check is being
    /// read.
    pub unverified: u64,
    /// Datagrams that are nothing a node speaks; dropped.
    pub stray: u64,
    /// QUIC sends, of one datagram or a batch, dropped because the peer has no path.
    pub no_path: u64,
    /// QUIC sends, of one datagram or a batch, that the system refused.
    pub send_failed: u64,
    /// Reads that failed.
    pub receive_failed: u64,
    /// What a node that insists on a PRIVATE cluster did not do because it would have left the private network: sends,
    /// connections and look-ups of names. Counted by the whole node, not only by its socket.
    pub blocked: u64,
}

#[derive(Debug, Default)]
struct Counters {
    quic: AtomicU64,
    stun: AtomicU64,
    stun_dropped: AtomicU64,
    unverified: AtomicU64,
    stray: AtomicU64,
    no_path: AtomicU64,
    send_failed: AtomicU64,
    receive_failed: AtomicU64,
}

/// The socket pair. One QUIC endpoint runs on it, and the driver sends its STUN by it.
#[derive(Debug)]
pub(crate) struct Mux {
    v4: Family,
    v6: Option<Family>,
    paths: Arc<PathTable>,
    stun: mpsc::Sender<StunDatagram>,
    extras: Extras,
    /// What came to the extra sockets for QUIC.
    arrived: Mutex<mpsc::Receiver<Arrived>>,
    egress: Arc<Egress>,
    counters: Counters,
    /// Packets that came by a relay and could not stay where they arrived.
    relayed: Relayed,
    /// The streams to a relay.
    streams: Streams,
    /// This node under its own synthetic address: QUIC speaks IPv6 only if its socket does.
    local: SyntheticAddr,
    /// Which family is read first; it alternates, so that neither starves the other.
    v6_first: AtomicBool,
}

impl Mux {
    /// Binds the pair for node `local`; its STUN comes out of the returned channel.
    ///
    /// A host without IPv6 gets only the IPv4 side.
    ///
    /// # Errors
    /// If an address cannot be bound; nothing stays bound then.
    pub(crate) fn bind(
        addrs: BindAddrs,
        local: &NodeId,
        paths: Arc<PathTable>,
        egress: Arc<Egress>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<StunDatagram>), BindError> {
        let (sender, receiver) = mpsc::channel(STUN_QUEUE);
        let v4 = Family::bind(addrs.v4.into())?;
        let v6 = match addrs.v6 {
            Some(addr) if host_has_ipv6() => Some(Family::bind(addr.into())?),
            Some(_) => {
                tracing::info!("this host has no IPv6");
                None
            }
            None => None,
        };
        let (extras, arrived) = Extras::new(Arc::clone(&egress), sender.clone());
        let mux = Self {
            extras,
            arrived: Mutex::new(arrived),
            v4,
            v6,
            paths,
            stun: sender,
            egress,
            counters: Counters::default(),
            relayed: Relayed::default(),
            streams: Streams::default(),
            local: SyntheticAddr::of(local),
            v6_first: AtomicBool::new(false),
        };
        Ok((Arc::new(mux), receiver))
    }

    /// The addresses bound: IPv4, then IPv6 if there is one.
    pub(crate) fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.families().map(|family| family.local)
    }

    /// The paths QUIC's datagrams take.
    pub(crate) fn paths(&self) -> &Arc<PathTable> {
        &self.paths
    }

    /// Sends to `peer` by `way` from now on. A handshake that has begun before and was not answered is not left to
    /// QUIC's patience.
    pub(crate) fn set_path(&self, peer: &NodeId, way: Way) -> Result<(), PathError> {
        self.paths.set(peer, way).map(|flights| self.send_flights(flights))
    }

    /// Hears `peer` by `way` too, and what came there a moment too soon.
    pub(crate) fn hear(&self, peer: &NodeId, way: Way) -> Result<(), PathError> {
        let (held, again) = self.paths.hear(peer, way)?;
        for packet in held {
            count(&self.counters.quic, 1);
            self.relayed.push(SyntheticAddr::of(peer), &packet);
        }
        self.send_flights(again);
        Ok(())
    }

    /// Takes what `peer` begins its handshake with, which came with its introduction. Nothing else comes that way.
    pub(crate) fn introduced(&self, peer: &NodeId, datagram: &[u8]) -> Result<(), PathError> {
        if is_handshake(datagram) && self.paths.come(peer)? {
            count(&self.counters.quic, 1);
            self.relayed.push(SyntheticAddr::of(peer), datagram);
        }
        Ok(())
    }

    /// QUIC's handshake with `peer` may go by `way` once more, although nothing was verified.
    pub(crate) fn expect(&self, peer: &NodeId, way: Way) -> Result<(), PathError> {
        self.paths.expect(peer, way).map(|flights| self.send_flights(flights))
    }

    fn send_flights(&self, flights: Vec<Flight>) {
        for (route, contents) in flights {
            let transmit = Transmit {
                destination: self.local.socket_addr(),
                ecn: None,
                contents: &contents,
                segment_size: None,
                src_ip: None,
            };
            self.send_provisionally(route, &transmit);
        }
    }

    /// Lost if the socket is full, as any datagram may be.
    fn send_provisionally(&self, route: Route, transmit: &Transmit<'_>) {
        if self.send_by(route, transmit).is_err() {
            count(&self.counters.send_failed, 1);
        }
    }

    fn send_by(&self, route: Route, transmit: &Transmit<'_>) -> io::Result<()> {
        match route {
            Route::Direct(remote) => self.send_direct(remote, transmit),
            Route::Relayed(channel) => self.send_relayed(channel, transmit),
        }
    }

    /// What QUIC says to a peer without a path: a handshake may have begun.
    fn send_without_path(&self, transmit: &Transmit<'_>) {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            let (routes, len) = self.paths.provisional(transmit.destination, datagram);
            if routes.is_empty() {
                count(&self.counters.no_path, 1);
            }
            for route in routes {
                let contents = &datagram[..len];
                self.send_provisionally(
                    route,
                    &Transmit { contents, segment_size: None, ..transmit.clone() },
                );
            }
        }
    }

    /// Keeps a handshake's datagram whose check is still to be read. False if it is none.
    fn hold(&self, way: Way, packet: &[u8]) -> bool {
        if !is_handshake(packet) {
            return false;
        }
        if let Some((sender, packet)) = self.paths.hold(way, packet.into()) {
            self.relayed.push(sender, &packet);
        }
        true
    }

    /// The sockets that peers were met by besides this one.
    pub(crate) fn extras(&self) -> &Extras {
        &self.extras
    }

    /// Sends one datagram of the driver's, without waiting. With a `ttl` it gets no farther than so many routers.
    ///
    /// # Errors
    /// What the system says, `WouldBlock` among it; `Unsupported` for IPv6 without IPv6; what the gate says. The
    /// datagram is then lost, as any may be.
    pub(crate) fn send_to(&self, remote: SocketAddr, bytes: &[u8], ttl: Option<u8>) -> io::Result<()> {
        let remote = addr::unmap(remote);
        let family = self.family_of(remote).ok_or(io::ErrorKind::Unsupported)?;
        self.egress.send_with_ttl(&SockRef::from(&family.io), remote, bytes, ttl)
    }

    /// The streams that relayed data goes by.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Takes a frame of a stream to a relay: QUIC's packets go to QUIC. False if it is the driver's.
    pub(crate) fn take_frame(&self, stream: StreamId, server: SocketAddr, frame: &[u8]) -> bool {
        let Some((number, data)) = read_channel_data(frame).filter(|(_, data)| !is_stun(data)) else {
            return false;
        };
        let channel = Channel { socket: Leg::Stream(stream), server, number };
        let (sender, expected) = {
            let sources = self.paths.sources();
            (sources.relayed(channel), sources.expected_by(channel))
        };
        match (sender, expected) {
            (Some(sender), _) => {
                count(&self.counters.quic, 1);
                self.relayed.push(sender, data);
            }
            (None, Some(way)) if self.hold(way, data) => {}
            (None, _) => count(&self.counters.unverified, 1),
        }
        true
    }

    /// The counts so far.
    pub(crate) fn stats(&self) -> SocketStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        SocketStats {
            quic: read(&counters.quic),
            stun: read(&counters.stun),
            stun_dropped: read(&counters.stun_dropped),
            unverified: read(&counters.unverified),
            stray: read(&counters.stray),
            no_path: read(&counters.no_path),
            send_failed: read(&counters.send_failed),
            receive_failed: read(&counters.receive_failed),
            blocked: self.egress.blocked(),
        }
    }

    fn families(&self) -> impl Iterator<Item = &Family> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    fn family_of(&self, remote: SocketAddr) -> Option<&Family> {
        match remote {
            SocketAddr::V4(_) => Some(&self.v4),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// Waits until both sides take a datagram: a poller is not told which one was full, and one
    /// that reported the other's readiness would spin.
    async fn writable(self: Arc<Self>) -> io::Result<()> {
        for family in self.families() {
            family.io.writable().await?;
        }
        Ok(())
    }

    fn send_direct(&self, remote: SocketAddr, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(family) = self.family_of(remote) else {
            count(&self.counters.no_path, 1);
            return Ok(());
        };
        if self.egress.check(remote).is_err() || self.extras.try_send(remote, transmit) {
            return Ok(());
        }
        let transmit = Transmit { destination: remote, src_ip: None, ..transmit.clone() };
        match family.io.try_io(Interest::WRITABLE, || family.state.try_send((&family.io).into(), &transmit)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                count(&self.counters.send_failed, 1);
                tracing::trace!(%remote, %error, "send failed");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A batch leaves as one, each of its packets behind a header of its own.
    fn send_relayed(&self, channel: Channel, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        match channel.socket {
            Leg::Main => {
                let contents = relay::wrap(channel.number, transmit.contents, segment);
                let segment_size = transmit.segment_size.map(|size| size + CHANNEL_HEADER_LEN);
                self.send_direct(
                    channel.server,
                    &Transmit { contents: &contents, segment_size, ..transmit.clone() },
                )
            }
            Leg::Stream(stream) => {
                for packet in transmit.contents.chunks(segment) {
                    if !self.streams.send(stream, relay::frame(channel.number, packet)) {
                        count(&self.counters.send_failed, 1);
                    }
                }
                Ok(())
            }
            Leg::Probe | Leg::Extra(_) => Ok(()),
        }
    }

    fn poll_family(
        &self,
        family: &Family,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_FAILED_READS {
            ready!(family.io.poll_recv_ready(cx))?;
            let read = || family.state.recv((&family.io).into(), buffers, metas);
            match family.io.try_io(Interest::READABLE, read) {
                Ok(messages) => {
                    self.sort_batch(&mut buffers[..messages], &mut metas[..messages]);
                    return Poll::Ready(Ok(messages));
                }
                // Readiness was stale; asking again registers the waker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    count(&self.counters.receive_failed, 1);
                    tracing::trace!(%error, "receive failed");
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One datagram that came to an extra socket, where a peer was met.
    fn poll_extra(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), metas.first_mut()) else {
            return Poll::Pending;
        };
        while let Some((source, bytes)) = ready!(arrived.poll_recv(cx)) {
            let len = bytes.len();
            if let Some(place) = buffer.get_mut(..len) {
                place.copy_from_slice(&bytes);
                *meta = RecvMeta { addr: source, len, stride: len, ..RecvMeta::default() };
                self.sort_batch(&mut buffers[..1], &mut metas[..1]);
                return Poll::Ready(1);
            }
        }
        Poll::Pending
    }

    /// Leaves QUIC's packets in the batch. Messages without any stay, with length zero, so that
    /// QUIC's own limit on work per turn also holds under a flood of others.
    fn sort_batch(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let received = Instant::now();
        let mut early = Vec::new();
        let sources = self.paths.sources();
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let source = meta.addr;
            if sources.is_relay(addr::unmap(source)) {
                note_relayed(&sources, buffer, meta, &mut early);
                let tally = self.sort_relayed(&sources, buffer, meta, received);
                self.count_all(tally);
                continue;
            }
            let sender = sources.verified(source);
            if let Some(way) = sources.expected(source).filter(|_| sender.is_none()) {
                let datagrams = demux::datagrams(buffer, meta).filter(|datagram| is_handshake(datagram));
                early.extend(datagrams.map(|datagram| (way, Box::from(datagram))));
            }
            let tally = demux::sort(buffer, meta, sender, |bytes| {
                let socket = Leg::Main;
                let message = StunDatagram { socket, source, bytes: bytes.into(), received };
                if self.stun.try_send(message).is_err() {
                    count(&self.counters.stun_dropped, 1);
                }
            });
            self.count_all(tally);
        }
        drop(sources);
        for (way, packet) in early {
            self.hold(way, &packet);
        }
    }

    fn sort_relayed(
        &self,
        sources: &Sources<'_>,
        buffer: &mut [u8],
        meta: &mut RecvMeta,
        received: Instant,
    ) -> Tally {
        let source = meta.addr;
        let server = addr::unmap(source);
        demux::sort_relayed(
            buffer,
            meta,
            |number| sources.relayed(Channel { socket: Leg::Main, server, number }),
            |bytes| {
                let socket = Leg::Main;
                let message = StunDatagram { socket, source, bytes: bytes.into(), received };
                if self.stun.try_send(message).is_err() {
                    count(&self.counters.stun_dropped, 1);
                }
            },
            |sender, packet| self.relayed.push(sender, packet),
        )
    }

    fn count_all(&self, tally: Tally) {
        count(&self.counters.quic, tally.quic);
        count(&self.counters.stun, tally.stun);
        count(&self.counters.unverified, tally.unverified);
        count(&self.counters.stray, tally.stray);
    }
}

impl AsyncUdpSocket for Mux {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { mux: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.paths.route(transmit.destination) {
            Some(route) => self.send_by(route, transmit),
            None => {
                self.send_without_path(transmit);
                Ok(())
            }
        }
    }

    /// Returns as soon as one side has something; the other's turn comes with the next call,
    /// which QUIC makes until both are pending and have its waker.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(messages) = self.poll_extra(cx, bufs, meta) {
            return Poll::Ready(Ok(messages));
        }
        if let Poll::Ready(messages) = self.relayed.poll(cx, bufs, meta) {
            return Poll::Ready(Ok(messages));
        }
        let Some(v6) = &self.v6 else {
            return self.poll_family(&self.v4, cx, bufs, meta);
        };
        let pair =
            if self.v6_first.fetch_xor(true, Ordering::Relaxed) { [v6, &self.v4] } else { [&self.v4, v6] };
        for family in pair {
            if let Poll::Ready(outcome) = self.poll_family(family, cx, bufs, meta) {
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local.socket_addr())
    }

    /// The least of both sides, since a batch may be sent by either.
    fn max_transmit_segments(&self) -> usize {
        self.families().map(|family| family.state.max_gso_segments()).min().unwrap_or(1)
    }

    /// The most of both sides, since a batch may come by either.
    fn max_receive_segments(&self) -> usize {
        self.families().map(|family| family.state.gro_segments()).max().unwrap_or(1)
    }

    fn may_fragment(&self) -> bool {
        self.families().any(|family| family.state.may_fragment())
    }
}

/// One address family's socket.
struct Family {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl Family {
    fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        Self::try_bind(addr).map_err(|source| BindError { addr, source })
    }

    fn try_bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&io).into())?;
        // Buffers are a wish: a refusal costs throughput, not function.
        let _ = state.set_recv_buffer_size((&io).into(), SOCKET_BUFFER_LEN);
        let _ = state.set_send_buffer_size((&io).into(), SOCKET_BUFFER_LEN);
        let local = io.local_addr()?;
        Ok(Self { io, state, local })
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family({})", self.local)
    }
}

/// What came in a relay's channels whose peers' checks are still to be read.
fn note_relayed(sources: &Sources<'_>, buffer: &[u8], meta: &RecvMeta, early: &mut Vec<(Way, Box<[u8]>)>) {
    let server = addr::unmap(meta.addr);
    for datagram in demux::datagrams(buffer, meta) {
        let Some((number, data)) = read_channel_data(datagram) else { continue };
        let channel = Channel { socket: Leg::Main, server, number };
        let way = sources.expected_by(channel).filter(|_| is_handshake(data));
        if let Some(way) = way.filter(|_| sources.relayed(channel).is_none()) {
            early.push((way, data.into()));
        }
    }
}

/// A kernel without IPv6 makes no such socket. One with IPv6 but no IPv6 network does, and sends
/// by it fail until there is one, which needs no new socket.
fn host_has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).is_ok()
}

fn count(counter: &AtomicU64, datagrams: u64) {
    counter.fetch_add(datagrams, Ordering::Relaxed);
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Wakes one of QUIC's tasks. Each needs a future of its own: a socket keeps one waker only for
/// those who poll it directly, and a connection that lost its wake-up would never send again.
struct Poller {
    mux: Arc<Mux>,
    wait: Option<Writable>,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { mux, wait } = self.get_mut();
        let future = wait.get_or_insert_with(|| Box::pin(Arc::clone(mux).writable()));
        let outcome = ready!(future.as_mut().poll(cx));
        *wait = None;
        Poll::Ready(outcome)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}
