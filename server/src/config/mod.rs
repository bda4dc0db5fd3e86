//! From flags to a configuration that holds together.
//!
//! Here is all that can be said without touching the machine. What needs its sockets and addresses
//! is checked in [`crate::listen`] and [`crate::seeds`], still before anything is stored.

mod args;
mod file;
mod limits;
mod quotas;
mod streams;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use meetpoint_proto::token::ParseTokenError;
use meetpoint_proto::{AddressClass, ClusterNetwork, Code, JoinToken, NetworkType, SeedAddr, addr};
use meetpoint_turn::{Cidr, Limits as StunLimits, MAX_PEER_BLOCKS};
use thiserror::Error;

pub use args::{
    AccessArgs, ClusterArgs, ForeignCluster, ListenArgs, PortRange, RelayArgs, Secret, ServeArgs, TlsArgs,
};
pub use file::{Invocation, LayerError, Layered, Origin, Setting};
pub use limits::{AccessLimits, LimitArgs};
pub use quotas::QuotaArgs;
pub use streams::{StreamAddr, StreamAddrs};

/// An admin token shorter than this can be guessed.
pub const MIN_ADMIN_TOKEN_LEN: usize = 16;
/// Bounds what is read and hashed.
pub const MAX_ADMIN_TOKEN_LEN: usize = 256;
/// RFC 5780 knows a primary and an alternate address.
const MAX_STUN_PER_FAMILY: usize = 2;
/// A cluster's seeds are told to every node; more would not fit a sensible list.
pub(crate) const MAX_SEEDS: usize = 64;
/// More cores than this are not busy with packets on any machine seen so far, and each thread has
/// buffers and sockets of its own.
const MAX_STUN_THREADS: NonZeroU8 = NonZeroU8::new(64).unwrap();

/// A configuration that holds together.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The control and REST address.
    pub http: SocketAddr,
    /// Where metrics are shown to everybody, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The STUN addresses: per family one primary and at most one alternate, in this order.
    pub stun: Vec<SocketAddr>,
    /// The second port on each of them.
    pub stun_alt_port: u16,
    /// The threads that serve STUN and the relay.
    pub stun_threads: NonZeroU8,
    /// Where STUN and TURN are answered over TCP.
    pub stun_tcp: StreamAddrs,
    /// Where they are answered over TLS.
    pub stun_tls: StreamAddrs,
    /// Under which address the world reaches this server.
    pub external_ip: Option<IpAddr>,
    /// What is relayed, if anything.
    pub relay: Option<RelaySettings>,
    /// How much STUN and the relay give to whom.
    pub stun_limits: StunLimits,
    /// How often somebody may come over HTTP.
    pub access_limits: AccessLimits,
    /// The type of the cluster `default`, if given.
    pub cluster_network_type: Option<ClusterNetwork>,
    /// The seeds given.
    pub seeds: Vec<SeedAddr>,
    /// Whether the cluster `default` keeps nodes that can only be relayed, if said.
    pub admit_relayed: Option<bool>,
    /// Where this server registers itself as a seed, if anywhere.
    pub register_with: Option<RegisterWith>,
    /// What this server says of itself.
    pub node_network_type: Option<NetworkType>,
    /// The join token given.
    pub join_token: Option<JoinToken>,
    /// Nobody needs a token.
    pub open_join: bool,
    /// Clusters whose home is another server.
    pub foreign_clusters: Vec<ForeignCluster>,
    /// The admin token given.
    pub admin_token: Option<GivenToken>,
    /// The viewer token given.
    pub viewer_token: Option<GivenToken>,
    /// Certificate and key, if given.
    pub tls: Option<TlsFiles>,
    /// Where everything is kept.
    pub data: PathBuf,
    /// How long those who are here are waited for when the server is to end.
    pub drain_timeout: Duration,
    /// The broker's bounds.
    pub limits: meetpoint_broker::Limits,
    /// When seeds are asked whether they are there.
    pub seed_timing: SeedTiming,
}

/// A token of the REST interface that a flag gives.
#[derive(Debug, Clone)]
pub struct GivenToken {
    /// The token.
    pub secret: Secret,
    /// The file it was read from, if the flag names one. It is read again when the operator asks.
    pub file: Option<PathBuf>,
}

/// Where this server registers itself as a seed.
#[derive(Debug, Clone)]
pub struct RegisterWith {
    /// The other server. Its name means nothing.
    pub home: SeedAddr,
    /// A join token of that server's.
    pub token: JoinToken,
}

