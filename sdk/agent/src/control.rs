//! The control connection: join, stay, come back.
//!
//! The node proves itself by two signatures over the join's transcript, and asks the same of the
//! server: the welcome must carry the cluster key's signature over that transcript. The key of the
//! first welcome is pinned for the process's life. A server that shows another one is not joined,
//! but tried again: whoever can only impersonate the server must not be able to end the node.
//!
//! Which server comes next is told by [`crate::servers`]. A final refusal of any of them ends the node, but for those
//! that only say that this server is not one for it (`LOCAL`): of several servers the others are asked then, and the
//! node ends when all have said so in one round.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::addr;
use meetpoint_proto::id::SessionToken;
use meetpoint_proto::wire::{
    CertificateText, ClientMessage, Refusal, Renewal, RevocationText, ServerMessage, StunAccess,
};
use meetpoint_proto::{ClusterNetwork, Code, EffectiveNetwork, NatBehavior, PublicKey};
use rand_chacha::rand_core::Rng;

use crate::api::{Ended, Event, Output, ServerRank};
use crate::backoff::{Backoff, scale};
use crate::env::{Env, ServerClock};
use crate::servers::Servers;

mod handshake;

use handshake::{Handshake, own_certificate};

/// From asking for the connection until it is open: a TCP and a TLS handshake over a bad link.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// A server has so long to open before the others are knocked at: more than two lost packets cost.
const HEAD_START: Duration = Duration::from_secs(3);
/// From open to welcome; the server gives a handshake 10 s as well.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(12);
/// From leave to the server's answer. Not longer: the process wants to exit.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A stay this long was no fluke: the next failure starts the backoff anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Bounds on the server's word about silence.
const IDLE_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// A node asks for a sign of life after half of the allowed silence; a server that lives asks more often. TCP has the
/// other half to repeat what was lost.
const PINGS_PER_IDLE: u32 = 2;
/// A membership is renewed when so much of it is over, varied by a tenth of it so that nodes that joined
/// together do not ask together.
const RENEW_AFTER: f64 = 0.6;
const RENEW_SPREAD: f64 = 0.1;
/// A server that does not answer is asked again after so much of the membership.
const RENEW_RETRY: f64 = 0.05;
/// By joining anew, if it never answers and so much is over.
const REJOIN_AFTER: f64 = 0.9;
/// A longer one counts as a year: an instant can't be put off for ever.
const MAX_LIFETIME_S: u64 = 365 * 24 * 60 * 60;
/// No renewal sooner than this, however short a membership the server gives.
const MIN_STAY: Duration = Duration::from_secs(60);
/// A delay that the server ordered is varied by this part of the first delay of our own.
const ORDERED_SPREAD: u32 = 4;
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
    Code::TokenScope,
    Code::NameNotAllowed,
    Code::BadSecret,
    Code::NotHome,
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

/// Final refusals that concern only the server that says so, if the node knows others: it does not serve this cluster,
/// or only its members and the node has no certificate yet, or it is of another version.
const LOCAL: &[Code] = &[Code::NotHome, Code::UnknownCluster, Code::ProtocolVersion];

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
    /// From hello to challenge: a round trip of the control connection, and what the server took for it.
    pub(crate) round_trip: Option<Duration>,
    /// From where the server saw it come.
    pub(crate) observed: IpAddr,
    /// Never there if the cluster is effectively PRIVATE or the node is sealed.
    pub(crate) stun: Option<StunAccess>,
    /// How long its certificate and its STUN credential hold.
    pub(crate) lifetime: Duration,
    /// Its certificate.
    pub(crate) certificate: CertificateText,
    /// Who is no member any more; not yet verified.
    pub(crate) revoked: Vec<RevocationText>,
    /// What the server has heard of the NAT that this node is behind.
    pub(crate) hint: Option<NatBehavior>,
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
    /// It goes on to be one.
    Renewed(Box<Renewal>),
    /// It was a member and lost the connection.
    Lost,
    /// A message for the rest of the agent.
    Deliver(ServerMessage),
}

