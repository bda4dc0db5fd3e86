//! A node, and where it hears of servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use meetpoint::sources::{Dns, MulticastGroup, Registry};
use meetpoint_proto::name::NodeName;
use meetpoint_proto::{ClusterNetwork, NetworkType, SeedAddr};

use crate::duration;

/// A node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// A rendezvous server: http://HOST:PORT or https://HOST:PORT. TLS is used whenever the
    /// URL is https or a fingerprint is known, by the join token or --fingerprint. May be repeated: a
    /// node that loses its server tries the others.
    #[arg(
        long,
        env = "MEETPOINT_RENDEZVOUS",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = url,
        required_unless_present_any = ["seeds", "seeds_of", "discover"]
    )]
    pub(crate) rendezvous: Vec<String>,
    /// A rendezvous server of the cluster, as a seed (or a URL, as for --rendezvous). It is spoken to by TLS; without it
    /// only on this machine, or with --insecure-http, if no fingerprint is known. May be repeated.
    #[arg(long = "seed", env = "MEETPOINT_SEEDS", value_name = "NAME@HOST:PORT", value_delimiter = ',')]
    pub(crate) seeds: Vec<SeedOrUrl>,
    /// The servers that the DNS SRV records `_meetpoint._tcp.DOMAIN` name, looked up at the start and every five minutes.
    /// Their certificates have to be for the domain, or of a known fingerprint. May be repeated.
    #[arg(long, env = "MEETPOINT_SEEDS_OF", value_name = "DOMAIN", value_delimiter = ',', value_parser = domain)]
    pub(crate) seeds_of: Vec<String>,
    /// Where to hear of servers, from the start and as long as the node runs: `mdns`, `multicast` or
    /// `multicast:GROUP:PORT` (servers that announce themselves on the LAN: serve --announce), `file:PATH` (a server a
    /// line, `ADDRESS [FINGERPRINT] [PRIORITY]`, or JSON; read again when it changes), `dns:DOMAIN` (as --seeds-of, asked
    /// again now and then), or the http(s) URL of such a list. A server that is heard of has to prove itself like any
    /// other. May be repeated.
    #[arg(long, env = "MEETPOINT_DISCOVER", value_name = "SOURCE", value_delimiter = ',')]
    pub(crate) discover: Vec<Discover>,
    /// How long a multicast group may be silent until that counts as a failure of this source.
    #[arg(long, env = "MEETPOINT_DISCOVER_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    pub(crate) discover_timeout: Duration,
    /// First delay before the servers are tried again, at most, as in 500ms, 1s, 2m. It doubles with each
    /// round in which none took the node; the delay is drawn from nothing up to it.
    #[arg(long, env = "MEETPOINT_RETRY_BASE", value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(crate) retry_base: Duration,
    /// Longest delay between two rounds of tries.
    #[arg(long, env = "MEETPOINT_RETRY_MAX", value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub(crate) retry_max: Duration,
    /// End with exit code 4 when no server has taken the node for so long. Without it a start gives up after
    /// 30s, and a node that has joined never does.
    #[arg(long, env = "MEETPOINT_GIVE_UP_AFTER", value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) give_up_after: Option<Duration>,
    /// For how long the router is asked to lead a port to this node, where that is of use: so long a node that dies leaves
    /// the port open behind it. It is renewed at half of that. At least 4s, at most 24h.
    #[arg(long, env = "MEETPOINT_PORT_LEASE", value_name = "DURATION", default_value = "20m", value_parser = lease)]
    pub(crate) port_lease: Duration,
    /// Cluster to join.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default", value_parser = name)]
    pub(crate) cluster: String,
    /// This node's name, unique in the cluster.
    #[arg(long, env = "MEETPOINT_NAME", value_parser = name)]
    pub(crate) name: String,
    /// The right to join: the server's data directory has one in `join-token`.
    #[arg(long, env = "MEETPOINT_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) join_token: Option<String>,
    /// File with the secrets that the nodes of the cluster share, one a line, the newest first.
    #[arg(long, env = "MEETPOINT_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub(crate) cluster_secret_file: Option<PathBuf>,
    /// The fingerprint of a server's certificate, if no join token brings it. The server prints it when it starts.
    /// May be repeated: any server may have any of them.
    #[arg(
        long = "fingerprint",
        env = "MEETPOINT_FINGERPRINT",
        value_name = "FINGERPRINT",
        value_delimiter = ','
    )]
    pub(crate) fingerprints: Vec<meetpoint_proto::id::Fingerprint>,
    /// File that holds this node's newest membership: written at the cluster's home server, and shown to servers that
    /// are not.
    #[arg(long, env = "MEETPOINT_MEMBERSHIP_FILE", value_name = "FILE", requires = "key")]
    pub(crate) membership_file: Option<PathBuf>,
    /// Something this node can do: a name. May be repeated.
    #[arg(long = "capability", env = "MEETPOINT_CAPABILITIES", value_name = "NAME", value_delimiter = ',', value_parser = name)]
    pub(crate) capabilities: Vec<String>,
    /// Where this node runs.
    #[arg(long, env = "MEETPOINT_DATACENTER", value_name = "NAME", value_parser = name)]
    pub(crate) datacenter: Option<String>,
    /// And where there.
    #[arg(long, env = "MEETPOINT_RACK", value_name = "NAME", value_parser = name)]
    pub(crate) rack: Option<String>,
    /// Anything else that the registry is to show. May be repeated.
    #[arg(long = "meta", env = "MEETPOINT_META", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// File with this node's key; made (mode 0600) if it is missing. Without it the key lives as long as the process.
    #[arg(long, env = "MEETPOINT_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// This node's public address, if it has one that it doesn't see itself (a cloud's 1:1 NAT).
    #[arg(long, env = "MEETPOINT_NODE_ADDR", value_name = "IP:PORT", value_parser = socket)]
    pub(crate) node_addr: Option<SocketAddr>,
    /// The cluster type this node insists on: PRIVATE, PUBLIC or DYNAMIC. With PRIVATE nothing is sent to
    /// a public address.
    #[arg(long, env = "MEETPOINT_CLUSTER_NETWORK_TYPE", value_name = "TYPE")]
    pub(crate) cluster_network_type: Option<ClusterNetwork>,
    /// What this node is: PUBLIC or PRIVATE. Without it the server finds out.
    #[arg(long, env = "MEETPOINT_NODE_NETWORK_TYPE", value_name = "TYPE")]
    pub(crate) node_network_type: Option<NetworkType>,
    /// Allow plain HTTP to a server that is not on this machine.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// Connect to this peer (name or id) as soon as it is there, send 64 KiB through a stream, check
    /// what comes back, then ping until stopped. May be repeated.
    #[arg(long, env = "MEETPOINT_CONNECT", value_name = "PEER", value_delimiter = ',', value_parser = peer)]
    pub(crate) connect: Vec<String>,
    /// Connect only once the node knows its class and its NAT, as a node that has been there for a while does.
    #[arg(long, env = "MEETPOINT_SETTLE", requires = "connect")]
    pub(crate) settle: bool,
    /// Between two of these pings.
    #[arg(long, env = "MEETPOINT_PING_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(crate) ping_interval: Duration,
    /// Send back whatever peers send through streams.
    #[arg(long, env = "MEETPOINT_ECHO")]
    pub(crate) echo: bool,
    /// Events as JSON, one object a line.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}

