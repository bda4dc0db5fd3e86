//! Roaming: the node, or a peer, sends from elsewhere now.
//!
//! A way to a peer is an address that answers, and nothing about it shows that it has just died: an uplink that went
//! away sends no goodbye. Consent ([`crate::link`]) finds out within seconds. Where there is reason to **doubt**, all
//! ways of a link are checked at once and shortly after each other; those that stay silent are given up as soon as one
//! that answers is there, and not before: if none does, whether the peer is gone is consent's business. Doubts arise
//! when
//!
//! * this machine sends from another address than before, or by another router;
//! * the server sees this node's NAT give it another mapping;
//! * a peer's keyed check comes from a place that is not the way in use;
//! * a peer that is met already is introduced anew, because it has doubts of its own.
//!
//! Where no data flows, nobody waits, and a check is sent only where it may be answered: not from a new mapping through
//! a filter that knows the old one, and not to where an introduction has just shown that the peer is no longer. An
//! introduction that shows the peer where it was is a reason for this node to look at its own mapping.
//!
//! A pair that can only be relayed is not introduced anew because of another mapping: an allocation follows its client
//! (RFC 8016), and the other side of a relay is let in by its IP address.
//!
//! A node that has moved also opens its control connection anew from where it is now, has its mapping observed, and
//! asks for an introduction to each peer it has a path to, all at the same time: if the peer's NAT lets in nothing from
//! the new place, only a new introduction helps. Keys, links and the application's connections stay.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::{NodeId, TicketId};

use crate::agent::{Agent, Timer};
use crate::api::{Leg, PathKind, Way};
use crate::link::{DOUBTFUL_UNANSWERED, Link, SUSPICIOUS_UNANSWERED};
use crate::observe::Observer;
use crate::requests::Purpose;

/// Checks of a doubted way. A good one survives with 25 % loss each way in 98 of 100 cases, and if not, it comes back
/// with the peer's next check.
const CHECKS: u32 = 5;
/// The same where no data flows: nobody waits, and a way that is given up for want of an answer has a better one beside
/// it.
const IDLE_CHECKS: u32 = 1;
/// Between two of them: a lost one costs little time, and a slow answer is not taken for none.
const INTERVAL: Duration = Duration::from_millis(50);
/// From the last check to the verdict. With the checks before it, answers take as long as this and 200 ms.
const GRACE: Duration = Duration::from_millis(100);
/// How long after the verdict a new way still replaces those that were silent: consent has decided by then.
const MEMORY: Duration = Duration::from_secs(10);
/// Who has looked at its own mapping so lately need not look again for the doubts of a peer: both have the same cause.
const RECENT: Duration = Duration::from_secs(2);
/// Peers that a node asks to be introduced to at once after it has moved; the server limits how many it would grant.
const MAX_ASKED: usize = 32;

/// What is in doubt of one link.
#[derive(Debug)]
pub(crate) struct Doubt {
    /// Ways that have not answered since.
    silent: BTreeSet<Way>,
    cause: Cause,
    since: Instant,
    ticket: TicketId,
    checks: u32,
    most_checks: u32,
    /// They have had their time.
    is_over: bool,
}

/// Why there is a doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// This node's NAT has moved it.
    Moved,
    /// The peer was introduced anew; that ticket checks all places where it is said to be.
    Introduced,
    /// The peer's keyed check came by this way, which was none.
    Heard(Way),
    /// Something else.
    Other,
}

impl Doubt {
    /// From the last check to the verdict: all checks together have the same time for their answers.
    fn grace(&self) -> Duration {
        GRACE + INTERVAL * (CHECKS - self.most_checks)
    }
}

impl Agent {
    /// The machine's addresses or routes have changed: `source` is what it sends to the server from now.
    pub(crate) fn rerouted(&mut self, now: Instant, source: Option<IpAddr>) {
        let has_moved = source.is_some() && self.source != source;
        self.source = source.or(self.source);
        let step = self.control.rerouted(&mut self.env, now, has_moved);
        self.step(now, step);
        self.refresh_observations(now);
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in &peers {
            self.doubt(now, *peer);
        }
        if has_moved {
            let open = |peer: &&NodeId| self.links.get(peer).is_some_and(|link| link.is_open());
            let peers: Vec<NodeId> = peers.iter().filter(open).take(MAX_ASKED).copied().collect();
            for peer in peers {
                self.ask_anew(now, peer);
            }
        }
    }