/// When seeds are asked whether they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedTiming {
    /// From a seed's registration, or this server's start, to the first attempt: seeds that are set up
    /// together come up together.
    pub settle: Duration,
    /// From one proof to the next, give or take a tenth.
    pub interval: Duration,
    /// How long an attempt lasts that brings no proof.
    pub patience: Duration,
    /// Between two attempts at one host or address, whichever cluster or port they are for.
    pub per_target: Duration,
}

impl Default for SeedTiming {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(1),
            interval: Duration::from_secs(5 * 60),
            patience: Duration::from_secs(5),
            per_target: Duration::from_secs(60),
        }
    }
}

/// How relaying is set up.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// At most one of each family.
    pub ips: Vec<IpAddr>,
    /// The ports of relayed addresses.
    pub ports: PortRange,
    /// Peers allowed although they are not public.
    pub allow: Vec<Cidr>,
    /// Peers denied in any case.
    pub deny: Vec<Cidr>,
    /// Whether clients are told that they may send a hash in place of a static user's name.
    pub username_anonymity: bool,
}

/// Certificate and key, as files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Why a configuration is refused. Nothing has been stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// More than two STUN addresses of a family.
    #[error("--stun {addr}: at most {MAX_STUN_PER_FAMILY} addresses per family, a primary and an alternate")]
    TooManyStun {
        /// The first one too many.
        addr: SocketAddr,
    },
    /// Two STUN addresses of one family that can't be primary and alternate.
    #[error(
        "--stun {addr}: two addresses of a family must be different concrete addresses with the same port"
    )]
    StunPair {
        /// The alternate.
        addr: SocketAddr,
    },
    /// The alternate port is the main one.
    #[error("--stun-alt-port {port}: must differ from the port of --stun {addr}")]
    StunAltPort {
        /// The port.
        port: u16,
        /// The address that has it already.
        addr: SocketAddr,
    },
    /// More than two TCP or TLS addresses of a family.
    #[error("{flag} {addr}: at most {MAX_STUN_PER_FAMILY} addresses per family")]
    TooManyStreams {
        /// The flag.
        flag: &'static str,
        /// The first one too many.
        addr: SocketAddr,
    },
    /// Off, and an address.
    #[error("{flag}: give addresses or off, not both")]
    StreamOff {
        /// The flag.
        flag: &'static str,
    },
    /// Multicast and broadcast addresses.
    #[error("{flag} {addr}: not an address of one host")]
    NotAHost {
        /// The flag.
        flag: &'static str,
        /// Its value.
        addr: IpAddr,
    },
    /// Two relay addresses of one family.
    #[error("--relay-ip {ip}: at most one address per family")]
    TooManyRelayIps {
        /// The second one.
        ip: IpAddr,
    },
    /// Too many blocks of addresses.
    #[error("{flag}: at most {most} blocks, {count} were given")]
    TooManyBlocks {
        /// The flag.
        flag: &'static str,
        /// How many there may be.
        most: usize,
        /// How many.
        count: usize,
    },
    /// Two seeds of one name, or one address.
    #[error("--seed {seed}: the name or the address is given twice")]
    DuplicateSeed {
        /// The second one.
        seed: Box<SeedAddr>,
    },
    /// More seeds than a list should have.
    #[error("--seed: at most {MAX_SEEDS} seeds, {count} were given")]
    TooManySeeds {
        /// How many.
        count: usize,
    },
    /// Not a join token.
    #[error("--join-token: {0}")]
    JoinToken(#[from] ParseTokenError),
    /// Not a join token either.
    #[error("--seed-token: {0}")]
    SeedToken(ParseTokenError),
    /// This server is none of its seeds, so nobody knows as which one it should register.
    #[error("--register-with: no --seed is this server; give one with its own address, as others reach it")]
    RegisterWhom,
    /// Not a token of the REST interface.
    #[error(
        "{flag}: this token has {MIN_ADMIN_TOKEN_LEN} to {MAX_ADMIN_TOKEN_LEN} visible ASCII characters, the one given has {len} characters"
    )]
    AdminToken {
        /// Where it came from.
        flag: &'static str,
        /// Its length.
        len: usize,
    },
    /// A file that can't be read.
    #[error("{flag} {}: {source}", path.display())]
    File {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key do not work.
    #[error("{flag} {}: {reason}", path.display())]
    Tls {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address can't be listened on.
    #[error("{flag} {addr}: {source}; give an address of this machine and a port that is free")]
    Bind {
        /// The flag.
        flag: &'static str,
        /// Its value.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A seed contradicts the cluster's type or this server's own.
    #[error("--seed {seed}: {} ({reason}); {}", code, code.hint())]
    Seed {
        /// The seed.
        seed: Box<SeedAddr>,
        /// Stable.
        code: Code,
        /// What was found.
        reason: String,
    },
    /// The cluster's type asks for seeds that are not there.
    #[error("--cluster-network-type {kind}: {} ({reason}); {}", code, code.hint())]
    Cluster {
        /// The type.
        kind: ClusterNetwork,
        /// Stable.
        code: Code,
        /// What was found.
        reason: String,
    },
    /// This server's own declaration contradicts the facts.
    #[error("--node-network-type {declared}: {} ({reason}); {}", code, code.hint())]
    NodeNetworkType {
        /// What was declared.
        declared: NetworkType,
        /// Stable.
        code: Code,
        /// What was found.
        reason: String,
    },
    /// The cluster was created with another type.
    #[error(
        "--cluster-network-type {given}: the cluster `default` in {} was created as {stored}, and a cluster's type never changes; leave the flag out, or give another --data",
        data.display()
    )]
    ClusterTypeFixed {
        /// What was given.
        given: ClusterNetwork,
        /// What it is.
        stored: ClusterNetwork,
        /// Where it is stored.
        data: PathBuf,
    },
}

