//! The relay: its users, its secrets, its sessions.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::operator::ServerArgs;

/// The relay.
#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[command(subcommand)]
    pub(crate) command: RelayCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Static users: their credentials hold until they are removed.
    #[command(subcommand)]
    Users(UsersCommand),
    /// The secrets that time-limited credentials are minted with.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// What is allocated on the relay: a list, if nothing else is said.
    #[command(args_conflicts_with_subcommands = true)]
    Sessions {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        command: Option<SessionsCommand>,
    },
    /// End an allocation, as `relay sessions end` does.
    Kill {
        #[command(flatten)]
        server: ServerArgs,
        /// The allocation's id, from the list.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// List the static users.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Make a static user, or give one another password.
    Set {
        #[command(flatten)]
        server: ServerArgs,
        /// File with the password, 8 to 128 printable ASCII characters. Without it one is made, and
        /// shown once.
        #[arg(long, env = "MEETPOINT_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// The user: 1 to 63 letters, digits and `.`, `_`, `-`, `+`, `@`.
        name: String,
    },
    /// Remove a static user. What it has allocated lasts until it would have to be refreshed.
    Remove {
        #[command(flatten)]
        server: ServerArgs,
        /// The user.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// List the secrets in force, without what they say.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Mint with a new secret from now on. The ones before are accepted as long as credentials need
    /// them. The new one is shown.
    Add {
        #[command(flatten)]
        server: ServerArgs,
        /// File with the secret, 16 to 128 visible ASCII characters. Without it one is made.
        #[arg(long, env = "MEETPOINT_SECRET_FILE", value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// How long the one before is accepted at least, for programs that mint by themselves. Without
        /// it half a day.
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u64>,
    },
    /// Drop a secret at once, and with it all credentials that were minted with it.
    Drop {
        #[command(flatten)]
        server: ServerArgs,
        /// The secret's id, from the list.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List the allocations there are.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End an allocation. Its client may make another one as long as its credentials hold.
    End {
        #[command(flatten)]
        server: ServerArgs,
        /// The allocation's id, from the list.
        id: String,
    },
}
