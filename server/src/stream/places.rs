//! Who may hold a connection: so many in all, so many from one source.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meetpoint_turn::ListenerId;
use tokio::sync::Semaphore;

use crate::limits::Source;

/// Connections at once: each of the relay's allocations by default, and a reserve for those that only
/// ask. Each costs a descriptor and some kilobytes.
const MAX_CONNECTIONS: usize = 10_000;
/// Connections of one source, which is an IPv4 address or an IPv6 /64: as many as it may have
/// allocations, for the clients behind a carrier's NAT.
const MAX_CONNECTIONS_PER_SOURCE: usize = 512;
/// TLS handshakes of one source at once; others of it wait. It takes several sources to use up the
/// handshakes of all.
const MAX_HANDSHAKES_PER_SOURCE: usize = 32;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("too many connections")]
    Full,
    #[error("too many connections of its source")]
    SourceFull,
    /// The end of the connection that had the same two addresses before is still under way. The shard
    /// would take its `Closed` for this one's.
    #[error("an earlier connection from there is still ending")]
    Lingering,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) in_all: usize,
    pub(super) per_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { in_all: MAX_CONNECTIONS, per_source: MAX_CONNECTIONS_PER_SOURCE }
    }
}

/// All places.
pub(super) struct Places {
    bounds: Bounds,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    count: usize,
    /// Those that hold at least one.
    sources: HashMap<Source, Held>,
}

struct Held {
    connections: BTreeSet<(ListenerId, SocketAddr)>,
    handshakes: Arc<Semaphore>,
}

impl Default for Held {
    fn default() -> Self {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES_PER_SOURCE));
        Self { connections: BTreeSet::new(), handshakes }
    }
}

/// A connection's place. It is free again when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    listener: ListenerId,
    source: SocketAddr,
    /// Of its source.
    pub(super) handshakes: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, taken: Mutex::default() })
    }

    pub(super) fn take(self: &Arc<Self>, listener: ListenerId, source: SocketAddr) -> Result<Place, Refused> {
        let mut taken = self.lock();
        if taken.count >= self.bounds.in_all {
            return Err(Refused::Full);
        }
        let held = taken.sources.entry(Source::of(source.ip())).or_default();
        // Who holds none is not refused here, so no entry is left without a connection.
        if held.connections.len() >= self.bounds.per_source {
            return Err(Refused::SourceFull);
        }
        if !held.connections.insert((listener, source)) {
            return Err(Refused::Lingering);
        }
        let handshakes = Arc::clone(&held.handshakes);
        taken.count += 1;
        Ok(Place { places: Arc::clone(self), listener, source, handshakes })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let source = Source::of(self.source.ip());
        let mut taken = self.places.lock();
        taken.count -= 1;
        if let Some(held) = taken.sources.get_mut(&source) {
            held.connections.remove(&(self.listener, self.source));
            if held.connections.is_empty() {
                taken.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { in_all: 4, per_source: 2 };

    #[test]
    fn places_are_shared_out_and_come_back() {
        let places = Places::new(BOUNDS);
        let take = |listener: u8, source: &str| places.take(ListenerId(listener), source.parse().unwrap());
        let refused = |listener, source| take(listener, source).err();
        let first = take(0, "20.0.0.1:1").unwrap();
        assert_eq!(refused(0, "20.0.0.1:1"), Some(Refused::Lingering));
        let second = take(1, "20.0.0.1:1").unwrap();
        assert_eq!(refused(0, "20.0.0.1:2"), Some(Refused::SourceFull));
        let third = take(0, "[2a00::1]:1").unwrap();
        let fourth = take(0, "[2a00::2]:1").unwrap();
        assert_eq!(refused(0, "20.0.0.2:1"), Some(Refused::Full));
        drop(first);
        assert_eq!(refused(0, "[2a00::3]:1"), Some(Refused::SourceFull), "one /64 is one source");
        let fifth = take(0, "[2a00:0:0:1::3]:1").unwrap();
        drop((second, third, fourth, fifth));
        let taken = places.lock();
        assert_eq!((taken.count, taken.sources.len()), (0, 0));
    }
}
