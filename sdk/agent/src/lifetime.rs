//! Measures for how long the NAT keeps a mapping that nothing passes by (RFC 5780, section 4.6).
//!
//! A socket of its own has a mapping made and falls silent. Then the main socket asks the server to answer to that
//! mapping's port (RESPONSE-PORT): what arrives shows that the NAT has remembered, and whom it lets in as well. A
//! question at the end of each silence narrows the bounds, until they are close or there have been enough.
//!
//! Silence is an answer here, so it has to be trusted: it counts only if the same question is answered just after, with
//! a fresh mapping. Where the server or the NAT does not play along from the start, nothing is said.
//!
//! A NAT that has restarted meanwhile, or gives out other mappings now and then, has forgotten for another reason than
//! silence: if the main socket's mapping is another one since, the trial is made again.
//!
//! A mapping that has carried packets both ways for some seconds is kept for longer by many NATs (Linux among them),
//! and it is such mappings that a node has: the socket speaks twice before it falls silent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::{Filtering, Mapping, NatBehavior};

use crate::agent::{Agent, Timer};
use crate::api::Output;
use crate::discover::Discovery;
use crate::env::{Env, whole_seconds};
use crate::stun::{self, Class, Datagram, TransactionId};

/// After the discovery, before the first question: what else a node does at its start comes first.
const HEAD_START: Duration = Duration::from_secs(30);
/// For the shell to make the socket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The bounds at first. What forgets sooner can't be kept alive anyway, and what remembers for longer needs no more.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(240));
/// Bounds that are closer than this are good enough.
const CLOSE: f64 = 1.25;
/// Silences, at most: six halvings of the bounds' logarithms are more than is needed.
const MAX_TRIALS: u32 = 6;
/// So often a silence is tried again in which the NAT has moved the node. One that does so more often than this is long
/// is as good as one that forgets it.
const MAX_REPEATS: u32 = 2;
/// Between the two exchanges before a silence; Linux takes a mapping that is in use after 2 s for a lasting one.
const PRIMING: Duration = Duration::from_secs(3);
/// When copies of a question are sent, counted from the first, and until when an answer counts.
const COPIES_MS: [u64; 3] = [0, 300, 800];
const PATIENCE: Duration = Duration::from_millis(2_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Instant,
    },
    Opening {
        give_up: Instant,
    },
    /// The silent socket has its mapping made, for the second time if so.
    Priming {
        is_second: bool,
    },
    /// Until the second exchange.
    Pausing {
        until: Instant,
    },
    /// Nothing is said until then.
    Silent {
        until: Instant,
        port: u16,
    },
    /// The main socket has the server answer to this port.
    Asking {
        port: u16,
    },
    Done,
}

/// A question of which copies are sent.
#[derive(Debug, Clone, Copy)]
struct Question {
    id: TransactionId,
    asked: Instant,
    sent: usize,
}

impl Question {
    fn deadline(&self) -> Instant {
        let next = COPIES_MS.get(self.sent).map(|ms| Duration::from_millis(*ms));
        self.asked + next.unwrap_or(PATIENCE)
    }
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Lifetime {
    server: SocketAddr,
    hint: Option<Duration>,
    phase: Phase,
    question: Option<Question>,
    /// The silence on trial; `None`: whether the question is answered at all.
    silence: Option<Duration>,
    /// A silence that was not answered, until the control says whether that counts.
    doubted: Option<Duration>,
    remembered: Option<Duration>,
    forgotten: Duration,
    trials: u32,
    /// How often this node had been moved when the silence began.
    rebound: u64,
    /// How often the silence on trial was tried again.
    repeats: u32,
    /// A copy of the question after a silence was needed: the NAT may have moved the node.
    is_suspicious: bool,
}

impl Lifetime {
    /// Begins after a while. `server`'s address is resolved, and UDP reaches it. What somebody else has measured is
    /// tried first, and then a little more than that: if it is right, two silences are enough.
    pub(crate) fn new(now: Instant, server: SocketAddr, hint: Option<Duration>) -> Self {
        Self {
            hint: hint.filter(|hint| (BOUNDS.0..=BOUNDS.1).contains(hint)),
            server,
            phase: Phase::Waiting { until: now + HEAD_START },
            question: None,
            silence: None,
            doubted: None,
            remembered: None,
            forgotten: BOUNDS.1,
            trials: 0,
            rebound: 0,
            repeats: 0,
            is_suspicious: false,
        }
    }

