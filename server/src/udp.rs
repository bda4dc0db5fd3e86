//! The sockets around the STUN machine: one task owns the machine, nothing is shared.
//!
//! What it observes goes to the broker by a bounded channel and is dropped if that is full: a node
//! repeats its Bindings anyway, and a flood of them must not fill memory.

use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::{SessionId, stun};
use meetpoint_turn::{Config, Input, Limits, Listener, ListenerId, Output, Secrets, StunServer};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use crate::clock;
use crate::listen::{StunSocket, as_seen};
use crate::service::UnixMs;

/// Longer than any Binding request over an ordinary path. The rest of a longer one is cut off,
/// which its own length field then contradicts.
const DATAGRAM_BYTES: usize = 2048;
/// Datagrams taken from one socket before the others have their turn.
const BURST: usize = 64;
/// The machines learn the wall time this often.
pub(crate) const WALL_INTERVAL: Duration = Duration::from_secs(1);
/// After a socket error that is not about one datagram, so that it can't spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A session's Binding came from there.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) session: SessionId,
    pub(crate) source: SocketAddr,
}

/// What the broker asks of the STUN server.
#[derive(Debug)]
pub(crate) struct DialBack {
    pub(crate) to: SocketAddr,
    pub(crate) nonce: DialBackNonce,
}

/// The STUN server with its sockets.
pub(crate) struct Stun {
    machine: StunServer,
    /// Each at the index its [`ListenerId`] says.
    sockets: Vec<UdpSocket>,
    observations: mpsc::Sender<Observed>,
    requests: mpsc::Receiver<DialBack>,
}

/// Why the STUN server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// The sockets do not suit it.
    #[error("the STUN server: {0}")]
    Config(#[from] meetpoint_turn::ConfigError),
    /// The runtime does not take a socket.
    #[error("the STUN server's socket: {0}")]
    Socket(#[from] io::Error),
}

impl Stun {
    pub(crate) fn new(
        bound: Vec<StunSocket>,
        external: Option<std::net::IpAddr>,
        secrets: Secrets,
        seed: [u8; 32],
        observations: mpsc::Sender<Observed>,
        requests: mpsc::Receiver<DialBack>,
    ) -> Result<Self, StunError> {
        let listeners = bound.iter().zip(0_u8..).map(|(socket, id)| Listener {
            id: ListenerId(id),
            role: socket.role,
            addr: as_seen_from_outside(socket, external),
        });
        let config = Config {
            listeners: listeners.collect(),
            realm: stun::REALM.to_owned(),
            secrets,
            limits: Limits::default(),
            relay: None,
        };
        let machine = StunServer::new(config, seed)?;
        let sockets = bound.into_iter().map(|bound| UdpSocket::from_std(bound.socket));
        Ok(Self { machine, sockets: sockets.collect::<io::Result<_>>()?, observations, requests })
    }

    /// Serves until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut wall = tokio::time::interval(WALL_INTERVAL);
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let due = self.machine.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                index = readable(&self.sockets) => self.receive(index, &mut buffer).await,
                Some(DialBack { to, nonce }) = self.requests.recv() => {
                    let nonce = *nonce.as_bytes();
                    self.machine.handle(Instant::now(), Input::DialBack { to, nonce });
                }
                _ = wall.tick() => {
                    let unix_ms = UnixMs::now().unsigned();
                    self.machine.handle(Instant::now(), Input::Wall { unix_ms });
                }
                () = clock::sleep_until(due) => self.machine.handle_timeout(Instant::now()),
            }
            self.flush();
        }
    }

    async fn receive(&mut self, index: usize, buffer: &mut [u8]) {
        let (Some(socket), Ok(id)) = (self.sockets.get(index), u8::try_from(index)) else { return };
        for _ in 0..BURST {
            match socket.try_recv_from(buffer) {
                Ok((len, source)) => {
                    let payload = buffer.get(..len).unwrap_or_default();
                    let datagram = Input::Datagram { listener: ListenerId(id), source, payload };
                    self.machine.handle(Instant::now(), datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    debug!(%error, "receiving on a STUN socket failed");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    return;
                }
            }
        }
    }

    fn flush(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit { listener, to, payload } => self.transmit(listener, to, &payload),
                Output::Observed { username, source, .. } => {
                    let user = username.split_once(':').and_then(|(_, user)| user.parse().ok());
                    let Some(session) = user else { continue };
                    if self.observations.try_send(Observed { session, source }).is_err() {
                        trace!("the broker is busy; an observation was dropped");
                    }
                }
                // The broker hears no answer, as from a node that can't be reached.
                Output::DialBackImpossible { to, .. } => trace!(%to, "no place to dial back from"),
                // Relaying is not configured, so these never come.
                Output::TransmitRelayed { .. } | Output::OpenRelay { .. } | Output::CloseRelay { .. } => {}
            }
        }
    }

    fn transmit(&self, ListenerId(index): ListenerId, to: SocketAddr, payload: &[u8]) {
        let Some(socket) = self.sockets.get(usize::from(index)) else { return };
        // A full send buffer is a lost datagram, as anywhere on the way.
        if let Err(error) = socket.try_send_to(payload, to) {
            trace!(%error, %to, "a STUN answer was not sent");
        }
    }
}

/// The address clients know a listener by.
fn as_seen_from_outside(socket: &StunSocket, external: Option<std::net::IpAddr>) -> SocketAddr {
    use meetpoint_turn::ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};
    match socket.role {
        PrimaryMain | PrimaryAlt => as_seen(socket.addr, external),
        AlternateMain | AlternateAlt => socket.addr,
    }
}

/// The index of a socket that has something to read.
async fn readable(sockets: &[UdpSocket]) -> usize {
    std::future::poll_fn(|cx| {
        for (index, socket) in sockets.iter().enumerate() {
            // A socket's error shows when it is read.
            if socket.poll_recv_ready(cx).is_ready() {
                return Poll::Ready(index);
            }
        }
        Poll::Pending
    })
    .await
}
