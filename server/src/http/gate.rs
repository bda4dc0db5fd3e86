//! How many strangers may stand at the door: connections whose node has not proven anything yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::blocklist::Source;

/// Unproven connections at once. With a handshake of a few round trips it lets thousands a second
/// pass; each holds some 20 KB for at most the handshake's timeout.
const MAX_STRANGERS: usize = 1024;
/// Of these, from one source: a whole office may come back at once after a restart.
const MAX_STRANGERS_PER_SOURCE: usize = 128;

/// Counts the strangers.
pub(crate) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    total: usize,
    /// Never more entries than strangers.
    by_source: HashMap<Source, usize>,
}

/// The place of one stranger, free again when dropped.
pub(super) struct Place {
    gate: Arc<Gate>,
    source: Source,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// A place, if there is one.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let source = Source::of(ip);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = state.by_source.get(&source).copied().unwrap_or(0);
        if state.total >= MAX_STRANGERS || of_source >= MAX_STRANGERS_PER_SOURCE {
            return None;
        }
        state.total += 1;
        state.by_source.insert(source, of_source + 1);
        Some(Place { gate: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.total -= 1;
        match state.by_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                state.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_end_and_come_back() {
        let gate = Arc::new(Gate::new());
        let ip = IpAddr::from([20, 0, 0, 1]);
        let mut places: Vec<Place> = (0..MAX_STRANGERS_PER_SOURCE).filter_map(|_| gate.enter(ip)).collect();
        assert_eq!(places.len(), MAX_STRANGERS_PER_SOURCE);
        assert!(gate.enter(ip).is_none());
        for n in 2.. {
            match gate.enter(IpAddr::from([20, 0, n, 1])) {
                Some(place) => places.push(place),
                None => break,
            }
            for _ in 1..MAX_STRANGERS_PER_SOURCE {
                places.extend(gate.enter(IpAddr::from([20, 0, n, 1])));
            }
        }
        assert_eq!(places.len(), MAX_STRANGERS);
        places.clear();
        assert!(gate.enter(ip).is_some());
        let state = gate.0.lock().unwrap();
        assert_eq!((state.total, state.by_source.len()), (0, 0));
    }
}
