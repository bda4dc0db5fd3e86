//! Has the main socket's mapping observed by the server, and keeps it alive.
//!
//! Bindings go to the server's primary address and to no other: a packet of the main socket to the
//! alternate address would open an address-restricted NAT for the very dial-back that is to prove
//! that the node can be reached unasked.
//!
//! The first Binding only names the user, and the server challenges it (RFC 8489, section 9.2.4);
//! all later ones carry the nonce, so the server sees one that was delivered to that very source.
//!
//! What only looks whether the mapping is still the same says a fifth of that: a plain Binding, whose answer nothing
//! protects. If it names another mapping, or does not come, it is asked in the other manner, and only that answer is
//! believed. A nonce is good for the source that it was made for, so after a move the first of those names only the
//! user, as the very first one did.
//!
//! The answers name the mapping. Another one than before means that the NAT has forgotten the node or was restarted:
//! no peer reaches it where it used to be.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::NatBehavior;
use meetpoint_proto::wire::{ClientMessage, StunAccess};

use crate::agent::{Agent, Timer, stun_servers};
use crate::api::Event;
use crate::backoff::scale;
use crate::env::Env;
use crate::stun::{self, Class, Credential, Datagram, TransactionId};

/// First retransmission. RFC 8489, section 6.2.1 suggests 500 ms and allows less; a node that
/// joins waits for the answer.
const FIRST_RTO: Duration = Duration::from_millis(200);
/// Each wait grows up to here. Two exchanges must succeed within the server's patience of 5 s, even
/// where a quarter of all packets gets lost; a doubling wait fails there for one node in fifty.
const MAX_RTO: Duration = Duration::from_millis(300);
/// Transmissions of one request (RFC 8489 calls it Rc and has 7): 4.4 s.
const MAX_SENDS: u32 = 15;
/// Between two attempts when nothing answers: UDP may be let through later.
const RETRY: Duration = Duration::from_secs(10);
/// Challenges answered in a row; more means that the credential is not accepted.
const MAX_CHALLENGES: u32 = 3;

/// The part of the keepalive's interval after which the node looks at its mapping when a peer has checked: the next
/// check comes after nine tenths of it at the earliest.
const BEFORE_NEXT_CHECK: f64 = 0.85;

#[derive(Debug)]
enum State {
    /// The next request is due then.
    Idle { until: Instant },
    /// A request is under way; a plain one, to see whether anything has changed.
    Asking { id: TransactionId, sent: u32, again_at: Instant, is_plain: bool },
}

/// What a datagram was to an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing: it is somebody else's.
    Foreign,
    /// It belongs to it.
    Taken,
    /// It belongs to it, and the mapping is another one than before.
    Moved,
}

/// One address family's observation.
#[derive(Debug)]
pub(crate) struct Observer {
    server: SocketAddr,
    username: String,
    password: String,
    credential: Option<Credential>,
    challenges: u32,
    /// The server was seen to give the node another mapping than the one that the challenge came to.
    is_outdated: bool,
    state: State,
    /// Nothing has answered so many transmissions, and nothing since.
    is_silent: bool,
    /// The mapping, and when the server last named it.
    mapped: Option<(SocketAddr, Instant)>,
    /// Shortly before a peer's next check, if that is known.
    before_check: Option<Instant>,
}

impl Observer {
    pub(crate) fn new(now: Instant, server: SocketAddr, username: String, password: String) -> Self {
        let state = State::Idle { until: now };
        Self {
            server,
            username,
            password,
            credential: None,
            challenges: 0,
            is_outdated: false,
            state,
            is_silent: false,
            mapped: None,
            before_check: None,
        }
    }

