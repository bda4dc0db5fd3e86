//! A UDP socket that sends and receives in batches, and never waits.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};

use super::BenchError;

/// Datagrams a system call takes at most. More would not make a packet cheaper.
pub const BATCH: usize = 64;
/// Nothing here sends or expects a longer datagram than an Ethernet frame carries.
pub const MAX_DATAGRAM_LEN: usize = 1500;
/// The kernel's usual buffers hold 200 datagrams or so; a benchmark should lose none of its own.
const BUFFER_BYTES: usize = 4 << 20;

/// Opens a socket on `local`, non-blocking and with large buffers, as far as the kernel grants them.
///
/// # Errors
/// If the address is not this machine's, or has no port left.
pub fn open(local: SocketAddrV4) -> Result<UdpSocket, BenchError> {
    let socket = UdpSocket::bind(local).map_err(BenchError::io(format!("binding {local}")))?;
    socket.set_nonblocking(true).map_err(BenchError::io("a socket"))?;
    let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES);
    let _ = setsockopt(&socket, sockopt::SndBuf, &BUFFER_BYTES);
    Ok(socket)
}

/// The address of a socket.
///
/// # Errors
/// If it has none, or one of IPv6.
pub fn local_addr(socket: &UdpSocket) -> Result<SocketAddrV4, BenchError> {
    match socket.local_addr() {
        Ok(std::net::SocketAddr::V4(addr)) => Ok(addr),
        Ok(other) => Err(BenchError::Unexpected(format!("{other} is not IPv4"))),
        Err(error) => Err(BenchError::io("a socket's address")(error)),
    }
}

/// Datagrams that arrive.
struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    fn new() -> Self {
        Self { bytes: vec![0; BATCH * MAX_DATAGRAM_LEN] }
    }

    fn slices(&mut self) -> Vec<[IoSliceMut<'_>; 1]> {
        self.bytes.chunks_mut(MAX_DATAGRAM_LEN).map(|chunk| [IoSliceMut::new(chunk)]).collect()
    }
}

/// Datagrams that wait to be sent, one behind the other.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// The datagrams from the `first` on, one batch of them.
    fn slices(&self, first: usize) -> Vec<[IoSlice<'_>; 1]> {
        let mut start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends = self.ends.iter().skip(first).take(BATCH);
        ends.map(|&end| [IoSlice::new(&self.bytes[std::mem::replace(&mut start, end)..end])]).collect()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// A connected socket: it hears nobody but its peer. No address is copied for a datagram, hence the headers of `()`.
pub struct Wire {
    socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    sent: usize,
    incoming: MultiHeaders<()>,
    outgoing: MultiHeaders<()>,
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Wire {
    /// Takes a socket that is non-blocking and connected.
    #[must_use]
    pub fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            sent: 0,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Queues a datagram: `write` appends its bytes.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.push(write);
    }

    /// Sends what is queued. What the kernel has no room for stays queued.
    ///
    /// # Errors
    /// If the socket broke.
    pub fn flush(&mut self) -> Result<(), BenchError> {
        while self.sent < self.outbox.ends.len() {
            let slices = self.outbox.slices(self.sent);
            let addrs = [None; BATCH];
            let flags = MsgFlags::MSG_DONTWAIT;
            match sendmmsg(self.socket.as_raw_fd(), &mut self.outgoing, slices.iter(), addrs, [], flags) {
                Ok(results) => self.sent += results.count(),
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Ok(()),
                // The kernel reports what an earlier datagram met; this one was not sent, the next will be.
                Err(Errno::ECONNREFUSED) => {}
                Err(errno) => return Err(BenchError::os("sending")(errno)),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }

    /// Gives each datagram of one batch that has arrived to `each`; returns how many there were.
    ///
    /// # Errors
    /// If the socket broke.
    pub fn receive(&mut self, mut each: impl FnMut(&mut [u8])) -> Result<usize, BenchError> {
        let fd = self.socket.as_raw_fd();
        let mut lens = [0; BATCH];
        let mut count = 0;
        {
            let mut slices = self.inbox.slices();
            match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(results) => {
                    for (len, message) in lens.iter_mut().zip(results) {
                        *len = message.bytes;
                        count += 1;
                    }
                }
                Err(Errno::EAGAIN | Errno::ECONNREFUSED) => {}
                Err(errno) => return Err(BenchError::os("receiving")(errno)),
            }
        }
        for (chunk, len) in self.inbox.bytes.chunks_mut(MAX_DATAGRAM_LEN).zip(&lens[..count]) {
            each(&mut chunk[..*len]);
        }
        Ok(count)
    }

    /// Sends one batch of what has arrived back to where it came from, after `change` has seen each.
    ///
    /// # Errors
    /// If the socket broke.
    pub fn echo(&mut self, change: fn(&mut [u8])) -> Result<(), BenchError> {
        let mut outbox = std::mem::take(&mut self.outbox);
        let outcome = self.receive(|datagram| {
            change(datagram);
            outbox.push(|bytes| bytes.extend_from_slice(datagram));
        });
        self.outbox = outbox;
        outcome?;
        self.flush()
    }
}

/// The least that any relay must do to a packet: sends back what arrives on `local`, one batch a system call, until the
/// process is ended. What the kernel has no room for is lost.
///
/// # Errors
/// If the socket cannot be opened or breaks.
pub fn serve_echo(local: SocketAddrV4) -> Result<(), BenchError> {
    let socket = UdpSocket::bind(local).map_err(BenchError::io(format!("binding {local}")))?;
    let fd = socket.as_raw_fd();
    let mut inbox = Inbox::new();
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        let mut arrived = Vec::with_capacity(BATCH);
        {
            let mut slices = inbox.slices();
            match recvmmsg(fd, &mut incoming, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
                Ok(results) => arrived.extend(results.map(|message| (message.bytes, message.address))),
                Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(errno) => return Err(BenchError::os("receiving")(errno)),
            }
        }
        let chunks = inbox.bytes.chunks(MAX_DATAGRAM_LEN);
        let slices: Vec<_> =
            chunks.zip(&arrived).map(|(chunk, (len, _))| [IoSlice::new(&chunk[..*len])]).collect();
        let addrs: Vec<_> = arrived.iter().map(|(_, from)| *from).collect();
        match sendmmsg(fd, &mut outgoing, slices.iter(), &addrs, [], MsgFlags::empty()) {
            Ok(_) | Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::EPERM | Errno::ENOBUFS) => {}
            Err(errno) => {
                return Err(BenchError::Io { what: "sending".to_owned(), source: io::Error::from(errno) });
            }
        }
    }
}
