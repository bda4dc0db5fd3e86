//! Meeting peers: introductions, tickets, paths. The checks themselves are in [`crate::checks`].
//!
//! Nothing is sent to a peer without a ticket.

use std::time::{Duration, Instant};

use meetpoint_proto::wire::{
    Candidate, CandidateKind, CertificateText, ClientMessage, Introduction, MAX_RELAY_CANDIDATES, Refusal,
    RevocationText, TicketOutcome,
};
use meetpoint_proto::{Certificate, Code, Filtering, NodeId, Revocation, TicketId, addr};

use crate::agent::{Agent, Timer};
use crate::api::{AllocationId, BackoffConfig, Leg, Output, PathKind, Way};
use crate::backoff::Backoff;
use crate::link::{Change, Link, TicketKeys};
use crate::punch::{MAX_CANDIDATES, Punch};
use crate::requests::Purpose;
use crate::stun::Key;

/// Peers with a path or a ticket.
const MAX_LINKS: usize = 1_024;
/// Tickets at once.
const MAX_PUNCHES: usize = 256;
/// Tickets remembered as used: whatever is older has expired by far.
const MAX_USED: usize = 4_096;
/// Removed peers remembered; beyond it the one whose last certificate ends first is forgotten.
const MAX_REVOKED: usize = 1_024;
/// Longest life of a ticket, whatever the server says.
const MAX_LIFETIME: Duration = Duration::from_secs(30);
/// Between two attempts to reach directly who is reached by a relay. Each costs a ticket and its checks, and a pair
/// that physics keeps apart stays apart until a network changes.
const UPGRADES: BackoffConfig =
    BackoffConfig { base: Duration::from_secs(15), max: Duration::from_secs(600), give_up_after: None };
/// The same where physics keeps the two apart, as far as both know their NATs: whichever side's network changes tries
/// at once.
const HOPELESS_UPGRADE: Duration = Duration::from_secs(30 * 60);
/// The first attempt to get a lost path back comes within this: the application waits.
const REPAIR_SOON: Duration = Duration::from_millis(250);
/// After a change of the network: the new mapping has to be observed first.
const UPGRADE_SOON: Duration = Duration::from_secs(1);
/// Longest head start: the server has no reason for a longer one.
const MAX_START: Duration = Duration::from_secs(2);

impl Agent {
    pub(crate) fn introduced(&mut self, now: Instant, introduction: Introduction) {
        match self.accept(now, &introduction) {
            Ok(peer) => self.start_ticket(now, &introduction, &peer),
            Err(refusal) => {
                self.env.counters.tickets_refused += 1;
                for number in introduction.requests {
                    self.fail_request(now, number, refusal.clone());
                }
            }
        }
    }

    /// Checks everything about an introduction before anything of it is used.
    fn accept(&mut self, now: Instant, introduction: &Introduction) -> Result<Certificate, Refusal> {
        let peer = self.verify_peer(now, &introduction.certificate)?;
        self.take_ticket(&peer.node, introduction.ticket)?;
        Ok(peer)
    }

    /// Makes room for one more ticket with this peer, and marks it as used.
    pub(crate) fn take_ticket(&mut self, peer: &NodeId, ticket: TicketId) -> Result<(), Refusal> {
        let is_new_link = !self.links.contains_key(peer);
        if self.punches.len() >= MAX_PUNCHES || (is_new_link && self.links.len() >= MAX_LINKS) {
            return Err(Refusal::new(Code::TooManyIntroductions));
        }
        if !self.used_tickets.insert(ticket) {
            return Err(Refusal::new(Code::NoPath).detail("this ticket was used before"));
        }
        self.used_order.push_back(ticket);
        if self.used_order.len() > MAX_USED
            && let Some(oldest) = self.used_order.pop_front()
        {
            self.used_tickets.remove(&oldest);
        }
        Ok(())
    }

