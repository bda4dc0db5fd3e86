//! Who goes first on the processors of one machine.
//!
//! Generator, clients and server are on different machines in life and take nothing from each other. Here they share
//! processors; so those whose time is not the server's must not be what a latency measures. Clients go before everybody
//! (they do little), the generator of a flood after everybody.

use std::process::{Command, Stdio};

use nix::unistd::gettid;

use super::BenchError;

/// Where a thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Runs as soon as it can (SCHED_FIFO).
    First,
    /// As all threads do (SCHED_OTHER).
    Usual,
    /// Runs when no other thread wants to (SCHED_IDLE).
    Last,
}

/// Gives the calling thread its place. Needs root to go first.
///
/// # Errors
/// If the kernel refuses.
pub fn stand(standing: Standing) -> Result<(), BenchError> {
    let flags: &[&str] = match standing {
        Standing::First => &["--fifo", "--pid", "1"],
        Standing::Usual => &["--other", "--pid", "0"],
        Standing::Last => &["--idle", "--pid", "0"],
    };
    let mut chrt = Command::new("chrt");
    chrt.args(flags).arg(gettid().to_string()).stdout(Stdio::null());
    let status = chrt.status().map_err(BenchError::io("starting chrt (Debian's package util-linux)"))?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Unexpected(format!("chrt {} {}: {status}", flags.join(" "), gettid())))
}
