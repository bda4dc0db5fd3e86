//! Which defences stand. Outside of tests all of them do, and asking costs nothing.

/// A defence that a test can switch off, to show the attack it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "attack-tests"), expect(unreachable_pub, reason = "only tests name it"))]
pub enum Defence {
    /// The other end of a peer's introduction has signed its half.
    SignedHalf,
    /// A half of a peer's introduction is used once, and in its time.
    FreshHalf,
    /// One of the two who are introduced by a peer has asked for the other.
    Asked,
    /// A peer's certificate is one of the cluster's, and holds.
    PeerCertificate,
    /// What a peer says it sees of this node has an IP that the server has seen.
    KnownAddress,
    /// A check counts once.
    NewCheck,
    /// So does the answer to one.
    NewAnswer,
    /// What a relay carries comes from that relay's server.
    RelaySource,
    /// A peer can have a node meet others only so often.
    MeetingBudget,
    /// What leaves before a check is answered goes to the server's own relay.
    OwnRelay,
}

meetpoint_proto::defences!(if feature = "attack-tests");
