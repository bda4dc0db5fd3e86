//! Puts the server together, runs it, and takes it down in order.

mod info;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meetpoint_broker::RelayAccess;
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, JoinToken, TokenScope};
use meetpoint_turn::{ListenerId, RelayConfig, StreamListener};
use serde_json::json;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::api_tokens::ApiTokens;
use crate::config::{ConfigError, RegisterWith, ServeConfig};
use crate::data_dir::{DataDir, DataError};
use crate::drain::{Drain, Draining};
use crate::http::serve::Listener;
use crate::http::{self, App};
use crate::identity::{Identity, IdentityError, Reloader};
use crate::listen::{Sockets, machine_ips};
use crate::live::{self, ConfigSource, Live};
use crate::metrics::Metrics;
use crate::reload::Reload;
use crate::rendezvous::{Rendezvous, StunChannels};
use crate::restore;
use crate::secrets::{self, SecretsError};
use crate::seeds::herald::Herald;
use crate::seeds::me::Me;
use crate::seeds::registrar::Registrar;
use crate::seeds::verifier::Verifier;
use crate::seeds::{self, Here, Verdict};
use crate::service::{
    self, Action, Actor, Cluster, DEFAULT_CLUSTER, Established, Keyring, NewToken, Service, ServiceError,
    UnixMs,
};
use crate::store::{self, OpenError, Store};
use crate::stream::{StreamKind, Streams, Surroundings};
use crate::udp::{RelayHandle, Setup, Stun, StunError, relay_config};

pub use info::Info;
use info::{probe_address, reachable_ips, stun_ports, url, warnings};

/// Observations and requests that wait between the STUN and the broker task: a second's worth of a
/// busy server. What is observed beyond it is repeated by the nodes.
const STUN_QUEUE: usize = 4096;
/// How long nodes and requests may take to part in peace.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the registry may take to note the end.
const NOTE_STOP: Duration = Duration::from_secs(5);
/// How long the tasks may take to end after that, the registry's last commit included.
const HALT: Duration = Duration::from_secs(10);
/// Ephemeral nodes of an earlier run have this long to come back before they are forgotten.
const RETURN: Duration = Duration::from_secs(600);

/// How often to see whether a credential secret has served: a look at a few numbers.
const RETIRE_INTERVAL: Duration = Duration::from_secs(1);
/// When to try again if the registry does not take it.
const RETIRE_PAUSE: Duration = Duration::from_secs(60);

/// Why the server does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is refused. Nothing was stored.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] OpenError),
    /// The registry refused the cluster.
    #[error("the registry: {0}")]
    Establish(String),
    /// The self-signed certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The tokens.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The STUN server.
    #[error(transparent)]
    Stun(#[from] StunError),
    /// The runtime does not take the listener.
    #[error("the HTTP listener: {0}")]
    Listener(#[from] std::io::Error),
}

impl StartError {
    /// The process' exit code: 2 for a bad configuration, which a directory that can't be used is one of, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Data(DataError::Io { .. }) => 2,
            _ => 1,
        }
    }
}

impl From<ServiceError> for StartError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::CredentialFile(error) => Self::Secrets(error),
            error => Self::Establish(error.to_string()),
        }
    }
}

impl From<getrandom::Error> for StartError {
    fn from(error: getrandom::Error) -> Self {
        Self::Secrets(error.into())
    }
}

/// Why a running server ended although nobody asked it to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A task is gone.
    #[error("the server's {0} ended unexpectedly")]
    TaskEnded(&'static str),
    /// Something did not end in time.
    #[error("the server did not shut down in time; what was acknowledged is stored")]
    Stuck,
}

/// A server that has its sockets and its data directory, and does not serve yet.
pub struct Server {
    info: Info,
    started: UnixMs,
    store: Store,
    writer_ended: store::Ended,
    service: Arc<Service>,
    stun: Stun,
    streams: Streams,
    rendezvous: Rendezvous,
    app: App,
    listener: Listener,
    metrics_listener: Option<Listener>,
    reloader: Reloader,
    reload: Reload,
    verifier: Verifier,
    herald: Herald,
    registrar: Option<Registrar>,
    tasks: Tasks,
    _data: Arc<DataDir>,
}

/// Who owns which task, and who tells it to end.
struct Tasks {
    /// Those that must not end: writer, STUN, broker, listener, watch over the certificate.
    core: TaskTracker,
    /// Connections and joins.
    work: TaskTracker,
    /// First stage: no new connections, nodes are told.
    soft: CancellationToken,
    /// Second stage: what is left ends.
    hard: CancellationToken,
}