    pub(crate) fn verify_peer(&self, now: Instant, text: &CertificateText) -> Result<Certificate, Refusal> {
        let refused = |detail: &dyn std::fmt::Display| Refusal::new(Code::BadCertificate).detail(detail);
        let Some(membership) = &self.membership else { return Err(refused(&"not a member")) };
        let peer = Certificate::verify(text, &membership.cluster_key, membership.clock.unix_s(now))
            .map_err(|error| refused(&error))?;
        if peer.cluster != self.env.config.cluster {
            return Err(refused(&"the peer is a member of another cluster"));
        }
        if peer.node == self.id {
            return Err(Refusal::new(Code::SelfConnect));
        }
        if self.is_revoked(&peer.node, peer.not_after_unix_s) {
            return Err(refused(&"the peer was removed from the cluster"));
        }
        Ok(peer)
    }

    pub(crate) fn start_ticket(&mut self, now: Instant, introduction: &Introduction, peer: &Certificate) {
        let ticket = introduction.ticket;
        for number in self.requests.strays(&introduction.requests, peer) {
            let refusal = Refusal::new(Code::BadCertificate).detail("the server introduced another node");
            self.fail_request(now, number, refusal);
        }
        let since = self.requests.answer(&introduction.requests, ticket, peer).unwrap_or(now);
        let start = now + Duration::from_millis(introduction.start_in_ms.into()).min(MAX_START);
        let expires = now + Duration::from_millis(introduction.expires_in_ms.into()).min(MAX_LIFETIME);
        let mut punch = Punch::new(now, peer.node, since, start, expires);
        punch.is_active = introduction.active;
        let is_idle = |link: &Link| link.is_open() && !link.is_busy(now);
        punch.is_unhurried = self.links.get(&peer.node).is_some_and(is_idle);
        // Who loses a direct path without data on it asks again if no other is found, and for a relay then.
        let is_direct = |link: &Link| link.kind() == Some(PathKind::Direct);
        let is_well_off = punch.is_unhurried && self.links.get(&peer.node).is_some_and(is_direct);
        punch.probe = introduction.probe;
        let is_only = self.links.get(&peer.node).is_some_and(|link| link.punches.is_empty());
        punch.is_told_elsewhere =
            is_well_off && is_only && introduction.requests.is_empty() && !introduction.probe;
        punch.relayed_trip = self.relayed_trip(introduction.peer_rtt_ms);
        let mut named = Vec::new();
        if introduction.active {
            let candidates = self.usable_candidates(introduction);
            punch.add_candidates(start, &candidates);
            self.make_plan(&mut punch, start, introduction);
            let all = introduction.candidates.iter().take(MAX_CANDIDATES);
            named.extend(all.map(|candidate| addr::unmap(candidate.addr)));
            named.iter().for_each(|remote| punch.name(*remote));
        }
        let has_begun = self.requests.have_begun(&peer.node);
        let link = self.links.entry(peer.node);
        let link = link.or_insert_with(|| Link::new(self.id, peer.node, peer.name.clone()));
        link.name = peer.name.clone();
        link.member_until_unix_s = link.member_until_unix_s.max(peer.not_after_unix_s);
        link.present = true;
        link.settles_for_relay = punch.settles_for_relay;
        link.is_provisional |= has_begun;
        link.is_strict =
            introduction.peer.and_then(|nat| nat.filtering) == Some(Filtering::AddressAndPortDependent);
        link.punches.insert(ticket);
        link.add_keys(TicketKeys {
            ticket,
            send: Key::of_ticket(&introduction.send_key),
            recv: Key::of_ticket(&introduction.recv_key),
        });
        self.env.counters.tickets += 1;
        if introduction.active {
            self.supersede(&peer.node, ticket);
        }
        self.punches.insert(ticket, punch);
        self.handshake_came(peer.node, introduction);
        self.run_ticket(now, ticket);
        if introduction.active && !is_well_off {
            self.want_relay(now);
            self.add_relay_ways(now, ticket, &named, None);
        }
        if self.links.get(&peer.node).is_some_and(Link::is_open) {
            self.introduced_anew(now, peer.node, ticket);
            self.finish_requests(peer.node);
        }
    }

