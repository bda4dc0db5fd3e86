//! The control channel's messages: JSON, one message a WebSocket text frame.
//!
//! The dialogue: node `hello`, server `challenge`, node `proof`, server `welcome`; then either
//! side speaks as it needs. Wire types hold raw words; the machines turn them into domain types.

mod introduction;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::code::Code;
use crate::handshake::HandshakeStart;
use crate::id::{
    DialBackNonce, Mac, NodeId, Nonce, PublicKey, SecretId, SessionId, SessionToken, Signature, TicketId,
    TokenId,
};
use crate::name::{Capability, MAX_NAME_LEN, NodeName};
use crate::network::{ClusterNetwork, EffectiveNetwork, Evidence, NatBehavior, NetworkClass, NetworkType};

pub use self::introduction::{Candidate, CandidateKind, Introduction, PortWindow};

/// This protocol. A server refuses any other with [`Code::ProtocolVersion`].
pub const PROTOCOL_VERSION: u16 = 1;
/// Where the WebSocket is.
pub const CONTROL_PATH: &str = "/v1/control";
/// Largest frame either side sends or takes. An introduction is about 2 KiB, or 4 KiB with the start of a handshake.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// A node offers at most so many host candidates: more would make each introduction a port scan.
pub const MAX_HOST_CANDIDATES: usize = 8;
/// A node is shown at so many relayed addresses at most: two families, and an allocation that replaces another.
pub const MAX_RELAY_CANDIDATES: usize = 4;
/// Mapped addresses taken of one node: a router has one for each family.
pub const MAX_MAPPED_CANDIDATES: usize = 2;
/// Longest free text (a node's version).
pub const MAX_TEXT_LEN: usize = 64;
/// Cluster secrets that a node can hold at once: the one in use, the next, and some that were forgotten.
pub const MAX_SECRETS: usize = 8;
/// Things that a node can say it can do.
pub const MAX_CAPABILITIES: usize = 16;
/// Entries of a node's metadata.
pub const MAX_METADATA: usize = 16;
/// All keys and values of a node's metadata, in bytes.
pub const MAX_METADATA_BYTES: usize = 1024;
/// Revocations in a welcome, the newest first: some 20 KiB.
pub const MAX_REVOCATIONS: usize = 100;
/// Different ports that one side of a ticket may guess.
pub const MAX_GUESSED_PORTS: u16 = 1_200;
/// Peers in one [`ServerMessage::Peers`]; such a frame stays under 32 KiB.
pub const PEERS_PER_MESSAGE: usize = 100;

/// What a node sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Opens the dialogue.
    Hello(Box<Hello>),
    /// Answers the challenge.
    Proof(Proof),
    /// The node's own addresses, with its main socket's port. Replaces what was said before.
    Candidates {
        /// At most [`MAX_HOST_CANDIDATES`].
        host: Vec<SocketAddr>,
        /// What it was allocated on the server's relay. At most [`MAX_RELAY_CANDIDATES`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        relay: Vec<SocketAddr>,
        /// Addresses that a router says it leads to the main socket (UPnP, NAT-PMP, PCP): claims, of which those count
        /// whose IP the server observes. At most [`MAX_MAPPED_CANDIDATES`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mapped: Vec<SocketAddr>,
    },
    /// A dial-back arrived.
    DialBackSeen {
        /// What it carried.
        nonce: DialBackNonce,
    },
    /// The first check of a ticket arrived from an address that the node had sent nothing to for
    /// [`crate::rules::UNSOLICITED_MS`].
    Unsolicited {
        /// Whose check it was.
        ticket: TicketId,
    },
    /// What the node found out about its NAT.
    Behavior {
        /// A claim.
        behavior: NatBehavior,
    },
    /// Asks to be introduced.
    Connect {
        /// Comes back in the answer.
        request: u32,
        /// The peer's name or id.
        peer: String,
        /// Wait for the peer to join, rather than fail with [`Code::PeerOffline`].
        wait: bool,
        /// For the peer, with its half of the introduction. A request that has to wait for the peer loses it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handshake: Option<HandshakeStart>,
    },
    /// No longer interested in [`ClientMessage::Connect`].
    CancelConnect {
        /// As in connect.
        request: u32,
    },
    /// How a ticket ended.
    TicketResult {
        /// Which.
        ticket: TicketId,
        /// How.
        outcome: TicketOutcome,
        /// The round trip by the path that there is, in microseconds, if it was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rtt_us: Option<u32>,
    },
    /// Keeps the connection and measures it.
    Ping {
        /// Comes back in pong.
        seq: u64,
    },
    /// Answers the server's ping.
    Pong {
        /// As in ping.
        seq: u64,
    },
    /// Asks for a fresh membership certificate, without joining anew. The home server answers
    /// [`ServerMessage::Certificate`], or nothing if it can't now.
    Renew,
    /// Goodbye. The server answers [`ServerMessage::Left`].
    Leave,
}

