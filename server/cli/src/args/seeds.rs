//! The seeds of a cluster.

use clap::{Args, Subcommand};
use meetpoint_proto::{NetworkType, SeedAddr};

use super::operator::ServerArgs;

/// Seeds.
#[derive(Debug, Args)]
pub(crate) struct SeedsArgs {
    #[command(subcommand)]
    pub(crate) command: SeedsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SeedsCommand {
    /// List the seeds, and what was found when they were asked.
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
    },
    /// Put a seed, or change where one is. The first approved public one makes a DYNAMIC cluster PUBLIC.
    Put {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// What the seed is: PUBLIC or PRIVATE. Without it its address tells.
        #[arg(long, value_name = "TYPE")]
        network_type: Option<NetworkType>,
        /// The key it has to show: `seed_key` of its `meetpoint status`. Without it the first one shown is pinned.
        #[arg(long, value_name = "KEY")]
        public_key: Option<meetpoint_proto::PublicKey>,
        /// The seed.
        #[arg(value_name = "NAME@HOST:PORT")]
        seed: SeedAddr,
    },
    /// Stand by a seed that has registered itself. Only then the cluster depends on it.
    Approve {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The seed's name.
        name: String,
    },
    /// Delete a seed. Without its last public one a DYNAMIC cluster is PRIVATE again.
    Delete {
        #[command(flatten)]
        server: ServerArgs,
        /// Cluster.
        #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
        cluster: String,
        /// The seed's name.
        name: String,
    },
}