    /// What the server's challenge and this user make; whoever sends by the same socket can use it too.
    pub(crate) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// No UDP of this family gets to the server, or none back.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The mapping that the server named last.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        self.mapped.map(|(mapped, _)| mapped)
    }

    pub(crate) fn deadline(&self) -> Instant {
        match self.state {
            State::Idle { until, .. } => until,
            State::Asking { again_at, .. } => again_at,
        }
    }

    /// Looks by then at the latest; does it already, that is as good.
    pub(crate) fn look_by(&mut self, at: Instant) {
        if let State::Idle { until } = &mut self.state {
            *until = at.min(*until);
        }
    }

    /// Looks then, and before if the mapping would not be seen for longer than it may; at once only if it is about to.
    fn look_at(&mut self, now: Instant, at: Instant, longest: Duration) {
        self.before_check = Some(at);
        if let (State::Idle { until }, Some((_, heard))) = (&mut self.state, self.mapped)
            && *until > now
        {
            *until = at.min(heard + longest);
        }
    }

    /// The server has named the mapping since then, or so little before.
    pub(crate) fn has_looked_since(&self, then: Instant, before: Duration) -> bool {
        self.mapped.is_some_and(|(_, heard)| heard + before >= then)
    }

    /// Asks at once: the network is another one, and so may be the mapping.
    pub(crate) fn refresh(&mut self, now: Instant) {
        self.state = State::Idle { until: now };
        self.mapped = None;
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) {
        match self.state {
            State::Idle { until } if until <= now => {
                let is_plain = self.credential.is_some() && self.mapped.is_some();
                self.ask(env, now, is_plain);
            }
            State::Asking { sent, again_at, .. } if again_at <= now && sent >= MAX_SENDS => {
                self.is_silent = true;
                self.rest(env, now, RETRY);
            }
            // Plain questions of too many behind one address are not answered; these are.
            State::Asking { again_at, is_plain: true, .. } if again_at <= now => self.ask(env, now, false),
            State::Asking { id, sent, again_at, .. } if again_at <= now => self.transmit(env, now, id, sent),
            State::Idle { .. } | State::Asking { .. } => {}
        }
    }

    /// Takes a datagram, if it is for this observer.
    pub(crate) fn handle(
        &mut self,
        env: &mut Env,
        now: Instant,
        source: SocketAddr,
        datagram: &Datagram<'_>,
    ) -> Seen {
        let State::Asking { id, is_plain, .. } = self.state else { return Seen::Foreign };
        if source != self.server || datagram.id() != id {
            return Seen::Foreign;
        }
        self.is_silent = false;
        match (datagram.class(), datagram.error_code()) {
            (Class::Success, _) if is_plain => {
                if self.mapped().is_some_and(|known| datagram.mapped() != Some(known)) {
                    self.is_outdated = true;
                    self.ask(env, now, false);
                    return Seen::Taken;
                }
                let seen = self.compare(env, now, datagram.mapped());
                let refresh = env.keepalive.interval();
                self.rest(env, now, refresh);
                return seen;
            }
            (Class::Success, _) => {
                if self.credential.as_ref().is_some_and(|credential| datagram.verify(credential.key())) {
                    self.challenges = 0;
                    let seen = self.compare(env, now, datagram.mapped());
                    let refresh = env.keepalive.interval();
                    self.rest(env, now, refresh);
                    return seen;
                }
            }
            (Class::Error, Some(401 | 438)) => self.challenged(env, now, datagram),
            (Class::Error, _) => self.rest(env, now, RETRY),
            (Class::Request | Class::Indication, _) => return Seen::Foreign,
        }
        Seen::Taken
    }

    /// Notes the mapping; protected by the credential, so nobody else has named it.
    fn compare(&mut self, env: &mut Env, now: Instant, mapped: Option<SocketAddr>) -> Seen {
        let Some(mapped) = mapped else { return Seen::Taken };
        let Some((before, heard)) = self.mapped.replace((mapped, now)) else { return Seen::Taken };
        let silence = now.saturating_duration_since(heard);
        if before == mapped {
            env.keepalive.held_for(silence);
            return Seen::Taken;
        }
        env.keepalive.moved_after(silence);
        Seen::Moved
    }

    fn challenged(&mut self, env: &mut Env, now: Instant, datagram: &Datagram<'_>) {
        self.credential = datagram.challenge(&self.username, &self.password);
        self.is_outdated = false;
        self.challenges += 1;
        if self.credential.is_none() || self.challenges > MAX_CHALLENGES {
            self.challenges = 0;
            self.rest(env, now, RETRY);
        } else {
            self.ask(env, now, false);
        }
    }

    fn ask(&mut self, env: &mut Env, now: Instant, is_plain: bool) {
        let id = env.transaction_id();
        if is_plain {
            env.transmit_main(now, self.server, stun::binding(id));
            self.state = State::Asking { id, sent: 1, again_at: now + FIRST_RTO, is_plain };
        } else {
            self.transmit(env, now, id, 0);
        }
    }

    fn transmit(&mut self, env: &mut Env, now: Instant, id: TransactionId, sent: u32) {
        let payload = match self.credential.as_ref().filter(|_| !self.is_outdated) {
            Some(credential) => stun::binding_authenticated(id, credential),
            None => stun::binding_named(id, &self.username),
        };
        env.transmit_main(now, self.server, payload);
        let again_at = now + if sent == 0 { FIRST_RTO } else { MAX_RTO };
        self.state = State::Asking { id, sent: sent + 1, again_at, is_plain: false };
    }

    /// Up to a tenth earlier, so that nodes which joined together do not ask together for ever.
    fn rest(&mut self, env: &mut Env, now: Instant, wait: Duration) {
        use rand_chacha::rand_core::Rng;
        let until = now + wait - scale(wait / 10, env.rng.next_u32());
        // Who has just looked waits: the check after that one is known of soon.
        let before_check = self.before_check.take().filter(|at| *at > now + wait / 4);
        self.state = State::Idle { until: before_check.map_or(until, |at| until.min(at)) };
    }
}

