//! QUIC between nodes, over [`Mux`].
//!
//! TLS 1.3 with raw public keys (RFC 7250) on both sides: a node's certificate is its Ed25519
//! key, so there is nothing to issue, parse or expire. The connecting side accepts exactly the
//! key it was told to reach; the accepting side any key in [`Admitted`], and only from the
//! address where a check by that very key was answered.
//!
//! Paths change below QUIC, which sees one address per peer: its migration is off, so that a
//! packet under a wrong synthetic address is dropped and not followed. There is no resumption
//! and no early data: a connection is set up once per pair, and each proves both keys.
//!
//! QUIC keeps congestion window, round trip and MTU across a path change. MTU discovery is off
//! for that reason; 1200 bytes pass everywhere (RFC 9000, section 14), in a relay's framing too.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use meetpoint_proto::{NodeId, meet};
use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig,
    TokioRuntime, TransportConfig, TransportErrorCode, ValidationTokenConfig, VarInt,
};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;

use crate::key::NodeKey;
use crate::mux::Mux;
use crate::paths::{MAX_PEERS, PathTable, SyntheticAddr};
use crate::raw_key;

/// What both ends must speak; the number changes with what runs inside the streams.
const ALPN: &[u8] = b"meetpoint/1";

/// A name that TLS wants and nobody looks at: it is not sent, and the key is pinned.
const SERVER_NAME: &str = "meetpoint.invalid";

/// The least a path must carry (RFC 9000, section 14), and all that is ever sent.
const MTU: u16 = 1200;

/// The agent's checks keep NATs awake and show that the peer is there; this only shows that its end of the connection
/// still is, twice within the patience below. More often would cost much where a NAT has just moved: QUIC repeats an
/// unanswered one within milliseconds, again and again. The side that connects asks, and the answer shows the same to
/// the other.
const KEEP_ALIVE: Duration = Duration::from_secs(100);

/// Silence after which a connection is lost, if there is a path. Where there is none [`LOST_AFTER`] is sooner.
const IDLE_TIMEOUT: Duration = Duration::from_secs(240);

/// The same two for connections to a peer that introduces: whether it still does should be known soon.
const INTRODUCER_KEEP_ALIVE: Duration = Duration::from_secs(20);
const INTRODUCER_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Time without any path after which a connection is lost. Long enough to punch a new path a few times under
/// it, which the streams then survive: with the 5 s after which a path that leaves data unanswered is given up, 45 s.
const LOST_AFTER: Duration = Duration::from_secs(40);

/// A handshake takes two round trips; this allows for lost packets on the slowest of paths.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds on the round trip that a connection assumes at first: not so short that a busy peer is asked
/// twice, nor longer than QUIC's own assumption (RFC 9002, section 6.2.2).
const MIN_INITIAL_RTT: Duration = Duration::from_millis(10);
const MAX_INITIAL_RTT: Duration = Duration::from_millis(333);
/// What the accepting side assumes, which does not look up the path.
const ACCEPT_INITIAL_RTT: Duration = Duration::from_millis(100);

/// Handshakes of accepted connections in progress; each is a few kilobytes.
const MAX_HANDSHAKES: usize = 64;

/// Streams of each kind that a peer may have open.
const MAX_STREAMS: u32 = 256;

/// Bytes a peer may have in flight on one stream: 100 ms at 200 Mbit/s.
const STREAM_WINDOW_LEN: u32 = 2 << 20;

/// Bytes buffered for one connection, either way, whatever the number of its streams.
const CONNECTION_WINDOW_LEN: u32 = 8 << 20;

/// Bytes of unreliable datagrams buffered for one connection; beyond it the oldest are dropped.
const DATAGRAM_BUFFER_LEN: usize = 1 << 20;

/// Close code: this node leaves, all is well.
pub(crate) const CLOSE_DONE: VarInt = VarInt::from_u32(0);

/// Close code: the key is right, the address it came from is another peer's.
const CLOSE_WRONG_PATH: VarInt = VarInt::from_u32(1);

/// Close code: nobody has taken the connection, and too many wait.
const CLOSE_BUSY: VarInt = VarInt::from_u32(2);

/// Close code: no path is left. The peer only gets it if one comes back in this very moment.
const CLOSE_LOST: VarInt = VarInt::from_u32(3);

/// Connections that wait for the application to take them.
pub(crate) const ACCEPT_QUEUE: usize = 64;

