//! The router's port: whether one is of use, and what the server is told of it.

use std::net::SocketAddr;

use meetpoint_proto::addr;
use meetpoint_proto::wire::MAX_MAPPED_CANDIDATES;

use crate::agent::Agent;
use crate::api::Output;

impl Agent {
    /// The router leads these to the node now.
    pub(crate) fn mapped(&mut self, addrs: Vec<SocketAddr>) {
        self.mapped = addrs.into_iter().map(addr::unmap).take(MAX_MAPPED_CANDIDATES).collect();
        self.tell_candidates();
    }

    /// A router's port is of use in the open, and to a node that is not there by itself.
    pub(crate) fn review_mapping(&mut self) {
        let Some(reach) = &self.reach else { return };
        let wanted = !reach.private_only && !reach.loopback && self.network.is_behind_nat();
        if wanted != self.wants_mapping {
            self.wants_mapping = wanted;
            self.env.push(Output::MapPort { wanted });
        }
    }
}
