//! The STUN codec that the server and the nodes share (RFC 8489; the numbers of RFC 8656 and RFC 5780 too).
//!
//! * [`message`] reads a message from borrowed bytes;
//! * [`Writer`] writes one into a [`Payload`], attribute by attribute;
//! * [`IntegrityKey`] checks and protects, [`long_term_key`] makes such a key of a password;
//! * [`frame`] tells where a message or ChannelData ends in a stream;
//! * [`attr`] has the attributes' numbers.
//!
//! It is made for a server on a public address: nothing is copied or allocated for what is read, nothing is
//! logged, and what RFC 8489 says to ignore is ignored. What runs for each packet is marked for inlining, since
//! it is called from other crates.
//!
//! Pure, and without state: what a message means, who may send it and what is to be answered is its
//! users' business.

pub mod attr;
mod channel;
pub mod crypto;
mod family;
pub mod frame;
mod long_term;
pub mod message;
mod payload;
mod write;

pub use channel::{CHANNEL_HEADER_LEN, channel_header, is_channel_data, read_channel_data};
pub use crypto::{IntegrityKey, IntegrityKind};
pub use family::{Family, read_address, read_xor_address};
pub use long_term::{PasswordAlgorithm, digest, long_term_key};
pub use message::{Message, TransactionId};
pub use payload::Payload;
pub use write::Writer;
