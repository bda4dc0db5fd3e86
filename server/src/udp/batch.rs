//! Datagrams in batches: many a system call, and many of one flow in one send (UDP generic
//! segmentation offload, where the kernel cuts one buffer into datagrams of equal size).
//!
//! A packet costs a relay little but the kernel's work, and most of that is paid by the call and by
//! the way through the IP stack, not by the byte. So what is received in one go is sent in one go,
//! flow by flow. The order within a flow stays.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendto};
use tracing::{debug, trace};

/// Datagrams received by one call. More brings nothing that can be measured, and the other sockets would
/// wait longer for their turn.
const BATCH: usize = 64;
/// The longest datagram there is: what is relayed must not be cut off.
const DATAGRAM_BYTES: usize = 65_536;
/// One buffer's distance to the next. Without the odd cache lines between them, all would start in the
/// same set of the processor's cache.
const STRIDE: usize = DATAGRAM_BYTES + 3 * 64;
/// What fits an Ethernet frame; longer datagrams come in fragments.
const ORDINARY_BYTES: usize = 1500;
/// A first guess at how many datagrams wait; preparing a header costs about as much as a lookup.
const FIRST_GUESS: usize = 8;
/// Packets that wait to be sent. When there are more, or more bytes, they are sent before the next
/// are received.
const MAX_WAITING: usize = 4 * BATCH;
const MAX_WAITING_BYTES: usize = 1 << 20;
/// Datagrams the kernel takes as one buffer (its UDP_MAX_SEGMENTS, before 6.9).
const MAX_SEGMENTS: usize = 64;
/// What one buffer may hold: the longest datagram, since it travels as one.
const MAX_SEGMENTED_BYTES: usize = 65_507;
/// Longer datagrams may not fit the way's MTU, and what has to be fragmented can't be segmented.
const MAX_SEGMENT_BYTES: usize = 1452;
/// Messages of one sending call.
const MAX_MESSAGES: usize = 64;

/// Where received datagrams are put. Beyond the ordinary its memory is touched only as far as datagrams
/// reach.
pub(super) struct Receiver {
    buffers: Box<[u8]>,
    /// One set for each family: the kernel leaves an address' length behind, to which the next one
    /// would be cut.
    headers: [MultiHeaders<SockaddrStorage>; 2],
    guess: usize,
}

impl Receiver {
    pub(super) fn new() -> Self {
        let headers = || MultiHeaders::preallocate(BATCH, None);
        let mut buffers = vec![0; BATCH * STRIDE].into_boxed_slice();
        // The pages that ordinary datagrams need are taken now: a flood finds the resident memory as
        // large as it will ever be.
        for buffer in buffers.chunks_exact_mut(STRIDE) {
            buffer[..ORDINARY_BYTES].fill(1);
        }
        Self { buffers, headers: [headers(), headers()], guess: FIRST_GUESS }
    }

    /// Gives `take` the datagrams that wait at a socket, as many as one call takes, and says how many there were.
    ///
    /// # Errors
    /// The socket's, such as a peer's "port unreachable", which is taken from it by this.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        is_ipv6: bool,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> Result<usize, Errno> {
        let mut slices: Vec<_> = self
            .buffers
            .chunks_exact_mut(STRIDE)
            .take(self.guess)
            .map(|buffer| [IoSliceMut::new(&mut buffer[..DATAGRAM_BYTES])])
            .collect();
        let headers = &mut self.headers[usize::from(is_ipv6)];
        let received =
            match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(0),
                Err(error) => return Err(error),
            };
        let mut count = 0;
        for message in received {
            count += 1;
            let source = message.address.as_ref().and_then(socket_addr);
            let payload = message.iovs().next().unwrap_or_default();
            if let Some(source) = source {
                take(source, payload);
            }
        }
        self.guess = (2 * count).clamp(FIRST_GUESS, BATCH);
        Ok(count)
    }
}

pub(super) fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

