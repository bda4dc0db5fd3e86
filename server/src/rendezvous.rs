//! The task around the broker: it alone holds the machine; all others talk to it by bounded
//! channels.
//!
//! The loop never waits for the registry, a socket or a slow node: joins run beside it and report
//! back, a node's messages wait in its own bounded queue, and a node that lets that queue fill is
//! disconnected.

mod handle;
mod tell;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use meetpoint_broker::{AdmitRequest, Broker, ConnId, Input, Limits, Output, RelayAccess, StunCredential};
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::wire::{ClientMessage, Refusal, ServerMessage};
use meetpoint_proto::{ClusterName, Code, NodeId, SessionId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::clock;
use crate::config::AccessLimits;
use crate::limits::{Key, Limiter, Policy, Verdict};
use crate::metrics::instruments::Meetings;
use crate::pace::Pace;
use crate::service::{
    Actor, Admission, CERTIFICATE_LIFETIME_S, Clusters, ForeignClusters, InForce, Service, ServiceError,
    UnixMs,
};
use crate::udp::{Seen, WALL_INTERVAL};

pub(crate) use handle::{Connection, Gone, Handle, Outgoing};
pub(crate) use tell::{elapsed_ms, path_word};

use handle::Request;

/// Requests that wait for the broker. A full queue slows the senders down: their sockets are read later.
const REQUESTS: usize = 1024;
/// Answers of the registry that wait for the broker.
const ADMISSIONS: usize = 256;
/// How long an introduction lets two nodes relay to each other inside this server, if they stay. As long
/// as a membership certificate holds; each further introduction of the two begins it anew.
const PAIR_LIFETIME: Duration = Duration::from_secs(CERTIFICATE_LIFETIME_S);
/// What waits for the STUN server beyond its channel: the ends of all sessions of a full server at
/// once, and introductions between them. Some 2 MB.
const MAX_WAITING_FOR_STUN: usize = 1 << 15;

/// Refused joins that the audit log takes in one go. Strangers cause them, so their number must be bounded;
/// what is left out is counted in the next one.
const NOTED_REFUSALS: u32 = 20;
/// And how often one more: some 400 KB a day at most.
const NOTED_REFUSAL_EVERY: Duration = Duration::from_secs(60);

/// What the STUN and TURN server is asked to do or has to know. In its order: a pair whose session has
/// ended must not be heard of again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StunRequest {
    /// Send this nonce there, from a place that never sent to it.
    DialBack {
        /// An observed mapping.
        to: SocketAddr,
        /// What to send.
        nonce: DialBackNonce,
    },
    /// Two nodes may meet at their relayed addresses. For every shard.
    Introduced {
        /// The session that asked.
        a: SessionId,
        /// The one that was asked for.
        b: SessionId,
        /// For so long at most.
        until: Instant,
    },
    /// A node's session is over, and so is whatever it was introduced to. For every shard.
    Ended {
        /// The session.
        session: SessionId,
    },
}

struct Outbound {
    messages: mpsc::Sender<Outgoing>,
    too_slow: CancellationToken,
}

/// An answer of the registry.
struct Answer {
    conn: ConnId,
    who: (ClusterName, NodeId),
    source: IpAddr,
    ephemeral: bool,
    result: Result<Admission, NotAdmitted>,
}

/// Why a node does not join.
enum NotAdmitted {
    /// Too many joins from its source have failed, and it is nobody's acquaintance.
    Held(Duration),
    /// The registry says so.
    Refused(ServiceError),
}

/// Who does what too often.
struct Limiters {
    policies: [Policy; 2],
    /// Joins that failed, by source.
    failures: Limiter,
    /// Joins from a source with too many failures, by node: members may come back, yet not at will.
    returns: Limiter,
    /// Connect requests, by node.
    introductions: Limiter,
}

impl Limiters {
    fn new(limits: &AccessLimits) -> Self {
        Self {
            policies: [limits.join_failures, limits.introductions],
            failures: Limiter::new(limits.join_failures),
            returns: Limiter::new(limits.join_failures),
            introductions: Limiter::new(limits.introductions),
        }
    }

