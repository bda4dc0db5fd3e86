//! Black-box tests of the STUN and TURN server: bytes and times in, outputs out.

mod allocate;
mod allocation;
mod attacks;
mod binding;
mod budget;
mod common;
mod configuration;
mod credentials;
mod dial_back;
mod discovery;
mod errors;
mod floods;
mod garbage;
mod icmp;
mod mobility;
mod pairs;
mod policy;
mod relaying;
mod reservation;
mod sequences;
mod shard_sequences;
mod shards;
mod streams;
mod turn;
mod users;
mod vectors;
