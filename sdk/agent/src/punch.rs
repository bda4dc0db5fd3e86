//! One ticket's checks: where and when.
//!
//! Both sides start at the same moment (each waits out its head start) and send to each candidate
//! at growing distances until one answers. A candidate behind a filtering NAT becomes reachable
//! only when its own side has sent towards us, so the first checks may well be lost by design. A
//! check that arrives from an address nobody named (a symmetric NAT chose it) makes that address a
//! target at once: its NAT is open towards us now.
//!
//! Only the timing is here; keys and paths are the link's.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::{NodeId, Timers};

use crate::api::{PathKind, Way};
use crate::guess::{Flow, Guesses};
use crate::plan::Plan;
use crate::provisional::Starts;

/// Distances between the checks to one target: quick while both sides open their NATs, then as
/// often as a lossy link needs; the last one repeats until the ticket expires.
const GAPS_MS: [u64; 7] = [20, 30, 50, 100, 200, 400, 800];
/// The same towards a relayed address. The packet by which its owner opens it leaves at the same moment and arrives
/// there at the same, a little sooner or later, so the second check follows as soon as that may be over.
const RELAY_GAPS_MS: [u64; 8] = [5, 15, 30, 50, 100, 200, 400, 800];
/// So many of them are for those who wait.
const QUICK_GAPS: usize = 3;
/// Between the first checks to two candidates of one ticket (RFC 8445, section 14.2 allows 5 ms).
const STAGGER: Duration = Duration::from_millis(5);
/// Candidates taken of one introduction.
pub(crate) const MAX_CANDIDATES: usize = 16;
/// Sources of checks that nobody named, and that become targets. One is what a symmetric NAT
/// makes; two such NATs with open filters would make new ones for each other for ever.
const MAX_UNNAMED: usize = 4;
/// The same where ports are guessed: many flows meet, the peer keeps one of them, and it is not known which.
const MAX_UNNAMED_GUESSED: usize = 128;
/// Checks to one target within one ticket: its schedule over ten seconds, and triggered ones.
const MAX_CHECKS_PER_TARGET: u32 = 32;
/// The same for those who do not wait: over the first two seconds.
const UNHURRIED_CHECKS: u32 = 6;
/// Checks of one ticket: six targets to the end of their schedules.
const MAX_CHECKS: u32 = 128;
/// The same where ports are guessed: some for each of the flows that meet.
const MAX_CHECKS_GUESSED: u32 = 512;
/// Places that the peer is said to be at, over all that is told in the course of one ticket.
const MAX_NAMED: usize = MAX_CANDIDATES + 8;
/// After the first path works: time for a better one (the same link instead of the NAT's hairpin).
const SETTLE: Duration = Duration::from_millis(500);
/// The same where a relayed path is the best there can be: the peer's own relay may be known a little later.
const SETTLE_RELAYED: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Target {
    sent: u32,
    verified: bool,
    /// The peer was allocated it by a relay.
    is_relay: bool,
    /// Physics keeps the two apart there, as far as both know their NATs.
    is_hopeless: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Punch {
    pub(crate) peer: NodeId,
    /// When the introduction arrived.
    pub(crate) introduced: Instant,
    /// From when the application counts: its connect call, or the introduction.
    pub(crate) since: Instant,
    /// This side sends first. The other kind only answers and probes back.
    pub(crate) is_active: bool,
    /// Nobody has asked for it.
    pub(crate) probe: bool,
    /// The two have a path, or had one a moment ago, and no data waits for another.
    pub(crate) is_unhurried: bool,
    /// The server need not be told of the outcome: the peer, who has asked for it to repair a direct path, does that,
    /// or another ticket has taken its place.
    pub(crate) is_told_elsewhere: bool,
    expires: Instant,
    direct: Option<Instant>,
    sent: u32,
    unnamed: usize,
    /// Where the peer is said to be.
    named: Vec<SocketAddr>,
    targets: BTreeMap<Way, Target>,
    due: Timers<Way>,
    /// By what art the two sides are to meet.
    pub(crate) plan: Plan,
    /// This node's NAT gives out ports in a row: what was known of the newest is outdated by this ticket.
    pub(crate) counts_on: bool,
    guesses: Option<Guesses>,
    /// A relayed way is all that can come of it.
    pub(crate) settles_for_relay: bool,
    /// Checks that open this node's NAT and do not reach the peer's.
    openers: VecDeque<Way>,
    opens_at: Instant,
    /// QUIC's handshake, as far as it waits for no answer.
    pub(crate) starts: Starts,
    /// A round trip to the peer by way of the server, about.
    pub(crate) relayed_trip: Duration,
}

impl Punch {
    /// A ticket that arrived `now`. Without candidates it only answers and probes back.
    pub(crate) fn new(now: Instant, peer: NodeId, since: Instant, start: Instant, expires: Instant) -> Self {
        Self {
            peer,
            introduced: now,
            since,
            is_active: true,
            probe: false,
            is_unhurried: false,
            is_told_elsewhere: false,
            // A start behind the expiry would be a ticket for nothing.
            expires: expires.max(start),
            direct: None,
            sent: 0,
            unnamed: 0,
            named: Vec::new(),
            targets: BTreeMap::new(),
            due: Timers::new(),
            plan: Plan::Checks,
            counts_on: false,
            guesses: None,
            settles_for_relay: false,
            openers: VecDeque::new(),
            opens_at: start,
            starts: Starts::default(),
            relayed_trip: Duration::ZERO,
        }
    }

    pub(crate) fn add_candidates(&mut self, start: Instant, candidates: &[Way]) {
        let mut at = start;
        for &candidate in candidates.iter().take(MAX_CANDIDATES) {
            self.targets.entry(candidate).or_default();
            self.due.set(candidate, Some(at));
            at += STAGGER;
        }
    }

    /// Nothing but a relay brings the two together, as far as both know their NATs. These of the targets, which are
    /// none of a relay's, get one check each, in case that was wrong; and when a relayed way works the ticket soon
    /// ends.
    pub(crate) fn settle_for_relay(&mut self, hopeless: &[Way]) {
        self.settles_for_relay = true;
        for way in hopeless {
            if let Some(target) = self.targets.get_mut(way) {
                target.is_hopeless = true;
            }
        }
    }

    /// These are to be opened first; the checks to them come after that.
    pub(crate) fn open_first(&mut self, targets: &[Way], wait: Duration) {
        let mut at = self.opens_at + wait;
        for &target in targets {
            self.due.set(target, Some(at));
            self.openers.push_back(target);
            at += STAGGER;
        }
    }

    /// These are checked only if the peer's own checks come from there.
    pub(crate) fn only_answer(&mut self, targets: &[Way]) {
        targets.iter().for_each(|target| self.due.set(*target, None));
    }

    /// Checks nothing any more but what the peer's own checks ask for.
    pub(crate) fn fall_silent(&mut self) {
        self.due = Timers::new();
        self.is_told_elsewhere = true;
        self.openers.clear();
        if let Some(guesses) = &mut self.guesses {
            guesses.stop();
        }
    }

    /// True for a candidate that may be checked.
    pub(crate) fn has_target(&self, way: &Way) -> bool {
        self.targets.contains_key(way)
    }

    pub(crate) fn guess(&mut self, guesses: Guesses) {
        self.guesses = Some(guesses);
    }

    /// So many of the sockets that guesses are made from are there.
    pub(crate) fn sockets_opened(&mut self, first: u16, count: u16) {
        if let Some(guesses) = &mut self.guesses {
            guesses.opened(first, count);
        }
    }

    /// Nothing is to be expected of this ticket: it ends when its first checks may have been answered.
    pub(crate) fn end_early(&mut self, end: Instant) {
        self.expires = self.expires.min(end);
    }

    /// An opener that is due.
    pub(crate) fn next_opener(&mut self, now: Instant) -> Option<Way> {
        if now < self.opens_at { None } else { self.openers.pop_front() }
    }

    /// A guess that is due.
    pub(crate) fn next_guess(&mut self, now: Instant) -> Option<Flow> {
        self.guesses.as_mut()?.next_due(now)
    }

    /// The peer is said to be there too: whichever legs there are will try it.
    pub(crate) fn name(&mut self, remote: SocketAddr) {
        if self.named.len() < MAX_NAMED && !self.named.contains(&remote) {
            self.named.push(remote);
        }
    }

    pub(crate) fn is_named(&self, remote: SocketAddr) -> bool {
        self.named.contains(&remote)
    }

    /// Where the peer is said to be.
    pub(crate) fn named(&self) -> Vec<SocketAddr> {
        self.named.clone()
    }

    /// Ways that became known after the start. A known one begins its schedule anew.
    pub(crate) fn add_late(&mut self, now: Instant, ways: &[Way]) {
        let mut at = now;
        for &way in ways {
            if self.targets.len() >= 2 * MAX_NAMED && !self.targets.contains_key(&way) {
                return;
            }
            if !self.targets.entry(way).or_default().verified {
                self.due.set(way, Some(at));
                at += STAGGER;
            }
        }
    }

    /// Where the peer was allocated an address by a relay, which is no place that its own packets come from: a side
    /// that is to send nothing to the peer may send there.
    pub(crate) fn add_relayed(&mut self, now: Instant, way: Way) {
        self.add_late(now, &[way]);
        if let Some(target) = self.targets.get_mut(&way) {
            target.is_relay = true;
        }
    }

    /// True while nothing was sent under the ticket to where the peer itself is, and no such place was named.
    pub(crate) fn is_passive(&self) -> bool {
        !self.is_active && self.targets.values().all(|target| target.is_relay)
    }

    /// True once a direct path was verified.
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
        let opener = self.openers.front().map(|_| self.opens_at);
        let guess = self.guesses.as_ref().and_then(Guesses::deadline);
        [self.due.next(), opener, guess].into_iter().flatten().fold(self.end(), Instant::min)
    }

    /// A target whose check is due.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Way> {
        self.due.pop_due(now)
    }

    /// A due check may be sent only then.
    pub(crate) fn postpone(&mut self, to: Way, until: Instant) {
        self.due.set(to, Some(until));
    }

    fn most_checks(&self) -> u32 {
        if self.guesses.is_some() { MAX_CHECKS_GUESSED } else { MAX_CHECKS }
    }

    /// A check was sent; the next one comes after the schedule's gap.
    pub(crate) fn sent(&mut self, now: Instant, to: Way) {
        self.sent += 1;
        let Some(target) = self.targets.get_mut(&to) else { return };
        let gaps = if target.is_relay { &RELAY_GAPS_MS[..] } else { &GAPS_MS[..] };
        let skipped = if self.is_unhurried { QUICK_GAPS } else { 0 };
        let gap = gaps[(target.sent as usize + skipped).min(gaps.len() - 1)];
        target.sent += 1;
        let most = match (target.is_hopeless, self.is_unhurried) {
            (true, true) => 1,
            (false, true) => UNHURRIED_CHECKS,
            (_, false) => MAX_CHECKS_PER_TARGET,
        };
        if target.sent < most && self.sent < self.most_checks() {
            self.due.set(to, Some(now + Duration::from_millis(gap)));
        }
    }

    /// A valid check came by this way: its NAT is open, so ours goes out at once.
    pub(crate) fn trigger(&mut self, now: Instant, way: Way) {
        let most = if self.guesses.is_some() { MAX_UNNAMED_GUESSED } else { MAX_UNNAMED };
        let target = match self.targets.entry(way) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if self.unnamed >= most => return,
            Entry::Vacant(unknown) => {
                self.unnamed += 1;
                unknown.insert(Target::default())
            }
        };
        if self.is_unhurried && target.sent > 0 {
            // What was sent a moment ago may have got through as well, and if not the schedule goes on.
            return;
        }
        if !target.verified && target.sent < MAX_CHECKS_PER_TARGET && self.sent < self.most_checks() {
            self.due.set(way, Some(now));
        }
    }

    /// Our own check by this way was answered. True if it is the ticket's first direct one.
    pub(crate) fn verified(&mut self, now: Instant, way: Way, kind: PathKind) -> bool {
        if let Some(target) = self.targets.get_mut(&way) {
            target.verified = true;
        }
        self.due.set(way, None);
        if kind == PathKind::Relayed && self.settles_for_relay {
            self.end_early(now + SETTLE_RELAYED);
        }
        let is_first = kind == PathKind::Direct && self.direct.is_none();
        if is_first {
            self.direct = Some(now);
            if let Some(guesses) = &mut self.guesses {
                guesses.stop();
            }
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start_of_time;

    const MS: Duration = Duration::from_millis(1);

    fn way(n: u8) -> Way {
        Way::main(SocketAddr::from(([20, 0, 0, n], 4000)))
    }

    /// Sends whatever is due; gives (milliseconds, target).
    fn run(punch: &mut Punch, start: Instant, until_ms: u32) -> Vec<(u128, Way)> {
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
        punch.add_candidates(start, &[way(1)]);
        let times: Vec<u128> = run(&mut punch, start, 1_700).into_iter().map(|(ms, _)| ms).collect();
        assert_eq!(times, [0, 20, 50, 100, 200, 400, 800, 1600]);
    }

    #[test]
    fn candidates_are_staggered_and_checks_are_bounded() {
        let start = start_of_time();
        let mut punch = punch(start);
        let candidates: Vec<Way> = (0..40).map(way).collect();
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
        punch.trigger(start, way(1));
        assert_eq!(punch.next_due(start), Some(way(1)), "a trigger is due at once");
        punch.sent(start, way(1));
        assert!(!punch.verified(start + 25 * MS, way(3), PathKind::Relayed), "a relay ends no ticket");
        assert!(punch.verified(start + 30 * MS, way(1), PathKind::Direct));
        assert!(!punch.verified(start + 31 * MS, way(2), PathKind::Direct), "only the first counts");
        assert!(!punch.is_over(start + 529 * MS));
        assert!(punch.is_over(start + 530 * MS));
        punch.trigger(start, way(1));
        assert_eq!(punch.next_due(start), None, "a verified target needs no more checks");
    }

    #[test]
    fn strangers_do_not_grow_the_table() {
        let start = start_of_time();
        let mut punch = punch(start);
        for n in 0..=255 {
            punch.trigger(start, way(n));
        }
        assert_eq!(punch.targets.len(), MAX_UNNAMED);
    }
}
