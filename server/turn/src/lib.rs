//! A STUN server as a pure state machine.
//!
//! # The model
//!
//! A [`StunServer`] owns no socket, reads no clock and draws no randomness. The shell around it
//! has one UDP socket for each [`Listener`] and does four things:
//!
//! 1. gives each datagram (and, about every second, the wall time) to [`StunServer::handle`];
//! 2. calls [`StunServer::handle_timeout`] when [`StunServer::poll_timeout`] has come;
//! 3. after either, takes [`StunServer::poll_output`] until it is empty, and does what it says;
//! 4. reads [`StunServer::counters`] when somebody asks.
//!
//! So a simulator runs the same server in virtual time, and one seed always gives one run.
//!
//! # The way of a datagram
//!
//! [`message`] reads it without copying: lengths, FINGERPRINT, and where the part ends that an
//! integrity attribute protects. Whatever is not a Binding request is dropped in silence and
//! counted (RFC 8489, section 6.3). Then `binding` finds out who asks:
//!
//! * a request without username and integrity is **anonymous** and is answered plainly;
//! * one that names a user goes through the long-term mechanism (`auth`), in the order nonce,
//!   budget, credentials. The nonce (`nonce`) is a MAC over the source's address and port, so the
//!   server remembers nothing about those it challenged, and a valid one proves that its bearer
//!   receives where it sends from. A request that verifies is answered under the same key and
//!   reported as [`Output::Observed`]: that is how the broker learns addresses it may punch to.
//!
//! The answer may come from another listener or go to another port (`behaviour`, RFC 5780). Every
//! answer is paid from a [`budget`]. Probes to find out who is publicly reachable (`dialback`)
//! leave from the alternate address on a schedule; they are the machine's only timers.
//!
//! # Invariants
//!
//! * No answer without a question: each datagram yields at most one, to the question's source
//!   address. Dial-backs go where the caller says, three times at most.
//! * Memory does not depend on who sends: the source table has a fixed size, nonces are not
//!   stored, the queue and the dial-backs are bounded.
//! * No response carries SOFTWARE or a reason phrase, and FINGERPRINT only if the question did.
//! * The path of an anonymous Binding does not allocate.
//! * Nothing from the network can panic.
//!
//! Deliberately absent: TCP framing, TLS, relaying, and every decision about clusters.

pub mod attr;
mod auth;
mod behaviour;
mod binding;
pub mod budget;
mod config;
mod counters;
pub mod credentials;
mod crypto;
mod dialback;
pub mod message;
mod nonce;
mod payload;
mod server;
mod write;

pub use budget::Rate;
pub use config::{
    Config, ConfigError, Limits, Listener, ListenerId, ListenerRole, MAX_LISTENERS, MAX_REALM_LEN,
    MAX_SOURCE_SLOTS,
};
pub use counters::{BindingCounters, Counters, DialBackCounters, DropCounters, ErrorCounters};
pub use credentials::{Secret, SecretError, Secrets};
pub use crypto::{IntegrityKey, IntegrityKind};
pub use payload::Payload;
pub use server::{Input, MAX_OUTPUTS, Output, StunServer};
pub use write::Writer;
