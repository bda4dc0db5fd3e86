//! The kinds of NAT that outcomes are counted by: a closed list.

use meetpoint_broker::TicketSide;
use meetpoint_proto::{Allocator, Filtering, Mapping, NetworkClass};

/// The kinds of both sides. The order says nothing, so each pair is counted in one place.
pub(super) fn pair_of(sides: &[TicketSide; 2]) -> [&'static str; 2] {
    let mut kinds = [kind_of(&sides[0]), kind_of(&sides[1])];
    kinds.sort_unstable();
    kinds
}

/// By what the node was judged and what it says of its NAT.
fn kind_of(side: &TicketSide) -> &'static str {
    if side.class == Some(NetworkClass::Unreachable) {
        return "udp_blocked";
    }
    if side.class.is_some_and(NetworkClass::is_public_and_reachable) {
        return "public";
    }
    let Some(behavior) = side.behavior else { return "unknown" };
    if behavior.udp_blocked {
        return "udp_blocked";
    }
    match (behavior.mapping, behavior.filtering, behavior.allocator) {
        (None, ..) => "unknown",
        (Some(Mapping::None), ..) => "none",
        (Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent), _) => "full_cone",
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent), _) => "address_restricted",
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressAndPortDependent), _) => {
            "port_restricted"
        }
        (Some(Mapping::EndpointIndependent), None, _) => "cone",
        (Some(_), _, Some(Allocator::Sequential { .. })) => "symmetric_sequential",
        (Some(_), _, Some(Allocator::Block { .. })) => "symmetric_block",
        (Some(_), ..) => "symmetric",
    }
}
