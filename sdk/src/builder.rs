//! How a node starts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meetpoint_agent::{Agent, BackoffConfig, Config, Ended};
use meetpoint_proto::certificate::ParseMembershipError;
use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::name::NameError;
use meetpoint_proto::secret::ParseSecretError;
use meetpoint_proto::token::ParseTokenError;
use meetpoint_proto::wire::{MAX_SECRETS, Profile, ProfileError, Refusal};
use meetpoint_proto::{ClusterNetwork, ClusterSecret, JoinToken, NetworkType};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Parts, Stage};
use crate::egress::Egress;
use crate::key::{KeyError, NodeKey};
use crate::mux::{BindAddrs, BindError, Mux, StunDatagram};
use crate::node::{Node, Started};
use crate::paths::PathTable;
use crate::quic::{ACCEPT_QUEUE, Admitted, Quic};
use crate::servers::{self, Given, Obstacles, Pool, Server, ServerError};
use crate::shared::Shared;
use crate::sources::{MAX_SOURCES, SeedSource, Sources};
use crate::tls::Pins;
use crate::ws::OpenError;

/// Commands waiting for the driver; more make their callers wait.
const COMMAND_QUEUE: usize = 64;
/// Shortest delay between attempts: less is a busy loop.
const MIN_RETRY: Duration = Duration::from_millis(10);
/// How long a start tries before it gives up.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What a router is asked to lead a port to the node for: a node that dies leaves it behind for so long at most.
const PORT_LEASE: Duration = Duration::from_secs(20 * 60);
/// Bounds on what may be asked for: it is renewed at half of it, and a minute's silence of the router must not matter
/// for long.
#[cfg(feature = "portmap")]
const PORT_LEASES: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(24 * 60 * 60));