impl Agent {
    /// The NAT may have moved the mappings: has them observed now rather than at the next refresh.
    pub(crate) fn suspect_mappings(&mut self, now: Instant) {
        for (ipv6, observer) in &mut self.observers {
            observer.look_by(now);
            self.timers.set(Timer::Observe(*ipv6), Some(observer.deadline()));
        }
    }

    /// The network is another one: has the mappings observed now rather than at the next refresh.
    pub(crate) fn refresh_observations(&mut self, now: Instant) {
        for (ipv6, observer) in &mut self.observers {
            observer.refresh(now);
            self.timers.set(Timer::Observe(*ipv6), Some(observer.deadline()));
        }
    }

    pub(crate) fn start_observers(&mut self, now: Instant) {
        let Some(membership) = &self.membership else { return };
        let Some(StunAccess { username, password, .. }) = &membership.stun else { return };
        let servers = stun_servers(membership);
        let before = self.observers.len();
        for server in servers.iter().filter(|server| self.network.has_uplink(server.primary.is_ipv6())) {
            let ipv6 = server.primary.is_ipv6();
            if !self.observers.contains_key(&ipv6) {
                let observer = Observer::new(now, server.primary, username.clone(), password.clone());
                self.timers.set(Timer::Observe(ipv6), Some(observer.deadline()));
                self.observers.insert(ipv6, observer);
            }
        }
        if self.observers.len() > before {
            self.await_udp(now);
        }
    }

    pub(crate) fn observed(&mut self, now: Instant, source: SocketAddr, datagram: &Datagram<'_>) -> bool {
        let ipv6 = source.is_ipv6();
        let Some(observer) = self.observers.get_mut(&ipv6) else { return false };
        let seen = observer.handle(&mut self.env, now, source, datagram);
        self.timers.set(Timer::Observe(ipv6), Some(observer.deadline()));
        if seen != Seen::Foreign {
            self.udp_works(now);
            self.review_udp(now);
            self.review_nats();
        }
        if seen == Seen::Moved {
            self.rebound(now);
        }
        seen != Seen::Foreign
    }

    /// Tells whether UDP reaches the server at all, whenever that changes: while the control connection is there,
    /// silence of all families has no other cause.
    pub(crate) fn review_udp(&mut self, now: Instant) {
        let is_blocked = !self.observers.is_empty() && self.observers.values().all(Observer::is_silent);
        if is_blocked == self.behavior.is_some_and(|behavior| behavior.udp_blocked) {
            return;
        }
        self.behavior = Some(NatBehavior { udp_blocked: is_blocked, ..NatBehavior::default() });
        self.tell_behavior();
        if !is_blocked {
            self.discover_anew(now);
            self.hasten_upgrades(now);
        }
    }

    /// A check has just shown that all is well, and the next one comes when the NATs have to be reminded. If this
    /// node's NAT has moved it by then, it should know first: what follows from that costs less than checks that nobody
    /// answers, after which neither side knows whose NAT it was.
    pub(crate) fn observe_before_next_check(&mut self, now: Instant) {
        let interval = self.env.keepalive.interval();
        for (ipv6, observer) in &mut self.observers {
            observer.look_at(now, now + interval.mul_f64(BEFORE_NEXT_CHECK), interval);
            self.timers.set(Timer::Observe(*ipv6), Some(observer.deadline()));
        }
    }

    /// Tells the server and the application what is known of the network.
    pub(crate) fn tell_behavior(&mut self) {
        if let Some(behavior) = self.behavior.filter(|_| self.control.is_member()) {
            self.env.send(ClientMessage::Behavior { behavior });
            self.env.event(Event::Behavior(behavior));
        }
    }
}