    /// Where nobody waits, tickets of before a new one only answer: they name where the peer has been, and the new one
    /// names all places of now.
    fn supersede(&mut self, peer: &NodeId, newest: TicketId) {
        let Some(link) = self.links.get(peer) else { return };
        for ticket in link.punches.iter().filter(|ticket| **ticket != newest) {
            if let Some(punch) = self.punches.get_mut(ticket).filter(|punch| punch.is_unhurried) {
                punch.fall_silent();
                self.timers.set(Timer::Ticket(*ticket), Some(punch.deadline()));
            }
        }
    }

    fn usable_candidates(&mut self, introduction: &Introduction) -> Vec<Way> {
        let Some(reach) = &self.reach else { return Vec::new() };
        let mut usable = Vec::new();
        for candidate in introduction.candidates.iter().take(MAX_CANDIDATES) {
            let to = addr::unmap(candidate.addr);
            if !reach.may_probe(&self.network, to) {
                self.env.counters.candidates_refused += 1;
            } else if !usable.contains(&Way::main(to)) {
                usable.push(Way::main(to));
            }
        }
        usable
    }

    /// Where the peer of a running ticket may be met as well: at a relay that was allocated meanwhile.
    pub(crate) fn more_candidates(&mut self, now: Instant, ticket: TicketId, candidates: &[Candidate]) {
        let punch = self.punches.get(&ticket).map(|punch| (punch.peer, punch.is_active));
        let (Some((peer, is_active)), Some(reach)) = (punch, self.reach.clone()) else { return };
        let mut named = Vec::new();
        for candidate in candidates.iter().take(MAX_RELAY_CANDIDATES) {
            let to = addr::unmap(candidate.addr);
            // Nothing but relayed addresses becomes known late, and the passive side of a ticket takes nothing else.
            if candidate.kind != CandidateKind::Relay {
                continue;
            }
            if let Some(link) = self.links.get_mut(&peer) {
                link.add_relay(to);
            }
            named.push(to);
            let may_probe = reach.may_probe(&self.network, to);
            self.env.counters.candidates_refused += u64::from(!may_probe);
            if let Some(punch) = self.punches.get_mut(&ticket) {
                punch.name(to);
                if may_probe {
                    punch.add_relayed(now, Way::main(to));
                }
            }
        }
        self.run_ticket(now, ticket);
        if is_active {
            self.add_relay_ways(now, ticket, &named, None);
        }
    }

    /// Sends what is due of a ticket, or ends it.
    pub(crate) fn run_ticket(&mut self, now: Instant, ticket: TicketId) {
        let Some(punch) = self.punches.get_mut(&ticket) else { return };
        let peer = punch.peer;
        if punch.is_over(now) {
            return self.end_ticket(now, ticket);
        }
        while let Some(to) = self.punches.get_mut(&ticket).and_then(|punch| punch.next_opener(now)) {
            self.send_opener(now, peer, ticket, to);
        }
        while let Some(flow) = self.punches.get_mut(&ticket).and_then(|punch| punch.next_guess(now)) {
            self.send_guess(now, peer, ticket, flow);
        }
        while let Some(to) = self.punches.get_mut(&ticket).and_then(|punch| punch.next_due(now)) {
            let sent = self.send_check(now, peer, ticket, to);
            if let Some(punch) = self.punches.get_mut(&ticket) {
                match sent {
                    Ok(()) => punch.sent(now, to),
                    Err(again) => punch.postpone(to, again),
                }
            }
            if sent.is_ok() {
                self.check_left(&peer, ticket, to);
            }
        }
        self.run_starts(ticket);
        let deadline = self.punches.get(&ticket).map(Punch::deadline);
        self.timers.set(Timer::Ticket(ticket), deadline);
    }

