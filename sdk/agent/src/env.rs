//! What every part of the agent acts through: the configuration, the queue of outputs, the
//! generator, and the counters.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::ClusterNetwork;
use meetpoint_proto::wire::ClientMessage;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::api::{Config, Event, Output, Socket};
use crate::counters::Counters;
use crate::stun::TransactionId;

/// See the module.
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    pub(crate) rng: ChaCha20Rng,
    outputs: VecDeque<Output>,
}

impl Env {
    pub(crate) fn new(config: Config, seed: [u8; 32]) -> Self {
        let rng = ChaCha20Rng::from_seed(seed);
        Self { config, counters: Counters::default(), rng, outputs: VecDeque::new() }
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

    pub(crate) fn transmit(&mut self, socket: Socket, to: SocketAddr, payload: Vec<u8>) {
        self.push(Output::Transmit { socket, to, payload });
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
        self.unix_ms.saturating_add(millis(now.saturating_duration_since(self.at))) / 1000
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
