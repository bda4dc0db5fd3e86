//! What goes into the agent and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_proto::meet::{GuestMessage, IntroducerMessage};
use meetpoint_proto::wire::{ClientMessage, PeerInfo, Profile, Refusal, ServerMessage};
use meetpoint_proto::{
    ClusterName, ClusterNetwork, ClusterSecret, EffectiveNetwork, Evidence, JoinToken, Membership,
    NatBehavior, NetworkClass, NetworkType, NodeId, NodeName,
};

/// Which of the node's UDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Socket {
    /// The one that carries punch checks and QUIC. It never sends to the server's alternate
    /// address, so that a dial-back from there proves reachability.
    Main,
    /// A short-lived one on a fresh port, for RFC 5780's filtering and mapping tests.
    Probe,
    /// One of many that are open while a symmetric NAT's ports are guessed. The one that is met stays.
    Extra(u16),
    /// A connection to the server's relay, where UDP does not reach it. Each frame on it (RFC 8489, section 6.2.2)
    /// is given and taken like a datagram.
    Stream(StreamId),
}

/// Names a connection to the relay; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// How the shell puts data on a relay leg: behind the header of ChannelData (RFC 8656, section 12.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel {
    /// By which the server is reached: the main socket or a stream.
    pub socket: Socket,
    /// Where such datagrams go. Only from there they are taken.
    pub server: SocketAddr,
    /// The channel's number.
    pub number: u16,
}

/// Names one allocation that the node has had on a relay; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(pub u32);

/// By which of the node's own ends a datagram leaves and arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leg {
    /// The main socket.
    Main,
    /// A socket that was opened to be met.
    Extra(u16),
    /// This allocation of the node: the server relays between it and the peer.
    Relay(AllocationId),
}

/// A way to a peer. One peer may be reached at one address by several legs, and by one leg at several
/// addresses; each of them is verified, kept and given up for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// This node's end.
    pub leg: Leg,
    /// The far end, as the leg sees it: the peer, its NAT, or its allocation on a relay.
    pub remote: SocketAddr,
}

impl Way {
    /// The way by the main socket.
    #[must_use]
    pub const fn main(remote: SocketAddr) -> Self {
        Self { leg: Leg::Main, remote }
    }
}

/// What the application wants of this node; constant for its life, but for the secrets.
#[derive(Clone)]
pub struct Config {
    /// The node's key.
    pub key: SigningKey,
    /// Cluster to join.
    pub cluster: ClusterName,
    /// Name to join under.
    pub name: NodeName,
    /// The right to join.
    pub token: Option<JoinToken>,
    /// The right to join, the newest first; at most [`meetpoint_proto::wire::MAX_SECRETS`] are used.
    pub secrets: Vec<ClusterSecret>,
    /// The right to be present at servers that are not the cluster's home.
    pub membership: Option<Membership>,
    /// What the node says of itself; refused by the server if it is not within its bounds.
    pub profile: Profile,
    /// What the user says of the node.
    pub declared: Option<NetworkType>,
    /// The node's address, if the user gave it.
    pub node_addr: Option<SocketAddr>,
    /// The cluster type the user insists on. `Private` seals the node.
    pub expect: Option<ClusterNetwork>,
    /// The key lives only as long as the process.
    pub ephemeral: bool,
    /// Software version, for the registry.
    pub version: String,
    /// Reconnection.
    pub backoff: BackoffConfig,
}

/// Where a server stands among those of one node, as RFC 2782 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRank {
    /// Servers of a lower number are tried first.
    pub priority: u16,
    /// Among those of one priority, how likely it comes before the others.
    pub weight: u16,
}

impl Default for ServerRank {
    /// One among equals.
    fn default() -> Self {
        Self { priority: 0, weight: 1 }
    }
}

/// Exponential backoff with jitter: each delay is between a quarter of its ceiling and all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// First delay.
    pub base: Duration,
    /// Longest delay.
    pub max: Duration,
    /// How long no server may take the node until it ends; `None`: it tries for ever.
    pub give_up_after: Option<Duration>,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), max: Duration::from_secs(30), give_up_after: None }
    }
}

