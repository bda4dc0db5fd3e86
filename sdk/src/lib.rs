//! Thin node client: join a cluster, learn what network you sit in, meet peers directly.
//!
//! ```no_run
//! # async fn example(token: String) -> Result<(), Box<dyn std::error::Error>> {
//! let node = meetpoint::Node::builder("https://rendezvous.example:8080")
//!     .name("alice")
//!     .join_token(token)
//!     .start()
//!     .await?;
//! let connection = node.connect("bob").await?;
//! let (mut send, mut recv) = connection.open_bi().await?;
//! send.write_all(b"hello").await?;
//! send.finish()?;
//! println!("{:?} by {}", recv.read_to_end(1024).await?, connection.path().borrow().remote);
//! node.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Node`] is a member of one cluster. It keeps a control channel to the rendezvous server,
//! reconnects by itself, and meets peers by UDP hole punching; a [`Connection`] is QUIC over the path
//! that was found, with the peer's key proven.
//!
//! From below:
//!
//! * `egress`: the one gate through which all leaves that a node sends.
//! * `key`: who this node is.
//! * `paths`, `demux`, `mux`: one UDP socket for STUN, punch checks and QUIC, and which real
//!   address carries which peer.
//! * `interfaces`: the machine's addresses, and when they change; `portmap`: the router's ports.
//! * `route`: the first routers on the way to a server.
//! * `raw_key`, `quic`: connections between nodes, by key.
//! * `servers`, `srv`: the rendezvous servers that a node knows; `tls`, `dial`, `ws`, `control`: the control channel to
//!   one.
//! * `driver`: the task that owns the agent (`meetpoint-agent`, which decides) and does what it says;
//!   `shared`: what the application may ask without waiting for it.
//! * `meet`, `introducer`: introductions by peers while the server is away, as a guest and as the one who introduces.
//! * `http`: one request, for lists and routers.
//! * `sources`: where a node hears of servers; and announcing one.
//! * `datagrams`: unreliable messages of a connection, and whose they are; `webrtc`: packets for stacks of the WebRTC
//!   family.
//! * `explain`: why a peer is met as it is, from what the node knows.
//! * `builder`, `node`, `connection`, `event`: the public face.
//!
//! Deliberately absent: decisions. Whom to send to, when and by which path is the agent's.

mod builder;
mod connection;
mod control;
mod datagrams;
mod demux;
mod dial;
mod driver;
mod egress;
mod event;
mod explain;
mod extras;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod interfaces;
#[cfg_attr(not(feature = "rendezvous"), path = "introducer/none.rs")]
mod introducer;
mod key;
mod meet;
mod mux;
mod netcheck;
mod node;
mod paths;
#[cfg_attr(not(feature = "portmap"), path = "portmap/none.rs")]
mod portmap;
mod provisional;
mod quic;
mod raw_key;
mod relay;
mod route;
mod servers;
mod shared;
pub mod sources;
#[cfg(feature = "dns")]
mod srv;
mod tls;
mod usage;
#[cfg(feature = "webrtc")]
pub mod webrtc;
mod ws;

pub use builder::{Builder, StartError};
pub use connection::{Connection, PathInfo, PathKind};
pub use egress::Blocked;
pub use event::{Classification, Event, Events, Peer};
pub use http::HttpError;
pub use key::{KeyError, NodeKey};
pub use meetpoint_proto::id::Fingerprint;
pub use meetpoint_proto::wire::{Refusal, StunServer};
pub use meetpoint_proto::{
    ClusterNetwork, Code, EffectiveNetwork, Evidence, NatBehavior, NatDepth, NetworkClass, NetworkType,
    NodeId, SeedAddr,
};
pub use mux::SocketStats;
pub use netcheck::nat_behavior;
pub use node::{ConnectError, Node, PeerRef};
#[cfg(feature = "portmap")]
pub use portmap::{PortMapping, port_mapping};
pub use quic::ConnectError as HandshakeError;
pub use quinn::{ConnectionError, RecvStream, SendStream};
pub use servers::ServerError;
pub use tls::Pins;
pub use ws::{OpenError, OpenStage, ServerStream, ServerUrl, UrlError, open_stream};

/// The guide's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct Guide;