    fn end_ticket(&mut self, now: Instant, ticket: TicketId) {
        self.timers.set(Timer::Ticket(ticket), None);
        let Some(punch) = self.punches.remove(&ticket) else { return };
        let kind = self.links.get(&punch.peer).and_then(Link::kind);
        if !punch.is_direct() && kind == Some(PathKind::Relayed) {
            self.env.counters.tickets_relayed += 1;
            let rtt = self.links.get(&punch.peer).and_then(Link::rtt);
            self.tell_end(ticket, &punch, TicketOutcome::Relayed, rtt);
        } else if !punch.is_direct() {
            self.env.counters.tickets_failed += 1;
            self.tell_end(ticket, &punch, TicketOutcome::Failed, None);
        }
        for number in self.requests.of_ticket(ticket) {
            self.fail_request(now, number, Refusal::new(Code::NoPath).detail(punch.plan));
        }
        self.end_guesses(now, ticket, &punch);
        if let Some(link) = self.links.get_mut(&punch.peer) {
            link.punches.remove(&ticket);
        }
        // What the server wanted to see was seen, and a way that nobody uses costs a check every few seconds.
        if punch.probe && self.links.get(&punch.peer).is_some_and(Link::was_probed_only) {
            return self.release(now, punch.peer);
        }
        self.schedule_upgrade(now, punch.peer);
        self.drop_idle_link(punch.peer);
    }

    fn tell_end(&mut self, ticket: TicketId, punch: &Punch, outcome: TicketOutcome, rtt: Option<Duration>) {
        if !punch.is_told_elsewhere {
            self.tell_result(ticket, outcome, rtt);
        }
    }

    pub(crate) fn tell_result(&mut self, ticket: TicketId, outcome: TicketOutcome, rtt: Option<Duration>) {
        if self.control.is_member() {
            let rtt_us = rtt.map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
            self.env.send(ClientMessage::TicketResult { ticket, outcome, rtt_us });
        }
    }

    pub(crate) fn tell_path(&mut self, now: Instant, peer: NodeId, change: Change) {
        match change {
            Change::None => {}
            Change::Moved(path) => {
                self.env.push(Output::Path { peer, path: Some(path) });
                if path.kind == PathKind::Direct && self.upgrades.remove(&peer).is_some() {
                    self.timers.set(Timer::Upgrade(peer), None);
                }
            }
            Change::Lost => {
                self.env.push(Output::Path { peer, path: None });
                self.env.counters.paths_lost += 1;
                // A NAT that restarted is the likeliest cause, and the server should know first.
                self.suspect_mappings(now);
                self.probe_relays(now);
                if self.links.get(&peer).is_some_and(|link| link.held) {
                    self.schedule_repair(now, peer);
                }
            }
        }
    }

