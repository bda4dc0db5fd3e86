//! How many answers the server gives, so that it is worth nothing to whoever spoofs a source.
//!
//! A STUN server answers strangers, and a stranger's source address may be his victim's. Three
//! budgets bound what a victim can get:
//!
//! * **source**: answers to one source. The default of 200 a second and a burst of 400 is 6.4 kB/s
//!   of plain answers, too little for an attack and enough for the 4,000 nodes behind one carrier
//!   NAT that refresh every 20 s. The source is the IPv4 address or the IPv6 /64, since
//!   whoever has one address of a /64 usually has all. A request with a valid nonce has proven its
//!   source and is counted by address and port apart from the unproven ones, so a spoofed flood in
//!   somebody's name does not cost him the service. Nothing is ever blocked: a budget refills
//!   while it is used up.
//! * **amplified**: answers longer than their question, except the plain Binding answer (which is
//!   1.6 times the shortest question, 2.2 times over IPv6). When it is spent, Binding answers are
//!   trimmed to the plain one and challenges are not sent. Clients whose questions are as long as
//!   the answer (any question with a username of ours) are not concerned.
//! * **redirected**: answers to another port or from another listener than the question's
//!   (RFC 5780). When it is spent such questions are not answered, since a plain answer to them
//!   would be a wrong measurement.
//!
//! The table of sources has a fixed size and holds no address. It is a count-min sketch of
//! two rows; each slot is one virtual scheduling time (GCRA: the time at which a bucket that
//! drains at the rate would be empty), and a source may go on while either of its two slots
//! allows it. To starve a stranger, an attacker has to fill both of his slots, which he cannot
//! compute because the hash is keyed: with h saturated sources the chance is (h / slots) squared.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use siphasher::sip::SipHasher13;

use crate::defence::{Defence, Defences};
use crate::shared::Shared;

const NANOS_PER_S: u64 = 1_000_000_000;

/// A steady rate and how much may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_s: u32,
    burst: u32,
}

impl Rate {
    /// `per_s` answers a second, `burst` of them at once.
    #[must_use]
    pub const fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s, burst }
    }

    /// No bound at all; for benchmarks, and for servers that strangers cannot reach.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(u32::MAX, u32::MAX)
    }

    pub(crate) const fn is_usable(self) -> bool {
        self.per_s > 0 && self.burst > 0
    }

    /// The virtual time after one more answer, or nothing if there is none left.
    pub(crate) fn next(self, virtual_ns: u64, now_ns: u64) -> Option<u64> {
        self.pace(true).next(virtual_ns, now_ns)
    }

    /// The same in the terms of a virtual time. Unlimited rates round down to nothing.
    const fn pace(self, is_lone: bool) -> Pace {
        let interval_ns = NANOS_PER_S / self.per_s as u64;
        Pace { interval_ns, tolerance_ns: interval_ns * (self.burst as u64 - 1), is_lone }
    }
}

/// A [`Rate`] without the divisions.
#[derive(Clone, Copy)]
struct Pace {
    /// The time one answer takes out of the budget.
    interval_ns: u64,
    /// How far the virtual time may run ahead before an answer is refused.
    tolerance_ns: u64,
    /// There is one shard: then nobody comes between, which saves a tenth of a plain Binding.
    is_lone: bool,
}

impl Pace {
    /// Takes one answer, if there is one left. Among several shards the time is exchanged only for
    /// the one it was computed from, so together they get no more out of it than one alone; nothing
    /// else is published with it, so the order of other accesses does not matter.
    #[inline]
    fn take(self, virtual_ns: &AtomicU64, now_ns: u64) -> bool {
        if !self.is_lone {
            return self.take_among_others(virtual_ns, now_ns);
        }
        let next = self.next(virtual_ns.load(Ordering::Relaxed), now_ns);
        next.inspect(|next| virtual_ns.store(*next, Ordering::Relaxed)).is_some()
    }

    #[inline(never)]
    fn take_among_others(self, virtual_ns: &AtomicU64, now_ns: u64) -> bool {
        let next = |virtual_ns| self.next(virtual_ns, now_ns);
        virtual_ns.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// The virtual time after one more answer, or nothing if there is none left.
    #[inline]
    fn next(self, virtual_ns: u64, now_ns: u64) -> Option<u64> {
        let start_ns = virtual_ns.max(now_ns);
        (start_ns - now_ns <= self.tolerance_ns).then(|| start_ns + self.interval_ns)
    }
}

/// Who is to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party {
    /// Anybody who writes this source address on a packet.
    Unproven(IpAddr),
    /// A source to which our nonce was delivered.
    Proven(SocketAddr),
}

