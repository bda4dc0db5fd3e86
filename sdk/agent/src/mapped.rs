//! The router's port: whether one is of use, what the server is told of it, and what it tells of the NATs.

use std::net::SocketAddr;

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::wire::MAX_MAPPED_CANDIDATES;

use crate::agent::Agent;
use crate::api::Output;
use crate::observe::Observer;

impl Agent {
    /// The router leads these to the node now.
    pub(crate) fn mapped(&mut self, addrs: Vec<SocketAddr>) {
        self.mapped = addrs.into_iter().map(addr::unmap).take(MAX_MAPPED_CANDIDATES).collect();
        self.tell_candidates();
        self.review_nats();
    }

    /// A router that maps a port says where: if that is where the server sees the node, there is no other NAT behind
    /// it, and if it is no address of the internet, there is.
    pub(crate) fn review_nats(&mut self) {
        let observed = self.observers.get(&false).and_then(Observer::mapped).map(|mapped| mapped.ip());
        let (Some(observed), Some(router)) = (observed, self.mapped.first().map(SocketAddr::ip)) else {
            return;
        };
        let is_double = match addr::classify(router) {
            AddressClass::Public => (router == observed).then_some(false),
            AddressClass::Private => Some(true),
            AddressClass::Loopback | AddressClass::Special => None,
        };
        if is_double.is_some() && is_double != self.env.double_nat {
            self.env.double_nat = is_double;
            if let Some(behavior) = &mut self.behavior {
                behavior.double_nat = is_double;
                self.tell_behavior();
            }
        }
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