impl Server {
    /// Takes the sockets, checks the seeds against them, and opens the data directory, in this order:
    /// a configuration that is refused leaves nothing behind.
    ///
    /// # Errors
    /// [`StartError`]; its exit code is [`StartError::exit_code`].
    pub async fn bind(config: ServeConfig) -> Result<Self, StartError> {
        restore::finish_unfinished(&config.data)?;
        let sockets = Sockets::bind(&config)?;
        let given_identity = config.tls.as_ref().map(Identity::load).transpose()?;
        let (kind, verdict) = decide(&config, &sockets).await?;
        let data = Arc::new(DataDir::open(&config.data)?);
        let identity = Arc::new(given_identity.map_or_else(|| Identity::load_or_make(&data), Ok)?);
        service::backup::remove_leftovers(&data)?;
        let tasks = Tasks::new();
        let (store, writer_ended) = Store::open(&data.file(store::FILE), &tasks.core).await?;
        let started = UnixMs::now();
        let Established { row, effective, returned } = establish(&store, started, kind, &verdict).await?;
        note_start(&store, started, &config, (kind, effective), &verdict).await?;
        let announces_hashes = config.relay.as_ref().is_some_and(|relay| relay.username_anonymity);
        let keyring = Keyring::open(&store, Arc::clone(&data), started, announces_hashes).await?;
        let cluster = Cluster::new(row, effective, config.open_join);
        let service = open_service(&config, &sockets, &store, cluster, keyring).await?;
        let me = Arc::new(Me {
            key: secrets::seed_key(&data)?,
            http: sockets.http_addr,
            external_ip: config.external_ip,
            own_addrs: verdict.own_addrs.clone(),
        });
        let registrar = registrar(&config, &verdict, &me);
        let join_token = secrets::join_token(&config, &data, identity.fingerprint())?;
        let is_usable = register_join_token(&service, started, &join_token).await?;
        let (api_tokens, new_admin_token) = ApiTokens::establish(&config, &data)?;
        let info = Info {
            http: sockets.http_addr,
            http_ips: reachable_ips(&sockets),
            url: url(&config, &sockets, &verdict),
            stun: sockets.stun_servers(config.external_ip),
            metrics: sockets.metrics.as_ref().and_then(|socket| socket.local_addr().ok()),
            stun_tcp: sockets.streams.addrs(StreamKind::Tcp),
            stun_tls: sockets.streams.addrs(StreamKind::Tls),
            effective,
            kind,
            fingerprint: identity.fingerprint(),
            join_token: is_usable.then_some(join_token),
            new_admin_token,
            warnings: warnings(&config, &sockets, (&verdict, effective, returned), is_usable),
        };
        let api_tokens = Arc::new(api_tokens);
        let core = Core { store, writer_ended, service, api_tokens, identity, me, registrar, started };
        Self::assemble(&config, sockets, info, core, tasks, data)
    }

