//! Which nodes may meet at their relayed addresses: those that the broker introduced.
//!
//! Two nodes of different clusters share a server and must not share a network. So what goes from
//! one relayed address of this server to another, with a node at either end, needs an introduction of
//! the two; permissions alone, which each side gives itself, are not enough. Clients with
//! credentials of the operator's agree by permissions, as everywhere in TURN.
//!
//! A pair holds until the time the broker gave it, and ends with the session of either node.
//! What has run out is never honoured and goes when the next pair comes, so there is no timer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use meetpoint_proto::SessionId as NodeSession;

use crate::holder::Holder;

/// Pairs remembered at most, some 200 bytes each. Three introductions of each of the 20,000 nodes a
/// server holds; who is not among them is introduced anew when it asks.
pub(crate) const MAX_PAIRS: usize = 1 << 16;

/// The pairs.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// Each pair under both of its nodes, so that all of one node's are next to each other.
    until: BTreeMap<(NodeSession, NodeSession), Instant>,
    /// The same by when they end, the lower session first.
    ends: BTreeSet<(Instant, NodeSession, NodeSession)>,
}

impl Pairs {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Lets two nodes meet until then, which may be sooner than was said before.
    pub(crate) fn introduce(&mut self, now: Instant, a: NodeSession, b: NodeSession, until: Instant) {
        self.forget(a, b);
        while let Some((end, first, second)) = self.ends.first().copied() {
            if end > now && self.ends.len() < MAX_PAIRS {
                break;
            }
            self.forget(first, second);
        }
        if a != b && now < until {
            self.until.insert((a, b), until);
            self.until.insert((b, a), until);
            self.ends.insert((until, a.min(b), a.max(b)));
        }
    }

    /// Ends all pairs of a node.
    pub(crate) fn end(&mut self, node: NodeSession) {
        let first = (node, NodeSession::from_bytes([0; NodeSession::LEN]));
        let of_node = self.until.range(first..).take_while(|((of, _), _)| *of == node);
        let others: Vec<_> = of_node.map(|((_, other), _)| *other).collect();
        for other in others {
            self.forget(node, other);
        }
    }

    /// True if what one of them sends may be delivered to the other.
    #[inline]
    pub(crate) fn may_meet(&self, now: Instant, from: Holder, to: Holder) -> bool {
        match (from, to) {
            (Holder::Other, Holder::Other) => true,
            (Holder::Node(from), Holder::Node(to)) => {
                self.until.get(&(from, to)).is_some_and(|until| now < *until)
            }
            (Holder::Node(_), Holder::Other) | (Holder::Other, Holder::Node(_)) => false,
        }
    }

    fn forget(&mut self, a: NodeSession, b: NodeSession) {
        if let Some(until) = self.until.remove(&(a, b)) {
            self.until.remove(&(b, a));
            self.ends.remove(&(until, a.min(b), a.max(b)));
        }
    }
}
