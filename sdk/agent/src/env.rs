//! What every part of the agent acts through: the configuration, the queue of outputs, the
//! generator, and the counters.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::ClusterNetwork;
use meetpoint_proto::rules::UNSOLICITED_MS;
use meetpoint_proto::wire::{ClientMessage, Welcome};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::api::{Config, Event, Output, Socket};
use crate::counters::Counters;
use crate::discover::route::Route;
use crate::keepalive::Keepalive;
use crate::stun::TransactionId;

/// See the module.
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) keepalive: Keepalive,
    /// There is another NAT behind the first, if that is known.
    pub(crate) double_nat: Option<bool>,
    /// Who translates on the way out.
    pub(crate) route: Route,
    outputs: VecDeque<Output>,
    sent: Sent,
    /// Switches the defence off that a node judges by the server's clock, to show the attack it is for.
    #[cfg(feature = "attack-tests")]
    pub(crate) own_clock_unix_ms: Option<u64>,
}

/// Where the main socket has sent something lately, as far as that matters for what comes from there: what
/// data goes is told by the checks that keep its path.
#[derive(Debug, Default)]
struct Sent {
    last: BTreeMap<IpAddr, Instant>,
    /// Some addresses had to be forgotten; until then nothing is known.
    lost_until: Option<Instant>,
}

/// Addresses remembered. A node speaks with its servers and its peers.
const MAX_SENT: usize = 1_024;
const SENT_MEMORY: Duration = Duration::from_millis(UNSOLICITED_MS);

impl Sent {
    fn note(&mut self, now: Instant, ip: IpAddr) {
        if self.last.len() >= MAX_SENT && !self.last.contains_key(&ip) {
            self.last.retain(|_, at| now < *at + SENT_MEMORY);
        }
        if self.last.len() >= MAX_SENT && !self.last.contains_key(&ip) {
            self.lost_until = Some(now + SENT_MEMORY);
        } else {
            self.last.insert(ip, now);
        }
    }

    fn contains(&self, now: Instant, ip: IpAddr) -> bool {
        self.lost_until.is_some_and(|until| now < until)
            || self.last.get(&ip).is_some_and(|at| now < *at + SENT_MEMORY)
    }
}

impl Env {
    pub(crate) fn new(config: Config, seed: [u8; 32]) -> Self {
        let rng = ChaCha20Rng::from_seed(seed);
        Self {
            config,
            counters: Counters::default(),
            rng,
            keepalive: Keepalive::default(),
            double_nat: None,
            route: Route::default(),
            outputs: VecDeque::new(),
            sent: Sent::default(),
            #[cfg(feature = "attack-tests")]
            own_clock_unix_ms: None,
        }
    }

    /// The clock by which certificates are judged from a welcome on.
    pub(crate) fn clock(&self, now: Instant, welcome: &Welcome) -> ServerClock {
        let unix_ms = welcome.now_unix_ms;
        #[cfg(feature = "attack-tests")]
        let unix_ms = self.own_clock_unix_ms.unwrap_or(unix_ms);
        ServerClock { at: now, unix_ms }
    }

    /// The user insists on a PRIVATE cluster: nothing may leave the private network.
    pub(crate) fn sealed(&self) -> bool {
        self.config.expect == Some(ClusterNetwork::Private)
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn send(&mut self, message: ClientMessage) {
        self.push(Output::SendControl(message));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.push(Output::Event(event));
    }

    pub(crate) fn transmit_main(&mut self, now: Instant, to: SocketAddr, payload: Vec<u8>) {
        self.transmit(now, Socket::Main, to, payload, None);
    }

    /// Sends from any socket.
    pub(crate) fn transmit(
        &mut self,
        now: Instant,
        socket: Socket,
        to: SocketAddr,
        payload: Vec<u8>,
        ttl: Option<u8>,
    ) {
        if matches!(socket, Socket::Main | Socket::Extra(_)) {
            self.sent.note(now, to.ip());
        }
        self.push(Output::Transmit { socket, to, payload, ttl });
    }

    pub(crate) fn transmit_probe(&mut self, to: SocketAddr, payload: Vec<u8>) {
        self.push(Output::Transmit { socket: Socket::Probe, to, payload, ttl: None });
    }

    /// False if it is certain that the main socket has sent nothing there lately.
    pub(crate) fn may_have_sent(&self, now: Instant, ip: IpAddr) -> bool {
        self.sent.contains(now, ip)
    }

    pub(crate) fn transaction_id(&mut self) -> TransactionId {
        TransactionId::random(&mut self.rng)
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

/// The server's clock, known at an instant and carried on from there: nodes judge expiries by it,
/// since their own wall clocks may be wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerClock {
    pub(crate) at: Instant,
    pub(crate) unix_ms: u64,
}

impl ServerClock {
    pub(crate) fn unix_s(self, now: Instant) -> u64 {
        self.unix_ms(now) / 1000
    }

    pub(crate) fn unix_ms(self, now: Instant) -> u64 {
        self.unix_ms.saturating_add(millis(now.saturating_duration_since(self.at)))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
