//! What goes into the broker and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_proto::id::{DialBackNonce, Mac, SecretId, SessionToken, TokenId};
use meetpoint_proto::join::Transcript;
use meetpoint_proto::wire::{
    CandidateKind, CertificateText, ClientMessage, DecodeError, Profile, RevocationText, ServerMessage,
    StunServer, TicketOutcome,
};
use meetpoint_proto::{
    Certificate, ClusterName, ClusterNetwork, Code, EffectiveNetwork, Evidence, NatBehavior, NetworkClass,
    NetworkType, NodeId, NodeName, PublicKey, SessionId, Signature, TicketId,
};

/// One control connection, numbered by the shell. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A control connection was accepted.
    Opened {
        /// Its number.
        conn: ConnId,
        /// Where it comes from, as seen by the shell (after trusted proxies).
        source: SocketAddr,
    },
    /// A message arrived.
    Message {
        /// From whom.
        conn: ConnId,
        /// What.
        message: ClientMessage,
    },
    /// A frame arrived that is no message.
    Malformed {
        /// From whom.
        conn: ConnId,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The connection is gone.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// Answers [`Output::Admit`]: the join is stored, durably.
    Admitted {
        /// For whom.
        conn: ConnId,
        /// When the membership certificate must end, seconds since 1970.
        not_after_unix_s: u64,
        /// The STUN credential of this session: username and password. `None` if the cluster needs none.
        credential: Option<StunCredential>,
        /// Names the membership when the node comes back. `None`: the one it came with goes on to.
        session_token: Option<SessionToken>,
    },
    /// Answers [`Output::Admit`]: no.
    Refused {
        /// For whom.
        conn: ConnId,
        /// Why.
        code: Code,
        /// The particulars, for the node.
        detail: Option<String>,
    },
    /// Answers [`Output::Admit`]: not now, since too many joins from its source have failed.
    Held {
        /// For whom.
        conn: ConnId,
        /// When to come again.
        wait: Duration,
    },
    /// Answers [`Output::Mint`].
    Credential {
        /// For whom.
        conn: ConnId,
        /// The session's STUN credential; `None`: it could not be made, and the node has to join anew.
        credential: Option<StunCredential>,
    },
    /// The STUN server authenticated a Binding.
    Observed {
        /// The session named in the username.
        session: SessionId,
        /// Where it came from: the node's mapping.
        source: SocketAddr,
    },
    /// The relay has lent a member addresses, and tells it at this moment.
    Allocated {
        /// The session that asked.
        session: SessionId,
        /// The addresses.
        relayed: Vec<SocketAddr>,
    },
    /// Takes the place of [`Input::Opened`] and of the whole join where a node introduces its peers: who this
    /// is was shown by the connection itself, and the shell has verified the certificate. Such a member is asked
    /// nothing and told of nothing but introductions.
    Proven {
        /// The connection's number.
        conn: ConnId,
        /// Where the member's datagrams come from.
        source: SocketAddr,
        /// Who it is.
        member: Box<Certificate>,
        /// The same, as others are shown it.
        certificate: Box<CertificateText>,
    },
    /// The clock on the wall, once at the start and about every second.
    Wall {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// A cluster appeared or changed. If it amounts to something else now its members are judged again,
    /// where they are.
    Cluster(ClusterConfig),
    /// Where this server relays, if it does. Before the first cluster.
    Relay(RelayAccess),
    /// A cluster is no longer served: its members are refused, and so is whoever is on the way in.
    ClusterGone {
        /// Which.
        cluster: ClusterName,
    },
    /// Answers [`Output::Renew`]: the membership goes on.
    Renewed {
        /// Whose.
        conn: ConnId,
        /// When the fresh certificate must end, seconds since 1970.
        not_after_unix_s: u64,
        /// Replaces the one of the welcome.
        credential: Option<StunCredential>,
    },
    /// Answers [`Output::Renew`]: no, or not now.
    NotRenewed {
        /// Whose.
        conn: ConnId,
        /// Why. [`Code::Removed`] ends the session; after all others the node asks again.
        code: Code,
    },
    /// The operator removed a node, or had removed it before: it is refused, and members are told,
    /// until its last certificate has ended.
    Revoke {
        /// Its cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
        /// When that is, seconds since 1970.
        until_unix_s: u64,
    },
    /// The home of a foreign cluster has removed a node. The shell has verified that this is the cluster's word.
    Told {
        /// The cluster.
        cluster: ClusterName,
        /// Its word.
        text: RevocationText,
    },
    /// The operator lets a removed node come back.
    Restore {
        /// Its cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
    },
    /// The operator ended a node's session: it has to join anew.
    EndSession {
        /// Its cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
    },
    /// The server will go away then: say so to all members, who may have somewhere else to go.
    Drain {
        /// When.
        until: Instant,
    },
    /// The server is going away: say so to everybody.
    Shutdown,
}

/// A long-term STUN credential.
#[derive(Clone, PartialEq, Eq)]
pub struct StunCredential {
    /// Names the session.
    pub username: String,
    /// Secret.
    pub password: String,
    /// What a first request over a stream may be made with unchallenged.
    pub stream_nonce: Option<String>,
}

impl std::fmt::Debug for StunCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StunCredential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A cluster as the broker needs it.
#[derive(Clone)]
pub struct ClusterConfig {
    /// Its name.
    pub name: ClusterName,
    /// Its type.
    pub kind: ClusterNetwork,
    /// What it amounts to now.
    pub effective: EffectiveNetwork,
    /// Signs memberships and welcomes; welcomes only, if `home` is given.
    pub key: SigningKey,
    /// The cluster's key, where another server holds its secret half: then members are admitted by the
    /// certificates they bring, and nothing of them is stored here.
    pub home: Option<PublicKey>,
    /// No token needed.
    pub open_join: bool,
    /// Keeps nodes that can only be relayed.
    pub admit_relayed: bool,
    /// Where nodes have their mapping observed; one entry an address family.
    pub stun: Vec<StunServer>,
}

/// How nodes use this server's relay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayAccess {
    /// The addresses it relays at, as peers know them; none: it does not. A node is shown at no other address as
    /// one that is relayed.
    pub ips: Vec<IpAddr>,
    /// Where it listens on TCP.
    pub tcp: Option<u16>,
    /// Where it listens on TLS.
    pub tls: Option<u16>,
}

