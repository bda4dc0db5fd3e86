//! `meetpoint node`: a node for people, scripts and tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meetpoint::sources::{Mdns, Multicast, Registry, SeedFile};
use meetpoint::{ConnectError, Connection, EffectiveNetwork, Event, Events, Node, StartError};
use meetpoint_proto::JoinToken;
use meetpoint_proto::wire::ProfileError;
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::{Discover, NodeArgs, SeedOrUrl};
use crate::exit::Failure;
use crate::signals::Stop;

mod membership;
mod say;

use say::Voice;

/// What `--connect` sends and expects back.
const ECHO_BYTES: usize = 64 * 1024;
/// What each ping sends and expects back.
const PING_BYTES: usize = 64;
/// A shorter one is a busy loop.
const MIN_PING_INTERVAL: Duration = Duration::from_millis(10);
/// An echo that takes longer than this has failed: QUIC itself gives up after about as long.
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that `--settle` waits for what the node finds out: STUN gives up after about as long.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest stream that an echoing node takes: memory for one stream of one peer.
const MAX_ECHO_BYTES: usize = 1 << 20;

/// Runs until stopped, rejected or failed.
pub(crate) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let voice = Arc::new(Voice::new(args.json, args.name.clone()));
    let node = tokio::select! {
        started = builder(&args)?.start() => started.map_err(|error| refused(&voice, error))?,
        _ = stop.wait() => return Ok(()),
    };
    let node = Arc::new(node);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(Arc::clone(&node), Arc::clone(&voice), args.echo));
    if let Some(file) = args.membership_file {
        membership::save(&node, &file)?;
        tasks.spawn(membership::keep(Arc::clone(&node), file));
    }
    let events = node.events();
    for peer in args.connect {
        let settled = args.settle.then(|| node.events());
        tasks.spawn(meet(Arc::clone(&node), Arc::clone(&voice), peer, settled, args.ping_interval));
    }
    let outcome = tokio::select! {
        outcome = narrate(events, &voice) => outcome,
        outcome = first_failure(&mut tasks) => outcome,
        _ = stop.wait() => Ok(()),
    };
    node.leave().await;
    let fields = json!({ "blocked": node.socket_stats().blocked });
    voice.say("left", fields, || "left the cluster".to_owned());
    outcome
}

/// What a node is made with. Files that flags name are read.
pub(crate) fn builder(args: &NodeArgs) -> Result<meetpoint::Builder, Failure> {
    if args.retry_base > args.retry_max {
        let (base, max) = (args.retry_base, args.retry_max);
        return Err(Failure::usage(format!("--retry-base {base:?}: at most --retry-max, which is {max:?}")));
    }
    if let Some(Err(error)) = args.join_token.as_deref().map(str::parse::<JoinToken>) {
        return Err(Failure::usage(format!("--join-token: {error}")));
    }
    let mut builder = meetpoint::Builder::default()
        .backoff(args.retry_base, args.retry_max)
        .port_lease(args.port_lease)
        .cluster(&args.cluster)
        .name(&args.name)
        .insecure_http(args.insecure_http);
    builder = args.rendezvous.iter().fold(builder, meetpoint::Builder::server);
    builder = args.seeds.iter().fold(builder, |builder, seed| match seed {
        SeedOrUrl::Seed(seed) => builder.seed(seed),
        SeedOrUrl::Url(url) => builder.server(url),
    });
    builder = discover(builder, args);
    builder = args.seeds_of.iter().fold(builder, meetpoint::Builder::seeds_of);
    if let Some(limit) = args.give_up_after {
        builder = builder.give_up_after(limit);
    }
    if let Some(token) = &args.join_token {
        builder = builder.join_token(token);
    }
    if let Some(file) = &args.key {
        builder = builder.key_file(PathBuf::clone(file));
    }
    if let Some(addr) = args.node_addr {
        builder = builder.node_addr(addr);
    }
    if let Some(kind) = args.cluster_network_type {
        builder = builder.expect_network(kind);
    }
    if let Some(kind) = args.node_network_type {
        builder = builder.network_type(kind);
    }
    builder = args.fingerprints.iter().copied().fold(builder, meetpoint::Builder::fingerprint);
    if let Some(file) = &args.cluster_secret_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("--cluster-secret-file {}: {error}", file.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        builder = lines.fold(builder, meetpoint::Builder::cluster_secret);
    }
    if let Some(membership) = args.membership_file.as_deref().map(membership::read).transpose()?.flatten() {
        builder = builder.membership(membership);
    }
    Ok(describe(builder, args))
}