/// Which socket a packet leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Via {
    /// A listener, by its index.
    Listener(u8),
    /// A relay socket, by its index.
    Relay { index: u32, dont_fragment: bool },
}

struct Packet {
    via: Via,
    to: SocketAddr,
    start: usize,
    len: usize,
}

/// Packets that wait to be sent.
pub(super) struct Outbox {
    arena: Vec<u8>,
    packets: Vec<Packet>,
    sender: Sender,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { arena: Vec::new(), packets: Vec::with_capacity(MAX_WAITING), sender: Sender::new() }
    }

    /// Adds a datagram that is made of these parts.
    pub(super) fn push(&mut self, via: Via, to: SocketAddr, parts: [&[u8]; 3]) {
        let start = self.arena.len();
        for part in parts {
            self.arena.extend_from_slice(part);
        }
        self.packets.push(Packet { via, to, start, len: self.arena.len() - start });
    }

    /// True if it is time to send.
    pub(super) fn is_full(&self) -> bool {
        self.packets.len() >= MAX_WAITING || self.arena.len() >= MAX_WAITING_BYTES
    }

    /// Sends all that waits. What the kernel does not take now is lost, as anywhere on the way.
    pub(super) fn flush(&mut self, mut socket: impl FnMut(Via) -> Option<RawFd>) {
        if self.packets.is_empty() {
            return;
        }
        // Flow by flow, each in the order of arrival, which is that of the arena.
        self.packets.sort_unstable_by_key(|packet| (packet.via, packet.to, packet.start));
        for group in self.packets.chunk_by(|a, b| a.via == b.via) {
            if let Some(socket) = group.first().and_then(|packet| socket(packet.via)) {
                self.sender.send(socket, &self.arena, group);
            }
        }
        self.packets.clear();
        self.arena.clear();
    }
}

/// A datagram, or several of one flow that go as one buffer.
struct Outgoing {
    /// In the group.
    packets: Range<usize>,
    /// The length of each datagram but the last, if there are several.
    segment: Option<u16>,
    /// The longest datagram.
    len: usize,
}

struct Sender {
    plain: MultiHeaders<SockaddrStorage>,
    segmented: MultiHeaders<SockaddrStorage>,
    /// Until the kernel says that it can't.
    can_segment: bool,
}

impl Sender {
    fn new() -> Self {
        let space = nix::cmsg_space!(u16);
        Self {
            plain: MultiHeaders::preallocate(MAX_MESSAGES, None),
            segmented: MultiHeaders::preallocate(MAX_MESSAGES, Some(space)),
            can_segment: true,
        }
    }

    /// Sends the packets of one socket.
    fn send(&mut self, socket: RawFd, arena: &[u8], group: &[Packet]) {
        let slice = |packet: &Packet| IoSlice::new(&arena[packet.start..packet.start + packet.len]);
        let slices: Vec<_> = group.iter().map(slice).collect();
        let outgoing = self.merge(group);
        let mut rest = outgoing.as_slice();
        // What ICMP said of an earlier datagram is told by the next call, which then sends nothing. So an
        // error is believed when it comes again.
        let mut is_told = false;
        while !rest.is_empty() {
            let (count, segment) = alike(rest);
            let sent = self.send_alike(socket, &slices, group, &rest[..count], segment);
            rest = match sent {
                Ok(sent) => {
                    is_told = false;
                    &rest[sent..]
                }
                Err(Errno::EINTR) => rest,
                // The socket's buffer is full, and so it is for what follows.
                Err(Errno::EAGAIN) => return,
                Err(_) if !is_told => {
                    is_told = true;
                    rest
                }
                Err(error) => {
                    is_told = false;
                    let (first, others) = (&rest[0], &rest[1..]);
                    trace!(%error, "a datagram was not sent");
                    if segment.is_some() && first.segment.is_some() {
                        self.send_singly(socket, &slices, group, first, error);
                    }
                    others
                }
            };
        }
    }

