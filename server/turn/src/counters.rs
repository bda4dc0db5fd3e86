//! What happened, as plain numbers that only grow. The shell turns them into metrics.

/// All counters of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams given to the server.
    pub datagrams_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Datagrams the server gave to send.
    pub datagrams_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Good answers.
    pub binding: BindingCounters,
    /// Error answers by code.
    pub errors: ErrorCounters,
    /// Datagrams that got no answer, by reason.
    pub dropped: DropCounters,
    /// Dial-backs.
    pub dial_back: DialBackCounters,
}

/// Success responses to Binding requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BindingCounters {
    /// To requests without credentials.
    pub anonymous: u64,
    /// To requests whose credentials were good.
    pub authenticated: u64,
    /// Of both: sent from another listener or to another port (RFC 5780).
    pub redirected: u64,
    /// Of both: sent without the addresses of RFC 5780 because the budget was spent.
    pub trimmed: u64,
}

/// Error responses by code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorCounters {
    /// 400 Bad Request.
    pub bad_request: u64,
    /// 401 Unauthenticated.
    pub unauthenticated: u64,
    /// 420 Unknown Attribute.
    pub unknown_attribute: u64,
    /// 438 Stale Nonce.
    pub stale_nonce: u64,
}

/// Datagrams without an answer, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropCounters {
    /// Not STUN.
    pub not_stun: u64,
    /// STUN with wrong lengths or order.
    pub malformed: u64,
    /// The FINGERPRINT was wrong.
    pub fingerprint: u64,
    /// An indication: it asks for nothing.
    pub indication: u64,
    /// A response: the server asked nothing.
    pub response: u64,
    /// A method the server does not have.
    pub unsupported_method: u64,
    /// The source is no single host, or has no port.
    pub unusable_source: u64,
    /// The listener does not exist.
    pub unknown_listener: u64,
    /// The source's budget was spent.
    pub source_budget: u64,
    /// The budget of answers longer than their question was spent.
    pub amplified_budget: u64,
    /// The budget of answers that go elsewhere was spent.
    pub redirected_budget: u64,
    /// Credentials cannot be checked before the wall time is known.
    pub no_wall_time: u64,
    /// The shell did not take the outputs away.
    pub outputs_full: u64,
}

/// Dial-backs, and their probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialBackCounters {
    /// Dial-backs begun.
    pub started: u64,
    /// Probes sent; up to three for each dial-back.
    pub probes: u64,
    /// Dial-backs for which there is no alternate address.
    pub impossible: u64,
    /// Dial-backs refused: the target is being probed, is no single host, or too many run.
    pub refused: u64,
}
