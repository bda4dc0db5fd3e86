//! Which server next.
//!
//! A node may know several servers of its cluster. It tries them in **rounds**: first the one that worked last, then
//! the others by priority and, among equals, drawn by weight (RFC 2782, section on usage rules). One follows the other
//! at once; one that takes long to open has the others knocked at, and the first to answer is gone to. A round in which
//! none took the node is one failure of the backoff. A server that has ordered the node to wait is left out until it is
//! its turn.
//!
//! **Home and away.** A server that is not the cluster's home takes the node as a visitor, by the membership
//! certificate that the home gave it. A visitor goes on to knock at the servers that may be the home, with a backoff of
//! its own, and goes there when one opens; if that then does not take it, the server it came from is next.
//!
//! What a server gave the node to come back by is shown to that server only.

use std::time::{Duration, Instant};

use meetpoint_proto::id::SessionToken;
use rand_chacha::rand_core::Rng;

use crate::api::{BackoffConfig, ServerRank};
use crate::backoff::Backoff;

/// Servers known at once; the shell knows fewer.
const MAX_SERVERS: usize = 64;
/// RFC 2782 wants servers of weight 0 chosen hardly ever, but not never.
const WEIGHT_SCALE: u64 = 256;
/// When a knock is not answered; the shell gives up before.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// What is known of one server.
#[derive(Debug)]
struct Known {
    rank: ServerRank,
    /// It has ordered the node to wait until then.
    not_before: Option<Instant>,
    /// Names the session to come back to.
    resume: Option<SessionToken>,
    /// It is not the cluster's home.
    is_foreign: bool,
}

impl Known {
    fn new(rank: ServerRank) -> Self {
        Self { rank, not_before: None, resume: None, is_foreign: false }
    }