/// How a ticket ended, for statistics and explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TicketOutcome {
    /// A direct path works.
    Direct {
        /// From the introduction to the first verified packet, in milliseconds.
        elapsed_ms: u32,
    },
    /// The ticket ran out, and the peer is reached by a relay. Told to servers that have one.
    Relayed,
    /// The ticket ran out.
    Failed,
}

/// The first message of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u16,
    /// Cluster to join.
    pub cluster: String,
    /// The name the node wants.
    pub name: String,
    /// The node's key.
    pub node_id: NodeId,
    /// Fresh.
    pub nonce: Nonce,
    /// The join token it means to use.
    #[serde(default)]
    pub token: Option<TokenId>,
    /// What it says of itself.
    #[serde(default)]
    pub declared: Option<NetworkType>,
    /// `--node-addr`.
    #[serde(default)]
    pub node_addr: Option<SocketAddr>,
    /// The source address it uses towards the server.
    pub local_ip: IpAddr,
    /// The cluster type it insists on.
    #[serde(default)]
    pub expect: Option<ClusterNetwork>,
    /// The key lives only as long as the process: the registry may forget it with the session.
    #[serde(default)]
    pub ephemeral: bool,
    /// The node's software version.
    pub version: String,
    /// The cluster secrets it holds, the newest first. At most [`MAX_SECRETS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretId>,
    /// The session to resume: it admits as the join token did, without a use of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<SessionToken>,
    /// A membership certificate of the cluster's home server, for servers that are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Box<CertificateText>>,
    /// What it says of itself, for people and programs.
    #[serde(default, skip_serializing_if = "Profile::is_empty")]
    pub profile: Profile,
}

/// What a node says of itself, beyond the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What it can do; names of at most 63 characters. At most [`MAX_CAPABILITIES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Where it runs: a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// And where there: a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Anything else: names, and values without control characters. At most [`MAX_METADATA`] of
    /// together [`MAX_METADATA_BYTES`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Why a profile is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Too many capabilities, or one is no name.
    #[error(
        "capabilities: at most {MAX_CAPABILITIES} different names of 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-'"
    )]
    Capabilities,
    /// Not a name.
    #[error("{0}: 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-', starting with a letter or digit")]
    Place(&'static str),
    /// Too many entries, too long, a key that is no name, or a control character.
    #[error(
        "metadata: at most {MAX_METADATA} entries of together {MAX_METADATA_BYTES} bytes; keys are names, values have no control characters"
    )]
    Metadata,
}

impl Profile {
    /// Nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every bound, and gives the capabilities in order.
    ///
    /// # Errors
    /// [`ProfileError`] names the field and what it may be.
    pub fn check(&self) -> Result<Vec<Capability>, ProfileError> {
        let is_name = |text: &str| text.parse::<NodeName>().is_ok();
        for (field, place) in [("datacenter", &self.datacenter), ("rack", &self.rack)] {
            if place.as_deref().is_some_and(|place| !is_name(place)) {
                return Err(ProfileError::Place(field));
            }
        }
        let bytes: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let fits = |(key, value): (&String, &String)| is_name(key) && !value.chars().any(char::is_control);
        if self.metadata.len() > MAX_METADATA || bytes > MAX_METADATA_BYTES || !self.metadata.iter().all(fits)
        {
            return Err(ProfileError::Metadata);
        }
        let count = self.capabilities.len();
        let parsed: Result<Vec<Capability>, _> = self.capabilities.iter().map(|text| text.parse()).collect();
        let mut capabilities = parsed.map_err(|_| ProfileError::Capabilities)?;
        capabilities.sort();
        capabilities.dedup();
        if count > MAX_CAPABILITIES || capabilities.len() != count {
            return Err(ProfileError::Capabilities);
        }
        Ok(capabilities)
    }
}

