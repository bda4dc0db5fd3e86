//! When whoever found no place may come back.
//!
//! After a restart all nodes stand at the door at once. Told to come back after the same time they would do so all at
//! once again, and those turned away often enough would wait for half a minute by their own backoff. So each gets a
//! turn of its own, at the pace at which joins are served.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No turn is sooner: whoever is turned away is not to come back in the same crowd.
const SOONEST: Duration = Duration::from_secs(1);
/// Between two turns: somewhat more than the 1,100 joins a second that two cores were seen to serve
/// (docs/performance.md), because a turn that is not taken up is lost.
const INTERVAL: Duration = Duration::from_micros(800);
/// No turn is later, however many ask.
const LATEST: Duration = Duration::from_secs(30);

/// Hands out turns.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Option<Instant>>);

impl Turns {
    /// How long the next one has to wait.
    pub(super) fn next(&self, now: Instant) -> Duration {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soonest = now + SOONEST;
        let turn = next.map_or(soonest, |next| next.clamp(soonest, now + LATEST));
        *next = Some(turn + INTERVAL);
        turn - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_comes_back_one_by_one() {
        let (turns, now) = (Turns::default(), Instant::now());
        let first: Vec<Duration> = (0..1000).map(|_| turns.next(now)).collect();
        assert_eq!(first[0], SOONEST);
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] == INTERVAL));
        // Turns that have passed are nobody's; those given are not given again.
        assert_eq!(
            turns.next(now + Duration::from_millis(500)),
            SOONEST + INTERVAL * 1000 - Duration::from_millis(500)
        );
        assert_eq!(turns.next(now + Duration::from_secs(60)), SOONEST);
        assert!((0..100_000).map(|_| turns.next(now)).all(|wait| wait <= LATEST));
    }
}
