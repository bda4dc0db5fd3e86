//! Who may join, and who may call: tokens, cluster secrets, revocations.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::operator::ServerArgs;

/// Join tokens.
#[derive(Debug, Args)]
pub(crate) struct TokensArgs {
    #[command(subcommand)]
    pub(crate) command: TokensCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a join token. It is shown once.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster that it admits to.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// What it is for.
        #[arg(long)]
        label: Option<String>,
        /// What it admits: node or seed.
        #[arg(long, value_name = "SCOPE", default_value = "node")]
        scope: meetpoint_proto::TokenScope,
        /// Names that it admits, in which `*` stands for any characters. Without it all names.
        #[arg(long, value_name = "PATTERN")]
        name_pattern: Option<meetpoint_proto::NamePattern>,
        /// Seconds until it ends. Without it the token does not end.
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u64>,
        /// How many nodes it admits. Without it any number.
        #[arg(long, value_name = "COUNT")]
        max_uses: Option<u32>,
    },
    /// List the join tokens (not their secrets: the server has none).
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
    },
    /// Revoke a join token. Members stay; they can't rejoin with it.
    Revoke {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The token's id, from the list.
        id: String,
    },
    /// Have the server make another admin token, and put it into the file that --admin-token-file names. Nobody
    /// is disconnected.
    RotateAdmin {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        overlap: OverlapArgs,
    },
    /// The same for the viewer token. It goes into the file that --viewer-token-file names; without that it is
    /// shown.
    RotateViewer {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        overlap: OverlapArgs,
    },
    /// End a replaced admin or viewer token before its time.
    DropReplaced {
        #[command(flatten)]
        server: ServerArgs,
        /// Which: admin or viewer.
        role: ApiRole,
    },
}

/// How long a replaced token is accepted.
#[derive(Debug, Args)]
pub(crate) struct OverlapArgs {
    /// Seconds for which the token in use is accepted further, so that other programs can be given the new one;
    /// 0 ends it at once. Without it ten minutes.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) overlap: Option<u64>,
}

/// A token of the REST interface.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ApiRole {
    /// It may do everything.
    Admin,
    /// It may read.
    Viewer,
}

/// Cluster secrets.
#[derive(Debug, Args)]
pub(crate) struct ClusterSecretsArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterSecretsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterSecretsCommand {
    /// Take one more cluster secret into use. It is shown once, if it is made here.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster that it admits to.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// File with a secret that was made elsewhere.
        #[arg(long, env = "MEETPOINT_SECRET_FILE", value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// List the cluster secrets in use (not what they say: the server does not know).
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
    },
    /// Drop a cluster secret. Members stay, and come back by their sessions.
    Remove {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The secret's id, from the list.
        id: String,
    },
}

/// Removed nodes.
#[derive(Debug, Args)]
pub(crate) struct RevocationsArgs {
    #[command(subcommand)]
    pub(crate) command: RevocationsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevocationsCommand {
    /// List the nodes that were removed and may not come back.
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
    },
    /// Remove a node: it is disconnected, its peers are told, and it may not come back.
    Add {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The node's id.
        id: String,
    },
    /// Let a removed node join again.
    Lift {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The node's id.
        id: String,
    },
}
