//! The control connection: join, stay, come back.
//!
//! The node proves itself by two signatures over the join's transcript, and asks the same of the
//! server: the welcome must carry the cluster key's signature over that transcript. The key of the
//! first welcome is pinned for the process's life. A server that shows another one is not joined,
//! but tried again: whoever can only impersonate the server must not be able to end the node.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::addr;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    ClientMessage, Hello, PROTOCOL_VERSION, Proof, Refusal, ServerMessage, StunAccess, Welcome,
};
use meetpoint_proto::{Certificate, ClusterNetwork, Code, EffectiveNetwork, NodeId, Nonce, PublicKey};
use rand_chacha::rand_core::Rng;

use crate::api::{Ended, Event, Output};
use crate::backoff::Backoff;
use crate::env::{Env, ServerClock};

/// From asking for the connection until it is open: a TCP and a TLS handshake over a bad link.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// From open to welcome; the server gives a handshake 10 s as well.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(12);
/// From leave to the server's answer. Not longer: the process wants to exit.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A stay this long was no fluke: the next failure starts the backoff anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Bounds on the server's word about silence.
const IDLE_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// A node asks for a sign of life after a third of the allowed silence.
const PINGS_PER_IDLE: u32 = 3;
/// A membership is renewed by joining anew when so much of it is over, varied by a tenth of it so that
/// nodes that joined together do not come back together.
const RENEW_AFTER: f64 = 0.6;
const RENEW_SPREAD: f64 = 0.1;
/// A longer one counts as a year: an instant can't be put off for ever.
const MAX_LIFETIME_S: u64 = 365 * 24 * 60 * 60;
/// No renewal sooner than this, however short a membership the server gives.
const MIN_STAY: Duration = Duration::from_secs(60);
/// Longest delay a server can order.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Refusals after which trying again can't help, whatever message brings them. All others (a
/// server that is full, restarting, out of disk, or newer than this node) are retried.
const FINAL: &[Code] = &[
    Code::BadMessage,
    Code::FrameTooLarge,
    Code::OutOfOrder,
    Code::ProtocolVersion,
    Code::BadName,
    Code::UnknownCluster,
    Code::NameTaken,
    Code::BadSignature,
    Code::TokenRequired,
    Code::BadToken,
    Code::Replaced,
    Code::Removed,
    Code::PublicNodeInPrivateCluster,
    Code::PrivateNodeInPublicCluster,
    Code::DeclaredPrivateInPublicCluster,
    Code::DeclaredPublicButPrivate,
    Code::DeclaredPrivateButPublic,
    Code::LoopbackInPublicCluster,
    Code::Unreachable,
    Code::NodeAddrMismatch,
    Code::ClusterTypeMismatch,
];

/// What a welcome gives the rest of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) kind: ClusterNetwork,
    pub(crate) effective: EffectiveNetwork,
    pub(crate) cluster_key: PublicKey,
    pub(crate) clock: ServerClock,
    /// The source address the node uses towards the server.
    pub(crate) local: IpAddr,
    /// Where it reached the server.
    pub(crate) server: IpAddr,
    /// Never there if the cluster is effectively PRIVATE or the node is sealed.
    pub(crate) stun: Option<StunAccess>,
    /// How long its certificate and its STUN credential hold.
    pub(crate) lifetime: Duration,
    /// Not the first welcome.
    pub(crate) again: bool,
}

/// What the rest of the agent has to know of a step.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Quiet,
    /// The node is a member now.
    Joined(Box<Membership>),
    /// It was a member and lost the connection.
    Lost,
    /// A message for the rest of the agent.
    Deliver(ServerMessage),
}

#[derive(Debug)]
struct Handshake {
    local: IpAddr,
    server: IpAddr,
    hello: Hello,
    challenge: Option<(Transcript, PublicKey)>,
}

#[derive(Debug)]
struct Stay {
    since: Instant,
    renew_at: Instant,
    heard: Instant,
    asked: Instant,
    idle: Duration,
    pings: u64,
}