/// Answers a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// By the node's key, [`crate::join::Domain::Node`].
    pub node: Signature,
    /// By the token's key, [`crate::join::Domain::Admission`].
    #[serde(default)]
    pub admission: Option<Signature>,
    /// By the cluster secrets that hello names, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Mac>,
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// Answers hello.
    Challenge {
        /// Fresh.
        nonce: Nonce,
        /// The cluster's key.
        cluster_key: PublicKey,
        /// This server does not hold the cluster's key: the welcome will be signed with this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_key: Option<PublicKey>,
    },
    /// The node is a member.
    Welcome(Box<Welcome>),
    /// The node is not, or no longer, a member. The connection closes.
    Rejected(Refusal),
    /// The node's class, each time it is judged.
    Classified {
        /// What it is.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
        /// The mapping the server observed.
        observed: Option<SocketAddr>,
        /// It is a member that can only be relayed.
        #[serde(default)]
        relayed: bool,
    },
    /// What the cluster amounts to has changed. The session goes on, and the node is judged again.
    Cluster {
        /// What it amounts to now.
        effective: EffectiveNetwork,
        /// Where to have the mapping observed from now on. Absent if the cluster became PRIVATE, and for
        /// a node that a PUBLIC one does not check.
        #[serde(default)]
        stun: Option<StunAccess>,
    },
    /// Members that are present, in pages after welcome and one by one as they come or change.
    Peers {
        /// At most [`PEERS_PER_MESSAGE`].
        peers: Vec<PeerInfo>,
    },
    /// A member went away.
    PeerLeft {
        /// Who.
        id: NodeId,
    },
    /// Somebody asks for this node, which can't be met anywhere yet: it may have itself lent an address. The
    /// introduction follows.
    Wanted,
    /// Meet this peer, now.
    Introduction(Box<Introduction>),
    /// More places where the peer of a running ticket may be met.
    Candidates {
        /// Which.
        ticket: TicketId,
        /// Where to try as well.
        candidates: Vec<Candidate>,
    },
    /// A connect request ended without introduction.
    ConnectFailed {
        /// As in connect.
        request: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Keeps the connection and measures it.
    Ping {
        /// Comes back in pong.
        seq: u64,
    },
    /// Answers the node's ping.
    Pong {
        /// As in ping.
        seq: u64,
    },
    /// A fresh membership certificate.
    Certificate(Box<Renewal>),
    /// This member was removed: paths to it end, introductions to it are refused.
    Revoked(RevocationText),
    /// Answers leave. The connection closes.
    Left,
    /// The server will be gone then, and takes nobody new: who knows another server goes there.
    Draining {
        /// Milliseconds until it closes this connection.
        in_ms: u64,
    },
    /// The connection closes; the node may come back.
    Closing(Refusal),
    /// A message of a newer server. Ignored.
    #[serde(other)]
    Unknown,
}

/// Why not, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable.
    pub code: Code,
    /// What to do.
    pub hint: String,
    /// The particulars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// With the code's own hint.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, hint: code.hint().to_owned(), detail: None, retry_after_ms: None }
    }

    /// Adds the particulars. Control characters are replaced: the text is shown to people.
    #[must_use]
    pub fn detail(mut self, detail: impl std::fmt::Display) -> Self {
        let clean = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
        self.detail = Some(detail.to_string().chars().take(256).map(clean).collect());
        self
    }

    /// Adds the time to wait.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

/// The node is a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// By the cluster's key, [`crate::join::Domain::Welcome`]; or the server's, if the challenge named one.
    pub signature: Signature,
    /// This stay.
    pub session: SessionId,
    /// The cluster's type.
    pub kind: ClusterNetwork,
    /// What it amounts to now.
    pub effective: EffectiveNetwork,
    /// The source address of this control connection, as the server sees it.
    pub observed: SocketAddr,
    /// The server's clock, milliseconds since 1970: nodes judge expiries by it.
    pub now_unix_ms: u64,
    /// The node's membership.
    pub certificate: CertificateText,
    /// Where to have the mapping observed. Absent in effectively PRIVATE clusters.
    #[serde(default)]
    pub stun: Option<StunAccess>,
    /// Silence after which either side gives the connection up.
    pub idle_timeout_ms: u32,
    /// Names this membership when the node comes back. Absent: the one it came with goes on to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SessionToken>,
    /// Who is no member any more although its certificate may say so. At most [`MAX_REVOCATIONS`], the
    /// newest; the server itself refuses all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevocationText>,
    /// What another member found out about the NAT at the same address. It may be wrong, and is good for nothing but
    /// the order of the node's own questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<NatBehavior>,
}