/// What a node is to be. Checked by [`Builder::start`].
#[derive(Clone)]
#[must_use = "a node begins with start()"]
pub struct Builder {
    servers: Vec<Given>,
    sources: Vec<Arc<dyn SeedSource>>,
    cluster: String,
    name: String,
    token: Option<String>,
    secrets: Vec<String>,
    membership: Option<String>,
    fingerprints: Vec<Fingerprint>,
    profile: Profile,
    key_file: Option<PathBuf>,
    node_addr: Option<SocketAddr>,
    declared: Option<NetworkType>,
    expect: Option<ClusterNetwork>,
    insecure_http: bool,
    backoff: BackoffConfig,
    start_timeout: Duration,
    port_lease: Duration,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The rights to join are not for logs.
        f.debug_struct("Builder")
            .field("servers", &self.servers)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why a node did not start. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A server's address is not one, or there is none.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The node's name is not one.
    #[error("node name: {0}")]
    Name(#[source] NameError),
    /// The cluster's name is not one.
    #[error("cluster name: {0}")]
    Cluster(#[source] NameError),
    /// The join token is not one.
    #[error("join token: {0}")]
    Token(#[from] ParseTokenError),
    /// A cluster secret is not one.
    #[error("cluster secret: {0}")]
    Secret(#[from] ParseSecretError),
    /// More of them than a node may hold.
    #[error("cluster secrets: at most {MAX_SECRETS}")]
    TooManySecrets,
    /// The membership is not one.
    #[error("membership: {0}")]
    Membership(#[from] ParseMembershipError),
    /// What the node says of itself is not within its bounds.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The key can't be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The join token would travel in the open.
    #[error("{0}")]
    PlainHttp(Arc<OpenError>),
    /// The node insists on a PRIVATE cluster, and the server is not in the private network. Nothing was sent.
    #[error("{0}")]
    Sealed(Arc<OpenError>),
    /// The cluster does not take this node.
    #[error("rejected: {}: {}", .0.code, .0.hint)]
    Rejected(Refusal),
    /// No server let the node join in time.
    #[error("no server: {last}")]
    NoServer {
        /// The newest obstacle of each server.
        last: String,
    },
    /// The system refused a socket, or a secure random number.
    #[error("{0}")]
    Io(String),
}

impl Default for Builder {
    /// A node that knows no server yet.
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            sources: Vec::new(),
            cluster: "default".to_owned(),
            name: String::new(),
            token: None,
            secrets: Vec::new(),
            membership: None,
            fingerprints: Vec::new(),
            profile: Profile::default(),
            key_file: None,
            node_addr: None,
            declared: None,
            expect: None,
            insecure_http: false,
            backoff: BackoffConfig::default(),
            start_timeout: START_TIMEOUT,
            port_lease: PORT_LEASE,
        }
    }
}

impl Builder {
    /// One more server of the cluster: `http://HOST:PORT` or `https://HOST:PORT`. The node stays at one of them; when
    /// it loses that it tries them all, the last good one first and the others in random order.
    pub fn server(mut self, url: impl Into<String>) -> Self {
        self.servers.push(Given::Url(url.into()));
        self
    }

    /// One more server of the cluster, as a seed: `name@host:port`. It is spoken to by https, but for a seed on this
    /// machine, or with [`Builder::insecure_http`], if no fingerprint is known.
    #[allow(clippy::needless_pass_by_value, reason = "text and addresses alike")]
    pub fn seed(mut self, seed: impl ToString) -> Self {
        self.servers.push(Given::Seed(seed.to_string()));
        self
    }

    /// The servers that the SRV records `_meetpoint._tcp.DOMAIN` name, by priority and weight (RFC 2782). Looked up by
    /// [`Builder::start`], and again every five minutes. Their certificates have to be for the domain, or pinned.
    #[cfg(feature = "dns")]
    pub fn seeds_of(mut self, domain: impl Into<String>) -> Self {
        self.servers.push(Given::Domain(domain.into()));
        self
    }

    /// A place where the node hears of servers, besides those it is given, for as long as it runs. At most 32.
    pub fn source(mut self, source: impl SeedSource + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// The cluster to join; `default` if not set.
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// The node's name, unique in its cluster. Required.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The right to join. A token made by the server also carries the fingerprint of its certificate.
    pub fn join_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The right to join that all nodes of a cluster share, `mps1...`. May be given several times, the newest first:
    /// whichever the server knows counts, so that one can be replaced while nodes run.
    pub fn cluster_secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// The right to be present at a server that is not the cluster's home: what [`Node::membership`] gave there, to a
    /// node of the same key and name.
    pub fn membership(mut self, membership: impl Into<String>) -> Self {
        self.membership = Some(membership.into());
        self
    }

    /// The fingerprint of a server's certificate, if no join token brings it and no public authority vouches for the
    /// server. May be given several times: any server may have any of them.
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprints.push(fingerprint);
        self
    }

    /// Something this node can do, for whoever reads the registry or meets it: a name. At most 16.
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.profile.capabilities.push(capability.into());
        self
    }

    /// Where this node runs: a name.
    pub fn datacenter(mut self, datacenter: impl Into<String>) -> Self {
        self.profile.datacenter = Some(datacenter.into());
        self
    }

    /// And where there: a name.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.profile.rack = Some(rack.into());
        self
    }

    /// Anything else that the registry is to show: the key is a name. At most 16 of together 1 KiB.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.profile.metadata.insert(key.into(), value.into());
        self
    }

