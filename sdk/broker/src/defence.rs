//! Which defences stand. Outside of tests all of them do, and asking costs nothing.

/// A defence that a test can switch off, to show the attack it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "attack-tests"), expect(unreachable_pub, reason = "only tests name it"))]
pub enum Defence {
    /// Members from one source are counted.
    SourceCap,
    /// A leave counts on the connection that the node has proven itself on.
    OwnLeave,
    /// Who says that a node was met unsolicited is drawn by the broker.
    DrawnWitness,
    /// Who is introduced by a peer shows a certificate of the cluster that holds.
    GuestCertificate,
    /// A half is passed on if its addresses are those of the guest that it is from.
    OwnAddresses,
}

meetpoint_proto::defences!(if feature = "attack-tests");
