//! The flags of `meetpoint serve`. Their help is the reference.
//!
//! One struct a subsystem. What the type of a flag can't say is checked in
//! [`ServeArgs::validate`](super::ServeConfig).

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use meetpoint_proto::{ClusterName, ClusterNetwork, NetworkType, PublicKey, SeedAddr};
use meetpoint_turn::Cidr;

use super::{LimitArgs, MAX_STUN_THREADS, QuotaArgs, StreamAddr};

/// Configuration of the rendezvous server. Each flag can be given as an environment variable too.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Directory of the database, the server's identity and its tokens. Created with mode 0700 if it
    /// does not exist.
    #[arg(long, env = "MEETPOINT_DATA", value_name = "DIR", default_value = "./meetpoint-data")]
    pub data: PathBuf,
    /// TOML file whose keys are the names of these flags, without their dashes. A flag counts before the
    /// environment, and that before the file. It is read again on SIGHUP and by POST /v1/reload.
    #[arg(long, env = "MEETPOINT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long the server waits on the first SIGTERM, or on POST /v1/drain, for its nodes to go to another server
    /// and for allocations to end, as in 30s. 0s ends it at once.
    #[arg(long, env = "MEETPOINT_DRAIN_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = patience)]
    pub drain_timeout: Duration,
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// What it relays.
    #[command(flatten)]
    pub relay: RelayArgs,
    /// How much is given to whom.
    #[command(flatten)]
    pub quotas: QuotaArgs,
    /// How often somebody may come.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What cluster it serves.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Who is let in.
    #[command(flatten)]
    pub access: AccessArgs,
    /// How it proves itself.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Where the server listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Address of the control channel, the REST interface and /docs. One port answers TLS and plain
    /// HTTP. Port 0 takes a free one.
    #[arg(long, env = "MEETPOINT_HTTP", value_name = "IP:PORT", default_value = "0.0.0.0:8080", value_parser = socket)]
    pub http: SocketAddr,
    /// Address of a listener for /metrics alone, which wants no token: give one that only your monitoring
    /// reaches. Without it /metrics is answered at --http, to this machine and to whoever has a token.
    #[arg(long, env = "MEETPOINT_METRICS", value_name = "IP:PORT", value_parser = socket)]
    pub metrics: Option<SocketAddr>,
    /// UDP address of the STUN server. At most two per address family: the first is the primary, the
    /// second the alternate, which lets nodes tell mapping from filtering and makes proofs of
    /// reachability possible. Two of a family need two concrete addresses and one port. Port 0 takes a
    /// free one.
    #[arg(long, env = "MEETPOINT_STUN", value_name = "IP:PORT", default_value = "0.0.0.0:3478", value_delimiter = ',', value_parser = socket)]
    pub stun: Vec<SocketAddr>,
    /// Second UDP port on each STUN address. Port 0 takes a free one.
    #[arg(long, env = "MEETPOINT_STUN_ALT_PORT", value_name = "PORT", default_value_t = 3479, value_parser = port)]
    pub stun_alt_port: u16,
    /// Threads that serve STUN and the relay, at most 64. One for each core if nothing is said.
    #[arg(long, env = "MEETPOINT_STUN_THREADS", value_name = "N", value_parser = threads)]
    pub stun_threads: Option<NonZeroU8>,
    /// TCP address of the STUN and TURN server, at most two per address family, or `off`. Without it
    /// the addresses of --stun are taken. Port 0 takes a free one.
    #[arg(long, env = "MEETPOINT_STUN_TCP", value_name = "IP:PORT|off", value_delimiter = ',')]
    pub stun_tcp: Vec<StreamAddr>,
    /// TLS address of the STUN and TURN server, at most two per address family, or `off`. Without it
    /// port 5349 on the addresses of --stun is taken. The certificate is that of --http.
    #[arg(long, env = "MEETPOINT_STUN_TLS", value_name = "IP:PORT|off", value_delimiter = ',')]
    pub stun_tls: Vec<StreamAddr>,
    /// Address under which the world reaches this server, if none of its own addresses is that one
    /// (a cloud's 1:1 NAT, a forwarded port).
    #[arg(long, env = "MEETPOINT_EXTERNAL_IP", value_name = "IP", value_parser = ip)]
    pub external_ip: Option<IpAddr>,
}

