//! The machine itself: its four verbs, its clock and its queue. What is answered to whom is in
//! [`crate::binding`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::attr;
use crate::auth::Authenticator;
use crate::behaviour::Listeners;
use crate::binding::Request;
use crate::budget::Budgets;
use crate::config::{Config, ConfigError, ListenerId};
use crate::counters::Counters;
use crate::credentials::Secrets;
use crate::dialback::{DialBacks, Probe, is_one_host};
use crate::message::{BINDING, Class, Message, ParseError, TransactionId};
use crate::payload::Payload;
use crate::write::Writer;

/// Outputs that wait for the shell. A batch of 512 datagrams, each with an answer and an
/// observation, fits; a shell that leaves more has stopped sending, and questions are dropped.
pub const MAX_OUTPUTS: usize = 1024;
/// What one datagram can add to the outputs.
const OUTPUTS_PER_DATAGRAM: usize = 2;

/// What the shell tells the server.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// Where.
        listener: ListenerId,
        /// From whom, as the socket says.
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
    /// These secrets hold from now on.
    Secrets(Secrets),
}

/// What the server wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// From which socket.
        listener: ListenerId,
        /// To whom.
        to: SocketAddr,
        /// The whole of it.
        payload: Payload,
    },
    /// A Binding request with good credentials and a nonce that was delivered to this very source
    /// came from it: its sender receives there.
    Observed {
        /// `<expiry>:<user>`, as the request had it.
        username: String,
        /// The source; an IPv4-mapped one is given as IPv4.
        source: SocketAddr,
        /// Where the request arrived.
        listener: ListenerId,
    },
    /// There is no alternate address of the target's family.
    DialBackImpossible {
        /// The target.
        to: SocketAddr,
        /// The nonce that was to be sent.
        nonce: [u8; 16],
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
    dial_backs: DialBacks,
    random: ChaCha20Rng,
    wall: Option<Wall>,
    outputs: VecDeque<Output>,
}

impl StunServer {
    /// Makes a server. All its secrets-from-chance (nonce key, hash key, transaction ids) come
    /// from `seed`; servers that share a seed accept each other's nonces.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: Config, seed: [u8; 32]) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut random = ChaCha20Rng::from_seed(seed);
        let mut nonce_key = [0; 32];
        random.fill_bytes(&mut nonce_key);
        let mut budget_key = [0; 16];
        random.fill_bytes(&mut budget_key);
        Ok(Self {
            listeners: Listeners::new(config.listeners)?,
            auth: Authenticator::new(config.realm, config.secrets, &nonce_key),
            budgets: Budgets::new(&config.limits, &budget_key),
            counters: Counters::default(),
            dial_backs: DialBacks::default(),
            random,
            wall: None,
            outputs: VecDeque::with_capacity(MAX_OUTPUTS),
        })
    }

    /// Takes an input; what follows from it waits at [`Self::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { listener, source, payload } => self.datagram(now, listener, source, payload),
            Input::Wall { unix_ms } => self.wall = Some(Wall { at: now, unix_ms }),
            Input::DialBack { to, nonce } => self.dial_back(now, to, nonce),
            Input::Secrets(secrets) => self.auth.set_secrets(secrets),
        }
    }

    /// Does what is due. To be called when [`Self::poll_timeout`] has come; calling it early or
    /// late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.outputs.len() < MAX_OUTPUTS {
            let Some(probe) = self.dial_backs.next_due(now) else {
                return;
            };
            self.send_probe(probe);
        }
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.dial_backs.poll_timeout()
    }

    /// The next thing to do, oldest first. To be called until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sorts out whatever is not a question to this server (RFC 8489, section 6.3): all of it is
    /// dropped in silence, and so is a method that the server does not have.
    fn datagram(&mut self, now: Instant, at: ListenerId, source: SocketAddr, payload: &[u8]) {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += payload.len() as u64;
        let dropped = &mut self.counters.dropped;
        let reason = match (self.listeners.get(at), Message::parse(payload)) {
            (None, _) => &mut dropped.unknown_listener,
            _ if !is_one_host(source) => &mut dropped.unusable_source,
            _ if self.outputs.len() + OUTPUTS_PER_DATAGRAM > MAX_OUTPUTS => &mut dropped.outputs_full,
            (_, Err(ParseError::NotStun)) => &mut dropped.not_stun,
            (_, Err(ParseError::Malformed)) => &mut dropped.malformed,
            (_, Err(ParseError::Fingerprint)) => &mut dropped.fingerprint,
            (Some(listener), Ok(message)) => match message.class() {
                Class::Indication => &mut dropped.indication,
                Class::Success | Class::Error => &mut dropped.response,
                Class::Request if message.method() != BINDING => &mut dropped.unsupported_method,
                Class::Request => {
                    let request = Request::new(now, *listener, source, message);
                    return self.binding(&request);
                }
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
