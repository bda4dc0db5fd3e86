//! The words a Meetpoint server and its nodes share.
//!
//! Everything here is pure: no clock, no socket, no randomness of its own. Both sides
//! decide by the same tables ([`rules`]) and speak the same messages ([`wire`]), so a
//! disagreement between them is a bug of one crate, found by one set of tests.
//!
//! * [`id`], [`name`]: validated newtypes; nothing from outside is used before it became one.
//! * [`addr`][]: what an address is worth (IANA special-purpose registries).
//! * [`network`], [`rules`]: cluster network types, node classes and who is admitted as what.
//! * [`seed`][]: `name@host:port`.
//! * [`token`], [`secret`], [`join`], [`certificate`]: how a node proves who it is and that it may join.
//! * [`vouch`][]: what a seed signs.
//! * [`meet`][]: how a node introduces its peers while the server is away.
//! * [`wire`][]: the control channel's messages; the only types here that derive serde.
//! * [`explain`][]: why two nodes meet as they do, in a sentence.
//! * [`handshake`][]: the datagram that peers begin with, where a server carries it.
//! * [`timers`][]: deadlines in order, for the pure machines.
//! * [`code`][]: the stable reason codes, each with a hint that says what to do.
//!
//! Deliberately absent: IO, storage, and any decision that only one side takes.

pub mod addr;
pub mod certificate;
pub mod code;
mod defences;
pub mod explain;
pub mod handshake;
pub mod id;
pub mod join;
pub mod meet;
pub mod name;
pub mod network;
pub mod rules;
pub mod secret;
pub mod seed;
pub mod stun;
pub mod timers;
pub mod token;
pub mod vouch;
pub mod wire;

pub use addr::AddressClass;
pub use certificate::{Certificate, Membership, Revocation};
pub use code::Code;
pub use handshake::HandshakeStart;
pub use id::{NodeId, Nonce, PublicKey, SessionId, Signature, TicketId, TicketKey};
pub use name::{Capability, ClusterName, NamePattern, NodeName, SeedName};
pub use network::{
    Allocator, ClusterNetwork, EffectiveNetwork, Evidence, Filtering, Mapping, NatBehavior, NatDepth,
    NetworkClass, NetworkType, SeedOrigin, SeedStatus,
};
pub use secret::ClusterSecret;
pub use seed::SeedAddr;
pub use timers::Timers;
pub use token::{JoinToken, TokenScope};
