//! How many bytes may be relayed: by an allocation, by all of one user or one source, and by the
//! server.
//!
//! Each of these is one virtual time: the time at which a bucket that drains at the rate would be
//! empty. An allocation's own is a plain number. The others belong to several shards, so bytes are
//! bought of them in advance, some kilobytes at a time: cores that relay for one user would
//! otherwise take one cache line from each other for every packet. What was bought and is not yet
//! used is the most by which a rate can be exceeded.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::relay::RelayLimits;

/// Bytes bought at once, at most. A busy flow buys once in about a dozen packets.
const MAX_PURCHASE: u64 = 16 * 1024;
/// A purchase takes no more than this part of a burst, so that a small rate stays exact.
const PURCHASES_PER_BURST: u64 = 64;

/// Bytes a second, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    per_s: u64,
    burst: u64,
}

impl ByteRate {
    /// `per_s` bytes a second, `burst` of them at once. Bursts are counted up to 4 GiB.
    #[must_use]
    pub const fn new(per_s: u64, burst: u64) -> Self {
        const MAX_BURST: u64 = u32::MAX as u64;
        Self { per_s, burst: if burst < MAX_BURST { burst } else { MAX_BURST } }
    }

    pub(crate) const fn is_usable(self) -> bool {
        self.per_s > 0 && self.burst > 0
    }
}

/// A [`ByteRate`] without the division.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    /// How long the rate takes for a byte, in 2^-32 nanoseconds.
    byte_ns: u64,
    /// How long it takes for a burst.
    burst_ns: u64,
    purchase: u64,
}

impl Meter {
    pub(crate) const fn new(rate: ByteRate) -> Self {
        const NANOS_PER_S: u64 = 1_000_000_000;
        let byte_ns = (NANOS_PER_S << 32) / rate.per_s;
        let part = rate.burst / PURCHASES_PER_BURST;
        let purchase = if part < MAX_PURCHASE { part } else { MAX_PURCHASE };
        let mut meter = Self { byte_ns, burst_ns: 0, purchase };
        meter.burst_ns = meter.nanos(rate.burst);
        meter
    }

    /// How long the rate takes for so many bytes: up to 4 GiB of them, so that it fits.
    #[inline]
    const fn nanos(self, bytes: u64) -> u64 {
        ((bytes as u128 * self.byte_ns as u128) >> 32) as u64
    }

    /// Bytes to buy at once.
    pub(crate) const fn purchase(self) -> u64 {
        self.purchase
    }

    /// The virtual time after `bytes` more, or nothing if the bucket would overflow.
    #[inline]
    pub(crate) const fn next(self, empty_ns: u64, now_ns: u64, bytes: u64) -> Option<u64> {
        let start_ns = if empty_ns > now_ns { empty_ns } else { now_ns };
        let end_ns = start_ns.saturating_add(self.nanos(bytes));
        if end_ns - now_ns <= self.burst_ns { Some(end_ns) } else { None }
    }
}

/// What is left of a rate that several shards take from.
#[derive(Debug, Default)]
pub(crate) struct Account {
    empty_ns: AtomicU64,
}

impl Account {
    pub(crate) fn take(&self, meter: Meter, now_ns: u64, bytes: u64) -> bool {
        let next = |empty_ns| meter.next(empty_ns, now_ns, bytes);
        self.empty_ns.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// True if nothing of what was taken matters any more.
    pub(crate) fn is_settled(&self, now_ns: u64) -> bool {
        self.empty_ns.load(Ordering::Relaxed) <= now_ns
    }

    /// Undoes [`Self::take`].
    pub(crate) fn give_back(&self, meter: Meter, bytes: u64) {
        self.empty_ns.fetch_sub(meter.nanos(bytes), Ordering::Relaxed);
    }
}

/// Bytes that were bought and are not used yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Prepaid(u64);

impl Prepaid {
    /// Buys if there is too little for `bytes`: more than that if there is more, so that the next
    /// packets need not ask.
    #[inline]
    pub(crate) fn cover<E>(
        &mut self,
        bytes: u64,
        purchase: u64,
        buy: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.0 >= bytes { Ok(()) } else { self.buy(bytes - self.0, purchase, buy) }
    }

    #[cold]
    fn buy<E>(&mut self, short: u64, purchase: u64, buy: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
        let bought = if purchase > short && buy(purchase).is_ok() {
            purchase
        } else {
            buy(short)?;
            short
        };
        self.0 += bought;
        Ok(())
    }

    /// Uses what [`Self::cover`] made sure of.
    #[inline]
    pub(crate) const fn spend(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(bytes);
    }
}

/// Whose rate is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    Allocation,
    User,
    Source,
    Server,
}

/// All rates, and what this shard has bought of the server's.
pub(crate) struct Meters {
    pub(crate) allocation: Meter,
    pub(crate) user: Meter,
    pub(crate) source: Meter,
    pub(crate) server: Meter,
    pub(crate) prepaid: Prepaid,
}

impl Meters {
    /// By these limits. What was bought before is a few kilobytes and stays.
    pub(crate) const fn new(limits: &RelayLimits, prepaid: Prepaid) -> Self {
        Self {
            allocation: Meter::new(limits.rate),
            user: Meter::new(limits.rate_per_user),
            source: Meter::new(limits.rate_per_source),
            server: Meter::new(limits.rate_total),
            prepaid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_is_its_rate() {
        let check = |per_s: u64, burst: u64, bytes: u64, count: usize| {
            let meter = Meter::new(ByteRate::new(per_s, burst));
            let mut empty_ns = 0;
            let mut take = || {
                empty_ns = meter.next(empty_ns, 0, bytes)?;
                Some(())
            };
            let taken = (0..=count).map_while(|_| take()).count();
            assert_eq!(taken, count, "{per_s} {burst} {bytes}");
        };
        check(1, 1, 1, 1);
        check(1000, 3000, 500, 6);
        check(3, 10, 3, 3);
        check(12_500_000, 2_500_000, 1200, 2083);
        check(1 << 40, u64::MAX, u64::from(u32::MAX), 1);
        check(7, 1000, 1001, 0);
    }

    #[test]
    fn what_is_bought_is_used_to_the_last_byte() {
        let meter = Meter::new(ByteRate::new(64_000, 64_000));
        let account = Account::default();
        let mut prepaid = Prepaid::default();
        let buy = |bytes| if account.take(meter, 0, bytes) { Ok(()) } else { Err(()) };
        let packets = (0..).map_while(|_| {
            prepaid.cover(300, meter.purchase, buy).ok()?;
            prepaid.spend(300);
            Some(300)
        });
        assert_eq!(packets.sum::<u64>(), 63_900);
        account.give_back(meter, 500);
        assert!(prepaid.cover(300, meter.purchase, buy).is_ok());
    }
}