impl ServeArgs {
    /// Checks what can be checked without touching sockets or the data directory. Files that flags
    /// name are read.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag, the value and what is allowed.
    pub fn validate(self) -> Result<ServeConfig, ConfigError> {
        let ListenArgs { http, metrics, stun, stun_alt_port, stun_threads, stun_tcp, stun_tls, external_ip } =
            self.listen;
        check_hosts(http, &stun, external_ip)?;
        let stun = stun_pairs(stun, stun_alt_port)?;
        let (stun_tcp, stun_tls) = (StreamAddrs::tcp(&stun_tcp, &stun)?, StreamAddrs::tls(&stun_tls, &stun)?);
        let relay = relay_settings(self.relay)?;
        check_seeds(&self.cluster.seeds)?;
        let join_token = self.access.join_token.map(|secret| secret.reveal().parse()).transpose()?;
        let tls = match (self.tls.tls_cert, self.tls.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            _ => None,
        };
        Ok(ServeConfig {
            http,
            metrics,
            stun,
            stun_alt_port,
            stun_threads: stun_threads.unwrap_or_else(one_for_each_core),
            stun_tcp,
            stun_tls,
            external_ip,
            relay,
            stun_limits: self.quotas.limits(),
            access_limits: self.limits.validate()?,
            cluster_network_type: self.cluster.cluster_network_type,
            seeds: self.cluster.seeds,
            admit_relayed: self.cluster.admit_relayed,
            register_with: register_with(self.cluster.register_with, self.cluster.seed_token)?,
            node_network_type: self.cluster.node_network_type,
            join_token,
            open_join: self.access.open_join,
            foreign_clusters: self.access.foreign_clusters,
            admin_token: admin_token(self.access.admin_token, self.access.admin_token_file)?,
            viewer_token: token_file("--viewer-token-file", self.access.viewer_token_file)?,
            tls,
            data: self.data,
            drain_timeout: self.drain_timeout,
            limits: meetpoint_broker::Limits {
                members_per_source: self.access.nodes_per_source.get() as usize,
                unsolicited_after: self.access.unsolicited_after,
                ..Default::default()
            },
            seed_timing: SeedTiming::default(),
        })
    }
}

/// A number of things, for flags.
fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("expected a whole number from 1 to {}", u32::MAX))
}

/// The same, where fewer are possible.
fn small_count(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| format!("expected a whole number from 1 to {}", u16::MAX))
}

fn register_with(home: Option<SeedAddr>, token: Option<Secret>) -> Result<Option<RegisterWith>, ConfigError> {
    let (Some(home), Some(token)) = (home, token) else { return Ok(None) };
    let token = token.reveal().parse().map_err(ConfigError::SeedToken)?;
    Ok(Some(RegisterWith { home, token }))
}

fn check_hosts(http: SocketAddr, stun: &[SocketAddr], external: Option<IpAddr>) -> Result<(), ConfigError> {
    let is_group = |ip: &IpAddr| ip.is_multicast() || *ip == IpAddr::from([255; 4]);
    let listed = stun.iter().map(|addr| ("--stun", addr.ip()));
    let all = std::iter::once(("--http", http.ip())).chain(listed);
    let external = external.map(|ip| ("--external-ip", ip));
    let no_host = |&(flag, ip): &(&str, IpAddr)| {
        is_group(&ip) || (flag == "--external-ip" && addr::classify(ip) == AddressClass::Special)
    };
    match all.chain(external).find(no_host) {
        Some((flag, addr)) => Err(ConfigError::NotAHost { flag, addr }),
        None => Ok(()),
    }
}