    /// Counts by these. Where a policy is another one than before everybody begins anew.
    fn set(&mut self, limits: &AccessLimits) {
        let [failures, introductions] = self.policies;
        if failures != limits.join_failures {
            self.failures = Limiter::new(limits.join_failures);
            self.returns = Limiter::new(limits.join_failures);
        }
        if introductions != limits.introductions {
            self.introductions = Limiter::new(limits.introductions);
        }
        self.policies = [limits.join_failures, limits.introductions];
    }
}

/// A credential for a member.
struct Minted {
    conn: ConnId,
    credential: Option<StunCredential>,
}

/// The task's state.
pub(crate) struct Rendezvous {
    broker: Broker,
    service: Arc<Service>,
    tasks: TaskTracker,
    requests: mpsc::Receiver<Request>,
    observations: mpsc::Receiver<Seen>,
    stun: mpsc::Sender<StunRequest>,
    /// What the channel to the STUN server had no place for.
    waiting_for_stun: VecDeque<StunRequest>,
    answers: mpsc::Receiver<Answer>,
    answer_sender: mpsc::Sender<Answer>,
    renewals: mpsc::Receiver<(ConnId, Result<Admission, ServiceError>)>,
    renewal_sender: mpsc::Sender<(ConnId, Result<Admission, ServiceError>)>,
    minted: mpsc::Receiver<Minted>,
    minted_sender: mpsc::Sender<Minted>,
    connections: BTreeMap<ConnId, Outbound>,
    /// Joins the registry works on: their nodes must not be forgotten meanwhile.
    joining: BTreeSet<(ClusterName, NodeId, ConnId)>,
    /// Refused joins in the audit log.
    noted_refusals: Pace,
    limiters: Limiters,
    meetings: Meetings,
}

/// The ends of the channels to the STUN task.
pub(crate) struct StunChannels {
    pub(crate) observations: mpsc::Receiver<Seen>,
    pub(crate) requests: mpsc::Sender<StunRequest>,
}

impl Rendezvous {
    pub(crate) fn new(
        limits: Limits,
        access: &AccessLimits,
        seed: [u8; 32],
        service: Arc<Service>,
        stun: StunChannels,
        tasks: TaskTracker,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (answer_sender, answers) = mpsc::channel(ADMISSIONS);
        let (renewal_sender, renewals) = mpsc::channel(ADMISSIONS);
        let handle = Handle { requests: sender, next_conn: Arc::new(AtomicU64::new(1)) };
        let (minted_sender, minted) = mpsc::channel(ADMISSIONS);
        let rendezvous = Self {
            broker: Broker::new(limits, seed),
            service,
            tasks,
            requests,
            observations: stun.observations,
            stun: stun.requests,
            waiting_for_stun: VecDeque::new(),
            answers,
            answer_sender,
            renewals,
            renewal_sender,
            minted,
            minted_sender,
            connections: BTreeMap::new(),
            joining: BTreeSet::new(),
            noted_refusals: Pace::new(NOTED_REFUSALS, NOTED_REFUSAL_EVERY),
            limiters: Limiters::new(access),
            meetings: Meetings::default(),
        };
        (rendezvous, handle)
    }

    /// Who joins and who meets whom.
    pub(crate) fn meetings(&self) -> &Meetings {
        &self.meetings
    }

    /// Where this server relays, which nodes are told. Before it runs.
    pub(crate) fn relay(&mut self, access: RelayAccess) {
        self.broker.handle(Instant::now(), Input::Relay(access));
    }

