//! Backups, and support archives.

use std::path::PathBuf;

use clap::Args;

use super::operator::ServerArgs;

/// A backup.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Replace FILE if it is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Where the backup goes: whole or not at all, mode 0600. Whoever can read it can be this server.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// A restoration.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The data directory that is made of it. No server may use it meanwhile.
    #[arg(long, env = "MEETPOINT_DATA", value_name = "DIR", default_value = "./meetpoint-data")]
    pub(crate) data: PathBuf,
    /// Replace what is in DIR. It is kept in DIR/replaced.
    #[arg(long)]
    pub(crate) force: bool,
    /// Only check FILE.
    #[arg(long, conflicts_with = "force")]
    pub(crate) verify: bool,
    /// The outcome as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
    /// A backup, as `meetpoint backup` makes it.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// A support archive.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// A log of the server to put in; its end, if it is long. May be repeated.
    #[arg(long = "log", value_name = "FILE")]
    pub(crate) logs: Vec<PathBuf>,
    /// The archive: tar, compressed with gzip. It must not be there yet.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}