    fn assemble(
        config: &ServeConfig,
        sockets: Sockets,
        info: Info,
        core: Core,
        tasks: Tasks,
        data: Arc<DataDir>,
    ) -> Result<Self, StartError> {
        let Core { store, writer_ended, service, api_tokens, identity, me, registrar, started } = core;
        let stun_probe = probe_address(&sockets);
        let (observer, observations) = mpsc::channel(STUN_QUEUE);
        let (requests, stun_requests) = mpsc::channel(STUN_QUEUE);
        let Sockets { http, http_addr, metrics, stun, streams } = sockets;
        let streams = Streams::new(streams.bound, ListenerId(stun.len() as u8), &identity)?;
        let listeners = streams.listeners(config.external_ip);
        let setup = setup(config, http_addr, listeners, &service)?;
        let access = relay_access(setup.relay.as_ref(), &info);
        let stun = Stun::new(stun, setup, &observer, stun_requests)?;
        let channels = StunChannels { observations, requests };
        let (mut rendezvous, handle) = Rendezvous::new(
            config.limits,
            &config.access_limits,
            secrets::random()?,
            Arc::clone(&service),
            channels,
            tasks.work.clone(),
        );
        rendezvous.relay(access);
        let files = (Arc::clone(&identity), Arc::clone(&data));
        let live = Live::new(config, files, Arc::clone(&api_tokens), Arc::clone(&service));
        let instruments = (store.times(), service.events().lag(), rendezvous.meetings());
        let app = App::new(http::Parts {
            machines: RelayHandle::new(stun.inboxes()),
            is_relaying: config.relay.is_some(),
            metrics: Metrics::new(instruments, config.data.clone(), started.unsigned() / 1000),
            service: Arc::clone(&service),
            rendezvous: handle,
            api_tokens,
            identity: Arc::clone(&identity),
            me: Arc::clone(&me),
            warnings: info.warnings.clone(),
            tasks: tasks.work.clone(),
            shutdown: tasks.soft.clone(),
            halt: tasks.hard.clone(),
            stun_probe,
            stun_ports: stun_ports(&info),
            drain: Drain::new(config.drain_timeout),
            live: Arc::new(live),
            limits: config.access_limits.clone(),
        });
        let head_timeout = config.access_limits.head_timeout;
        let listener = listener_on(&app, http, http::router(app.clone()), head_timeout)?;
        let metrics_router = || http::metrics_router(app.clone());
        let metrics = metrics.map(|socket| listener_on(&app, socket, metrics_router(), head_timeout));
        let metrics_listener = metrics.transpose()?;
        let reloader = Reloader { identity, data: Arc::clone(&data) };
        let herald = Herald { service: Arc::clone(&service), me: Arc::clone(&me) };
        let verifier = Verifier::new(Arc::clone(&service), me, config.seed_timing);
        Ok(Self {
            info,
            started,
            store,
            writer_ended,
            service,
            stun,
            streams,
            rendezvous,
            app,
            listener,
            metrics_listener,
            reloader,
            reload: Reload::default(),
            verifier,
            herald,
            registrar,
            tasks,
            _data: data,
        })
    }

    /// By which the running server is asked to read its certificate and its tokens again.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// By which the running server is told to end with notice.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.app.drain.clone()
    }

    /// From where the running server reads its configuration again. Without it only the certificate and the tokens
    /// are.
    pub fn set_source(&self, source: ConfigSource) {
        self.app.live.set_source(source);
    }

    /// What the operator is told.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Serves until `shutdown`, then says goodbye to all nodes, finishes the running requests and
    /// closes the registry.
    ///
    /// # Errors
    /// [`RunError`] if a part of the server ended by itself or did not end when told.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        for warning in &self.info.warnings {
            warn!(code = warning.code(), "{warning}");
        }
        info!(http = %self.info.http, effective = %self.info.effective, "serving");
        let Self {
            started,
            store,
            mut writer_ended,
            service,
            stun,
            streams,
            rendezvous,
            app,
            listener,
            metrics_listener,
            reloader,
            reload,
            verifier,
            herald,
            registrar,
            tasks,
            _data,
            ..
        } = self;
        let Tasks { core, work, soft, hard } = tasks;
        let surroundings = Surroundings { inboxes: stun.inboxes(), tasks: work.clone(), stop: soft.clone() };
        let streams = core.spawn(streams.run(surroundings));
        let stun = core.spawn(stun.run(hard.clone()));
        let broker = core.spawn(rendezvous.run(soft.clone(), hard.clone()));
        let http = core.spawn(listener.run());
        if let Some(listener) = metrics_listener {
            core.spawn(listener.run());
        }
        let reloads = core.spawn(live::follow(app.clone(), reload, soft.clone()));
        let drained = core.spawn(Draining::of(&app).run(soft.clone()));
        let reloader = core.spawn(reloader.run(soft.clone()));
        let verifier = core.spawn(verifier.run(soft.clone()));
        core.spawn(herald.run(soft.clone()));
        if let Some(registrar) = registrar {
            core.spawn(registrar.run(soft.clone()));
        }
        let prune = core.spawn(forget_unseen(Arc::clone(&service), started, soft.clone()));
        let retire = core.spawn(retire_secrets(Arc::clone(&service), soft.clone()));
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            _ = stun => Err(RunError::TaskEnded("STUN server")),
            _ = streams => Err(RunError::TaskEnded("STUN server over TCP")),
            _ = broker => Err(RunError::TaskEnded("broker")),
            _ = http => Err(RunError::TaskEnded("listener")),
            _ = reloader => Err(RunError::TaskEnded("watch over the certificate")),
            _ = reloads => Err(RunError::TaskEnded("watch over the configuration")),
            _ = drained => Ok(()),
            _ = verifier => Err(RunError::TaskEnded("watch over the seeds")),
            _ = &mut writer_ended => Err(RunError::TaskEnded("registry")),
        };
        info!("shutting down");
        soft.cancel();
        work.close();
        if timeout(DRAIN, work.wait()).await.is_err() {
            warn!("some connections did not end in time and are cut off");
        }
        hard.cancel();
        prune.abort();
        retire.abort();
        note_stop(&service, &outcome).await;
        // The writer ends with the last hold on the registry.
        drop((app, service));
        store.close().await;
        core.close();
        match timeout(HALT, core.wait()).await {
            Ok(()) => outcome,
            Err(_) => outcome.and(Err(RunError::Stuck)),
        }
    }
}

