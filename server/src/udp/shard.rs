//! One shard: a thread with its own machine and its own sockets. Nothing it does for a packet waits
//! for another thread.
//!
//! The kernel deals clients to shards by their address and port, so a client always meets the same
//! one. A round takes what waits at the sockets that `epoll` names, a batch of each, and sends all
//! that follows from it at the end.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use meetpoint_turn::{Input, ListenerId, Output, Relay, RelayId, ShardMessage, StunServer};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use super::batch::{Outbox, Receiver, Via};
use super::errors::{self, Undelivered};
use super::inbox::{Arrivals, Inboxes, Message, StreamInput};
use super::inside::Neighbours;
use super::relay::RelaySockets;
use super::{Seen, WALL_INTERVAL};
use crate::listen::bind_relay;
use crate::rendezvous::StunRequest;
use crate::service::{RelayKeys, UnixMs};

/// Sockets named by one `epoll` call.
const EVENTS: usize = 256;
/// Messages taken in one round: packets don't wait for a flood of them.
const MESSAGES: usize = 256;
/// Errors taken from a relay socket in one round.
const ERRORS: usize = 16;
/// After an error that is not about one datagram, so that it can't spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What an event is about: a listener by its index, the inbox, or a relay socket by its index.
const INBOX: u64 = 1 << 32;
const RELAY: u64 = 1 << 33;

/// A listener's socket.
pub(super) struct ListenerSocket {
    pub(super) socket: UdpSocket,
    pub(super) is_ipv6: bool,
}

/// A shard that does not serve yet, and can be given to its thread.
pub(super) struct Shard {
    machine: StunServer,
    epoll: Epoll,
    listeners: Vec<ListenerSocket>,
    ends: Ends,
}

/// The shard's ends of what ties it to the rest of the server.
pub(super) struct Ends {
    pub(super) arrivals: Arrivals,
    pub(super) inboxes: Inboxes,
    pub(super) observations: mpsc::Sender<Seen>,
    pub(super) keys: watch::Receiver<RelayKeys>,
    /// Looked at in each round: a wake-up behind it makes one.
    pub(super) stop: CancellationToken,
}

/// The thread's state, with buffers that stay in it.
struct Serving {
    machine: StunServer,
    epoll: Epoll,
    arrivals: Arrivals,
    receiver: Receiver,
    ways: Ways,
    observations: mpsc::Sender<Seen>,
    keys: watch::Receiver<RelayKeys>,
    next_wall: Instant,
    stop: CancellationToken,
}

/// Where packets leave.
struct Ways {
    listeners: Vec<ListenerSocket>,
    relays: RelaySockets,
    out: Out,
}

/// What is on its way out.
struct Out {
    outbox: Outbox,
    neighbours: Neighbours,
    /// Connections over TCP and TLS, by listener and remote address. Looked up, never iterated.
    streams: HashMap<(ListenerId, SocketAddr), mpsc::Sender<Vec<u8>>>,
    /// The listeners from this one on are for streams.
    first_stream: u8,
}

impl Shard {
    /// Takes the sockets, each at the index its [`ListenerId`] says.
    pub(super) fn new(machine: StunServer, listeners: Vec<ListenerSocket>, ends: Ends) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (listener, index) in listeners.iter().zip(0..) {
            epoll.add(&listener.socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
        }
        epoll.add(&ends.arrivals, EpollEvent::new(EpollFlags::EPOLLIN, INBOX))?;
        Ok(Self { machine, epoll, listeners, ends })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(self) {
        let Self { machine, epoll, listeners, ends } = self;
        let Ends { arrivals, inboxes, observations, keys, stop } = ends;
        let first_stream = listeners.len() as u8;
        let out = Out {
            outbox: Outbox::new(),
            neighbours: Neighbours::new(inboxes),
            streams: HashMap::new(),
            first_stream,
        };
        let serving = Serving {
            machine,
            epoll,
            arrivals,
            receiver: Receiver::new(),
            ways: Ways { listeners, relays: RelaySockets::default(), out },
            observations,
            keys,
            next_wall: Instant::now(),
            stop,
        };
        serving.run();
    }
}

impl Serving {
    fn run(mut self) {
        // Before the first datagram: without it a login is not answered.
        self.tell_wall_time(Instant::now());
        take_keys(&mut self.keys, &mut self.machine, Instant::now());
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.stop.is_cancelled() {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => &[],
                Err(error) => {
                    debug!(%error, "waiting for the STUN sockets failed");
                    std::thread::sleep(ERROR_PAUSE);
                    &[]
                }
            };
            self.round(ready);
        }
    }

    /// Attends to what is ready and what is due, and sends what follows from it.
    fn round(&mut self, ready: &[EpollEvent]) {
        let now = Instant::now();
        for event in ready {
            self.attend(now, event.data(), event.events());
        }
        if self.next_wall <= now {
            self.tell_wall_time(now);
        }
        if self.machine.poll_timeout().is_some_and(|due| due <= now) {
            self.machine.handle_timeout(now);
        }
        self.execute(now);
        self.ways.flush();
    }

