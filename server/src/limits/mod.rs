//! How often is too often, for whom, and what follows.
//!
//! Events are counted by [`Key`]: the principal that has proven itself (a node by its signature, an
//! operator by the admin or the viewer token), else the source of a TCP connection, which can't be spoofed. What
//! somebody merely presents never makes a key: a guessed token counts against the address it came
//! from, gets no allowance of its own, and takes nothing of anybody else's.
//!
//! Deliberately absent: datagrams. Whoever can write another's address on a packet could have him
//! blocked, so UDP has budgets without memory of guilt, in `meetpoint-turn`.

mod key;
mod policy;
mod table;

pub(crate) use key::{Key, Source};
pub(crate) use policy::time;
pub use policy::{Block, ParsePolicyError, Policy, Quota};
pub(crate) use table::{Limiter, Verdict};
