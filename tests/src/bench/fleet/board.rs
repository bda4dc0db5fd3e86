//! What all nodes write down together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meetpoint_proto::wire::Refusal;

use crate::bench::histogram::Histogram;

/// Kinds of refusals and errors that are told apart.
const MAX_KINDS: usize = 16;

/// Counts members, and remembers what was seen.
#[derive(Debug, Default)]
pub(super) struct Board {
    present: AtomicUsize,
    seen: Mutex<Seen>,
}

/// See [`Board`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// From the moment a first join was due to its welcome.
    pub(super) joins: Histogram,
    /// Memberships that ended.
    pub(super) lost: u64,
    /// Why nodes were not let in, or lost their connections, and how often.
    pub(super) refused: BTreeMap<String, u64>,
}

impl Board {
    pub(super) fn joined(&self, first_after: Option<Duration>) {
        self.present.fetch_add(1, Ordering::Relaxed);
        if let Some(after) = first_after {
            self.with(|seen| seen.joins.record(after));
        }
    }

    pub(super) fn left(&self) {
        self.present.fetch_sub(1, Ordering::Relaxed);
        self.with(|seen| seen.lost += 1);
    }

    pub(super) fn refused(&self, refusal: Option<&Refusal>) {
        let why = refusal.map_or_else(|| "no connection".to_owned(), |refusal| refusal.code.to_string());
        self.with(|seen| {
            if seen.refused.len() < MAX_KINDS || seen.refused.contains_key(&why) {
                *seen.refused.entry(why).or_default() += 1;
            }
        });
    }

    pub(super) fn present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> Seen {
        self.with(std::mem::take)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