/// Where the node hears of servers.
fn discover(builder: meetpoint::Builder, args: &NodeArgs) -> meetpoint::Builder {
    args.discover.iter().fold(builder, |builder, place| match place {
        Discover::Mdns => builder.source(Mdns),
        Discover::Multicast(group) => builder.source(Multicast::new(*group).timeout(args.discover_timeout)),
        Discover::File(path) => builder.source(SeedFile::new(path)),
        Discover::Dns(dns) => builder.source(dns.clone().insecure_http(args.insecure_http)),
        Discover::Registry(registry) => {
            let registry = registry.clone().insecure_http(args.insecure_http);
            builder.source(args.fingerprints.iter().copied().fold(registry, Registry::fingerprint))
        }
    })
}

/// What the node says of itself.
fn describe(mut builder: meetpoint::Builder, args: &NodeArgs) -> meetpoint::Builder {
    builder = args.capabilities.iter().fold(builder, meetpoint::Builder::capability);
    if let Some(datacenter) = &args.datacenter {
        builder = builder.datacenter(datacenter);
    }
    if let Some(rack) = &args.rack {
        builder = builder.rack(rack);
    }
    args.metadata.iter().fold(builder, |builder, (key, value)| builder.metadata(key, value))
}

fn refused(voice: &Voice, error: StartError) -> Failure {
    match error {
        StartError::Rejected(refusal) => {
            voice.rejected(&refusal);
            Failure::rejected(format!("rejected: {} ({})", refusal.code, refusal.hint))
        }
        StartError::NoServer { .. } => Failure::no_server(error),
        StartError::Io(_) => Failure::failed(error),
        error => Failure::usage(named(&error)),
    }
}

/// With the flag that it is about.
fn named(error: &StartError) -> String {
    let flag = match error {
        StartError::Name(_) => "--name: ",
        StartError::Cluster(_) => "--cluster: ",
        StartError::Secret(_) | StartError::TooManySecrets => "--cluster-secret-file: ",
        StartError::Membership(_) => "--membership-file: ",
        StartError::Profile(ProfileError::Capabilities) => "--capability: ",
        StartError::Profile(ProfileError::Metadata) => "--meta: ",
        StartError::Key(_) => "--key: ",
        _ => "",
    };
    format!("{flag}{error}")
}

/// Tells the node's events until it ends.
async fn narrate(mut events: Events, voice: &Voice) -> Result<(), Failure> {
    while let Some(event) = events.next().await {
        if let Event::Rejected(refusal) = &event {
            voice.rejected(refusal);
            return Err(Failure::rejected(format!("rejected: {} ({})", refusal.code, refusal.hint)));
        }
        if let Event::GivenUp(obstacles) = &event {
            return Err(Failure::no_server(format!("no server: {obstacles}")));
        }
        voice.event(&event);
    }
    Ok(())
}

/// The accepting task never ends before the node; a failed meeting ends the command.
async fn first_failure(tasks: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(failure),
            Err(error) => return Err(Failure::failed(format!("a task of this node broke: {error}"))),
        }
    }
    std::future::pending().await
}

async fn accept(node: Arc<Node>, voice: Arc<Voice>, echo: bool) -> Result<(), Failure> {
    // Owned here, so that they end with the node.
    let mut serving = JoinSet::new();
    while let Some(connection) = node.accept().await {
        serving.spawn(watch_path(connection.clone(), peer_name(&node, &connection), Arc::clone(&voice)));
        if echo {
            serving.spawn(echo_streams(connection));
        } else {
            serving.spawn(async move {
                connection.closed().await;
            });
        }
        while serving.try_join_next().is_some() {}
    }
    Ok(())
}

