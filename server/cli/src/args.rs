//! The command line. `--help` is the reference; every flag is also `MEETPOINT_<FLAG>`.

use clap::{Parser, Subcommand, ValueEnum};

mod identity;
mod local;
mod node;
mod operator;
mod relay;
mod seeds;
mod serve;

pub(crate) use identity::{
    ApiRole, ClusterSecretsArgs, ClusterSecretsCommand, OverlapArgs, RevocationsArgs, RevocationsCommand,
    TokensArgs, TokensCommand,
};
pub(crate) use local::{DemoArgs, NetcheckArgs};
pub(crate) use node::{Discover, NodeArgs, SeedOrUrl};
pub(crate) use operator::{AuditArgs, AuditCommand, ExplainArgs, NodesArgs, ServerArgs, StatusArgs};
pub(crate) use relay::{RelayArgs, RelayCommand, SecretsCommand, SessionsCommand, UsersCommand};
pub(crate) use seeds::{SeedsArgs, SeedsCommand};
pub(crate) use serve::{AnnounceArgs, AnnounceBy, ServeCommand};

/// Lets nodes that cannot reach each other meet.
#[derive(Debug, Parser)]
#[command(name = "meetpoint", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster, \
4 no server answered.\nLogs go to stderr."
)]
pub(crate) struct Cli {
    /// How logs are written.
    #[arg(long, global = true, env = "MEETPOINT_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// How much is logged: off, error, warn, info, debug or trace, or directives such as
    /// warn,meetpoint_server::http=debug.
    #[arg(long, global = true, env = "MEETPOINT_LOG", default_value = "info", value_name = "LEVEL", value_parser = crate::log::level)]
    pub(crate) log_level: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the rendezvous server.
    Serve(Box<ServeCommand>),
    /// Join a cluster as a node; connect to peers, or echo what they send.
    Node(Box<NodeArgs>),
    /// Show it all at work on this machine: a server, two nodes, a direct path.
    Demo(DemoArgs),
    /// Create, list and revoke join tokens.
    Tokens(TokensArgs),
    /// Create, list and remove the secrets that the nodes of a cluster share.
    Secrets(ClusterSecretsArgs),
    /// List, put, approve and delete the seeds of a cluster.
    Seeds(SeedsArgs),
    /// List a cluster's nodes.
    Nodes(NodesArgs),
    /// Remove nodes for good, list them, and let them in again.
    Revocations(RevocationsArgs),
    /// Show and change who may use a server's relay, and what goes through it.
    Relay(RelayArgs),
    /// Check the server's audit log.
    Audit(AuditArgs),
    /// Look at this machine's network: its NAT, how servers are reached, and whom a node here could meet.
    Netcheck(NetcheckArgs),
    /// Say why two nodes meet directly, or why they do not.
    Explain(ExplainArgs),
    /// Show a server's state.
    Status(StatusArgs),
}
