//! What reaches a shard's thread from the rest of the server: a bounded channel, and a wake-up for
//! the thread, which waits for its sockets in `epoll` and not in the runtime.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use meetpoint_turn::{ListenerId, RelayPolicy, ShardId, ShardMessage};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use crate::rendezvous::StunRequest;

use super::inside::Batch;
use super::inspect::Inspection;

/// Messages that wait for a shard. A connection's reader waits when it is full, and so TCP slows its
/// sender down.
const QUEUE: usize = 1024;

/// What a connection over TCP or TLS tells the shard that serves it.
#[derive(Debug)]
pub(crate) enum StreamInput {
    /// It begins. What is to be written to it goes to `replies`; what finds that full is lost, as a
    /// datagram would be.
    Opened { listener: ListenerId, source: SocketAddr, replies: mpsc::Sender<Vec<u8>> },
    /// A whole STUN message, or ChannelData with its padding.
    Frame { listener: ListenerId, source: SocketAddr, bytes: Vec<u8> },
    /// It is over.
    Closed { listener: ListenerId, source: SocketAddr },
}

/// A message to a shard.
#[derive(Debug)]
pub(crate) enum Message {
    /// From a connection.
    Stream(StreamInput),
    /// From the broker.
    Broker(StunRequest),
    /// From the operator.
    Inspect(Inspection),
    /// How to relay from now on.
    Policy(Box<RelayPolicy>),
    /// Packets from a client of another shard to clients of this one.
    Inside(Batch),
    /// From another shard's machine.
    FromShard(ShardMessage),
    /// The same, with the relay socket it is about.
    Adopt(UdpSocket, ShardMessage),
}

/// The shard is gone: the server is ending.
#[derive(Debug, thiserror::Error)]
#[error("the server is ending")]
pub(crate) struct Gone;

/// Where messages for one shard are put.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Inbox {
    /// An inbox and its other end.
    pub(crate) fn new() -> io::Result<(Self, Arrivals)> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let (sender, receiver) = mpsc::channel(QUEUE);
        Ok((Self { sender, wake: Arc::clone(&wake) }, Arrivals { receiver, wake }))
    }

    /// Waits for a place.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Gone> {
        self.sender.send(message).await.map_err(|_| Gone)?;
        self.wake();
        Ok(())
    }

    /// False if there is no place, or nobody to read it.
    pub(crate) fn try_send(&self, message: Message) -> bool {
        let is_sent = self.sender.try_send(message).is_ok();
        if is_sent {
            self.wake();
        }
        is_sent
    }

    /// Has the shard look up, even if there is no message. An eventfd refuses only what would overflow 64
    /// bits, and then its reader is awake.
    pub(super) fn wake(&self) {
        let _ = self.wake.write(1);
    }
}

/// Where a shard takes its messages.
#[derive(Debug)]
pub(crate) struct Arrivals {
    receiver: mpsc::Receiver<Message>,
    wake: Arc<EventFd>,
}

impl Arrivals {
    /// The next message, if there is one. Before it says that there is none, the wake-up is taken
    /// back, so that a later message wakes again.
    pub(crate) fn next(&mut self) -> Option<Message> {
        self.receiver.try_recv().ok().or_else(|| {
            let _ = self.wake.read();
            self.receiver.try_recv().ok()
        })
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The inboxes of all shards.
#[derive(Debug, Clone)]
pub(crate) struct Inboxes(Arc<[Inbox]>);

impl Inboxes {
    pub(crate) fn new(inboxes: Vec<Inbox>) -> Self {
        Self(inboxes.into())
    }

    /// All of them, by their shards' ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Inbox> {
        self.0.iter()
    }

    pub(super) fn at(&self, shard: ShardId) -> Option<&Inbox> {
        self.0.get(usize::from(shard.0))
    }

    /// The shard that serves a connection from there.
    pub(crate) fn of(&self, source: SocketAddr) -> Option<&Inbox> {
        let index = usize::from(source.port()).checked_rem(self.0.len())?;
        self.0.get(index)
    }
}