/// One address of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub ip: IpAddr,
    /// Its on-link prefix length, in bits.
    pub prefix_len: u8,
}

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The machine's addresses, and the ports of the main socket by family. At start and whenever they change.
    Interfaces {
        /// All of them, loopback included.
        list: Vec<Interface>,
        /// The main socket's IPv4 port, if it has one.
        port_v4: Option<u16>,
        /// The main socket's IPv6 port, if it has one.
        port_v6: Option<u16>,
    },
    /// What the router has mapped to the main socket, as [`Output::MapPort`] asked; empty if it has mapped nothing, or
    /// no longer does.
    Mapped {
        /// Public addresses.
        addrs: Vec<SocketAddr>,
    },
    /// What [`Output::TraceRoute`] has shown.
    Route {
        /// As in the question.
        number: u32,
        /// Who has answered to a time to live of 1, 2 and so on: a router, or at last the server itself; `None`:
        /// nobody.
        hops: Vec<Option<IpAddr>>,
    },
    /// The machine's way to the server is another one: its source address has changed, or the router it goes by. Told
    /// after [`Input::Interfaces`], if they have changed too.
    Rerouted {
        /// What the machine would send to the server from now; `None` if it can't.
        source: Option<IpAddr>,
    },
    /// The control connection that [`Output::OpenControl`] asked for is open.
    ControlOpened {
        /// This node's end: the source address it uses towards the server.
        local: SocketAddr,
        /// The server's end.
        remote: SocketAddr,
    },
    /// It could not be opened, or it ended. Never for a connection that [`Output::OpenControl`] or
    /// [`Output::CloseControl`] has replaced or closed since.
    ControlClosed,
    /// One more server of the cluster, which has the next number. While the node is no member it is knocked at.
    Server {
        /// Where it stands among the others.
        rank: ServerRank,
    },
    /// Whether a server has answered the knock that [`Output::Knock`] asked for.
    Knocked {
        /// Which.
        server: usize,
        /// It would open a control connection.
        ok: bool,
    },
    /// A message of the server.
    ControlMessage(ServerMessage),
    /// A STUN-shaped datagram arrived ([`meetpoint_proto::stun::is_stun`]), or ChannelData of a relay that carries
    /// one, header and all.
    Datagram {
        /// On which socket.
        socket: Socket,
        /// From where.
        source: SocketAddr,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// The stream that [`Output::OpenStream`] asked for is open; or it could not be opened, or has ended.
    Stream {
        /// Which.
        stream: StreamId,
        /// It is open.
        open: bool,
    },
    /// The probe socket that [`Output::OpenProbe`] asked for is there, or could not be made.
    ProbeOpened {
        /// The port it has on this machine, if it is there.
        port: Option<u16>,
    },
    /// Of the sockets that [`Output::OpenSockets`] asked for so many are there, the first ones.
    SocketsOpened {
        /// The number of the first.
        first: u16,
        /// How many.
        count: u16,
    },
    /// The application wants a path to a peer, and holds it until [`Input::Release`]. A number that
    /// is in use is replaced.
    Connect {
        /// Comes back in [`Output::ConnectEnded`].
        request: u32,
        /// Name or id.
        peer: String,
        /// Wait until the peer joins.
        wait: bool,
    },
    /// What the handshake begins with that [`Output::Begin`] asked for.
    Begun {
        /// As in connect.
        request: u32,
        /// Its first datagram; `None` if there is none that could go along.
        datagram: Option<Vec<u8>>,
    },
    /// QUIC's handshake with this peer, which the application has called for, is complete: the peer has proven its key.
    /// If that was before a check was answered, whatever passes the server's relay is a path now.
    HandshakeDone {
        /// Who.
        peer: NodeId,
    },
    /// The application no longer wants it.
    CancelConnect {
        /// As in connect.
        request: u32,
    },
    /// Data goes to this peer or comes from it, and not just QUIC's own keepalives: its way is to be watched closely
    /// for some seconds. Told again while it lasts.
    Busy {
        /// Who.
        peer: NodeId,
    },
    /// Data goes to this peer, and for longer than its answers take nothing has come back.
    Unheard {
        /// Who.
        peer: NodeId,
    },
    /// The last connection to this peer is closed: its path is given up (and [`Output::Path`] says so).
    Release {
        /// Who.
        peer: NodeId,
    },
    /// The connection that [`Output::OpenIntroducer`] asked for is open; or it could not be opened, or has ended.
    Introducer {
        /// To whom.
        peer: NodeId,
        /// It is open.
        open: bool,
    },
    /// A peer that may introduce this node said something.
    FromIntroducer {
        /// Who.
        peer: NodeId,
        /// What.
        message: IntroducerMessage,
    },
    /// The cluster secrets to join by from now on, the newest first. The present session stays.
    Secrets(Vec<ClusterSecret>),
    /// Leave the cluster.
    Leave,
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Open the control connection to a rendezvous (closing any former one).
    OpenControl {
        /// Which, in the order of [`Agent::with_servers`](crate::Agent::with_servers) and then of [`Input::Server`].
        server: usize,
    },
    /// See whether this server would open a control connection, without keeping it; the present one stays.
    Knock {
        /// Which.
        server: usize,
    },
    /// Close it.
    CloseControl,
    /// Send on it.
    SendControl(ClientMessage),
    /// Send a datagram.
    Transmit {
        /// From which socket.
        socket: Socket,
        /// To where.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
        /// After so many routers it is to be dropped: it opens this node's NAT and must not reach the peer's. Where
        /// that can't be done for a single datagram it is not to be sent.
        ttl: Option<u8>,
    },
    /// Open so many sockets on fresh ports, numbered in a row; numbers wrap.
    OpenSockets {
        /// The number of the first.
        first: u16,
        /// How many.
        count: u16,
        /// IPv6, else IPv4.
        ipv6: bool,
    },
    /// Close all that [`Output::OpenSockets`] ever opened but these.
    CloseSockets {
        /// Their numbers.
        keep: Vec<u16>,
    },
    /// Whether a port of the router that leads to the main socket would be of use; if not, none is to be asked for, and
    /// one that is there is to be taken back. Not before the first of these, and told when it changes.
    MapPort {
        /// It would.
        wanted: bool,
    },
    /// See which routers are the first on the way to the server: send this datagram from fresh sockets with a time to
    /// live of 1, 2 and so on, until [`ends_route`](crate::ends_route) says so of who answers (RFC 792: time exceeded),
    /// and tell [`Input::Route`]. Nothing waits for it; where the system does not tell who answers there is nothing to
    /// do.
    TraceRoute {
        /// Of the question.
        number: u32,
        /// The server.
        to: SocketAddr,
        /// A STUN Binding.
        payload: Vec<u8>,
        /// The longest time to live.
        most: u8,
    },
    /// Make the probe socket, on a fresh port of this family.
    OpenProbe {
        /// IPv6, else IPv4.
        ipv6: bool,
    },
    /// Drop it.
    CloseProbe,
    /// Open a connection to the server's relay; answer with [`Input::Stream`].
    OpenStream {
        /// Its name from now on.
        stream: StreamId,
        /// Where to.
        to: SocketAddr,
        /// TLS, with the control channel's own trust in the server.
        tls: bool,
    },
    /// Close it, or stop opening it. No [`Input::Stream`] follows.
    CloseStream {
        /// Which.
        stream: StreamId,
    },
    /// Data by this way goes in this channel from now on; `None`: there is no such way any more. A path or a way
    /// to be heard by that has a relay leg is told after its channel.
    Channel {
        /// A way with a relay leg.
        way: Way,
        /// How.
        channel: Option<Channel>,
    },
    /// Authorise this peer's key for incoming connections and, from now on, send its data by
    /// this path; accept its data from there too. Told again when the path moves, and when its
    /// round trip has changed by more than a fifth: only another `way` is another path.
    Path {
        /// Who.
        peer: NodeId,
        /// The way; `None`: there is none any more, drop the authorisation too.
        path: Option<Path>,
    },
    /// Authorise this peer's key for incoming connections and accept its data by this way
    /// too: a check under a ticket of both came from there. The two sides may settle on different
    /// ways, and each is sure of its own at another moment. Nothing is sent there by this alone; it
    /// ends with [`Output::Path`] without a path.
    Hear {
        /// Who.
        peer: NodeId,
        /// By which.
        way: Way,
    },
    /// QUIC's handshake with this peer may begin although no check has been answered: its first datagram goes by this
    /// way now, or as soon as there is one; once for each time this is told. A check has just left by the same way,
    /// and whatever goes there passes the server's relay. Nothing but the handshake may, and nothing else until
    /// [`Output::Path`], which ends this. What the peer's handshake says by this way is to be kept until
    /// [`Output::Hear`], which may come a moment later, and may be answered from then on.
    Provisional {
        /// Who.
        peer: NodeId,
        /// By which; after its channel, if it has a relay leg.
        way: Way,
        /// What a round trip takes by it, about.
        rtt: Duration,
        /// The connect request that waits for the peer, if one does.
        request: Option<u32>,
    },
    /// Begin QUIC's handshake with this peer, and keep what it begins with: nothing may be sent yet. That datagram,
    /// with which [`Input::Begun`] answers, goes to the peer with the request that it be introduced. Ends with
    /// [`Output::Path`], one way or the other.
    Begin {
        /// The connect request that it is for.
        request: u32,
        /// Who.
        peer: NodeId,
        /// What a round trip will take, about.
        rtt: Duration,
    },
    /// A peer that this node is being introduced to begins QUIC's handshake with this datagram. It came by way of the
    /// server, which may have made it up. It may be answered like the peer's handshake itself: by the ways of
    /// [`Output::Provisional`], and with no more than that allows.
    Handshake {
        /// Who.
        peer: NodeId,
        /// What.
        datagram: Vec<u8>,
    },
    /// Open a connection to a peer that may introduce this node to others, on the path that there is
    /// ([`meetpoint_proto::meet`]); answer with [`Input::Introducer`].
    OpenIntroducer {
        /// To whom.
        peer: NodeId,
    },
    /// Close it. No [`Input::Introducer`] follows.
    CloseIntroducer {
        /// To whom.
        peer: NodeId,
    },
    /// Say something on it.
    ToIntroducer {
        /// To whom.
        peer: NodeId,
        /// What.
        message: GuestMessage,
    },
    /// A connect request has ended.
    ConnectEnded {
        /// As in connect.
        request: u32,
        /// The peer, now with a path; or why not.
        result: Result<NodeId, Refusal>,
    },
    /// The node is a member by this from now on: what it takes along to servers that are not the
    /// cluster's home.
    Membership(Box<Membership>),
    /// For the application.
    Event(Event),
    /// The agent has ended: it left, or was rejected for good. Nothing follows; connect requests
    /// that wait, and all paths, end with it.
    Ended(Ended),
}

