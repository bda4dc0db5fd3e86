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

use crate::api::{AllocationId, Leg, Path, PathKind, Way};
use crate::checks::SHORT_NAME_LEN;
use crate::stun::{CheckName, Datagram, Key, TransactionId};
use meetpoint_proto::Timers;

mod ways;

/// Between two consent checks of a way that carries data (RFC 7675, section 5.1: 5 s, varied by a fifth). Where none
/// flows no consent is needed but what keeps the NATs' memory ([`crate::keepalive`]).
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Between consent checks while one is unanswered.
const CONSENT_RETRY: Duration = Duration::from_millis(500);
/// So many unanswered in a row, and the way is dead: within 5 s at most after the first. At 25 %
/// loss each way that happens by chance once in some hours.
const MAX_UNANSWERED: u32 = 10;
/// So many unanswered in a row, and another way is used if there is one, while this one is still asked: within 2 s
/// after the first. At 25 % loss each way that happens by chance every few minutes, and is over with the next answer.
pub(crate) const DOUBTFUL_UNANSWERED: u32 = 4;
/// So many unanswered in a row, and the node looks whether its own NAT has moved it.
pub(crate) const SUSPICIOUS_UNANSWERED: u32 = 2;
/// A link counts as one that carries data for so long after the shell has said so.
const BUSY: Duration = Duration::from_secs(15);
/// How long relayed ways are kept beside a direct one: most that die do so young, when a NAT forgets what it
/// was not reminded of.
const RELAY_WARM: Duration = Duration::from_secs(60);
/// Ways kept alive to one peer, of each kind.
const MAX_ROUTES: usize = 4;
/// Relayed addresses of one peer: two families of two allocations, of which one replaces the other, twice.
const MAX_RELAYS: usize = 8;
/// Tickets whose keys are kept: both sides may have asked at once, and each side may have seen
/// another of the tickets work first.
const MAX_KEYS: usize = 4;
/// Addresses a peer is heard from besides the way in use: its other ways, and its last ones.
/// Where ports are guessed many meet, and the peer may settle on any of them: those it checks last count.
const MAX_HEARD: usize = 16;
/// Transaction ids remembered to recognise repeated checks.
const MAX_SEEN: usize = 128;
/// Another way must be this much quicker, and by a quarter, to be preferred.
const HYSTERESIS: Duration = Duration::from_millis(5);
/// Round trips that differ by less are equal, and IPv6 is preferred.
const EQUAL: Duration = Duration::from_millis(1);
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
    kind: PathKind,
    /// It goes by a relay of either side: twice the work for the relay, which also parts the two when one of them
    /// begins another session.
    is_double: bool,
    smoothed: Duration,
    newest: Duration,
    /// Where the peer sees this node's checks come from.
    seen_at: Option<SocketAddr>,
    unanswered: u32,
    /// It can carry data: a relay leg needs a channel first.
    is_ready: bool,
}

impl Route {
    /// What decides before round trips do.
    fn rank(&self) -> (bool, PathKind, bool) {
        (self.unanswered >= DOUBTFUL_UNANSWERED, self.kind, self.is_double)
    }
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
    /// Nothing but a relay brings the two together, as far as was known of both NATs at the newest introduction.
    pub(crate) settles_for_relay: bool,
    /// The peer's NAT lets in nothing from an address and port that the peer has not sent to, as far as was known then.
    pub(crate) is_strict: bool,
    /// Running tickets.
    pub(crate) punches: BTreeSet<TicketId>,
    /// The application holds a connection that this side asked for: a lost path is asked for anew.
    pub(crate) held: bool,
    /// Of the two nodes this one has the lower id.
    is_lower: bool,
    /// `to:from`, as the peer reads it.
    username: String,
    /// The peer has said under its key that it reads short names.
    pub(crate) takes_short_names: bool,
    keys: VecDeque<TicketKeys>,
    /// The newest ticket under which a check of ours was answered: the peer has it for certain.
    proven: Option<TicketId>,
    elapsed: Duration,
    routes: BTreeMap<Way, Route>,
    current: Option<Way>,
    told: Option<Path>,
    /// A direct way has been in use from then on.
    direct_since: Option<Instant>,
    /// Data flows until then, as far as the shell has said.
    busy_until: Option<Instant>,
    /// Where the peer is met at a relay of its own.
    relays: BTreeSet<SocketAddr>,
    /// By which ways keyed checks came, the newest first.
    heard: VecDeque<Way>,
    consent: Timers<Way>,
    /// The shell was told that QUIC's handshake may begin before there is a way.
    pub(crate) is_provisional: bool,
    seen: BTreeSet<TransactionId>,
    seen_order: VecDeque<TransactionId>,
}