    /// True, once, when it should be looked whether the NAT has moved the node.
    fn take_suspicion(&mut self) -> bool {
        std::mem::take(&mut self.is_suspicious)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The longest silence that the NAT has remembered.
    pub(crate) fn remembered(&self) -> Option<Duration> {
        self.remembered
    }

    /// The shortest that it has forgotten; `None` if it has forgotten none.
    pub(crate) fn forgotten(&self) -> Option<Duration> {
        (self.forgotten < BOUNDS.1).then_some(self.forgotten)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } | Phase::Pausing { until } | Phase::Silent { until, .. } => Some(until),
            Phase::Opening { give_up } => Some(give_up),
            Phase::Priming { .. } | Phase::Asking { .. } => self.question.map(|question| question.deadline()),
            Phase::Done => None,
        }
    }

    /// The socket is there, or there is none.
    pub(crate) fn opened(&mut self, env: &mut Env, now: Instant, is_there: bool) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        if is_there { self.prime(env, now, false) } else { self.stop(env) }
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Waiting { .. } => {
                env.push(Output::OpenProbe { ipv6: self.server.is_ipv6() });
                self.phase = Phase::Opening { give_up: now + OPEN_TIMEOUT };
            }
            Phase::Pausing { .. } => self.prime(env, now, true),
            Phase::Silent { port, .. } => self.ask(env, now, port),
            Phase::Priming { .. } | Phase::Asking { .. } => self.repeat(env, now),
            Phase::Opening { .. } | Phase::Done => self.stop(env),
        }
    }

    /// Takes a datagram of the silent socket.
    pub(crate) fn handle(
        &mut self,
        env: &mut Env,
        now: Instant,
        source: SocketAddr,
        datagram: &Datagram<'_>,
    ) {
        let is_answer = self.question.is_some_and(|question| question.id == datagram.id());
        if !is_answer || source != self.server || datagram.class() != Class::Success {
            env.counters.unsolicited += 1;
            return;
        }
        match (self.phase, datagram.mapped()) {
            (Phase::Priming { is_second: false }, Some(_)) if self.silence.is_some() => {
                self.question = None;
                self.phase = Phase::Pausing { until: now + PRIMING };
            }
            (Phase::Priming { .. }, Some(mapped)) => {
                self.question = None;
                match self.silence {
                    Some(silence) => {
                        self.rebound = env.counters.rebound;
                        self.phase = Phase::Silent { until: now + silence, port: mapped.port() };
                    }
                    None => self.ask(env, now, mapped.port()),
                }
            }
            (Phase::Asking { .. }, _) => self.answered(env, now),
            _ => {}
        }
    }

    fn prime(&mut self, env: &mut Env, now: Instant, is_second: bool) {
        self.phase = Phase::Priming { is_second };
        self.begin(env, now);
    }

    fn ask(&mut self, env: &mut Env, now: Instant, port: u16) {
        self.phase = Phase::Asking { port };
        self.begin(env, now);
    }

    fn begin(&mut self, env: &mut Env, now: Instant) {
        self.question = Some(Question { id: env.transaction_id(), asked: now, sent: 0 });
        self.repeat(env, now);
    }

    /// Sends the next copy, or takes silence for an answer.
    fn repeat(&mut self, env: &mut Env, now: Instant) {
        let Some(question) = &mut self.question else { return };
        if question.sent == COPIES_MS.len() {
            return self.unanswered(env, now);
        }
        question.sent += 1;
        let id = question.id;
        let is_asking = matches!(self.phase, Phase::Asking { .. });
        self.is_suspicious |= is_asking && self.silence.is_some() && question.sent == 2;
        match self.phase {
            Phase::Asking { port } => {
                env.transmit_main(now, self.server, stun::binding_answered_at(id, port));
            }
            _ => env.transmit_probe(self.server, stun::binding(id)),
        }
    }

    fn answered(&mut self, env: &mut Env, now: Instant) {
        if let Some(silence) = self.silence {
            self.remembered = Some(silence);
        } else if let Some(doubted) = self.doubted.take() {
            if env.counters.rebound > self.rebound && self.repeats < MAX_REPEATS {
                self.repeats += 1;
                self.silence = Some(doubted);
                return self.prime(env, now, false);
            }
            self.forgotten = doubted;
        }
        self.next_trial(env, now);
    }

    /// After a silence that means something, if the control is answered; else that there is nothing to be learnt.
    fn unanswered(&mut self, env: &mut Env, now: Instant) {
        match (self.phase, self.silence.take()) {
            (Phase::Asking { .. }, Some(silence)) => {
                self.doubted = Some(silence);
                self.prime(env, now, false);
            }
            _ => self.stop(env),
        }
    }

    fn next_trial(&mut self, env: &mut Env, now: Instant) {
        let low = self.remembered.unwrap_or(BOUNDS.0).as_secs_f64();
        let high = self.forgotten.as_secs_f64();
        // The bounds are rounded to nanoseconds.
        if high <= low * CLOSE + 1e-3 || self.trials >= MAX_TRIALS {
            return self.stop(env);
        }
        self.trials += 1;
        self.repeats = 0;
        let middle = Duration::from_secs_f64((low * high).sqrt());
        self.silence = Some(match self.hint {
            Some(hint) if self.remembered.is_none() && self.forgotten > hint => hint,
            Some(hint) if self.remembered == Some(hint) && self.trials == 2 => hint.mul_f64(CLOSE),
            Some(_) | None => middle,
        });
        self.prime(env, now, false);
    }

    pub(crate) fn stop(&mut self, env: &mut Env) {
        if !matches!(self.phase, Phase::Waiting { .. } | Phase::Done) {
            env.push(Output::CloseProbe);
        }
        self.phase = Phase::Done;
        self.question = None;
    }
}

