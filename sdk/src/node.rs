//! A node: the public face.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use meetpoint_proto::explain::Outcome;
use meetpoint_proto::wire::Refusal;
use meetpoint_proto::{ClusterNetwork, Code, EffectiveNetwork, NodeId};
use quinn::Connecting;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::builder::{Builder, StartError};
use crate::connection::{Connection, PathInfo, PathKind};
use crate::driver::{Command, Stage};
use crate::event::{Classification, Events, Peer};
use crate::mux::{Mux, SocketStats};
use crate::quic::{Accepted, ConnectError as QuicError, Quic};
use crate::shared::{PeerUse, Shared};

/// How long leaving waits for the server's goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A member of a cluster. Dropping it ends its tasks without saying goodbye; [`Node::leave`] says it.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    name: String,
    cluster: String,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    next_request: AtomicU32,
    quic: Quic,
    mux: Arc<Mux>,
    accepted: Mutex<mpsc::Receiver<Accepted>>,
    stage: watch::Receiver<Stage>,
    cancel: CancellationToken,
    _ends_with_node: DropGuard,
}

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The rendezvous could not introduce the two, or no direct path was found.
    #[error("{}: {}", .0.code, .0.hint)]
    Refused(Refusal),
    /// There is a path, but no connection came of it.
    #[error(transparent)]
    Handshake(#[from] QuicError),
    /// This node has left, or was rejected.
    #[error("this node has ended; start a new one")]
    NodeEnded,
}

/// A peer, by name or by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRef(pub(crate) String);

impl From<&str> for PeerRef {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&String> for PeerRef {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<NodeId> for PeerRef {
    fn from(id: NodeId) -> Self {
        Self(id.to_string())
    }
}

impl From<&Peer> for PeerRef {
    fn from(peer: &Peer) -> Self {
        peer.id.into()
    }
}

/// Withdraws a request whose caller has gone away.
struct Pending<'a> {
    commands: &'a mpsc::Sender<Command>,
    request: u32,
    answered: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // A full queue only means that the answer, when it comes, finds nobody.
            let _ = self.commands.try_send(Command::Cancel { request: self.request });
        }
    }
}

/// How a request for a path ends.
type PathAnswer = Result<(NodeId, Arc<PeerUse>), Refusal>;

/// How far a handshake has come that did not wait for a path.
enum Begun {
    Connecting(Connecting),
    Done(quinn::Connection),
}

/// What [`Builder::start`] hands over.
pub(crate) struct Started {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) quic: Quic,
    pub(crate) mux: Arc<Mux>,
    pub(crate) accepted: mpsc::Receiver<Accepted>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) cancel: CancellationToken,
}

