//! The real binary, the SDK and the benchmark on loopback: on any Linux machine, without privileges.
#![cfg(target_os = "linux")]

mod bench;
mod command;
mod dependencies;
mod identity;
mod sdk;
mod seeds;
mod survival;
mod webrtc;
