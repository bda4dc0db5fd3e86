//! Looking on: events, a peer's answers, a server's health.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::operator::ServerArgs;
use crate::duration;

/// What happens.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Go on with what happens from now on, until stopped. A broken connection is made anew, and nothing is missed
    /// that the server still keeps. Without it: what the server keeps of the past.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only events of these types, for example node:announce,node:leave.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
    /// Only events of this cluster.
    #[arg(long, env = "MEETPOINT_CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// With --follow: begin after this event, by its `id` or `seq`; 0 is before the first one.
    #[arg(long, value_name = "ID", requires = "follow")]
    pub(crate) after: Option<String>,
}

/// A peer's answers.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// A rendezvous server of the cluster: http://HOST:PORT or https://HOST:PORT. May be repeated.
    #[arg(
        long,
        env = "MEETPOINT_RENDEZVOUS",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = super::node::url,
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) rendezvous: Vec<String>,
    /// The right to join. Without it that of --join-token-file is taken, if the file is there.
    #[arg(long, env = "MEETPOINT_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) join_token: Option<String>,
    /// File with the right to join.
    #[arg(
        long,
        env = "MEETPOINT_JOIN_TOKEN_FILE",
        value_name = "FILE",
        default_value = "./meetpoint-data/join-token"
    )]
    pub(crate) join_token_file: PathBuf,
    /// The fingerprint of a server's certificate, if no join token brings it.
    #[arg(
        long = "fingerprint",
        env = "MEETPOINT_FINGERPRINT",
        value_name = "FINGERPRINT",
        value_delimiter = ','
    )]
    pub(crate) fingerprints: Vec<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// Cluster to join.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default", value_parser = super::node::name)]
    pub(crate) cluster: String,
    /// How many pings, at most 64.
    #[arg(long, short, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) count: u32,
    /// Between two of them.
    #[arg(long, short, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(crate) interval: Duration,
    /// How long to wait for each answer, and for a path in the first place.
    #[arg(long, short, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// The outcome as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
    /// A node of the cluster: its name or its id.
    #[arg(value_name = "NAME")]
    pub(crate) peer: String,
}

/// A server's health.
#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    /// The server: http://HOST:PORT or https://HOST:PORT. Without it the one on this machine that --http is said to.
    #[arg(long, env = "MEETPOINT_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Where the server on this machine listens, as `serve` was told.
    #[arg(long, env = "MEETPOINT_HTTP", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// The server's data directory: its join token tells the fingerprint, for https to this machine.
    #[arg(long, env = "MEETPOINT_DATA", value_name = "DIR", default_value = "./meetpoint-data")]
    pub(crate) data: PathBuf,
    /// The fingerprint of the server's certificate.
    #[arg(long, env = "MEETPOINT_FINGERPRINT", value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine. Nothing secret is sent.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// How long it may take.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// The outcome as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}