/// A listener that shares with the others how many connections there may be.
fn listener_on(
    app: &App,
    socket: std::net::TcpListener,
    router: axum::Router,
    head_timeout: Duration,
) -> Result<Listener, StartError> {
    Ok(Listener {
        socket: tokio::net::TcpListener::from_std(socket)?,
        tls: app.identity.server_config(&http::serve::PROTOCOLS)?,
        plain: Arc::clone(&app.plain),
        router,
        gate: Arc::clone(&app.connections),
        proxies: Arc::clone(&app.proxies),
        head_timeout,
        tasks: app.tasks.clone(),
        stop: app.shutdown.clone(),
        halt: app.halt.clone(),
    })
}

/// What [`Server::bind`] has made before the tasks.
struct Core {
    store: Store,
    writer_ended: store::Ended,
    service: Arc<Service>,
    api_tokens: Arc<ApiTokens>,
    identity: Arc<Identity>,
    me: Arc<Me>,
    registrar: Option<Registrar>,
    started: UnixMs,
}

impl Tasks {
    fn new() -> Self {
        Self {
            core: TaskTracker::new(),
            work: TaskTracker::new(),
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
        }
    }
}

/// The cluster's type and what the seeds make of it. A registry that is there already has the last
/// word on the type.
async fn decide(config: &ServeConfig, sockets: &Sockets) -> Result<(ClusterNetwork, Verdict), StartError> {
    let stored = stored_kind(config).await?;
    let kind = match (config.cluster_network_type, stored) {
        (Some(given), Some(stored)) if given != stored => {
            let data = config.data.clone();
            return Err(ConfigError::ClusterTypeFixed { given, stored, data }.into());
        }
        (given, stored) => stored.or(given).unwrap_or(ClusterNetwork::Dynamic),
    };
    let seeds = seeds::resolve(config, sockets).await;
    let machine = machine_ips();
    let here = Here { http: sockets.http_addr, external_ip: config.external_ip, machine: &machine };
    let verdict = seeds::judge(kind, config, &seeds, &here)?;
    if config.register_with.is_some() && (config.seeds.is_empty() || verdict.own.is_none()) {
        return Err(ConfigError::RegisterWhom.into());
    }
    Ok((kind, verdict))
}

/// Registers this server where the flags say so.
fn registrar(config: &ServeConfig, verdict: &Verdict, me: &Arc<Me>) -> Option<Registrar> {
    let RegisterWith { home, token } = config.register_with.clone()?;
    let seed = config.seeds.iter().find(|seed| Some(&seed.name) == verdict.own.as_ref())?.clone();
    Some(Registrar { home, seed, declared: config.node_network_type, token, me: Arc::clone(me) })
}