/// A server as a seed or by its URL.
#[derive(Debug, Clone)]
pub(crate) enum SeedOrUrl {
    Seed(SeedAddr),
    Url(String),
}

impl std::str::FromStr for SeedOrUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            let _: meetpoint::ServerUrl =
                text.parse().map_err(|error: meetpoint::UrlError| error.to_string())?;
            return Ok(Self::Url(text.to_owned()));
        }
        text.parse().map(Self::Seed).map_err(|error: meetpoint_proto::seed::ParseSeedError| error.to_string())
    }
}

/// A place to hear of servers.
#[derive(Debug, Clone)]
pub(crate) enum Discover {
    Mdns,
    Multicast(MulticastGroup),
    File(PathBuf),
    Dns(Dns),
    Registry(Registry),
}

impl std::str::FromStr for Discover {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("mdns", None) => Ok(Self::Mdns),
            ("multicast", None) => Ok(Self::Multicast(MulticastGroup::default())),
            ("multicast", Some(group)) => group.parse().map(Self::Multicast).map_err(told),
            ("file", Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            ("dns", Some(domain)) => Dns::new(domain).map(Self::Dns).map_err(told),
            ("http" | "https", Some(_)) => Registry::new(text).map(Self::Registry).map_err(told),
            _ => Err("expected mdns, multicast[:GROUP:PORT], file:PATH, dns:DOMAIN or a URL".to_owned()),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn told(error: impl std::error::Error) -> String {
    error.to_string()
}

/// What a router may be asked for.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration::parse(text)?;
    let fits = (Duration::from_secs(4)..=Duration::from_secs(24 * 3600)).contains(&lease);
    fits.then_some(lease).ok_or_else(|| "expected 4s to 24h".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let key = name(key).map_err(|error| format!("KEY: {error}"))?;
    if value.chars().any(char::is_control) {
        return Err("VALUE: it can't have control characters".to_owned());
    }
    Ok((key, value.to_owned()))
}

/// What a node, a cluster or a place may be called.
pub(super) fn name(text: &str) -> Result<String, String> {
    text.parse::<NodeName>().map(|_| text.to_owned()).map_err(told)
}

fn peer(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a peer's name or id".to_owned()) } else { Ok(text.to_owned()) }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, for example 20.0.0.7:40001".to_owned())
}

pub(super) fn url(text: &str) -> Result<String, String> {
    text.parse::<meetpoint::ServerUrl>().map(|_| text.to_owned()).map_err(told)
}

fn domain(text: &str) -> Result<String, String> {
    Dns::new(text).map(|_| text.to_owned()).map_err(told)
}
