//! The command line. `--help` is the reference; every flag is also `MEETPOINT_<FLAG>`.

use clap::{Parser, Subcommand, ValueEnum};

mod backup;
mod config;
mod identity;
mod local;
mod node;
mod operator;
mod relay;
mod seeds;
mod serve;
mod watch;

pub(crate) use backup::{BackupArgs, BundleArgs, RestoreArgs};
pub(crate) use config::{CompletionsArgs, ConfigArgs, ConfigCommand, ExplainedCommand, ManArgs};
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
pub(crate) use watch::{EventsArgs, HealthcheckArgs, PingArgs};

/// Lets nodes that cannot reach each other meet.
#[derive(Debug, Parser)]
#[command(name = "meetpoint", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster, \
4 no server answered.\nLogs go to stderr. Operator commands find their server by --server or MEETPOINT_SERVER."
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
    /// Show what happens in a server's clusters.
    Events(EventsArgs),
    /// Copy all of a running server into one file: its registry at one moment, its keys and its tokens.
    Backup(BackupArgs),
    /// Make a server's data directory of a backup.
    Restore(RestoreArgs),
    /// Gather what helps to find a fault into an archive, without secrets.
    Bundle(BundleArgs),
    /// Join a cluster for a moment and see whether, how and how fast a node answers there. Exit code 1 if it does not.
    Ping(PingArgs),
    /// Look at this machine's network: its NAT, how servers are reached, and whom a node here could meet.
    Netcheck(NetcheckArgs),
    /// Say why two nodes meet directly, or why they do not.
    Explain(ExplainArgs),
    /// Show a server's state.
    Status(StatusArgs),
    /// Ask whether a server is ready to work: exit code 0 if it is, else 1.
    Healthcheck(HealthcheckArgs),
    /// Show what a command would be configured with.
    Config(ConfigArgs),
    /// Write a shell's completions of this command line to stdout.
    Completions(CompletionsArgs),
    /// Write manual pages.
    Man(ManArgs),
}
