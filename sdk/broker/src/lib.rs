//! The rendezvous' decisions, without any IO.
//!
//! A broker holds the sessions of present members, knows the mapping under which each of them
//! was *observed*, and introduces two of them by a ticket. Its model:
//!
//! * A **connection** goes Greeting, Challenged, Admitting, Member. Whoever does not get on in
//!   time is dropped. The registry is asked exactly once a join ([`Output::Admit`]); a node is
//!   welcomed only after the registry has stored it.
//! * A **session** belongs to one node at one connection. A newer connection of the same node
//!   takes over.
//! * **Observed, not claimed**: candidates on the public network are mappings that the STUN
//!   server authenticated for that very session. A node's own word counts for addresses on its
//!   own link only, and reaches peers only where they share its public address or the cluster
//!   is effectively PRIVATE.
//! * A **member that no longer fits**, because its cluster or its own network changed, keeps its
//!   session and has a minute to fit again; one function asks the rules, for a join and for a member.
//! * A **ticket** is the only way to make two nodes send to each other. It is minted once, for
//!   two present members, expires, and its keys are derived one for each direction.
//!
//! Deliberately absent: sockets, storage, clocks (time is an argument), rate limits by address
//! (the shell's, which knows proxies). The server uses this machine, and so does a node that
//! serves its peers as rendezvous.

mod api;
mod defence;
mod discovery;
mod guest;
mod handshake;
mod hints;
mod introduce;
mod introducer;
mod judge;
mod limits;
mod membership;
mod pairs;
mod paths;
mod presence;
mod source;
mod state;
mod witness;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use api::{
    AdmissionProof, AdmitRequest, ClusterConfig, ConnId, Event, Input, Output, PairAttempt, PathView,
    RelayAccess, SecretProof, SessionView, StunCredential, TicketSide, TokenProof,
};
#[cfg(feature = "attack-tests")]
pub use defence::Defence;
pub use introducer::{Introducer, IntroducerConfig, IntroducerCounters, IntroducerInput, IntroducerOutput};
pub use limits::Limits;

use meetpoint_proto::wire::{ClientMessage, Refusal, ServerMessage};
use meetpoint_proto::{ClusterName, Code, NetworkClass, NodeId, SessionId, TicketId, Timers, addr};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use defence::{Defence as Stands, Defences};
use hints::Hints;
use pairs::Pairs;
use source::Sources;
use state::{Cluster, Conn, Phase, Quiet, Request, Session, Ticket, Timer};

/// The broker. See the [crate] for its model.
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    rng: ChaCha20Rng,
    /// Wall time, as told at an instant.
    wall: Option<(Instant, u64)>,
    /// Of all clusters.
    relay: Arc<RelayAccess>,
    clusters: BTreeMap<ClusterName, Cluster>,
    conns: BTreeMap<ConnId, Conn>,
    sessions: BTreeMap<SessionId, ConnId>,
    tickets: BTreeMap<TicketId, Ticket>,
    /// Members by where they come from.
    sources: Sources,
    /// What became of introductions.
    pairs: Pairs,
    /// What nodes found out about their NATs.
    hints: Hints,
    /// Of members that have left a short while ago.
    quiet: BTreeMap<(ClusterName, NodeId), Quiet>,
    defences: Defences,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