/// How an agent ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// [`Input::Leave`] is done.
    Left,
    /// The server refused it, and trying again would not help.
    Rejected(Refusal),
    /// No server took it for so long that it has given up ([`BackoffConfig::give_up_after`]).
    NoServer,
}

/// A way to a peer: a check of this side's own was answered on it, or QUIC's handshake went by it
/// ([`Input::HandshakeDone`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where its datagrams go and come from.
    pub way: Way,
    /// What kind of way.
    pub kind: PathKind,
    /// Round trip of the newest check; what the server's two are together, while none of this side's own was answered.
    pub rtt: Duration,
    /// From the connect call to the first verified packet; if the call had to wait for the peer to join,
    /// from the peer's arrival, and on the side that did not call from the introduction. Counted anew, from the
    /// same moment, for the first direct packet after a relayed path.
    pub elapsed: Duration,
}

/// What kind of way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// Datagrams go to the peer's own address or its NAT's.
    Direct,
    /// A server relays them, for this node or for the peer.
    Relayed,
}

/// For the application.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The node is a member and present. Its view of the peers starts anew: those who are there
    /// follow as [`Event::Peer`].
    Joined {
        /// What the cluster amounts to now.
        effective: EffectiveNetwork,
        /// Its type.
        kind: ClusterNetwork,
        /// It had been here before in this process's life.
        again: bool,
    },
    /// The node was judged.
    Classified {
        /// As what.
        class: NetworkClass,
        /// On what ground.
        evidence: Evidence,
        /// The mapping that the server observed.
        observed: Option<SocketAddr>,
        /// It can only be relayed.
        relayed: bool,
    },
    /// What the cluster amounts to has changed; the node is judged again, and whoever does not fit has a
    /// minute to.
    ClusterChanged {
        /// What it amounts to now.
        effective: EffectiveNetwork,
    },
    /// The node found out what NAT it sits behind.
    Behavior(NatBehavior),
    /// A peer came or changed.
    Peer(PeerInfo),
    /// A peer went away.
    PeerLeft(NodeId),
    /// The control connection is lost, or there was none; the agent tries again by itself, maybe elsewhere.
    Disconnected {
        /// What the server said, if it said anything.
        refusal: Option<Refusal>,
        /// When the next attempt starts.
        retry_in: Duration,
    },
}
