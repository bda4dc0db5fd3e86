//! What the operator should know although the server runs.

use std::fmt;
use std::net::SocketAddr;

use meetpoint_proto::{SeedAddr, SeedName};

/// Something the operator should know. Shown in the log, in the status and by the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// There is no public seed.
    PrivateOnly {
        /// None at all was given.
        no_seed: bool,
    },
    /// Nobody needs a token.
    OpenJoin,
    /// A seed's host has no address.
    UnresolvedSeed(SeedAddr),
    /// A seed was deleted over REST and is given all the same.
    SeedReturned(SeedName),
    /// Seeds were given, and none of them is this server.
    NotASeed,
    /// The operator has revoked the token of the data directory.
    JoinTokenRevoked,
    /// Somebody came over plain HTTP from a public address.
    PlainHttp,
    /// With one STUN address nobody can be proven publicly reachable.
    NoAlternateStun,
    /// An address that nobody named, but that is listened on unless it is switched off, can't be had.
    NoStream {
        /// `--stun-tcp` or `--stun-tls`.
        flag: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
}

impl Warning {
    /// Stable.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PrivateOnly { .. } => "private_only",
            Self::OpenJoin => "open_join",
            Self::UnresolvedSeed(_) => "unresolved_seed",
            Self::SeedReturned(_) => "seed_returned",
            Self::NotASeed => "not_a_seed",
            Self::JoinTokenRevoked => "join_token_revoked",
            Self::PlainHttp => "plain_http",
            Self::NoAlternateStun => "no_alternate_stun",
            Self::NoStream { .. } => "no_stun_stream",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrivateOnly { no_seed: true } => f.write_str(
                "no seed was given, so the cluster is effectively PRIVATE and ONLY PRIVATE NODES ARE ACCEPTED; \
                 give a public seed by --seed NAME@HOST:PORT to serve the public network",
            ),
            Self::PrivateOnly { no_seed: false } => f.write_str(
                "no seed is public, so the cluster is effectively PRIVATE and ONLY PRIVATE NODES ARE ACCEPTED",
            ),
            Self::OpenJoin => f.write_str("--open-join: ANYONE who reaches this server may join"),
            Self::UnresolvedSeed(seed) => {
                write!(f, "the host of seed {seed} does not resolve; it does not count as public")
            }
            Self::SeedReturned(name) => write!(
                f,
                "the seed {name} was deleted over REST and is back, since --seed names it; leave it out there too",
            ),
            Self::NotASeed => f.write_str(
                "none of the seeds is this server: its --http port and addresses, or its --external-ip, fit none of them",
            ),
            Self::JoinTokenRevoked => f.write_str(
                "the join token in the data directory is revoked; make another by `meetpoint tokens create`",
            ),
            Self::PlainHttp => f.write_str(
                "somebody came over PLAIN HTTP from a public address, and not through a trusted proxy: tokens that travel \
                 so can be read on the way; use https://, or name the proxy by --trusted-proxy",
            ),
            Self::NoAlternateStun => f.write_str(
                "there is one STUN address only, so nodes can't tell NAT mappings apart nor be proven reachable; \
                 give a second one by another --stun",
            ),
            Self::NoStream { flag, addr, reason } => write!(
                f,
                "STUN and TURN are not answered at {addr}, where {flag} is if nothing is said ({reason}); \
                 give another address by {flag} IP:PORT, or {flag} off",
            ),
        }
    }
}
