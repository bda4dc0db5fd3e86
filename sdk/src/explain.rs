//! Why this node meets a peer as it does, from what it knows itself.
//!
//! The server knows both sides and says more (`meetpoint explain`); the sentence is made by the same function.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use meetpoint_proto::NodeId;
use meetpoint_proto::explain::{Attempt, Evidence, Outcome, Party, Way, sentence};

use crate::node::{Node, PeerRef};
use crate::shared::Shared;

/// Connects kept of a peer.
const KEPT: usize = 4;
/// Peers remembered; beyond it the one whose last connect is oldest is forgotten.
const MAX_PEERS: usize = 1_024;

/// What became of the newest connects to each peer.
#[derive(Debug, Default)]
pub(crate) struct Meetings {
    /// The newest first.
    peers: BTreeMap<NodeId, VecDeque<(Instant, Outcome)>>,
}

impl Meetings {
    pub(crate) fn note(&mut self, now: Instant, peer: NodeId, outcome: Outcome) {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let last = |list: &VecDeque<(Instant, Outcome)>| list.front().map(|(at, _)| *at);
            let oldest = self.peers.iter().min_by_key(|(_, list)| last(list)).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.peers.remove(&oldest));
        }
        let list = self.peers.entry(peer).or_default();
        list.truncate(KEPT - 1);
        list.push_front((now, outcome));
    }

    fn of(&self, now: Instant, peer: &NodeId) -> Vec<Attempt> {
        let known = self.peers.get(peer).into_iter().flatten();
        let attempt = |(at, outcome): &(Instant, Outcome)| {
            let ago = now.saturating_duration_since(*at);
            Attempt { ago_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX), outcome: *outcome }
        };
        known.map(attempt).collect()
    }
}

impl Node {
    /// Why this node meets a peer directly, or why it does not, in a sentence for people: what is known of both
    /// networks, what became of the last connects, and the path that is in use. A peer's own findings about its
    /// NAT are the server's to know: `meetpoint explain` has them too.
    #[must_use]
    pub fn explain(&self, peer: impl Into<PeerRef>) -> String {
        let PeerRef(word) = peer.into();
        explain(self.name(), self.shared(), &word, Instant::now())
    }
}

fn explain(name: &str, shared: &Shared, word: &str, now: Instant) -> String {
    let found = shared.find_peer(word);
    let id = found.as_ref().map(|peer| peer.id).or_else(|| word.parse().ok());
    let own = Party {
        name,
        present: shared.network().is_some(),
        class: shared.classification().map(|found| found.class),
        behavior: shared.behavior(),
    };
    let peer = Party {
        name: found.as_ref().map_or(word, |peer| &peer.name),
        present: found.is_some(),
        class: found.as_ref().and_then(|peer| peer.class),
        behavior: None,
    };
    let attempts = id.map(|id| shared.with_meetings(|meetings| meetings.of(now, &id))).unwrap_or_default();
    let way = id.and_then(|id| shared.path(&id)).map(|path| {
        let path = *path.borrow();
        let rtt_ms = u64::try_from(path.rtt.as_millis()).unwrap_or(u64::MAX);
        Way { kind: path.kind.as_str(), rtt_ms }
    });
    sentence(&Evidence { parties: [own, peer], attempts: &attempts, way })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meetpoint_proto::NetworkClass;

    use super::*;
    use crate::event::Peer;

    fn id(number: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (start, mut meetings) = (Instant::now(), Meetings::default());
        for number in 0..=u16::try_from(MAX_PEERS).unwrap() {
            for _ in 0..2 * KEPT {
                let now = start + Duration::from_secs(number.into());
                meetings.note(now, id(number), Outcome::Failed);
            }
        }
        let end = start + Duration::from_secs(MAX_PEERS as u64);
        assert_eq!(meetings.peers.len(), MAX_PEERS);
        assert_eq!((meetings.of(end, &id(0)).len(), meetings.of(end, &id(1)).len()), (0, KEPT));
        assert_eq!(meetings.of(end, &id(1))[0].ago_ms, 1_000 * (MAX_PEERS as u64 - 1));
    }

    #[test]
    fn a_node_says_what_it_knows() {
        let (shared, _) = Shared::new();
        let now = Instant::now();
        let told = |word: &str| explain("alice", &shared, word, now);
        let behavior = meetpoint_proto::NatBehavior {
            mapping: Some(meetpoint_proto::Mapping::EndpointIndependent),
            filtering: Some(meetpoint_proto::Filtering::AddressAndPortDependent),
            ..meetpoint_proto::NatBehavior::default()
        };
        shared.publish(crate::Event::Behavior(behavior));
        let class = Some(NetworkClass::PublicReachable);
        let peer = Peer { id: id(7), name: "bob".to_owned(), class, relayed: false };
        shared.publish(crate::Event::PeerJoined(peer));
        let failed = Outcome::Failed;
        shared.with_meetings(|meetings| meetings.note(now, id(7), failed));
        let text = "alice: a port-restricted NAT, not present; bob: reachable by everybody; an introduction 0 ms ago found \
                    no direct path: their NATs allow one, so a firewall between them or lost packets keep it away";
        assert_eq!(told("bob"), text);
        assert_eq!(told(&id(7).to_string()), text);
        let stranger = "carol: an unknown NAT, not present; they were not introduced lately";
        assert!(told("carol").ends_with(stranger), "{}", told("carol"));
    }
}
