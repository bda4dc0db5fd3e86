//! Checks: sent, answered, believed.
//!
//! Nothing of a peer is answered but a check under a live ticket's key, and nothing is believed but the answer to a
//! check of this node's own, by the very way that was asked. Whatever else arrives is counted and forgotten.
//!
//! A check names both nodes, which is more than half of it. Who reads the short form says so in its checks and its
//! answers; from then on the other side's checks name the beginning of their sender and no more: whom they are for, and
//! that it is this sender, their key shows. A node that knows no short names goes on as ever.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Instant;

use meetpoint_proto::wire::{ClientMessage, TicketOutcome};
use meetpoint_proto::{NodeId, TicketId};
use rand_chacha::rand_core::Rng;

use crate::agent::{Agent, Timer};
use crate::api::{Leg, Output, PathKind, Socket, Way};
use crate::defence::Defence;
use crate::env::millis;
use crate::link::{Confirmation, Link};
use crate::punch::Punch;
use crate::stun::{self, Class, Datagram, TransactionId};

/// Our checks that may still be answered.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    checks: BTreeMap<TransactionId, Sent>,
    order: VecDeque<TransactionId>,
}

/// A short name is the beginning of the sender's id, 40 bits of it: so many characters of its text, which are whole
/// bytes.
pub(crate) const SHORT_NAME_LEN: usize = 8;
/// The rest of the least id and of the greatest that begin with a short name. Of 256 bits the last character has one.
const LEAST_REST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const GREATEST_REST: &str = "7777777777777777777777777777777777777777777q";

/// Checks remembered. An answer to one that 8,192 others have followed is of no worth.
const MAX_OUTSTANDING: usize = 8_192;

#[derive(Debug, Clone, Copy)]
struct Sent {
    peer: NodeId,
    ticket: TicketId,
    to: Way,
    at: Instant,
}

impl Outstanding {
    fn insert(&mut self, id: TransactionId, sent: Sent) {
        self.checks.insert(id, sent);
        self.order.push_back(id);
        if self.order.len() > MAX_OUTSTANDING
            && let Some(oldest) = self.order.pop_front()
        {
            self.checks.remove(&oldest);
        }
    }
}

impl Agent {
    /// Sends a check under a ticket.
    ///
    /// # Errors
    /// When it may be sent, if not now.
    pub(crate) fn send_check(
        &mut self,
        now: Instant,
        peer: NodeId,
        ticket: TicketId,
        to: Way,
    ) -> Result<(), Instant> {
        let pacer = match to.leg {
            Leg::Main | Leg::Extra(_) => &mut self.pacer,
            Leg::Relay(_) => &mut self.relay_pacer,
        };
        if let Err(again) = pacer.take(now, to.remote) {
            self.env.counters.checks_paced += 1;
            return Err(again);
        }
        self.send_check_unpaced(now, peer, ticket, to, None);
        Ok(())
    }

    /// Sends a check whose pace is somebody else's business.
    pub(crate) fn send_check_unpaced(
        &mut self,
        now: Instant,
        peer: NodeId,
        ticket: TicketId,
        to: Way,
        ttl: Option<u8>,
    ) {
        let Some(link) = self.links.get(&peer) else { return };
        let Some(keys) = link.keys(ticket) else { return };
        let id = TransactionId::random(&mut self.env.rng);
        let payload = stun::check(id, link.check_name(), &keys.send);
        self.outstanding.insert(id, Sent { peer, ticket, to, at: now });
        self.env.counters.checks_sent += 1;
        self.transmit_by(now, to, payload, ttl);
    }