impl Node {
    /// Begins a node that joins by the rendezvous at `url`: `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn builder(url: &str) -> Builder {
        Builder::default().server(url)
    }

    pub(crate) fn new(started: Started) -> Self {
        let Started { id, name, cluster, shared, commands, quic, mux, accepted, stage, cancel } = started;
        Self {
            id,
            name,
            cluster,
            shared,
            commands,
            next_request: AtomicU32::new(1),
            quic,
            mux,
            accepted: Mutex::new(accepted),
            stage,
            _ends_with_node: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// This node's key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The cluster's type, and what it amounts to now.
    #[must_use]
    pub fn network(&self) -> Option<(ClusterNetwork, EffectiveNetwork)> {
        self.shared.network()
    }

    /// What this node was found to be; `None` while it is being judged.
    #[must_use]
    pub fn class(&self) -> Option<Classification> {
        self.shared.classification()
    }

    /// What this node takes along to a server that is not the cluster's home ([`Builder::membership`]): its newest
    /// membership certificate and the cluster's key, in one line. No secret, and of use only with this node's key. It
    /// holds for a day, and is renewed in time as long as the node is at the cluster's home server.
    #[must_use]
    pub fn membership(&self) -> Option<String> {
        self.shared.membership().map(|membership| membership.to_string())
    }

    /// Replaces the cluster secrets to join by, the newest first, while the node runs. The present session stays as it
    /// is.
    ///
    /// # Errors
    /// [`StartError`] if one is no secret, or there are more than eight; or if the node has ended. Then nothing has
    /// changed.
    pub async fn set_cluster_secrets(&self, secrets: &[String]) -> Result<(), StartError> {
        let secrets = crate::builder::parse_secrets(secrets)?;
        let ended = |_| StartError::Io("this node has ended; start a new one".to_owned());
        self.commands.send(Command::Secrets(secrets)).await.map_err(ended)
    }

    /// The members that are present, by name, without this node. In a cluster of more than 100 the server announces
    /// only the first 100; every other can be connected to by name or id all the same.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.shared.peers()
    }

    /// Events from now on, after what is so already.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.subscribe()
    }

    /// Datagrams counted since the start.
    #[must_use]
    pub fn socket_stats(&self) -> SocketStats {
        self.mux.stats()
    }

    /// Connects to a peer that is present.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing is left behind. `PeerOffline` among them if the peer is not here.
    pub async fn connect(&self, peer: impl Into<PeerRef>) -> Result<Connection, ConnectError> {
        self.meet(peer.into(), false).await
    }

    /// The same, but waits for the peer to join.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing is left behind.
    pub async fn connect_when_present(&self, peer: impl Into<PeerRef>) -> Result<Connection, ConnectError> {
        self.meet(peer.into(), true).await
    }

    async fn meet(&self, peer: PeerRef, wait: bool) -> Result<Connection, ConnectError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let (early, named) = oneshot::channel();
        let word = peer.0.clone();
        let command = Command::Connect { request, peer: peer.0, wait, reply, early };
        self.commands.send(command).await.map_err(|_| ConnectError::NodeEnded)?;
        let mut pending = Pending { commands: &self.commands, request, answered: false };
        let (answer, begun) = self.await_path(answer, named).await?;
        pending.answered = true;
        let (peer, in_use) = answer.map_err(|refusal| self.not_met(&word, refusal))?;
        let PathInfo { kind, rtt, elapsed, .. } = *self.shared.path(&peer).ok_or(QuicError::NoPath)?.borrow();
        let elapsed_ms = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
        let outcome = match kind {
            PathKind::Direct => Outcome::Direct { elapsed_ms },
            PathKind::Relayed => Outcome::Relayed,
        };
        self.note_meeting(peer, outcome);
        let early = match begun {
            Some(Begun::Connecting(begun)) => self.quic.finish(begun).await.ok(),
            Some(Begun::Done(quic)) => Some(quic).filter(|quic| quic.close_reason().is_none()),
            None => None,
        };
        let quic = match early {
            Some(quic) => quic,
            // What went wrong while there was no path says little.
            None => self.quic.connect(&peer, rtt).await?,
        };
        self.connection(peer, quic, in_use)
    }

    /// Waits for a path. QUIC's handshake begins when the driver says so, and if it ends first there is a path by that.
    async fn await_path(
        &self,
        mut answer: oneshot::Receiver<PathAnswer>,
        mut named: oneshot::Receiver<(NodeId, Connecting)>,
    ) -> Result<(PathAnswer, Option<Begun>), ConnectError> {
        let ended = |answer: Result<PathAnswer, _>| answer.map_err(|_| ConnectError::NodeEnded);
        let (peer, mut begun) = tokio::select! {
            answer = &mut answer => return Ok((ended(answer)?, None)),
            Ok(begun) = &mut named => begun,
        };
        let done = tokio::select! {
            answer = &mut answer => return Ok((ended(answer)?, Some(Begun::Connecting(begun)))),
            done = &mut begun => done.ok(),
        };
        if done.is_some() {
            let command = Command::HandshakeDone { peer };
            self.commands.send(command).await.map_err(|_| ConnectError::NodeEnded)?;
        }
        Ok((ended(answer.await)?, done.map(Begun::Done)))
    }

    /// Remembers that no path was found, for whoever asks why.
    fn not_met(&self, word: &str, refusal: Refusal) -> ConnectError {
        if let Some(peer) = self.shared.find_peer(word).filter(|_| refusal.code == Code::NoPath) {
            self.note_meeting(peer.id, Outcome::Failed);
        }
        ConnectError::Refused(refusal)
    }

    fn note_meeting(&self, peer: NodeId, outcome: Outcome) {
        self.shared.with_meetings(|meetings| meetings.note(Instant::now(), peer, outcome));
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn connection(
        &self,
        peer: NodeId,
        quic: quinn::Connection,
        in_use: Arc<PeerUse>,
    ) -> Result<Connection, ConnectError> {
        let path = self.shared.path(&peer).ok_or(QuicError::NoPath)?;
        let watch = self.quic.watch(peer, &quic);
        Ok(Connection::new(self.id, peer, quic, path, (in_use, watch)))
    }

    /// The next connection of a peer; `None` once the node has ended. Cancelling loses nothing.
    pub async fn accept(&self) -> Option<Connection> {
        let mut accepted = self.accepted.lock().await;
        loop {
            let (peer, quic) = tokio::select! {
                accepted = accepted.recv() => accepted?,
                () = self.cancel.cancelled() => return None,
            };
            let in_use = self.shared.use_peer(peer);
            // A path that went away in this moment takes its connection with it.
            if let Ok(connection) = self.connection(peer, quic, in_use) {
                return Some(connection);
            }
        }
    }

    /// Leaves the cluster: closes all connections, says goodbye to the server and ends. Events and [`Node::accept`]
    /// then come to their end.
    pub async fn leave(&self) {
        self.quic.close("the node leaves the cluster").await;
        let mut stage = self.stage.clone();
        let goodbye = async {
            if self.commands.send(Command::Leave).await.is_ok() {
                // An error means that the driver is gone, which is what this waits for.
                let _ = stage.wait_for(|stage| matches!(stage, Stage::Ended(_) | Stage::GivenUp(_))).await;
            }
        };
        if timeout(LEAVE_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!("the server did not answer the goodbye");
        }
        self.cancel.cancel();
        // The driver is gone when it has taken back what the router has mapped; if that fails it ends with its lease.
        let _ = timeout(LEAVE_TIMEOUT, self.commands.closed()).await;
    }
}