/// The keys that may connect to this node: those it was introduced to.
#[derive(Debug, Default)]
pub(crate) struct Admitted(RwLock<HashSet<NodeId>>);

impl Admitted {
    /// Lets `peer` connect from now on; false if there is no room for one more.
    #[must_use]
    pub(crate) fn admit(&self, peer: NodeId) -> bool {
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains(&peer) {
            return false;
        }
        peers.insert(peer);
        true
    }

    /// Lets `peer` no longer connect; connections it has stay.
    pub(crate) fn revoke(&self, peer: &NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    /// True if `peer` may connect.
    pub(crate) fn contains(&self, peer: &NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
}

/// Why the endpoint could not be had: the key or the build is not what TLS can use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum EndpointError {
    /// TLS refused the key or the settings.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The cryptography provider lacks what QUIC needs.
    #[error("cannot set up QUIC: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
    /// No runtime to run on.
    #[error("cannot start QUIC: {0}")]
    Io(#[from] std::io::Error),
}

/// Why a peer was not connected. No connection is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No check has been answered by the peer.
    #[error("there is no path to the peer yet; wait for its path event, then connect")]
    NoPath,
    /// Someone else answers at the peer's address.
    #[error("whoever answers at the peer's address does not hold the peer's key")]
    WrongKey,
    /// The peer does not take this node's connections.
    #[error("the peer refuses this node: it was not introduced to it, or no longer; ask for an introduction")]
    Refused,
    /// The path is there, but the handshake did not finish.
    #[error("the peer did not finish the handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    TimedOut,
    /// This node is closing.
    #[error("this node is closing")]
    Closing,
    /// The connection ended for another reason.
    #[error("the connection ended: {0}")]
    Lost(#[source] ConnectionError),
}

impl From<ConnectionError> for ConnectError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::Closing,
            ConnectionError::TransportError(error) if error.code == access_denied() => Self::WrongKey,
            error if is_refusal(&error) => Self::Refused,
            error => Self::Lost(error),
        }
    }
}

/// True if the peer ended a connection because it does not admit this node's key.
///
/// In TLS 1.3 the connecting side is done before the accepting side has seen its key, so a
/// refusal may come after `connect` succeeded, as the end of the connection.
pub(crate) fn is_refusal(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ConnectionClosed(close) => {
            close.error_code == access_denied() || close.error_code == TransportErrorCode::CONNECTION_REFUSED
        }
        ConnectionError::ApplicationClosed(close) => close.error_code == CLOSE_WRONG_PATH,
        _ => false,
    }
}

/// Ends a connection whose peer has had no path for [`LOST_AFTER`]; for as long as it is held.
#[derive(Debug)]
pub(crate) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How both verifiers' refusal looks on the wire: the TLS alert `access_denied` (RFC 8446,
/// section 6.2) as a QUIC error (RFC 9001, section 4.8).
fn access_denied() -> TransportErrorCode {
    TransportErrorCode::crypto(rustls::AlertDescription::AccessDenied.into())
}

/// This node's QUIC endpoint: connects to peers that have a path.
#[derive(Debug, Clone)]
pub(crate) struct Quic {
    endpoint: Endpoint,
    paths: Arc<PathTable>,
    identity: Arc<CertifiedKey>,
}