#[derive(Debug)]
struct Stay {
    since: Instant,
    renewal: Option<RenewalPlan>,
    /// When a visitor looks whether its home is there again.
    knock_at: Option<Instant>,
    heard: Instant,
    asked: Instant,
    idle: Duration,
    pings: u64,
}

/// When to ask for a fresh certificate. A visitor asks for none: only its home server makes them.
#[derive(Debug)]
struct RenewalPlan {
    ask_at: Instant,
    retry: Duration,
    rejoin_at: Instant,
}

#[derive(Debug)]
enum State {
    /// At `race_at` the other servers are knocked at.
    Opening {
        give_up: Option<Instant>,
        race_at: Option<Instant>,
    },
    Handshake {
        give_up: Instant,
        handshake: Box<Handshake>,
    },
    Member(Stay),
    Waiting {
        until: Instant,
    },
    Leaving {
        give_up: Instant,
    },
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    state: State,
    backoff: Backoff,
    pinned: Option<PublicKey>,
    /// The server has welcomed this node before.
    was_member: bool,
    servers: Servers,
    give_up_after: Option<Duration>,
    /// Since when the node is no member; from its first input on.
    away_since: Option<Instant>,
}

impl Control {
    /// Asks for the connection.
    pub(crate) fn new(env: &mut Env, ranks: Vec<ServerRank>) -> Self {
        let mut servers = Servers::new(ranks, env.config.backoff);
        let server = servers.begin(None, &mut env.rng);
        env.push(Output::OpenControl { server });
        let backoff = Backoff::new(env.config.backoff);
        let give_up_after = env.config.backoff.give_up_after;
        let pinned = env.config.membership.as_ref().map(|membership| membership.cluster_key);
        let state = State::Opening { give_up: None, race_at: None };
        Self { state, backoff, pinned, was_member: false, servers, give_up_after, away_since: None }
    }

    pub(crate) fn is_member(&self) -> bool {
        matches!(self.state, State::Member(_))
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let next = self.next_step()?;
        Some(self.give_up_at().map_or(next, |at| at.min(next)))
    }

    /// When the node ends for want of a server.
    fn give_up_at(&self) -> Option<Instant> {
        match self.state {
            State::Opening { .. } | State::Handshake { .. } | State::Waiting { .. } => {
                Some(self.away_since? + self.give_up_after?)
            }
            State::Member(_) | State::Leaving { .. } | State::Ended => None,
        }
    }

    fn next_step(&self) -> Option<Instant> {
        match &self.state {
            State::Opening { give_up, race_at } => race_at.or(*give_up),
            State::Handshake { give_up, .. } | State::Leaving { give_up } => Some(*give_up),
            State::Member(stay) => {
                let next = (stay.heard + stay.idle).min(stay.next_ping());
                let renewal = stay.renewal.as_ref().map_or(next, |plan| plan.ask_at.min(plan.rejoin_at));
                let next = next.min(renewal);
                Some(stay.knock_at.map_or(next, |at| at.min(next)))
            }
            State::Waiting { until } => Some(*until),
            State::Ended => None,
        }
    }

    /// The agent is made where no time is known: the clock of its first attempt starts with the
    /// first input.
    pub(crate) fn start_clock(&mut self, now: Instant) {
        if let State::Opening { give_up: give_up @ None, race_at } = &mut self.state {
            (*give_up, *race_at) = (Some(now + OPEN_TIMEOUT), Some(now + HEAD_START));
            self.away_since = Some(now);
        }
    }

