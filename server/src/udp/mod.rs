//! The sockets around the STUN and TURN machine: one task owns the machine, nothing is shared.
//!
//! What it observes goes to the broker by a bounded channel and is dropped if that is full: a node
//! repeats its Bindings anyway, and a flood of them must not fill memory.

mod inspect;
mod relay;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use meetpoint_proto::{SessionId, stun};
use meetpoint_turn::{
    Config, Input, Limits, Listener, ListenerId, Output, Relay, RelayConfig, RelayId, StunServer,
};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use crate::clock;
use crate::listen::{StunSocket, as_seen};
use crate::rendezvous::StunRequest;
use crate::service::{RelayKeys, UnixMs};

use relay::RelaySockets;

use inspect::Inspection;
pub(crate) use inspect::{RelayHandle, SessionInfo};
pub(crate) use relay::relay_config;

/// The longest datagram there is: what is relayed must not be cut off.
const DATAGRAM_BYTES: usize = 65_536;
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

/// The STUN server with its sockets.
pub(crate) struct Stun {
    machine: StunServer,
    /// Each at the index its [`ListenerId`] says.
    sockets: Vec<UdpSocket>,
    relays: RelaySockets,
    /// Where a datagram for a client is put together.
    datagram: Vec<u8>,
    observations: mpsc::Sender<Observed>,
    requests: mpsc::Receiver<StunRequest>,
    inspections: mpsc::Receiver<Inspection>,
    keys: watch::Receiver<RelayKeys>,
}

