//! What STUN finds out about a member: from its observed mapping to its class.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::rules::{self, Discovery, Found, StunOutcome};
use meetpoint_proto::wire::{MAX_HOST_CANDIDATES, Refusal, ServerMessage};
use meetpoint_proto::{Code, EffectiveNetwork, Evidence, SessionId};

use crate::Broker;
use crate::api::{ConnId, Event, Output};
use crate::state::{DialBackRun, Mapping, Proof, Timer, Witnesses};

/// The slowest usual path.
const UNKNOWN_RTT: Duration = Duration::from_millis(400);

impl Broker {
    /// Has STUN decide, unless it is at it already.
    pub(crate) fn discover(&mut self, now: Instant, conn: ConnId, discovery: Discovery, row: &'static str) {
        let Some(session) = self.session_mut(conn) else { return };
        if session.discovery == Some(discovery) {
            return self.go_on(now, conn);
        }
        session.discovery = Some(discovery);
        session.dial_back = None;
        let is_new = session.observed.is_empty();
        if discovery.must_prove {
            self.must_prove(now, conn);
            if is_new {
                self.settle(conn, Found::new(discovery.answered, Evidence::Observed), row);
            }
        }
        if is_new {
            self.timers.set(Timer::Discovery(conn), Some(now + self.limits.observation_timeout));
        } else {
            self.go_on(now, conn);
        }
    }

    /// STUN has no say.
    pub(crate) fn stop_discovery(&mut self, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        session.discovery = None;
        session.dial_back = None;
        self.timers.set(Timer::Discovery(conn), None);
    }

    /// The STUN server authenticated a Binding of this session from this source.
    pub(crate) fn observed(&mut self, now: Instant, session: SessionId, source: SocketAddr) {
        let Some(&conn) = self.sessions.get(&session) else { return };
        let Some(session) = self.session(conn) else { return };
        let cluster = self.clusters.get(&session.cluster);
        if cluster.is_none_or(|cluster| cluster.config.effective == EffectiveNetwork::Private) {
            // A credential of the time when the cluster was PUBLIC.
            return;
        }
        let Some(session) = self.session_mut(conn) else { return };
        if session.mappings().any(|known| known == source) {
            return;
        }
        let is_first = !session.observed.iter().any(|known| known.addr.is_ipv4() == source.is_ipv4());
        session.observed.retain(|known| known.addr.is_ipv4() != source.is_ipv4());
        session.observed.push_front(Mapping { addr: source, proof: Proof::Untried });
        session.is_open = false;
        session.witnesses = Witnesses::default();
        session.forget_elsewhere();
        self.mapping_changed(now, conn);
        if is_first {
            self.first_seen(now, conn, source.is_ipv4());
        } else {
            self.seen_elsewhere(now, conn);
        }
        self.retry_own(now, conn);
        self.retry_waiting_for(now, conn);
    }

    /// Takes a lost proof back, and tries the next mapping that nobody has tried.
    fn go_on(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        if session.proven_reachable() && !session.has_proof() {
            self.conclude(now, conn);
        }
        let Some(session) = self.session(conn) else { return };
        let untried = session.reachable_at().find(|mapping| mapping.proof == Proof::Untried);
        if let Some(to) = untried.map(|mapping| mapping.addr) {
            self.dial_back(now, conn, to);
        }
    }

    /// Asks for proof that the mapping can be reached from a place it never sent to.
    fn dial_back(&mut self, now: Instant, conn: ConnId, to: SocketAddr) {
        let nonce = DialBackNonce::from_bytes(self.random());
        let (interval, timeout) = (self.limits.dial_back_interval, self.limits.dial_back_timeout);
        let Some(session) = self.session_mut(conn) else { return };
        if session.discovery.is_none() || session.dial_back.is_some() {
            return;
        }
        let next = session.last_dial_back.map_or(now, |last| last + interval);
        // A router's port is heard of just after the first dial-back, and is the likelier one: once it need not wait.
        let hurries = !session.has_hurried && session.mapped().any(|mapping| mapping.addr == to);
        if next > now && !hurries {
            self.timers.set(Timer::Discovery(conn), Some(next));
            return;
        }
        // The probe's way there and the node's word back; before the first pong a slow path is assumed.
        let timeout = timeout + session.ping.rtt.unwrap_or(UNKNOWN_RTT) * 2;
        session.has_hurried |= next > now;
        session.last_dial_back = Some(now);
        session.dial_back = Some(DialBackRun { nonce, to });
        if self.has_alternate(conn, to) {
            self.outputs.push_back(Output::DialBack { to, nonce });
            self.timers.set(Timer::Discovery(conn), Some(now + timeout));
        } else {
            // Nothing can be proven without a second address, so the verdict need not wait.
            self.discovery_timeout(now, conn);
        }
    }

    fn has_alternate(&self, conn: ConnId, to: SocketAddr) -> bool {
        let cluster = self.session(conn).and_then(|session| self.clusters.get(&session.cluster));
        cluster.is_some_and(|cluster| {
            let servers = &cluster.config.stun;
            servers.iter().any(|stun| stun.alternate.is_some_and(|ip| ip.is_ipv4() == to.is_ipv4()))
        })
    }

