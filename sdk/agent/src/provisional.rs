//! QUIC's handshake before any way is verified.
//!
//! Who is relayed would wait three times: a relayed round trip for the answer to the first check, half a one for QUIC's
//! handshake to come to the peer, and half a one back. So the handshake does not wait for the checks.
//!
//! Its first datagram goes with the request for an introduction, where a relay is likely to be needed: the peer has it
//! together with its ticket, and answers behind its own first check. That answer is here one relayed round trip after
//! the connect call. The peer has proven its key by it, under a ticket's key its check has said by which way it comes,
//! and that way passes the server's relay: so it is a path, half a relayed round trip before the answer to this node's
//! own check, and the application's first byte is there when that answer is here. If no check is answered the path ends
//! as any other that falls silent.
//!
//! The same datagram also goes behind the first checks, as it does where it could not go with the introduction.
//!
//! What is not verified gets no more than that: a few datagrams a ticket, each as often as a check may be sent, and no
//! application data. Such a datagram goes to the server's relay and nowhere else, whatever the introduction says: by an
//! allocation of this node, or to an address that this very server lends and has named as the peer's. So a peer can't
//! aim it at anybody; and a server that lies makes its own relay send, which it could without the node. A datagram that
//! came with an introduction may be anybody's work: it buys one answer, by these ways, and what follows it has to be
//! the peer's own.
//!
//! Only when is decided here. What counts as a part of the handshake, and how much of it is sent, the shell sees to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meetpoint_proto::wire::Introduction;
use meetpoint_proto::{HandshakeStart, NodeId, TicketId};
use rand_chacha::rand_core::Rng;

use crate::agent::{Agent, Announced, Timer};
use crate::api::{Leg, Output, PathKind, Way};
use crate::defence::Defence;
use crate::link::{Confirmation, Link};
use crate::punch::Punch;
use crate::requests::{Purpose, Request};

/// How often a handshake may go under one ticket, over all ways: by an allocation of this node to the peer's own
/// address and to its allocation, and from here to that. 1,200 bytes each.
const MAX_STARTS: u32 = 6;
/// With so many of the first checks to one place: the packet by which the peer opens it may come a little later than
/// the first.
const STARTS_PER_WAY: u32 = 2;
/// A round trip to the server, where none was measured.
const UNKNOWN_TRIP: Duration = Duration::from_millis(100);

/// So long the shell may take for a handshake's first datagram. It is a millisecond's work, and the introduction waits.
const BEGIN_PATIENCE: Duration = Duration::from_millis(20);
/// A path that no check was answered on is asked for consent after so long, and again and again if need be. The
/// ticket's own checks are under way by then.
const FIRST_CONSENT: Duration = Duration::from_millis(500);

/// What one ticket has of it.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Checks have left by these ways, and the handshake has not gone along yet.
    due: Vec<Way>,
    by_way: BTreeMap<Way, u32>,
    total: u32,
}

impl Starts {
    fn note(&mut self, way: Way) {
        let count = self.by_way.get(&way).copied().unwrap_or_default();
        if count < STARTS_PER_WAY && self.total < MAX_STARTS {
            self.by_way.insert(way, count + 1);
            self.total += 1;
            self.due.push(way);
        }
    }
}

impl Agent {
    /// A check has left by a way: if it is one of the relay's, the handshake may follow.
    pub(crate) fn check_left(&mut self, peer: &NodeId, ticket: TicketId, way: Way) {
        let Some((punch, link)) = self.punches.get(&ticket).zip(self.links.get(peer)) else { return };
        if link.is_open() || !self.is_by_relay(punch, link, way) {
            return;
        }
        if let Some(punch) = self.punches.get_mut(&ticket) {
            punch.starts.note(way);
        }
    }

    /// True for a way on which whatever is sent goes to the server's relay first.
    fn is_by_relay(&self, punch: &Punch, link: &Link, way: Way) -> bool {
        let is_lent = self.is_relay(way.remote) || !self.rendezvous.defences.stand(Defence::OwnRelay);
        punch.is_named(way.remote)
            && match way.leg {
                Leg::Relay(_) => true,
                Leg::Main => is_lent && link.kind_of(way) == PathKind::Relayed,
                Leg::Extra(_) => false,
            }
    }

    /// Lets the handshake go by the ways that checks have left by.
    pub(crate) fn run_starts(&mut self, ticket: TicketId) {
        let Some(punch) = self.punches.get_mut(&ticket) else { return };
        let (peer, rtt, due) = (punch.peer, punch.relayed_trip, std::mem::take(&mut punch.starts.due));
        let is_open = self.links.get(&peer).is_none_or(Link::is_open);
        for way in due.into_iter().filter(|_| !is_open) {
            if matches!(way.leg, Leg::Relay(_)) {
                // Asked for behind the check. If the server has not made it when the datagram comes, that is lost.
                let Some(channel) = self.relays.asked_channel(way) else {
                    self.wait_for_channel(ticket, way);
                    continue;
                };
                self.env.push(Output::Channel { way, channel: Some(channel) });
            }
            if let Some(link) = self.links.get_mut(&peer) {
                link.is_provisional = true;
            }
            let request = self.waiting_request(ticket);
            self.env.push(Output::Provisional { peer, way, rtt, request });
        }
    }

    fn wait_for_channel(&mut self, ticket: TicketId, way: Way) {
        if let Some(punch) = self.punches.get_mut(&ticket) {
            punch.starts.due.push(way);
        }
    }

    /// The application's request that this ticket is to fulfil; the first of several.
    fn waiting_request(&self, ticket: TicketId) -> Option<u32> {
        let mut requests = self.requests.of_ticket(ticket).into_iter();
        requests.find_map(|number| match self.requests.get(number)?.purpose {
            Purpose::Application(request) => Some(request),
            Purpose::Repair(_) | Purpose::Roam(_) | Purpose::Upgrade(_) => None,
        })
    }