impl Link {
    pub(crate) fn new(own: NodeId, peer: NodeId, name: NodeName) -> Self {
        Self {
            name,
            present: true,
            member_until_unix_s: 0,
            settles_for_relay: false,
            is_strict: false,
            punches: BTreeSet::new(),
            held: false,
            is_lower: own < peer,
            username: format!("{peer}:{own}"),
            takes_short_names: false,
            keys: VecDeque::new(),
            proven: None,
            elapsed: Duration::ZERO,
            routes: BTreeMap::new(),
            current: None,
            told: None,
            direct_since: None,
            busy_until: None,
            relays: BTreeSet::new(),
            heard: VecDeque::new(),
            consent: Timers::new(),
            is_provisional: false,
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
        }
    }

    /// How checks to this peer say whose they are.
    pub(crate) fn check_name(&self) -> CheckName<'_> {
        let from = self.username.rsplit(':').next().and_then(|from| from.get(..SHORT_NAME_LEN));
        match from.filter(|_| self.takes_short_names) {
            Some(from) => CheckName::Short(from),
            None => CheckName::Long(&self.username),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// What kind of way is in use.
    pub(crate) fn kind(&self) -> Option<PathKind> {
        self.current.and_then(|current| self.routes.get(&current)).map(|route| route.kind)
    }

    /// The round trip by the way in use, as it was last worth telling.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.told.map(|path| path.rtt)
    }

    /// What kind of way it is: by a relay of this node, or to one of the peer.
    pub(crate) fn kind_of(&self, way: Way) -> PathKind {
        match way.leg {
            Leg::Main | Leg::Extra(_) if !self.relays.contains(&way.remote) => PathKind::Direct,
            Leg::Main | Leg::Extra(_) | Leg::Relay(_) => PathKind::Relayed,
        }
    }

    /// The peer was allocated this address by a relay.
    pub(crate) fn add_relay(&mut self, remote: SocketAddr) {
        if self.relays.len() < MAX_RELAYS || self.relays.contains(&remote) {
            self.relays.insert(remote);
        }
    }

    /// A way of this node's own allocations is alive.
    pub(crate) fn uses_relay(&self) -> bool {
        self.routes.keys().any(|way| matches!(way.leg, Leg::Relay(_)))
    }

    /// True if a way that was not verified is worth a check: a relayed one is not once a direct one has lasted.
    pub(crate) fn wants(&self, now: Instant, way: Way) -> bool {
        !self.routes.contains_key(&way) && (self.kind_of(way) == PathKind::Direct || !self.has_lasted(now))
    }

