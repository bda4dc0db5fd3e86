//! QUIC's handshake beside the first checks of a relayed way.
//!
//! Who is relayed would wait twice: a relayed round trip for the answer to the first check, and another one for QUIC's
//! handshake. So the handshake's first datagram goes along, behind the check and by the same way. What is not verified
//! gets no more than that: a few datagrams a ticket, each as often as a check may be sent, and no application data.
//!
//! Such a datagram goes to the server's relay and nowhere else, whatever the introduction says: by an allocation of this
//! node, or to an address that this very server lends and has named as the peer's. So a peer can't aim it at anybody; and
//! a server that lies makes its own relay send, which it could without the node.
//!
//! Only when is decided here. What counts as a part of the handshake, and how much of it is sent, the shell sees to.

use std::collections::BTreeMap;
use std::time::Duration;

use meetpoint_proto::{NodeId, TicketId};

use crate::agent::Agent;
use crate::api::{Leg, Output, PathKind, Way};
use crate::defence::Defence;
use crate::link::Link;
use crate::punch::Punch;
use crate::requests::Purpose;

/// How often a handshake may begin under one ticket, over all ways: 1,200 bytes each.
const MAX_STARTS: u32 = 4;
/// With so many of the first checks to one place: the packet by which the peer opens it may come a little later than the
/// first.
const STARTS_PER_WAY: u32 = 2;
/// A round trip to the server, where none was measured.
const UNKNOWN_TRIP: Duration = Duration::from_millis(100);

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
        let count = self.by_way.entry(way).or_default();
        if *count < STARTS_PER_WAY && self.total < MAX_STARTS {
            *count += 1;
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