    /// Until something is due; rounded up, since a timer that is early is asked again at once.
    fn timeout(&self) -> EpollTimeout {
        let due = self.machine.poll_timeout().map_or(self.next_wall, |due| due.min(self.next_wall));
        let wait = due.saturating_duration_since(Instant::now());
        let wait_ms = wait.as_nanos().div_ceil(1_000_000);
        // At most the interval of the wall time.
        EpollTimeout::try_from(wait_ms as u32).unwrap_or(EpollTimeout::ZERO)
    }

    fn tell_wall_time(&mut self, now: Instant) {
        self.machine.handle(now, Input::Wall { unix_ms: UnixMs::now().unsigned() });
        self.next_wall = now + WALL_INTERVAL;
    }

    fn attend(&mut self, now: Instant, token: u64, flags: EpollFlags) {
        match (token, u8::try_from(token)) {
            (INBOX, _) => self.read_inbox(now),
            (_, Ok(listener)) => self.receive(now, ListenerId(listener)),
            _ => {
                let index = (token & u64::from(u32::MAX)) as usize;
                if flags.contains(EpollFlags::EPOLLERR) {
                    self.receive_errors(now, index);
                }
                self.receive_relayed(now, index);
            }
        }
        if self.ways.out.outbox.is_full() {
            self.ways.flush();
        }
    }

    fn receive(&mut self, now: Instant, id: ListenerId) {
        let Self { machine, receiver, ways, keys, .. } = self;
        let Some(listener) = ways.listeners.get(usize::from(id.0)) else { return };
        let out = &mut ways.out;
        let taken = receiver.receive(listener.socket.as_fd(), listener.is_ipv6, |source, payload| {
            // Behind the receiving: who was told of a change before he sent meets it here.
            renew_keys(keys, machine, now);
            if let Some(relay) = machine.datagram(now, id, source, payload) {
                out.relay(&relay);
            }
        });
        if let Err(error) = taken {
            debug!(%error, "receiving on a STUN socket failed");
        }
        self.execute(now);
    }

    fn receive_relayed(&mut self, now: Instant, index: usize) {
        let Self { machine, receiver, ways, .. } = self;
        let Some((id, socket)) = ways.relays.at(index) else { return };
        let out = &mut ways.out;
        let taken = receiver.receive(socket.as_fd(), socket.is_ipv6(), |peer, payload| {
            if let Some(relay) = machine.relayed(now, id, peer, payload) {
                out.relay(&relay);
            }
        });
        if let Err(error) = taken {
            trace!(%error, "receiving on a relay socket failed");
        }
    }

