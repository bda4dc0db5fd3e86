//! QUIC's handshake in three words: who connects sends the first, the peer answers, and then the connection stands.
//!
//! It goes as the real shells let it: with the first checks by relayed ways, by a verified path if that is not enough, and
//! what comes before the check in front of it has been read is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use meetpoint_agent::{Leg, Path, Way};

use super::relays::is_relayed;
use super::world::World;

const INITIAL: &[u8] = b"\xC0 initial";
const ANSWER: &[u8] = b"\xC0 answer";

/// Of one node, which has one peer.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    has_begun: bool,
    /// Ways by which it may go before they are verified.
    ways: BTreeSet<Way>,
    held: BTreeSet<Way>,
    established: Option<Duration>,
    /// How often it was let go by such a way.
    starts: u32,
}

/// True for what [`World::quic`] takes.
pub(super) fn is_handshake(payload: &[u8]) -> bool {
    payload == INITIAL || payload == ANSWER
}

impl World {
    /// When a node's connection stood, if it connects and the world speaks QUIC.
    #[must_use]
    pub fn established(&self, node: usize) -> Option<Duration> {
        self.nodes[node].handshake.established
    }

    /// How often a node let its handshake begin before a way was verified.
    #[must_use]
    pub fn handshake_starts(&self, node: usize) -> u32 {
        self.nodes[node].handshake.starts
    }

    pub(super) fn handshake_may_go(&mut self, node: usize, way: Way, request: Option<u32>) {
        let is_by_relay = matches!(way.leg, Leg::Relay(_)) || is_relayed(way.remote);
        if !is_by_relay {
            self.violations
                .push(format!("node {node} begins a handshake by {way:?}, which nobody has verified"));
        }
        let handshake = &mut self.nodes[node].handshake;
        handshake.ways.insert(way);
        handshake.starts += 1;
        handshake.has_begun |= request.is_some() && self.speaks_quic;
        if handshake.has_begun && handshake.established.is_none() {
            self.send_by(node, way, INITIAL);
        }
    }

    /// The application's call has ended, or the path is another one.
    pub(super) fn handshake_has_path(&mut self, node: usize) {
        let path = self.nodes[node].paths.values().next().copied();
        let handshake = &mut self.nodes[node].handshake;
        let is_wanted =
            self.speaks_quic && handshake.established.is_none() && !self.nodes[node].ended.is_empty();
        if let Some(Path { way, .. }) = path.filter(|_| is_wanted) {
            self.nodes[node].handshake.has_begun = true;
            self.send_by(node, way, INITIAL);
        }
    }

    pub(super) fn handshake_heard(&mut self, node: usize, way: Way) {
        if self.nodes[node].handshake.held.remove(&way) {
            self.quic(node, way, INITIAL);
        }
    }

    /// A word of the handshake has come by a way.
    pub(super) fn quic(&mut self, node: usize, way: Way, word: &[u8]) {
        let (now, node_index) = (self.now, node);
        let node = &mut self.nodes[node];
        let path = node.paths.values().next().map(|path| path.way);
        if !node.hears(way) {
            let is_expected = word == INITIAL && node.handshake.ways.contains(&way);
            node.handshake.held.extend(is_expected.then_some(way));
        } else if word == ANSWER {
            node.handshake.established.get_or_insert(now);
        } else if let Some(by) = path.or_else(|| node.handshake.ways.contains(&way).then_some(way)) {
            self.send_by(node_index, by, ANSWER);
        }
    }
}
