//! What concerns the command line itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{NodeArgs, ServeCommand};

/// The configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each value that a command would start with, and where it comes from. Secrets are not shown. Exit
    /// code 2 if the command would refuse to start.
    Explain {
        /// As JSON.
        #[arg(long, env = "MEETPOINT_JSON")]
        json: bool,
        #[command(subcommand)]
        command: ExplainedCommand,
    },
}

/// A command that is not run.
#[derive(Debug, Subcommand)]
pub(crate) enum ExplainedCommand {
    /// The rendezvous server.
    Serve(Box<ServeCommand>),
    /// A node.
    Node(Box<NodeArgs>),
}

/// Completions.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Manual pages.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// An existing directory that they are written into, a page a command.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}
