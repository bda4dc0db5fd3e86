//! A STUN and TURN server as a pure state machine.
//!
//! # The model
//!
//! A [`StunServer`] owns no socket, reads no clock and draws no randomness. The shell around it
//! has one UDP socket for each [`Listener`] and does four things:
//!
//! 1. gives each datagram (and, about every second, the wall time) to [`StunServer::handle`];
//! 2. calls [`StunServer::handle_timeout`] when [`StunServer::poll_timeout`] has come;
//! 3. after either, takes [`StunServer::poll_output`] until it is empty, and does what it says;
//! 4. reads [`StunServer::counters`] and [`StunServer::sessions`] when somebody asks.
//!
//! A connection of a [`StreamListener`] is cut into frames ([`frame`]), each of which is given like a
//! datagram; what is to be transmitted to its client is written to it, and its end is
//! [`Input::Disconnected`].
//!
//! If it relays ([`Config::relay`]), the shell also opens a socket for each [`Output::OpenRelay`],
//! and gives what arrives there. For the way of a relayed packet it has [`StunServer::datagram`] and
//! [`StunServer::relayed`] in place of the two inputs of that name: they return a [`Relay`] that
//! borrows the packet.
//!
//! So a simulator runs the same server in virtual time, and one seed always gives one run.
//!
//! # The way of a datagram
//!
//! ChannelData is recognised by its first byte and relayed. Everything else is read by [`message`]
//! without copying: lengths, FINGERPRINT, and where the part ends that an integrity attribute
//! protects. Whatever is neither a request nor a Send indication is dropped in silence and counted
//! (RFC 8489, section 6.3). Then `answer` finds out who asks:
//!
//! * a Binding request without username and integrity is **anonymous** and is answered plainly;
//! * all others go through the long-term mechanism (`auth`), in the order nonce, budget,
//!   credentials. The nonce (`nonce`) is a MAC over the source's address and port, so the
//!   server remembers nothing about those it challenged, and a valid one proves that its bearer
//!   receives where it sends from. A request that verifies is answered under the same key. A
//!   Binding is reported as [`Output::Observed`]: that is how the broker learns addresses it may
//!   punch to.
//!
//! `binding` may answer from another listener or to another port (`behaviour`, RFC 5780). `relay`
//! grants relayed addresses, permissions and channels (RFC 8656). Every answer is paid from a
//! [`budget`]. Probes to find out who is publicly reachable (`dialback`) leave from the alternate
//! address on a schedule.
//!
//! # Several cores
//!
//! A server may have several shards, each a [`StunServer`] of its own with the clients that the
//! kernel gives it. What they share is in [`Shared`]: budgets, quotas, and which relay port is whose.
//! A packet from one client to another is handed over by [`Relay::ToShard`]; what else a shard wants
//! of another is an [`Output::ToShard`] or an [`Output::HandOver`].
//!
//! # Invariants
//!
//! * No answer without a question: each datagram yields at most one, to the question's source
//!   address. Dial-backs go where the caller says, three times at most.
//! * Nothing is relayed without a permission, nor to a peer that the rules forbid, nor between two
//!   nodes that were not introduced.
//! * Nobody is granted a relayed address without credentials; there is no way to start without.
//! * Memory does not depend on who sends: the source table has a fixed size, nonces are not
//!   stored, the queue and the dial-backs are bounded. Allocations are bounded by quotas, and each
//!   in what it holds.
//! * No limit is larger because there are more shards.
//! * No response carries SOFTWARE or a reason phrase, and FINGERPRINT only if the question did.
//! * The path of an anonymous Binding does not allocate, nor does that of a relayed packet. Neither
//!   takes a lock.
//! * Nothing from the network can panic.
//!
//! Deliberately absent: TLS, TCP towards peers (RFC 6062), and every decision about clusters.

mod answer;
mod auth;
mod behaviour;
mod binding;
pub mod budget;
mod config;
mod counters;
pub mod credentials;
mod defence;
mod dialback;
mod handed;
mod holder;
mod nonce;
mod relay;
mod server;
mod shared;
pub mod users;

pub use budget::Rate;
pub use config::{
    Config, ConfigError, Limits, Listener, ListenerId, ListenerRole, MAX_LISTENERS, MAX_REALM_LEN,
    MAX_SOURCE_SLOTS, MAX_STREAM_LISTENERS, StreamListener, Transport,
};
pub use counters::{
    BindingCounters, Counters, DialBackCounters, DropCounters, ErrorCounters, MethodErrors, QuotaCounters,
    RelayCounters, RelayDropCounters, Traffic,
};
pub use credentials::{Secret, SecretError, Secrets};
#[cfg(feature = "attack-tests")]
pub use defence::Defence;
pub use holder::{Holder, is_node_user, node_session, node_user};
pub use meetpoint_stun::{
    Family, IntegrityKey, IntegrityKind, Payload, Writer, attr, frame, message, read_xor_address,
};
pub use relay::{
    ByteRate, Cidr, DEFAULT_PORTS, Head, MAX_LIFETIME, MAX_PEER_BLOCKS, ParseCidrError, Relay, RelayConfig,
    RelayId, RelayIp, RelayLimits, RelayPolicy, Session, SessionId, ShardMessage,
};
pub use server::{Input, MAX_OUTPUTS, Output, StunServer};
pub use shared::{MAX_SHARDS, ShardId, Shared};
pub use users::{LongTermKeys, User, UserError, Users};
