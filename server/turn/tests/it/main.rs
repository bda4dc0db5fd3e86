//! Black-box tests of the STUN and TURN server: bytes and times in, outputs out.

mod allocate;
mod allocation;
mod amplification;
mod attacks;
mod binding;
mod budget;
mod common;
mod configuration;
mod credentials;
mod dial_back;
mod discovery;
mod garbage;
mod relaying;
mod sequences;
mod turn;
mod vectors;