    /// The NAT has given the node another mapping: nobody reaches it where it was, and its own packets come from where
    /// no strict NAT of a peer lets them in.
    pub(crate) fn rebound(&mut self, now: Instant) {
        self.env.counters.rebound += 1;
        self.move_relays(now);
        let open = self.links.iter().filter(|(_, link)| link.is_open()).map(|(peer, _)| *peer);
        for peer in open.take(MAX_ASKED).collect::<Vec<NodeId>>() {
            self.doubt_for(now, peer, Cause::Moved);
            if !self.is_kept_by_relay(peer) {
                self.ask_anew(now, peer);
            }
        }
    }

    /// Nothing but a relay helps the two, and the way in use outlives another mapping: the own allocation follows, and
    /// at the peer's this node is let in by its IP address, from whatever port. If it is not, the way's silence tells.
    fn is_kept_by_relay(&self, peer: NodeId) -> bool {
        let link = self.links.get(&peer).filter(|link| link.settles_for_relay);
        let link = link.filter(|link| link.kind() == Some(PathKind::Relayed));
        link.and_then(Link::current).is_some_and(|way| self.relays.outlives_mapping(way))
    }

    /// Has the way in use show now that it works.
    pub(crate) fn ask_way_in_use(&mut self, now: Instant, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.ask_now(now);
            self.run_link(now, peer);
        }
    }

    /// Data goes to or comes from a peer.
    pub(crate) fn busy(&mut self, now: Instant, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.busy(now);
            self.set_link_timer(peer);
        }
    }

    /// Data goes to a peer, and nothing comes back.
    pub(crate) fn unheard(&mut self, now: Instant, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.unheard(now);
            self.run_link(now, peer);
        }
    }

    /// The way in use has been asked so often without an answer: first the node looks whether its own NAT has moved it,
    /// then, if there is no other way, it has the peer look too, by being introduced anew. Either side does, for either
    /// side's NAT may be the cause, and an introduction costs less than going on to ask.
    pub(crate) fn grown_silent(&mut self, now: Instant, peer: NodeId, unanswered: u32, is_alone: bool) {
        if unanswered == SUSPICIOUS_UNANSWERED {
            self.suspect_mappings(now);
        } else if unanswered == DOUBTFUL_UNANSWERED && is_alone {
            self.ask_anew(now, peer);
        }
    }

    /// Asks for an introduction, unless one is asked for already.
    pub(crate) fn ask_anew(&mut self, now: Instant, peer: NodeId) {
        if self.requests.is_full() || !self.requests.of_agent(peer).is_empty() {
            return;
        }
        let number = self.requests.open(now, Purpose::Roam(peer), peer.to_string(), true);
        self.send_request(number);
    }

    /// The link is gone: there is nothing to be in doubt of, and if the application holds the peer, its path is
    /// repaired.
    pub(crate) fn stop_roaming(&mut self, peer: NodeId) {
        self.doubts.remove(&peer);
        self.timers.set(Timer::Doubt(peer), None);
        for number in self.requests.of_roaming(peer) {
            self.drop_request(number);
        }
    }

    /// A peer that is met already is introduced anew, by this ticket.
    pub(crate) fn introduced_anew(&mut self, now: Instant, peer: NodeId, ticket: TicketId) {
        let (Some(link), Some(punch)) = (self.links.get(&peer), self.punches.get(&ticket)) else { return };
        if !punch.is_unhurried || !punch.is_active {
            return self.doubt_for(now, peer, Cause::Other);
        }
        let shows_nothing_new = link.current().is_some_and(|way| punch.has_target(&way));
        self.doubt_for(now, peer, Cause::Introduced);
        if shows_nothing_new {
            self.suspect_unseen_mappings(now, now);
        }
    }

    /// Has all ways of a link prove themselves anew. Ways in doubt already stay what they are.
    pub(crate) fn doubt(&mut self, now: Instant, peer: NodeId) {
        self.doubt_for(now, peer, Cause::Other);
    }

    /// The peer is heard from elsewhere.
    pub(crate) fn doubt_having_heard(&mut self, now: Instant, peer: NodeId, way: Way) {
        self.doubt_for(now, peer, Cause::Heard(way));
    }

    fn doubt_for(&mut self, now: Instant, peer: NodeId, cause: Cause) {
        if self.doubts.get(&peer).is_some_and(|doubt| !doubt.is_over) {
            return;
        }
        let Some(link) = self.links.get(&peer) else { return };
        let Some((mut ways, ticket)) = link.ways() else { return };
        let is_busy = link.is_busy(now);
        if let (Cause::Heard(heard), false) = (cause, is_busy) {
            // If the peer has moved, these are dead; those by another leg are what they were, and nobody waits for
            // them.
            ways.retain(|way| way.leg == heard.leg && *way != heard);
        }
        if ways.is_empty() {
            return;
        }
        let most_checks = if is_busy { CHECKS } else { IDLE_CHECKS };
        let doubt = Doubt { silent: ways, cause, since: now, ticket, checks: 0, most_checks, is_over: false };
        self.doubts.insert(peer, doubt);
        self.run_doubt(now, peer);
    }

    /// Checks what is silent, or passes the verdict.
    pub(crate) fn run_doubt(&mut self, now: Instant, peer: NodeId) {
        let Some(doubt) = self.doubts.get_mut(&peer) else { return };
        if doubt.is_over {
            self.doubts.remove(&peer);
            return;
        }
        let next = if doubt.checks < doubt.most_checks {
            doubt.checks += 1;
            let wait = if doubt.checks < doubt.most_checks { INTERVAL } else { doubt.grace() };
            let (ticket, cause) = (doubt.ticket, doubt.cause);
            let is_asked = |way: &&Way| {
                self.links
                    .get(&peer)
                    .is_some_and(|link| !link.is_silent(**way) && is_worth_asking(now, link, **way, cause))
            };
            let ways: Vec<Way> = doubt.silent.iter().filter(is_asked).copied().collect();
            if ways.is_empty() && matches!(cause, Cause::Moved | Cause::Introduced) {
                // No answer is waited for.
                doubt.is_over = true;
                self.judge(now, peer);
                self.timers.set(Timer::Doubt(peer), self.doubts.contains_key(&peer).then_some(now + MEMORY));
                return;
            }
            for way in ways {
                // A paced check is as good as a lost one.
                let _ = self.send_check(now, peer, ticket, way);
            }
            now + wait
        } else {
            doubt.is_over = true;
            let since = doubt.since;
            self.judge(now, peer);
            if self.doubts.contains_key(&peer) {
                // The peer may have had a reason: if it is this node's NAT, only the server can tell.
                self.suspect_unseen_mappings(now, since);
            }
            now + MEMORY
        };
        let next = self.doubts.contains_key(&peer).then_some(next);
        self.timers.set(Timer::Doubt(peer), next);
    }

    /// Has the mappings observed that were not since then, or shortly before.
    pub(crate) fn suspect_unseen_mappings(&mut self, now: Instant, since: Instant) {
        let is_seen = |observer: &Observer| observer.has_looked_since(since, RECENT);
        if !self.observers.values().all(is_seen) {
            self.suspect_mappings(now);
        }
    }

    /// A way has answered.
    pub(crate) fn way_answered(&mut self, now: Instant, peer: NodeId, way: Way) {
        let Some(doubt) = self.doubts.get_mut(&peer) else { return };
        doubt.silent.remove(&way);
        if doubt.silent.is_empty() {
            self.doubts.remove(&peer);
            self.timers.set(Timer::Doubt(peer), None);
        } else if doubt.is_over {
            self.judge(now, peer);
        }
    }

    /// Gives the silent ways up, if another one has answered.
    fn judge(&mut self, now: Instant, peer: NodeId) {
        let (Some(doubt), Some(link)) = (self.doubts.get(&peer), self.links.get_mut(&peer)) else { return };
        let Some((ways, _)) = link.ways() else { return };
        if ways.is_subset(&doubt.silent) {
            return;
        }
        let change = link.retain(|way| !doubt.silent.contains(&way));
        self.doubts.remove(&peer);
        self.timers.set(Timer::Doubt(peer), None);
        self.tell_path(now, peer, change);
        self.set_link_timer(peer);
    }
}

/// False for a way that no answer is to come by, whatever has become of it: see the module.
fn is_worth_asking(now: Instant, link: &Link, way: Way, cause: Cause) -> bool {
    let is_direct = way.leg == Leg::Main && link.kind_of(way) == PathKind::Direct;
    match cause {
        Cause::Moved => !is_direct || !link.is_strict || link.is_busy(now),
        Cause::Introduced => !is_direct,
        Cause::Heard(_) | Cause::Other => true,
    }
}
