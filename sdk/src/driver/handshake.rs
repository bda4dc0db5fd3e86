//! QUIC's handshake before there is a path ([`crate::provisional`]): where the agent lets it begin, and go.

use std::time::Duration;

use meetpoint_agent::{Input, Way};
use meetpoint_proto::NodeId;

use super::Driver;
use crate::provisional::Wanted;

impl Driver {
    /// It begins with the connect call; its first datagram is told when there is one.
    pub(super) fn begin(&mut self, request: u32, peer: NodeId, rtt: Duration) {
        let wanted = Wanted { request, to: self.beginnings.clone() };
        let is_new = self.parts.mux.paths().begin(&peer, wanted).unwrap_or_default();
        if !is_new || !self.hand_over(request, peer, rtt) {
            self.feed(Input::Begun { request, datagram: None });
        }
    }

    /// It may go by a way, and begin if it has not yet.
    pub(super) fn provisional(&mut self, peer: NodeId, way: Way, rtt: Duration, request: Option<u32>) {
        if let Err(error) = self.parts.mux.expect(&peer, way) {
            return tracing::debug!(%peer, %error, "the handshake waits for a path");
        }
        if let Some(request) = request {
            self.hand_over(request, peer, rtt);
        }
    }

    /// Begins the handshake of a request that has none yet. False if it is not to be had.
    fn hand_over(&mut self, request: u32, peer: NodeId, rtt: Duration) -> bool {
        let Some(word) = self.early_words.remove(&request) else { return false };
        match self.parts.quic.begin(&peer, rtt) {
            // Whoever has lost interest needs no handshake.
            Ok(begun) => word.send((peer, begun)).is_ok(),
            Err(error) => {
                tracing::debug!(%peer, %error, "the handshake waits for a path");
                false
            }
        }
    }

    /// A peer's has come with its introduction.
    pub(super) fn handshake_came(&self, peer: NodeId, datagram: &[u8]) {
        if !self.parts.admitted.admit(peer) {
            return tracing::warn!(%peer, "too many peers: this one is not admitted");
        }
        if let Err(error) = self.parts.mux.introduced(&peer, datagram) {
            tracing::debug!(%peer, %error, "the peer's handshake waits for a path");
        }
    }
}
