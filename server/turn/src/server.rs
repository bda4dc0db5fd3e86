//! The machine itself: its four verbs, its clock and its queue. What is answered to whom is in
//! [`crate::binding`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_proto::SessionId as NodeSession;
use meetpoint_stun::{Payload, Writer, is_channel_data};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::answer::{Request, TurnError};
use crate::attr;
use crate::auth::Authenticator;
use crate::behaviour::Listeners;
use crate::budget::Budgets;
use crate::config::{Config, ConfigError, ListenerId};
use crate::counters::Counters;
use crate::credentials::Secrets;
use crate::dialback::{DialBacks, Probe, is_one_host};
use crate::message::{BINDING, Class, Message, ParseError, SEND, TransactionId};
use crate::relay::{
    Datagram, Due, Icmp, Relay, RelayId, RelayPolicy, Relays, Session, SessionId, ShardMessage, Told,
    is_turn_request,
};
use crate::shared::{ShardId, Shared};
use crate::users::Users;

/// Outputs that wait for the shell. A batch of 512 datagrams, each with an answer and an
/// observation, fits; a shell that leaves more has stopped sending, and questions are dropped.
pub const MAX_OUTPUTS: usize = 1024;
/// What one datagram can add to the outputs.
const OUTPUTS_PER_DATAGRAM: usize = 2;
/// Allocations looked at in one call: a thousand of them that end together must not hold up the
/// packets of others.
const MAX_TIMEOUTS_AT_ONCE: usize = 256;

/// What the shell tells the server.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived, or a frame of a stream ([`crate::frame`]).
    Datagram {
        /// Where.
        listener: ListenerId,
        /// From whom, as the socket says; of a stream, its remote address.
        source: SocketAddr,
        /// The whole of it.
        payload: &'a [u8],
    },
    /// The wall time, at the start and about every second. Nonces and credentials need it; until
    /// the first one arrives only anonymous requests are answered.
    Wall {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// Send a reachability probe from the alternate address. The caller has observed `to`.
    DialBack {
        /// The target.
        to: SocketAddr,
        /// What the probe carries.
        nonce: [u8; 16],
    },
    /// These secrets hold from now on. What was granted under one that stays, stays; under one that
    /// is gone it can no longer be refreshed.
    Secrets(Secrets),
    /// These are the static users from now on. What a removed one was granted can no longer be
    /// refreshed.
    Users(Users),
    /// A datagram arrived at a relay socket.
    Relayed {
        /// Which.
        at: RelayId,
        /// From whom, as the socket says.
        peer: SocketAddr,
        /// The whole of it.
        payload: &'a [u8],
    },
    /// A socket of [`Output::OpenRelay`] is open.
    RelayOpened {
        /// Which.
        id: RelayId,
    },
    /// A socket of [`Output::OpenRelay`] could not be opened, most likely because its port is in
    /// use. Another one is tried.
    RelayFailed {
        /// Which.
        id: RelayId,
    },
    /// An operator ends this allocation.
    EndSession(SessionId),
    /// ICMP said of a datagram that left a relay socket that it did not arrive (RFC 8656, section 11.5).
    Icmp {
        /// Which socket.
        at: RelayId,
        /// Where the datagram went, with port 0 if the shell does not know it.
        peer: SocketAddr,
        /// ICMP's type, of the version of IP that `peer` has.
        kind: u8,
        /// ICMP's code.
        code: u8,
        /// The next hop's MTU in network order, if the message tells it.
        data: [u8; 4],
    },
    /// The broker introduced two nodes: they may meet at their relayed addresses. Of several
    /// introductions the last one counts.
    Introduced {
        /// The session of one.
        a: NodeSession,
        /// The session of the other.
        b: NodeSession,
        /// For so long, unless either session ends before.
        until: Instant,
    },
    /// A node's session has ended: who was introduced to it may meet it no more.
    Parted {
        /// The session.
        node: NodeSession,
    },
    /// A connection of a listener of streams has ended. Its allocation ends with it: nobody else
    /// can have its 5-tuple (RFC 8656, section 6).
    Disconnected {
        /// Where it arrived.
        listener: ListenerId,
        /// Its client.
        source: SocketAddr,
    },
    /// Relay by this from now on. For every shard; each change is heard by all of them soon after one another.
    Policy(Box<RelayPolicy>),
    /// What another shard said by [`Output::ToShard`].
    FromShard(ShardMessage),
}

