//! What became of the newest introductions of each pair, for those who ask why two nodes do not meet.
//!
//! It is evidence for people: nothing is decided by it, and all of it is what nodes said. In memory only, of
//! fixed size, and forgotten after an hour.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use meetpoint_proto::wire::{CandidateKind, TicketOutcome};
use meetpoint_proto::{ClusterName, NatBehavior, NetworkClass, NodeId, TicketId};

use crate::Broker;
use crate::api::{ConnId, PairAttempt, TicketSide};
use crate::introduce::candidates;

/// Introductions kept of a pair: the first one and its repairs.
const ATTEMPTS: usize = 4;
/// Pairs remembered, those introduced last. Some 5 MB.
const MAX_PAIRS: usize = 4_096;
/// What is older explains nothing any more: networks have changed.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// Both ids, the lower one first.
type Key = (ClusterName, NodeId, NodeId);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    records: BTreeMap<Key, Record>,
    /// In the order of their last introductions.
    order: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Record {
    last: Instant,
    /// The newest first.
    attempts: VecDeque<Attempt>,
}

/// One side of an introduction, when it began.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) node: NodeId,
    pub(crate) class: Option<NetworkClass>,
    pub(crate) behavior: Option<NatBehavior>,
    pub(crate) offered: Vec<CandidateKind>,
}

#[derive(Debug)]
struct Attempt {
    ticket: TicketId,
    at: Instant,
    /// The one that asked first.
    sides: [Side; 2],
    said: [Option<TicketOutcome>; 2],
    over: bool,
}

fn key(cluster: &ClusterName, a: NodeId, b: NodeId) -> Key {
    (cluster.clone(), a.min(b), a.max(b))
}

impl Pairs {
    fn began(&mut self, now: Instant, cluster: &ClusterName, ticket: TicketId, sides: [Side; 2]) {
        let key = key(cluster, sides[0].node, sides[1].node);
        let record = self.records.remove(&key);
        let mut record = record.unwrap_or_else(|| Record { last: now, attempts: VecDeque::new() });
        self.order.remove(&(record.last, key.clone()));
        record.last = now;
        record.attempts.truncate(ATTEMPTS - 1);
        record.attempts.push_front(Attempt { ticket, at: now, sides, said: [None; 2], over: false });
        while let Some((oldest, _)) = self.order.first()
            && (self.records.len() >= MAX_PAIRS || *oldest + MEMORY <= now)
            && let Some((_, forgotten)) = self.order.pop_first()
        {
            self.records.remove(&forgotten);
        }
        self.order.insert((now, key.clone()));
        self.records.insert(key, record);
    }

    fn attempt(
        &mut self,
        cluster: &ClusterName,
        nodes: [NodeId; 2],
        ticket: TicketId,
    ) -> Option<&mut Attempt> {
        let record = self.records.get_mut(&key(cluster, nodes[0], nodes[1]))?;
        record.attempts.iter_mut().find(|attempt| attempt.ticket == ticket)
    }

    /// A side says how its ticket ended.
    pub(crate) fn said(
        &mut self,
        cluster: &ClusterName,
        nodes: [NodeId; 2],
        ticket: TicketId,
        (side, outcome): (usize, TicketOutcome),
    ) {
        if let Some(attempt) = self.attempt(cluster, nodes, ticket)
            && let Some(said) = attempt.said.get_mut(side)
        {
            *said = Some(outcome);
        }
    }

    /// The ticket is over. What is known of its sides; nothing if it is forgotten by now.
    pub(crate) fn ended(
        &mut self,
        cluster: &ClusterName,
        nodes: [NodeId; 2],
        ticket: TicketId,
    ) -> [TicketSide; 2] {
        let Some(attempt) = self.attempt(cluster, nodes, ticket) else { return Default::default() };
        attempt.over = true;
        let side = |Side { class, behavior, .. }: &Side, said| TicketSide {
            class: *class,
            behavior: *behavior,
            said,
        };
        [side(&attempt.sides[0], attempt.said[0]), side(&attempt.sides[1], attempt.said[1])]
    }
}

impl Broker {
    /// The last introductions of two nodes, the newest first.
    #[must_use]
    pub fn pair(&self, now: Instant, cluster: &ClusterName, a: NodeId, b: NodeId) -> Vec<PairAttempt> {
        let attempts = self.pairs.records.get(&key(cluster, a, b)).into_iter();
        let recent = attempts.flat_map(|record| &record.attempts).filter(|attempt| now < attempt.at + MEMORY);
        recent.map(|attempt| attempt.view(now)).collect()
    }

    /// Notes that two nodes are being introduced.
    pub(crate) fn note_pair(&mut self, now: Instant, [asker, target]: [ConnId; 2], ticket: TicketId) {
        let (Some(asker), Some(target)) = (self.session(asker), self.session(target)) else { return };
        let Some(cluster) = self.clusters.get(&asker.cluster) else { return };
        let effective = cluster.config.effective;
        let sides = [(asker, target), (target, asker)].map(|(of, to)| Side {
            node: of.node,
            class: of.class.map(|found| found.class),
            behavior: of.behavior,
            offered: candidates(effective, of, to).iter().map(|candidate| candidate.kind).collect(),
        });
        let cluster = asker.cluster.clone();
        self.pairs.began(now, &cluster, ticket, sides);
    }
}

impl Attempt {
    fn view(&self, now: Instant) -> PairAttempt {
        let [asker, target] = &self.sides;
        PairAttempt {
            ago: now.saturating_duration_since(self.at),
            nodes: [asker.node, target.node],
            classes: [asker.class, target.class],
            behaviors: [asker.behavior, target.behavior],
            offered: [asker.offered.clone(), target.offered.clone()],
            said: self.said,
            over: self.over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn sides(a: usize, b: usize) -> [Side; 2] {
        [a, b].map(|n| Side { node: node(n), class: None, behavior: None, offered: Vec::new() })
    }

    #[test]
    #[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts its own clock")]
    fn what_is_remembered_is_bounded() {
        let (start, cluster) = (Instant::now(), "default".parse::<ClusterName>().unwrap());
        let mut pairs = Pairs::default();
        for number in 0..MAX_PAIRS + 10 {
            for attempt in 0..2 * ATTEMPTS {
                let ticket = TicketId::from_bytes([u8::try_from(attempt).unwrap(); 16]);
                let now = start + Duration::from_millis(number as u64);
                // Either may ask.
                let sides = if attempt % 2 == 0 { sides(0, number + 1) } else { sides(number + 1, 0) };
                pairs.began(now, &cluster, ticket, sides);
            }
        }
        assert_eq!((pairs.records.len(), pairs.order.len()), (MAX_PAIRS, MAX_PAIRS));
        assert!(pairs.records.values().all(|record| record.attempts.len() == ATTEMPTS));
        assert!(!pairs.records.contains_key(&key(&cluster, node(0), node(1))), "the oldest are forgotten");
        pairs.began(start + MEMORY * 2, &cluster, TicketId::from_bytes([9; 16]), sides(1, 2));
        assert_eq!((pairs.records.len(), pairs.order.len()), (1, 1));
    }
}
