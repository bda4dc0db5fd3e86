//! STUN and TURN over TCP and TLS (RFC 8489, sections 6.2.2 and 6.2.3; RFC 8656, section 3.1).
//!
//! The machine of `meetpoint_turn` knows datagrams. Here a connection becomes a sequence of them: frames
//! are cut out of what arrives and put into the inbox of the shard that serves the connection's
//! source, and what the shard answers is written back, many answers at a time.
//!
//! * `bind` takes the sockets;
//! * `accept` lets connections in, and shakes hands if they are to be encrypted;
//! * `places` counts them;
//! * `connection` is the way of the bytes, in both directions;
//! * `frames` cuts.
//!
//! # What holds
//!
//! * The shard never waits for a connection. Answers and relayed data that find a connection's queue
//!   full are lost, as datagrams would be.
//! * A connection waits for the shard: it reads no more while the inbox is full, and so TCP slows its
//!   sender down.
//! * For each `Opened` there is one `Closed` behind it, whatever ends the connection.
//! * All that a stranger can hold open has a bound in number and in time.
//!
//! Deliberately absent: anything about STUN but where a frame ends, and who holds an allocation.

mod accept;
mod bind;
mod connection;
mod frames;
mod places;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use meetpoint_turn::{ListenerId, StreamListener, Transport};
use rustls::ServerConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::{Identity, IdentityError};
use crate::listen::as_seen;
use crate::udp::Inboxes;

use accept::{Acceptor, Shared};
pub(crate) use bind::{StreamSocket, StreamSockets};
use places::Bounds;

/// The protocols a client may ask for (RFC 7443, section 3).
const PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// In the clear.
    Tcp,
    /// Encrypted.
    Tls,
}

impl From<StreamKind> for Transport {
    fn from(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Tcp => Self::Tcp,
            StreamKind::Tls => Self::Tls,
        }
    }
}

/// The listeners for TCP and TLS, which do not accept yet.
pub(crate) struct Streams {
    sockets: Vec<(ListenerId, StreamSocket)>,
    tls: Arc<ServerConfig>,
    bounds: Bounds,
}

/// What the connections share with the rest of the server.
pub(crate) struct Surroundings {
    /// The shards.
    pub(crate) inboxes: Inboxes,
    /// Owns the connections.
    pub(crate) tasks: TaskTracker,
    /// No new connections; those that are there get what is already answered, and end.
    pub(crate) stop: CancellationToken,
}

impl Streams {
    /// The listeners' ids count on from `first`, in the order of the sockets.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub(crate) fn new(
        sockets: Vec<StreamSocket>,
        first: ListenerId,
        identity: &Arc<Identity>,
    ) -> Result<Self, IdentityError> {
        let ids = (first.0..).map(ListenerId);
        let tls = identity.server_config(&PROTOCOLS)?;
        Ok(Self { sockets: ids.zip(sockets).collect(), tls, bounds: Bounds::default() })
    }

    /// What the machine is told about them, with the addresses by which clients know them. Behind a
    /// 1:1 NAT that is the external one for the first address of a family.
    pub(crate) fn listeners(&self, external: Option<IpAddr>) -> Vec<StreamListener> {
        let listener = |(index, (id, socket)): (usize, &(ListenerId, StreamSocket))| {
            let is_alike = |other: &StreamSocket| {
                other.kind == socket.kind && other.addr.is_ipv4() == socket.addr.is_ipv4()
            };
            let is_first = !self.sockets.iter().take(index).any(|(_, other)| is_alike(other));
            let addr = as_seen(socket.addr, external.filter(|_| is_first));
            StreamListener { id: *id, transport: socket.kind.into(), addr }
        };
        self.sockets.iter().enumerate().map(listener).collect()
    }

    /// Accepts until told to stop, or until a listener ends that should not.
    ///
    /// # Errors
    /// The runtime does not take a socket.
    pub(crate) async fn run(self, surroundings: Surroundings) -> io::Result<()> {
        let Surroundings { inboxes, tasks, stop } = surroundings;
        let shared = Arc::new(Shared::new(inboxes, self.tls, self.bounds, tasks, stop.clone()));
        let mut accepting = JoinSet::new();
        for (listener, StreamSocket { socket, kind, .. }) in self.sockets {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let acceptor = Acceptor { socket, listener, kind, shared: Arc::clone(&shared) };
            accepting.spawn(acceptor.run());
        }
        tokio::select! {
            // Without any listener there is nothing to do until then.
            () = stop.cancelled() => {}
            Some(_) = accepting.join_next() => {}
        }
        Ok(())
    }
}
