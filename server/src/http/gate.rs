//! How many may be there at once: connections that speak HTTP, and connections whose node has not
//! proven anything yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Source;

/// Places, some for each source.
pub(crate) struct Gate {
    most: usize,
    most_of_source: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: usize,
    /// Never more entries than places taken.
    by_source: HashMap<Source, usize>,
}

/// The place of one connection, free again when dropped.
pub(crate) struct Place {
    gate: Arc<Gate>,
    source: Option<Source>,
}

impl Gate {
    /// Places in all, and places for one source.
    pub(crate) fn new(most: usize, most_of_source: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_source: AtomicUsize::new(most_of_source), state: Mutex::default() })
    }

    /// So many of one source from now on. Whoever has a place keeps it.
    pub(crate) fn set_most_of_source(&self, most: usize) {
        self.most_of_source.store(most, Ordering::Relaxed);
    }

    /// A place, if there is one. Without a source only all places together are counted.
    pub(crate) fn enter(self: &Arc<Self>, source: Option<IpAddr>) -> Option<Place> {
        let source = source.map(Source::of);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.total >= self.most {
            return None;
        }
        if let Some(source) = source {
            let of_source = state.by_source.get(&source).copied().unwrap_or(0);
            if of_source >= self.most_of_source.load(Ordering::Relaxed) {
                return None;
            }
            state.by_source.insert(source, of_source + 1);
        }
        state.total += 1;
        Some(Place { gate: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.total -= 1;
        let Some(source) = self.source else { return };
        match state.by_source.get_mut(&source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                state.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_end_and_come_back() {
        let gate = Gate::new(8, 3);
        let of = |n: u8| gate.enter(Some(IpAddr::from([20, 0, n, 1])));
        let mut places: Vec<Place> = (0..3).filter_map(|_| of(1)).collect();
        assert_eq!(places.len(), 3);
        assert!(of(1).is_none());
        for n in 2..9 {
            places.extend((0..3).filter_map(|_| of(n)));
        }
        assert_eq!(places.len(), 8);
        assert!(of(9).is_none());
        assert!(gate.enter(None).is_none());
        places.clear();
        assert!(of(1).is_some());
        // Those that are counted only in all are no source's.
        places.extend((0..8).filter_map(|_| gate.enter(None)));
        assert_eq!(places.len(), 8);
        places.clear();
        let state = gate.state.lock().unwrap();
        assert_eq!((state.total, state.by_source.len()), (0, 0));
    }
}
