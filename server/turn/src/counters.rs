//! What happened, as plain numbers that only grow. The shell turns them into metrics.

use crate::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};
use crate::relay::{Quota, Spent};

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
    /// The same by what was asked for.
    pub errors_by_method: MethodErrors,
    /// Datagrams that got no answer, by reason.
    pub dropped: DropCounters,
    /// Dial-backs.
    pub dial_back: DialBackCounters,
    /// Relaying.
    pub relay: RelayCounters,
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
    /// 403 Forbidden.
    pub forbidden: u64,
    /// 405 Mobility Forbidden.
    pub mobility_forbidden: u64,
    /// 437 Allocation Mismatch.
    pub allocation_mismatch: u64,
    /// 438 Stale Nonce.
    pub stale_nonce: u64,
    /// 440 Address Family not Supported.
    pub address_family_not_supported: u64,
    /// 441 Wrong Credentials.
    pub wrong_credentials: u64,
    /// 442 Unsupported Transport Protocol.
    pub unsupported_transport: u64,
    /// 443 Peer Address Family Mismatch.
    pub peer_family_mismatch: u64,
    /// 486 Allocation Quota Reached.
    pub allocation_quota_reached: u64,
    /// 508 Insufficient Capacity.
    pub insufficient_capacity: u64,
}

/// Error responses by method and code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodErrors {
    /// To Binding requests.
    pub binding: ErrorCounters,
    /// To Allocate requests.
    pub allocate: ErrorCounters,
    /// To Refresh requests.
    pub refresh: ErrorCounters,
    /// To CreatePermission requests.
    pub create_permission: ErrorCounters,
    /// To ChannelBind requests.
    pub channel_bind: ErrorCounters,
}

impl MethodErrors {
    /// Those to a method that is answered.
    pub(crate) const fn of(&mut self, method: u16) -> &mut ErrorCounters {
        match method {
            ALLOCATE => &mut self.allocate,
            REFRESH => &mut self.refresh,
            CREATE_PERMISSION => &mut self.create_permission,
            CHANNEL_BIND => &mut self.channel_bind,
            _ => &mut self.binding,
        }
    }
}

impl ErrorCounters {
    /// Each code and how often it was answered.
    #[must_use]
    pub const fn by_code(&self) -> [(u16, u64); 13] {
        [
            (400, self.bad_request),
            (401, self.unauthenticated),
            (403, self.forbidden),
            (405, self.mobility_forbidden),
            (420, self.unknown_attribute),
            (437, self.allocation_mismatch),
            (438, self.stale_nonce),
            (440, self.address_family_not_supported),
            (441, self.wrong_credentials),
            (442, self.unsupported_transport),
            (443, self.peer_family_mismatch),
            (486, self.allocation_quota_reached),
            (508, self.insufficient_capacity),
        ]
    }

    /// Counts an answer by what it says.
    pub(crate) const fn count(&mut self, code: u16) {
        *match code {
            401 => &mut self.unauthenticated,
            403 => &mut self.forbidden,
            405 => &mut self.mobility_forbidden,
            420 => &mut self.unknown_attribute,
            437 => &mut self.allocation_mismatch,
            438 => &mut self.stale_nonce,
            440 => &mut self.address_family_not_supported,
            441 => &mut self.wrong_credentials,
            442 => &mut self.unsupported_transport,
            443 => &mut self.peer_family_mismatch,
            486 => &mut self.allocation_quota_reached,
            508 => &mut self.insufficient_capacity,
            _ => &mut self.bad_request,
        } += 1;
    }
}

/// Good answers about relaying, and what was relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Success responses to Allocate, without those to retransmissions.
    pub allocate: u64,
    /// Success responses to Refresh.
    pub refresh: u64,
    /// Success responses to CreatePermission.
    pub create_permission: u64,
    /// Success responses to ChannelBind.
    pub channel_bind: u64,
    /// Allocations that ended, for whatever reason.
    pub ended: u64,
    /// From clients to peers.
    pub to_peer: Traffic,
    /// From peers to clients.
    pub to_client: Traffic,
    /// Of both: between two clients of this server, without leaving it. Counted where it arrives.
    pub inside: Traffic,
    /// Clients told that a datagram of theirs did not get to its peer.
    pub icmp: u64,
    /// What was not relayed, by reason.
    pub dropped: RelayDropCounters,
    /// Requests that were refused because somebody has enough.
    pub refused: QuotaCounters,
}

/// Requests that were refused because somebody has enough, by what he has enough of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaCounters {
    /// Allocations of the user.
    pub allocations_per_user: u64,
    /// Allocations of the source.
    pub allocations_per_source: u64,
    /// Allocations of the server.
    pub allocations: u64,
    /// Relay ports: there is none left, or the shell could open none.
    pub ports: u64,
    /// Permissions of the allocation or of the server.
    pub permissions: u64,
    /// Channels of the allocation or of the server.
    pub channels: u64,
}

impl QuotaCounters {
    pub(crate) const fn count(&mut self, quota: Quota) {
        *match quota {
            Quota::User => &mut self.allocations_per_user,
            Quota::Source => &mut self.allocations_per_source,
            Quota::Server => &mut self.allocations,
            Quota::Ports => &mut self.ports,
            Quota::Permissions => &mut self.permissions,
            Quota::Channels => &mut self.channels,
        } += 1;
    }
}

/// How much went one way: what was relayed, without what wraps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    #[inline]
    pub(crate) const fn count(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// Datagrams that were not relayed, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayDropCounters {
    /// The sender has no allocation, or the relayed address is nobody's.
    pub no_allocation: u64,
    /// The channel is not bound.
    pub no_channel: u64,
    /// There is no permission for the peer.
    pub no_permission: u64,
    /// The peer is none, by the rules for peers.
    pub forbidden: u64,
    /// The lengths of ChannelData or the attributes of a Send indication are wrong.
    pub malformed: u64,
    /// The allocation's rate was spent.
    pub rate: u64,
    /// Between two relayed addresses of this server, one of them a node's, without an
    /// introduction.
    pub not_introduced: u64,
    /// ICMP that clients are not told of, or not that often.
    pub icmp: u64,
    /// The user's rate was spent.
    pub rate_per_user: u64,
    /// The source's rate was spent.
    pub rate_per_source: u64,
    /// The server's rate was spent.
    pub rate_total: u64,
}

impl RelayDropCounters {
    pub(crate) const fn by_rate(&mut self, spent: Spent) -> &mut u64 {
        match spent {
            Spent::Allocation => &mut self.rate,
            Spent::User => &mut self.rate_per_user,
            Spent::Source => &mut self.rate_per_source,
            Spent::Server => &mut self.rate_total,
        }
    }
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
