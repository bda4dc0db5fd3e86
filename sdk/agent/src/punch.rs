//! One ticket's checks: where and when.
//!
//! Both sides start at the same moment (each waits out its head start) and send to each candidate
//! at growing distances until one answers. A candidate behind a filtering NAT becomes reachable
//! only when its own side has sent towards us, so the first checks may well be lost by design. A
//! check that arrives from an address nobody named (a symmetric NAT chose it) makes that address a
//! target at once: its NAT is open towards us now.
//!
//! Only the timing is here; keys and paths are the link's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::NodeId;

use meetpoint_proto::Timers;

/// Distances between the checks to one target: quick while both sides open their NATs, then as
/// often as a lossy link needs; the last one repeats until the ticket expires.
const GAPS_MS: [u64; 7] = [20, 30, 50, 100, 200, 400, 800];
/// Between the first checks to two candidates of one ticket (RFC 8445, section 14.2 allows 5 ms).
const STAGGER: Duration = Duration::from_millis(5);
/// Candidates taken of one introduction.
pub(crate) const MAX_CANDIDATES: usize = 16;
/// Sources of checks that nobody named, and that become targets. One is what a symmetric NAT
/// makes; two such NATs with open filters would make new ones for each other for ever.
const MAX_UNNAMED: usize = 4;
/// Checks to one target within one ticket: its schedule over ten seconds, and triggered ones.
const MAX_CHECKS_PER_TARGET: u32 = 32;
/// Checks of one ticket: six targets to the end of their schedules.
const MAX_CHECKS: u32 = 128;
/// After the first path works: time for a better one (the same link instead of the NAT's hairpin).
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Target {
    sent: u32,
    verified: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Punch {
    pub(crate) peer: NodeId,
    /// When the introduction arrived.
    pub(crate) introduced: Instant,
    /// From when the application counts: its connect call, or the introduction.
    pub(crate) since: Instant,
    /// Nobody has asked for it.
    pub(crate) probe: bool,
    expires: Instant,
    direct: Option<Instant>,
    sent: u32,
    unnamed: usize,
    targets: BTreeMap<SocketAddr, Target>,
    due: Timers<SocketAddr>,
}

impl Punch {
    /// A ticket that arrived `now`. Without candidates it only answers and probes back.
    pub(crate) fn new(now: Instant, peer: NodeId, since: Instant, start: Instant, expires: Instant) -> Self {
        Self {
            peer,
            introduced: now,
            since,
            probe: false,
            // A start behind the expiry would be a ticket for nothing.
            expires: expires.max(start),
            direct: None,
            sent: 0,
            unnamed: 0,
            targets: BTreeMap::new(),
            due: Timers::new(),
        }
    }

    pub(crate) fn add_candidates(&mut self, start: Instant, candidates: &[SocketAddr]) {
        let mut at = start;
        for &candidate in candidates.iter().take(MAX_CANDIDATES) {
            self.targets.entry(candidate).or_default();
            self.due.set(candidate, Some(at));
            at += STAGGER;
        }
    }

    /// True while nothing was sent under the ticket, and nobody was named to send to.
    pub(crate) fn is_passive(&self) -> bool {
        self.targets.is_empty()
    }

    /// True once a path was verified.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    fn end(&self) -> Instant {
        self.direct.map_or(self.expires, |direct| self.expires.min(direct + SETTLE))
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.end() <= now
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.due.next().map_or(self.end(), |due| due.min(self.end()))
    }

    /// A target whose check is due.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<SocketAddr> {
        self.due.pop_due(now)
    }

    /// A due check may be sent only then.
    pub(crate) fn postpone(&mut self, target: SocketAddr, until: Instant) {
        self.due.set(target, Some(until));
    }

    /// A check was sent; the next one comes after the schedule's gap.
    pub(crate) fn sent(&mut self, now: Instant, to: SocketAddr) {
        self.sent += 1;
        let Some(target) = self.targets.get_mut(&to) else { return };
        let gap = GAPS_MS[(target.sent as usize).min(GAPS_MS.len() - 1)];
        target.sent += 1;
        if target.sent < MAX_CHECKS_PER_TARGET && self.sent < MAX_CHECKS {
            self.due.set(to, Some(now + Duration::from_millis(gap)));
        }
    }

    /// A valid check came from there: its NAT is open, so ours goes out at once.
    pub(crate) fn trigger(&mut self, now: Instant, source: SocketAddr) {
        let target = match self.targets.entry(source) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if self.unnamed >= MAX_UNNAMED => return,
            Entry::Vacant(unknown) => {
                self.unnamed += 1;
                unknown.insert(Target::default())
            }
        };
        if !target.verified && target.sent < MAX_CHECKS_PER_TARGET && self.sent < MAX_CHECKS {
            self.due.set(source, Some(now));
        }
    }

    /// Our own check to there was answered. True if it is the ticket's first.
    pub(crate) fn verified(&mut self, now: Instant, remote: SocketAddr) -> bool {
        if let Some(target) = self.targets.get_mut(&remote) {
            target.verified = true;
        }
        self.due.set(remote, None);
        let is_first = self.direct.is_none();
        self.direct.get_or_insert(now);
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start_of_time;

    const MS: Duration = Duration::from_millis(1);

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([20, 0, 0, n], 4000))
    }

    /// Sends whatever is due; gives (milliseconds, target).
    fn run(punch: &mut Punch, start: Instant, until_ms: u32) -> Vec<(u128, SocketAddr)> {
        let mut log = Vec::new();
        while punch.deadline() < start + MS * until_ms && !punch.is_over(punch.deadline()) {
            let now = punch.deadline();
            while let Some(to) = punch.next_due(now) {
                log.push(((now - start).as_millis(), to));
                punch.sent(now, to);
            }
        }
        log
    }

    fn punch(start: Instant) -> Punch {
        Punch::new(start, NodeId::from_bytes([1; 32]), start, start, start + 10_000 * MS)
    }

    #[test]
    fn schedule_of_one_candidate() {
        let start = start_of_time();
        let mut punch = punch(start);
        punch.add_candidates(start, &[addr(1)]);
        let times: Vec<u128> = run(&mut punch, start, 1_700).into_iter().map(|(ms, _)| ms).collect();
        assert_eq!(times, [0, 20, 50, 100, 200, 400, 800, 1600]);
    }

    #[test]
    fn candidates_are_staggered_and_checks_are_bounded() {
        let start = start_of_time();
        let mut punch = punch(start);
        let candidates: Vec<SocketAddr> = (0..40).map(addr).collect();
        punch.add_candidates(start, &candidates);
        let log = run(&mut punch, start, 10_000);
        let firsts: Vec<u128> = log.iter().filter(|(ms, _)| *ms < 20).map(|(ms, _)| *ms).collect();
        assert_eq!(firsts, [0, 5, 10, 15]);
        assert!(log.len() <= MAX_CHECKS as usize + MAX_CANDIDATES, "{}", log.len());
        assert!(log.iter().all(|(_, to)| candidates[..MAX_CANDIDATES].contains(to)));
    }

    #[test]
    fn silence_lasts_until_the_expiry_and_a_path_ends_it_sooner() {
        let start = start_of_time();
        let mut punch = punch(start);
        assert_eq!(punch.deadline(), start + 10_000 * MS);
        punch.trigger(start, addr(1));
        assert_eq!(punch.next_due(start), Some(addr(1)), "a trigger is due at once");
        punch.sent(start, addr(1));
        assert!(punch.verified(start + 30 * MS, addr(1)));
        assert!(!punch.verified(start + 31 * MS, addr(2)), "only the first counts");
        assert!(!punch.is_over(start + 529 * MS));
        assert!(punch.is_over(start + 530 * MS));
        punch.trigger(start, addr(1));
        assert_eq!(punch.next_due(start), None, "a verified target needs no more checks");
    }

    #[test]
    fn strangers_do_not_grow_the_table() {
        let start = start_of_time();
        let mut punch = punch(start);
        for n in 0..=255 {
            punch.trigger(start, addr(n));
        }
        assert_eq!(punch.targets.len(), MAX_UNNAMED);
    }
}