impl std::fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("effective", &self.effective)
            .finish_non_exhaustive()
    }
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        conn: ConnId,
        /// What.
        message: ServerMessage,
    },
    /// Send a message that others get as well, and that was encoded once for all of them.
    SendFrame {
        /// To whom.
        conn: ConnId,
        /// As [`meetpoint_proto::wire::encode`] has it.
        frame: Arc<str>,
    },
    /// Close the connection, after what was sent before has gone out.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The node has proven its key. Check its right to join, store the join, and answer with
    /// [`Input::Admitted`] or [`Input::Refused`].
    Admit(Box<AdmitRequest>),
    /// A member wants a fresh certificate. Make sure that it is one still, and answer with
    /// [`Input::Renewed`] or [`Input::NotRenewed`].
    Renew {
        /// Whose.
        conn: ConnId,
        /// Its session.
        session: SessionId,
        /// Its cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
    },
    /// The cluster became PUBLIC and this member needs a STUN credential: answer with
    /// [`Input::Credential`].
    Mint {
        /// Whose.
        conn: ConnId,
        /// Named in the credential.
        session: SessionId,
    },
    /// Have the STUN server send this nonce to this address from a place it never sent to.
    DialBack {
        /// An observed mapping.
        to: SocketAddr,
        /// What to send.
        nonce: DialBackNonce,
    },
    /// The registry may forget this ephemeral node: it has left or its session has ended.
    Forget {
        /// Its cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
    },
    /// For the log, the registry and the event stream.
    Event(Event),
}

/// A join that waits for the registry.
#[derive(Debug)]
pub struct AdmitRequest {
    /// Whose.
    pub conn: ConnId,
    /// The session it would become.
    pub session: SessionId,
    /// To which cluster.
    pub cluster: ClusterName,
    /// Who.
    pub node: NodeId,
    /// Under which name.
    pub name: NodeName,
    /// Forgotten with the session.
    pub ephemeral: bool,
    /// What it says of itself.
    pub declared: Option<NetworkType>,
    /// The source address of its control connection.
    pub source: IpAddr,
    /// Its software version.
    pub version: String,
    /// What it says of itself beyond that; checked.
    pub profile: Profile,
    /// `None`: the cluster is open, or the node is a visitor.
    pub admission: Option<AdmissionProof>,
    /// The cluster's home is another server, and the node has shown that it is a member until then, in
    /// seconds since 1970: nothing is to be stored.
    pub visitor_until_unix_s: Option<u64>,
    /// The present holder of the name, if that is another node.
    pub name_holder: Option<NodeId>,
}

/// Claims to be let in. One that holds is enough.
#[derive(Debug)]
pub struct AdmissionProof {
    /// What the proofs are about.
    pub transcript: Transcript,
    /// The session it wants to resume. It counts for this very node only.
    pub resume: Option<SessionToken>,
    /// A claim to hold a join token.
    pub token: Option<TokenProof>,
    /// Claims to hold cluster secrets.
    pub secrets: Vec<SecretProof>,
}