impl Agent {
    /// A discovery is over: what a NAT or a firewall remembers is measured, once in each network.
    pub(crate) fn discovered(&mut self, now: Instant, discovery: &Discovery) {
        let (found, server) = discovery.found();
        if !discovery.is_complete() {
            return;
        }
        self.behavior = Some(found);
        let is_known = self.env.keepalive.lifetime().is_some();
        if !is_known && can_forget(&found) && !self.observers.is_empty() {
            let hint = self.membership.as_ref().and_then(|membership| membership.hint?.lifetime_s);
            let hint = hint.map(|seconds| Duration::from_secs(seconds.into()));
            let lifetime = Lifetime::new(now, server, hint);
            self.timers.set(Timer::Lifetime, lifetime.deadline());
            self.lifetime = Some(lifetime);
        }
    }

    /// Does what is due of the measurement.
    pub(crate) fn run_lifetime(&mut self, now: Instant) {
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.handle_timeout(&mut self.env, now);
            if lifetime.take_suspicion() {
                self.suspect_mappings(now);
            }
        }
        self.end_lifetime();
    }

    pub(crate) fn silent_socket_opened(&mut self, now: Instant, is_there: bool) {
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.opened(&mut self.env, now, is_there);
        }
        self.end_lifetime();
    }

    pub(crate) fn silent_socket_heard(&mut self, now: Instant, source: SocketAddr, datagram: &Datagram<'_>) {
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.handle(&mut self.env, now, source, datagram);
        }
        self.end_lifetime();
    }

    /// Sets the clock of the measurement; when it is over, tells what it has shown.
    fn end_lifetime(&mut self) {
        self.timers.set(Timer::Lifetime, self.lifetime.as_ref().and_then(Lifetime::deadline));
        let Some(done) = self.lifetime.take_if(|lifetime| lifetime.is_done()) else { return };
        match (done.remembered(), done.forgotten()) {
            (Some(life), _) => self.env.keepalive.measured(life),
            (None, Some(silence)) => self.env.keepalive.moved_after(silence),
            (None, None) => {}
        }
        if let (Some(behavior), Some(life)) = (&mut self.behavior, done.remembered()) {
            behavior.lifetime_s = Some(whole_seconds(life));
            self.tell_behavior();
        }
    }

    pub(crate) fn stop_lifetime(&mut self) {
        if let Some(mut lifetime) = self.lifetime.take() {
            lifetime.stop(&mut self.env);
        }
        self.timers.set(Timer::Lifetime, None);
    }
}

/// Something is in front of the node that lets in what it remembers only.
fn can_forget(behavior: &NatBehavior) -> bool {
    match behavior.mapping {
        None => false,
        Some(Mapping::None) => {
            behavior.filtering.is_some_and(|filtering| filtering != Filtering::EndpointIndependent)
        }
        Some(Mapping::EndpointIndependent | Mapping::AddressDependent | Mapping::AddressAndPortDependent) => {
            true
        }
    }
}