    /// What routers and peers say of datagrams sent from a relay socket.
    fn receive_errors(&mut self, now: Instant, index: usize) {
        for _ in 0..ERRORS {
            let Some((id, socket)) = self.ways.relays.at(index) else { return };
            match errors::next(socket.as_fd()) {
                Ok(Some(Undelivered { peer, kind, code, data })) => {
                    self.machine.handle(now, Input::Icmp { at: id, peer, kind, code, data });
                }
                Ok(None) => {}
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    trace!(%error, "reading a relay socket's errors failed");
                    return;
                }
            }
        }
    }

    fn read_inbox(&mut self, now: Instant) {
        for _ in 0..MESSAGES {
            match self.arrivals.next() {
                None => return,
                Some(Message::Broker(request)) => self.machine.handle(now, input_of(request)),
                Some(Message::Inside(batch)) => {
                    let Self { machine, ways, .. } = self;
                    batch.unpack(|from, holder, to, payload| {
                        if let Some(relay) = machine.from_shard(now, from, holder, to, payload) {
                            ways.out.relay(&relay);
                        }
                    });
                }
                Some(Message::FromShard(message)) => self.machine.handle(now, Input::FromShard(message)),
                Some(Message::Adopt(socket, message)) => self.adopt(now, socket, message),
                Some(Message::Policy(policy)) => self.machine.handle(now, Input::Policy(policy)),
                Some(Message::Inspect(inspection)) => inspection.answer(&mut self.machine),
                Some(Message::Stream(input)) => self.stream(now, input),
            }
            self.execute(now);
        }
    }

    fn stream(&mut self, now: Instant, input: StreamInput) {
        match input {
            StreamInput::Opened { listener, source, replies } => {
                self.ways.out.streams.insert((listener, source), replies);
            }
            StreamInput::Frame { listener, source, bytes } => {
                renew_keys(&mut self.keys, &mut self.machine, now);
                if let Some(relay) = self.machine.datagram(now, listener, source, &bytes) {
                    self.ways.out.relay(&relay);
                }
            }
            StreamInput::Closed { listener, source } => {
                self.ways.out.streams.remove(&(listener, source));
                self.machine.handle(now, Input::Disconnected { listener, source });
            }
        }
    }

    /// Does what the machine wants done.
    fn execute(&mut self, now: Instant) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit { listener, to, payload } => {
                    self.ways.out.send(listener, to, [&payload, &[], &[]]);
                }
                Output::Observed { username, source, .. } => self.observed(&username, source),
                Output::Allocated { session, relayed } => {
                    self.tell_broker(Seen::Allocated {
                        session,
                        relayed: relayed.into_iter().flatten().collect(),
                    });
                }
                // The broker hears no answer, as from a node that can't be reached.
                Output::DialBackImpossible { to, .. } => trace!(%to, "no place to dial back from"),
                Output::TransmitRelayed { from, to, payload, dont_fragment } => {
                    let relay = Relay::ToPeer { from, to, payload: &payload, dont_fragment };
                    self.ways.out.relay(&relay);
                }
                Output::OpenRelay { id, bind } => self.open_relay(now, id, bind),
                Output::CloseRelay { id } => drop(self.take_relay(id)),
                Output::ToShard { shard, message } => {
                    self.ways.out.neighbours.tell(shard, Message::FromShard(message));
                }
                Output::HandOver { id, shard, message } => {
                    if let Some(socket) = self.take_relay(id) {
                        let _ = self.epoll.delete(&socket);
                        self.ways.out.neighbours.tell(shard, Message::Adopt(socket, message));
                    }
                }
            }
        }
    }

    fn observed(&self, username: &str, source: SocketAddr) {
        let Some(session) = meetpoint_turn::node_session(username) else { return };
        self.tell_broker(Seen::Observed { session, source });
    }

    fn tell_broker(&self, seen: Seen) {
        if self.observations.try_send(seen).is_err() {
            trace!("the broker is busy; an observation was dropped");
        }
    }

    fn open_relay(&mut self, now: Instant, id: RelayId, bind: SocketAddr) {
        let opened = bind_relay(bind).and_then(|socket| self.watch(id, socket));
        let input = match opened {
            Ok(()) => Input::RelayOpened { id },
            Err(error) => {
                debug!(%error, %bind, "a relay socket was not opened");
                Input::RelayFailed { id }
            }
        };
        self.machine.handle(now, input);
    }

    /// Takes a relay socket out; it is closed unless the caller keeps it.
    fn take_relay(&mut self, id: RelayId) -> Option<UdpSocket> {
        // What is still to leave from it leaves first.
        self.ways.flush();
        self.ways.relays.take(id)
    }

    /// Takes in a relay socket that another shard had.
    fn adopt(&mut self, now: Instant, socket: UdpSocket, message: ShardMessage) {
        let Some(id) = self.machine.adopt(now, message) else { return };
        if let Err(error) = self.watch(id, socket) {
            debug!(%error, "a relay socket of another shard can't be used");
        }
    }

    fn watch(&mut self, id: RelayId, socket: UdpSocket) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, RELAY | id.index() as u64);
        self.epoll.add(&socket, event)?;
        self.ways.relays.insert(id, socket);
        Ok(())
    }
}

impl Ways {
    fn flush(&mut self) {
        let Self { listeners, relays, out } = self;
        out.outbox.flush(|via| match via {
            Via::Listener(index) => Some(listeners.get(usize::from(index))?.socket.as_raw_fd()),
            Via::Relay { index, dont_fragment } => relays.ready_to_send(index, dont_fragment),
        });
        out.neighbours.flush();
    }
}

impl Out {
    /// Puts a relayed packet on its way.
    fn relay(&mut self, relay: &Relay<'_>) {
        match relay {
            Relay::ToPeer { from, to, payload, dont_fragment } => {
                let via = Via::Relay { index: from.index() as u32, dont_fragment: *dont_fragment };
                self.outbox.push(via, *to, [payload, &[], &[]]);
            }
            Relay::ToShard { shard, from, holder, to, payload } => {
                self.neighbours.push(*shard, (*from, *holder), *to, payload);
            }
            Relay::ToClient { listener, to, head, payload, tail } => {
                self.send(*listener, *to, [head, payload, tail]);
            }
        }
    }

    fn send(&mut self, listener: ListenerId, to: SocketAddr, parts: [&[u8]; 3]) {
        if listener.0 < self.first_stream {
            self.outbox.push(Via::Listener(listener.0), to, parts);
        } else if let Some(replies) = self.streams.get(&(listener, to)) {
            // A connection that does not read loses this, as a datagram is lost on a full way.
            let _ = replies.try_send(parts.concat());
        }
    }
}

/// Has credentials checked with the keys that are in force now.
fn take_keys(keys: &mut watch::Receiver<RelayKeys>, machine: &mut StunServer, now: Instant) {
    let RelayKeys { secrets, users } = keys.borrow_and_update().clone();
    machine.handle(now, Input::Secrets(secrets));
    machine.handle(now, Input::Users(users));
}

/// The same, if they are others than before.
fn renew_keys(keys: &mut watch::Receiver<RelayKeys>, machine: &mut StunServer, now: Instant) {
    if keys.has_changed().unwrap_or(false) {
        take_keys(keys, machine, now);
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
