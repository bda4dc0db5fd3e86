//! A connection to a peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meetpoint_proto::NodeId;
use quinn::{ConnectionError, RecvStream, SendDatagramError, SendStream, VarInt};
use tokio::sync::watch;

use crate::datagrams::{self, Datagrams};
use crate::quic::Watch;
use crate::shared::PeerUse;

/// An encrypted connection to one peer, whose key it has proven. Cheap to clone; closed when the last
/// clone is dropped.
///
/// It outlives changes of the path below it: streams go on, and [`Connection::path`] tells. With no path at all it ends
/// after 40 s, as if this side had closed it.
#[derive(Debug, Clone)]
pub struct Connection {
    local: NodeId,
    peer: NodeId,
    quic: quinn::Connection,
    datagrams: Arc<Datagrams>,
    path: watch::Receiver<PathInfo>,
    _held: Arc<(Arc<PeerUse>, Watch)>,
}

/// The way by which a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathInfo {
    /// What kind of way.
    pub kind: PathKind,
    /// Where the peer's datagrams come from: its own address, or its NAT's.
    pub remote: SocketAddr,
    /// Round trip of the newest check; about, while the first is under way.
    pub rtt: Duration,
    /// From the connect call to the first verified packet; if the call had to wait for the peer to join,
    /// from the peer's arrival, and on the accepting side from the introduction.
    pub elapsed: Duration,
}

/// What kind of way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathKind {
    /// Straight to the peer; nobody else carries the data. A LAN counts as direct.
    Direct,
    /// By way of a server, which carries the datagrams and can't read them.
    Relayed,
}

impl PathKind {
    /// The word used in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

impl From<meetpoint_agent::Path> for PathInfo {
    fn from(path: meetpoint_agent::Path) -> Self {
        let kind = match path.kind {
            meetpoint_agent::PathKind::Direct => PathKind::Direct,
            meetpoint_agent::PathKind::Relayed => PathKind::Relayed,
        };
        Self { kind, remote: path.way.remote, rtt: path.rtt, elapsed: path.elapsed }
    }
}

impl Connection {
    pub(crate) fn new(
        local: NodeId,
        peer: NodeId,
        quic: quinn::Connection,
        path: watch::Receiver<PathInfo>,
        held: (Arc<PeerUse>, Watch),
    ) -> Self {
        let datagrams = Arc::new(Datagrams::new(quic.clone()));
        Self { local, peer, quic, datagrams, path, _held: Arc::new(held) }
    }

    /// What is below, for what this crate offers on top of it.
    #[cfg(feature = "webrtc")]
    pub(crate) fn parts(&self) -> (&quinn::Connection, &Datagrams) {
        (&self.quic, &self.datagrams)
    }

    /// Whose end this is: the key of this node.
    #[must_use]
    pub fn local(&self) -> NodeId {
        self.local
    }

    /// Whom it leads to.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The path it takes, now and whenever that changes.
    #[must_use]
    pub fn path(&self) -> watch::Receiver<PathInfo> {
        self.path.clone()
    }

    /// Opens a stream in both directions. The peer hears of it with the first byte sent.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.quic.open_bi().await
    }

    /// Opens a stream to the peer. The peer hears of it with the first byte sent.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        self.quic.open_uni().await
    }

    /// The peer's next stream in both directions.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.quic.accept_bi().await
    }

    /// The peer's next stream to this node.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        self.quic.accept_uni().await
    }

    /// Sends an unreliable message, of at most [`Connection::max_datagram_size`] bytes.
    ///
    /// # Errors
    /// If it is too large, or the connection has ended.
    pub fn send_datagram(&self, message: Bytes) -> Result<(), SendDatagramError> {
        self.quic.send_datagram(datagrams::plain(message))
    }

    /// The peer's next unreliable message. Cancelling loses nothing.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        self.datagrams.read().await
    }

    /// The largest unreliable message, in bytes; `None` if the peer takes none.
    #[must_use]
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.quic.max_datagram_size()?.checked_sub(datagrams::MARK_LEN)
    }

    /// Ends it. The peer gets the code and the reason, what is still in flight may be lost.
    pub fn close(&self, code: u32, reason: &str) {
        self.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits for its end, and tells why.
    pub async fn closed(&self) -> ConnectionError {
        self.quic.closed().await
    }
}
