//! The short-lived socket of the NAT behaviour tests: a fresh port that has sent to nobody.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::egress::Egress;

/// Larger than any STUN answer, which a network without fragments bounds.
const MAX_DATAGRAM_LEN: usize = 2048;

/// What arrived on a probe socket.
#[derive(Debug)]
pub(super) struct ProbeDatagram {
    pub(super) number: u64,
    pub(super) source: SocketAddr,
    pub(super) bytes: Box<[u8]>,
    pub(super) received: Instant,
}

/// A probe socket. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Probe {
    socket: Arc<UdpSocket>,
    egress: Arc<Egress>,
    number: u64,
    _reader: DropGuard,
}

impl Probe {
    /// A socket on a fresh port, whose datagrams go to `datagrams`; `None` if the system gives none.
    pub(super) fn open(
        ipv6: bool,
        egress: Arc<Egress>,
        datagrams: mpsc::Sender<ProbeDatagram>,
        tasks: &TaskTracker,
    ) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let any = if ipv6 {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let bound = std::net::UdpSocket::bind(any).and_then(|socket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        let socket = match bound {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::debug!(%error, "no probe socket");
                return None;
            }
        };
        let cancel = CancellationToken::new();
        tasks.spawn(cancel.clone().run_until_cancelled_owned(read(Arc::clone(&socket), number, datagrams)));
        Some(Self { socket, egress, number, _reader: cancel.drop_guard() })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The port it has on this machine.
    pub(super) fn port(&self) -> Option<u16> {
        self.socket.local_addr().ok().map(|addr| addr.port())
    }

    pub(super) fn send_to(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.egress.send_to(&socket2::SockRef::from(&*self.socket), to, bytes)
    }
}

async fn read(socket: Arc<UdpSocket>, number: u64, datagrams: mpsc::Sender<ProbeDatagram>) {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        // An error is a late ICMP report about something sent; the next read goes on.
        let Ok((len, source)) = socket.recv_from(&mut buffer).await else { continue };
        let datagram =
            ProbeDatagram { number, source, bytes: buffer[..len].into(), received: Instant::now() };
        if datagrams.send(datagram).await.is_err() {
            return;
        }
    }
}
