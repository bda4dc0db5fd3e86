//! The events and their words. `asyncapi.yaml` is their contract.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use meetpoint_proto::{
    ClusterNetwork, EffectiveNetwork, Evidence, NetworkClass, NodeId, NodeName, SeedName, SessionId,
};
use serde::{Serialize, Serializer};

/// What happened. Its fields are the envelope's `data`: validated names, ids and words, and no text
/// that a stranger could have chosen.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    /// A node is a member and present.
    NodeAnnounce {
        node: NodeId,
        #[serde(serialize_with = "as_text")]
        name: NodeName,
        session: SessionId,
    },
    /// A node is gone.
    NodeLeave {
        node: NodeId,
        /// It said goodbye.
        graceful: bool,
    },
    /// Something else became of a node.
    NodeStatus {
        node: NodeId,
        /// A stable word.
        status: &'static str,
        /// The other node, if it is about two.
        peer: Option<NodeId>,
        /// A reason code.
        reason: Option<&'static str>,
    },
    /// A node was judged.
    NodeClass {
        node: NodeId,
        class: NetworkClass,
        evidence: Evidence,
        /// The mapping that was observed.
        observed: Option<SocketAddr>,
        /// It can only be met through a relay.
        relayed: bool,
        /// The row of the rules' tables that decided.
        rule: &'static str,
    },
    /// A node says how it meets another one.
    PathChange {
        /// Both; the lower id first.
        nodes: [NodeId; 2],
        /// A stable word.
        path: &'static str,
        /// The round trip by it, as it was measured then.
        rtt_ms: Option<f64>,
        /// From the introduction to the first verified packet, if it is a direct one.
        elapsed_ms: Option<u32>,
    },
    /// A seed was added, verified, lost or removed.
    SeedStatus {
        #[serde(serialize_with = "as_text")]
        name: SeedName,
        host: String,
        port: u16,
        /// A stable word.
        status: &'static str,
        /// A reason code.
        reason: Option<&'static str>,
    },
    /// What a cluster amounts to.
    ClusterState {
        kind: ClusterNetwork,
        effective: EffectiveNetwork,
        /// A reason code.
        reason: Option<&'static str>,
    },
    /// The stream is alive.
    Ping {},
    /// The answer to a ping.
    Pong {},
    /// Events of these numbers, first and last included, are missed.
    Gap { from: u64, to: u64, reason: GapReason },
}

/// Why events are missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GapReason {
    /// They are no longer kept.
    Expired,
    /// The server has been started since: what it told before is missed too.
    Restarted,
}

macro_rules! kinds {
    ($($variant:ident = $text:literal;)+) => {
        /// An event's type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($variant),+ }

        impl Kind {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in the envelope.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl FromStr for Kind {
            type Err = UnknownKind;

            fn from_str(text: &str) -> Result<Self, UnknownKind> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(UnknownKind) }
            }
        }

        impl Event {
            /// Its type.
            pub(crate) const fn kind(&self) -> Kind {
                match self { $(Self::$variant { .. } => Kind::$variant),+ }
            }
        }
    };
}

kinds! {
    NodeAnnounce = "node:announce";
    NodeLeave = "node:leave";
    NodeStatus = "node:status";
    NodeClass = "node:class";
    PathChange = "path:change";
    SeedStatus = "seed:status";
    ClusterState = "cluster:state";
    Ping = "system:ping";
    Pong = "system:pong";
    Gap = "system:gap";
}

/// No event has this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no event has this type")]
pub(crate) struct UnknownKind;

/// Who caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// This server.
    Server,
    /// A node.
    Node(NodeId),
}

impl Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Node(id) => write!(f, "node:{id}"),
        }
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
