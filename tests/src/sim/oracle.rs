//! Can two nodes meet directly, and by what art? Told from the two gates alone.
//!
//! A side with an endpoint-independent mapping sends from where the server observed it. A symmetric
//! side sends from elsewhere, so the peer must learn where from a packet that its filter lets in.
//! Two sides that both choose a new port for each port they send to chase each other for ever,
//! unless their choice can be foreseen, or is small enough for many tries to hit.

use meetpoint_proto::{Evidence, Filtering, Mapping, NetworkClass};

use super::gate::{GateKind, Ports};

/// How two nodes can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// By sending to observed addresses, for certain.
    Direct,
    /// By foreseeing which ports come next, or of which few.
    Predictable,
    /// By many sockets on one side and many guesses on the other, almost certainly.
    Birthday,
    /// By many flows on both sides within small blocks of ports, likely.
    Block,
    /// Not worth trying: of many flows within blocks of ports most get no port at all.
    UsedUp,
    /// Perhaps, by luck that nobody promises.
    Unclear,
    /// Not directly.
    Relay,
}

/// See the module.
#[must_use]
pub fn verdict(a: GateKind, b: GateKind) -> Verdict {
    use Ports::{Block, Random, Sequential};
    if direct(a, b) {
        return Verdict::Direct;
    }
    let few = |ports: Ports| matches!(ports, Sequential(_) | Block { .. });
    match (is_fixed(a), is_fixed(b)) {
        (true, _) | (_, true) => match if is_fixed(a) { b.ports } else { a.ports } {
            Sequential(_) | Block { .. } => Verdict::Predictable,
            Random => Verdict::Birthday,
            Ports::Preserved | Ports::Rewritten => Verdict::Unclear,
        },
        (false, false) => match (a.ports, b.ports) {
            (Sequential(_), Sequential(_)) => Verdict::Predictable,
            (Block { reused: false, .. }, other) | (other, Block { reused: false, .. }) if few(other) => {
                Verdict::UsedUp
            }
            (one, other) if few(one) && few(other) => Verdict::Block,
            (Random, _) | (_, Random) => Verdict::Relay,
            _ => Verdict::Unclear,
        },
    }
}

/// Meet by sending to observed addresses at the same time and learning the peer's real source.
#[must_use]
pub fn direct(a: GateKind, b: GateKind) -> bool {
    use Filtering::{AddressAndPortDependent as Strict, EndpointIndependent as Open};
    let chasing = |gate: GateKind| gate.mapping == Mapping::AddressAndPortDependent;
    match (is_fixed(a), is_fixed(b)) {
        (true, true) => true,
        (true, false) => a.filtering != Strict,
        (false, true) => b.filtering != Strict,
        (false, false) if chasing(a) && chasing(b) => false,
        (false, false) => {
            (a.filtering == Open && b.filtering != Strict) || (b.filtering == Open && a.filtering != Strict)
        }
    }
}

fn is_fixed(gate: GateKind) -> bool {
    matches!(gate.mapping, Mapping::None | Mapping::EndpointIndependent)
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