/// A membership that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The fresh certificate.
    pub certificate: CertificateText,
    /// Replaces the welcome's. Absent in effectively PRIVATE clusters.
    #[serde(default)]
    pub stun: Option<StunAccess>,
}

/// A revocation in transit; see [`crate::Revocation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationText {
    /// The former member's key.
    pub id: NodeId,
    /// Seconds since 1970: its last certificate ends by then.
    pub until_unix_s: u64,
    /// By the cluster's key.
    pub signature: Signature,
}

/// A certificate in transit; see [`crate::Certificate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateText {
    /// The cluster.
    pub cluster: String,
    /// The member's key.
    pub node_id: NodeId,
    /// The member's name.
    pub name: String,
    /// Seconds since 1970.
    pub not_before_unix_s: u64,
    /// Seconds since 1970.
    pub not_after_unix_s: u64,
    /// What the member says it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// By the cluster's key.
    pub signature: Signature,
}

/// Where and as whom to send STUN Bindings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunAccess {
    /// One entry an address family.
    pub servers: Vec<StunServer>,
    /// Long-term credential, bound to the session.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Where these servers relay, for the same credential; nowhere, if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relay: Vec<IpAddr>,
    /// They take it over TCP too, at this port of the address by which the node reached the control channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// And over TLS, at this one, under the identity of the control channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<u16>,
    /// The nonce of the first allocation over either, for a few minutes: who asks with it, in the realm
    /// [`crate::stun::REALM`] and under [`crate::stun::PASSWORD_ALGORITHMS`], is not challenged first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_nonce: Option<String>,
}

impl std::fmt::Debug for StunAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StunAccess").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// A STUN server's addresses (RFC 5780, section 4.1). An unspecified IP (`0.0.0.0`, `::`) stands for
/// the address by which the node reached the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunServer {
    /// Address and port to use.
    pub primary: SocketAddr,
    /// A second address, if there is one.
    #[serde(default)]
    pub alternate: Option<IpAddr>,
    /// A second port on each address.
    #[serde(default)]
    pub alternate_port: Option<u16>,
}

/// A present member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its key.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Absent while it is being judged.
    #[serde(default)]
    pub class: Option<NetworkClass>,
    /// It can only be relayed.
    #[serde(default)]
    pub relayed: bool,
}

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Larger than [`MAX_FRAME_BYTES`].
    #[error("the frame has {len} bytes, more than {MAX_FRAME_BYTES}")]
    TooLarge {
        /// Its size.
        len: usize,
    },
    /// Not JSON, or not a message.
    #[error("not a control message: {0}")]
    Malformed(String),
}

impl DecodeError {
    /// What the other side is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::TooLarge { .. } => Refusal::new(Code::FrameTooLarge).detail(self),
            Self::Malformed(_) => Refusal::new(Code::BadMessage).detail(self),
        }
    }
}

/// Reads a node's frame.
///
/// # Errors
/// [`DecodeError`]; the session is to be closed with its refusal.
pub fn decode_client(frame: &str) -> Result<ClientMessage, DecodeError> {
    decode(frame)
}

/// Reads a server's frame.
///
/// # Errors
/// [`DecodeError`]; the connection is to be closed.
pub fn decode_server(frame: &str) -> Result<ServerMessage, DecodeError> {
    decode(frame)
}

fn decode<'a, T: Deserialize<'a>>(frame: &'a str) -> Result<T, DecodeError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge { len: frame.len() });
    }
    // serde_json bounds nesting at 128 levels by itself.
    serde_json::from_str(frame).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// Writes a message as a frame.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> String {
    #[allow(clippy::expect_used, reason = "these types have string keys only and no failing serializer")]
    serde_json::to_string(message).expect("control messages always serialise")
}