impl Broker {
    /// A broker without clusters; `seed` is the source of all its nonces and keys.
    #[must_use]
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        Self {
            limits,
            rng: ChaCha20Rng::from_seed(seed),
            wall: None,
            relay: Arc::default(),
            clusters: BTreeMap::new(),
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tickets: BTreeMap::new(),
            sources: Sources::default(),
            pairs: Pairs::default(),
            hints: Hints::default(),
            quiet: BTreeMap::new(),
            defences: Defences::default(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Switches a defence off, to show the attack it is for.
    #[cfg(feature = "attack-tests")]
    pub fn set_defence_off(&mut self, which: Defence) {
        self.defences.off = Some(which);
    }

    /// Takes an input; then poll the outputs.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Opened { conn, source } => self.opened(now, conn, addr::unmap(source)),
            Input::Message { conn, message } => self.message(now, conn, message),
            Input::Malformed { conn, error } => self.refuse(now, conn, error.refusal()),
            Input::Closed { conn } => self.drop_conn(now, conn, false),
            Input::Admitted { conn, not_after_unix_s, credential, session_token } => {
                self.admitted(now, conn, not_after_unix_s, credential, session_token);
            }
            Input::Refused { conn, code, detail } => self.registry_refused(now, conn, code, detail),
            Input::Held { conn, wait } => {
                self.refuse(now, conn, Refusal::new(Code::RateLimited).retry_after_ms(millis(wait).max(1)));
            }
            Input::Credential { conn, credential } => self.credential(now, conn, credential),
            Input::Observed { session, source } => self.observed(now, session, addr::unmap(source)),
            Input::Allocated { session, relayed } => self.allocated(now, session, relayed),
            Input::Proven { conn, source, member, certificate } => {
                self.proven(now, conn, addr::unmap(source), *member, *certificate);
            }
            Input::Wall { unix_ms } => self.wall = Some((now, unix_ms)),
            Input::Relay(access) => self.relay = Arc::new(access),
            Input::Cluster(config) => self.set_cluster(now, config),
            Input::ClusterGone { cluster } => self.cluster_gone(now, &cluster),
            Input::Renewed { conn, not_after_unix_s, credential } => {
                self.renewed(now, conn, not_after_unix_s, credential);
            }
            Input::NotRenewed { conn, code } => self.not_renewed(now, conn, code),
            Input::Revoke { cluster, node, until_unix_s } => self.revoke(now, &cluster, node, until_unix_s),
            Input::Told { cluster, text } => self.told(now, &cluster, text),
            Input::Restore { cluster, node } => self.restore(&cluster, &node),
            Input::EndSession { cluster, node } => self.end_session(now, &cluster, &node),
            Input::Drain { until } => self.drain(now, until),
            Input::Shutdown => self.shutdown(now),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Handshake(conn) => self.refuse(now, conn, Refusal::new(Code::HandshakeTimeout)),
                Timer::Idle(conn) => self.idle(now, conn),
                Timer::Ping(conn) => self.ping(now, conn),
                Timer::Membership(conn) => self.close(now, conn, Refusal::new(Code::CertificateExpired)),
                Timer::Discovery(conn) => self.discovery_timeout(now, conn),
                Timer::Probation(conn) => self.probation_timeout(now, conn),
                Timer::Request(conn, request) => self.request_timeout(conn, request),
                Timer::Ticket(ticket) => self.end_ticket(ticket),
                Timer::Witness(conn) => self.witness_due(now, conn),
                Timer::Quiet(cluster, node) => drop(self.quiet.remove(&(cluster, node))),
                Timer::Forget(cluster, node) => self.outputs.push_back(Output::Forget { cluster, node }),
            }
        }
    }

    /// When [`Broker::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The members of a cluster that are present, by id.
    pub fn sessions(&self, cluster: &ClusterName) -> impl Iterator<Item = SessionView> + '_ {
        let conns = self.clusters.get(cluster).into_iter().flat_map(|cluster| cluster.members.values());
        conns.filter_map(|conn| {
            let source = self.conns.get(conn)?.source;
            self.session(*conn).map(|session| session.view(source))
        })
    }

    /// As what each member of any cluster is judged, and whether it can only be relayed.
    pub fn classes(&self) -> impl Iterator<Item = (Option<NetworkClass>, bool)> + '_ {
        let members = self.clusters.values().flat_map(|cluster| cluster.members.values());
        let sessions = members.filter_map(|conn| self.session(*conn));
        sessions.map(|session| {
            let found = session.class;
            (found.map(|found| found.class), found.is_some_and(|found| found.relayed))
        })
    }

    /// A member that is present.
    #[must_use]
    pub fn session_of(&self, cluster: &ClusterName, node: &NodeId) -> Option<SessionView> {
        let conn = *self.clusters.get(cluster)?.members.get(node)?;
        Some(self.session(conn)?.view(self.conns.get(&conn)?.source))
    }

    /// The member that is meant by a name or an id, if it is present.
    #[must_use]
    pub fn find(&self, cluster: &ClusterName, peer: &str) -> Option<SessionView> {
        let conn = self.clusters.get(cluster)?.find(peer)?;
        Some(self.session(conn)?.view(self.conns.get(&conn)?.source))
    }

    /// Whose connection it is, once the node is a member.
    #[must_use]
    pub fn member(&self, conn: ConnId) -> Option<NodeId> {
        self.session(conn).map(|session| session.node)
    }

    /// How many members of a cluster are present.
    #[must_use]
    pub fn present(&self, cluster: &ClusterName) -> usize {
        self.clusters.get(cluster).map_or(0, |cluster| cluster.members.len())
    }

    fn opened(&mut self, now: Instant, conn: ConnId, source: SocketAddr) {
        if self.conns.len() >= self.limits.connections {
            let refusal = Refusal::new(Code::ServerFull).retry_after_ms(5_000);
            self.send(conn, ServerMessage::Rejected(refusal));
            self.outputs.push_back(Output::Close { conn });
            return;
        }
        self.conns.insert(conn, Conn { source, last_heard: now, phase: Phase::Greeting });
        self.timers.set(Timer::Handshake(conn), Some(now + self.limits.handshake_timeout));
    }

    fn message(&mut self, now: Instant, conn: ConnId, message: ClientMessage) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.last_heard = now;
        match (&state.phase, message) {
            (Phase::Greeting, ClientMessage::Hello(hello)) => self.hello(now, conn, *hello),
            (Phase::Challenged(_), ClientMessage::Proof(proof)) => self.proof(now, conn, proof),
            (Phase::Member(_), message) => self.member_message(now, conn, message),
            // Nothing but the connection that the node has proven itself on speaks for it.
            (Phase::Challenged(joining), ClientMessage::Leave) if !self.defences.stand(Stands::OwnLeave) => {
                let (cluster, node) = (joining.cluster.clone(), joining.hello.node_id);
                self.end_session(now, &cluster, &node);
            }
            (Phase::Greeting | Phase::Challenged(_) | Phase::Admitting(_), _) => {
                self.refuse(now, conn, Refusal::new(Code::OutOfOrder));
            }
        }
    }

    fn member_message(&mut self, now: Instant, conn: ConnId, message: ClientMessage) {
        match message {
            ClientMessage::Hello(_) | ClientMessage::Proof(_) => {
                self.refuse(now, conn, Refusal::new(Code::OutOfOrder));
            }
            ClientMessage::Candidates { host, relay, mapped } => {
                self.relay_candidates(now, conn, relay);
                self.candidates(now, conn, host, mapped);
            }
            ClientMessage::DialBackSeen { nonce } => self.dial_back_seen(now, conn, nonce),
            ClientMessage::Unsolicited { ticket } => self.unsolicited(now, conn, ticket),
            ClientMessage::Behavior { behavior } => self.behavior_told(now, conn, behavior),
            ClientMessage::Connect { request, peer, wait, handshake } => {
                self.connect(now, conn, request, Request { peer, wait, handshake });
            }
            ClientMessage::CancelConnect { request } => self.cancel(conn, request),
            ClientMessage::TicketResult { ticket, outcome, rtt_us } => {
                let rtt = rtt_us.map(|us| Duration::from_micros(u64::from(us)));
                self.ticket_result(now, conn, ticket, (outcome, rtt));
            }
            ClientMessage::Ping { seq } => self.send(conn, ServerMessage::Pong { seq }),
            ClientMessage::Pong { seq } => self.pong(now, conn, seq),
            ClientMessage::Renew => self.renew(conn),
            ClientMessage::Leave => {
                self.send(conn, ServerMessage::Left);
                self.outputs.push_back(Output::Close { conn });
                self.drop_conn(now, conn, true);
            }
        }
    }

    /// Adds a cluster, or changes one. If it amounts to something else now, or no longer keeps nodes that
    /// can only be relayed, those whom it concerns are judged again.
    fn set_cluster(&mut self, now: Instant, config: ClusterConfig) {
        let Some(cluster) = self.clusters.get_mut(&config.name) else {
            self.clusters.insert(config.name.clone(), Cluster::new(config, Arc::clone(&self.relay)));
            return;
        };
        let changed = cluster.config.effective != config.effective;
        let relaying_changed = cluster.config.admit_relayed != config.admit_relayed;
        cluster.config = config;
        let members: Vec<ConnId> = cluster.members.values().copied().collect();
        for &conn in &members {
            if changed {
                self.cluster_changed(now, conn);
            } else if relaying_changed {
                self.relaying_changed(now, conn);
            }
        }
        // Other addresses count now: who waited for some may have them.
        for conn in members.into_iter().filter(|_| changed) {
            self.retry_own(now, conn);
        }
    }

    fn cluster_gone(&mut self, now: Instant, name: &ClusterName) {
        let is_of = |conn: &Conn| match &conn.phase {
            Phase::Greeting => false,
            Phase::Challenged(joining) | Phase::Admitting(joining) => joining.cluster == *name,
            Phase::Member(session) => session.cluster == *name,
        };
        let all: Vec<ConnId> =
            self.conns.iter().filter(|(_, state)| is_of(state)).map(|(conn, _)| *conn).collect();
        for conn in all {
            self.refuse(now, conn, Refusal::new(Code::UnknownCluster));
        }
        self.clusters.remove(name);
    }

    fn drain(&mut self, now: Instant, until: Instant) {
        let message = ServerMessage::Draining { in_ms: millis(until.saturating_duration_since(now)) };
        let frame: Arc<str> = meetpoint_proto::wire::encode(&message).into();
        let members = self.sessions.values();
        let sends = members.map(|conn| Output::SendFrame { conn: *conn, frame: Arc::clone(&frame) });
        self.outputs.extend(sends);
    }

    fn shutdown(&mut self, now: Instant) {
        let all: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in all {
            self.close(now, conn, Refusal::new(Code::Shutdown));
        }
    }

    /// Ends a connection whose node may come back.
    fn close(&mut self, now: Instant, conn: ConnId, refusal: Refusal) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        self.send(conn, ServerMessage::Closing(refusal));
        self.outputs.push_back(Output::Close { conn });
        self.drop_conn(now, conn, false);
    }

    /// Ends a connection that is not, or no longer, a member's.
    fn refuse(&mut self, now: Instant, conn: ConnId, refusal: Refusal) {
        let Some(state) = self.conns.get(&conn) else { return };
        let source = state.source;
        let member = self.session(conn).map(|session| (session.cluster.clone(), session.node));
        self.outputs.push_back(Output::Event(Event::Rejected { source, code: refusal.code, member }));
        self.send(conn, ServerMessage::Rejected(refusal));
        self.outputs.push_back(Output::Close { conn });
        self.drop_conn(now, conn, false);
    }

    fn idle(&mut self, now: Instant, conn: ConnId) {
        let Some(state) = self.conns.get(&conn) else { return };
        let due = state.last_heard + self.limits.idle_timeout;
        if due <= now {
            self.close(now, conn, Refusal::new(Code::TooSlow));
        } else {
            self.timers.set(Timer::Idle(conn), Some(due));
        }
    }

    fn send(&mut self, conn: ConnId, message: ServerMessage) {
        self.outputs.push_back(Output::Send { conn, message });
    }

    fn session(&self, conn: ConnId) -> Option<&Session> {
        match &self.conns.get(&conn)?.phase {
            Phase::Member(session) => Some(session),
            _ => None,
        }
    }

    fn session_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        match &mut self.conns.get_mut(&conn)?.phase {
            Phase::Member(session) => Some(session),
            _ => None,
        }
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn unix_ms(&self, now: Instant) -> u64 {
        let (at, unix_ms) = self.wall.unwrap_or((now, 0));
        unix_ms.saturating_add(millis(now.saturating_duration_since(at)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