    /// The way to the server is another one. Connections from an address that the node has left are dead without a
    /// word, so a new one is opened at once, and a failure that another uplink may cure is forgotten.
    pub(crate) fn rerouted(&mut self, env: &mut Env, now: Instant, has_moved: bool) -> Step {
        match &mut self.state {
            State::Member(_) if has_moved => {
                self.open(env, now, self.servers.current());
                return Step::Lost;
            }
            State::Opening { .. } | State::Handshake { .. } if has_moved => {
                self.open(env, now, self.servers.current());
            }
            // The answer, or the lack of one, tells whether the connection has survived.
            State::Member(stay) => stay.ping(env, now),
            State::Waiting { until } if self.servers.is_any_free(now) => {
                self.backoff.reset();
                *until = now;
            }
            _ => {}
        }
        Step::Quiet
    }

    fn open(&mut self, env: &mut Env, now: Instant, server: usize) {
        env.push(Output::OpenControl { server });
        self.state = State::Opening { give_up: Some(now + OPEN_TIMEOUT), race_at: Some(now + HEAD_START) };
        self.away_since.get_or_insert(now);
    }

    pub(crate) fn opened(&mut self, env: &mut Env, now: Instant, local: SocketAddr, server: SocketAddr) {
        if !matches!(self.state, State::Opening { .. }) {
            return;
        }
        let (local, server) = (addr::unmap(local).ip(), addr::unmap(server).ip());
        let handshake = Box::new(Handshake::open(env, now, local, server, self.servers.resume()));
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
        if self.give_up_at().is_some_and(|at| at <= now) {
            return self.end(env, Ended::NoServer);
        }
        match &mut self.state {
            State::Opening { race_at, .. } if race_at.is_some_and(|at| at <= now) => {
                *race_at = None;
                for &server in self.servers.left() {
                    env.push(Output::Knock { server });
                }
            }
            State::Opening { give_up: Some(give_up), .. } | State::Handshake { give_up, .. }
                if *give_up <= now =>
            {
                return self.lose(env, now, None);
            }
            State::Member(stay) if stay.heard + stay.idle <= now => {
                return self.lose(env, now, Some(Refusal::new(Code::TooSlow)));
            }
            State::Member(Stay { renewal: Some(plan), .. }) if plan.rejoin_at <= now => {
                self.backoff.reset();
                self.open(env, now, self.servers.current());
                return Step::Lost;
            }
            State::Member(stay) if stay.knock_at.is_some_and(|at| at <= now) => {
                let (server, again) = self.servers.knock(now);
                stay.knock_at = Some(again);
                if let Some(server) = server {
                    env.push(Output::Knock { server });
                }
            }
            State::Member(Stay { renewal: Some(plan), .. }) if plan.ask_at <= now => {
                plan.ask_at = now + plan.retry;
                env.send(ClientMessage::Renew);
            }
            State::Member(stay) if stay.next_ping() <= now => {
                stay.ping(env, now);
            }
            State::Waiting { until } if *until <= now => {
                let server = self.servers.begin(Some(now), &mut env.rng);
                self.open(env, now, server);
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
            (
                State::Handshake { handshake, .. },
                ServerMessage::Challenge { nonce, cluster_key, server_key },
            ) => {
                let pinned = self.pinned;
                match handshake.challenged(env, now, pinned, &nonce, cluster_key, server_key) {
                    Ok(()) => Step::Quiet,
                    Err(refusal) => self.distrust(env, now, refusal),
                }
            }
            (State::Handshake { handshake, .. }, ServerMessage::Welcome(welcome)) => {
                let token = welcome.session_token;
                let is_visitor = handshake.is_visitor();
                let checked = handshake.welcomed(env, now, *welcome);
                self.welcomed(env, now, checked, is_visitor, token)
            }
            (State::Member(stay), ServerMessage::Certificate(renewal)) => {
                stay.heard = now;
                self.renewed(env, now, *renewal)
            }
            (State::Member(_), ServerMessage::Draining { in_ms }) => self.drained(env, now, in_ms),
            (State::Member(stay), message) => {
                stay.heard = now;
                stay.message(env, message)
            }
            (State::Handshake { .. }, ServerMessage::Unknown) => Step::Quiet,
            (State::Handshake { .. }, _) => self.distrust(env, now, Refusal::new(Code::OutOfOrder)),
        }
    }

    /// The server will be gone soon. Whoever knows another one goes there now, while its paths are as they were, and
    /// comes back when the server may be there again; whoever does not stays to the end.
    fn drained(&mut self, env: &mut Env, now: Instant, in_ms: u64) -> Step {
        let in_time = Duration::from_millis(in_ms).min(MAX_RETRY_AFTER);
        let Some(server) = self.servers.leave(now, now + in_time, &mut env.rng) else { return Step::Quiet };
        self.backoff.reset();
        self.open(env, now, server);
        Step::Lost
    }

    fn welcomed(
        &mut self,
        env: &mut Env,
        now: Instant,
        checked: Result<(Membership, Duration), Refusal>,
        is_visitor: bool,
        token: Option<SessionToken>,
    ) -> Step {
        let (mut membership, idle) = match checked {
            Ok(checked) => checked,
            Err(refusal) if refusal.code == Code::ClusterTypeMismatch => {
                return self.refused(env, now, refusal);
            }
            Err(refusal) => return self.distrust(env, now, refusal),
        };
        membership.again = std::mem::replace(&mut self.was_member, true);
        self.pinned = Some(membership.cluster_key);
        self.servers.welcomed(is_visitor, token);
        self.away_since = None;
        let renewal = (!is_visitor).then(|| RenewalPlan::new(env, now, membership.lifetime));
        tell_membership(env, membership.cluster_key, &membership.certificate);
        let base = env.config.backoff.base;
        let knock_at = if is_visitor { self.servers.next_knock(now, base, &mut env.rng) } else { None };
        self.state =
            State::Member(Stay { since: now, renewal, knock_at, heard: now, asked: now, idle, pings: 0 });
        Step::Joined(Box::new(membership))
    }

    /// Takes a fresh certificate, if it is one.
    fn renewed(&mut self, env: &mut Env, now: Instant, renewal: Renewal) -> Step {
        let (State::Member(stay), Some(cluster_key)) = (&mut self.state, self.pinned) else {
            return Step::Quiet;
        };
        // The server's clock has made it; how long it holds is all that counts here.
        let made_s = renewal.certificate.not_before_unix_s;
        let Ok(certificate) = own_certificate(env, &cluster_key, &renewal.certificate, made_s) else {
            env.counters.control_refused += 1;
            return Step::Quiet;
        };
        let lifetime_s = certificate.not_after_unix_s.saturating_sub(made_s).min(MAX_LIFETIME_S);
        stay.renewal = Some(RenewalPlan::new(env, now, Duration::from_secs(lifetime_s)));
        tell_membership(env, cluster_key, &renewal.certificate);
        Step::Renewed(Box::new(renewal))
    }

    /// The server broke the protocol or could not prove itself: not a verdict on this node.
    fn distrust(&mut self, env: &mut Env, now: Instant, refusal: Refusal) -> Step {
        env.counters.control_refused += 1;
        self.lose(env, now, Some(refusal))
    }

    fn refused(&mut self, env: &mut Env, now: Instant, refusal: Refusal) -> Step {
        if refusal.code == Code::SessionRevoked {
            self.servers.forget_session();
        }
        if LOCAL.contains(&refusal.code) && self.servers.are_several() {
            self.servers.is_unfit();
            return self.lose(env, now, Some(refusal));
        }
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
        let base = env.config.backoff.base;
        if ordered >= base {
            // The server has given this node its turn: that is no failure, and more than a little of our own would
            // lose it.
            self.servers.order(now + ordered + scale(base / ORDERED_SPREAD, env.rng.next_u32()));
        } else {
            self.servers.ask_patience(ordered);
        }
        if was_member {
            self.servers.end_round();
        } else if let Some(server) = self.servers.next() {
            env.push(Output::CloseControl);
            env.event(Event::Disconnected { refusal, retry_in: Duration::ZERO });
            self.open(env, now, server);
            return Step::Quiet;
        }
        if let Some(refusal) = refusal.as_ref().filter(|_| self.servers.are_all_unfit()) {
            return self.end(env, Ended::Rejected(refusal.clone()));
        }
        let retry_in = self.servers.wait(now, &mut self.backoff, &mut env.rng);
        env.push(Output::CloseControl);
        env.event(Event::Disconnected { refusal, retry_in });
        self.state = State::Waiting { until: now + retry_in };
        self.away_since.get_or_insert(now);
        if was_member { Step::Lost } else { Step::Quiet }
    }

    /// One more server of the cluster.
    pub(crate) fn add_server(&mut self, env: &mut Env, now: Instant, rank: ServerRank) {
        let Some(server) = self.servers.add(rank) else { return };
        match &mut self.state {
            State::Opening { .. } | State::Waiting { .. } => env.push(Output::Knock { server }),
            // A visitor that had nowhere else to knock has now.
            State::Member(stay) if stay.renewal.is_none() && stay.knock_at.is_none() => {
                stay.knock_at = self.servers.next_knock(now, env.config.backoff.base, &mut env.rng);
            }
            State::Handshake { .. } | State::Member(_) | State::Leaving { .. } | State::Ended => {}
        }
    }

    /// The home of a visitor is there again, or not; or, while none is there, a server has answered.
    pub(crate) fn knocked(&mut self, env: &mut Env, now: Instant, server: usize, ok: bool) -> Step {
        if matches!(self.state, State::Opening { .. } | State::Waiting { .. }) {
            if ok && self.servers.prefer(now, server) {
                self.open(env, now, server);
            }
            return Step::Quiet;
        }
        let State::Member(Stay { knock_at: knock_at @ Some(_), .. }) = &mut self.state else {
            return Step::Quiet;
        };
        if ok && self.servers.move_to(server) {
            self.open(env, now, server);
            return Step::Lost;
        }
        *knock_at = self.servers.next_knock(now, env.config.backoff.base, &mut env.rng);
        Step::Quiet
    }

    fn end(&mut self, env: &mut Env, ended: Ended) -> Step {
        env.push(Output::CloseControl);
        self.state = State::Ended;
        env.push(Output::Ended(ended));
        Step::Quiet
    }
}

impl Stay {
    fn ping(&mut self, env: &mut Env, now: Instant) {
        self.pings += 1;
        self.asked = now;
        env.send(ClientMessage::Ping { seq: self.pings });
    }

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
            ServerMessage::Challenge { .. }
            | ServerMessage::Welcome(_)
            | ServerMessage::Certificate(_)
            | ServerMessage::Left
            | ServerMessage::Draining { .. } => {
                env.counters.control_refused += 1;
                Step::Quiet
            }
            message => Step::Deliver(message),
        }
    }
}

impl RenewalPlan {
    fn new(env: &mut Env, now: Instant, lifetime: Duration) -> Self {
        let varied = RENEW_AFTER + RENEW_SPREAD * f64::from(env.rng.next_u32()) / f64::from(u32::MAX);
        Self {
            ask_at: now + lifetime.mul_f64(varied).max(MIN_STAY),
            retry: lifetime.mul_f64(RENEW_RETRY).max(MIN_STAY),
            rejoin_at: now + lifetime.mul_f64(REJOIN_AFTER).max(MIN_STAY),
        }
    }
}

fn tell_membership(env: &mut Env, cluster_key: PublicKey, certificate: &CertificateText) {
    let membership = meetpoint_proto::Membership { cluster_key, certificate: certificate.clone() };
    // What it shows to servers that are not the cluster's home.
    env.config.membership = Some(membership.clone());
    env.push(Output::Membership(Box::new(membership)));
}
