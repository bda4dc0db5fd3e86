//! A server of the test's own.

use std::path::{Path, PathBuf};

use clap::Parser;
use meetpoint_server::{Info, Reload, RunError, ServeArgs, ServeConfig, Server, StartError};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Loopback, free ports, this data directory, and these flags.
pub(crate) fn args(data: &Path, flags: &[&str]) -> Result<ServeArgs, clap::Error> {
    let data = data.to_str().unwrap();
    let base =
        ["serve", "--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--stun-alt-port", "0", "--data", data];
    // A later flag replaces one of these.
    let given = |flag: &str| flags.contains(&flag);
    let base = base[1..].chunks(2).filter(|pair| !given(pair[0])).flatten();
    let line = std::iter::once("serve").chain(base.copied()).chain(flags.iter().copied());
    Cli::try_parse_from(line).map(|cli| cli.serve)
}

/// As [`args`], validated.
pub(crate) fn config(data: &Path, flags: &[&str]) -> ServeConfig {
    args(data, flags).unwrap().validate().unwrap()
}

/// A running server.
pub(crate) struct Running {
    pub(crate) info: Info,
    pub(crate) reload: Reload,
    data: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) async fn start(config: ServeConfig) -> Result<Self, StartError> {
        let data = config.data.clone();
        let server = Server::bind(config).await?;
        let (info, reload) = (server.info().clone(), server.reload());
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Ok(Self { info, reload, data, stop, task })
    }

    /// In a fresh directory, which lives as long as what is returned.
    pub(crate) async fn fresh(flags: &[&str]) -> (Self, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let running = Self::start(config(dir.path(), flags)).await.unwrap();
        (running, dir)
    }

    pub(crate) fn join_token(&self) -> meetpoint_proto::JoinToken {
        self.info.join_token.clone().unwrap()
    }

    pub(crate) fn admin_token(&self) -> String {
        self.info.new_admin_token.as_ref().unwrap().reveal().to_owned()
    }

    pub(crate) fn viewer_token(&self) -> String {
        let file = std::fs::read_to_string(self.data.join("viewer-token")).unwrap();
        file.trim().to_owned()
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}