fn peer_name(node: &Node, connection: &Connection) -> String {
    let id = connection.peer();
    let peers = node.peers();
    peers.into_iter().find(|peer| peer.id == id).map_or_else(|| id.to_string(), |peer| peer.name)
}

/// Answers each stream with what it brought. Streams of one connection are answered one after
/// the other, so that a peer's cost to this node is bounded.
async fn echo_streams(connection: Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let Ok(bytes) = recv.read_to_end(MAX_ECHO_BYTES).await else { continue };
        if send.write_all(&bytes).await.is_ok() {
            // An error here means that the peer went away, which ends the loop by itself.
            let _ = send.finish();
        }
    }
}

/// Tells each path that a connection takes.
async fn watch_path(connection: Connection, peer: String, voice: Arc<Voice>) {
    let mut path = connection.path();
    let mut told = None;
    loop {
        let info = *path.borrow_and_update();
        if told != Some((info.kind, info.remote)) {
            told = Some((info.kind, info.remote));
            voice.path(&peer, &info);
        }
        tokio::select! {
            changed = path.changed() => if changed.is_err() { return },
            _ = connection.closed() => return,
        }
    }
}

/// Waits until the node knows its class and its NAT, or has had the time to find out.
async fn settle(mut events: Events) {
    let (mut is_judged, mut is_measured) = (false, false);
    let found_out = async {
        while let Some(event) = events.next().await {
            match event {
                // Inside of a private network there is no NAT to find out about.
                Event::Joined { effective: EffectiveNetwork::Private, .. } => is_measured = true,
                Event::Behavior(_) => is_measured = true,
                Event::Classified(_) => is_judged = true,
                _ => {}
            }
            if is_judged && is_measured {
                return;
            }
        }
    };
    // Whoever gets no answer learns nothing of his NAT.
    let _ = tokio::time::timeout(SETTLE_TIMEOUT, found_out).await;
}

/// Waits for a peer, checks an echo, and pings it for as long as it is there; again whenever it comes back.
async fn meet(
    node: Arc<Node>,
    voice: Arc<Voice>,
    peer: String,
    settled: Option<Events>,
    interval: Duration,
) -> Result<(), Failure> {
    if let Some(events) = settled {
        settle(events).await;
    }
    loop {
        let connection = match node.connect_when_present(&peer).await {
            Ok(connection) => connection,
            Err(ConnectError::NodeEnded) => return Ok(()),
            Err(error) => return Err(Failure::failed(format!("no path to {peer}: {error}"))),
        };
        let path = tokio::spawn(watch_path(connection.clone(), peer.clone(), Arc::clone(&voice)));
        let outcome = converse(&connection, &peer, &voice, interval).await;
        path.abort();
        if let Err(error) = outcome {
            tracing::warn!(%peer, %error, "the connection ended; waiting for the peer");
        }
    }
}

/// Echoes until something fails.
async fn converse(
    connection: &Connection,
    peer: &str,
    voice: &Voice,
    interval: Duration,
) -> Result<(), String> {
    let mut len = ECHO_BYTES;
    let mut ticks = tokio::time::interval(interval.max(MIN_PING_INTERVAL));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let rtt = tokio::time::timeout(ECHO_TIMEOUT, echo_once(connection, len))
            .await
            .map_err(|_| "the echo took too long".to_owned())??;
        voice.echo(peer, len, rtt);
        len = PING_BYTES;
    }
}

async fn echo_once(connection: &Connection, len: usize) -> Result<Duration, String> {
    let message: Vec<u8> = (0..len).map(|at| (at * 31 + len).to_le_bytes()[0]).collect();
    let started = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    send.write_all(&message).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    let back = recv.read_to_end(len).await.map_err(|error| error.to_string())?;
    if back != message {
        return Err(format!("the echo differs: {} bytes sent, {} came back", len, back.len()));
    }
    Ok(started.elapsed())
}
