//! The agent's side of guessing: which plan a ticket follows, and the sockets it needs.
//!
//! One ticket at a time guesses, so whatever the server mints, a node's guesses stay within one schedule's pace
//! and its descriptors within one plan's number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::wire::{Candidate, CandidateKind, Introduction};
use meetpoint_proto::{Allocator, NatBehavior, NodeId, TicketId, addr};

use crate::agent::{Agent, Timer};
use crate::api::{Leg, Output, Way};
use crate::guess::{Flow, Guesses, Setting, guessed_after};
use crate::plan::{Plan, plan};
use crate::punch::Punch;
use crate::stun::{Class, Datagram};

/// What an opener's time to live is: the node's own NAT passes it on, and the next router drops it. Where there are
/// several NATs in a row the first attempts fail, so each adds a hop; the peer's NAT is farther away than that.
const OPENER_TTL: u8 = 2;
const MAX_OPENER_TTL: u8 = 5;
/// Peers whose failed attempts are remembered.
const MAX_FAILED: usize = 1_024;
/// How much later than its opener a check leaves, and how much later than the side that early packets confuse the
/// other one starts: as much as two introductions that left together may arrive apart.
const AFTER_OPENER: Duration = Duration::from_millis(20);
/// How long all sockets stay open once the peer was met: it checks the one that it goes on by within that time.
const AFTER_MET: Duration = Duration::from_secs(7);
/// How long a ticket that can't succeed lasts: behaviours are claims, and a few checks cost little.
const HOPELESS: Duration = Duration::from_millis(800);

/// The sockets opened to be met.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The ticket that guesses now.
    guessing: Option<TicketId>,
    open: BTreeSet<u16>,
    /// Until then the peer may show by which socket it goes on.
    stay_open: Option<Instant>,
    next: u16,
    /// How often in a row a peer was not met.
    failed: BTreeMap<NodeId, u8>,
}

impl Extras {
    fn opener_ttl(&self, peer: &NodeId) -> u8 {
        let failed = self.failed.get(peer).copied().unwrap_or(0);
        OPENER_TTL.saturating_add(failed).min(MAX_OPENER_TTL)
    }

    fn note(&mut self, peer: NodeId, is_met: bool) {
        if is_met {
            self.failed.remove(&peer);
        } else if self.failed.len() < MAX_FAILED || self.failed.contains_key(&peer) {
            let failed = self.failed.entry(peer).or_default();
            *failed = failed.saturating_add(1);
        }
    }

    /// What was learnt by failing holds for the network in which it failed.
    pub(crate) fn network_changed(&mut self) {
        self.failed.clear();
    }

    /// Numbers for so many sockets, none of which is in use.
    fn take(&mut self, count: u16) -> u16 {
        let is_free = |first: u16| !(0..count).any(|n| self.open.contains(&first.wrapping_add(n)));
        let mut first = self.next;
        // Few are in use at a time, and each is passed once.
        for _ in 0..=self.open.len() {
            if is_free(first) {
                break;
            }
            first = first.wrapping_add(count);
        }
        self.next = first.wrapping_add(count);
        self.open.extend((0..count).map(|n| first.wrapping_add(n)));
        first
    }
}

impl Agent {
    /// Decides how a ticket is carried out.
    pub(crate) fn make_plan(&mut self, punch: &mut Punch, start: Instant, introduction: &Introduction) {
        let Introduction { own, peer, .. } = introduction;
        punch.plan = plan(own.as_ref(), peer.as_ref());
        let is_local = |candidate: &Candidate| candidate.kind == CandidateKind::Host;
        let has_neighbours = introduction.candidates.iter().any(is_local);
        if matches!(punch.plan, Plan::Relay(_)) && !has_neighbours {
            // Where there is a relay the ticket is what the two meet by there.
            if self.relay_access().is_none() {
                punch.end_early(start + HOPELESS);
            }
            let of_relay = |candidate: &&Candidate| candidate.kind == CandidateKind::Relay;
            let direct = introduction.candidates.iter().filter(|candidate| !of_relay(candidate));
            let ways: Vec<Way> = direct.map(|candidate| Way::main(addr::unmap(candidate.addr))).collect();
            // Plans are about IPv4, whose NATs they know.
            if ways.iter().all(|way| way.remote.is_ipv4()) {
                punch.settle_for_relay(&ways);
            }
        }
        let counts = |behavior: NatBehavior| matches!(behavior.allocator, Some(Allocator::Sequential { .. }));
        punch.counts_on = own.is_some_and(counts);
        if peer.is_some_and(|behavior| behavior.early_inbound == Some(true)) {
            let outside = introduction.candidates.iter().filter(|candidate| !is_local(candidate));
            let ways = outside.map(|candidate| Way::main(addr::unmap(candidate.addr)));
            // The peer was not told of a place that the server has not seen, and so sends nothing there: all packets
            // from it would be early. Once it is seen the server introduces both anew.
            let is_seen = |way: &Way| {
                self.observers.get(&way.remote.is_ipv6()).is_some_and(|observer| observer.mapped().is_some())
            };
            let (ways, early): (Vec<Way>, Vec<Way>) =
                ways.filter(|way| punch.has_target(way)).partition(is_seen);
            punch.only_answer(&early);
            let wait = match punch.plan {
                Plan::Spread { sockets } => guessed_after(sockets),
                // Who is not confused himself waits for the other; two that are both open first.
                Plan::Checks
                | Plan::Guess { .. }
                | Plan::Cross { .. }
                | Plan::Grid { .. }
                | Plan::Relay(_) => AFTER_OPENER,
            };
            punch.open_first(&ways, wait);
        }
        self.start_guesses(punch, start, introduction);
    }

