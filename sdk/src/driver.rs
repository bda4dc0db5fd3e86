//! The shell around the agent: one task that owns it, feeds it what the sockets and the
//! application say, and does what it says.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meetpoint_agent::{Agent, Ended, Input, Leg, Output, Socket, StreamId, Way};
use meetpoint_proto::wire::Refusal;
use meetpoint_proto::{ClusterSecret, NodeId, addr};
use quinn::Connecting;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod handshake;
mod meet;
mod probe;
mod routes;

use crate::control::{self, Channel, ControlEvent};
use crate::egress::Egress;
use crate::event::{Classification, Event, Peer};
use crate::interfaces::{self, Gateway};
use crate::mux::{Mux, StunDatagram};
use crate::portmap::PortMap;
use crate::quic::{Accepted, Acceptor, Admitted, Quic};
use crate::relay::{self, StreamEvent};
use crate::servers::{Obstacle, Obstacles, Pool};
use crate::shared::{PeerUse, Shared};
use crate::sources::{Sources, Told};
use crate::usage::{self, Usage};
use meet::Meet;
use probe::{Probe, ProbeDatagram};
use routes::Routes;

/// Control events waiting for the driver; each is at most 64 KiB.
const CONTROL_QUEUE: usize = 64;

/// Answers to knocks waiting for the driver; the agent knocks at one server at a time.
const KNOCK_QUEUE: usize = 4;

/// Datagrams handled in one turn before others get theirs.
const STUN_BATCH: usize = 32;

/// What the application asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// A path to a peer.
    Connect { request: u32, peer: String, wait: bool, reply: ConnectReply, early: EarlyWord },
    /// QUIC's handshake with a peer is complete, which may be before there is a path.
    HandshakeDone { peer: NodeId },
    /// The application has lost interest.
    Cancel { request: u32 },
    /// The cluster secrets to join by from now on.
    Secrets(Vec<ClusterSecret>),
    /// Leave the cluster.
    Leave,
}

/// Answers a connect request: the peer, held in use; or why not.
pub(crate) type ConnectReply = oneshot::Sender<Result<(NodeId, Arc<PeerUse>), Refusal>>;

/// Tells a connect request whom it is going to reach, while no way is verified: QUIC's handshake has begun.
pub(crate) type EarlyWord = oneshot::Sender<(NodeId, Connecting)>;

/// How far the node has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// It has not been a member yet; what has kept it from being one.
    Starting(Obstacles),
    /// It is, or has been, a member.
    Joined,
    /// It has ended.
    Ended(Ended),
    /// It has ended because no server took it; what kept it from each.
    GivenUp(Obstacles),
}

/// Everything the driver is made of.
pub(crate) struct Parts {
    pub(crate) agent: Agent,
    pub(crate) mux: Arc<Mux>,
    pub(crate) stun: mpsc::Receiver<StunDatagram>,
    pub(crate) admitted: Arc<Admitted>,
    /// The servers, as the agent numbers them.
    pub(crate) servers: Pool,
    pub(crate) sources: Sources,
    pub(crate) obstacles: Obstacles,
    pub(crate) egress: Arc<Egress>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) releases: mpsc::UnboundedReceiver<NodeId>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) cancel: CancellationToken,
    /// This node and its cluster, for events.
    pub(crate) id: NodeId,
    pub(crate) cluster: String,
    pub(crate) quic: Quic,
    /// What the router is asked to lead a port to the node for.
    pub(crate) port_lease: Duration,
}

/// The source address towards the server, and the machine's default router.
type Route = (Option<IpAddr>, Option<Gateway>);

pub(crate) struct Driver {
    parts: Parts,
    tasks: TaskTracker,
    channel: Option<Channel>,
    channel_number: u64,
    /// The server that the channel goes to.
    server: usize,
    /// Where the newest channel went.
    server_addr: Option<SocketAddr>,
    /// By what it would go there, when last looked at.
    route: Route,
    knocked: mpsc::Receiver<(usize, bool)>,
    knocks: mpsc::Sender<(usize, bool)>,
    control_events: mpsc::Sender<(u64, ControlEvent)>,
    control: mpsc::Receiver<(u64, ControlEvent)>,
    stream_events: mpsc::Sender<StreamEvent>,
    streamed: mpsc::Receiver<StreamEvent>,
    probe: Option<Probe>,
    probe_datagrams: mpsc::Sender<ProbeDatagram>,
    probed: mpsc::Receiver<ProbeDatagram>,
    routes: Routes,
    connects: HashMap<u32, ConnectReply>,
    /// Of those whose handshake has not begun yet.
    early_words: HashMap<u32, EarlyWord>,
    /// What handshakes begin with, by the requests that it goes along with.
    begun: mpsc::Receiver<(u32, Box<[u8]>)>,
    beginnings: mpsc::Sender<(u32, Box<[u8]>)>,
    /// `None` once what the router has mapped is being taken back.
    portmap: Option<PortMap>,
    meet: Meet,
    ended: bool,
}

