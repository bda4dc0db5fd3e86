//! The command line. `--help` is the reference; every flag is also `MEETPOINT_<FLAG>`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meetpoint::sources::{Dns, MulticastGroup, Registry};
use meetpoint_proto::{ClusterNetwork, NetworkType, SeedAddr};
use meetpoint_server::{AuditHead, ServeArgs};

use crate::duration;

/// Lets nodes that cannot reach each other meet.
#[derive(Debug, Parser)]
#[command(name = "meetpoint", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 rejected by the cluster, \
4 no server answered.\nLogs go to stderr."
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
    /// Look at this machine's network: its NAT, how servers are reached, and whom a node here could meet.
    Netcheck(NetcheckArgs),
    /// Say why two nodes meet directly, or why they do not.
    Explain(ExplainArgs),
    /// Show a server's state.
    Status(StatusArgs),
}

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
        required_unless_present_any = ["seeds", "seeds_of", "discover"]
    )]
    pub(crate) rendezvous: Vec<String>,
    /// A rendezvous server of the cluster, as a seed (or a URL, as for --rendezvous). It is spoken to by TLS; without it
    /// only on this machine, or with --insecure-http, if no fingerprint is known. May be repeated.
    #[arg(long = "seed", env = "MEETPOINT_SEEDS", value_name = "NAME@HOST:PORT", value_delimiter = ',')]
    pub(crate) seeds: Vec<SeedOrUrl>,
    /// The servers that the DNS SRV records `_meetpoint._tcp.DOMAIN` name, looked up at the start and every five minutes.
    /// Their certificates have to be for the domain, or of a known fingerprint. May be repeated.
    #[arg(long, env = "MEETPOINT_SEEDS_OF", value_name = "DOMAIN", value_delimiter = ',')]
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
    /// Cluster to join.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
    /// This node's name, unique in the cluster.
    #[arg(long, env = "MEETPOINT_NAME")]
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
    #[arg(long = "capability", env = "MEETPOINT_CAPABILITIES", value_name = "NAME", value_delimiter = ',')]
    pub(crate) capabilities: Vec<String>,
    /// Where this node runs.
    #[arg(long, env = "MEETPOINT_DATACENTER", value_name = "NAME")]
    pub(crate) datacenter: Option<String>,
    /// And where there.
    #[arg(long, env = "MEETPOINT_RACK", value_name = "NAME")]
    pub(crate) rack: Option<String>,
    /// Anything else that the registry is to show. May be repeated.
    #[arg(long = "meta", env = "MEETPOINT_META", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// File with this node's key; made (mode 0600) if it is missing. Without it the key lives as long as the process.
    #[arg(long, env = "MEETPOINT_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// This node's public address, if it has one that it doesn't see itself (a cloud's 1:1 NAT).
    #[arg(long, env = "MEETPOINT_NODE_ADDR", value_name = "IP:PORT")]
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
    #[arg(long, env = "MEETPOINT_CONNECT", value_name = "PEER", value_delimiter = ',')]
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

/// The demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Without NATs, even if this user may make network namespaces.
    #[arg(long, env = "MEETPOINT_LOOPBACK")]
    pub(crate) loopback: bool,
    /// End after the timeline, instead of staying up until Ctrl-C.
    #[arg(long, env = "MEETPOINT_ONCE")]
    pub(crate) once: bool,
}

/// How the operator's commands find the server.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "MEETPOINT_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) server: String,
    /// File with the admin token.
    #[arg(
        long,
        env = "MEETPOINT_ADMIN_TOKEN_FILE",
        default_value = "./meetpoint-data/admin-token",
        value_name = "FILE"
    )]
    pub(crate) admin_token_file: PathBuf,
    /// File with the viewer token. With it, commands that only read use no other.
    #[arg(long, env = "MEETPOINT_VIEWER_TOKEN_FILE", value_name = "FILE")]
    pub(crate) viewer_token_file: Option<PathBuf>,
    /// The fingerprint of the server's certificate (`meetpoint status` on the server shows it), for
    /// https to a self-signed server.
    #[arg(long, env = "MEETPOINT_FINGERPRINT", value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine: the admin token is sent readable.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// The answer as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}

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

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

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
    /// What is allocated on the relay.
    #[command(subcommand)]
    Sessions(SessionsCommand),
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

/// Nodes.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Cluster.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
}

/// This machine's network.
#[derive(Debug, Args)]
pub(crate) struct NetcheckArgs {
    /// A rendezvous server: http://HOST:PORT or https://HOST:PORT. May be repeated. Nobody else is asked.
    #[arg(
        long,
        env = "MEETPOINT_RENDEZVOUS",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) rendezvous: Vec<String>,
    /// A join token, for the fingerprint of the server's certificate that it carries. Nothing is joined.
    #[arg(long, env = "MEETPOINT_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) join_token: Option<String>,
    /// The fingerprint of the server's certificate, if no join token brings it.
    #[arg(long, env = "MEETPOINT_FINGERPRINT", value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// What was found as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}

/// Why two nodes meet as they do.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Cluster.
    #[arg(long, env = "MEETPOINT_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
    /// A node: its id, or its name if it is present.
    pub(crate) a: String,
    /// Another one.
    pub(crate) b: String,
}

/// The audit log.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that nothing in the audit log was changed, taken out or put in. Shows its head: note it
    /// elsewhere, and give it as --head later, to find also that the end was cut off or that the whole log was
    /// made anew. Exit code 1 if it is not whole.
    Verify {
        #[command(flatten)]
        server: ServerArgs,
        /// A server's data directory, or a copy of one, whose database file is read instead of asking a server.
        #[arg(long, env = "MEETPOINT_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
        /// A head that was noted earlier.
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Option<AuditHead>,
    },
}

/// Status.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
