//! Who did something how often lately, in a table of fixed size.
//!
//! A key hashes to a bucket of a few places, and the least worrying entry of a full bucket gives way.
//! So nothing grows with the number of sources, nothing has to be pruned, and a flood of sources that
//! come once does not wash out one that comes often: whoever has so many addresses that places run
//! out is not stopped by counting addresses anyway. The hash is seeded, so nobody can aim at a bucket.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::{Block, Key, Policy};

/// With [`PLACES`] room for 8192 keys, in some 600 KB.
const BUCKETS: usize = 2048;
/// A bucket is read at each event, so it is small enough for a few cache lines.
const PLACES: usize = 4;

/// What an event meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may be.
    Pass {
        /// Further events in this window.
        remaining: u32,
        /// When the window ends.
        reset: Duration,
    },
    /// It may not.
    Refuse {
        /// When to come again.
        wait: Duration,
    },
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    passed: u32,
    refused: u32,
    blocked: bool,
    /// The end of the window, or of the block.
    until: Instant,
}

/// Counts events by key and holds them against a policy.
pub(crate) struct Limiter {
    policy: Policy,
    hasher: RandomState,
    buckets: Vec<[Option<Entry>; PLACES]>,
}

impl Limiter {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, hasher: RandomState::new(), buckets: vec![[None; PLACES]; BUCKETS] }
    }

    /// How long this key has to wait yet, if it has to. Looking is no event.
    pub(crate) fn wait(&self, now: Instant, key: Key) -> Option<Duration> {
        let bucket = &self.buckets[self.bucket_of(key)];
        let entry = bucket.iter().flatten().find(|entry| entry.key == key && entry.until > now)?;
        let is_used_up = entry.blocked || entry.passed >= self.policy.quota.max.get();
        is_used_up.then(|| entry.until - now)
    }

    /// Counts an event.
    pub(crate) fn count(&mut self, now: Instant, key: Key) -> Verdict {
        let Policy { quota, block } = self.policy;
        let entry = self.entry(now, key);
        if entry.blocked {
            // Attempts during a block do not prolong it.
        } else if entry.passed < quota.max.get() {
            entry.passed += 1;
            return Verdict::Pass { remaining: quota.max.get() - entry.passed, reset: entry.until - now };
        } else {
            entry.refused = entry.refused.saturating_add(1);
            if let Block::After { refused, duration } = block
                && entry.refused >= refused.get()
            {
                entry.blocked = true;
                entry.until = now + duration;
            }
        }
        Verdict::Refuse { wait: entry.until - now }
    }

    /// The key's entry, a fresh one if it has none or its time is over.
    fn entry(&mut self, now: Instant, key: Key) -> &mut Entry {
        let fresh =
            Entry { key, passed: 0, refused: 0, blocked: false, until: now + self.policy.quota.window };
        let index = self.bucket_of(key);
        let bucket = &mut self.buckets[index];
        let rank = |place: &Option<Entry>| match place {
            Some(entry) if entry.key == key => (0, 0, 0),
            None => (1, 0, 0),
            Some(entry) if entry.until <= now => (2, 0, 0),
            Some(entry) => (3 + u8::from(entry.blocked), entry.refused, entry.passed),
        };
        let mut place = 0;
        for other in 1..PLACES {
            if rank(&bucket[other]) < rank(&bucket[place]) {
                place = other;
            }
        }
        let live = bucket[place].filter(|entry| entry.key == key && entry.until > now);
        bucket[place].insert(live.unwrap_or(fresh))
    }

    fn bucket_of(&self, key: Key) -> usize {
        (self.hasher.hash_one(key) % BUCKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const BLOCK: Duration = Duration::from_secs(300);

    fn limiter(quota: &str, block: &str) -> Limiter {
        Limiter::new(Policy { quota: quota.parse().unwrap(), block: block.parse().unwrap() })
    }

    fn key(n: u32) -> Key {
        Key::source(IpAddr::from((0x1400_0000 + n).to_be_bytes()))
    }

    fn refuses(verdict: Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Pass { .. } => None,
            Verdict::Refuse { wait } => Some(wait),
        }
    }

    #[test]
    fn a_window_gives_its_maximum_and_then_a_wait() {
        let mut limiter = limiter("3/60s", "off");
        let start = Instant::now();
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.wait(start, key(1)), None);
            assert_eq!(limiter.count(start, key(1)), Verdict::Pass { remaining, reset: WINDOW });
        }
        assert_eq!(limiter.wait(start, key(1)), Some(WINDOW));
        let later = start + WINDOW / 4;
        // However often it is tried: without a block the window is all there is to wait for.
        for _ in 0..100 {
            assert_eq!(refuses(limiter.count(later, key(1))), Some(WINDOW * 3 / 4));
        }
        assert_eq!(refuses(limiter.count(later, key(2))), None, "another one is not concerned");
        let end = start + WINDOW;
        assert_eq!(limiter.wait(end, key(1)), None);
        assert_eq!(limiter.count(end, key(1)), Verdict::Pass { remaining: 2, reset: WINDOW });
    }

    #[test]
    fn whoever_goes_on_is_blocked_and_let_in_again() {
        let mut limiter = limiter("3/60s", "2/300s");
        let start = Instant::now();
        for _ in 0..3 {
            limiter.count(start, key(1));
        }
        assert_eq!(refuses(limiter.count(start, key(1))), Some(WINDOW));
        let later = start + WINDOW / 2;
        assert_eq!(refuses(limiter.count(later, key(1))), Some(BLOCK));
        assert_eq!(
            limiter.wait(start + WINDOW, key(1)),
            Some(BLOCK - WINDOW / 2),
            "the window is over, the block is not"
        );
        // Attempts during the block do not prolong it.
        assert_eq!(refuses(limiter.count(later + BLOCK / 2, key(1))), Some(BLOCK / 2));
        assert_eq!(limiter.wait(later + BLOCK, key(1)), None);
        assert_eq!(refuses(limiter.count(later + BLOCK, key(1))), None);
    }

    #[test]
    fn events_far_apart_do_not_add_up() {
        let mut limiter = limiter("5/60s", "1/300s");
        let mut now = Instant::now();
        for _ in 0..50 {
            assert_eq!(refuses(limiter.count(now, key(1))), None);
            now += WINDOW / 4;
        }
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_room() {
        let mut limiter = limiter("20/60s", "off");
        let now = Instant::now();
        for _ in 0..20 {
            limiter.count(now, key(0));
        }
        for n in 1..50_000 {
            limiter.count(now, key(n));
        }
        assert_eq!(limiter.buckets.len(), BUCKETS);
        assert!(limiter.wait(now, key(0)).is_some(), "who came once must not wash out who came often");
    }

    #[test]
    fn who_is_blocked_stays_so_among_others_who_come_often() {
        let mut limiter = limiter("20/60s", "1/300s");
        let now = Instant::now();
        for _ in 0..21 {
            limiter.count(now, key(0));
        }
        for n in 1..50_000 {
            limiter.count(now, key(n));
            limiter.count(now, key(n));
        }
        assert_eq!(limiter.wait(now, key(0)), Some(BLOCK));
    }

    #[test]
    fn principals_and_sources_are_apart() {
        let mut limiter = limiter("1/60s", "off");
        let now = Instant::now();
        let keys = [
            key(1),
            Key::Admin,
            Key::Viewer,
            Key::Node(meetpoint_proto::NodeId::from_bytes([1; 32])),
            Key::Node(meetpoint_proto::NodeId::from_bytes([2; 32])),
        ];
        for key in keys {
            assert_eq!(refuses(limiter.count(now, key)), None);
        }
        for key in keys {
            assert!(limiter.wait(now, key).is_some());
        }
    }
}