impl Driver {
    /// Peers' connections go to `accepting`, but for those that are the node's own business.
    pub(crate) fn new(parts: Parts, acceptor: Acceptor, accepting: mpsc::Sender<Accepted>) -> Self {
        let (control_events, control) = mpsc::channel(CONTROL_QUEUE);
        let (probe_datagrams, probed) = mpsc::channel(STUN_BATCH);
        let (knocks, knocked) = mpsc::channel(KNOCK_QUEUE);
        let (stream_events, streamed) = mpsc::channel(STUN_BATCH);
        let (beginnings, begun) = mpsc::channel(STUN_BATCH);
        let tasks = TaskTracker::new();
        let port = parts.mux.local_addrs().find(SocketAddr::is_ipv4).map_or(0, |addr| addr.port());
        let (portmap, task) = PortMap::new(port, parts.port_lease, Arc::clone(&parts.egress));
        tasks.spawn(task);
        let meet = Meet::new(acceptor, accepting, parts.cancel.child_token(), &tasks);
        Self {
            parts,
            tasks,
            channel: None,
            channel_number: 0,
            server: 0,
            server_addr: None,
            route: (None, None),
            knocked,
            knocks,
            control_events,
            control,
            stream_events,
            streamed,
            probe: None,
            probe_datagrams,
            probed,
            routes: Routes::new(),
            connects: HashMap::new(),
            early_words: HashMap::new(),
            begun,
            beginnings,
            portmap: Some(portmap),
            meet,
            ended: false,
        }
    }

    /// Runs until the node has ended.
    pub(crate) async fn run(mut self) {
        let mut watch = interfaces::Watch::new();
        let mut usage = Usage::default();
        let mut looks = tokio::time::interval(usage::TICK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stun = Vec::with_capacity(STUN_BATCH);
        // The agent opens the control channel as its first act.
        self.parts.agent.handle_timeout(Instant::now());
        self.perform();
        while !self.ended {
            let due = [self.parts.agent.poll_timeout(), self.meet.poll_timeout()].into_iter().flatten().min();
            let alarm = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.parts.cancel.cancelled() => break,
                // Packets first: a check that waits makes the path look slow.
                count = self.parts.stun.recv_many(&mut stun, STUN_BATCH) => {
                    if count == 0 {
                        break;
                    }
                    for datagram in stun.drain(..) {
                        self.datagram(datagram.socket, datagram.received, datagram.source, &datagram.bytes);
                    }
                }
                Some(datagram) = self.probed.recv() => {
                    if self.probe.as_ref().is_some_and(|probe| probe.number() == datagram.number) {
                        self.datagram(Socket::Probe, datagram.received, datagram.source, &datagram.bytes);
                    }
                }
                (number, hops) = self.routes.traced() => self.feed(Input::Route { number, hops }),
                Some(event) = self.streamed.recv() => self.stream_event(event),
                Some((number, event)) = self.control.recv() => self.control_event(number, event),
                Some((server, ok)) = self.knocked.recv() => self.feed(Input::Knocked { server, ok }),
                Some((request, datagram)) = self.begun.recv() => {
                    self.feed(Input::Begun { request, datagram: Some(datagram.into()) });
                }
                Some(told) = self.parts.sources.next() => self.heard_of(&told),
                command = self.parts.commands.recv() => match command {
                    Some(command) => self.command(command),
                    // Every handle of the node is gone.
                    None => break,
                },
                Some(peer) = self.parts.releases.recv() => {
                    if self.parts.shared.unused(&peer) {
                        self.feed(Input::Release { peer });
                    }
                }
                mapped = mapped(&mut self.portmap) => {
                    self.feed(Input::Mapped { addrs: mapped.into_iter().collect() });
                }
                event = self.meet.next() => self.met(event),
                () = watch.changed() => self.look_around(),
                () = self.parts.mux.paths().woken(), if !usage.is_watching() => {
                    looks.reset();
                    self.look_at_flows(&mut usage);
                }
                _ = looks.tick(), if usage.is_watching() => self.look_at_flows(&mut usage),
                () = alarm => {
                    let now = Instant::now();
                    self.parts.agent.handle_timeout(now);
                    self.meet.handle_timeout(now);
                }
            }
            self.perform();
        }
        self.wind_up().await;
    }

