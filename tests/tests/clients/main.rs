//! Clients that share no code with the server: coturn's tools, a browser, the client of webrtc-rs.
//!
//! Each test measures how one of them fares with the real binary in the NAT lab and holds its section of
//! `docs/conformance.md` against that. This writes the sections anew and prints every outcome as it comes:
//!
//! ```text
//! MEETPOINT_UPDATE=1 cargo test -p meetpoint-tests --test clients -- --nocapture
//! ```
#![cfg(target_os = "linux")]

mod browser;
mod coturn;
mod dashboard;
mod document;
mod rig;
mod webrtc;
