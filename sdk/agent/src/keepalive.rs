//! How often a NAT is reminded of a mapping that nothing else passes by.
//!
//! Too seldom, and nobody reaches the node; too often, and an idle node talks for nothing. What is measured
//! ([`crate::lifetime`]) decides; until then a guess does, and a mapping that is another one after each silence shows
//! that the guess was too long. One that has moved once shows nothing: a NAT may have been restarted.

use std::time::Duration;

/// The shortest interval: RFC 8445, section 11 calls it Tr and allows none below.
const FLOOR: Duration = Duration::from_secs(15);
/// Where nothing is known. Many NATs drop a mapping after 30 s of silence, so that a few lost packets and their
/// repetitions still come in time.
const DEFAULT: Duration = Duration::from_secs(20);
/// What the repetitions of an unanswered check take, which are to come in time.
const REPETITIONS: Duration = Duration::from_secs(5);
/// The longest, whatever the NAT remembers: consent ends after 30 s (RFC 7675, section 5.1) and has to be renewed
/// before, and what the server knows of a node that its NAT has moved should not be older.
const CEILING: Duration = Duration::from_secs(25);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Keepalive {
    measured: Option<Duration>,
    /// After so long a silence the mapping was another one.
    forgotten: Option<Duration>,
    /// At the last look the mapping was another one.
    has_moved: bool,
}

impl Keepalive {
    /// The longest silence that is safe: the NAT's memory, less what repetitions take.
    pub(crate) fn interval(&self) -> Duration {
        let life = self.measured.or(self.forgotten);
        life.map_or(DEFAULT, |life| life.saturating_sub(REPETITIONS).clamp(FLOOR, CEILING))
    }

    /// The longest silence that the NAT was seen to remember.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.measured
    }

    /// The NAT has remembered a silence of this length.
    pub(crate) fn measured(&mut self, life: Duration) {
        self.measured = Some(life);
        self.forgotten = None;
    }

    /// After so long a silence the mapping was the same.
    pub(crate) fn held_for(&mut self, silence: Duration) {
        self.has_moved &= silence < FLOOR;
    }

    /// After so long a silence the mapping was another one. A NAT that is known to remember for longer, or has
    /// remembered the silence before, has been restarted, or does so now and then; that is no reason to talk more.
    pub(crate) fn moved_after(&mut self, silence: Duration) {
        if silence < FLOOR {
            return;
        }
        let is_habit = std::mem::replace(&mut self.has_moved, true);
        if is_habit && self.measured.is_none_or(|life| silence >= life) {
            let shortest = self.forgotten.map_or(silence, |before| before.min(silence));
            (self.measured, self.forgotten) = (None, Some(shortest));
        }
    }

    /// Another network: nothing is known.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    enum Told {
        Measured(u32),
        MovedAfter(u32),
        HeldFor(u32),
        Reset,
    }

    #[test]
    fn the_interval_follows_what_is_known() {
        use Told::{HeldFor, Measured, MovedAfter, Reset};
        let cases: [(&[Told], u32); 12] = [
            (&[], 20),
            (&[Measured(25)], 20),
            (&[Measured(18)], 15),
            (&[Measured(29)], 24),
            (&[Measured(600)], 25),
            // Once may be a restart, and so may twice with a silence between that was remembered.
            (&[MovedAfter(20)], 20),
            (&[MovedAfter(20), HeldFor(20), MovedAfter(20)], 20),
            (&[MovedAfter(20), HeldFor(3), MovedAfter(20)], 15),
            (&[MovedAfter(20), MovedAfter(19)], 15),
            // A NAT that remembers for longer has been restarted.
            (&[Measured(29), MovedAfter(24), MovedAfter(24)], 24),
            // What is contradicted counts no more.
            (&[Measured(25), MovedAfter(40), MovedAfter(40)], 25),
            (&[MovedAfter(20), MovedAfter(20), Reset], 20),
        ];
        for (number, (told, expect_s)) in cases.iter().enumerate() {
            let mut keepalive = Keepalive::default();
            for told in *told {
                match told {
                    Measured(s) => keepalive.measured(S * *s),
                    MovedAfter(s) => keepalive.moved_after(S * *s),
                    HeldFor(s) => keepalive.held_for(S * *s),
                    Reset => keepalive.reset(),
                }
            }
            assert_eq!(keepalive.interval(), S * *expect_s, "case {number}");
        }
    }

    /// What moves at once moves for another reason than silence.
    #[test]
    fn a_short_silence_shows_nothing() {
        let mut keepalive = Keepalive::default();
        keepalive.moved_after(S * 3);
        keepalive.moved_after(S * 3);
        assert_eq!(keepalive.interval(), DEFAULT);
    }
}
