//! Which defences of the seeds and of the registry stand. Outside of tests all of them do, and asking costs nothing.

/// A defence that a test can switch off, to show the attack it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defence {
    /// What a seed says of itself changes no entry but its own.
    Owner,
    /// A seed's host is asked at most so often.
    Pace,
    /// A seed is asked only at addresses that befit its cluster, and one that named itself only where
    /// its message came from.
    Addresses,
    /// Whoever does not show a seed's key looks the same, whatever he does instead.
    Silence,
    /// A write is answered when it is on the disk, and refused when the disk does not take it.
    Durable,
}

meetpoint_proto::defences!(if test);