/// What the server relays (TURN over UDP).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Relay")]
pub struct RelayArgs {
    /// Address of this machine on which relayed addresses are opened; at most one per address family.
    /// Without it nothing is relayed. Peers are told --external-ip instead if this one is not public.
    #[arg(long = "relay-ip", env = "MEETPOINT_RELAY_IP", value_name = "IP", value_delimiter = ',', value_parser = ip)]
    pub relay_ips: Vec<IpAddr>,
    /// UDP ports of relayed addresses. Each allocation takes one, or two.
    #[arg(long, env = "MEETPOINT_RELAY_PORTS", value_name = "MIN-MAX", default_value = "49152-65535", value_parser = ports)]
    pub relay_ports: PortRange,
    /// Peers to relay to although their addresses are not public, for example 10.0.0.0/8.
    #[arg(
        long = "relay-allow-peer",
        env = "MEETPOINT_RELAY_ALLOW_PEER",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub relay_allow_peers: Vec<Cidr>,
    /// Peers never to relay to, whatever else is said.
    #[arg(
        long = "relay-deny-peer",
        env = "MEETPOINT_RELAY_DENY_PEER",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub relay_deny_peers: Vec<Cidr>,
    /// Let clients send a hash in place of a static user's name (RFC 8489's username anonymity). Those
    /// that know this feature then send nothing else, and can't use time-limited credentials, whose
    /// hash the server can't know. Meetpoint's own nodes are not affected.
    #[arg(long, env = "MEETPOINT_RELAY_USERNAME_ANONYMITY")]
    pub relay_username_anonymity: bool,
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// At least 1.
    pub first: u16,
    /// At least [`Self::first`].
    pub last: u16,
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What cluster the server serves.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Network type of the cluster `default`: PUBLIC, PRIVATE or DYNAMIC. Fixed when the cluster is
    /// created; DYNAMIC if not given then.
    #[arg(long, env = "MEETPOINT_CLUSTER_NETWORK_TYPE", value_name = "TYPE")]
    pub cluster_network_type: Option<ClusterNetwork>,
    /// A rendezvous address of the cluster, in the form NAME@HOST:PORT (HOST:PORT is a control
    /// address). A name without an address of its own stands for those targets of its SRV records
    /// (_meetpoint._tcp.HOST) that serve at PORT. This server is the seed whose HOST:PORT is one of
    /// its listeners or its --external-ip. Without any the only seed is default@127.0.0.1:PORT, and only private nodes are
    /// accepted.
    #[arg(long = "seed", env = "MEETPOINT_SEEDS", value_name = "NAME@HOST:PORT", value_delimiter = ',')]
    pub seeds: Vec<SeedAddr>,
    /// What this server is itself, PUBLIC or PRIVATE. Refused if its own seed's address says otherwise.
    #[arg(long, env = "MEETPOINT_NODE_NETWORK_TYPE", value_name = "TYPE")]
    pub node_network_type: Option<NetworkType>,
    /// Keep nodes that no STUN answer reaches: they can only be relayed. Without it the cluster stays
    /// as it is registered; a new one keeps none.
    #[arg(
        long,
        env = "MEETPOINT_ADMIT_RELAYED",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub admit_relayed: Option<bool>,
    /// Control address of another server: this one registers itself there as a seed of the cluster
    /// `default`, under the name that the --seed which is this server has. Needs --seed-token.
    #[arg(long, env = "MEETPOINT_REGISTER_WITH", value_name = "HOST:PORT", requires = "seed_token", value_parser = control_addr)]
    pub register_with: Option<SeedAddr>,
    /// Join token of the other server, with the scope `seed`.
    #[arg(
        long,
        env = "MEETPOINT_SEED_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        requires = "register_with"
    )]
    pub seed_token: Option<Secret>,
}