/// What the server wants done, and has been done when the next one is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram, or write to the stream that `to` has with this listener.
    Transmit {
        /// From which socket.
        listener: ListenerId,
        /// To whom.
        to: SocketAddr,
        /// The whole of it.
        payload: Payload,
    },
    /// A Binding request with good credentials and a nonce that was delivered to this very source
    /// came from it: its sender receives there. Never for a stream: the mapping of a connection is
    /// of no use to anybody else.
    Observed {
        /// `<expiry>:<user>`, as the request had it, or the name of a static user.
        username: String,
        /// The source; an IPv4-mapped one is given as IPv4.
        source: SocketAddr,
        /// Where the request arrived.
        listener: ListenerId,
    },
    /// A node has been lent relayed addresses, as its answer says.
    Allocated {
        /// The node's session.
        session: NodeSession,
        /// IPv4 first.
        relayed: [Option<SocketAddr>; 2],
    },
    /// There is no alternate address of the target's family.
    DialBackImpossible {
        /// The target.
        to: SocketAddr,
        /// The nonce that was to be sent.
        nonce: [u8; 16],
    },
    /// Send a datagram from a relay socket. Shells that use [`StunServer::datagram`] get
    /// [`Relay::ToPeer`] instead, which is not copied.
    TransmitRelayed {
        /// From which socket.
        from: RelayId,
        /// To whom.
        to: SocketAddr,
        /// The whole of it.
        payload: Payload,
        /// It must not be fragmented.
        dont_fragment: bool,
    },
    /// Open a UDP socket on exactly this address, and answer with [`Input::RelayOpened`] or
    /// [`Input::RelayFailed`]. It takes no other port.
    OpenRelay {
        /// Its name from now on.
        id: RelayId,
        /// Where.
        bind: SocketAddr,
    },
    /// Close a relay socket, or forget that it was to be opened.
    CloseRelay {
        /// Which.
        id: RelayId,
    },
    /// Tell another shard, which takes it as [`Input::FromShard`]. It may be lost.
    ToShard {
        /// Which.
        shard: ShardId,
        /// What.
        message: ShardMessage,
    },
    /// Give a relay socket to another shard, with this message for its [`StunServer::adopt`]. The id
    /// is no more. If the shard takes no more, the socket is closed and the message dropped.
    HandOver {
        /// Which socket.
        id: RelayId,
        /// To whom.
        shard: ShardId,
        /// What comes with it.
        message: ShardMessage,
    },
}

/// Wall time, known at a moment of the steady clock and carried on by it.
#[derive(Clone, Copy)]
struct Wall {
    at: Instant,
    unix_ms: u64,
}

/// The STUN server. See the [crate's essay](crate).
pub struct StunServer {
    pub(crate) listeners: Listeners,
    pub(crate) auth: Authenticator,
    pub(crate) budgets: Budgets,
    pub(crate) counters: Counters,
    pub(crate) relays: Option<Relays>,
    pub(crate) random: ChaCha20Rng,
    dial_backs: DialBacks,
    wall: Option<Wall>,
    outputs: VecDeque<Output>,
}