    /// Where the node's key is kept; made (mode 0600) if the file is missing. Without it the key lives as long as the
    /// node, and the registry forgets the node when it leaves.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_file = Some(path.into());
        self
    }

    /// The node's public address, if it has one that it does not see itself (a cloud's 1:1 NAT).
    pub fn node_addr(mut self, addr: SocketAddr) -> Self {
        self.node_addr = Some(addr);
        self
    }

    /// What the node is, if the user knows. Refused where the facts contradict.
    pub fn network_type(mut self, kind: NetworkType) -> Self {
        self.declared = Some(kind);
        self
    }

    /// The cluster type the node insists on. With `Private` nothing is sent to a public address.
    pub fn expect_network(mut self, kind: ClusterNetwork) -> Self {
        self.expect = Some(kind);
        self
    }

    /// Allows plain HTTP to a server that is not on this machine.
    pub fn insecure_http(mut self, allow: bool) -> Self {
        self.insecure_http = allow;
        self
    }

    /// First and longest delay between attempts to reach a server: 1 s and 30 s if not set, and no less than 10 ms.
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        (self.backoff.base, self.backoff.max) = (base.max(MIN_RETRY), max.max(MIN_RETRY));
        self
    }

    /// How long no server may take the node until it ends, at its start and ever after. If not set a node that has
    /// started tries for ever.
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.backoff.give_up_after = Some(limit);
        self
    }

    /// How long [`Builder::start`] tries; 30 s if not set, or as long as [`Builder::give_up_after`] says.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// For how long the router is asked to lead a port to the node, where that is of use: so long a node that dies
    /// leaves the port open behind it. Renewed at half of it, and taken back by a node that leaves. 20 minutes if not
    /// set; no less than 4 s and no more than a day.
    #[cfg(feature = "portmap")]
    pub fn port_lease(mut self, lease: Duration) -> Self {
        self.port_lease = lease.clamp(PORT_LEASES.0, PORT_LEASES.1);
        self
    }

    /// Joins.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub async fn start(self) -> Result<Node, StartError> {
        let deadline = Instant::now() + self.backoff.give_up_after.unwrap_or(self.start_timeout);
        let egress = Arc::new(Egress::new(self.expect == Some(ClusterNetwork::Private)));
        if self.servers.is_empty() && self.sources.is_empty() {
            return Err(ServerError::None.into());
        }
        let (mut servers, mut unknown) = servers::all(&self.servers, self.insecure_http, &egress).await?;
        let again = servers::again(&self.servers, self.insecure_http, unknown.is_empty())?;
        let all: Vec<_> = self.sources.iter().cloned().chain(again).collect();
        if all.len() > MAX_SOURCES {
            return Err(ServerError::TooManySources.into());
        }
        let mut sources = Sources::start(&all, &egress);
        if servers.is_empty() && !self.sources.is_empty() {
            // A node without a server to go to has nothing to begin with.
            let first = first_heard_of(&mut sources, self.insecure_http);
            servers.extend(timeout_at(deadline, first).await.ok().flatten());
        }
        if servers.is_empty() {
            unknown.extend(sources.failures());
            return Err(StartError::NoServer { last: unknown.join("; ") });
        }
        let (started, driver) = self.assemble(&servers, sources, egress)?;
        let (mut stage, cancel) = (started.stage.clone(), started.cancel.clone());
        let node = Node::new(started);
        tokio::spawn(driver.run());
        // From here on dropping the node ends the driver.
        let decided = stage.wait_for(|stage| match stage {
            Stage::Starting(obstacles) => obstacles.hopeless().is_some(),
            Stage::Joined | Stage::Ended(_) | Stage::GivenUp(_) => true,
        });
        let decided = timeout_at(deadline, decided).await.map(|stage| stage.map(|stage| stage.clone()));
        match decided {
            Ok(Ok(Stage::Joined)) => Ok(node),
            Ok(Ok(Stage::Ended(Ended::Rejected(refusal)))) => Err(StartError::Rejected(refusal)),
            Ok(Ok(Stage::Starting(obstacles))) => Err(hopeless_error(&obstacles)),
            _ => {
                cancel.cancel();
                let last = match &*stage.borrow() {
                    Stage::Starting(obstacles) | Stage::GivenUp(obstacles) => obstacles.to_string(),
                    Stage::Joined | Stage::Ended(_) => "the node ended".to_owned(),
                };
                Err(StartError::NoServer { last })
            }
        }
    }

    fn assemble(
        self,
        servers: &[Server],
        sources: Sources,
        egress: Arc<Egress>,
    ) -> Result<(Started, Driver), StartError> {
        let name = self.name.parse().map_err(StartError::Name)?;
        let cluster = self.cluster.parse().map_err(StartError::Cluster)?;
        let token = self.token.as_deref().map(str::parse::<JoinToken>).transpose()?;
        let secrets = parse_secrets(&self.secrets)?;
        let membership = self.membership.as_deref().map(str::parse).transpose()?;
        self.profile.check()?;
        let key = match &self.key_file {
            Some(path) => NodeKey::load_or_create(path)?,
            None => NodeKey::ephemeral()?,
        };
        let io = |error: &dyn std::fmt::Display| StartError::Io(error.to_string());
        let sealed = self.expect == Some(ClusterNetwork::Private);
        let of_token = token.as_ref().and_then(JoinToken::fingerprint);
        let pins: Pins = self.fingerprints.iter().copied().chain(of_token).collect();
        let (mux, stun) = bind(&key, sealed, &egress).map_err(|e| io(&e))?;
        let admitted = Arc::new(Admitted::default());
        let (quic, acceptor) =
            Quic::start(Arc::clone(&mux), &key, Arc::clone(&admitted)).map_err(|e| io(&e))?;
        let pool = Pool::new(servers, pins, self.insecure_http, Arc::clone(&egress));
        let config = Config {
            key: key.signing_key().clone(),
            cluster,
            name,
            token,
            secrets,
            membership,
            profile: self.profile,
            declared: self.declared,
            node_addr: self.node_addr,
            expect: self.expect,
            ephemeral: self.key_file.is_none(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backoff: self.backoff,
        };
        let seed = random_seed().map_err(|e| io(&e))?;
        let (shared, releases) = Shared::new();
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let obstacles = Obstacles::new(servers, !self.sources.is_empty());
        let (stage, stages) = watch::channel(Stage::Starting(obstacles.clone()));
        let cancel = CancellationToken::new();
        let (accepting, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let parts = Parts {
            agent: Agent::with_servers(config, servers.iter().map(|server| server.rank).collect(), seed),
            mux: Arc::clone(&mux),
            stun,
            admitted,
            servers: pool,
            sources,
            obstacles,
            egress,
            shared: Arc::clone(&shared),
            releases,
            commands: command_queue,
            stage,
            cancel: cancel.clone(),
            id: key.id(),
            cluster: self.cluster.clone(),
            quic: quic.clone(),
            port_lease: self.port_lease,
        };
        let started = Started {
            id: key.id(),
            name: self.name,
            cluster: self.cluster,
            shared,
            commands,
            quic,
            mux,
            accepted,
            stage: stages,
            cancel,
        };
        Ok((started, Driver::new(parts, acceptor, accepting)))
    }
}

/// What all of the agent's randomness comes from.
fn random_seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}

