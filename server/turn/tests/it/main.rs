//! Black-box tests of the STUN server: bytes and times in, outputs out.

mod allocation;
mod binding;
mod budget;
mod common;
mod configuration;
mod credentials;
mod dial_back;
mod discovery;
mod garbage;
mod vectors;
