//! The server and how it is announced.

use std::time::Duration;

use clap::{Args, ValueEnum};
use meetpoint::sources::MulticastGroup;
use meetpoint_server::ServeArgs;

use crate::duration;

/// The server.
#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    #[command(flatten)]
    pub(crate) announce: AnnounceArgs,
}

/// Telling the LAN.
#[derive(Debug, Args)]
#[command(next_help_heading = "Announcing")]
pub(crate) struct AnnounceArgs {
    /// Announce this server on its private links, for nodes with --discover: by `mdns`, `multicast`, or both if nothing is
    /// said. A server of a specific address is announced on that one's link only.
    #[arg(
        long,
        env = "MEETPOINT_ANNOUNCE",
        value_name = "BY",
        value_delimiter = ',',
        num_args = 0..,
        require_equals = true,
        default_missing_values = ["mdns", "multicast"]
    )]
    pub(crate) announce: Vec<AnnounceBy>,
    /// The name that it is announced under.
    #[arg(long, env = "MEETPOINT_ANNOUNCE_NAME", value_name = "NAME", default_value = "server")]
    pub(crate) announce_name: meetpoint_proto::name::SeedName,
    /// The multicast group that it is announced to.
    #[arg(long, env = "MEETPOINT_ANNOUNCE_GROUP", value_name = "GROUP:PORT", default_value_t)]
    pub(crate) announce_group: MulticastGroup,
    /// Between two announcements to the group.
    #[arg(long, env = "MEETPOINT_ANNOUNCE_INTERVAL", value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub(crate) announce_interval: Duration,
}

/// How a server is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnnounceBy {
    /// mDNS.
    Mdns,
    /// Datagrams to a group.
    Multicast,
}
