//! Without the feature `rendezvous` a node has no guests.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_proto::NodeId;
use tokio_util::task::TaskTracker;

use crate::meet;
use crate::quic::Accepted;

/// Never made.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) peer: NodeId,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Serving;

impl Serving {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) async fn next(&mut self) -> Served {
        std::future::pending().await
    }

    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(crate) const fn handle_timeout(&mut self, _now: Instant) {}

    pub(crate) fn accept(
        &mut self,
        _now: Instant,
        _terms: meetpoint_agent::Serving,
        (_peer, connection): Accepted,
        _observed: SocketAddr,
        _tasks: &TaskTracker,
    ) {
        meet::turn_away(&connection);
    }

    pub(crate) fn handle(&mut self, _now: Instant, _served: Served, _observed: Option<SocketAddr>) {}

    pub(crate) const fn end(&mut self) {}
}
