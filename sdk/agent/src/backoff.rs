//! Exponential backoff with full jitter: the delay is drawn evenly from nothing up to a ceiling
//! that doubles with each failure, so that nodes which lost one server together come back apart.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::api::BackoffConfig;

/// Doublings beyond this cannot matter: the ceiling is bounded by the configured maximum anyway.
const MAX_DOUBLINGS: u32 = 16;

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
        scale(ceiling, rng.next_u32())
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
        let mut largest = [Duration::ZERO; 8];
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut backoff = Backoff::new(config);
        for _ in 0..200 {
            for (failures, largest) in largest.iter_mut().enumerate() {
                let delay = backoff.next_delay(&mut rng);
                assert!(delay <= Duration::from_secs(ceilings[failures]), "failure {failures}");
                *largest = delay.max(*largest);
            }
            backoff.reset();
        }
        for (ceiling, largest) in ceilings.iter().zip(largest) {
            assert!(largest > Duration::from_secs(*ceiling) * 9 / 10, "the whole of {ceiling} s is used");
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