/// The first server that a source tells of; `None` if none ever will.
async fn first_heard_of(sources: &mut Sources, insecure_http: bool) -> Option<Server> {
    loop {
        let told = sources.next().await?;
        if let Some(server) = Server::of_told(&told, insecure_http) {
            return Some(server);
        }
    }
}

/// The node's socket; without IPv6 if it is sealed, because which of its addresses are global changes.
fn bind(
    key: &NodeKey,
    sealed: bool,
    egress: &Arc<Egress>,
) -> Result<(Arc<Mux>, mpsc::Receiver<StunDatagram>), BindError> {
    let v6 = (!sealed).then(|| SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let binds = BindAddrs { v4: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), v6 };
    Mux::bind(binds, &key.id(), Arc::new(PathTable::default()), Arc::clone(egress))
}

pub(crate) fn parse_secrets(texts: &[String]) -> Result<Vec<ClusterSecret>, StartError> {
    if texts.len() > MAX_SECRETS {
        return Err(StartError::TooManySecrets);
    }
    Ok(texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// Of one server the error itself; of several what is wrong with each, unless all is the user's own choice.
fn hopeless_error(obstacles: &Obstacles) -> StartError {
    match obstacles.hopeless() {
        Some(error) if matches!(*error, OpenError::PlainRefused { .. }) => StartError::PlainHttp(error),
        Some(error) if matches!(*error, OpenError::Sealed { .. }) => StartError::Sealed(error),
        _ => StartError::NoServer { last: obstacles.to_string() },
    }
}
