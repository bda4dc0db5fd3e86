//! What two nodes are told of each other.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::CertificateText;
use crate::handshake::HandshakeStart;
use crate::id::{TicketId, TicketKey};
use crate::network::NatBehavior;

/// Meet this peer, now. One side's half of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Set for the side that asked: the requests this answers.
    #[serde(default)]
    pub requests: Vec<u32>,
    /// Single use.
    pub ticket: TicketId,
    /// The peer's membership.
    pub certificate: CertificateText,
    /// Where to try.
    pub candidates: Vec<Candidate>,
    /// Keys the checks this side sends.
    pub send_key: TicketKey,
    /// Keys the checks this side receives.
    pub recv_key: TicketKey,
    /// When to start, after arrival: the side with the shorter way waits for the other.
    pub start_in_ms: u32,
    /// How long checks may be sent, after arrival.
    pub expires_in_ms: u32,
    /// `false`: answer checks, but send none first (the other side is enough).
    pub active: bool,
    /// What this side has told the server of its NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<NatBehavior>,
    /// What the peer has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<NatBehavior>,
    /// Where the peer's NAT may let it come from, if that is not where it was observed. Checks may go there too, to
    /// at most [`MAX_GUESSED_PORTS`](super::MAX_GUESSED_PORTS) of the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<PortWindow>,
    /// The peer's round trip to the server, in milliseconds, as far as it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_rtt_ms: Option<u32>,
    /// Neither side has asked: the server sees whether the one can be reached by the other, and the way goes with
    /// the ticket unless somebody uses it by then.
    #[serde(default)]
    pub probe: bool,
    /// What the peer that has asked begins its handshake with. The server has not looked into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<HandshakeStart>,
}

/// Ports of an address that the server has observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortWindow {
    /// The address.
    pub ip: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// A place where a peer may be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// What it is.
    pub kind: CandidateKind,
    /// Where it is.
    pub addr: SocketAddr,
}

/// RFC 8445, section 5.1.1, in our words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An address of the node itself.
    Host,
    /// A mapping that the server observed (server reflexive).
    Srflx,
    /// An address that the user named or a router has mapped, with an IP that the server observed.
    Mapped,
    /// One that the server relays for the node. Shown in [`ServerMessage::Candidates`](super::ServerMessage::Candidates) only, which nodes that do
    /// not know it ignore.
    Relay,
}
