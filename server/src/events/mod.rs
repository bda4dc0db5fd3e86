//! What happens, told to whoever watches: a ring of the last events, and those who read along.
//!
//! An event becomes text once, when it is published; each stream sends the same bytes. The ring has a
//! fixed size and a stream has only a place in it, so whoever reads slowly delays nobody and costs
//! nothing: what has gone from the ring before he came to it is told to him as a gap.
//!
//! Deliberately absent: sockets and HTTP (`http/events.rs` carries the streams), and memory beyond the
//! ring. What must not be forgotten is in the registry, and who changed it in the audit log.

mod event;
mod hub;

pub(crate) use event::{Event, GapReason, Kind, Sender};
pub(crate) use hub::{Cursor, Filter, Frame, Hub, Subscription};