async fn stored_kind(config: &ServeConfig) -> Result<Option<ClusterNetwork>, StartError> {
    let path = config.data.join(store::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let kind = store::peek_kind(&path, DEFAULT_CLUSTER).await?;
    let parse = |text: String| {
        text.parse().map_err(|_| StartError::Establish(format!("cluster type {text} in the registry")))
    };
    kind.map(parse).transpose()
}

/// Registers the cluster `default` and the seeds of the flags.
async fn establish(
    store: &Store,
    now: UnixMs,
    kind: ClusterNetwork,
    verdict: &Verdict,
) -> Result<Established, StartError> {
    let name = DEFAULT_CLUSTER.parse().map_err(|_| ServiceError::UnknownCluster)?;
    let seeds = verdict.seeds.clone();
    let established = service::establish_cluster(store, now, name, kind, secrets::random()?, seeds).await;
    established.map_err(|error| match error {
        ServiceError::ClusterRule(code) => {
            let reason = "by the seeds of the flags and those registered over REST together".to_owned();
            ConfigError::Cluster { kind, code, reason }.into()
        }
        error => StartError::from(error),
    })
}

async fn open_service(
    config: &ServeConfig,
    sockets: &Sockets,
    store: &Store,
    cluster: Cluster,
    keyring: Keyring,
) -> Result<Arc<Service>, StartError> {
    let stun = sockets.stun_servers(config.external_ip);
    let service = Service::new(store.clone(), vec![cluster], stun, keyring);
    let given = config.foreign_clusters.iter().map(|given| (given.name.clone(), given.public_key));
    service.serve_foreign(UnixMs::now(), given.collect()).await?;
    if let Some(admit_relayed) = config.admit_relayed {
        service.set_admit_relayed(UnixMs::now(), &Actor::SERVER, DEFAULT_CLUSTER, admit_relayed).await?;
    }
    service.tell_of_start().await?;
    Ok(Arc::new(service))
}

/// The first entry of this run in the audit log, with the flags that decide who is let in.
async fn note_start(
    store: &Store,
    now: UnixMs,
    config: &ServeConfig,
    (kind, effective): (ClusterNetwork, EffectiveNetwork),
    verdict: &Verdict,
) -> Result<(), ServiceError> {
    let seeds: Vec<String> = verdict.seeds.iter().map(|judged| judged.seed.to_string()).collect();
    let detail = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "type": kind.as_str(),
        "effective": effective.as_str(),
        "seeds": seeds,
        "open_join": config.open_join,
    });
    service::note(store, now, Actor::SERVER, Action::ServerStart, DEFAULT_CLUSTER.to_owned(), detail).await
}

/// The last one. A registry that does not take it any more keeps the server from ending no longer.
async fn note_stop(service: &Service, outcome: &Result<(), RunError>) {
    let detail = match outcome {
        Ok(()) => json!({ "asked": true }),
        Err(error) => json!({ "asked": false, "error": error.to_string() }),
    };
    let target = DEFAULT_CLUSTER.to_owned();
    let noted = service.note(UnixMs::now(), Actor::SERVER, Action::ServerStop, target, detail);
    match timeout(NOTE_STOP, noted).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the audit log does not tell of this end"),
        Err(_) => warn!("the audit log may not tell of this end: the registry does not answer"),
    }
}

/// False if the operator has revoked it.
async fn register_join_token(service: &Service, now: UnixMs, token: &JoinToken) -> Result<bool, StartError> {
    let new = NewToken {
        label: "of the server's start".to_owned(),
        scope: TokenScope::Node,
        names: None,
        expires_ms: None,
        max_uses: None,
    };
    let row = service.register_token(now, &Actor::SERVER, DEFAULT_CLUSTER, new, token).await?;
    Ok(row.revoked_ms.is_none())
}

/// What the STUN server is made with.
fn setup(
    config: &ServeConfig,
    http_addr: SocketAddr,
    streams: Vec<StreamListener>,
    service: &Service,
) -> Result<Setup, StartError> {
    Ok(Setup {
        external_ip: config.external_ip,
        streams,
        keys: service.relay_keys(),
        relay: config.relay.as_ref().map(|relay| relay_config(relay, config.external_ip, http_addr)),
        limits: config.stun_limits,
        seed: secrets::random()?,
    })
}

/// Drops credential secrets whose last credential has ended.
async fn retire_secrets(service: Arc<Service>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(RETIRE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = service.drop_unneeded_relay_secrets(UnixMs::now()).await {
            warn!(%error, "a credential secret that nobody needs is still accepted");
            tokio::time::sleep(RETIRE_PAUSE).await;
        }
    }
}

/// Once, some time after the start: an earlier run's ephemeral nodes that did not come back.
async fn forget_unseen(service: Arc<Service>, started: UnixMs, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(RETURN) => match service.forget_unseen(started).await {
            Ok(0) => {}
            Ok(forgotten) => info!(forgotten, "ephemeral nodes that did not come back are forgotten"),
            Err(error) => warn!(%error, "ephemeral nodes that did not come back are still registered"),
        },
    }
}

/// What nodes have to know of the relay: where it is by datagrams they know from their welcome.
fn relay_access(relay: Option<&RelayConfig>, info: &Info) -> RelayAccess {
    let Some(relay) = relay else { return RelayAccess::default() };
    let ips = [relay.ipv4, relay.ipv6].into_iter().flatten().map(|ip| ip.seen).collect();
    let port = |addrs: &[SocketAddr]| addrs.first().map(SocketAddr::port);
    RelayAccess { ips, tcp: port(&info.stun_tcp), tls: port(&info.stun_tls) }
}
