//! How present members meet, by what they last said of it: for the operator, who sees a cluster as a graph.
//!
//! Nothing is decided by it. A member says it once for each introduction; what becomes of the path afterwards is
//! between the two, until they ask to be introduced anew. It is forgotten with either session.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use meetpoint_proto::wire::TicketOutcome;
use meetpoint_proto::{ClusterName, NodeId, TicketId};

use crate::Broker;
use crate::api::{ConnId, Event, Output, PathView};

/// Peers of which a session remembers how they are met: more than any node keeps connections to. Some 30 KB.
const MAX_PATHS: usize = 256;

/// What was said of one session's paths, by the other node. Both sessions of a pair have it.
#[derive(Debug, Default)]
pub(crate) struct PathReports(BTreeMap<NodeId, Report>);

#[derive(Debug, Clone, Copy)]
struct Report {
    at: Instant,
    ticket: TicketId,
    outcome: TicketOutcome,
    rtt: Option<Duration>,
}

impl Report {
    /// The two may see the end of one ticket differently: a path that one of them has is there.
    fn yields_to(&self, newer: &Self) -> bool {
        let rank = |outcome: TicketOutcome| match outcome {
            TicketOutcome::Failed => 0,
            TicketOutcome::Relayed => 1,
            TicketOutcome::Direct { .. } => 2,
        };
        self.ticket != newer.ticket || rank(newer.outcome) > rank(self.outcome)
    }

    fn view(&self, now: Instant, a: NodeId, b: NodeId) -> PathView {
        let ago = now.saturating_duration_since(self.at);
        PathView { nodes: [a.min(b), a.max(b)], outcome: self.outcome, rtt: self.rtt, ago }
    }
}

impl PathReports {
    /// False if more is known already.
    fn note(&mut self, peer: NodeId, report: Report) -> bool {
        if self.0.get(&peer).is_some_and(|known| !known.yields_to(&report)) {
            return false;
        }
        if self.0.len() >= MAX_PATHS
            && !self.0.contains_key(&peer)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, known)| known.at).map(|(peer, _)| *peer)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(peer, report);
        true
    }
}

impl Broker {
    /// One side of a ticket says how the two meet.
    pub(crate) fn note_path(
        &mut self,
        now: Instant,
        both: [ConnId; 2],
        ticket: TicketId,
        (outcome, rtt): (TicketOutcome, Option<Duration>),
    ) {
        let [Some(a), Some(b)] = both.map(|conn| self.session(conn).map(|session| session.node)) else {
            return;
        };
        let report = Report { at: now, ticket, outcome, rtt };
        let mut is_news = false;
        for (conn, peer) in both.into_iter().zip([b, a]) {
            let Some(session) = self.session_mut(conn) else { return };
            is_news |= session.paths.note(peer, report);
        }
        let Some(cluster) = self.session(both[0]).map(|session| session.cluster.clone()) else { return };
        if is_news {
            let event = Event::Path { cluster, path: report.view(now, a, b) };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// How the present members of a cluster meet, in the order of both ids, the lower one first; at most `limit`,
    /// behind `after`.
    #[must_use]
    pub fn paths(
        &self,
        now: Instant,
        cluster: &ClusterName,
        after: Option<[NodeId; 2]>,
        limit: usize,
    ) -> Vec<PathView> {
        let Some(cluster) = self.clusters.get(cluster) else { return Vec::new() };
        let first = after.map_or(Bound::Unbounded, |[first, _]| Bound::Included(first));
        let members = cluster.members.range((first, Bound::Unbounded));
        let pairs =
            members.filter_map(|(a, conn)| Some((*a, self.session(*conn)?))).flat_map(|(a, session)| {
                let behind = match after {
                    Some([first, second]) if first == a => second.max(a),
                    _ => a,
                };
                let peers = session.paths.0.range((Bound::Excluded(behind), Bound::Unbounded));
                peers.map(move |(b, report)| (a, *b, report))
            });
        // What is older than either session is about an earlier one.
        let stands = |(_, b, report): &(NodeId, NodeId, &Report)| {
            let other = cluster.members.get(b).and_then(|conn| self.session(*conn));
            other.is_some_and(|other| other.since <= report.at)
        };
        pairs.filter(stands).take(limit).map(|(a, b, report)| report.view(now, a, b)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test starts its own clock")]
    fn what_is_remembered_is_bounded_and_the_better_word_counts() {
        let start = Instant::now();
        let node = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        let report = |number: u64, ticket: u8, outcome| Report {
            at: start + Duration::from_millis(number),
            ticket: TicketId::from_bytes([ticket; 16]),
            outcome,
            rtt: None,
        };
        let direct = TicketOutcome::Direct { elapsed_ms: 7 };
        let mut paths = PathReports::default();
        assert!(paths.note(node(0), report(0, 1, direct)));
        assert!(!paths.note(node(0), report(1, 1, TicketOutcome::Failed)), "the other side has a path");
        assert!(paths.note(node(0), report(2, 2, TicketOutcome::Failed)), "a later introduction counts");
        assert!(paths.note(node(0), report(3, 2, TicketOutcome::Relayed)));
        for number in 1..MAX_PATHS + 10 {
            assert!(paths.note(node(number), report(number as u64 + 3, 1, direct)));
        }
        assert_eq!(paths.0.len(), MAX_PATHS);
        assert!(!paths.0.contains_key(&node(0)) && paths.0.contains_key(&node(MAX_PATHS)));
    }
}