    /// A node says what a dial-back brought. It proves something of the mapping that it was sent to, and
    /// only while the node is still there.
    pub(crate) fn dial_back_seen(&mut self, now: Instant, conn: ConnId, nonce: DialBackNonce) {
        let Some(session) = self.session_mut(conn) else { return };
        let Some(run) = session.dial_back.take_if(|run| run.nonce == nonce) else { return };
        self.timers.set(Timer::Discovery(conn), None);
        self.note_proof(conn, run.to, Proof::Given);
        self.conclude(now, conn);
        self.seek_witness(now, conn);
        self.go_on(now, conn);
    }

    fn note_proof(&mut self, conn: ConnId, to: SocketAddr, proof: Proof) {
        let Some(session) = self.session_mut(conn) else { return };
        for mapping in session.observed.iter_mut().chain(&mut session.mapped) {
            if mapping.addr == to {
                mapping.proof = proof;
            }
        }
    }

    /// The observation or the dial-back is over, or the next dial-back is due.
    pub(crate) fn discovery_timeout(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        match session.dial_back.take() {
            Some(run) => {
                self.note_proof(conn, run.to, Proof::Missing);
                self.conclude(now, conn);
                self.go_on(now, conn);
            }
            None if session.observed.is_empty() => self.conclude(now, conn),
            None => self.go_on(now, conn),
        }
    }

    /// What is known of a member now makes it this.
    pub(crate) fn discovered(
        &self,
        conn: ConnId,
        discovery: Discovery,
    ) -> (&'static str, Result<Found, Code>) {
        let Some(session) = self.session(conn) else { return ("stun/no-answer", Err(Code::Unreachable)) };
        let outcome = match session.observed.is_empty() {
            true => StunOutcome::NoAnswer,
            false if session.has_proof() && session.is_open => StunOutcome::Unsolicited,
            false if session.has_proof() => StunOutcome::Proven,
            false => StunOutcome::Answered,
        };
        let cluster = self.clusters.get(&session.cluster);
        let admit_relayed = cluster.is_some_and(|cluster| cluster.config.admit_relayed);
        let (row, found) = rules::refine(discovery, outcome, admit_relayed);
        (row.name, found)
    }

    /// Judges by what was found. Whoever fails is out, or on probation: then it is tried again.
    fn conclude(&mut self, now: Instant, conn: ConnId) {
        let Some(discovery) = self.session(conn).and_then(|session| session.discovery) else { return };
        match self.discovered(conn, discovery) {
            (row, Ok(found)) => {
                self.passed(conn);
                self.settle(conn, found, row);
            }
            (row, Err(code)) => self.failed(now, conn, discovery, (code, row)),
        }
    }

    fn failed(
        &mut self,
        now: Instant,
        conn: ConnId,
        discovery: Discovery,
        (code, row): (Code, &'static str),
    ) {
        let interval = self.limits.dial_back_interval;
        if discovery.must_prove {
            self.must_prove(now, conn);
        }
        let Some(session) = self.session_mut(conn) else { return };
        if session.probation.is_none() {
            return self.refuse(now, conn, Refusal::new(code));
        }
        self.tell_probation(conn, (code, row));
        let Some(session) = self.session_mut(conn) else { return };
        if session.observed.is_empty() {
            return;
        }
        for mapping in session.observed.iter_mut().chain(&mut session.mapped) {
            mapping.proof = Proof::Untried;
        }
        let known = session.class;
        self.timers.set(Timer::Discovery(conn), Some(now + interval));
        let answered = Found::new(discovery.answered, Evidence::Observed);
        if known != Some(answered) {
            self.settle(conn, answered, row);
        }
    }

    /// An unsolicited check has reached a member that is proven to be reachable.
    pub(crate) fn opened_up(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        if session.proven_reachable() && session.has_proof() && !session.is_open {
            session.is_open = true;
            self.conclude(now, conn);
        }
    }

    /// Settles a class, and tells everybody whom it concerns.
    pub(crate) fn settle(&mut self, conn: ConnId, found: Found, row: &'static str) {
        let Some(session) = self.session_mut(conn) else { return };
        let is_news = session.class != Some(found);
        session.class = Some(found);
        let observed = session.mappings().next();
        let Found { class, evidence, relayed } = found;
        let (cluster, node) = (session.cluster.clone(), session.node);
        self.send(conn, ServerMessage::Classified { class, evidence, observed, relayed });
        let event = Event::Classified { cluster, node, class, evidence, observed, relayed, row };
        self.outputs.push_back(Output::Event(event));
        if is_news {
            self.announce(conn);
        }
    }

    /// Takes a node's own addresses, and those that its router has mapped. Of its own only such as can lie on a link
    /// are believed; public ones must have been observed. What is mapped counts while its IP is observed, which may
    /// come later.
    pub(crate) fn candidates(
        &mut self,
        now: Instant,
        conn: ConnId,
        hosts: Vec<SocketAddr>,
        mapped: Vec<SocketAddr>,
    ) {
        let Some(session) = self.session_mut(conn) else { return };
        let has_mapped_anew = session.take_mapped(mapped);
        let fits = |addr: &SocketAddr| {
            addr.port() != 0
                && match addr::classify(addr.ip()) {
                    AddressClass::Loopback | AddressClass::Private => true,
                    AddressClass::Public => session.has_observed(addr.ip()),
                    AddressClass::Special => false,
                }
        };
        let hosts: Vec<SocketAddr> =
            hosts.into_iter().map(addr::unmap).filter(fits).take(MAX_HOST_CANDIDATES).collect();
        session.hosts = hosts;
        if has_mapped_anew {
            self.mapping_changed(now, conn);
        }
        self.retry_own(now, conn);
        self.retry_waiting_for(now, conn);
    }
}