    /// Ends all requests for a peer that has a path now.
    pub(crate) fn finish_requests(&mut self, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.is_open()) else { return };
        let is_direct = link.kind() == Some(PathKind::Direct);
        let mut open = Vec::new();
        for number in self.requests.for_peer(&peer, &link.name, is_direct) {
            let request = self.requests.get(number);
            link.held |= request.is_some_and(|request| request.purpose != Purpose::Roam(peer));
            if request.is_some_and(|request| request.ticket.is_none()) {
                open.push(number);
            }
            self.timers.set(Timer::Request(number), None);
            match self.requests.take(number).map(|request| request.purpose) {
                Some(Purpose::Application(request)) => {
                    self.env.push(Output::ConnectEnded { request, result: Ok(peer) });
                }
                Some(Purpose::Repair(_) | Purpose::Upgrade(_) | Purpose::Roam(_)) | None => {}
            }
        }
        if self.repairs.remove(&peer).is_some() {
            link.held = true;
            self.timers.set(Timer::Repair(peer), None);
        }
        for number in open {
            self.cancel_request(number);
        }
    }

    /// Asks for consent where it is due, and notices ways that have died.
    pub(crate) fn run_link(&mut self, now: Instant, peer: NodeId) {
        let mut unanswered = 0;
        while let Some((way, ticket, asked)) =
            self.links.get_mut(&peer).and_then(|link| link.next_consent(now))
        {
            // A paced consent check is as good as a lost one: the next comes soon.
            let _ = self.send_check(now, peer, ticket, way);
            let is_current = self.links.get(&peer).and_then(Link::current) == Some(way);
            unanswered = if is_current { asked } else { unanswered };
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        let change = link.choose();
        let is_alone = change == Change::None;
        self.tell_path(now, peer, change);
        self.grown_silent(now, peer, unanswered, is_alone);
        self.set_link_timer(peer);
        self.drop_idle_link(peer);
        self.close_extras(now);
    }

    pub(crate) fn set_link_timer(&mut self, peer: NodeId) {
        let deadline = self.links.get(&peer).and_then(Link::deadline);
        self.timers.set(Timer::Link(peer), deadline);
    }

    fn drop_idle_link(&mut self, peer: NodeId) {
        if self.links.get(&peer).is_some_and(Link::is_idle) {
            if self.links.remove(&peer).is_some_and(|link| link.is_heard() || link.is_provisional) {
                self.env.push(Output::Path { peer, path: None });
            }
            self.timers.set(Timer::Link(peer), None);
            self.stop_roaming(peer);
        }
    }

    /// After a welcome: what the cluster no longer allows ends at once.
    pub(crate) fn restrict(&mut self, now: Instant) {
        let Some(reach) = self.reach.clone().filter(|reach| reach.private_only) else { return };
        self.end_relays(now);
        for ticket in self.punches.keys().copied().collect::<Vec<TicketId>>() {
            self.end_ticket(now, ticket);
        }
        for peer in self.links.keys().copied().collect::<Vec<NodeId>>() {
            let change =
                self.links.get_mut(&peer).map(|link| link.retain(|way| reach.may_answer(way.remote)));
            self.tell_path(now, peer, change.unwrap_or(Change::None));
            self.drop_idle_link(peer);
        }
    }

    pub(crate) fn release(&mut self, now: Instant, peer: NodeId) {
        if self.repairs.remove(&peer).is_some() {
            self.timers.set(Timer::Repair(peer), None);
        }
        if self.upgrades.remove(&peer).is_some() {
            self.timers.set(Timer::Upgrade(peer), None);
        }
        for number in self.requests.of_agent(peer) {
            self.drop_request(number);
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.release() == Change::Lost {
            self.env.push(Output::Path { peer, path: None });
        }
        self.set_link_timer(peer);
        self.drop_idle_link(peer);
        self.close_extras(now);
    }

    /// The cluster says that a peer is no member any more: what there is of it ends.
    pub(crate) fn peer_revoked(&mut self, now: Instant, text: &RevocationText) {
        let Some(membership) = &self.membership else { return };
        let verified = Revocation::verify(text, &self.env.config.cluster, &membership.cluster_key);
        let Some(Revocation { node: peer, until_unix_s }) = verified.filter(|told| told.node != self.id)
        else {
            self.env.counters.control_refused += 1;
            return;
        };
        let known = self.revoked.entry(peer).or_default();
        *known = until_unix_s.max(*known);
        if self.revoked.len() > MAX_REVOKED
            && let Some((&first, _)) = self.revoked.iter().min_by_key(|(_, until)| **until)
        {
            self.revoked.remove(&first);
        }
        let Some(link) = self.links.get(&peer) else { return };
        if link.member_until_unix_s > until_unix_s {
            return;
        }
        for ticket in link.punches.clone() {
            self.end_ticket(now, ticket);
        }
        self.release(now, peer);
        if self.links.remove(&peer).is_some() {
            self.env.push(Output::Path { peer, path: None });
            self.timers.set(Timer::Link(peer), None);
        }
    }

    /// A certificate that ends later than the last one before the removal was made after it: the peer
    /// is a member again.
    fn is_revoked(&self, peer: &NodeId, not_after_unix_s: u64) -> bool {
        self.revoked.get(peer).is_some_and(|until_unix_s| not_after_unix_s <= *until_unix_s)
    }

    /// Sets the clock for the next attempt to get a lost path back.
    pub(crate) fn schedule_repair(&mut self, now: Instant, peer: NodeId) {
        if self.repairs.len() >= MAX_LINKS && !self.repairs.contains_key(&peer) {
            return;
        }
        let is_first = !self.repairs.contains_key(&peer);
        let backoff = self.repairs.entry(peer).or_insert_with(|| Backoff::new(self.env.config.backoff));
        let delay = backoff.next_delay(&mut self.env.rng);
        let delay = if is_first { delay.min(REPAIR_SOON) } else { delay };
        self.timers.set(Timer::Repair(peer), Some(now + delay));
    }

    /// Sets the clock for the next attempt to reach a peer directly that is reached by a relay, if this side
    /// holds the connection: one side's attempts are enough.
    pub(crate) fn schedule_upgrade(&mut self, now: Instant, peer: NodeId) {
        let is_its =
            |link: &Link| link.held && link.punches.is_empty() && link.kind() == Some(PathKind::Relayed);
        let Some(link) = self.links.get(&peer).filter(|link| is_its(link)) else { return };
        let least = if link.settles_for_relay { HOPELESS_UPGRADE } else { Duration::ZERO };
        let backoff = self.upgrades.entry(peer).or_insert_with(|| Backoff::new(UPGRADES));
        let delay = UPGRADE_SOON + backoff.next_delay(&mut self.env.rng).max(least);
        self.timers.set(Timer::Upgrade(peer), Some(now + delay));
    }

    /// The network has changed, and what was impossible may be possible: whichever side notices tries.
    pub(crate) fn hasten_upgrades(&mut self, now: Instant) {
        let relayed = |link: &Link| link.kind() == Some(PathKind::Relayed);
        let peers = self.links.iter().filter(|(_, link)| relayed(link)).map(|(peer, _)| *peer);
        for peer in peers.collect::<Vec<NodeId>>() {
            self.upgrades.insert(peer, Backoff::new(UPGRADES));
            self.timers.set(Timer::Upgrade(peer), Some(now + UPGRADE_SOON));
        }
    }

    pub(crate) fn upgrade(&mut self, now: Instant, peer: NodeId) {
        let is_relayed = self.links.get(&peer).and_then(Link::kind) == Some(PathKind::Relayed);
        if !is_relayed {
            self.upgrades.remove(&peer);
            return;
        }
        if !self.control.is_member() || self.requests.is_full() {
            return self.schedule_upgrade(now, peer);
        }
        if self.requests.of_agent(peer).is_empty() {
            let number = self.requests.open(now, Purpose::Upgrade(peer), peer.to_string(), false);
            self.send_request(number);
        }
    }

    /// Data can go by this way from now on.
    pub(crate) fn channel_bound(&mut self, now: Instant, way: Way) {
        let Some(channel) = self.relays.channel(way) else { return };
        self.env.push(Output::Channel { way, channel: Some(channel) });
        let concerned = |link: &Link| link.hears(way) || link.has_route(way);
        let peers = self.links.iter().filter(|(_, link)| concerned(link)).map(|(peer, _)| *peer);
        for peer in peers.collect::<Vec<NodeId>>() {
            let Some(link) = self.links.get_mut(&peer) else { continue };
            if link.hears(way) {
                self.env.push(Output::Hear { peer, way });
            }
            let change = link.ready(way);
            self.tell_path(now, peer, change);
            self.finish_requests(peer);
        }
    }

    /// A way by a relay is gone.
    pub(crate) fn way_lost(&mut self, now: Instant, lost: Way) {
        self.env.push(Output::Channel { way: lost, channel: None });
        self.give_up(now, |link| link.retain(|way| way != lost));
    }

    /// An allocation is gone, and with it all ways by it.
    pub(crate) fn leg_lost(&mut self, now: Instant, id: AllocationId) {
        for remote in self.relays.remotes(id) {
            let way = Way { leg: Leg::Relay(id), remote };
            self.env.push(Output::Channel { way, channel: None });
        }
        self.give_up(now, |link| link.leg_lost(id));
    }

    pub(crate) fn give_up(&mut self, now: Instant, mut what: impl FnMut(&mut Link) -> Change) {
        for peer in self.links.keys().copied().collect::<Vec<NodeId>>() {
            let Some(link) = self.links.get_mut(&peer) else { continue };
            let change = what(link);
            self.tell_path(now, peer, change);
            self.drop_idle_link(peer);
        }
    }

    pub(crate) fn repair(&mut self, now: Instant, peer: NodeId) {
        if !self.repairs.contains_key(&peer) {
            return;
        }
        if self.requests.is_full() {
            return self.schedule_repair(now, peer);
        }
        let number = self.requests.open(now, Purpose::Repair(peer), peer.to_string(), true);
        self.send_request(number);
        self.want_relay(now);
    }
}
