//! QUIC's handshake in three words: who connects sends the first, the peer answers, and then the connection stands;
//! with the third it does so for the peer too.
//!
//! It goes as the real shells let it: with the introduction and with the first checks by relayed ways, by a verified
//! path if that is not enough, and what comes before the check in front of it has been read is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use meetpoint_agent::{Input, Leg, Path, Way};
use meetpoint_proto::NodeId;

use super::relays::is_relayed;
use super::world::World;

const INITIAL: &[u8] = b"\xC0 initial";
const ANSWER: &[u8] = b"\xC0 answer";
const FINISHED: &[u8] = b"\xE0 finished";

/// Of one node, which has one peer.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    has_begun: bool,
    /// The peer's first word has come, with the introduction.
    has_come: bool,
    /// Some word has come from the peer itself.
    is_heard: bool,
    /// Ways by which it may go before they are verified.
    ways: BTreeSet<Way>,
    held: BTreeSet<(Way, &'static [u8])>,
    established: Option<Duration>,
    accepted: Option<Duration>,
    /// How often it was let go by such a way.
    starts: u32,
    peer: Option<NodeId>,
}

/// True for what [`World::quic`] takes.
pub(super) fn is_handshake(payload: &[u8]) -> bool {
    word_of(payload).is_some()
}

fn word_of(payload: &[u8]) -> Option<&'static [u8]> {
    [INITIAL, ANSWER, FINISHED].into_iter().find(|word| payload == *word)
}

impl World {
    /// When a node's connection stood, if it connects and the world speaks QUIC.
    #[must_use]
    pub fn established(&self, node: usize) -> Option<Duration> {
        self.nodes[node].handshake.established
    }

    /// When the connection stood that a node's peer has called for.
    #[must_use]
    pub fn accepted(&self, node: usize) -> Option<Duration> {
        self.nodes[node].handshake.accepted
    }

    /// How often a node let its handshake begin before a way was verified.
    #[must_use]
    pub fn handshake_starts(&self, node: usize) -> u32 {
        self.nodes[node].handshake.starts
    }

    /// A node's application has called, and the first word is to go with the request.
    pub(super) fn handshake_begins(&mut self, node: usize, request: u32, peer: NodeId) {
        let handshake = &mut self.nodes[node].handshake;
        handshake.peer = Some(peer);
        handshake.has_begun |= self.speaks_quic;
        let datagram = self.speaks_quic.then(|| INITIAL.to_vec());
        self.input(node, Input::Begun { request, datagram });
    }

    /// It came with the introduction: it is answered as soon as there is a way.
    pub(super) fn handshake_came(&mut self, node: usize, datagram: &[u8]) {
        if datagram != INITIAL {
            return self.violations.push(format!("node {node} was given {datagram:?} for a handshake"));
        }
        self.nodes[node].handshake.has_come = true;
        for way in self.nodes[node].handshake.ways.clone() {
            self.send_by(node, way, ANSWER);
        }
    }

    pub(super) fn handshake_may_go(&mut self, node: usize, peer: NodeId, way: Way, request: Option<u32>) {
        let is_by_relay = matches!(way.leg, Leg::Relay(_)) || is_relayed(way.remote);
        if !is_by_relay {
            self.violations
                .push(format!("node {node} begins a handshake by {way:?}, which nobody has verified"));
        }
        let handshake = &mut self.nodes[node].handshake;
        handshake.peer = Some(peer);
        handshake.ways.insert(way);
        handshake.starts += 1;
        handshake.has_begun |= request.is_some() && self.speaks_quic;
        let (begins, answers) = (handshake.has_begun && handshake.established.is_none(), handshake.has_come);
        if begins {
            self.send_by(node, way, INITIAL);
        }
        if answers {
            self.send_by(node, way, ANSWER);
        }
    }

    /// The application's call has ended, or the path is another one.
    pub(super) fn handshake_has_path(&mut self, node: usize) {
        let path = self.nodes[node].paths.values().next().copied();
        let handshake = &mut self.nodes[node].handshake;
        let answers = handshake.has_come && !handshake.is_heard;
        let is_wanted =
            self.speaks_quic && handshake.established.is_none() && !self.nodes[node].ended.is_empty();
        let Some(Path { way, .. }) = path else { return };
        if answers {
            self.send_by(node, way, ANSWER);
        }
        if is_wanted {
            self.nodes[node].handshake.has_begun = true;
            self.send_by(node, way, INITIAL);
        }
    }

    pub(super) fn handshake_heard(&mut self, node: usize, way: Way) {
        let handshake = &mut self.nodes[node].handshake;
        if handshake.has_come && handshake.ways.contains(&way) {
            self.send_by(node, way, ANSWER);
        }
        for word in [INITIAL, ANSWER, FINISHED] {
            if self.nodes[node].handshake.held.remove(&(way, word)) {
                self.quic(node, way, word);
            }
        }
    }

    /// A word of the handshake has come by a way.
    pub(super) fn quic(&mut self, node_index: usize, way: Way, payload: &[u8]) {
        let (now, node) = (self.now, &mut self.nodes[node_index]);
        let Some(word) = word_of(payload) else { return };
        let path = node.paths.values().next().map(|path| path.way);
        if !node.hears(way) {
            let is_expected = node.handshake.ways.contains(&way);
            node.handshake.held.extend(is_expected.then_some((way, word)));
            return;
        }
        node.handshake.is_heard = true;
        let by = path.or_else(|| node.handshake.ways.contains(&way).then_some(way));
        let answer = match word {
            INITIAL => ANSWER,
            ANSWER => {
                node.handshake.established.get_or_insert(now);
                FINISHED
            }
            _ => {
                node.handshake.accepted.get_or_insert(now);
                return;
            }
        };
        if let Some(by) = by {
            self.send_by(node_index, by, answer);
        }
        if let Some(peer) = self.nodes[node_index].handshake.peer.filter(|_| word == ANSWER) {
            self.input(node_index, Input::HandshakeDone { peer });
        }
    }
}
