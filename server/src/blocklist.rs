//! Remembers who failed to join, so that nobody can try tokens or names at leisure.
//!
//! Counted by source: an IPv4 address or an IPv6 /64, of a TCP connection, which can't be spoofed.
//! After too many failures inside a window the source has to wait. The table has a fixed size: a
//! source hashes to a bucket of a few places, and the least worrying one gives way. Who has so many
//! addresses that places run out is not stopped by counting addresses anyway.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr;

/// Failures inside [`WINDOW`] that a source may have. A node with a wrong token that backs off from
/// 1 s to 30 s stays below it; a guesser gets 20 guesses a minute at 80 bits.
const MAX_FAILURES: u32 = 20;
/// See [`MAX_FAILURES`].
const WINDOW: Duration = Duration::from_secs(60);
/// How long a source waits then. Short, since many may share an address.
const BLOCK: Duration = Duration::from_secs(60);
const BUCKETS: usize = 2048;
const PLACES: usize = 4;

/// What counts as one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match addr::canonical(ip) {
            IpAddr::V4(v4) => Self(u64::from(u32::from(v4))),
            // The upper half; it is never a bare IPv4 number, since those have 32 leading zeros.
            IpAddr::V6(v6) => Self((u128::from(v6) >> 64) as u64 | 1 << 63),
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    source: Source,
    failures: u32,
    /// The end of the window, or of the block.
    until: Instant,
}

/// The sources that failed lately.
pub(crate) struct Blocklist {
    hasher: RandomState,
    buckets: Vec<[Option<Entry>; PLACES]>,
}

impl Blocklist {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), buckets: vec![[None; PLACES]; BUCKETS] }
    }

    /// How long the source has to wait yet, if it has to.
    pub(crate) fn wait(&self, now: Instant, ip: IpAddr) -> Option<Duration> {
        let source = Source::of(ip);
        let bucket = &self.buckets[self.bucket_of(source)];
        let entry = bucket.iter().flatten().find(|entry| entry.source == source)?;
        (entry.failures >= MAX_FAILURES && entry.until > now).then(|| entry.until - now)
    }

    /// Counts a failure.
    pub(crate) fn failed(&mut self, now: Instant, ip: IpAddr) {
        let source = Source::of(ip);
        let index = self.bucket_of(source);
        let bucket = &mut self.buckets[index];
        let known = bucket.iter_mut().flatten().find(|entry| entry.source == source && entry.until > now);
        if let Some(entry) = known {
            entry.failures += 1;
            if entry.failures == MAX_FAILURES {
                entry.until = now + BLOCK;
            }
            return;
        }
        let fresh = Entry { source, failures: 1, until: now + WINDOW };
        let rank = |place: &Option<Entry>| match place {
            None => (0, 0),
            Some(entry) if entry.until <= now || entry.source == source => (0, 1),
            Some(entry) => (1, entry.failures),
        };
        if let Some(place) = bucket.iter_mut().min_by_key(|place| rank(place)) {
            *place = Some(fresh);
        }
    }

    fn bucket_of(&self, source: Source) -> usize {
        (self.hasher.hash_one(source) % BUCKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guesser_waits_and_is_let_in_again() {
        let mut list = Blocklist::new();
        let start = Instant::now();
        let (guesser, other) = (IpAddr::from([20, 0, 0, 1]), IpAddr::from([20, 0, 0, 2]));
        for _ in 1..MAX_FAILURES {
            list.failed(start, guesser);
        }
        assert_eq!(list.wait(start, guesser), None);
        list.failed(start, guesser);
        assert_eq!(list.wait(start, guesser), Some(BLOCK));
        assert_eq!(list.wait(start, other), None);
        // Attempts during the block do not prolong it.
        let later = start + BLOCK / 2;
        list.failed(later, guesser);
        assert_eq!(list.wait(later, guesser), Some(BLOCK / 2));
        assert_eq!(list.wait(start + BLOCK, guesser), None);
        list.failed(start + BLOCK, guesser);
        assert_eq!(list.wait(start + BLOCK, guesser), None);
    }

    #[test]
    fn failures_far_apart_do_not_add_up() {
        let mut list = Blocklist::new();
        let ip = IpAddr::from([20, 0, 0, 1]);
        let mut now = Instant::now();
        for _ in 0..MAX_FAILURES * 3 {
            list.failed(now, ip);
            assert_eq!(list.wait(now, ip), None);
            now += WINDOW / 4;
        }
    }

    #[test]
    fn sources_table() {
        let check = |a: &str, b: &str, same: bool| {
            let of = |text: &str| Source::of(text.parse().unwrap());
            assert_eq!(of(a) == of(b), same, "{a} {b}");
        };
        check("20.0.0.1", "20.0.0.1", true);
        check("20.0.0.1", "20.0.0.2", false);
        check("20.0.0.1", "::ffff:20.0.0.1", true);
        check("2a00::1", "2a00::ffff:1:2:3", true);
        check("2a00:0:0:1::1", "2a00:0:0:2::1", false);
        check("20.0.0.1", "2a00::1400:1", false);
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_room() {
        let mut list = Blocklist::new();
        let now = Instant::now();
        let guesser = IpAddr::from([20, 0, 0, 1]);
        for _ in 0..MAX_FAILURES {
            list.failed(now, guesser);
        }
        for n in 0..50_000_u32 {
            list.failed(now, IpAddr::from((0x1e00_0000 + n).to_be_bytes()));
        }
        assert_eq!(list.buckets.len(), BUCKETS);
        assert!(list.wait(now, guesser).is_some(), "one-time failures must not wash a guesser out");
    }
}
