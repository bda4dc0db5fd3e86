//! Sockets besides the node's one: many while a symmetric NAT's ports are guessed, and afterwards only
//! those that a peer was met by.
//!
//! They are plain: each is read by a task, a datagram a call. What a peer was met by carries QUIC's data too, under the
//! same synthetic address as ever, so a path can move from or to such a socket without QUIC noticing.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use meetpoint_agent::Socket;
use meetpoint_proto::{addr, stun};
use quinn::udp::Transmit;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::egress::Egress;
use crate::mux::StunDatagram;

/// Larger than any datagram of a peer's: QUIC's have 1,200 bytes.
const MAX_DATAGRAM_LEN: usize = 2_048;

/// QUIC's packets waiting for it, over all such sockets: 150 KB. What finds no place is lost, which QUIC repairs.
const QUIC_QUEUE: usize = 128;

/// A datagram that is not STUN, and where it came from.
pub(crate) type Arrived = (SocketAddr, Box<[u8]>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Extras {
    table: RwLock<Table>,
    /// Some remote is reached by one of them: else nobody need look.
    carries: AtomicBool,
    egress: Arc<Egress>,
    stun: mpsc::Sender<StunDatagram>,
    quic: mpsc::Sender<Arrived>,
}

#[derive(Debug, Default)]
struct Table {
    sockets: HashMap<u16, Extra>,
    /// By which of them a remote's data goes.
    carriers: HashMap<SocketAddr, u16>,
}

/// A socket and its reader, which ends with it.
#[derive(Debug)]
struct Extra {
    socket: Arc<UdpSocket>,
    _reader: DropGuard,
}

impl Extras {
    /// None yet. STUN goes to `stun`; QUIC's packets come out of the returned channel.
    pub(crate) fn new(
        egress: Arc<Egress>,
        stun: mpsc::Sender<StunDatagram>,
    ) -> (Self, mpsc::Receiver<Arrived>) {
        let (quic, arrived) = mpsc::channel(QUIC_QUEUE);
        let (table, carries) = (RwLock::default(), AtomicBool::new(false));
        (Self { table, carries, egress, stun, quic }, arrived)
    }

    /// Opens so many, each on a fresh port; gives how many there are, which is fewer if the system has no more.
    pub(crate) fn open(&self, first: u16, count: u16, ipv6: bool, tasks: &TaskTracker) -> u16 {
        let any = if ipv6 {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        };
        let mut table = self.write();
        for opened in 0..count {
            let number = first.wrapping_add(opened);
            let bound = std::net::UdpSocket::bind(any).and_then(|socket| {
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)
            });
            let socket = match bound {
                Ok(socket) => Arc::new(socket),
                Err(error) => {
                    tracing::debug!(%error, opened, count, "no more sockets");
                    return opened;
                }
            };
            let cancel = CancellationToken::new();
            let reader = read(Arc::clone(&socket), number, self.stun.clone(), self.quic.clone());
            tasks.spawn(cancel.clone().run_until_cancelled_owned(reader));
            table.sockets.insert(number, Extra { socket, _reader: cancel.drop_guard() });
        }
        count
    }

    /// Closes all but these.
    pub(crate) fn close_others(&self, keep: &[u16]) {
        let mut table = self.write();
        table.sockets.retain(|number, _| keep.contains(number));
        table.carriers.retain(|_, number| keep.contains(number));
        self.carries.store(!table.carriers.is_empty(), Ordering::Relaxed);
    }

    /// Sends a datagram of the driver's.
    ///
    /// # Errors
    /// What the system or the gate says; `NotFound` for a socket that is closed.
    pub(crate) fn send_to(
        &self,
        number: u16,
        to: SocketAddr,
        bytes: &[u8],
        ttl: Option<u8>,
    ) -> io::Result<()> {
        let table = self.read();
        let extra = table.sockets.get(&number).ok_or(io::ErrorKind::NotFound)?;
        self.egress.send_with_ttl(&SockRef::from(&*extra.socket), to, bytes, ttl)
    }

    /// QUIC's data towards a remote goes by this socket from now on, or by the node's one.
    pub(crate) fn carry(&self, remote: SocketAddr, number: Option<u16>) {
        let (remote, mut table) = (addr::unmap(remote), self.write());
        match number {
            Some(number) => table.carriers.insert(remote, number),
            None => table.carriers.remove(&remote),
        };
        self.carries.store(!table.carriers.is_empty(), Ordering::Relaxed);
    }

    /// Sends QUIC's data, if it goes by one of these; false if not.
    pub(crate) fn try_send(&self, remote: SocketAddr, transmit: &Transmit<'_>) -> bool {
        if !self.carries.load(Ordering::Relaxed) {
            return false;
        }
        let table = self.read();
        let number = table.carriers.get(&addr::unmap(remote));
        let Some(extra) = number.and_then(|number| table.sockets.get(number)) else { return false };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            // A full socket loses it, as a full queue anywhere on the way does.
            if let Err(error) = self.egress.send_to(&SockRef::from(&*extra.socket), remote, datagram) {
                tracing::trace!(%remote, %error, "send failed");
            }
        }
        true
    }

    /// Every write leaves the table whole, so a poisoned lock (a panic elsewhere) harms nothing.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(
    socket: Arc<UdpSocket>,
    number: u16,
    stun: mpsc::Sender<StunDatagram>,
    quic: mpsc::Sender<Arrived>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        // An error is a late ICMP report about something sent; the next read goes on.
        let Ok((len, source)) = socket.recv_from(&mut buffer).await else { continue };
        let bytes: Box<[u8]> = buffer[..len].into();
        // Whoever is behind loses what comes meanwhile; the reader goes on.
        if stun::is_stun(&bytes) {
            let (socket, received) = (Socket::Extra(number), Instant::now());
            let _ = stun.try_send(StunDatagram { socket, source, bytes, received });
        } else {
            let _ = quic.try_send((source, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MANY: u16 = 256;
    const PATIENCE: Duration = Duration::from_secs(10);

    fn ports(extras: &Extras) -> Vec<u16> {
        let table = extras.read();
        table.sockets.values().map(|extra| extra.socket.local_addr().unwrap().port()).collect()
    }

    /// A closed socket's port is free, and its reader is gone.
    async fn left(extras: &Extras, tasks: &TaskTracker, ports: &[u16], kept: usize) {
        assert_eq!(extras.read().sockets.len(), kept);
        let ended = async {
            while tasks.len() > kept {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the readers end");
        let is_free = |port: &&u16| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, **port)).is_ok();
        assert_eq!(ports.iter().filter(is_free).count(), ports.len() - kept);
    }

    #[tokio::test]
    async fn what_is_closed_leaves_neither_socket_nor_reader() {
        let (stun, _stun) = mpsc::channel(1);
        let (extras, _quic) = Extras::new(Arc::new(Egress::new(false)), stun);
        let tasks = TaskTracker::new();
        assert_eq!(extras.open(0, MANY, false, &tasks), MANY);
        let ports = ports(&extras);
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        extras.carry(remote, Some(7));
        extras.close_others(&[7]);
        left(&extras, &tasks, &ports, 1).await;
        assert!(extras.carries.load(Ordering::Relaxed));
        extras.close_others(&[]);
        left(&extras, &tasks, &ports, 0).await;
        assert!(!extras.carries.load(Ordering::Relaxed));
    }
}