    /// A peer's check: answers it, and probes back.
    pub(crate) fn check(&mut self, now: Instant, way: Way, check: &Datagram<'_>) {
        let Some((peer, ticket)) = self.authenticate(way.remote, check) else {
            self.env.counters.checks_refused += 1;
            return;
        };
        if self.is_retiring(way.leg) {
            // Silence makes the peer leave it.
            return;
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        if !link.is_new(check.id()) && self.rendezvous.defences.stand(Defence::NewCheck) {
            self.env.counters.checks_repeated += 1;
            return;
        }
        let is_named = self.punches.get(&ticket).is_some_and(|punch| punch.is_named(way.remote));
        let is_its_relay = way.leg == Leg::Main && !is_named && self.is_relay(way.remote);
        let Some(link) = self.links.get_mut(&peer) else { return };
        if is_its_relay {
            link.add_relay(way.remote);
        }
        let (is_wanted, is_current) = (link.wants(now, way), link.current() == Some(way));
        let is_direct = link.kind_of(way) == PathKind::Direct;
        // A passive side has sent nothing under this ticket; that it had not before either, nobody but
        // the node itself can know.
        let is_passive = self.punches.get(&ticket).is_some_and(Punch::is_passive);
        if is_passive && is_direct && !self.env.may_have_sent(now, way.remote.ip()) {
            self.env.send(ClientMessage::Unsolicited { ticket });
        }
        if link.hear(way) && self.carries_data(way) {
            self.env.push(Output::Hear { peer, way });
        }
        self.bind_channel(now, way);
        let Some(link) = self.links.get(&peer) else { return };
        let Some(send) = link.keys(ticket).map(|keys| keys.send.clone()) else { return };
        // Our own check leaves before the answer: where order is kept, the peer's first data comes
        // behind the answer to it, when we already accept data from there.
        if let Some(punch) = self.punches.get_mut(&ticket) {
            punch.trigger(now, way);
            self.run_ticket(now, ticket);
        } else if is_wanted {
            // The peer checks again if this one is too early or gets lost.
            let _ = self.send_check(now, peer, ticket, way);
            self.doubt_having_heard(now, peer, way);
        } else if is_direct && !is_current {
            // It may have moved back to where it has been before. By a relay it sends now and then anyway.
            self.doubt(now, peer);
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.kept_by_peer(now, way, self.env.keepalive.interval());
            self.set_link_timer(peer);
            self.observe_before_next_check(now);
        }
        self.env.counters.checks_answered += 1;
        let answer = stun::check_answer(check, way.remote, &send);
        self.transmit_by(now, way, answer, None);
    }

    /// Sends a check or an answer to one.
    fn transmit_by(&mut self, now: Instant, way: Way, payload: Vec<u8>, ttl: Option<u8>) {
        match way.leg {
            Leg::Main => self.env.transmit(now, Socket::Main, way.remote, payload, ttl),
            Leg::Extra(number) => {
                self.env.transmit(now, Socket::Extra(number), way.remote, payload, ttl);
            }
            Leg::Relay(id) => self.transmit_relayed(now, id, way.remote, &payload),
        }
    }

    /// True if the shell can send and take data by this way.
    pub(crate) fn carries_data(&self, way: Way) -> bool {
        match way.leg {
            Leg::Main | Leg::Extra(_) => true,
            Leg::Relay(_) => self.relays.channel(way).is_some(),
        }
    }

    /// Whose check it is and under which ticket, if it is one we want.
    fn authenticate(&mut self, source: SocketAddr, check: &Datagram<'_>) -> Option<(NodeId, TicketId)> {
        let username = check.username()?;
        if !self.reach.as_ref()?.may_answer(source) {
            return None;
        }
        let of_peer = |(from, link): (&NodeId, &Link)| Some((*from, link.authenticate(check)?));
        let (found, is_short) = if let Some((to, from)) = username.split_once(':') {
            let from = from.parse().ok().filter(|_| to.parse() == Ok(self.id))?;
            (self.links.get_key_value(&from).and_then(of_peer)?, false)
        } else {
            (self.links.range(whoever_begins_with(username)?).find_map(of_peer)?, true)
        };
        if let Some(link) = self.links.get_mut(&found.0) {
            link.takes_short_names |= is_short || check.takes_short_names();
        }
        Some(found)
    }

    /// An answer to a check of ours. It counts only by the very way that was asked.
    pub(crate) fn check_answered(&mut self, now: Instant, way: Way, answer: &Datagram<'_>) {
        let sent = self.outstanding.checks.get(&answer.id()).copied();
        let sent = sent.filter(|sent| sent.to == way && answer.class() == Class::Success);
        let keys = sent.and_then(|sent| self.links.get(&sent.peer)?.keys(sent.ticket));
        let (Some(sent), true) = (sent, keys.is_some_and(|keys| answer.verify(&keys.recv))) else {
            self.env.counters.unsolicited += 1;
            return;
        };
        if self.rendezvous.defences.stand(Defence::NewAnswer) {
            self.outstanding.checks.remove(&answer.id());
        }
        self.bind_channel(now, way);
        let since = self.ticket_verified(now, &sent);
        let is_ready = self.carries_data(way);
        let Some(link) = self.links.get_mut(&sent.peer) else { return };
        link.takes_short_names |= answer.takes_short_names();
        let confirmation = Confirmation {
            ticket: sent.ticket,
            way,
            is_ready,
            rtt: now.saturating_duration_since(sent.at),
            keepalive: self.env.keepalive.interval(),
            random: self.env.rng.next_u32(),
        };
        let elapsed = now.saturating_duration_since(since);
        let change = link.confirm(now, &confirmation, elapsed);
        let is_seen_elsewhere = link.is_seen_elsewhere(way, answer.mapped());
        self.tell_path(now, sent.peer, change);
        self.way_answered(now, sent.peer, sent.to);
        self.observe_before_next_check(now);
        if is_seen_elsewhere {
            // This node's NAT has moved it, and the peer's let it in all the same; what else depends on it does not
            // know yet.
            self.suspect_unseen_mappings(now, now);
        }
        self.finish_requests(sent.peer);
        self.set_link_timer(sent.peer);
    }

    /// Notes a ticket's success, and says from when the application counts.
    fn ticket_verified(&mut self, now: Instant, sent: &Sent) -> Instant {
        let kind = self.links.get(&sent.peer).map_or(PathKind::Direct, |link| link.kind_of(sent.to));
        let Some(punch) = self.punches.get_mut(&sent.ticket) else { return now };
        let (since, elapsed) = (punch.since, now.saturating_duration_since(punch.introduced));
        let is_first = punch.verified(now, sent.to, kind);
        let is_told_elsewhere = punch.is_told_elsewhere;
        self.timers.set(Timer::Ticket(sent.ticket), Some(punch.deadline()));
        if is_first {
            self.env.counters.tickets_direct += 1;
        }
        if is_first && !is_told_elsewhere {
            let elapsed_ms = u32::try_from(millis(elapsed)).unwrap_or(u32::MAX);
            let rtt = now.saturating_duration_since(sent.at);
            self.tell_result(sent.ticket, TicketOutcome::Direct { elapsed_ms }, Some(rtt));
        }
        since
    }
}

/// The ids that have this short name. There may be more than one: a key tells them apart.
fn whoever_begins_with(short: &str) -> Option<RangeInclusive<NodeId>> {
    let ends = |rest: &str| (short.len() == SHORT_NAME_LEN).then(|| format!("{short}{rest}").parse().ok())?;
    Some(ends(LEAST_REST)?..=ends(GREATEST_REST)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_stands_for_the_ids_that_begin_with_it() {
        let id = |head: [u8; 5], rest: u8| {
            let mut bytes = [rest; 32];
            bytes[..5].copy_from_slice(&head);
            NodeId::from_bytes(bytes)
        };
        let head = [1, 2, 3, 4, 5];
        let short = id(head, 7).to_string()[..SHORT_NAME_LEN].to_owned();
        let range = whoever_begins_with(&short).expect("a short name");
        for (id, expect) in [
            (id(head, 0), true),
            (id(head, 7), true),
            (id(head, 255), true),
            (id([1, 2, 3, 4, 4], 255), false),
            (id([1, 2, 3, 4, 6], 0), false),
        ] {
            assert_eq!(range.contains(&id), expect, "{id}");
        }
        for other in ["", "aaaaaaa", "aaaaaaaaa", "aaaaaaa1", "aaaaaa é", "aaaa:aaa"] {
            assert!(whoever_begins_with(other).is_none(), "{other:?}");
        }
    }
}
