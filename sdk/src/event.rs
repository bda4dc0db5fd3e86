//! What a node tells its application.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_proto::wire::Refusal;
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, Evidence, NatBehavior, NetworkClass, NodeId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The node is a member of the cluster and present.
    Joined {
        /// This node.
        id: NodeId,
        /// The cluster's name.
        cluster: String,
        /// Its type.
        kind: ClusterNetwork,
        /// What it amounts to now.
        effective: EffectiveNetwork,
        /// The node had been here before in its life: it came back.
        again: bool,
        /// The server that took it, as it was given: a URL, or a seed.
        server: String,
    },
    /// The node was judged.
    Classified(Classification),
    /// What the cluster amounts to has changed, and every member is judged again. Whoever does not fit has
    /// a minute to, and then hears [`Event::Rejected`].
    ClusterChanged {
        /// What it amounts to now.
        effective: EffectiveNetwork,
    },
    /// The node found out what NAT it sits behind.
    Behavior(NatBehavior),
    /// A peer came, or what is known of it changed.
    PeerJoined(Peer),
    /// A peer went away.
    PeerLeft(NodeId),
    /// The rendezvous is out of reach. The node tries again by itself; paths to peers stay.
    Disconnected {
        /// What the server said, if it said anything.
        refusal: Option<Refusal>,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// The cluster does not take this node, and trying again would not help. The last event.
    Rejected(Refusal),
    /// No server took the node for as long as it was to try
    /// ([`Builder::give_up_after`](crate::Builder::give_up_after)); what kept it from each. The last event.
    GivenUp(String),
    /// The node has left. The last event.
    Left,
    /// This reader was too slow, and so many events are gone.
    Missed(u64),
}

/// What a node was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classification {
    /// Its class.
    pub class: NetworkClass,
    /// On what ground.
    pub evidence: Evidence,
    /// Its mapping, as the server observed it.
    pub observed: Option<SocketAddr>,
    /// It can only be relayed.
    pub relayed: bool,
}

/// A member of the cluster that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// What it was found to be; absent while it is being judged.
    pub class: Option<NetworkClass>,
    /// It can only be relayed.
    pub relayed: bool,
}

/// A reader of events. It begins with what is so already: that the node has joined, and as what.
#[derive(Debug)]
pub struct Events {
    present: VecDeque<Event>,
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    pub(crate) fn new(present: VecDeque<Event>, receiver: broadcast::Receiver<Event>) -> Self {
        Self { present, receiver }
    }

    /// The next event; `None` once the node has ended. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.present.pop_front() {
            return Some(event);
        }
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}
