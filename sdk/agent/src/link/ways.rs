//! The ways of a link, for whoever doubts them all at once ([`crate::roam`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use meetpoint_proto::TicketId;

use super::Link;

impl Link {
    /// The way in use.
    pub(crate) fn current(&self) -> Option<SocketAddr> {
        self.current
    }

    /// The verified ways, and the ticket under which to check them.
    pub(crate) fn ways(&self) -> Option<(BTreeSet<SocketAddr>, TicketId)> {
        Some((self.routes.keys().copied().collect(), self.proven?))
    }
}
