//! The real binary behind real NATs, in network namespaces: needs root. See [`meetpoint_cli::lab`].
//!
//! Each test has a lab of its own, and waits most of its time: many of them run side by side on few processors.
#![cfg(target_os = "linux")]

mod admission;
mod direct;
mod discover;
mod documents;
mod explain;
mod isolation;
mod lift;
mod netcheck;
mod portmap;
mod proof;
mod punching;
mod relay;
mod rendezvous;
mod roam;