    /// Puts together what may go as one buffer.
    fn merge(&self, group: &[Packet]) -> Vec<Outgoing> {
        let mut all: Vec<Outgoing> = Vec::with_capacity(group.len());
        for (at, packet) in group.iter().enumerate() {
            if let Some(last) = all.last_mut().filter(|_| self.can_segment) {
                let first = &group[last.packets.start];
                let before = &group[at - 1];
                let count = last.packets.len();
                let fits = first.to == packet.to
                    && before.len == first.len
                    && (1..=first.len).contains(&packet.len)
                    && first.len <= MAX_SEGMENT_BYTES
                    && count < MAX_SEGMENTS
                    && count * first.len + packet.len <= MAX_SEGMENTED_BYTES;
                if fits {
                    last.packets.end = at + 1;
                    last.segment = Some(first.len as u16);
                    continue;
                }
            }
            all.push(Outgoing { packets: at..at + 1, segment: None, len: packet.len });
        }
        all
    }

    fn send_alike(
        &mut self,
        socket: RawFd,
        slices: &[IoSlice<'_>],
        group: &[Packet],
        messages: &[Outgoing],
        segment: Option<u16>,
    ) -> Result<usize, Errno> {
        let iovecs: Vec<_> = messages.iter().map(|message| &slices[message.packets.clone()]).collect();
        let address = |message: &Outgoing| Some(SockaddrStorage::from(group[message.packets.start].to));
        let addresses: Vec<_> = messages.iter().map(address).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = match &segment {
            None => sendmmsg(socket, &mut self.plain, &iovecs, &addresses, [], flags)?,
            Some(segment) => {
                let control = [ControlMessage::UdpGsoSegments(segment)];
                sendmmsg(socket, &mut self.segmented, &iovecs, &addresses, control, flags)?
            }
        };
        // At least one, or there would have been an error.
        Ok(sent.count().max(1))
    }

    /// Sends one by one what the kernel did not take as one buffer. If that helps, the kernel, or the
    /// interface, can't segment.
    fn send_singly(
        &mut self,
        socket: RawFd,
        slices: &[IoSlice<'_>],
        group: &[Packet],
        message: &Outgoing,
        error: Errno,
    ) {
        let mut is_sent = false;
        for at in message.packets.clone() {
            let to = SockaddrStorage::from(group[at].to);
            is_sent |= sendto(socket, &slices[at], &to, MsgFlags::MSG_DONTWAIT).is_ok();
        }
        if is_sent && matches!(error, Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) {
            debug!(%error, "datagrams are sent one by one from now on: there is no segmentation");
            self.can_segment = false;
        }
    }
}

/// How many of these one call can send, and the segment size for it. A datagram of its own may go
/// with any size that is not shorter.
fn alike(messages: &[Outgoing]) -> (usize, Option<u16>) {
    let mut segment = None;
    let mut longest = 0;
    let mut count = 0;
    for message in messages.iter().take(MAX_MESSAGES) {
        let fits = match (segment, message.segment) {
            (None, None) => true,
            (None, Some(own)) => longest <= usize::from(own),
            (Some(all), None) => message.len <= usize::from(all),
            (Some(all), Some(own)) => all == own,
        };
        if !fits {
            break;
        }
        segment = segment.or(message.segment);
        longest = longest.max(message.len);
        count += 1;
    }
    (count, segment)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn socket() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    }

    /// What waits at a socket. On loopback all of it has arrived when the sending call returns.
    fn arrived(receiver: &mut Receiver, socket: &UdpSocket) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while receiver.receive(socket.as_fd(), false, |_, payload| all.push(payload.to_vec())).unwrap() > 0 {}
        all
    }

