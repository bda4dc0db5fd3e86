//! The relay benchmark: what a STUN and TURN server costs, measured from outside.
//!
//! `meetpoint-bench run` aims at any server; `meetpoint-bench compare` starts several, each in a fresh network
//! namespace, measures them in turn, round by round, and prints the medians as Markdown.
//!
//! * [`workload`]: what is measured, one module each. [`engine`] drives most of them.
//! * [`exchange`]: questions whose answers are checked to the last byte. A wrong or a lost one is counted and shown.
//! * [`wire`]: UDP in batches, so that the clients cost less than the server they measure.
//! * [`turn`]: a client's requests. [`meter`]: what the kernel says the server used.
//! * [`turn_taking`]: who goes first on the processors. [`arena`]: namespaces and servers. [`compare`]: the rounds.
//!   [`table`]: what is printed.
//!
//! `meetpoint-bench joins` is another matter: [`fleet`] measures the rendezvous. And so is `meetpoint-bench matrix`:
//! [`matrix`] has nodes behind all kinds of NAT meet. `meetpoint-bench forgetful` has them say nothing for ten minutes,
//! behind NATs that forget: [`forgetful`]. `meetpoint-bench sdk` ([`sdk`]) measures what embedding the SDK costs.
//!
//! IPv4 and UDP only, but for that. The server's time is its process's: what the kernel does for it outside of the
//! process, in the name of who sends to it, is not in it, for no server.

pub mod arena;
pub mod args;
pub mod compare;
pub mod engine;
pub mod exchange;
pub mod fleet;
pub mod forgetful;
pub mod histogram;
pub mod matrix;
pub mod meter;
pub mod run;
pub mod sdk;
pub mod table;
pub mod turn;
pub mod turn_taking;
pub mod wire;
pub mod workload;

use std::io;

use meetpoint_cli::lab::{LabError, ProcessError};
use nix::errno::Errno;
use thiserror::Error;

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The server, or the machine, is not as it must be.
    #[error("{0}")]
    Unexpected(String),
    /// No namespace.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A server did not start.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl BenchError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn os(what: &str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { what: what.to_owned(), source: errno.into() }
    }
}