/// A claim to hold a join token, to be checked against its public key.
#[derive(Debug)]
pub struct TokenProof {
    /// Which token.
    pub token: TokenId,
    /// Verify by [`Transcript::verify`] with [`meetpoint_proto::join::Domain::Admission`].
    pub signature: Signature,
}

/// A claim to hold a cluster secret.
#[derive(Debug)]
pub struct SecretProof {
    /// Which secret.
    pub secret: SecretId,
    /// Verify by [`Transcript::verify_mac`].
    pub mac: Mac,
}

/// What happened, for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A node is a member and present.
    Joined {
        /// Its session.
        session: SessionId,
        /// Its cluster.
        cluster: ClusterName,
        /// Who.
        node: NodeId,
        /// Its name.
        name: NodeName,
    },
    /// A node is gone.
    Left {
        /// The session that has ended.
        session: SessionId,
        /// Its cluster.
        cluster: ClusterName,
        /// Who.
        node: NodeId,
        /// It said goodbye.
        graceful: bool,
    },
    /// A join was refused, or a member no longer fits.
    Rejected {
        /// From where.
        source: SocketAddr,
        /// Why.
        code: Code,
        /// The member that it was, and its cluster; `None` for a stranger.
        member: Option<(ClusterName, NodeId)>,
    },
    /// A member does not fit as things are now, and has [`meetpoint_proto::rules::PROBATION_MS`] to.
    OnProbation {
        /// Its cluster.
        cluster: ClusterName,
        /// Who.
        node: NodeId,
        /// Why it will be rejected.
        code: Code,
        /// The row of the rules that says so.
        row: &'static str,
    },
    /// A node was judged.
    Classified {
        /// Its cluster.
        cluster: ClusterName,
        /// Who.
        node: NodeId,
        /// As what.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
        /// The mapping that was observed.
        observed: Option<SocketAddr>,
        /// It can only be relayed.
        relayed: bool,
        /// The row of the rules that decided.
        row: &'static str,
    },
    /// Two nodes were introduced.
    Introduced {
        /// Their cluster.
        cluster: ClusterName,
        /// The ticket.
        ticket: TicketId,
        /// Who asked.
        from: NodeId,
        /// For whom.
        to: NodeId,
        /// The sessions of both, in this order.
        sessions: [SessionId; 2],
    },
    /// A member says how it meets another one, and that is news.
    Path {
        /// Their cluster.
        cluster: ClusterName,
        /// What is known now.
        path: PathView,
    },
    /// An introduction ended.
    TicketEnded {
        /// Their cluster.
        cluster: ClusterName,
        /// The ticket.
        ticket: TicketId,
        /// A direct path; time from introduction to first verified packet.
        direct_after: Option<Duration>,
        /// Both sides; the one that asked comes first.
        sides: [TicketSide; 2],
    },
}

/// A side of an introduction that has ended, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TicketSide {
    /// As what it was judged when the introduction began.
    pub class: Option<NetworkClass>,
    /// What it claimed of its NAT then.
    pub behavior: Option<NatBehavior>,
    /// What it said of the introduction's end.
    pub said: Option<TicketOutcome>,
}

/// An introduction of two nodes, for whoever asks what became of it. Of each two the one that asked comes
/// first.
#[derive(Debug, Clone)]
pub struct PairAttempt {
    /// How long ago it began.
    pub ago: Duration,
    /// Who.
    pub nodes: [NodeId; 2],
    /// As what they were judged then.
    pub classes: [Option<NetworkClass>; 2],
    /// What they claimed of their NATs then.
    pub behaviors: [Option<NatBehavior>; 2],
    /// What the other one was offered of each.
    pub offered: [Vec<CandidateKind>; 2],
    /// What each said of its end, if it did while the ticket lived.
    pub said: [Option<TicketOutcome>; 2],
    /// It is over.
    pub over: bool,
}

/// How two present members meet, by what they last said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathView {
    /// Who; the lower id first.
    pub nodes: [NodeId; 2],
    /// What became of their last introduction.
    pub outcome: TicketOutcome,
    /// The round trip by the path, as it was measured then.
    pub rtt: Option<Duration>,
    /// How long ago it was said.
    pub ago: Duration,
}

/// A present member, for the operator.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Its session.
    pub session: SessionId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Where its control connection comes from.
    pub source: SocketAddr,
    /// As what it was judged; `None` while it is being judged.
    pub class: Option<(NetworkClass, Evidence)>,
    /// It can only be relayed.
    pub relayed: bool,
    /// It does not fit as things are, and is rejected unless that changes.
    pub on_probation: bool,
    /// Its observed mappings, newest first.
    pub observed: Vec<SocketAddr>,
    /// What it claims of its NAT.
    pub behavior: Option<NatBehavior>,
    /// The control channel's smoothed round trip.
    pub rtt: Option<Duration>,
    /// Since when.
    pub since: Instant,
}