/// What the machine is set up with.
pub(crate) struct Setup {
    pub(crate) external_ip: Option<IpAddr>,
    pub(crate) keys: watch::Receiver<RelayKeys>,
    pub(crate) relay: Option<RelayConfig>,
    pub(crate) seed: [u8; 32],
    pub(crate) inspections: mpsc::Receiver<Inspection>,
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
        setup: Setup,
        observations: mpsc::Sender<Observed>,
        requests: mpsc::Receiver<StunRequest>,
    ) -> Result<Self, StunError> {
        let Setup { external_ip, keys, relay, seed, inspections } = setup;
        let listeners = bound.iter().zip(0_u8..).map(|(socket, id)| Listener {
            id: ListenerId(id),
            role: socket.role,
            addr: as_seen_from_outside(socket, external_ip),
        });
        let config = Config {
            listeners: listeners.collect(),
            streams: Vec::new(),
            realm: stun::REALM.to_owned(),
            secrets: keys.borrow().secrets.clone(),
            limits: Limits::default(),
            relay,
        };
        let machine = StunServer::new(config, seed)?;
        let sockets = bound.into_iter().map(|bound| UdpSocket::from_std(bound.socket));
        Ok(Self {
            machine,
            sockets: sockets.collect::<io::Result<_>>()?,
            relays: RelaySockets::default(),
            datagram: Vec::with_capacity(DATAGRAM_BYTES),
            observations,
            requests,
            inspections,
            keys,
        })
    }

    /// Serves until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        // Before the first datagram: without it a login is not answered.
        self.tell_wall_time();
        self.take_keys();
        let mut wall = tokio::time::interval(WALL_INTERVAL);
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let due = self.machine.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                index = readable(&self.sockets) => self.receive(index, &mut buffer).await,
                id = self.relays.readable() => self.receive_relayed(id, &mut buffer),
                Some(request) = self.requests.recv() => {
                    self.machine.handle(Instant::now(), input_of(request));
                }
                Some(inspection) = self.inspections.recv() => inspection.answer(&mut self.machine),
                _ = wall.tick() => self.tell_wall_time(),
                () = clock::sleep_until(due) => self.machine.handle_timeout(Instant::now()),
            }
            self.flush();
        }
    }

    fn tell_wall_time(&mut self) {
        let unix_ms = UnixMs::now().unsigned();
        self.machine.handle(Instant::now(), Input::Wall { unix_ms });
    }

    /// Checks credentials with the keys that are in force now.
    fn take_keys(&mut self) {
        let RelayKeys { secrets, users } = self.keys.borrow_and_update().clone();
        let now = Instant::now();
        self.machine.handle(now, Input::Secrets(secrets));
        self.machine.handle(now, Input::Users(users));
    }

    async fn receive(&mut self, index: usize, buffer: &mut [u8]) {
        let Ok(id) = u8::try_from(index) else { return };
        for _ in 0..BURST {
            let Some(socket) = self.sockets.get(index) else { return };
            match socket.try_recv_from(buffer) {
                Ok((len, source)) => {
                    // Behind the receiving: who was told of a change before he sent meets it here.
                    if self.keys.has_changed().unwrap_or(false) {
                        self.take_keys();
                    }
                    let payload = buffer.get(..len).unwrap_or_default();
                    let relay = self.machine.datagram(Instant::now(), ListenerId(id), source, payload);
                    if let Some(relay) = relay {
                        self.relay(&relay);
                    }
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

    fn receive_relayed(&mut self, id: RelayId, buffer: &mut [u8]) {
        let Some(socket) = self.relays.get(id).map(Arc::clone) else { return };
        for _ in 0..BURST {
            match socket.try_recv_from(buffer) {
                Ok((len, peer)) => {
                    let payload = buffer.get(..len).unwrap_or_default();
                    if let Some(relay) = self.machine.relayed(Instant::now(), id, peer, payload) {
                        self.relay(&relay);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Such as a peer's "port unreachable": it is taken from the socket by this.
                Err(error) => trace!(%error, "receiving on a relay socket failed"),
            }
        }
        self.relays.wait(id);
    }

    /// Sends a packet on. What can't be sent now is lost, as anywhere on the way.
    fn relay(&mut self, relay: &Relay<'_>) {
        match relay {
            Relay::ToPeer { from, to, payload, .. } => self.transmit_relayed(*from, *to, payload),
            Relay::ToClient { listener, to, head, payload, tail } => {
                self.datagram.clear();
                for part in [&**head, payload, tail] {
                    self.datagram.extend_from_slice(part);
                }
                self.transmit(*listener, *to, &self.datagram);
            }
        }
    }

    fn transmit_relayed(&self, from: RelayId, to: SocketAddr, payload: &[u8]) {
        let Some(socket) = self.relays.get(from) else { return };
        if let Err(error) = socket.try_send_to(payload, to) {
            trace!(%error, %to, "a relayed datagram was not sent");
        }
    }

    fn open_relay(&mut self, id: RelayId, bind: SocketAddr) {
        let opened = self.relays.open(id, bind);
        let input = match opened {
            Ok(()) => Input::RelayOpened { id },
            Err(error) => {
                debug!(%error, %bind, "a relay socket was not opened");
                Input::RelayFailed { id }
            }
        };
        self.machine.handle(Instant::now(), input);
    }

    fn flush(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit { listener, to, payload } => self.transmit(listener, to, &payload),
                Output::Observed { username, source, .. } => {
                    let Some(session) = meetpoint_turn::node_session(&username) else { continue };
                    if self.observations.try_send(Observed { session, source }).is_err() {
                        trace!("the broker is busy; an observation was dropped");
                    }
                }
                // The broker hears no answer, as from a node that can't be reached.
                Output::DialBackImpossible { to, .. } => trace!(%to, "no place to dial back from"),
                Output::TransmitRelayed { from, to, payload, .. } => {
                    self.transmit_relayed(from, to, &payload);
                }
                Output::OpenRelay { id, bind } => self.open_relay(id, bind),
                Output::CloseRelay { id } => self.relays.close(id),
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

/// What the machine is told of the broker's request.
fn input_of(request: StunRequest) -> Input<'static> {
    match request {
        StunRequest::DialBack { to, nonce } => Input::DialBack { to, nonce: *nonce.as_bytes() },
        StunRequest::Introduced { a, b, until } => Input::Introduced { a, b, until },
        StunRequest::Ended { session } => Input::Parted { node: session },
    }
}

/// The address clients know a listener by.
fn as_seen_from_outside(socket: &StunSocket, external: Option<IpAddr>) -> SocketAddr {
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