    fn check(can_segment: bool, lens: &[usize]) {
        let (from, _) = socket();
        let targets = [socket(), socket()];
        let mut outbox = Outbox::new();
        outbox.sender.can_segment = can_segment;
        let payload = |at: usize, len: usize| vec![at as u8; len];
        // Two flows, interleaved.
        for (at, &len) in lens.iter().enumerate() {
            for (_, to) in &targets {
                outbox.push(Via::Listener(0), *to, [&payload(at, len), b"", b""]);
            }
        }
        outbox.flush(|_| Some(from.as_raw_fd()));
        let mut receiver = Receiver::new();
        let expected: Vec<_> = lens.iter().enumerate().map(|(at, &len)| payload(at, len)).collect();
        for (target, _) in &targets {
            assert_eq!(arrived(&mut receiver, target), expected, "{can_segment} {lens:?}");
        }
    }

    #[test]
    fn each_flow_arrives_whole_and_in_order() {
        for can_segment in [false, true] {
            check(can_segment, &[120]);
            check(can_segment, &[120; 3]);
            check(can_segment, &[120, 120, 7, 120, 120]);
            check(can_segment, &[0, 1, 0, 1]);
            check(can_segment, &[7, 120, 1200, 1200, 1200, 30]);
            check(can_segment, &[1452; 50]);
            check(can_segment, &[1453; 3]);
            check(can_segment, &[20_000, 20_000, 60_000]);
            check(can_segment, &[64; 2 * MAX_SEGMENTS + 1]);
        }
    }

    #[test]
    fn a_datagram_that_cant_be_sent_costs_the_others_nothing() {
        let (from, _) = socket();
        let (target, to) = socket();
        let mut outbox = Outbox::new();
        let unreachable = "240.0.0.1:9".parse().unwrap();
        for at in 0..3 {
            outbox.push(Via::Listener(0), unreachable, [&[at], b"", b""]);
            outbox.push(Via::Listener(0), to, [&[at], b"", b""]);
            outbox.push(Via::Relay { index: 1, dont_fragment: false }, to, [b"closed", b"", b""]);
        }
        outbox.flush(|via| (via == Via::Listener(0)).then(|| from.as_raw_fd()));
        assert_eq!(arrived(&mut Receiver::new(), &target), [[0], [1], [2]]);
        assert!(!outbox.is_full() && outbox.packets.is_empty());
    }

    /// A peer that is not there costs the others nothing either, although the socket has its error.
    #[test]
    fn what_icmp_said_of_one_datagram_costs_no_other() {
        let (from, _) = socket();
        nix::sys::socket::setsockopt(&from, nix::sys::socket::sockopt::Ipv4RecvErr, &true).unwrap();
        let (target, to) = socket();
        let (closed, nobody) = socket();
        drop(closed);
        let mut outbox = Outbox::new();
        outbox.push(Via::Listener(0), nobody, [b"knock", b"", b""]);
        outbox.flush(|_| Some(from.as_raw_fd()));
        // On loopback the error is there when the call returns.
        outbox.push(Via::Listener(0), to, [b"hello", b"", b""]);
        outbox.flush(|_| Some(from.as_raw_fd()));
        assert_eq!(arrived(&mut Receiver::new(), &target), [b"hello"]);
    }

    #[test]
    fn parts_make_one_datagram() {
        let (from, _) = socket();
        let (target, to) = socket();
        let mut outbox = Outbox::new();
        outbox.push(Via::Listener(0), to, [b"head", b"payload", b"tail"]);
        outbox.flush(|_| Some(from.as_raw_fd()));
        assert_eq!(arrived(&mut Receiver::new(), &target), [b"headpayloadtail"]);
    }

    #[test]
    fn an_ipv6_source_is_read_whole_after_an_ipv4_one() {
        let mut receiver = Receiver::new();
        for (bind, is_ipv6) in
            [("127.0.0.1:0", false), ("[::1]:0", true), ("127.0.0.1:0", false), ("[::1]:0", true)]
        {
            let (target, from) = (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap());
            from.send_to(b"x", target.local_addr().unwrap()).unwrap();
            let mut sources = Vec::new();
            receiver.receive(target.as_fd(), is_ipv6, |source, _| sources.push(source)).unwrap();
            assert_eq!(sources, [from.local_addr().unwrap()]);
        }
    }
}