/// Sorts the addresses by family, primary before alternate, and checks that each pair is one.
fn stun_pairs(stun: Vec<SocketAddr>, alt_port: u16) -> Result<Vec<SocketAddr>, ConfigError> {
    let (v4, v6): (Vec<_>, Vec<_>) = stun.into_iter().partition(SocketAddr::is_ipv4);
    for family in [&v4, &v6] {
        if let Some(&addr) = family.get(MAX_STUN_PER_FAMILY) {
            return Err(ConfigError::TooManyStun { addr });
        }
        if let [primary, alternate] = family[..] {
            let concrete = !primary.ip().is_unspecified() && !alternate.ip().is_unspecified();
            if !concrete || primary.ip() == alternate.ip() || primary.port() != alternate.port() {
                return Err(ConfigError::StunPair { addr: alternate });
            }
        }
        if let Some(&addr) = family.iter().find(|addr| alt_port != 0 && addr.port() == alt_port) {
            return Err(ConfigError::StunAltPort { port: alt_port, addr });
        }
    }
    Ok([v4, v6].concat())
}

fn one_for_each_core() -> NonZeroU8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = cores.try_into().unwrap_or(u8::MAX);
    NonZeroU8::new(count).map_or(NonZeroU8::MIN, |count| count.min(MAX_STUN_THREADS))
}

fn relay_settings(args: RelayArgs) -> Result<Option<RelaySettings>, ConfigError> {
    let RelayArgs {
        relay_ips: ips,
        relay_ports: ports,
        relay_allow_peers: allow,
        relay_deny_peers: deny,
        relay_username_anonymity: username_anonymity,
    } = args;
    for (index, &ip) in ips.iter().enumerate() {
        if ip.is_multicast() || ip.is_unspecified() || ip == IpAddr::from([255; 4]) {
            return Err(ConfigError::NotAHost { flag: "--relay-ip", addr: ip });
        }
        if ips[..index].iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(ConfigError::TooManyRelayIps { ip });
        }
    }
    for (flag, blocks) in [("--relay-allow-peer", &allow), ("--relay-deny-peer", &deny)] {
        if blocks.len() > MAX_PEER_BLOCKS {
            return Err(ConfigError::TooManyBlocks { flag, most: MAX_PEER_BLOCKS, count: blocks.len() });
        }
    }
    Ok((!ips.is_empty()).then_some(RelaySettings { ips, ports, allow, deny, username_anonymity }))
}

fn check_seeds(seeds: &[SeedAddr]) -> Result<(), ConfigError> {
    if seeds.len() > MAX_SEEDS {
        return Err(ConfigError::TooManySeeds { count: seeds.len() });
    }
    for (index, seed) in seeds.iter().enumerate() {
        let same = |other: &SeedAddr| {
            other.name == seed.name || (other.host == seed.host && other.port == seed.port)
        };
        if seeds[..index].iter().any(same) {
            return Err(ConfigError::DuplicateSeed { seed: Box::new(seed.clone()) });
        }
    }
    Ok(())
}

fn admin_token(given: Option<Secret>, file: Option<PathBuf>) -> Result<Option<GivenToken>, ConfigError> {
    if let Some(secret) = given {
        let secret = checked_api_token("--admin-token", secret)?;
        return Ok(Some(GivenToken { secret, file: None }));
    }
    token_file("--admin-token-file", file)
}

fn token_file(flag: &'static str, file: Option<PathBuf>) -> Result<Option<GivenToken>, ConfigError> {
    let Some(path) = file else { return Ok(None) };
    let secret = read_api_token(flag, &path)?;
    Ok(Some(GivenToken { secret, file: Some(path) }))
}

/// Reads a token of the REST interface.
pub(crate) fn read_api_token(flag: &'static str, path: &Path) -> Result<Secret, ConfigError> {
    let text = read_file(flag, path)?;
    let secret = text.trim().parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    checked_api_token(flag, secret)
}

fn checked_api_token(flag: &'static str, secret: Secret) -> Result<Secret, ConfigError> {
    let text = secret.reveal();
    let long_enough = (MIN_ADMIN_TOKEN_LEN..=MAX_ADMIN_TOKEN_LEN).contains(&text.len());
    if long_enough && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(secret)
    } else {
        Err(ConfigError::AdminToken { flag, len: text.chars().count() })
    }
}

/// Reads a file that a flag names.
pub(crate) fn read_file(flag: &'static str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        flag,
        path: path.to_path_buf(),
        source,
    })
}
