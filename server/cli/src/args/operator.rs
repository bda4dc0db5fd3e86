//! How the operator's commands find a server, and those that only look.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meetpoint_server::AuditHead;

/// How the operator's commands find the server.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "MEETPOINT_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) server: String,
    /// File with the admin token.
    #[arg(
        long,
        env = "MEETPOINT_ADMIN_TOKEN_FILE",
        default_value = "./meetpoint-data/admin-token",
        value_name = "FILE"
    )]
    pub(crate) admin_token_file: PathBuf,
    /// File with the viewer token. With it, commands that only read use no other.
    #[arg(long, env = "MEETPOINT_VIEWER_TOKEN_FILE", value_name = "FILE")]
    pub(crate) viewer_token_file: Option<PathBuf>,
    /// The fingerprint of the server's certificate (`meetpoint serve` says it at its start), for
    /// https to a self-signed server.
    #[arg(long, env = "MEETPOINT_FINGERPRINT", value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine: the admin token is sent readable.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// The answer as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}

/// Nodes.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Cluster.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
}

/// Why two nodes meet as they do.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Cluster.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
    /// A node: its id, or its name if it is present.
    pub(crate) a: String,
    /// Another one.
    pub(crate) b: String,
}

/// The audit log.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that nothing in the audit log was changed, taken out or put in. Shows its head: note it
    /// elsewhere, and give it as --head later, to find also that the end was cut off or that the whole log was
    /// made anew. Exit code 1 if it is not whole.
    Verify {
        #[command(flatten)]
        server: ServerArgs,
        /// A server's data directory, or a copy of one, whose database file is read instead of asking a server.
        #[arg(long, env = "MEETPOINT_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
        /// A head that was noted earlier.
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Option<AuditHead>,
    },
}

/// Status.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