impl Quic {
    /// Starts QUIC on `mux` as the node that holds `key`; peers' connections, if they are in
    /// `admitted`, come out of the returned acceptor.
    pub(crate) fn start(
        mux: Arc<Mux>,
        key: &NodeKey,
        admitted: Arc<Admitted>,
    ) -> Result<(Self, Acceptor), EndpointError> {
        let identity = raw_key::certified_key(key)?;
        let paths = Arc::clone(mux.paths());
        let mut config = EndpointConfig::default();
        // A greased packet (RFC 9287) would look like another protocol of the same socket.
        config.grease_quic_bit(false);
        let server = server_config(&identity, Arc::clone(&admitted))?;
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), mux, Arc::new(TokioRuntime))?;
        let acceptor = Acceptor {
            endpoint: endpoint.clone(),
            paths: Arc::clone(&paths),
            admitted,
            handshakes: JoinSet::new(),
        };
        Ok((Self { endpoint, paths, identity }, acceptor))
    }

    /// Connects to `peer`, over whatever path it has at each moment.
    ///
    /// `rtt` is the path's round trip as the checks measured it: the peer may verify the path a moment
    /// later than this node and drops QUIC until then, and without that knowledge QUIC would repeat
    /// its first packet only after a second.
    ///
    /// Success means that the peer has proved its key; see [`is_refusal`] for what may follow.
    pub(crate) async fn connect(&self, peer: &NodeId, rtt: Duration) -> Result<Connection, ConnectError> {
        self.connect_for(peer, rtt, ALPN).await
    }

    /// Begins to connect to a peer that has a path, or is going to have one: what may be sent before that is the
    /// table's to say. For [`Quic::finish`]; dropping it gives the attempt up.
    pub(crate) fn begin(&self, peer: &NodeId, rtt: Duration) -> Result<Connecting, ConnectError> {
        self.begin_for(peer, rtt, ALPN)
    }

    /// Waits for the end of a handshake that has begun.
    pub(crate) async fn finish(&self, begun: Connecting) -> Result<Connection, ConnectError> {
        Ok(timeout(HANDSHAKE_TIMEOUT, begun).await.map_err(|_elapsed| ConnectError::TimedOut)??)
    }

    async fn connect_for(
        &self,
        peer: &NodeId,
        rtt: Duration,
        protocol: &[u8],
    ) -> Result<Connection, ConnectError> {
        self.finish(self.begin_for(peer, rtt, protocol)?).await
    }

    fn begin_for(&self, peer: &NodeId, rtt: Duration, protocol: &[u8]) -> Result<Connecting, ConnectError> {
        if self.paths.route_to(peer).is_none() && !self.paths.is_expected(peer) {
            return Err(ConnectError::NoPath);
        }
        let config = self.client_config(peer, rtt, protocol).map_err(|error| {
            // The same settings served the endpoint's start, so this is a bug made visible.
            tracing::error!(%error, "no client configuration");
            ConnectError::Closing
        })?;
        let addr = SyntheticAddr::of(peer).socket_addr();
        let connecting = self.endpoint.connect_with(config, addr, SERVER_NAME);
        connecting.map_err(|_endpoint_stopped| ConnectError::Closing)
    }

    /// The same, to a peer that may introduce this node to others.
    pub(crate) async fn connect_to_introducer(
        &self,
        peer: &NodeId,
        rtt: Duration,
    ) -> Result<Connection, ConnectError> {
        self.connect_for(peer, rtt, meet::ALPN).await
    }

    /// Watches over a connection of the application's.
    pub(crate) fn watch(&self, peer: NodeId, connection: &Connection) -> Watch {
        self.watch_with(LOST_AFTER, peer, connection)
    }

    fn watch_with(&self, patience: Duration, peer: NodeId, connection: &Connection) -> Watch {
        let (paths, connection) = (Arc::clone(&self.paths), connection.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = connection.closed() => {}
                () = paths.unrouted_for(&peer, patience) => connection.close(CLOSE_LOST, b"no path is left"),
            }
        });
        Watch(task.abort_handle())
    }

    /// Ends all connections, and waits until their peers have been told.
    pub(crate) async fn close(&self, reason: &str) {
        self.endpoint.close(CLOSE_DONE, reason.as_bytes());
        self.endpoint.wait_idle().await;
    }

    /// One per connection, because the pinned key and the path's round trip are part of it.
    fn client_config(
        &self,
        peer: &NodeId,
        rtt: Duration,
        protocol: &[u8],
    ) -> Result<ClientConfig, EndpointError> {
        let mut tls = raw_key::client_config(&self.identity, *peer)?;
        tls.alpn_protocols = vec![protocol.to_vec()];
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let (keep_alive, idle_timeout) = match protocol {
            meet::ALPN => (INTRODUCER_KEEP_ALIVE, INTRODUCER_IDLE_TIMEOUT),
            _ => (KEEP_ALIVE, IDLE_TIMEOUT),
        };
        let mut transport = transport_config(idle_timeout);
        transport
            .keep_alive_interval(Some(keep_alive))
            .initial_rtt(rtt.clamp(MIN_INITIAL_RTT, MAX_INITIAL_RTT));
        config.transport_config(Arc::new(transport));
        Ok(config)
    }
}

/// A peer's connection.
pub(crate) type Accepted = (NodeId, Connection);

/// Takes all that comes, and parts what is for the application from what is for this node's own use: an application
/// that takes no connections has a node that introduces its peers all the same.
pub(crate) async fn accept_all(
    mut acceptor: Acceptor,
    application: mpsc::Sender<Accepted>,
    guests: mpsc::Sender<Accepted>,
) {
    while let Some((peer, connection)) = acceptor.accept().await {
        let taker = if is_guests(&connection) { &guests } else { &application };
        if let Err(error) = taker.try_send((peer, connection)) {
            let (_, connection) = error.into_inner();
            connection.close(CLOSE_BUSY, b"this node does not take connections so fast");
        }
    }
}

