//! Can two nodes meet directly by sending to observed addresses at the same time and learning the
//! peer's real source? Told from the two gates alone.
//!
//! A side with an endpoint-independent mapping sends from where the server observed it. A symmetric
//! side sends from elsewhere, so the peer must learn where from a packet that its filter lets in.
//! Two sides that both choose a new port for each port they send to chase each other for ever.
//! Guessing ports is not part of this stage.

use meetpoint_proto::{Evidence, Filtering, Mapping, NatBehavior, NetworkClass};

use super::gate::GateKind;

/// See the module.
#[must_use]
pub fn direct(a: GateKind, b: GateKind) -> bool {
    use Filtering::{AddressAndPortDependent as Strict, EndpointIndependent as Open};
    let fixed = |gate: GateKind| matches!(gate.mapping, Mapping::None | Mapping::EndpointIndependent);
    let chasing = |gate: GateKind| gate.mapping == Mapping::AddressAndPortDependent;
    match (fixed(a), fixed(b)) {
        (true, true) => true,
        (true, false) => a.filtering != Strict,
        (false, true) => b.filtering != Strict,
        (false, false) if chasing(a) && chasing(b) => false,
        (false, false) => {
            (a.filtering == Open && b.filtering != Strict) || (b.filtering == Open && a.filtering != Strict)
        }
    }
}

/// What the server must find: reachable by proof exactly if the filter lets anybody in.
#[must_use]
pub fn class(gate: GateKind) -> (NetworkClass, Evidence) {
    match (gate.filtering, gate.mapping) {
        (Filtering::EndpointIndependent, _) => (NetworkClass::PublicReachable, Evidence::Proven),
        (_, Mapping::None) => (NetworkClass::PublicUndefined, Evidence::Observed),
        (_, _) => (NetworkClass::Private, Evidence::Observed),
    }
}

/// What the node must find.
#[must_use]
pub fn behavior(gate: GateKind) -> NatBehavior {
    NatBehavior { mapping: Some(gate.mapping), filtering: Some(gate.filtering) }
}