    fn has_lasted(&self, now: Instant) -> bool {
        self.direct_since.is_some_and(|since| now >= since + RELAY_WARM)
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

    /// The peer's keyed check came by this way; true if that is news.
    pub(crate) fn hear(&mut self, way: Way) -> bool {
        let known = self.heard.iter().position(|heard| *heard == way);
        if let Some(at) = known {
            self.heard.remove(at);
        }
        self.heard.push_front(way);
        self.heard.truncate(MAX_HEARD);
        known.is_none()
    }

    /// True if the peer is heard by this way.
    pub(crate) fn hears(&self, way: Way) -> bool {
        self.heard.contains(&way)
    }

    /// True if the peer is heard from anywhere.
    pub(crate) fn is_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// True if a check by this way is no news: it is verified already.
    pub(crate) fn has_route(&self, way: Way) -> bool {
        self.routes.contains_key(&way)
    }

    /// A check of ours was answered. `elapsed` counts for the first path only; `random` varies the
    /// consent interval.
    pub(crate) fn confirm(&mut self, now: Instant, answer: &Confirmation, elapsed: Duration) -> Change {
        let kind = self.kind_of(answer.way);
        if !self.routes.contains_key(&answer.way) && !self.has_room(kind) {
            return Change::None;
        }
        self.proven = Some(answer.ticket);
        let rtt = answer.rtt;
        let is_double = matches!(answer.way.leg, Leg::Relay(_)) && self.relays.contains(&answer.way.remote);
        let route = self.routes.entry(answer.way);
        let route = route.or_insert(Route {
            kind,
            is_double,
            smoothed: rtt,
            newest: rtt,
            seen_at: None,
            unanswered: 0,
            is_ready: false,
        });
        (route.kind, route.is_double) = (kind, is_double);
        route.is_ready |= answer.is_ready;
        let weight = 1u32 << RTT_SHIFT;
        route.smoothed = (route.smoothed * (weight - 1) + rtt) / weight;
        route.newest = rtt;
        route.unanswered = 0;
        let part = f64::from(answer.random) / f64::from(u32::MAX);
        let wait = if self.is_busy(now) {
            CONSENT_INTERVAL.mul_f64(0.8 + 0.4 * part)
        } else {
            // Never later than the NAT can wait.
            answer.keepalive.mul_f64(0.9 + 0.1 * part)
        };
        self.consent.set(answer.way, Some(now + wait));
        let is_upgrade = kind == PathKind::Direct && self.kind() == Some(PathKind::Relayed);
        if self.current.is_none() || is_upgrade {
            self.elapsed = elapsed;
        }
        let change = self.choose();
        if self.kind() == Some(PathKind::Direct) {
            self.direct_since.get_or_insert(now);
        }
        change
    }

    /// The peer says where it sees this node by a way; true if that was elsewhere before.
    pub(crate) fn is_seen_elsewhere(&mut self, way: Way, seen_at: Option<SocketAddr>) -> bool {
        let route = self.routes.get_mut(&way);
        let before = route.and_then(|route| std::mem::replace(&mut route.seen_at, seen_at));
        before.is_some_and(|before| seen_at.is_some_and(|seen_at| seen_at != before))
    }

    /// Data flows, as far as the shell has said.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    /// Data flows: consent is asked for as often as RFC 7675 has it.
    pub(crate) fn busy(&mut self, now: Instant) {
        self.busy_until = Some(now + BUSY);
        let soon = now + CONSENT_INTERVAL;
        for way in self.routes.keys() {
            if self.consent.get(way).is_some_and(|at| at > soon) {
                self.consent.set(*way, Some(soon));
            }
        }
    }

    /// The peer's check came by this way and is answered: it works, and both NATs are reminded of it. Where no data
    /// flows that makes this side's own check needless, and whichever side comes first keeps the way for both.
    pub(crate) fn kept_by_peer(&mut self, now: Instant, way: Way, keepalive: Duration) {
        let is_well = self.routes.get(&way).is_some_and(|route| route.unanswered == 0);
        if is_well && !self.is_busy(now) {
            self.consent.set(way, Some(now + keepalive));
        }
    }

    /// The way in use is to answer now.
    pub(crate) fn unheard(&mut self, now: Instant) {
        let current = self.current.and_then(|way| Some((way, self.routes.get(&way)?)));
        if let Some((way, _)) = current.filter(|(_, route)| route.unanswered == 0) {
            self.consent.set(way, Some(now));
        }
    }

    /// The way in use is to answer now, whatever it has left unanswered.
    pub(crate) fn ask_now(&mut self, now: Instant) {
        if let Some(way) = self.current {
            self.consent.set(way, Some(now));
        }
    }

    /// Makes room for one more way of a kind, if need be in the place of the one that has been silent for longest: a
    /// peer that moves again and again leaves more dead ways behind than consent has buried.
    fn has_room(&mut self, kind: PathKind) -> bool {
        let alike = self.routes.iter().filter(|(_, route)| route.kind == kind);
        if alike.clone().count() < MAX_ROUTES {
            return true;
        }
        let silent = alike.filter(|(_, route)| route.unanswered > 0);
        let Some(most) = silent.max_by_key(|(_, route)| route.unanswered).map(|(way, _)| *way) else {
            return false;
        };
        self.routes.remove(&most);
        self.consent.set(most, None);
        true
    }

    /// A way can carry data from now on.
    pub(crate) fn ready(&mut self, way: Way) -> Change {
        if let Some(route) = self.routes.get_mut(&way) {
            route.is_ready = true;
        }
        self.choose()
    }

    /// A leg is gone, and all ways by it.
    pub(crate) fn leg_lost(&mut self, id: AllocationId) -> Change {
        self.heard.retain(|way| way.leg != Leg::Relay(id));
        self.retain(|way| way.leg != Leg::Relay(id))
    }

    /// The next way whose consent is to be asked for, under which ticket, and how often it will then have been asked
    /// for without an answer. Ways that were silent for too long are dropped.
    pub(crate) fn next_consent(&mut self, now: Instant) -> Option<(Way, TicketId, u32)> {
        while let Some(way) = self.consent.pop_due(now) {
            let is_spare = self.is_spare(now, way);
            let Some(route) = self.routes.get_mut(&way) else { continue };
            if route.unanswered >= MAX_UNANSWERED || is_spare {
                self.routes.remove(&way);
                continue;
            }
            route.unanswered += 1;
            let unanswered = route.unanswered;
            self.consent.set(way, Some(now + CONSENT_RETRY));
            if let Some(ticket) = self.proven {
                return Some((way, ticket, unanswered));
            }
        }
        None
    }

    /// A relayed way beside a direct one that has lasted; or, where no data flows, one by two relays beside one by one,
    /// and of two by one relay that of the node with the lower id, on which both agree without a word.
    fn is_spare(&self, now: Instant, way: Way) -> bool {
        let Some(route) = self.routes.get(&way) else { return false };
        if route.kind == PathKind::Direct || self.has_lasted(now) || self.is_busy(now) {
            return route.kind == PathKind::Relayed && self.has_lasted(now);
        }
        let is_lent_by_lower = |way: &Way| matches!(way.leg, Leg::Relay(_)) == self.is_lower;
        self.routes.iter().filter(|(_, other)| other.is_ready && other.unanswered == 0).any(
            |(place, other)| {
                let is_twin =
                    other.rank() == route.rank() && is_lent_by_lower(&way) && !is_lent_by_lower(place);
                if route.is_double { other.rank() < route.rank() } else { is_twin }
            },
        )
    }

    /// Picks the way to use.
    pub(crate) fn choose(&mut self) -> Change {
        let ready = self.routes.iter().filter(|(_, route)| route.is_ready);
        let best = ready.min_by_key(|(way, route)| {
            let handicap = if way.remote.is_ipv6() { Duration::ZERO } else { EQUAL };
            (route.rank(), route.smoothed + handicap, **way)
        });
        let Some((&best, best_route)) = best else {
            let was_open = self.current.take().is_some();
            (self.told, self.direct_since) = (None, None);
            if was_open {
                self.heard.clear();
            }
            return if was_open { Change::Lost } else { Change::None };
        };
        let current = self.current.and_then(|current| Some((current, self.routes.get(&current)?)));
        let chosen = match current {
            Some((current, route)) if !is_better((&best, best_route), (&current, route)) => current,
            _ => best,
        };
        self.current = Some(chosen);
        let kind = self.kind_of(chosen);
        if kind == PathKind::Relayed {
            self.direct_since = None;
        }
        let rtt = self.routes.get(&chosen).map_or(Duration::ZERO, |route| route.newest);
        let path = Path { way: chosen, kind, rtt, elapsed: self.elapsed };
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

    /// The extra sockets by which the peer is met or heard.
    pub(crate) fn extras(&self) -> impl Iterator<Item = u16> + '_ {
        self.routes.keys().chain(&self.heard).filter_map(|way| match way.leg {
            Leg::Extra(number) => Some(number),
            Leg::Main | Leg::Relay(_) => None,
        })
    }

    /// Gives up the ways that do not fit.
    pub(crate) fn retain(&mut self, fits: impl Fn(Way) -> bool) -> Change {
        self.routes.retain(|way, _| fits(*way));
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
    pub(crate) way: Way,
    /// The way can carry data already.
    pub(crate) is_ready: bool,
    pub(crate) rtt: Duration,
    /// The longest silence that the own NAT is trusted to bear.
    pub(crate) keepalive: Duration,
    pub(crate) random: u32,
}

/// Whether the one is worth a move away from the other. Round trips count only between ways of one rank.
fn is_better((best, best_route): (&Way, &Route), (current, current_route): (&Way, &Route)) -> bool {
    if best_route.rank() != current_route.rank() || !current_route.is_ready {
        return true;
    }
    let is_newer_family = best.remote.is_ipv6() && current.remote.is_ipv4();
    (is_newer_family && best_route.smoothed <= current_route.smoothed + EQUAL)
        || is_clearly_quicker(best_route, current_route)
}

fn is_clearly_quicker(best: &Route, current: &Route) -> bool {
    best.smoothed + HYSTERESIS < current.smoothed && best.smoothed < current.smoothed * 3 / 4
}

/// Another way, or a round trip that differs by more than a fifth and a millisecond.
fn is_worth_telling(told: &Path, path: &Path) -> bool {
    let difference = told.rtt.abs_diff(path.rtt);
    (told.way, told.kind) != (path.way, path.kind)
        || difference > (told.rtt / 5).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests;
