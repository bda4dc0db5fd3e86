//! One allocation in the place of another, without a gap.
//!
//! An allocation belongs to the session that it was made in: to the server each session of a node is another user,
//! whose Refresh is refused (RFC 8656, section 8.2: 441), and nodes are introduced to each other by their sessions. So
//! once a node has joined anew, whoever has a relayed address of the same server no longer meets it at its old one, and
//! the allocation ends with its old credential at the latest. By the same socket there can't be a second one before the
//! first has ended (section 7.2: 437).
//!
//! An old allocation that no link uses is ended, and another is made by the same socket. Where links use it, a second
//! one is made by a stream. The peers are introduced anew and meet the node there as well. When no link depends on the
//! old one any more, this side sends by others and answers no checks by it, so that a peer that is introduced once more
//! leaves it too; what still comes by it is taken until it is ended. What stands on a stream only because the socket
//! was taken moves back to it in the same manner.

use std::time::{Duration, Instant};

use meetpoint_proto::NodeId;

use super::{Client, Udp};
use crate::agent::Agent;
use crate::api::{AllocationId, Leg, Socket};
use crate::link::Link;

/// Between two looks at what has become of a replacement.
const LOOK: Duration = Duration::from_millis(200);
/// The same where none could be had: no stream leads to the server, or it has no room.
const LOOK_RARELY: Duration = Duration::from_secs(10);
/// Before peers that did not meet the node at its new addresses are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Once they were asked for, they doubt all ways to the node for a third of a second, and begin no second doubt
/// meanwhile: before that is over, silence would tell them nothing.
const DOUBTED: Duration = Duration::from_secs(1);
/// How long the old one takes what comes after the peers were asked to leave it: an introduction, and the third of a
/// second after which a way that is in doubt is given up.
const GRACE: Duration = Duration::from_secs(3);

impl Agent {
    /// An allocation of the present session, or one that is being made.
    pub(super) fn has_relay(&self) -> bool {
        let is_its = |client: &Client| !client.is_ending() && !self.is_outdated(client);
        !self.relays.opening.is_empty() || self.relays.clients.values().any(is_its)
    }

    /// The main socket has an allocation, so it can't have a second one.
    pub(super) fn is_socket_taken(&self) -> bool {
        let is_there = |client: &Client| client.access().socket == Socket::Main && !client.is_ending();
        self.relays.clients.values().any(is_there)
    }

    /// The main socket has one of an earlier session, in whose place a stream is to carry another.
    pub(super) fn is_socket_replaced(&self) -> bool {
        let is_old = |client: &Client| client.access().socket == Socket::Main && self.is_outdated(client);
        self.relays.clients.values().any(|client| client.is_granted() && is_old(client))
    }

    /// It was made in a session that is over.
    fn is_outdated(&self, client: &Client) -> bool {
        self.relay_access().is_some_and(|access| !client.is_of(&access.username))
    }

    /// A stream carries it, and need not.
    fn is_substitute(&self, client: &Client) -> bool {
        matches!(client.access().socket, Socket::Stream(_)) && self.relays.udp == Udp::Works
    }

    /// Allocations in whose place there is to be another.
    pub(super) fn outgoing(&self) -> Vec<AllocationId> {
        let is_good = |client: &Client| {
            client.access().socket == Socket::Main && client.is_granted() && !self.is_outdated(client)
        };
        let has_better = self.relays.clients.values().any(is_good);
        let alive = self.relays.clients.values().filter(|client| !client.is_ending());
        let outgoing =
            alive.filter(|client| self.is_outdated(client) || (has_better && self.is_substitute(client)));
        outgoing.map(|client| client.id).collect()
    }

    /// Goes on with what is to be replaced.
    pub(crate) fn replace_relays(&mut self, now: Instant) {
        let outgoing = self.outgoing();
        let stays = |client: &Client| client.is_granted() && !outgoing.contains(&client.id);
        let has_other = self.relays.clients.values().any(stays);
        for id in outgoing {
            if self.is_left(now, id, has_other) {
                self.end_relay(now, id);
            }
        }
        let could_be_better = !self.is_socket_taken()
            && self.relays.clients.values().any(|client| client.is_granted() && self.is_substitute(client));
        let is_allowed = self.relays.retry.is_none_or(|at| at <= now);
        if self.needs_relay() && is_allowed && could_be_better {
            self.allocate(now);
        } else if self.needs_relay() && !self.has_relay() {
            self.want_relay(now);
        }
        let is_over = self.outgoing().is_empty() && !could_be_better;
        let look = if has_other { LOOK } else { LOOK_RARELY };
        self.relays.replace_at = (!is_over).then(|| now + look);
        self.set_relay_timer();
    }

    /// True if nobody needs it any more; else does what makes that so.
    fn is_left(&mut self, now: Instant, id: AllocationId, has_other: bool) -> bool {
        if let Some(&until) = self.relays.retiring.get(&id) {
            return until <= now;
        }
        let users = self.peers_with(|link| link.uses_leg(id));
        if users.is_empty() || !has_other {
            return users.is_empty();
        }
        let dependent = self.peers_with(|link| link.depends_on(id));
        let asked = self.relays.asked_at;
        if dependent.is_empty() {
            if asked.is_some_and(|at| now < at + DOUBTED) {
                return false;
            }
            self.relays.retiring.insert(id, now + GRACE);
            self.give_up(now, |link| link.leg_lost(id));
            users.into_iter().for_each(|peer| self.ask_anew(now, peer));
        } else if asked.is_none_or(|at| now >= at + ASK_AGAIN) {
            self.relays.asked_at = Some(now);
            dependent.into_iter().for_each(|peer| self.ask_anew(now, peer));
        }
        false
    }

    fn peers_with(&self, is_so: impl Fn(&Link) -> bool) -> Vec<NodeId> {
        self.links.iter().filter(|(_, link)| is_so(link)).map(|(peer, _)| *peer).collect()
    }

    fn end_relay(&mut self, now: Instant, id: AllocationId) {
        if let Some(client) = self.relays.clients.get_mut(&id) {
            client.end(&mut self.env, now);
        }
        self.relays.retiring.remove(&id);
        self.leg_lost(now, id);
        self.relay_news(now);
        self.tell_candidates();
    }

    /// Nobody is to be met by this leg any more.
    pub(crate) fn is_retiring(&self, leg: Leg) -> bool {
        matches!(leg, Leg::Relay(id) if self.relays.retiring.contains_key(&id))
    }
}