#[derive(Debug)]
enum State {
    Opening { give_up: Option<Instant> },
    Handshake { give_up: Instant, handshake: Box<Handshake> },
    Member(Stay),
    Waiting { until: Instant },
    Leaving { give_up: Instant },
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    state: State,
    backoff: Backoff,
    pinned: Option<PublicKey>,
}

impl Control {
    /// Asks for the connection.
    pub(crate) fn new(env: &mut Env) -> Self {
        env.push(Output::OpenControl);
        let backoff = Backoff::new(env.config.backoff);
        Self { state: State::Opening { give_up: None }, backoff, pinned: None }
    }

    pub(crate) fn is_member(&self) -> bool {
        matches!(self.state, State::Member(_))
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Opening { give_up } => *give_up,
            State::Handshake { give_up, .. } | State::Leaving { give_up } => Some(*give_up),
            State::Member(stay) => Some((stay.heard + stay.idle).min(stay.next_ping()).min(stay.renew_at)),
            State::Waiting { until } => Some(*until),
            State::Ended => None,
        }
    }

    /// The agent is made where no time is known: the clock of its first attempt starts with the
    /// first input.
    pub(crate) fn start_clock(&mut self, now: Instant) {
        if let State::Opening { give_up: give_up @ None } = &mut self.state {
            *give_up = Some(now + OPEN_TIMEOUT);
        }
    }

    pub(crate) fn opened(&mut self, env: &mut Env, now: Instant, local: SocketAddr, server: SocketAddr) {
        if !matches!(self.state, State::Opening { .. }) {
            return;
        }
        let (local, server) = (addr::unmap(local).ip(), addr::unmap(server).ip());
        let hello = hello(env, local);
        env.send(ClientMessage::Hello(Box::new(hello.clone())));
        let handshake = Box::new(Handshake { local, server, hello, challenge: None });
        self.state = State::Handshake { give_up: now + HANDSHAKE_TIMEOUT, handshake };
    }

    pub(crate) fn closed(&mut self, env: &mut Env, now: Instant) -> Step {
        match self.state {
            State::Opening { .. } | State::Handshake { .. } | State::Member(_) => self.lose(env, now, None),
            State::Leaving { .. } => self.end(env, Ended::Left),
            State::Waiting { .. } | State::Ended => Step::Quiet,
        }
    }

    pub(crate) fn leave(&mut self, env: &mut Env, now: Instant) -> Step {
        match self.state {
            State::Member(_) => {
                env.send(ClientMessage::Leave);
                self.state = State::Leaving { give_up: now + LEAVE_TIMEOUT };
                Step::Quiet
            }
            State::Opening { .. } | State::Handshake { .. } | State::Waiting { .. } => {
                self.end(env, Ended::Left)
            }
            State::Leaving { .. } | State::Ended => Step::Quiet,
        }
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) -> Step {
        match &mut self.state {
            State::Opening { give_up: Some(give_up) } | State::Handshake { give_up, .. }
                if *give_up <= now =>
            {
                return self.lose(env, now, None);
            }
            State::Member(stay) if stay.heard + stay.idle <= now => {
                return self.lose(env, now, Some(Refusal::new(Code::TooSlow)));
            }
            State::Member(stay) if stay.renew_at <= now => {
                self.backoff.reset();
                env.push(Output::OpenControl);
                self.state = State::Opening { give_up: Some(now + OPEN_TIMEOUT) };
                return Step::Lost;
            }
            State::Member(stay) if stay.next_ping() <= now => {
                stay.pings += 1;
                stay.asked = now;
                env.send(ClientMessage::Ping { seq: stay.pings });
            }
            State::Waiting { until } if *until <= now => {
                env.push(Output::OpenControl);
                self.state = State::Opening { give_up: Some(now + OPEN_TIMEOUT) };
            }
            State::Leaving { give_up } if *give_up <= now => return self.end(env, Ended::Left),
            _ => {}
        }
        Step::Quiet
    }

    pub(crate) fn message(&mut self, env: &mut Env, now: Instant, message: ServerMessage) -> Step {
        match (&mut self.state, message) {
            (State::Ended | State::Waiting { .. } | State::Opening { .. }, _) => {
                env.counters.control_refused += 1;
                Step::Quiet
            }
            (State::Leaving { .. }, ServerMessage::Left) => self.end(env, Ended::Left),
            (State::Leaving { .. }, _) => Step::Quiet,
            (_, ServerMessage::Rejected(refusal) | ServerMessage::Closing(refusal)) => {
                self.refused(env, now, refusal)
            }
            (State::Handshake { handshake, .. }, ServerMessage::Challenge { nonce, cluster_key }) => {
                let pinned = self.pinned;
                match handshake.challenged(env, pinned, &nonce, cluster_key) {
                    Ok(()) => Step::Quiet,
                    Err(refusal) => self.distrust(env, now, refusal),
                }
            }
            (State::Handshake { handshake, .. }, ServerMessage::Welcome(welcome)) => {
                let checked = handshake.welcomed(env, now, *welcome);
                self.welcomed(env, now, checked)
            }
            (State::Member(stay), message) => {
                stay.heard = now;
                stay.message(env, message)
            }
            (State::Handshake { .. }, ServerMessage::Unknown) => Step::Quiet,
            (State::Handshake { .. }, _) => self.distrust(env, now, Refusal::new(Code::OutOfOrder)),
        }
    }

    fn welcomed(
        &mut self,
        env: &mut Env,
        now: Instant,
        checked: Result<(Membership, Duration), Refusal>,
    ) -> Step {
        let (mut membership, idle) = match checked {
            Ok(checked) => checked,
            Err(refusal) if refusal.code == Code::ClusterTypeMismatch => {
                return self.refused(env, now, refusal);
            }
            Err(refusal) => return self.distrust(env, now, refusal),
        };
        membership.again = self.pinned.replace(membership.cluster_key).is_some();
        let varied = RENEW_AFTER + RENEW_SPREAD * f64::from(env.rng.next_u32()) / f64::from(u32::MAX);
        let renew_at = now + membership.lifetime.mul_f64(varied).max(MIN_STAY);
        self.state = State::Member(Stay { since: now, renew_at, heard: now, asked: now, idle, pings: 0 });
        Step::Joined(Box::new(membership))
    }

    /// The server broke the protocol or could not prove itself: not a verdict on this node.
    fn distrust(&mut self, env: &mut Env, now: Instant, refusal: Refusal) -> Step {
        env.counters.control_refused += 1;
        self.lose(env, now, Some(refusal))
    }

    fn refused(&mut self, env: &mut Env, now: Instant, refusal: Refusal) -> Step {
        if FINAL.contains(&refusal.code) {
            return self.end(env, Ended::Rejected(refusal));
        }
        self.lose(env, now, Some(refusal))
    }

    /// The node can't be a member of what its cluster has become.
    pub(crate) fn quit(&mut self, env: &mut Env, refusal: Refusal) -> Step {
        self.end(env, Ended::Rejected(refusal))
    }

    fn lose(&mut self, env: &mut Env, now: Instant, refusal: Option<Refusal>) -> Step {
        let was_member = match &self.state {
            State::Member(stay) => {
                if now.saturating_duration_since(stay.since) >= STABLE_AFTER {
                    self.backoff.reset();
                }
                true
            }
            _ => false,
        };
        let ordered = refusal.as_ref().and_then(|refusal| refusal.retry_after_ms).unwrap_or(0);
        let ordered = Duration::from_millis(ordered).min(MAX_RETRY_AFTER);
        let retry_in = ordered + self.backoff.next_delay(&mut env.rng);
        env.push(Output::CloseControl);
        env.event(Event::Disconnected { refusal, retry_in });
        self.state = State::Waiting { until: now + retry_in };
        if was_member { Step::Lost } else { Step::Quiet }
    }

    fn end(&mut self, env: &mut Env, ended: Ended) -> Step {
        env.push(Output::CloseControl);
        self.state = State::Ended;
        env.push(Output::Ended(ended));
        Step::Quiet
    }
}