impl StunServer {
    /// Makes a server of one shard. All its secrets-from-chance (nonce key, hash keys, transaction
    /// ids) come from `seed`; servers that share a seed accept each other's nonces.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: Config, seed: [u8; 32]) -> Result<Self, ConfigError> {
        let shared = Shared::lone(&config, seed)?;
        Self::shard(config, &shared, ShardId(0))
    }

    /// Makes a shard of a server, of which there is to be one for each id below
    /// [`Shared::shards`]. The configuration is the one that `shared` was made of.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn shard(config: Config, shared: &Shared, id: ShardId) -> Result<Self, ConfigError> {
        shared.check(&config, id)?;
        let relays = config.relay.as_ref().zip(shared.relay());
        Ok(Self {
            relays: relays.map(|(config, relay)| Relays::new(config, shared, relay, id)),
            listeners: Listeners::new(&config.listeners, &config.streams)?,
            auth: Authenticator::new(config.realm, config.secrets, shared.nonce_key()),
            budgets: Budgets::new(shared.clone()),
            counters: Counters::default(),
            dial_backs: DialBacks::default(),
            random: shared.random(id),
            wall: None,
            outputs: VecDeque::with_capacity(MAX_OUTPUTS),
        })
    }

    /// Takes an input; what follows from it waits at [`Self::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { listener, source, payload } => {
                if let Some(relay) = self.datagram(now, listener, source, payload) {
                    self.push_relay(&relay);
                }
            }
            Input::Relayed { at, peer, payload } => {
                if let Some(relay) = self.relayed(now, at, peer, payload) {
                    self.push_relay(&relay);
                }
            }
            Input::RelayOpened { id } => self.relay_opened(now, id),
            Input::RelayFailed { id } => self.relay_failed(id),
            Input::EndSession(id) => {
                let is_ended = self.relays.as_mut().is_some_and(|relays| relays.end(id));
                self.counters.relay.ended += u64::from(is_ended);
            }
            Input::Disconnected { listener, source } => {
                let is_ended =
                    self.relays.as_mut().is_some_and(|relays| relays.disconnected(listener, source));
                self.counters.relay.ended += u64::from(is_ended);
            }
            Input::Icmp { at, peer, kind, code, data } => {
                self.icmp(now, at, Icmp { peer, kind, code, data });
            }
            Input::Introduced { a, b, until } => {
                if let Some(relays) = &mut self.relays {
                    relays.introduce(now, a, b, until);
                }
            }
            Input::Parted { node } => {
                if let Some(relays) = &mut self.relays {
                    relays.part(node);
                }
            }
            Input::Policy(policy) => {
                if let Some(relays) = &mut self.relays {
                    relays.set_policy(*policy);
                }
            }
            Input::FromShard(message) => self.shard_message(now, message),
            Input::Wall { unix_ms } => self.wall = Some(Wall { at: now, unix_ms }),
            Input::DialBack { to, nonce } => self.dial_back(now, to, nonce),
            Input::Secrets(secrets) => self.auth.set_secrets(secrets),
            Input::Users(users) => self.auth.set_users(users),
        }
    }

    /// Does what is due. To be called when [`Self::poll_timeout`] has come; calling it early or
    /// late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_relay_timeout(now);
        while self.outputs.len() < MAX_OUTPUTS {
            let Some(probe) = self.dial_backs.next_due(now) else {
                return;
            };
            self.send_probe(probe);
        }
    }

    /// Ends what has run out.
    fn handle_relay_timeout(&mut self, now: Instant) {
        for _ in 0..MAX_TIMEOUTS_AT_ONCE {
            let due = self.relays.as_mut().and_then(|relays| relays.handle_timeout(now));
            match due {
                None => return,
                Some(Due::Pruned) => {}
                Some(Due::Ended) => self.counters.relay.ended += 1,
                Some(Due::Refused(allocation)) => {
                    self.refuse_allocate(&allocation, TurnError::InsufficientCapacity);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let relays = self.relays.as_ref().and_then(Relays::poll_timeout);
        [self.dial_backs.poll_timeout(), relays].into_iter().flatten().min()
    }

    /// The next thing to do, oldest first. To be called until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Sockets first: who is told of a relayed address sends there at once.
        let order = self.relays.as_mut().and_then(Relays::poll_order);
        order.or_else(|| self.outputs.pop_front())
    }

    /// The allocations there are, in no particular order.
    pub fn sessions(&self, now: Instant) -> impl Iterator<Item = Session<'_>> {
        self.relays.iter().flat_map(move |relays| relays.sessions(now))
    }

    /// How many allocations, relay sockets, reservations and timers of these there are.
    #[must_use]
    pub fn relay_sizes(&self) -> [usize; 4] {
        self.relays.as_ref().map_or([0; 4], Relays::sizes)
    }

    /// How many pairs of nodes may meet at their relayed addresses, at most.
    #[must_use]
    pub fn introduced_pairs(&self) -> usize {
        self.relays.as_ref().map_or(0, Relays::pairs)
    }

    /// Switches a defence off, to show what it is for.
    #[cfg(feature = "attack-tests")]
    pub fn switch_off(&mut self, defence: crate::defence::Defence) {
        let defences = crate::defence::Defences { off: Some(defence) };
        self.auth.set_defences(defences);
        self.budgets.set_defences(defences);
        if let Some(relays) = &mut self.relays {
            relays.set_defences(defences);
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a datagram that arrived at a listener, like [`Input::Datagram`]. If it is to be relayed
    /// it is the caller who sends it on: then it is copied nowhere and nothing is allocated.
    ///
    /// Sorts out whatever is not a question to this server (RFC 8489, section 6.3): all of it is
    /// dropped in silence, and so is a method that the server does not have.
    #[must_use = "what is to be relayed is sent by the caller"]
    pub fn datagram<'a>(
        &mut self,
        now: Instant,
        listener: ListenerId,
        source: SocketAddr,
        payload: &'a [u8],
    ) -> Option<Relay<'a>> {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += payload.len() as u64;
        if let Some(relays) = &mut self.relays
            && payload.first().is_some_and(|first| is_channel_data(*first))
        {
            return relays.channel_data(now, listener, source, payload, &mut self.counters.relay);
        }
        let message = Message::parse(payload);
        if let (Ok(message), Some(relays)) = (&message, &mut self.relays)
            && (message.class(), message.method()) == (Class::Indication, SEND)
        {
            return relays.send(now, listener, source, message, &mut self.counters.relay);
        }
        self.request(now, listener, source, message);
        None
    }

    /// Takes a datagram that arrived at a relay socket, like [`Input::Relayed`], as
    /// [`Self::datagram`] does.
    #[must_use = "what is to be relayed is sent by the caller"]
    pub fn relayed<'a>(
        &mut self,
        now: Instant,
        at: RelayId,
        peer: SocketAddr,
        payload: &'a [u8],
    ) -> Option<Relay<'a>> {
        let relays = self.relays.as_mut()?;
        relays.inbound(now, at, peer, payload, &mut self.counters.relay)
    }

    fn icmp(&mut self, now: Instant, at: RelayId, icmp: Icmp) {
        let Some(relays) = &mut self.relays else { return };
        let told = relays.icmp(now, at, icmp, &mut self.counters.relay);
        if let Some((listener, to, writer)) = told {
            self.transmit(listener, to, writer.finish());
        }
    }

    pub(crate) fn push_relay(&mut self, relay: &Relay<'_>) {
        let mut owned = Payload::new();
        match relay {
            Relay::ToPeer { from, to, payload, dont_fragment } => {
                owned.push(payload);
                let (from, to, dont_fragment) = (*from, *to, *dont_fragment);
                self.push(Output::TransmitRelayed { from, to, payload: owned, dont_fragment });
            }
            Relay::ToClient { listener, to, head, payload, tail } => {
                for part in [&**head, payload, tail] {
                    owned.push(part);
                }
                self.push(Output::Transmit { listener: *listener, to: *to, payload: owned });
            }
            Relay::ToShard { shard, from, holder, to, payload } => {
                owned.push(payload);
                let datagram = Datagram { from: *from, holder: *holder, to: *to, payload: owned };
                let message = ShardMessage(Told::Datagram(Box::new(datagram)));
                self.push(Output::ToShard { shard: *shard, message });
            }
        }
    }

    fn request(
        &mut self,
        now: Instant,
        at: ListenerId,
        source: SocketAddr,
        message: Result<Message<'_>, ParseError>,
    ) {
        let has_relays = self.relays.is_some();
        let dropped = &mut self.counters.dropped;
        let reason = match (self.listeners.get(at), message) {
            (None, _) => &mut dropped.unknown_listener,
            _ if !is_one_host(source) => &mut dropped.unusable_source,
            _ if self.outputs.len() + OUTPUTS_PER_DATAGRAM > MAX_OUTPUTS => &mut dropped.outputs_full,
            (_, Err(ParseError::NotStun)) => &mut dropped.not_stun,
            (_, Err(ParseError::Malformed)) => &mut dropped.malformed,
            (_, Err(ParseError::Fingerprint)) => &mut dropped.fingerprint,
            (Some(listener), Ok(message)) => match (message.class(), message.method()) {
                (Class::Indication, _) => &mut dropped.indication,
                (Class::Success | Class::Error, _) => &mut dropped.response,
                (Class::Request, BINDING) => {
                    return self.binding(&Request::new(now, *listener, source, message));
                }
                (Class::Request, method) if has_relays && is_turn_request(method) => {
                    return self.turn(&Request::new(now, *listener, source, message));
                }
                (Class::Request, _) => &mut dropped.unsupported_method,
            },
        };
        *reason += 1;
    }

    fn dial_back(&mut self, now: Instant, to: SocketAddr, nonce: [u8; 16]) {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        if !is_one_host(to) {
            self.counters.dial_back.refused += 1;
            return;
        }
        let Some(from) = self.listeners.dial_back_from(to) else {
            self.counters.dial_back.impossible += 1;
            self.push(Output::DialBackImpossible { to, nonce });
            return;
        };
        if self.dial_backs.start(now, Probe { from, to, nonce }) {
            self.counters.dial_back.started += 1;
            self.handle_timeout(now);
        } else {
            self.counters.dial_back.refused += 1;
        }
    }

    fn send_probe(&mut self, probe: Probe) {
        let mut id = [0; 12];
        self.random.fill_bytes(&mut id);
        let mut writer = Writer::new(Class::Indication, BINDING, TransactionId(id));
        writer.attribute(attr::MEETPOINT_NONCE, &probe.nonce);
        writer.fingerprint();
        self.counters.dial_back.probes += 1;
        self.transmit(probe.from, probe.to, writer.finish());
    }

    /// The wall time in seconds, if it was ever told.
    pub(crate) fn unix_s(&self, now: Instant) -> Option<u64> {
        let wall = self.wall?;
        let since_ms = now.saturating_duration_since(wall.at).as_millis() as u64;
        Some(wall.unix_ms.saturating_add(since_ms) / 1000)
    }

    #[inline]
    pub(crate) fn transmit(&mut self, listener: ListenerId, to: SocketAddr, payload: Payload) {
        self.counters.datagrams_out += 1;
        self.counters.bytes_out += payload.len() as u64;
        self.push(Output::Transmit { listener, to, payload });
    }

    #[inline]
    pub(crate) fn push(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        } else {
            self.counters.dropped.outputs_full += 1;
        }
    }
}
