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

/// The defences of a broker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Defences {
    #[cfg(feature = "attack-tests")]
    pub(crate) off: Option<Defence>,
}

impl Defences {
    #[cfg_attr(not(feature = "attack-tests"), expect(clippy::unused_self, reason = "one signature"))]
    pub(crate) fn stand(self, which: Defence) -> bool {
        #[cfg(feature = "attack-tests")]
        let stands = self.off != Some(which);
        #[cfg(not(feature = "attack-tests"))]
        let stands = {
            let _ = which;
            true
        };
        stands
    }
}