impl Stay {
    fn next_ping(&self) -> Instant {
        self.heard.max(self.asked) + self.idle / PINGS_PER_IDLE
    }

    fn message(&mut self, env: &mut Env, message: ServerMessage) -> Step {
        match message {
            ServerMessage::Ping { seq } => {
                env.send(ClientMessage::Pong { seq });
                Step::Quiet
            }
            ServerMessage::Pong { .. } | ServerMessage::Unknown => Step::Quiet,
            ServerMessage::Challenge { .. } | ServerMessage::Welcome(_) | ServerMessage::Left => {
                env.counters.control_refused += 1;
                Step::Quiet
            }
            message => Step::Deliver(message),
        }
    }
}

impl Handshake {
    /// Proves the node, to a server that shows the right cluster key.
    fn challenged(
        &mut self,
        env: &mut Env,
        pinned: Option<PublicKey>,
        nonce: &Nonce,
        cluster_key: PublicKey,
    ) -> Result<(), Refusal> {
        if self.challenge.is_some() {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        if pinned.is_some_and(|pinned| pinned != cluster_key) {
            let detail = "the server shows another cluster key than before";
            return Err(Refusal::new(Code::BadSignature).detail(detail));
        }
        let transcript = Transcript::new(&self.hello, nonce, &cluster_key);
        let admission = env.config.token.as_ref();
        let proof = Proof {
            node: transcript.sign(Domain::Node, &env.config.key),
            admission: admission.map(|token| transcript.sign(Domain::Admission, &token.signing_key())),
        };
        env.send(ClientMessage::Proof(proof));
        self.challenge = Some((transcript, cluster_key));
        Ok(())
    }

    fn welcomed(&self, env: &Env, now: Instant, welcome: Welcome) -> Result<(Membership, Duration), Refusal> {
        let Some((transcript, cluster_key)) = &self.challenge else {
            return Err(Refusal::new(Code::OutOfOrder));
        };
        if !transcript.verify(Domain::Welcome, cluster_key, &welcome.signature) {
            let detail = "the welcome is not signed by the cluster's key";
            return Err(Refusal::new(Code::BadSignature).detail(detail));
        }
        let clock = ServerClock { at: now, unix_ms: welcome.now_unix_ms };
        let certificate = Certificate::verify(&welcome.certificate, cluster_key, clock.unix_s(now))
            .map_err(|error| Refusal::new(Code::BadSignature).detail(error))?;
        let config = &env.config;
        if (&certificate.cluster, &certificate.name) != (&config.cluster, &config.name)
            || certificate.node != self.hello.node_id
        {
            let detail = "the membership certificate is not this node's";
            return Err(Refusal::new(Code::BadSignature).detail(detail));
        }
        if config.expect.is_some_and(|expect| expect != welcome.kind) {
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(welcome.kind));
        }
        if welcome.kind == ClusterNetwork::Private && welcome.effective == EffectiveNetwork::Public {
            let detail = "a PRIVATE cluster can't be effectively PUBLIC";
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(detail));
        }
        let is_public = welcome.effective == EffectiveNetwork::Public;
        let idle = Duration::from_millis(u64::from(welcome.idle_timeout_ms));
        let lifetime_s = certificate.not_after_unix_s.saturating_sub(clock.unix_s(now)).min(MAX_LIFETIME_S);
        let membership = Membership {
            lifetime: Duration::from_secs(lifetime_s),
            kind: welcome.kind,
            effective: welcome.effective,
            cluster_key: *cluster_key,
            clock,
            local: self.local,
            server: self.server,
            stun: welcome.stun.filter(|_| is_public && !env.sealed()),
            again: false,
        };
        Ok((membership, idle.clamp(IDLE_RANGE.0, IDLE_RANGE.1)))
    }
}

fn hello(env: &mut Env, local_ip: IpAddr) -> Hello {
    let nonce = Nonce::from_bytes(env.random());
    let config = &env.config;
    Hello {
        protocol: PROTOCOL_VERSION,
        cluster: config.cluster.to_string(),
        name: config.name.to_string(),
        node_id: NodeId::from(&config.key),
        nonce,
        token: config.token.as_ref().map(meetpoint_proto::JoinToken::id),
        declared: config.declared,
        node_addr: config.node_addr,
        local_ip,
        expect: config.expect,
        ephemeral: config.ephemeral,
        version: config.version.clone(),
    }
}
