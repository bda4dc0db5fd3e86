//! What the server is told at its start, and why it may refuse it.

use std::net::SocketAddr;

use thiserror::Error;

use crate::budget::Rate;
use crate::credentials::Secrets;
use crate::relay::{MAX_PEER_BLOCKS, RelayConfig, RelayLimits};

/// Two addresses by two ports by two families.
pub const MAX_LISTENERS: usize = 8;
/// REALM has fewer than 128 characters (RFC 8489, section 14.9).
pub const MAX_REALM_LEN: usize = 127;
/// Slots of the source table, see [`Limits::source_slots`].
pub const MAX_SOURCE_SLOTS: u32 = 1 << 24;

/// TCP and TLS on two addresses of two families.
pub const MAX_STREAM_LISTENERS: usize = 8;

/// Which listener: an index into [`Config::listeners`], and beyond them into [`Config::streams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u8);

/// The place of a listener in RFC 5780's square of two addresses and two ports. Each address
/// family has a square of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenerRole {
    /// Primary address, main port: the one clients are told about.
    PrimaryMain,
    /// Primary address, alternate port.
    PrimaryAlt,
    /// Alternate address, main port.
    AlternateMain,
    /// Alternate address, alternate port.
    AlternateAlt,
}

/// A socket of the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Its index in [`Config::listeners`].
    pub id: ListenerId,
    /// Its place.
    pub role: ListenerRole,
    /// Its address as clients see it, which is not the bound one behind a cloud's 1:1 NAT. An
    /// unspecified address works, but cannot be told to clients.
    pub addr: SocketAddr,
}

/// What carries the messages between a client and a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// An encrypted stream.
    Tls,
}

impl Transport {
    /// True for TCP and TLS: messages follow one another ([`crate::frame`]), and the handshake
    /// has shown that the client receives where it sends from.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls => true,
        }
    }
}

/// A listening socket of the shell whose connections carry messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamListener {
    /// Its index in [`Config::streams`], counted on from the number of [`Config::listeners`].
    pub id: ListenerId,
    /// TCP or TLS.
    pub transport: Transport,
    /// Its address as clients see it.
    pub addr: SocketAddr,
}

/// How much is given to whom. The reasons for the defaults are in [`crate::budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Answers to one source: an IPv4 address, an IPv6 /64, or, once a nonce proved it, an
    /// address and port.
    pub source: Rate,
    /// Answers longer than their question, beyond the plain Binding answer, to all unproven
    /// sources together.
    pub amplified: Rate,
    /// Answers sent from another listener or to another port than the question's, to all
    /// unproven sources together.
    pub redirected: Rate,
    /// Slots in each of the two rows of the source table, 8 bytes each; rounded up to a power
    /// of two.
    pub source_slots: u32,
    /// Relaying.
    pub relay: RelayLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            source: Rate::new(200, 400),
            amplified: Rate::new(1_000, 2_000),
            redirected: Rate::new(200, 400),
            source_slots: 1 << 15,
            relay: RelayLimits::default(),
        }
    }
}

/// What [`crate::StunServer::new`] takes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The sockets, each at the index its id says.
    pub listeners: Vec<Listener>,
    /// The listening sockets of TCP and TLS, if there are any.
    pub streams: Vec<StreamListener>,
    /// The realm of the credentials.
    pub realm: String,
    /// The secrets of the credentials.
    pub secrets: Secrets,
    /// The budgets.
    pub limits: Limits,
    /// Relaying, if it is offered.
    pub relay: Option<RelayConfig>,
}

/// Why a [`Config`] is refused. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is nothing to listen on, or more than two addresses by two ports by two families.
    #[error("give between 1 and {MAX_LISTENERS} listeners")]
    ListenerCount,
    /// More listeners of streams than two addresses by two transports by two families.
    #[error("give at most {MAX_STREAM_LISTENERS} listeners of streams")]
    StreamCount,
    /// UDP has no streams.
    #[error("the listener of streams {0} is one of datagrams")]
    NoStream(SocketAddr),
    /// A listener's id is not its index.
    #[error("the listener at index {index} has the id {id}")]
    ListenerId {
        /// Where it is.
        index: usize,
        /// What it says.
        id: u8,
    },
    /// Clients cannot be told port 0.
    #[error("listener {0} has no port")]
    NoPort(SocketAddr),
    /// Two listeners of one family claim one place.
    #[error("two {family} listeners are both {role:?}")]
    DuplicateRole {
        /// The claimed place.
        role: ListenerRole,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// A family has alternates of nothing.
    #[error("there are {0} listeners but none of them is the primary address with the main port")]
    NoPrimary(&'static str),
    /// Listeners of one address differ in it, or those of different addresses do not.
    #[error("the {0} listeners do not form two addresses with two ports each")]
    NotASquare(&'static str),
    /// The realm is empty, too long, or not plain printable text.
    #[error("a realm is 1 to {MAX_REALM_LEN} printable ASCII characters without quotes and backslashes")]
    Realm,
    /// The source table would have no slot or take more than a quarter of a gigabyte.
    #[error("give between 1 and {MAX_SOURCE_SLOTS} source slots")]
    SourceSlots,
    /// A budget that never allows anything.
    #[error("a budget allows at least one answer a second and a burst of one")]
    Budget,
    /// There is no relay address, or one of another family, or one that is not a host's.
    #[error("give a relay address of one host, each in its own family")]
    RelayAddress,
    /// The range of relay ports is empty or has port 0.
    #[error("give a range of relay ports that starts at 1 or more and is not empty")]
    RelayPorts,
    /// Too many blocks of peers.
    #[error("give at most {MAX_PEER_BLOCKS} blocks of allowed peers and as many of denied ones")]
    PeerBlocks,
    /// A limit that never allows anything.
    #[error("each limit of the relay is at least 1")]
    RelayLimits,
}

impl Config {
    /// Checks all that does not concern the listeners' places.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let is_plain = |b: u8| (b == b' ' || b.is_ascii_graphic()) && b != b'"' && b != b'\\';
        if self.realm.is_empty() || self.realm.len() > MAX_REALM_LEN || !self.realm.bytes().all(is_plain) {
            return Err(ConfigError::Realm);
        }
        let limits = &self.limits;
        if !(1..=MAX_SOURCE_SLOTS).contains(&limits.source_slots) {
            return Err(ConfigError::SourceSlots);
        }
        let budgets = [limits.source, limits.amplified, limits.redirected];
        if budgets.iter().any(|rate| !rate.is_usable()) {
            return Err(ConfigError::Budget);
        }
        self.relay.as_ref().map_or(Ok(()), |relay| relay.validate(&limits.relay))
    }
}
