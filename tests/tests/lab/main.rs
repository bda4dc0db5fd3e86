//! The real binary behind real NATs, in network namespaces: needs root. See [`meetpoint_cli::lab`].
//!
//! Each test has a lab of its own, and waits most of its time, so that they run well side by side. They begin in the
//! order of their names: the slowest, in `admission`, among the first.
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
