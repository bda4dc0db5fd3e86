//! A node's decisions, without any IO.
//!
//! # The model
//!
//! An [`Agent`] owns no socket, reads no clock and draws no randomness but from the seed it was
//! given. The shell around it has a control connection (a WebSocket), a main UDP socket and, for a
//! second now and then, a probe socket; a stream to the relay where UDP is blocked. It does four things:
//!
//! 1. gives whatever happens to [`Agent::handle`];
//! 2. calls [`Agent::handle_timeout`] when [`Agent::poll_timeout`] has come;
//! 3. after either (and after [`Agent::new`]), takes [`Agent::poll_output`] until it is empty, and
//!    does what it says;
//! 4. moves the application's data by the path that [`Output::Path`] named last, in the channel that
//!    [`Output::Channel`] gave for it if its leg is a relay's.
//!
//! So a simulator runs the same agents in virtual time, and one seed always gives one run.
//!
//! # A node's life
//!
//! **Join** (`control`): hello, challenge, proof, welcome. Both sides prove themselves. A lost connection comes back
//! with exponential backoff and jitter; a refusal that trying again can't help ends the agent. Of several servers
//! (`servers`) one follows the other. Links to peers do not depend on the control connection: they go on while it is
//! away.
//!
//! **Find out** (`observe`, `discover`): the main socket sends authenticated Bindings to the
//! server's primary address, so that the server *observes* its mapping, and to no other address of
//! it: the server then dials back from one this socket never sent to, and what arrives is proof of
//! being reachable. Meanwhile a probe socket with a port of its own asks RFC 5780's questions. What
//! it finds is a claim, good for explanations; the class is the server's verdict.
//!
//! **Meet** (`meet`, `punch`): an introduction brings a ticket: who the peer is (a certificate by
//! the pinned cluster key), where it may be, and a key for each direction. Both sides send checks
//! to the candidates at the same time. A valid check from a place nobody named is answered, and
//! probed at once. A way is *verified* when our own check was answered under the peer's key from
//! the very address it went to; only then it may carry data.
//!
//! **Meet without the server** (`rendezvous`): while it is away, peers that anybody can reach introduce those that have
//! a path to them. A ticket is then signed by both its ends, and the one who introduces them is not trusted.
//!
//! **Relay** (`relay`): with the first reason to need one the agent has an allocation made on the server's
//! relay, over UDP or a stream, and checks go by it too. So `connect` ends with the first way that works,
//! and what can be direct becomes so later.
//!
//! **Stay** (`link`, `roam`): each verified way is asked for consent every few seconds. A direct one is used
//! rather than a relayed one, and among its like the one with the shortest round trip; a dead one is replaced.
//! If none is left and the application still
//! holds the peer, the agent asks for a new introduction by itself.
//!
//! # Invariants
//!
//! * The main socket sends to the server's primary address, to candidates of live tickets that the
//!   node's own place allows (`network`), and to sources of checks authenticated under a live
//!   ticket. To nobody else, and to one address never more often than `pace` allows, whatever
//!   tickets say.
//! * A ticket is used once, and its checks are bounded in time and number. Ports are guessed (`plan`, `guess`)
//!   only on an address and in a window that the ticket names, under one ticket at a time, and 667 a second.
//! * In an effectively PRIVATE cluster, or if the user insists on one (`Config::expect`), no
//!   datagram goes to a public address and no STUN server is asked.
//! * Nothing from the network can panic, and no table grows without a bound.
//!
//! Deliberately absent: sockets, TLS, QUIC, names' resolution, storage.

mod agent;
mod allocator;
mod api;
mod backoff;
mod checks;
mod control;
mod counters;
mod defence;
mod discover;
mod env;
mod guess;
mod guessing;
mod keepalive;
mod lifetime;
mod link;
mod mapped;
mod meet;
mod netcheck;
mod network;
mod observe;
mod pace;
mod plan;
mod provisional;
mod punch;
mod relay;
mod rendezvous;
mod requests;
mod roam;
mod servers;
mod stun;
#[cfg(test)]
mod testing;

pub use agent::Agent;
pub use api::{
    AllocationId, BackoffConfig, Channel, Config, Ended, Event, Input, Interface, Leg, Output, Path,
    PathKind, ServerRank, Socket, StreamId, Way,
};
pub use counters::Counters;
#[cfg(feature = "attack-tests")]
pub use defence::Defence;
pub use discover::route::ends_route;
pub use netcheck::{NatCheck, NatCheckStep};
pub use plan::{Forbidden, Plan, plan};
pub use rendezvous::Serving;