    /// Runs until `halt`. On `shutdown` all nodes are told, and the loop goes on to serve the rest.
    pub(crate) async fn run(mut self, shutdown: CancellationToken, halt: CancellationToken) {
        // Before anything else: certificates are judged by it.
        self.tell_wall();
        let mut changes = self.service.changes();
        let mut served = Clusters::default();
        self.serve(&mut served, Arc::clone(&changes.borrow_and_update()));
        let mut foreign_changes = self.service.foreign_changes();
        let mut foreign = ForeignClusters::default();
        foreign_changes.mark_changed();
        self.recall_revocations().await;
        let mut wall = tokio::time::interval(WALL_INTERVAL);
        let mut told = false;
        loop {
            // Before all requests: whoever was told that a cluster is served may come at once.
            if foreign_changes.has_changed().unwrap_or(false) {
                self.serve_foreign(&mut foreign, Arc::clone(&foreign_changes.borrow_and_update()));
            }
            // Timers first: a flood of requests must not keep handshakes from timing out.
            let now = Instant::now();
            if self.broker.poll_timeout().is_some_and(|due| due <= now) {
                self.broker.handle_timeout(now);
            }
            self.flush();
            let due = self.broker.poll_timeout();
            tokio::select! {
                () = halt.cancelled() => return,
                () = shutdown.cancelled(), if !told => {
                    told = true;
                    self.broker.handle(Instant::now(), Input::Shutdown);
                }
                Ok(()) = changes.changed() => {
                    let clusters = Arc::clone(&changes.borrow_and_update());
                    self.serve(&mut served, clusters);
                }
                Ok(()) = foreign_changes.changed() => foreign_changes.mark_changed(),
                Some(request) = self.requests.recv() => self.request(request),
                Some(answer) = self.answers.recv() => self.answered(answer),
                Some((conn, result)) = self.renewals.recv() => self.renewed(conn, result),
                Some(Minted { conn, credential }) = self.minted.recv() => {
                    self.broker.handle(Instant::now(), Input::Credential { conn, credential });
                }
                Some(seen) = self.observations.recv() => self.seen(seen),
                () = has_place(&self.stun), if !self.waiting_for_stun.is_empty() => self.pass_on(),
                _ = wall.tick() => self.tell_wall(),
                () = clock::sleep_until(due) => {}
            }
        }
    }

    /// What the STUN server knows of a member.
    fn seen(&mut self, seen: Seen) {
        let input = match seen {
            Seen::Observed { session, source } => Input::Observed { session, source },
            Seen::Allocated { session, relayed } => Input::Allocated { session, relayed },
        };
        self.broker.handle(Instant::now(), input);
    }

    fn tell_wall(&mut self) {
        self.broker.handle(Instant::now(), Input::Wall { unix_ms: UnixMs::now().unsigned() });
    }

    /// Nodes that were removed before this server started.
    async fn recall_revocations(&mut self) {
        match self.service.revocations_in_force(UnixMs::now()).await {
            Ok(known) => {
                for InForce { cluster, node, until_unix_s } in known {
                    let input = Input::Revoke { cluster, node, until_unix_s };
                    self.broker.handle(Instant::now(), input);
                }
            }
            // The registry refuses them all the same; only their peers are not told.
            Err(error) => warn!(%error, "members are not told who was removed"),
        }
    }

    /// Tells the broker of the clusters that are not as it was told last.
    fn serve(&mut self, served: &mut Clusters, now: Clusters) {
        for (name, cluster) in now.iter() {
            if served.get(name).is_none_or(|before| !Arc::ptr_eq(before, cluster)) {
                for config in self.service.broker_clusters(cluster) {
                    self.broker.handle(Instant::now(), Input::Cluster(config));
                }
            }
        }
        *served = now;
    }

    /// The same for those whose home is elsewhere. Where one goes an own cluster of its name comes back.
    fn serve_foreign(&mut self, served: &mut ForeignClusters, now: ForeignClusters) {
        let is_same = |name, cluster| now.get(name).is_some_and(|now| Arc::ptr_eq(now, cluster));
        for (name, _) in served.iter().filter(|(name, cluster)| !is_same(*name, cluster)) {
            self.broker.handle(Instant::now(), Input::ClusterGone { cluster: name.clone() });
            let own = self.service.clusters().get(name).cloned();
            for config in own.iter().flat_map(|own| self.service.broker_clusters(own)) {
                self.broker.handle(Instant::now(), Input::Cluster(config));
            }
        }
        for (name, cluster) in now.iter() {
            if served.get(name).is_none_or(|before| !Arc::ptr_eq(before, cluster)) {
                match self.service.broker_foreign(cluster) {
                    Ok(config) => self.broker.handle(Instant::now(), Input::Cluster(config)),
                    Err(error) => warn!(cluster = %name, %error, "not served"),
                }
            }
        }
        *served = now;
    }

