//! One peer: the keys of its tickets, the verified ways to it, and which of them is used.
//!
//! A way is verified by a check of our own that was answered under the peer's key, from the very
//! address it went to. It stays verified by consent checks (RFC 7675): silence means that the peer
//! is gone or no longer wants us, and its path must not be used. The way with the shortest round
//! trip carries the data; a small difference does not make it change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::{NodeId, NodeName, TicketId};

use crate::api::{Path, PathKind};
use crate::stun::{Datagram, Key, TransactionId};
use meetpoint_proto::Timers;

/// Between two consent checks of one way (RFC 7675, section 5.1: 5 s, varied by a fifth).
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Between consent checks while one is unanswered.
const CONSENT_RETRY: Duration = Duration::from_millis(500);
/// So many unanswered in a row, and the way is dead: within 5 s at most after the first. At 25 %
/// loss each way that happens by chance once in some hours.
const MAX_UNANSWERED: u32 = 10;
/// Ways kept alive to one peer.
const MAX_ROUTES: usize = 4;
/// Tickets whose keys are kept: both sides may have asked at once, and each side may have seen
/// another of the tickets work first.
const MAX_KEYS: usize = 4;
/// Addresses a peer is heard from besides the way in use: its other ways, and its last ones.
const MAX_HEARD: usize = 4;
/// Transaction ids remembered to recognise repeated checks.
const MAX_SEEN: usize = 128;
/// Another way must be this much quicker, and by a quarter, to be preferred.
const HYSTERESIS: Duration = Duration::from_millis(5);
/// Weight of a new round trip in the smoothed one, as in RFC 6298: 1/8.
const RTT_SHIFT: u32 = 3;

/// The keys of one ticket, one for each direction.
#[derive(Debug, Clone)]
pub(crate) struct TicketKeys {
    pub(crate) ticket: TicketId,
    pub(crate) send: Key,
    pub(crate) recv: Key,
}

#[derive(Debug)]
struct Route {
    smoothed: Duration,
    newest: Duration,
    unanswered: u32,
}

/// What became of the way in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing worth telling.
    None,
    /// The peer is reached by this way now.
    Moved(Path),
    /// No way is left.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    /// By its certificate.
    pub(crate) name: NodeName,
    /// The name still stands for this peer: it has not left since it was introduced. Somebody else
    /// may have taken the name of one that left.
    pub(crate) present: bool,
    /// Its newest certificate ends then, in seconds since 1970.
    pub(crate) member_until_unix_s: u64,
    /// Running tickets.
    pub(crate) punches: BTreeSet<TicketId>,
    /// The application holds a connection that this side asked for: a lost path is asked for anew.
    pub(crate) held: bool,
    /// `to:from`, as the peer reads it.
    pub(crate) username: String,
    keys: VecDeque<TicketKeys>,
    /// The newest ticket under which a check of ours was answered: the peer has it for certain.
    proven: Option<TicketId>,
    elapsed: Duration,
    routes: BTreeMap<SocketAddr, Route>,
    current: Option<SocketAddr>,
    told: Option<Path>,
    /// Where keyed checks came from, the newest first.
    heard: VecDeque<SocketAddr>,
    consent: Timers<SocketAddr>,
    seen: BTreeSet<TransactionId>,
    seen_order: VecDeque<TransactionId>,
}

