//! How often one address may be sent checks, whatever the tickets say.
//!
//! A ticket bounds its own checks; this table bounds them over all tickets, so that not even a
//! rendezvous that mints many tickets with one candidate makes its nodes flood that address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Least distance between two checks to one address. RFC 8445, section 14.2 has 50 ms between any
/// two of a checklist by default and allows 5 ms.
pub(crate) const PACING: Duration = Duration::from_millis(20);
/// The span over which checks to one address are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Checks to one address within [`WINDOW`]: those of two tickets.
const MAX_PER_WINDOW: u32 = 48;
/// Addresses remembered; the one that was quiet for longest is forgotten first.
const MAX_TARGETS: usize = 4_096;

#[derive(Debug)]
struct Spent {
    last: Instant,
    window: Instant,
    count: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    targets: BTreeMap<SocketAddr, Spent>,
    by_age: BTreeSet<(Instant, SocketAddr)>,
}

impl Pacer {
    /// Takes one check out of the address's budget.
    ///
    /// # Errors
    /// When to ask again.
    pub(crate) fn take(&mut self, now: Instant, to: SocketAddr) -> Result<(), Instant> {
        if let Some(spent) = self.targets.get_mut(&to) {
            if now >= spent.window + WINDOW {
                spent.window = now;
                spent.count = 0;
            }
            if now < spent.last + PACING {
                return Err(spent.last + PACING);
            }
            if spent.count >= MAX_PER_WINDOW {
                return Err(spent.window + WINDOW);
            }
            self.by_age.remove(&(spent.last, to));
            spent.last = now;
            spent.count += 1;
        } else {
            if self.targets.len() >= MAX_TARGETS
                && let Some((_, oldest)) = self.by_age.pop_first()
            {
                self.targets.remove(&oldest);
            }
            self.targets.insert(to, Spent { last: now, window: now, count: 1 });
        }
        self.by_age.insert((now, to));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start_of_time;

    fn addr(n: usize) -> SocketAddr {
        SocketAddr::from(([20, 0, (n >> 8) as u8, n as u8], 1 + (n >> 16) as u16))
    }

    #[test]
    fn one_address_is_paced_and_counted() {
        let start = start_of_time();
        let mut pacer = Pacer::default();
        let mut sent = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            match pacer.take(now, addr(1)) {
                Ok(()) => sent += 1,
                Err(again) => assert!(again > now, "asking again at the time given can succeed"),
            }
        }
        assert_eq!(sent, MAX_PER_WINDOW);
        assert!(pacer.take(start + WINDOW, addr(1)).is_ok());
        assert!(pacer.take(start + WINDOW, addr(2)).is_ok(), "each address has its own budget");
        assert_eq!(pacer.take(start + WINDOW, addr(2)), Err(start + WINDOW + PACING));
    }

    #[test]
    fn memory_is_bounded() {
        let start = start_of_time();
        let mut pacer = Pacer::default();
        for n in 0..2 * MAX_TARGETS {
            assert!(pacer.take(start + Duration::from_micros(n as u64), addr(n)).is_ok());
        }
        assert_eq!((pacer.targets.len(), pacer.by_age.len()), (MAX_TARGETS, MAX_TARGETS));
    }
}
