//! Which defences stand. Outside of tests all of them do, and asking costs nothing.

/// A defence that a test can switch off, to show the attack it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "attack-tests"), expect(unreachable_pub, reason = "only tests name it"))]
pub enum Defence {
    /// A nonce is bound to its source, and so proves that its bearer receives there.
    BoundNonce,
    /// A nonce can be checked without having been remembered.
    #[cfg(feature = "attack-tests")]
    StatelessNonce,
    /// Strangers are answered within budgets.
    Budgets,
    /// Peers that are not globally routable are refused.
    PeerRules,
    /// A peer is judged as the address that its form stands for.
    Canonical,
    /// This machine is no peer.
    OwnPorts,
    /// Allocations are counted by user, source and in all.
    Quotas,
    /// Nodes meet at their relayed addresses only if they were introduced.
    Introductions,
    /// A mobility ticket is good only for the user whose allocation it names.
    TicketUser,
    /// A nonce that came with a credential is good for its user's first allocation only.
    HandedOnce,
    /// A source that proved itself has a budget of its own.
    ProvenApart,
}

meetpoint_proto::defences!(if feature = "attack-tests");