impl Link {
    pub(crate) fn new(own: NodeId, peer: NodeId, name: NodeName) -> Self {
        Self {
            name,
            present: true,
            member_until_unix_s: 0,
            punches: BTreeSet::new(),
            held: false,
            username: format!("{peer}:{own}"),
            keys: VecDeque::new(),
            proven: None,
            elapsed: Duration::ZERO,
            routes: BTreeMap::new(),
            current: None,
            told: None,
            heard: VecDeque::new(),
            consent: Timers::new(),
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Neither a path nor a ticket that may bring one.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none() && self.punches.is_empty()
    }

    /// One ticket has made it, and the application has not asked for the peer since.
    pub(crate) fn was_probed_only(&self) -> bool {
        !self.held && self.keys.len() <= 1
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.consent.next()
    }

    pub(crate) fn add_keys(&mut self, keys: TicketKeys) {
        if self.keys.len() >= MAX_KEYS {
            let needed = |keys: &TicketKeys| Some(keys.ticket) == self.proven;
            if let Some(oldest) = self.keys.iter().rposition(|keys| !needed(keys)) {
                self.keys.remove(oldest);
            }
        }
        self.keys.push_front(keys);
    }

    pub(crate) fn keys(&self, ticket: TicketId) -> Option<&TicketKeys> {
        self.keys.iter().find(|keys| keys.ticket == ticket)
    }

    /// The ticket under whose key the peer made this check.
    pub(crate) fn authenticate(&self, check: &Datagram<'_>) -> Option<TicketId> {
        self.keys.iter().find(|keys| check.verify(&keys.recv)).map(|keys| keys.ticket)
    }

    /// False if this check was here before. Each check of ours has an id of its own.
    pub(crate) fn is_new(&mut self, id: TransactionId) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.seen_order.push_back(id);
        if self.seen_order.len() > MAX_SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    /// The peer's keyed check came from there; true if that is news.
    pub(crate) fn hear(&mut self, remote: SocketAddr) -> bool {
        if self.heard.contains(&remote) {
            return false;
        }
        self.heard.push_front(remote);
        self.heard.truncate(MAX_HEARD);
        true
    }

    /// True if the peer is heard from anywhere.
    pub(crate) fn is_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// True if a check from there is no news: the way is verified already.
    pub(crate) fn has_route(&self, remote: SocketAddr) -> bool {
        self.routes.contains_key(&remote)
    }

    /// A check of ours was answered. `elapsed` counts for the first path only; `random` varies the
    /// consent interval.
    pub(crate) fn confirm(&mut self, now: Instant, answer: &Confirmation, elapsed: Duration) -> Change {
        if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(&answer.remote) {
            return Change::None;
        }
        self.proven = Some(answer.ticket);
        let rtt = answer.rtt;
        let route = self.routes.entry(answer.remote);
        let route = route.or_insert(Route { smoothed: rtt, newest: rtt, unanswered: 0 });
        let weight = 1u32 << RTT_SHIFT;
        route.smoothed = (route.smoothed * (weight - 1) + rtt) / weight;
        route.newest = rtt;
        route.unanswered = 0;
        let varied = CONSENT_INTERVAL.mul_f64(0.8 + 0.4 * f64::from(answer.random) / f64::from(u32::MAX));
        self.consent.set(answer.remote, Some(now + varied));
        if self.current.is_none() {
            self.elapsed = elapsed;
        }
        self.choose()
    }

    /// The next way whose consent is to be asked for, and under which ticket. Ways that were
    /// silent for too long are dropped.
    pub(crate) fn next_consent(&mut self, now: Instant) -> Option<(SocketAddr, TicketId)> {
        while let Some(remote) = self.consent.pop_due(now) {
            let Some(route) = self.routes.get_mut(&remote) else { continue };
            if route.unanswered >= MAX_UNANSWERED {
                self.routes.remove(&remote);
                continue;
            }
            route.unanswered += 1;
            self.consent.set(remote, Some(now + CONSENT_RETRY));
            if let Some(ticket) = self.proven {
                return Some((remote, ticket));
            }
        }
        None
    }

    /// Picks the way to use.
    pub(crate) fn choose(&mut self) -> Change {
        let best = self.routes.iter().min_by_key(|(remote, route)| (route.smoothed, **remote));
        let Some((&best, best_route)) = best else {
            let was_open = self.current.take().is_some();
            self.told = None;
            if was_open {
                self.heard.clear();
            }
            return if was_open { Change::Lost } else { Change::None };
        };
        let current = self.current.and_then(|current| Some((current, self.routes.get(&current)?)));
        let chosen = match current {
            Some((current, route)) if !is_clearly_quicker(best_route, route) => current,
            _ => best,
        };
        self.current = Some(chosen);
        let rtt = self.routes.get(&chosen).map_or(Duration::ZERO, |route| route.newest);
        let path = Path { remote: chosen, kind: PathKind::Direct, rtt, elapsed: self.elapsed };
        if self.told.is_some_and(|told| !is_worth_telling(&told, &path)) {
            return Change::None;
        }
        self.told = Some(path);
        Change::Moved(path)
    }

    /// True if the text is the peer's id, or a name that stands for it.
    pub(crate) fn answers_to(&self, id: &NodeId, text: &str) -> bool {
        (self.present && text == self.name.as_str()) || text.parse() == Ok(*id)
    }

    /// Gives up the ways that do not fit.
    pub(crate) fn retain(&mut self, fits: impl Fn(SocketAddr) -> bool) -> Change {
        self.routes.retain(|remote, _| fits(*remote));
        self.choose()
    }

    /// Gives all ways up.
    pub(crate) fn release(&mut self) -> Change {
        self.held = false;
        self.retain(|_| false)
    }
}

/// An answer to a check of ours.
#[derive(Debug)]
pub(crate) struct Confirmation {
    pub(crate) ticket: TicketId,
    pub(crate) remote: SocketAddr,
    pub(crate) rtt: Duration,
    pub(crate) random: u32,
}

fn is_clearly_quicker(best: &Route, current: &Route) -> bool {
    best.smoothed + HYSTERESIS < current.smoothed && best.smoothed < current.smoothed * 3 / 4
}

/// Another place, or a round trip that differs by more than a fifth and a millisecond.
fn is_worth_telling(told: &Path, path: &Path) -> bool {
    let difference = told.rtt.abs_diff(path.rtt);
    told.remote != path.remote || difference > (told.rtt / 5).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use meetpoint_proto::TicketKey;

    use super::*;
    use crate::testing::start_of_time;

    const MS: Duration = Duration::from_millis(1);

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([20, 0, 0, n], 4000))
    }

    fn ticket(n: u8) -> TicketId {
        TicketId::from_bytes([n; 16])
    }

    fn link() -> Link {
        let mut link =
            Link::new(NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]), "bob".parse().unwrap());
        link.add_keys(keys(1));
        link
    }

    fn keys(n: u8) -> TicketKeys {
        let key = |byte| Key::of_ticket(&TicketKey::from_bytes([byte; 32]));
        TicketKeys { ticket: ticket(n), send: key(2 * n), recv: key(2 * n + 1) }
    }

    fn answer(n: u8, rtt_ms: u32) -> Confirmation {
        Confirmation { ticket: ticket(1), remote: addr(n), rtt: MS * rtt_ms, random: 0 }
    }

    #[test]
    fn the_quicker_way_wins_but_only_clearly() {
        let cases: &[(&[(u8, u32)], u8)] = &[
            (&[(1, 40)], 1),
            (&[(1, 40), (2, 39)], 1),
            (&[(1, 40), (2, 34)], 1),
            (&[(1, 40), (2, 2)], 2),
            (&[(1, 4), (2, 1)], 1),
            (&[(1, 40), (2, 2), (1, 30)], 2),
        ];
        for (answers, expect) in cases {
            let (mut link, now) = (link(), start_of_time());
            for &(n, rtt_ms) in *answers {
                link.confirm(now, &answer(n, rtt_ms), MS);
            }
            assert_eq!(link.current, Some(addr(*expect)), "{answers:?}");
        }
    }

    #[test]
    fn a_silent_way_dies_and_another_takes_over() {
        let (mut link, start) = (link(), start_of_time());
        let first = link.confirm(start, &answer(1, 20), 7 * MS);
        assert!(matches!(first, Change::Moved(path) if path.remote == addr(1) && path.elapsed == 7 * MS));
        link.confirm(start, &answer(2, 25), MS);
        let mut now = start;
        while link.has_route(addr(1)) {
            now = link.deadline().unwrap();
            while let Some((remote, _)) = link.next_consent(now) {
                if remote == addr(2) {
                    link.confirm(now, &answer(2, 25), MS);
                }
            }
        }
        assert!(now - start <= Duration::from_secs(10), "{:?}", now - start);
        assert!(matches!(link.choose(), Change::Moved(path) if path.remote == addr(2)));
        while link.has_route(addr(2)) {
            now = link.deadline().unwrap();
            while link.next_consent(now).is_some() {}
        }
        assert_eq!(link.choose(), Change::Lost);
        assert!(!link.is_open());
        assert_eq!(link.deadline(), None);
    }

    #[test]
    fn small_changes_of_the_round_trip_are_not_told() {
        let (mut link, now) = (link(), start_of_time());
        assert!(matches!(link.confirm(now, &answer(1, 20), MS), Change::Moved(_)));
        assert_eq!(link.confirm(now, &answer(1, 21), MS), Change::None);
        assert!(matches!(link.confirm(now, &answer(1, 90), MS), Change::Moved(_)));
    }

    #[test]
    fn each_direction_has_its_own_key() {
        use rand_chacha::rand_core::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
        let link = link();
        for (key, expect) in [(keys(1).recv, Some(ticket(1))), (keys(1).send, None), (keys(2).recv, None)] {
            let check = crate::stun::check(TransactionId::random(&mut rng), &link.username, &key);
            assert_eq!(link.authenticate(&Datagram::parse(&check).unwrap()), expect);
        }
    }

    #[test]
    fn keys_are_bounded_and_the_proven_ones_stay() {
        let (mut link, now) = (link(), start_of_time());
        link.confirm(now, &answer(1, 20), MS);
        for n in 2..20 {
            link.add_keys(keys(n));
        }
        assert_eq!(link.keys.len(), MAX_KEYS);
        assert!(link.keys(ticket(1)).is_some() && link.keys(ticket(19)).is_some());
    }

    #[test]
    fn repeated_checks_are_noticed() {
        use rand_chacha::rand_core::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
        let mut link = link();
        let ids: Vec<TransactionId> = (0..MAX_SEEN * 3).map(|_| TransactionId::random(&mut rng)).collect();
        assert!(ids.iter().all(|id| link.is_new(*id)));
        assert!(!link.is_new(ids[MAX_SEEN * 3 - 1]));
        assert_eq!((link.seen.len(), link.seen_order.len()), (MAX_SEEN, MAX_SEEN));
    }
}
