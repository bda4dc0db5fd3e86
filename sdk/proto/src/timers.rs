//! Deadlines in order: at most one a key, the next one found without a scan. Every pure machine
//! has one of these behind its `poll_timeout`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each key.
#[derive(Debug)]
pub struct Timers<K> {
    queue: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// None set.
    #[must_use]
    pub fn new() -> Self {
        Self { queue: BTreeSet::new(), by_key: BTreeMap::new() }
    }

    /// Sets the key's deadline, or clears it.
    pub fn set(&mut self, key: K, at: Option<Instant>) {
        let former = match at {
            Some(at) => self.by_key.insert(key.clone(), at),
            None => self.by_key.remove(&key),
        };
        if let Some(former) = former {
            self.queue.remove(&(former, key.clone()));
        }
        if let Some(at) = at {
            self.queue.insert((at, key));
        }
    }

    /// The key's deadline.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<Instant> {
        self.by_key.get(key).copied()
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Takes one key whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test starts its own clock")]
    fn one_deadline_a_key_in_order() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        timers.set("b", Some(at(20)));
        timers.set("a", Some(at(30)));
        timers.set("c", Some(at(25)));
        timers.set("a", Some(at(10)));
        timers.set("c", None);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(25)), Some("a"));
        assert_eq!(timers.pop_due(at(25)), Some("b"));
        assert_eq!((timers.pop_due(at(99)), timers.next()), (None, None));
    }
}