    async fn wind_up(mut self) {
        self.channel = None;
        self.probe = None;
        self.portmap = None;
        self.meet.end();
        self.parts.shared.end();
        // What was queued on the control channel still goes out; nobody hears what comes in any more.
        self.control.close();
        self.probed.close();
        self.streamed.close();
        self.parts.mux.streams().close_all();
        self.knocked.close();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn feed(&mut self, input: Input<'_>) {
        self.parts.agent.handle(Instant::now(), input);
    }

    fn datagram(&mut self, socket: Socket, received: Instant, source: SocketAddr, payload: &[u8]) {
        let source = addr::unmap(source);
        self.parts.agent.handle(received, Input::Datagram { socket, source, payload });
    }

    /// Opens a stream to the relay of the server that the node is connected to.
    fn open_stream(&mut self, stream: StreamId, to: SocketAddr, tls: bool) {
        let Some(options) = self.parts.servers.get(self.server).cloned() else {
            return self.feed(Input::Stream { stream, open: false });
        };
        let frames = self.parts.mux.streams().open(stream);
        let task = relay::run(relay::Line {
            stream,
            to,
            tls,
            options,
            frames,
            mux: Arc::clone(&self.parts.mux),
            events: self.stream_events.clone(),
        });
        self.spawn(task);
    }

    fn stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened(stream) => self.feed(Input::Stream { stream, open: true }),
            StreamEvent::Closed(stream) => {
                self.parts.mux.streams().close(stream);
                self.feed(Input::Stream { stream, open: false });
            }
            StreamEvent::Frame { stream, server, bytes, received } => {
                self.datagram(Socket::Stream(stream), received, server, &bytes);
            }
        }
    }

    fn control_event(&mut self, number: u64, event: ControlEvent) {
        if number != self.channel_number {
            return;
        }
        match event {
            ControlEvent::Opened { local, remote } => {
                self.tell_interfaces();
                let (local, remote) = (addr::unmap(local), addr::unmap(remote));
                self.server_addr = Some(remote);
                self.route = (Some(local.ip()), interfaces::default_gateway());
                self.feed(Input::ControlOpened { local, remote });
            }
            ControlEvent::Message(message) => self.feed(Input::ControlMessage(message)),
            ControlEvent::Closed(error) => {
                self.channel = None;
                self.obstacle(Some(match error {
                    Some(error) => {
                        tracing::debug!(%error, "no control channel");
                        Obstacle::Open(Arc::new(error))
                    }
                    None => Obstacle::Broke,
                }));
                self.tell_interfaces();
                self.feed(Input::ControlClosed);
            }
        }
    }

    /// Remembers why the present server has not taken the node, for whoever waits for that.
    fn obstacle(&mut self, obstacle: Option<Obstacle>) {
        self.parts.obstacles.set(self.server, obstacle);
        let obstacles = &self.parts.obstacles;
        self.parts.stage.send_if_modified(|stage| match stage {
            Stage::Starting(newest) => {
                newest.clone_from(obstacles);
                true
            }
            Stage::Joined | Stage::Ended(_) | Stage::GivenUp(_) => false,
        });
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Connect { request, peer, wait, reply, early } => {
                self.connects.insert(request, reply);
                self.early_words.insert(request, early);
                self.feed(Input::Connect { request, peer, wait });
            }
            Command::HandshakeDone { peer } => self.feed(Input::HandshakeDone { peer }),
            Command::Cancel { request } => {
                self.early_words.remove(&request);
                if self.connects.remove(&request).is_some() {
                    self.feed(Input::CancelConnect { request });
                }
            }
            Command::Secrets(secrets) => self.feed(Input::Secrets(secrets)),
            Command::Leave => self.feed(Input::Leave),
        }
    }

    fn tell_interfaces(&mut self) {
        let list = match interfaces::list() {
            Ok(list) => list,
            Err(error) => return tracing::warn!(%error, "cannot list this machine's addresses"),
        };
        let ports: Vec<SocketAddr> = self.parts.mux.local_addrs().collect();
        let port = |v4: bool| ports.iter().find(|addr| addr.is_ipv4() == v4).map(SocketAddr::port);
        let (port_v4, port_v6) = (port(true), port(false));
        self.feed(Input::Interfaces { list, port_v4, port_v6 });
    }

    /// The machine's addresses or routes may have changed.
    fn look_around(&mut self) {
        self.tell_interfaces();
        let Some(server) = self.server_addr else { return };
        let route = (interfaces::source_towards(server), interfaces::default_gateway());
        if route != self.route {
            let source = route.0;
            self.route = route;
            tracing::info!(?source, "the way to the server has changed");
            if let Some(portmap) = &self.portmap {
                portmap.look_again();
            }
            self.feed(Input::Rerouted { source });
        }
    }

    /// Tells the agent to which peers data flows.
    fn look_at_flows(&mut self, usage: &mut Usage) {
        for (peer, told) in usage.look(&self.parts.mux.paths().flows()) {
            match told {
                usage::Told::Busy => self.feed(Input::Busy { peer }),
                usage::Told::Unheard => self.feed(Input::Unheard { peer }),
                usage::Told::Quiet => self.parts.mux.paths().unwatch(&peer),
            }
        }
    }

    /// Does what the agent says, until it says no more.
    fn perform(&mut self) {
        while let Some(output) = self.parts.agent.poll_output() {
            match output {
                Output::OpenControl { server } => self.open_control(server),
                Output::Knock { server } => self.knock(server),
                Output::CloseControl => {
                    self.channel = None;
                    self.channel_number += 1;
                }
                Output::SendControl(message) => {
                    if self.channel.as_ref().is_some_and(|channel| !channel.send(message)) {
                        // Stuck or gone: the agent hears of its end as of any other.
                        self.channel = None;
                        self.channel_number += 1;
                        self.feed(Input::ControlClosed);
                    }
                }
                Output::Transmit { socket, to, payload, ttl } => self.transmit(socket, to, &payload, ttl),
                Output::OpenSockets { first, count, ipv6 } => {
                    let count = self.parts.mux.extras().open(first, count, ipv6, &self.tasks);
                    self.feed(Input::SocketsOpened { first, count });
                }
                Output::CloseSockets { keep } => self.parts.mux.extras().close_others(&keep),
                Output::MapPort { wanted } => {
                    if let Some(portmap) = &self.portmap {
                        portmap.want(wanted);
                    }
                }
                Output::TraceRoute { number, to, payload, most } => {
                    let task = self.routes.trace(number, to, payload, most, &self.parts.egress);
                    self.spawn(task);
                }
                Output::OpenProbe { ipv6 } => {
                    self.probe = {
                        let egress = Arc::clone(&self.parts.egress);
                        Probe::open(ipv6, egress, self.probe_datagrams.clone(), &self.tasks)
                    };
                    let port = self.probe.as_ref().and_then(Probe::port);
                    self.feed(Input::ProbeOpened { port });
                }
                Output::CloseProbe => self.probe = None,
                Output::OpenStream { stream, to, tls } => self.open_stream(stream, to, tls),
                Output::CloseStream { stream } => self.parts.mux.streams().close(stream),
                Output::Channel { way, channel } => self.parts.mux.paths().set_channel(way, channel),
                Output::Path { peer, path } => self.path(peer, path),
                Output::Hear { peer, way } => self.hear(peer, way),
                Output::Provisional { peer, way, rtt, request } => self.provisional(peer, way, rtt, request),
                Output::Begin { request, peer, rtt } => self.begin(request, peer, rtt),
                Output::Handshake { peer, datagram } => self.handshake_came(peer, &datagram),
                Output::OpenIntroducer { peer } => self.open_introducer(peer),
                Output::CloseIntroducer { peer } => self.meet.close_introducer(&peer),
                Output::ToIntroducer { peer, message } => self.tell_introducer(peer, message),
                Output::ConnectEnded { request, result } => self.connect_ended(request, result),
                Output::Membership(membership) => self.parts.shared.set_membership(*membership),
                Output::Event(event) => self.publish(event),
                Output::Ended(ended) => self.end(ended),
            }
        }
    }

    fn open_control(&mut self, server: usize) {
        self.channel_number += 1;
        self.server = server;
        let Some(options) = self.parts.servers.get(server).cloned() else { return };
        let (channel, task) = Channel::open(options, self.channel_number, self.control_events.clone());
        self.spawn(task);
        self.channel = Some(channel);
    }

    /// A source tells of a server.
    fn heard_of(&mut self, told: &Told) {
        let Some(server) = self.parts.servers.add(told) else { return };
        self.parts.obstacles.add(server.label);
        self.feed(Input::Server { rank: server.rank });
    }

    fn knock(&self, server: usize) {
        let Some(options) = self.parts.servers.get(server).cloned() else { return };
        let knocks = self.knocks.clone();
        self.spawn(async move {
            let ok = control::knock(options).await;
            // The driver may be gone.
            let _ = knocks.send((server, ok)).await;
        });
    }

    /// Runs a task that ends with the node.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.parts.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = cancel.cancelled() => {}
            }
        });
    }

    fn transmit(&self, socket: Socket, to: SocketAddr, payload: &[u8], ttl: Option<u8>) {
        let sent = match (socket, &self.probe) {
            (Socket::Main, _) => self.parts.mux.send_to(to, payload, ttl),
            (Socket::Extra(number), _) => self.parts.mux.extras().send_to(number, to, payload, ttl),
            (Socket::Probe, Some(probe)) => probe.send_to(to, payload),
            (Socket::Stream(stream), _) => {
                let is_sent = self.parts.mux.streams().send(stream, payload.into());
                if is_sent { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
            }
            (Socket::Probe, None) => Ok(()),
        };
        if let Err(error) = sent {
            // Lost, as any datagram may be: the agent repeats what matters.
            tracing::trace!(%to, %error, "datagram not sent");
        }
    }

    /// A path is there, has changed, or is gone.
    fn path(&self, peer: NodeId, path: Option<meetpoint_agent::Path>) {
        let Some(path) = path else {
            self.parts.admitted.revoke(&peer);
            self.parts.mux.paths().remove(&peer);
            return self.parts.shared.forget_path(&peer);
        };
        let extra = match path.way.leg {
            Leg::Extra(number) => Some(number),
            Leg::Main | Leg::Relay(_) => None,
        };
        self.parts.mux.extras().carry(path.way.remote, extra);
        self.hear(peer, path.way);
        // Whoever waits for a route finds the path.
        self.parts.shared.set_path(peer, path.into());
        if let Err(error) = self.parts.mux.set_path(&peer, path.way) {
            self.parts.shared.forget_path(&peer);
            tracing::warn!(%peer, remote = %path.way.remote, %error, "path not taken");
        }
    }

    fn hear(&self, peer: NodeId, way: Way) {
        if !self.parts.admitted.admit(peer) {
            return tracing::warn!(%peer, "too many peers: this one is not admitted");
        }
        if let Err(error) = self.parts.mux.hear(&peer, way) {
            tracing::warn!(%peer, remote = %way.remote, %error, "address not taken");
        }
    }

    fn connect_ended(&mut self, request: u32, result: Result<NodeId, Refusal>) {
        self.early_words.remove(&request);
        let Some(reply) = self.connects.remove(&request) else { return };
        let result = result.map(|peer| (peer, self.parts.shared.use_peer(peer)));
        // If the application lost interest meanwhile the use is dropped, and so released.
        let _ = reply.send(result);
    }

    fn publish(&mut self, event: meetpoint_agent::Event) {
        use meetpoint_agent::Event as Told;
        match &event {
            Told::Joined { .. } => {
                self.obstacle(None);
                self.parts.stage.send_replace(Stage::Joined);
            }
            Told::Disconnected { refusal: Some(refusal), .. } => {
                self.obstacle(Some(Obstacle::Refused(refusal.clone())));
            }
            _ => {}
        }
        self.parts.shared.publish(match event {
            Told::Joined { effective, kind, again } => Event::Joined {
                id: self.parts.id,
                cluster: self.parts.cluster.clone(),
                kind,
                effective,
                again,
                server: self.parts.obstacles.label(self.server).to_owned(),
            },
            Told::Classified { class, evidence, observed, relayed } => {
                Event::Classified(Classification { class, evidence, observed, relayed })
            }
            Told::ClusterChanged { effective } => Event::ClusterChanged { effective },
            Told::Behavior(behavior) => Event::Behavior(behavior),
            Told::Peer(peer) => Event::PeerJoined(Peer {
                id: peer.id,
                name: peer.name,
                class: peer.class,
                relayed: peer.relayed,
            }),
            Told::PeerLeft(id) => Event::PeerLeft(id),
            Told::Disconnected { refusal, retry_in } => Event::Disconnected { refusal, retry_in },
        });
    }

    fn end(&mut self, ended: Ended) {
        self.ended = true;
        let obstacles = &self.parts.obstacles;
        let (event, stage) = match &ended {
            Ended::Left => (Event::Left, Stage::Ended(ended)),
            Ended::Rejected(refusal) => (Event::Rejected(refusal.clone()), Stage::Ended(ended)),
            Ended::NoServer => (Event::GivenUp(obstacles.to_string()), Stage::GivenUp(obstacles.clone())),
        };
        self.parts.shared.publish(event);
        self.parts.stage.send_replace(stage);
    }
}

/// The address that the router leads to the node, whenever that changes.
async fn mapped(portmap: &mut Option<PortMap>) -> Option<SocketAddr> {
    match portmap {
        Some(portmap) => portmap.changed().await,
        None => std::future::pending().await,
    }
}
