//! A server of the test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use meetpoint_server::{
    ConfigSource, Drain, Info, Reload, RunError, ServeArgs, ServeConfig, Server, StartError,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Loopback, free ports, this data directory, and these flags.
pub(crate) fn args(data: &Path, flags: &[&str]) -> Result<ServeArgs, clap::Error> {
    Cli::try_parse_from(line(data, flags)).map(|cli| cli.serve)
}

/// The same as a command line.
pub(crate) fn line(data: &Path, flags: &[&str]) -> impl Iterator<Item = String> {
    let data = data.to_str().unwrap();
    let base =
        ["serve", "--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--stun-alt-port", "0", "--data", data];
    // A later flag replaces one of these.
    let given = |flag: &str| flags.contains(&flag);
    let base = base[1..].chunks(2).filter(|pair| !given(pair[0])).flatten();
    let line = std::iter::once("serve").chain(base.copied()).chain(flags.iter().copied());
    line.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// As [`args`], validated. No seed is asked whether it is there: it may be a stranger's address.
pub(crate) fn config(data: &Path, flags: &[&str]) -> ServeConfig {
    let mut config = args(data, flags).unwrap().validate().unwrap();
    config.seed_timing.settle = Duration::from_secs(3600);
    config
}

/// A running server.
pub(crate) struct Running {
    pub(crate) info: Info,
    pub(crate) reload: Reload,
    pub(crate) drain: Drain,
    data: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) async fn start(config: ServeConfig) -> Result<Self, StartError> {
        Self::start_from(config, None).await
    }

    /// With a configuration that can be read again.
    pub(crate) async fn start_from(
        config: ServeConfig,
        source: Option<ConfigSource>,
    ) -> Result<Self, StartError> {
        let data = config.data.clone();
        let server = Server::bind(config).await?;
        if let Some(source) = source {
            server.set_source(source);
        }
        let (info, reload, drain) = (server.info().clone(), server.reload(), server.drain());
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Ok(Self { info, reload, drain, data, stop, task })
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

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        self.task.await.unwrap()
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}
