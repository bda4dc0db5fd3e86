//! The broker's bounds. Each can be set by the shell; the defaults say why they are what they are.

use std::time::Duration;

use meetpoint_proto::rules::{PROBATION_MS, UNSOLICITED_MS};

/// Bounds on everything the network can make grow, and the broker's intervals.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Control connections at once, members or not. About 10 KB each in the whole server.
    pub connections: usize,
    /// From accept to welcome. Long enough for a slow mobile link, short enough that stalled
    /// handshakes (attack: slowloris) do not pile up.
    pub handshake_timeout: Duration,
    /// Silence after which a member's connection is given up: two pings that TCP has repeated in vain.
    pub idle_timeout: Duration,
    /// Between the server's pings; they keep NAT state for TCP and measure the round trip.
    pub ping_interval: Duration,
    /// From welcome to the verdict `NoAnswer`: some thirty retransmissions of a Binding, so that a
    /// quarter of all packets may get lost.
    pub observation_timeout: Duration,
    /// From dial-back to the verdict `Answered`, besides two round trips of the control channel: its
    /// three sends take 600 ms.
    pub dial_back_timeout: Duration,
    /// Between two dial-backs to one session, so that none of them is a port scanner.
    pub dial_back_interval: Duration,
    /// How long a member may fail before it is rejected.
    pub probation: Duration,
    /// How long nothing may have been sent to an address for what comes from there to be unsolicited.
    pub unsolicited_after: Duration,
    /// Running connect requests of one session.
    pub requests_per_session: usize,
    /// How long a request waits until both sides have candidates.
    pub candidate_timeout: Duration,
    /// Live tickets that one node asked for.
    pub tickets_per_asker: usize,
    /// Live tickets towards one node.
    pub tickets_per_target: usize,
    /// A ticket's life.
    pub ticket_lifetime: Duration,
    /// Members announced to all others; beyond it peers are found by name. Keeps the fan-out
    /// of joins linear in the cluster's size.
    /// Each newcomer reads all of them, which counts when ten thousand come back at once.
    pub announced_peers: usize,
    /// Members of all clusters from one IPv4 address or IPv6 /64 (attack: one machine as a thousand
    /// nodes). Not below a large NAT's worth; this machine itself is not counted.
    pub members_per_source: usize,
    /// Removed nodes of one cluster whose certificates may still hold; beyond it the one that ends
    /// first is forgotten. Some 2 MB.
    pub revocations: usize,
    /// How long the registry keeps an ephemeral node whose connection broke.
    pub ephemeral_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(45),
            ping_interval: Duration::from_secs(20),
            observation_timeout: Duration::from_secs(10),
            dial_back_timeout: Duration::from_millis(700),
            dial_back_interval: Duration::from_secs(10),
            probation: Duration::from_millis(PROBATION_MS),
            unsolicited_after: Duration::from_millis(UNSOLICITED_MS),
            requests_per_session: 64,
            candidate_timeout: Duration::from_secs(5),
            tickets_per_asker: 64,
            tickets_per_target: 256,
            ticket_lifetime: Duration::from_secs(10),
            announced_peers: 100,
            members_per_source: 1_024,
            revocations: 10_000,
            ephemeral_grace: Duration::from_secs(120),
        }
    }
}