/// The three budgets, as one shard takes from them.
pub(crate) struct Budgets {
    shared: Shared,
    defences: Defences,
}

impl Budgets {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, defences: Defences::default() }
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
    }

    /// Takes one answer out of the party's budget.
    pub(crate) fn take_source(&self, now: Instant, party: Party) -> bool {
        if !self.defences.stand(Defence::Budgets) {
            return true;
        }
        let party = match party {
            Party::Proven(source) if !self.defences.stand(Defence::ProvenApart) => {
                Party::Unproven(source.ip())
            }
            party => party,
        };
        self.shared.budgets().sources.take(self.nanos(now), party)
    }

    /// Takes one answer that is longer than its question.
    pub(crate) fn take_amplified(&self, now: Instant) -> bool {
        !self.defences.stand(Defence::Budgets) || self.shared.budgets().amplified.take(self.nanos(now))
    }

    /// Takes one answer that goes elsewhere than the question came from.
    pub(crate) fn take_redirected(&self, now: Instant) -> bool {
        !self.defences.stand(Defence::Budgets) || self.shared.budgets().redirected.take(self.nanos(now))
    }

    fn nanos(&self, now: Instant) -> u64 {
        // Time starts at 1 because the slots do.
        self.shared.nanos(now) + 1
    }
}

/// What all shards of a server take from.
pub(crate) struct SharedBudgets {
    sources: SourceTable,
    amplified: Bucket,
    redirected: Bucket,
}

impl SharedBudgets {
    pub(crate) fn new(limits: &crate::config::Limits, key: &[u8; 16], is_lone: bool) -> Self {
        Self {
            sources: SourceTable::new(limits.source.pace(is_lone), limits.source_slots, key),
            amplified: Bucket::new(limits.amplified.pace(is_lone)),
            redirected: Bucket::new(limits.redirected.pace(is_lone)),
        }
    }
}

/// One budget for all.
struct Bucket {
    pace: Pace,
    virtual_ns: AtomicU64,
}

impl Bucket {
    const fn new(pace: Pace) -> Self {
        Self { pace, virtual_ns: AtomicU64::new(1) }
    }

    fn take(&self, now_ns: u64) -> bool {
        self.pace.take(&self.virtual_ns, now_ns)
    }
}

/// A budget for each source, in constant memory.
struct SourceTable {
    pace: Pace,
    hasher: SipHasher13,
    rows: [Box<[AtomicU64]>; 2],
    mask: u32,
}

impl SourceTable {
    fn new(pace: Pace, slots: u32, key: &[u8; 16]) -> Self {
        let slots = slots.next_power_of_two();
        // Any value but zero makes the allocator touch every page now, so that a flood finds the
        // resident memory as large as it will ever be.
        let row = || (0..slots).map(|_| AtomicU64::new(1)).collect();
        Self { pace, hasher: SipHasher13::new_with_key(key), rows: [row(), row()], mask: slots - 1 }
    }

    fn take(&self, now_ns: u64, party: Party) -> bool {
        let hash = self.hash(party);
        let mut allowed = false;
        // The two halves of one hash are the two independent hashes of the sketch. Only slots
        // that allow are charged, so that a full one does not also fill its partner.
        for (row, half) in self.rows.iter().zip([hash as u32, (hash >> 32) as u32]) {
            allowed |= self.pace.take(&row[(half & self.mask) as usize], now_ns);
        }
        allowed
    }

    fn hash(&self, party: Party) -> u64 {
        let mut hasher = self.hasher;
        match party {
            Party::Unproven(IpAddr::V4(ip)) => hasher.write_u32(ip.to_bits()),
            Party::Unproven(IpAddr::V6(ip)) => hasher.write_u64((ip.to_bits() >> 64) as u64),
            Party::Proven(addr) => {
                match addr.ip() {
                    IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
                    IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
                }
                hasher.write_u16(addr.port());
            }
        }
        hasher.finish()
    }
}
