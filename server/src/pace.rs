//! Lets a burst pass, then one at a time, and counts what it did not let pass.

use std::time::{Duration, Instant};

/// A pace and how far it is used up.
pub(crate) struct Pace {
    burst: u32,
    every: Duration,
    /// When all of the burst is free again.
    full_at: Option<Instant>,
    left_out: u64,
}

impl Pace {
    /// `burst` in one go, and one more each `every`.
    pub(crate) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full_at: None, left_out: 0 }
    }

    /// Whether one more may pass; if so, how many were left out since the last that did.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.every;
        if full_at - now > self.every * self.burst {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.full_at = Some(full_at);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let every = Duration::from_secs(1);
        let mut pace = Pace::new(3, every);
        let start = Instant::now();
        let passed: Vec<_> = (0..6).map(|_| pace.pass(start)).collect();
        assert_eq!(passed, [Some(0), Some(0), Some(0), None, None, None]);
        assert_eq!(pace.pass(start + every), Some(3), "the left out ones are told of once");
        assert_eq!(pace.pass(start + every), None);
        assert_eq!(pace.pass(start + every * 2), Some(1));
        // After a rest the whole burst is there again, and no more than it.
        let later = start + every * 100;
        let passed = (0..6).filter_map(|_| pace.pass(later)).count();
        assert_eq!(passed, 3);
    }
}