/// True if the peer wants to be introduced to others.
fn is_guests(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(meet::ALPN))
}

/// Takes peers' connections.
#[derive(Debug)]
pub(crate) struct Acceptor {
    endpoint: Endpoint,
    paths: Arc<PathTable>,
    admitted: Arc<Admitted>,
    /// Handshakes run side by side, so that a slow peer delays only itself.
    handshakes: JoinSet<Result<(NodeId, Connection), AcceptError>>,
}

/// Why an incoming connection came to nothing.
#[derive(Debug, Error)]
enum AcceptError {
    #[error("the handshake failed: {0}")]
    Handshake(#[from] ConnectionError),
    #[error("the handshake took too long")]
    TimedOut,
    #[error("the key is another peer's than the path")]
    WrongPath,
    #[error("the handshake ended unexpectedly: {0}")]
    Task(#[from] JoinError),
}

impl Acceptor {
    /// The next connection whose peer has proved an admitted key on a path of its own; `None`
    /// when the endpoint is closed. Cancelling loses nothing.
    pub(crate) async fn accept(&mut self) -> Option<(NodeId, Connection)> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept(), if self.handshakes.len() < MAX_HANDSHAKES => {
                    self.begin(incoming?);
                }
                Some(ended) = self.handshakes.join_next() => {
                    match ended.map_err(AcceptError::from).flatten() {
                        Ok(accepted) => return Some(accepted),
                        Err(error) => tracing::debug!(%error, "incoming connection dropped"),
                    }
                }
            }
        }
    }

    /// A peer that is not admitted costs one packet; the handshake checks the key itself.
    fn begin(&mut self, incoming: Incoming) {
        match self.paths.peer_at(incoming.remote_address()) {
            Some(peer) if self.admitted.contains(&peer) => {
                self.handshakes.spawn(handshake(incoming, peer, Arc::clone(&self.paths)));
            }
            _ => {
                tracing::debug!(from = %incoming.remote_address(), "incoming connection refused");
                incoming.refuse();
            }
        }
    }
}

async fn handshake(
    incoming: Incoming,
    peer: NodeId,
    paths: Arc<PathTable>,
) -> Result<(NodeId, Connection), AcceptError> {
    let connecting = incoming.accept()?;
    let connection =
        timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_elapsed| AcceptError::TimedOut)??;
    // Two admitted peers must not pass for one another.
    if raw_key::peer_of(&connection) != Some(peer) {
        connection.close(CLOSE_WRONG_PATH, b"your key belongs to another path");
        return Err(AcceptError::WrongPath);
    }
    // A handshake that has begun with the first checks may be over before this side's own is answered.
    timeout(HANDSHAKE_TIMEOUT, paths.routed(&peer)).await.map_err(|_elapsed| AcceptError::TimedOut)?;
    Ok((peer, connection))
}

fn server_config(
    identity: &Arc<CertifiedKey>,
    admitted: Arc<Admitted>,
) -> Result<ServerConfig, EndpointError> {
    let mut tls = raw_key::server_config(identity, admitted)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    if cfg!(feature = "rendezvous") {
        tls.alpn_protocols.push(meet::ALPN.to_vec());
    }
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut tokens = ValidationTokenConfig::default();
    // Checks have validated every address that gets this far.
    tokens.sent(0);
    let mut transport = transport_config(IDLE_TIMEOUT);
    transport.initial_rtt(ACCEPT_INITIAL_RTT);
    config
        .transport_config(Arc::new(transport))
        .validation_token_config(tokens)
        .migration(false)
        .max_incoming(MAX_HANDSHAKES);
    Ok(config)
}

/// The shorter of both sides' patience counts.
fn transport_config(idle_timeout: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle_ms = u32::try_from(idle_timeout.as_millis()).unwrap_or(u32::MAX);
    config
        .initial_mtu(MTU)
        .min_mtu(MTU)
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(MAX_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW_LEN.into())
        .receive_window(CONNECTION_WINDOW_LEN.into())
        .send_window(CONNECTION_WINDOW_LEN.into())
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_LEN))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN);
    config
}

#[cfg(test)]
mod tests;
