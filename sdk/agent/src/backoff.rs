//! Exponential backoff with jitter: the delay is drawn evenly from a quarter of a ceiling up to all of it, and the
//! ceiling doubles with each failure, so that nodes which lost one server together come back apart. From nothing on,
//! some of many nodes would use up their quick tries before a server that restarts is there again, and be the last to
//! come back.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::api::BackoffConfig;

/// Doublings beyond this cannot matter: the ceiling is bounded by the configured maximum anyway.
const MAX_DOUBLINGS: u32 = 16;

/// The shortest delay is this part of the longest.
const FLOOR_DIVISOR: u32 = 4;

/// Counts failures and draws delays.
#[derive(Debug)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(config: BackoffConfig) -> Self {
        Self { config, failures: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure, and says how long to wait before the next try.
    pub(crate) fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let doublings = self.failures.min(MAX_DOUBLINGS);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.config.base.saturating_mul(1 << doublings).min(self.config.max);
        let floor = ceiling / FLOOR_DIVISOR;
        floor + scale(ceiling - floor, rng.next_u32())
    }
}

/// The part of a duration that a random number stands for.
pub(crate) fn scale(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn ceilings_double_up_to_the_maximum_and_start_anew() {
        let config =
            BackoffConfig { base: Duration::from_secs(1), max: Duration::from_secs(30), give_up_after: None };
        let ceilings = [1, 2, 4, 8, 16, 30, 30, 30];
        let (mut smallest, mut largest) = ([Duration::MAX; 8], [Duration::ZERO; 8]);
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut backoff = Backoff::new(config);
        for _ in 0..200 {
            for failures in 0..ceilings.len() {
                let delay = backoff.next_delay(&mut rng);
                let ceiling = Duration::from_secs(ceilings[failures]);
                assert!(delay <= ceiling && delay >= ceiling / 4, "failure {failures}: {delay:?}");
                largest[failures] = delay.max(largest[failures]);
                smallest[failures] = delay.min(smallest[failures]);
            }
            backoff.reset();
        }
        for (ceiling, (smallest, largest)) in ceilings.iter().zip(smallest.into_iter().zip(largest)) {
            let ceiling = Duration::from_secs(*ceiling);
            assert!(
                largest > ceiling * 9 / 10 && smallest < ceiling * 3 / 10,
                "the whole of {ceiling:?} is used"
            );
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let config = BackoffConfig { base: Duration::MAX, max: Duration::from_secs(5), give_up_after: None };
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let mut backoff = Backoff::new(config);
        backoff.failures = u32::MAX;
        assert!(backoff.next_delay(&mut rng) <= config.max);
    }
}
