//! How all others talk to the broker's task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::config::AccessLimits;
use meetpoint_broker::{Broker, ConnId};
use meetpoint_proto::wire::{ClientMessage, DecodeError, RevocationText, ServerMessage};
use meetpoint_proto::{ClusterName, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Messages that wait for one node: a full directory (three pages) and a burst of joins. A node that
/// has more waiting does not read.
pub(super) const OUTBOUND: usize = 512;

/// A connection as the control shell sees it.
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// What to send. Its end is the order to close.
    pub(crate) outbound: mpsc::Receiver<Outgoing>,
    /// Cancelled if the node does not read: close without sending what waits.
    pub(crate) too_slow: CancellationToken,
}

/// What goes out on a connection. Small, since a queue holds many.
pub(crate) enum Outgoing {
    /// To be encoded.
    Message(Box<ServerMessage>),
    /// Encoded once for many.
    Frame(Arc<str>),
}

pub(super) type Query = Box<dyn FnOnce(&Broker) + Send>;

/// What the task is asked for.
pub(super) enum Request {
    Open { conn: ConnId, source: SocketAddr, outbound: mpsc::Sender<Outgoing>, too_slow: CancellationToken },
    Message { conn: ConnId, message: ClientMessage },
    Malformed { conn: ConnId, error: DecodeError },
    Closed { conn: ConnId },
    Revoke { cluster: ClusterName, node: NodeId, until_unix_s: u64 },
    Told { cluster: ClusterName, text: RevocationText },
    Restore { cluster: ClusterName, node: NodeId },
    EndSession { cluster: ClusterName, node: NodeId },
    Limits(Box<AccessLimits>),
    Drain { deadline: Instant },
    Query(Query),
}

/// The broker task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Talks to the broker task.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) next_conn: Arc<AtomicU64>,
}

impl Handle {
    /// Announces a connection.
    pub(crate) async fn open(&self, source: SocketAddr) -> Result<Connection, Gone> {
        let id = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let (sender, outbound) = mpsc::channel(OUTBOUND);
        let too_slow = CancellationToken::new();
        let request = Request::Open { conn: id, source, outbound: sender, too_slow: too_slow.clone() };
        self.send(request).await?;
        Ok(Connection { id, outbound, too_slow })
    }

    pub(crate) async fn message(&self, conn: ConnId, message: ClientMessage) -> Result<(), Gone> {
        self.send(Request::Message { conn, message }).await
    }

    pub(crate) async fn malformed(&self, conn: ConnId, error: DecodeError) -> Result<(), Gone> {
        self.send(Request::Malformed { conn, error }).await
    }

    pub(crate) async fn closed(&self, conn: ConnId) -> Result<(), Gone> {
        self.send(Request::Closed { conn }).await
    }

    /// Ends a removed node's session, if it has one, and tells the members.
    pub(crate) async fn revoke(
        &self,
        cluster: ClusterName,
        node: NodeId,
        until_unix_s: u64,
    ) -> Result<(), Gone> {
        self.send(Request::Revoke { cluster, node, until_unix_s }).await
    }

    /// The home of a foreign cluster has removed a node, and has signed that.
    pub(crate) async fn told(&self, cluster: ClusterName, text: RevocationText) -> Result<(), Gone> {
        self.send(Request::Told { cluster, text }).await
    }

    /// A removed node may come back.
    pub(crate) async fn restore(&self, cluster: ClusterName, node: NodeId) -> Result<(), Gone> {
        self.send(Request::Restore { cluster, node }).await
    }

    /// Ends a node's session, if it has one: it is to join anew.
    pub(crate) async fn end_session(&self, cluster: ClusterName, node: NodeId) -> Result<(), Gone> {
        self.send(Request::EndSession { cluster, node }).await
    }

    /// Counts by these limits from now on.
    pub(crate) async fn set_limits(&self, limits: AccessLimits) -> Result<(), Gone> {
        self.send(Request::Limits(Box::new(limits))).await
    }

    /// Tells all members that the server ends then, so that they can go elsewhere.
    pub(crate) async fn drain(&self, deadline: Instant) -> Result<(), Gone> {
        self.send(Request::Drain { deadline }).await
    }

    /// Asks the broker something. The question must be quick: the loop waits for it.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Broker) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone away.
        let query = Box::new(move |broker: &Broker| drop(reply.send(question(broker))));
        self.send(Request::Query(query)).await?;
        answer.await.map_err(|_| Gone)
    }

    async fn send(&self, request: Request) -> Result<(), Gone> {
        self.requests.send(request).await.map_err(|_| Gone)
    }
}
