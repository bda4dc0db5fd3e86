//! A simulated internet: the real broker, the real STUN server and real agents in virtual time,
//! behind model NATs.
//!
//! Nothing of ours is modelled but the shells: the machines under test are the ones that ship. What
//! is modelled is the world around them: NATs by RFC 4787's words ([`gate`]), latency, jitter, loss
//! and reordering ([`world`]). One seed makes one [`case`], and one case always gives one run, so a
//! failure is replayed by its seed.
//!
//! Whether two nodes *can* meet is told by an [`oracle`] of a few lines that knows the two NATs and
//! nothing of our code.

mod arrivals;
pub mod case;
pub mod dice;
pub mod gate;
mod handshake;
pub mod life;
pub mod meets;
pub mod nats;
mod node;
pub mod oracle;
mod relays;
mod shells;
mod wires;
pub mod world;

pub use case::{Case, Report};
