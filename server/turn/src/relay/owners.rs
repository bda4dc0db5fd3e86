//! Which shard has which relay port: one byte for each, exchanged without a lock, so that a small
//! range is used to its end however the clients are spread.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::relay::{Family, RelayConfig, RelayIp};
use crate::shared::{MAX_SHARDS, ShardId};

/// What is asked of a port's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parity {
    Any,
    /// EVEN-PORT (RFC 8656, section 18.7).
    Even,
    /// EVEN-PORT with its reserve bit: the next one has to be free too.
    EvenWithNext,
}

/// No shard.
const FREE: u8 = 0;
/// No shard either, and never free. All between the two is the number of a shard and one.
const WITHHELD: u8 = u8::MAX;
const _: () = assert!(MAX_SHARDS < WITHHELD);

/// The relayed addresses of one family. The marks order nothing but themselves: what a shard does
/// with a port it learns from its shell, or from a message.
struct Plane {
    ip: RelayIp,
    first: u16,
    by_port: Box<[AtomicU8]>,
    /// How many are free, so that nobody searches where there is nothing. It may be behind the
    /// marks for a moment.
    free: AtomicU32,
}

/// All relayed addresses.
pub(crate) struct Owners([Option<Arc<Plane>>; 2]);

/// A port that is a shard's, until this is dropped.
pub(crate) struct PortLease {
    plane: Arc<Plane>,
    at: u16,
}

impl Owners {
    pub(crate) fn new(config: &RelayConfig, range: &RangeInclusive<u16>) -> Self {
        let plane = |ip: Option<RelayIp>| {
            let by_port: Box<[_]> = range.clone().map(|_| AtomicU8::new(FREE)).collect();
            let free = AtomicU32::new(by_port.len() as u32);
            ip.map(|ip| Arc::new(Plane { ip, first: *range.start(), by_port, free }))
        };
        Self([plane(config.ipv4), plane(config.ipv6)])
    }

    /// Never gives this port to a client.
    pub(crate) fn withhold(&self, port: u16) {
        for plane in self.0.iter().flatten() {
            let mark = plane.mark(port);
            if mark.is_some_and(|mark| mark.swap(WITHHELD, Ordering::Relaxed) == FREE) {
                plane.free.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// How many ports a family has, free or not; none if there are no relayed addresses of it.
    pub(crate) fn count(&self, family: Family) -> usize {
        self.plane(family).map_or(0, |plane| plane.by_port.len())
    }

    /// A free port of the family, from a random place on: who can't guess it can't send there
    /// before its client tells (RFC 8656, section 7.2). With [`Parity::EvenWithNext`] the one behind
    /// it as well.
    pub(crate) fn claim(
        &self,
        family: Family,
        parity: Parity,
        shard: ShardId,
        random: &mut ChaCha20Rng,
    ) -> Option<(PortLease, Option<PortLease>)> {
        let plane = self.plane(family).filter(|plane| plane.free.load(Ordering::Relaxed) > 0)?;
        let count = plane.by_port.len();
        let start = random.next_u32() as usize % count;
        let is_even = |at: &usize| (usize::from(plane.first) + at).is_multiple_of(2);
        (start..count).chain(0..start).filter(|at| parity == Parity::Any || is_even(at)).find_map(|at| {
            let port = lease(plane, at, shard)?;
            // Without the second one the first is dropped here, and so given back.
            match parity {
                Parity::Any | Parity::Even => Some((port, None)),
                Parity::EvenWithNext => Some((port, Some(lease(plane, at + 1, shard)?))),
            }
        })
    }

    /// The shard that has this relayed address.
    #[inline]
    pub(crate) fn owner_of(&self, relayed: SocketAddr) -> Option<ShardId> {
        let plane = self.plane(Family::of(relayed.ip())).filter(|plane| plane.ip.seen == relayed.ip())?;
        match plane.mark(relayed.port())?.load(Ordering::Relaxed) {
            FREE | WITHHELD => None,
            owner => Some(ShardId(owner - 1)),
        }
    }

    /// The index of a relayed address among its family's ports.
    #[inline]
    pub(crate) fn place(&self, relayed: SocketAddr) -> Option<usize> {
        let plane = self.plane(Family::of(relayed.ip())).filter(|plane| plane.ip.seen == relayed.ip())?;
        relayed.port().checked_sub(plane.first).map(usize::from)
    }

    #[inline]
    fn plane(&self, family: Family) -> Option<&Arc<Plane>> {
        self.0[family.index()].as_ref()
    }
}

/// The port at this index, if it is free.
fn lease(plane: &Arc<Plane>, at: usize, shard: ShardId) -> Option<PortLease> {
    // Looked at before it is exchanged: a search through a full range should leave the other
    // shards' caches alone.
    let mark = plane.by_port.get(at).filter(|mark| mark.load(Ordering::Relaxed) == FREE)?;
    mark.compare_exchange(FREE, shard.0 + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
    plane.free.fetch_sub(1, Ordering::Relaxed);
    Some(PortLease { plane: Arc::clone(plane), at: at as u16 })
}

impl Plane {
    #[inline]
    fn mark(&self, port: u16) -> Option<&AtomicU8> {
        self.by_port.get(usize::from(port.checked_sub(self.first)?))
    }
}

impl PortLease {
    /// The relayed address as peers know it.
    pub(crate) fn seen(&self) -> SocketAddr {
        SocketAddr::new(self.plane.ip.seen, self.plane.first + self.at)
    }

    /// The one to open.
    pub(crate) fn bind(&self) -> SocketAddr {
        SocketAddr::new(self.plane.ip.bind, self.plane.first + self.at)
    }

    /// Its index among its family's ports.
    pub(crate) fn place(&self) -> usize {
        usize::from(self.at)
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.plane.ip.seen)
    }

    /// Makes it another shard's, to which this is to be sent.
    pub(crate) fn hand_to(&self, shard: ShardId) {
        self.plane.by_port[self.place()].store(shard.0 + 1, Ordering::Relaxed);
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.plane.free.fetch_add(1, Ordering::Relaxed);
        self.plane.by_port[self.place()].store(FREE, Ordering::Relaxed);
    }
}

impl PartialEq for PortLease {
    fn eq(&self, other: &Self) -> bool {
        self.seen() == other.seen()
    }
}

impl Eq for PortLease {}

impl fmt::Debug for PortLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortLease({})", self.seen())
    }
}