/// Who is let in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Join token of the cluster, 16 to 256 visible characters. Without it the first start makes one
    /// and writes it to DIR/join-token.
    #[arg(long, env = "MEETPOINT_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join_token: Option<Secret>,
    /// Admit anyone, without a token.
    #[arg(long, env = "MEETPOINT_OPEN_JOIN")]
    pub open_join: bool,
    /// Members from one IPv4 address or IPv6 /64 at once. This machine itself is not counted.
    #[arg(long, env = "MEETPOINT_NODES_PER_SOURCE", value_name = "COUNT", default_value = "1024", value_parser = super::count)]
    pub nodes_per_source: NonZeroU32,
    /// How long a node must have had no reason to send somewhere for what comes from there to be unsolicited, as
    /// in 10m: then two members of other sites, drawn by this server, are introduced to a node that is proven to be
    /// reachable, to see whether it is open to strangers.
    #[arg(long, env = "MEETPOINT_UNSOLICITED_AFTER", value_name = "TIME", default_value = "10m", value_parser = crate::limits::time)]
    pub unsolicited_after: Duration,
    /// A cluster whose home is another server, which shows its public key with it. Its members are
    /// admitted by the membership certificates that they bring; nothing of them is stored. It takes
    /// the place of this server's own cluster of that name.
    #[arg(
        long = "foreign-cluster",
        env = "MEETPOINT_FOREIGN_CLUSTERS",
        value_name = "NAME=PUBLICKEY",
        value_delimiter = ','
    )]
    pub foreign_clusters: Vec<ForeignCluster>,
    /// Admin token of the REST interface, 16 to 256 visible characters. Without it the first start
    /// makes one and writes it to DIR/admin-token. Other users of this machine can read it in the list
    /// of processes: prefer --admin-token-file or the environment variable.
    #[arg(
        long,
        env = "MEETPOINT_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        conflicts_with = "admin_token_file"
    )]
    pub admin_token: Option<Secret>,
    /// File that holds the admin token.
    #[arg(long, env = "MEETPOINT_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// File that holds the viewer token, 16 to 256 visible characters, which reads the REST interface and
    /// the events and changes nothing. Without it the first start makes one and writes it to
    /// DIR/viewer-token.
    #[arg(long, env = "MEETPOINT_VIEWER_TOKEN_FILE", value_name = "FILE")]
    pub viewer_token_file: Option<PathBuf>,
}

/// A cluster whose home is another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignCluster {
    /// Its name.
    pub name: ClusterName,
    /// The public half of its key.
    pub public_key: PublicKey,
}

impl std::str::FromStr for ForeignCluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, key) = text.split_once('=').ok_or("expected NAME=PUBLICKEY")?;
        let name = name.parse().map_err(|error| format!("NAME: {error}"))?;
        let public_key: PublicKey = key.parse().map_err(|error| format!("PUBLICKEY: {error}"))?;
        public_key.key().map_err(|error| format!("PUBLICKEY: {error}"))?;
        Ok(Self { name, public_key })
    }
}

/// How the server proves itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Certificate chain, PEM. Without it the first start makes a self-signed identity in DIR/tls,
    /// whose fingerprint every join token carries. A renewed one is taken without a restart: within
    /// half a minute, or at once on SIGHUP.
    #[arg(long, env = "MEETPOINT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, env = "MEETPOINT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// A secret from the command line. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, for example 0.0.0.0:8080 or [::]:8080".to_owned())
}

/// A seed's address without its name.
fn control_addr(text: &str) -> Result<SeedAddr, String> {
    if text.contains('@') {
        return Err("expected HOST:PORT, without a name".to_owned());
    }
    format!("home@{text}")
        .parse()
        .map_err(|_| "expected HOST:PORT, for example seed.example.org:8080".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port, from 0 to 65535".to_owned())
}

/// A time, or none.
fn patience(text: &str) -> Result<Duration, String> {
    match text {
        "0s" => Ok(Duration::ZERO),
        _ => crate::limits::time(text).map_err(|error| error.to_string()),
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "expected an IP address".to_owned())
}

fn threads(text: &str) -> Result<NonZeroU8, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_STUN_THREADS);
    count.ok_or_else(|| format!("expected a number from 1 to {MAX_STUN_THREADS}"))
}

fn ports(text: &str) -> Result<PortRange, String> {
    let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match ends {
        Some((first, last)) if (1..=last).contains(&first) => Ok(PortRange { first, last }),
        _ => Err("expected MIN-MAX with 1 <= MIN <= MAX <= 65535, for example 49152-65535".to_owned()),
    }
}