    /// Has QUIC's handshake begin with the connect call, if its first datagram is worth sending along with the request.
    /// The request waits for that, which is told by true.
    pub(crate) fn begin_handshake(&mut self, now: Instant, number: u32, request: u32) -> bool {
        let Some(peer) = self.requests.get(number).and_then(|asked| self.likely_relayed_to(asked)) else {
            return false;
        };
        let rtt = self.relayed_trip(None);
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_provisional = true;
        }
        if let Some(asked) = self.requests.get_mut(number) {
            (asked.begun, asked.awaits_handshake) = (Some(peer), true);
        }
        self.env.push(Output::Begin { request, peer, rtt });
        self.timers.set(Timer::Request(number), Some(now + BEGIN_PATIENCE));
        true
    }

    /// Whom a request means, if it is somebody who is here and whom a relay probably reaches first: the NAT of this
    /// node is symmetric or not known yet, UDP does not pass here, or the peer can only be relayed.
    fn likely_relayed_to(&self, asked: &Request) -> Option<NodeId> {
        if !self.control.is_member() || self.relay_access().is_none() {
            return None;
        }
        let is_here = |(id, peer): &(&NodeId, &Announced)| asked.means(id, &peer.name);
        let here = self.present.iter().find(is_here);
        // The directory does not announce everybody; by its id a peer can be meant all the same.
        let unknown = || asked.peer().parse().ok().filter(|id| !asked.waits() && *id != self.id);
        let is_likely = self.is_likely_relayed()
            || self.behavior.is_none()
            || here.is_some_and(|(_, announced)| announced.relayed);
        let peer = here.map(|(id, _)| *id).or_else(unknown)?;
        is_likely.then_some(peer)
    }

    /// The handshake has begun: the request goes, with the handshake's first datagram if there is one.
    pub(crate) fn handshake_begun(&mut self, request: u32, datagram: Option<Vec<u8>>) {
        let Some(number) = self.requests.of_application(request) else { return };
        let asked = self.requests.get_mut(number).filter(|asked| asked.awaits_handshake);
        let Some(asked) = asked else { return };
        asked.handshake = datagram.and_then(|datagram| HandshakeStart::new(datagram).ok());
        self.send_request(number);
    }

    /// A request has ended without a path. What its handshake has left in the shell goes, where no link sees to that.
    pub(crate) fn forget_handshake(&mut self, begun: Option<NodeId>) {
        if let Some(peer) = begun.filter(|peer| !self.links.contains_key(peer)) {
            self.env.push(Output::Path { peer, path: None });
        }
    }

    /// An introduction may bring what the peer begins with.
    pub(crate) fn handshake_came(&mut self, peer: NodeId, introduction: &Introduction) {
        let is_taken = self.relay_access().is_some() && !introduction.probe;
        let start = introduction.handshake.as_ref().filter(|_| is_taken);
        let link = self.links.get_mut(&peer).filter(|link| !link.is_open());
        if let Some((start, link)) = start.zip(link) {
            link.is_provisional = true;
            self.env.push(Output::Handshake { peer, datagram: start.as_bytes().to_vec() });
        }
    }

    /// QUIC's handshake is complete, and no check of this node's may have been answered yet: the way by which the
    /// peer's check came, and the handshake went, is the path. It passes the server's relay, as all such ways do.
    pub(crate) fn handshake_done(&mut self, now: Instant, peer: NodeId) {
        let Some((way, ticket)) = self.way_of_handshake(&peer) else { return };
        let Some(punch) = self.punches.get(&ticket) else { return };
        let elapsed = now.saturating_duration_since(punch.since);
        let answer = Confirmation {
            ticket,
            way,
            is_ready: true,
            rtt: punch.relayed_trip,
            keepalive: FIRST_CONSENT,
            random: self.env.rng.next_u32(),
        };
        let Some(link) = self.links.get_mut(&peer) else { return };
        let change = link.confirm(now, &answer, elapsed);
        self.tell_path(now, peer, change);
        self.finish_requests(peer);
        self.set_link_timer(peer);
    }

    /// By which way a handshake has gone, and its peer's keyed checks have come since; the newest of several.
    fn way_of_handshake(&self, peer: &NodeId) -> Option<(Way, TicketId)> {
        let link = self.links.get(peer).filter(|link| !link.is_open())?;
        let went_by = |way: Way| {
            let went = |ticket: &&TicketId| {
                self.punches.get(ticket).is_some_and(|punch| punch.starts.by_way.contains_key(&way))
            };
            link.punches.iter().find(went)
        };
        let mut ready = link.heard().filter(|way| self.carries_data(*way));
        ready.find_map(|way| Some((way, *went_by(way)?)))
    }

    /// What a round trip to a peer takes by way of the server.
    pub(crate) fn relayed_trip(&self, peer_rtt_ms: Option<u32>) -> Duration {
        let own = self.membership.as_ref().and_then(|membership| membership.round_trip);
        let own = own.unwrap_or(UNKNOWN_TRIP);
        own + peer_rtt_ms.map_or(own, |ms| Duration::from_millis(ms.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_few() {
        let mut starts = Starts::default();
        for n in 0..100_u16 {
            for _ in 0..10 {
                starts.note(Way::main(([20, 0, 0, 1], 50_000 + n / 10).into()));
            }
        }
        assert_eq!(starts.due.len(), MAX_STARTS as usize);
        assert!(starts.by_way.values().all(|count| *count <= STARTS_PER_WAY));
    }
}