    fn is_free(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Servers {
    known: Vec<Known>,
    current: usize,
    last_good: Option<usize>,
    /// Still to be tried in this round, the next one at the end.
    left: Vec<usize>,
    /// How many said in this round that they are not for this node.
    unfit: usize,
    /// The longest wait that a server of this round has asked for which is too short to be an order.
    pause: Duration,
    knocks: Backoff,
    knocked_last: usize,
}

impl Servers {
    pub(crate) fn new(ranks: Vec<ServerRank>, backoff: BackoffConfig) -> Self {
        Self {
            known: ranks.into_iter().map(Known::new).collect(),
            current: 0,
            last_good: None,
            left: Vec::new(),
            unfit: 0,
            pause: Duration::ZERO,
            knocks: Backoff::new(backoff),
            knocked_last: 0,
        }
    }

    /// One more server, the last of this round; its number, or `None` if there is no room.
    pub(crate) fn add(&mut self, rank: ServerRank) -> Option<usize> {
        if self.known.len() >= MAX_SERVERS {
            return None;
        }
        let number = self.known.len();
        self.known.push(Known::new(rank));
        self.left.insert(0, number);
        Some(number)
    }

    /// Those still to be tried in this round.
    pub(crate) fn left(&self) -> &[usize] {
        &self.left
    }

    /// Goes to a server that has answered before the current one, which is then tried later. False if it is none to go
    /// to.
    pub(crate) fn prefer(&mut self, now: Instant, server: usize) -> bool {
        let is_one = server != self.current && self.known.get(server).is_some_and(|known| known.is_free(now));
        if is_one {
            self.left.retain(|at| *at != server);
            self.left.insert(0, self.current);
            self.current = server;
        }
        is_one
    }

    /// The server that is tried or stayed at.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    pub(crate) fn are_several(&self) -> bool {
        self.known.len() > 1
    }

    /// Begins a round: the first server to try. Without `now` no server can have ordered anything yet.
    pub(crate) fn begin(&mut self, now: Option<Instant>, rng: &mut impl Rng) -> usize {
        let free = |known: &Known| now.is_none_or(|now| known.is_free(now));
        let mut waiting: Vec<usize> = (0..self.known.len()).filter(|at| free(&self.known[*at])).collect();
        if waiting.is_empty() {
            waiting = (0..self.known.len()).collect();
        }
        let first = self.last_good.and_then(|good| waiting.iter().position(|at| *at == good));
        let mut order: Vec<usize> = first.map(|first| waiting.remove(first)).into_iter().collect();
        while !waiting.is_empty() {
            let next = self.draw(&waiting, rng);
            order.push(waiting.remove(next));
        }
        order.reverse();
        self.left = order;
        (self.unfit, self.pause) = (0, Duration::ZERO);
        self.next().unwrap_or(self.current)
    }

    /// One of those, by its place there.
    fn draw(&self, waiting: &[usize], rng: &mut impl Rng) -> usize {
        let rank = |at: &usize| self.known[*at].rank;
        let priority = waiting.iter().map(|at| rank(at).priority).min();
        let equals: Vec<usize> =
            (0..waiting.len()).filter(|place| Some(rank(&waiting[*place]).priority) == priority).collect();
        let weight = |place: &usize| u64::from(rank(&waiting[*place]).weight) * WEIGHT_SCALE + 1;
        let total: u64 = equals.iter().map(weight).sum();
        // Where there is no choice no randomness is used up.
        let mut drawn = if equals.len() > 1 { rng.next_u64() % total } else { 0 };
        for place in &equals {
            if drawn < weight(place) {
                return *place;
            }
            drawn -= weight(place);
        }
        0
    }

    /// The next server of this round.
    pub(crate) fn next(&mut self) -> Option<usize> {
        self.current = self.left.pop()?;
        Some(self.current)
    }

    /// The round ends here, whoever was left: the node was a member.
    pub(crate) fn end_round(&mut self) {
        self.left.clear();
        self.unfit = 0;
    }

    /// The current server has ordered the node to come back not before that time.
    pub(crate) fn order(&mut self, until: Instant) {
        self.known[self.current].not_before = Some(until);
    }

    /// The current server takes nobody until then: the first one of a round among the others, or `None` if there is no
    /// other to go to.
    pub(crate) fn leave(&mut self, now: Instant, until: Instant, rng: &mut impl Rng) -> Option<usize> {
        let is_other_free =
            self.known.iter().enumerate().any(|(at, known)| at != self.current && known.is_free(now));
        if !is_other_free {
            return None;
        }
        self.order(until);
        Some(self.begin(Some(now), rng))
    }

    /// The current server has asked for a little patience.
    pub(crate) fn ask_patience(&mut self, pause: Duration) {
        self.pause = self.pause.max(pause);
    }

    /// The current server is none for this node.
    pub(crate) fn is_unfit(&mut self) {
        self.unfit += 1;
        self.known[self.current].is_foreign = true;
    }

    /// No server of all is one for this node.
    pub(crate) fn are_all_unfit(&self) -> bool {
        self.unfit >= self.known.len()
    }

    /// How long to wait after a round without success, of which the backoff is told if it was a failure.
    pub(crate) fn wait(&self, now: Instant, backoff: &mut Backoff, rng: &mut impl Rng) -> Duration {
        if self.is_any_free(now) {
            return self.pause + backoff.next_delay(rng);
        }
        // Each has given this node its turn.
        let first = self.known.iter().filter_map(|known| known.not_before).min();
        first.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// At least one of them has not ordered the node to wait.
    pub(crate) fn is_any_free(&self, now: Instant) -> bool {
        self.known.iter().any(|known| known.is_free(now))
    }

    /// What to show the current server.
    pub(crate) fn resume(&self) -> Option<SessionToken> {
        self.known[self.current].resume
    }

    pub(crate) fn forget_session(&mut self) {
        self.known[self.current].resume = None;
    }

    /// The current server has taken the node.
    pub(crate) fn welcomed(&mut self, is_visitor: bool, token: Option<SessionToken>) {
        self.last_good = Some(self.current);
        self.end_round();
        let known = &mut self.known[self.current];
        known.not_before = None;
        known.is_foreign = is_visitor;
        known.resume = token.or(known.resume);
        if !is_visitor {
            self.knocks.reset();
        }
    }

    /// When to knock elsewhere for the first time, or again; `None` if no other server may be the home.
    pub(crate) fn next_knock(&mut self, now: Instant, base: Duration, rng: &mut impl Rng) -> Option<Instant> {
        let is_any = (0..self.known.len()).any(|at| self.may_be_home(at));
        is_any.then(|| now + base + self.knocks.next_delay(rng))
    }

    fn may_be_home(&self, at: usize) -> bool {
        at != self.current && !self.known[at].is_foreign
    }

    /// Where to knock now, and when the answer is overdue. Each in turn.
    pub(crate) fn knock(&mut self, now: Instant) -> (Option<usize>, Instant) {
        let count = self.known.len();
        let in_turn = (1..=count).map(|step| (self.knocked_last + step) % count);
        let at = in_turn.into_iter().find(|at| self.may_be_home(*at) && self.known[*at].is_free(now));
        self.knocked_last = at.unwrap_or(self.knocked_last);
        (at, now + KNOCK_TIMEOUT)
    }

    /// Goes to a server that has opened; the present one is next if that does not take the node. False if it is
    /// none to go to.
    pub(crate) fn move_to(&mut self, server: usize) -> bool {
        if server >= self.known.len() || !self.may_be_home(server) {
            return false;
        }
        self.end_round();
        self.left.push(self.current);
        self.current = server;
        true
    }
}
