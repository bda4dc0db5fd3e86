//! What the shards of one server have in common.
//!
//! A server that uses several cores has one [`StunServer`](crate::StunServer) for each, and the
//! kernel spreads clients over them by a hash of their address. A client then always meets the same
//! shard, but an attacker chooses where his packets go: he writes many source ports on them, or one
//! victim's address and every port. So what is granted to a source, to a user or in all is counted
//! here, once, whichever shard grants it:
//!
//! * answers: the table of sources and the two common budgets ([`crate::budget`]);
//! * allocations, permissions, channels and bytes a second ([`crate::RelayLimits`]);
//! * relay ports: which shard has which, so that a small range is used to its end.
//!
//! The way of a packet touches atomics alone and takes no lock. There is one lock, over who has how
//! many allocations; it is taken where an allocation begins and where it ends.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use siphasher::sip::SipHasher13;

use crate::behaviour::Listeners;
use crate::budget::SharedBudgets;
use crate::config::{Config, ConfigError, Limits};
use crate::relay::{DEFAULT_PORTS, RelayConfig, RelayIp, SharedRelay};

/// Shards of a server. The table of ports has a byte for each, in which two values mean nobody.
pub const MAX_SHARDS: u8 = 254;

/// Which shard of a server, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

/// What all shards of a server take from. Cloning it is cheap and shares it.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    shards: u8,
    seed: [u8; 32],
    nonce_key: [u8; 32],
    clients: SipHasher13,
    limits: Limits,
    relayed: Option<RelayedAddresses>,
    /// All virtual times count from here, so that they are plain numbers.
    epoch: OnceLock<Instant>,
    budgets: SharedBudgets,
    relay: Option<Arc<SharedRelay>>,
}

/// What two configurations of one server cannot differ in.
#[derive(PartialEq, Eq)]
struct RelayedAddresses {
    ips: [Option<RelayIp>; 2],
    ports: RangeInclusive<u16>,
}

impl RelayedAddresses {
    fn of(config: &RelayConfig) -> Self {
        Self { ips: [config.ipv4, config.ipv6], ports: config.ports.clone().unwrap_or(DEFAULT_PORTS) }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} shards, ..)", self.0.shards)
    }
}

impl Shared {
    /// Prepares what `shards` shards with this configuration share. `seed` is what each of them
    /// draws from, in a stream of its own; `epoch` is no later than any `now` they will be told.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: &Config, seed: [u8; 32], epoch: Instant, shards: u8) -> Result<Self, ConfigError> {
        Self::with_epoch(config, seed, OnceLock::from(epoch), shards)
    }

    /// For a shard that is alone, and whose time begins with the first it is told.
    pub(crate) fn lone(config: &Config, seed: [u8; 32]) -> Result<Self, ConfigError> {
        Self::with_epoch(config, seed, OnceLock::new(), 1)
    }

    fn with_epoch(
        config: &Config,
        seed: [u8; 32],
        epoch: OnceLock<Instant>,
        shards: u8,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(ConfigError::Shards);
        }
        let listeners = Listeners::new(&config.listeners, &config.streams)?;
        let mut random = ChaCha20Rng::from_seed(seed);
        let mut nonce_key = [0; 32];
        random.fill_bytes(&mut nonce_key);
        let mut key = || {
            let mut key = [0; 16];
            random.fill_bytes(&mut key);
            key
        };
        let budgets = SharedBudgets::new(&config.limits, &key());
        let clients = SipHasher13::new_with_key(&key());
        let holders = SipHasher13::new_with_key(&key());
        let relay = config.relay.as_ref();
        Ok(Self(Arc::new(Inner {
            shards,
            seed,
            nonce_key,
            clients,
            limits: config.limits,
            relayed: relay.map(RelayedAddresses::of),
            epoch,
            budgets,
            relay: relay
                .map(|relay| Arc::new(SharedRelay::new(relay, config.limits.relay, &listeners, holders))),
        })))
    }

    /// Refuses a shard that there is not, or one that would count otherwise than the others.
    pub(crate) fn check(&self, config: &Config, id: ShardId) -> Result<(), ConfigError> {
        let is_same = self.0.limits == config.limits
            && self.0.relayed == config.relay.as_ref().map(RelayedAddresses::of);
        if id.0 < self.0.shards && is_same { Ok(()) } else { Err(ConfigError::Shards) }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u8 {
        self.0.shards
    }

    pub(crate) fn nonce_key(&self) -> &[u8; 32] {
        &self.0.nonce_key
    }

    /// A shard's own stream. The first one is left to the keys.
    pub(crate) fn random(&self, id: ShardId) -> ChaCha20Rng {
        let mut random = ChaCha20Rng::from_seed(self.0.seed);
        random.set_stream(1 + u64::from(id.0));
        random
    }

    /// The hash of the tables of clients. Clients choose their ports, and in IPv6 more than that:
    /// without the key they cannot choose their places.
    pub(crate) fn client_hasher(&self) -> SipHasher13 {
        self.0.clients
    }

    #[inline]
    pub(crate) fn budgets(&self) -> &SharedBudgets {
        &self.0.budgets
    }

    pub(crate) fn relay(&self) -> Option<&Arc<SharedRelay>> {
        self.0.relay.as_ref()
    }

    /// Nanoseconds since the epoch; 584 years of uptime fit.
    #[inline]
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        let epoch = *self.0.epoch.get_or_init(|| now);
        now.saturating_duration_since(epoch).as_nanos() as u64
    }

    /// The shard that has this relayed address.
    pub(crate) fn shard_of(&self, relayed: SocketAddr) -> Option<ShardId> {
        self.0.relay.as_ref()?.owners.owner_of(relayed)
    }
}