    fn start_guesses(&mut self, punch: &mut Punch, start: Instant, introduction: &Introduction) {
        let (Some(own), Some(peer), Some(reach)) = (&introduction.own, &introduction.peer, &self.reach)
        else {
            return;
        };
        let observed = introduction.candidates.iter().find(|candidate| {
            let is_observed = candidate.kind == CandidateKind::Srflx && candidate.addr.is_ipv4();
            is_observed && reach.may_probe(&self.network, candidate.addr)
        });
        let Some(observed) = observed.map(|candidate| candidate.addr) else { return };
        if self.extras.guessing.is_some() {
            return;
        }
        // A window counts on the very address that was observed.
        let window = introduction.window.filter(|window| window.ip == observed.ip());
        let setting = Setting { own, peer, window, observed };
        let Some(mut guesses) = Guesses::new(punch.plan, &setting, start, &mut self.env.rng) else { return };
        // The sockets of one ticket at a time are as many as a process may have.
        self.extras.stay_open = None;
        self.close_extras(start);
        self.extras.guessing = Some(introduction.ticket);
        let count = guesses.sockets();
        if count > 0 {
            let first = self.extras.take(count);
            guesses.set_first_socket(first);
            self.env.push(Output::OpenSockets { first, count, ipv6: observed.is_ipv6() });
        }
        punch.guess(guesses);
    }

    /// The shell has opened so many of the sockets it was asked for.
    pub(crate) fn sockets_opened(&mut self, first: u16, count: u16) {
        let Some(ticket) = self.extras.guessing else { return };
        let Some(punch) = self.punches.get_mut(&ticket) else { return };
        punch.sockets_opened(first, count);
    }

    pub(crate) fn send_guess(&mut self, now: Instant, peer: NodeId, ticket: TicketId, flow: Flow) {
        let allowed =
            self.reach.as_ref().is_some_and(|reach| reach.may_probe(&self.network, flow.way.remote));
        if allowed {
            self.env.counters.guesses_sent += 1;
            let ttl = flow.is_opener.then(|| self.extras.opener_ttl(&peer));
            self.send_check_unpaced(now, peer, ticket, flow.way, ttl);
        }
    }

    pub(crate) fn send_opener(&mut self, now: Instant, peer: NodeId, ticket: TicketId, to: Way) {
        if self.pacer.take(now, to.remote).is_ok() {
            let ttl = self.extras.opener_ttl(&peer);
            self.send_check_unpaced(now, peer, ticket, to, Some(ttl));
        }
    }

    /// What arrives on a socket that was opened to be met: checks, and answers to them.
    pub(crate) fn extra_datagram(
        &mut self,
        now: Instant,
        number: u16,
        source: SocketAddr,
        class: Class,
        datagram: &Datagram<'_>,
    ) {
        let way = Way { leg: Leg::Extra(number), remote: source };
        match class {
            Class::Request if self.extras.open.contains(&number) => self.check(now, way, datagram),
            Class::Success | Class::Error => self.check_answered(now, way, datagram),
            Class::Request | Class::Indication => self.env.counters.unsolicited += 1,
        }
    }

    /// A ticket has ended: its sockets are closed but for those that a peer was met by, and where ports are given
    /// out in a row the newest has to be looked at again.
    pub(crate) fn end_guesses(&mut self, now: Instant, ticket: TicketId, punch: &Punch) {
        self.extras.note(punch.peer, punch.is_direct());
        if self.extras.guessing == Some(ticket) {
            self.extras.guessing = None;
            if punch.is_direct() {
                self.extras.stay_open = Some(now + AFTER_MET);
                self.timers.set(Timer::Extras, self.extras.stay_open);
            }
            self.close_extras(now);
        }
        if punch.counts_on && self.control.is_member() {
            self.start_stun(now);
        }
    }

    /// Closes the extra sockets that no peer is met by, or goes on by.
    pub(crate) fn close_extras(&mut self, now: Instant) {
        let is_needed =
            self.extras.guessing.is_some() || self.extras.stay_open.is_some_and(|until| now < until);
        if is_needed || self.extras.open.is_empty() {
            return;
        }
        self.extras.stay_open = None;
        let used: BTreeSet<u16> = self.links.values().flat_map(|link| link.extras()).collect();
        if !self.extras.open.is_subset(&used) {
            self.extras.open.retain(|number| used.contains(number));
            self.env.push(Output::CloseSockets { keep: self.extras.open.iter().copied().collect() });
        }
    }
}