    fn request(&mut self, request: Request) {
        let input = match request {
            Request::Open { conn, source, outbound, too_slow } => {
                self.connections.insert(conn, Outbound { messages: outbound, too_slow });
                Input::Opened { conn, source }
            }
            Request::Message { conn, message } => match self.held_back(conn, &message) {
                Some(answer) => return self.deliver(conn, Outgoing::Message(Box::new(answer))),
                None => Input::Message { conn, message },
            },
            Request::Malformed { conn, error } => Input::Malformed { conn, error },
            Request::Closed { conn } => {
                self.connections.remove(&conn);
                Input::Closed { conn }
            }
            Request::Revoke { cluster, node, until_unix_s } => Input::Revoke { cluster, node, until_unix_s },
            Request::Told { cluster, text } => Input::Told { cluster, text },
            Request::Restore { cluster, node } => Input::Restore { cluster, node },
            Request::EndSession { cluster, node } => Input::EndSession { cluster, node },
            Request::Limits(limits) => return self.limiters.set(&limits),
            Request::Drain { deadline } => Input::Drain { until: deadline },
            Request::Query(query) => return query(&self.broker),
        };
        self.broker.handle(Instant::now(), input);
    }

    /// What a node is answered that asks to be introduced too often. Counted by its key, so a new
    /// connection is no new allowance.
    fn held_back(&mut self, conn: ConnId, message: &ClientMessage) -> Option<ServerMessage> {
        let ClientMessage::Connect { request, .. } = message else { return None };
        let node = self.broker.member(conn)?;
        match self.limiters.introductions.count(Instant::now(), Key::Node(node)) {
            Verdict::Pass { .. } => None,
            Verdict::Refuse { wait } => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                let refusal = Refusal::new(Code::RateLimited).retry_after_ms(wait_ms);
                Some(ServerMessage::ConnectFailed { request: *request, refusal })
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        let Answer { conn, who: (cluster, node), source, ephemeral, result } = answer;
        self.joining.remove(&(cluster.clone(), node, conn));
        let input = match result {
            Ok(Admission { not_after_unix_s, credential, session_token }) => {
                if ephemeral && !self.connections.contains_key(&conn) {
                    // It went away while it was being stored, so no session will ever end for it.
                    self.forget(&cluster, node);
                }
                Input::Admitted { conn, not_after_unix_s, credential, session_token }
            }
            Err(NotAdmitted::Held(wait)) => Input::Held { conn, wait },
            Err(NotAdmitted::Refused(error)) => {
                let code = error.code();
                if is_guess(code) {
                    self.note_refusal(Actor::node(node, source), &cluster, &error);
                }
                if code == Code::Storage {
                    warn!(%cluster, %node, %error, "a join could not be stored");
                    Input::Refused { conn, code, detail: None }
                } else {
                    Input::Refused { conn, code, detail: Some(error.to_string()) }
                }
            }
        };
        self.broker.handle(Instant::now(), input);
    }

    fn flush(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send { conn, message } => self.deliver(conn, Outgoing::Message(Box::new(message))),
                Output::SendFrame { conn, frame } => self.deliver(conn, Outgoing::Frame(frame)),
                Output::Close { conn } => {
                    self.connections.remove(&conn);
                }
                Output::Admit(request) => self.admit(*request),
                Output::Renew { conn, session, cluster, node } => self.renew(conn, session, cluster, node),
                Output::Mint { conn, session } => self.mint(conn, session),
                Output::DialBack { to, nonce } => {
                    // A lost dial-back is asked for again.
                    if self.stun.try_send(StunRequest::DialBack { to, nonce }).is_err() {
                        debug!(%to, "the STUN server is busy; a dial-back was dropped");
                    }
                }
                Output::Forget { cluster, node } => self.forget(&cluster, node),
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn deliver(&mut self, conn: ConnId, message: Outgoing) {
        let Some(outbound) = self.connections.get(&conn) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = outbound.messages.try_send(message) {
            info!(conn = conn.0, "a node does not read; its connection is closed");
            outbound.too_slow.cancel();
            self.connections.remove(&conn);
            self.broker.handle(Instant::now(), Input::Closed { conn });
        }
    }

    /// Asks the registry, beside the loop.
    ///
    /// From a source with too many failures only members join: a registered node has proven its key
    /// by now, which a guesser has no part in, so a block is no more than it has to be for those who
    /// share an address with him.
    fn admit(&mut self, request: AdmitRequest) {
        let (conn, source, ephemeral) = (request.conn, request.source, request.ephemeral);
        let now = Instant::now();
        let held = self.limiters.failures.wait(now, Key::source(request.source));
        if held.is_some()
            && let Verdict::Refuse { wait } = self.limiters.returns.count(now, Key::Node(request.node))
        {
            return self.broker.handle(now, Input::Held { conn, wait });
        }
        let who = (request.cluster.clone(), request.node);
        self.joining.insert((request.cluster.clone(), request.node, conn));
        let (service, answers) = (Arc::clone(&self.service), self.answer_sender.clone());
        self.tasks.spawn(async move {
            let result = join(&service, request, held).await;
            // The loop has ended: nobody is left to be welcomed.
            let _ = answers.send(Answer { conn, who, source, ephemeral, result }).await;
        });
    }

    /// Asks the registry for another certificate's time, beside the loop.
    fn renew(&self, conn: ConnId, session: SessionId, cluster: ClusterName, node: NodeId) {
        let (service, answers) = (Arc::clone(&self.service), self.renewal_sender.clone());
        self.tasks.spawn(async move {
            let result = service.renew(UnixMs::now(), &cluster, node, session).await;
            // The loop has ended: nobody is left to be told.
            let _ = answers.send((conn, result)).await;
        });
    }

    fn renewed(&mut self, conn: ConnId, result: Result<Admission, ServiceError>) {
        let input = match result {
            Ok(Admission { not_after_unix_s, credential, .. }) => {
                Input::Renewed { conn, not_after_unix_s, credential }
            }
            Err(error) => {
                info!(conn = conn.0, %error, "a membership was not renewed");
                Input::NotRenewed { conn, code: error.code() }
            }
        };
        self.broker.handle(Instant::now(), input);
    }

    /// Has a credential made for a member of a cluster that became PUBLIC, beside the loop.
    fn mint(&mut self, conn: ConnId, session: SessionId) {
        let (service, minted) = (Arc::clone(&self.service), self.minted_sender.clone());
        self.tasks.spawn(async move {
            let now = UnixMs::now();
            let until_unix_s = now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S;
            let credential = service.mint_for_session(now, &session, until_unix_s).await;
            let credential = credential.inspect_err(|error| warn!(%session, %error, "no credential")).ok();
            // The loop has ended: nobody waits for it.
            let _ = minted.send(Minted { conn, credential }).await;
        });
    }

    /// Forgets an ephemeral node, unless it is here again or on its way in.
    fn forget(&self, cluster: &ClusterName, node: NodeId) {
        let first = (cluster.clone(), node, ConnId(0));
        let next = self.joining.range(first..).next();
        let is_joining = next.is_some_and(|(c, n, _)| c == cluster && *n == node);
        if !is_joining && self.broker.session_of(cluster, &node).is_none() {
            self.service.forget(cluster, node);
        }
    }

    /// Tells the STUN server, now or as soon as it has a place.
    fn tell_stun(&mut self, request: StunRequest) {
        if self.waiting_for_stun.len() >= MAX_WAITING_FOR_STUN {
            warn!("the STUN server does not listen; it was not told whom the broker introduced");
            return;
        }
        self.waiting_for_stun.push_back(request);
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(request) = self.waiting_for_stun.front() {
            if let Err(mpsc::error::TrySendError::Full(_)) = self.stun.try_send(*request) {
                return;
            }
            // Sent, or the STUN server is gone and the whole server ends.
            self.waiting_for_stun.pop_front();
        }
    }
}

async fn join(
    service: &Service,
    request: AdmitRequest,
    held: Option<Duration>,
) -> Result<Admission, NotAdmitted> {
    if let Some(wait) = held {
        match service.node(request.cluster.as_str(), &request.node).await {
            Ok(_) => {}
            Err(ServiceError::UnknownNode) => return Err(NotAdmitted::Held(wait)),
            Err(error) => return Err(NotAdmitted::Refused(error)),
        }
    }
    service.admit(UnixMs::now(), request).await.map_err(NotAdmitted::Refused)
}

/// Waits until the STUN server has a place, or is gone.
async fn has_place(stun: &mpsc::Sender<StunRequest>) {
    let _ = stun.reserve().await;
}

/// Refusals that a guesser collects, and those of whoever goes on; an honest node gets few of them.
const fn is_guess(code: Code) -> bool {
    matches!(code, Code::BadToken | Code::BadSecret | Code::BadSignature | Code::RateLimited)
}

#[cfg(test)]
mod tests;
