//! What a member is: from its observed mapping to its class.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::rules::{self, Admission, PROBATION_MS, StunOutcome};
use meetpoint_proto::wire::{MAX_HOST_CANDIDATES, Refusal, ServerMessage};
use meetpoint_proto::{Evidence, NetworkClass, SessionId};

use crate::Broker;
use crate::api::{ConnId, Event, Output};
use crate::state::{DialBackRun, Timer};

/// The slowest usual path.
const UNKNOWN_RTT: Duration = Duration::from_millis(400);

impl Broker {
    /// Classifies at once what needs no discovery; sets the clock for what does.
    pub(crate) fn begin_discovery(&mut self, now: Instant, conn: ConnId, verdict: Admission) {
        match verdict {
            Admission::Admit { class, evidence } => self.judge(conn, class, evidence),
            Admission::Discover(discovery) => {
                if let Some(session) = self.session_mut(conn) {
                    session.discovery = Some(discovery);
                    self.timers.set(Timer::Discovery(conn), Some(now + self.limits.observation_timeout));
                }
            }
            Admission::Reject(code) => self.refuse(now, conn, Refusal::new(code)),
        }
    }

    /// The STUN server authenticated a Binding of this session from this source.
    pub(crate) fn observed(&mut self, now: Instant, session: SessionId, source: SocketAddr) {
        let Some(&conn) = self.sessions.get(&session) else { return };
        let Some(session) = self.session_mut(conn) else { return };
        if session.observed.contains(&source) {
            return;
        }
        session.observed.retain(|known| known.is_ipv4() != source.is_ipv4());
        session.observed.push_front(source);
        self.dial_back(now, conn, source);
        self.retry_own(now, conn);
        self.retry_waiting_for(now, conn);
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
        if next > now {
            self.timers.set(Timer::Discovery(conn), Some(next));
            return;
        }
        // The probe's way there and the node's word back; before the first pong a slow path is assumed.
        let timeout = timeout + session.ping.rtt.unwrap_or(UNKNOWN_RTT) * 2;
        session.last_dial_back = Some(now);
        session.dial_back = Some(DialBackRun { nonce });
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

    pub(crate) fn dial_back_seen(&mut self, conn: ConnId, nonce: DialBackNonce) {
        let Some(session) = self.session_mut(conn) else { return };
        if session.dial_back.is_none_or(|run| run.nonce != nonce) {
            return;
        }
        session.dial_back = None;
        self.timers.set(Timer::Discovery(conn), None);
        self.judge(conn, NetworkClass::PublicReachable, Evidence::Proven);
    }

    /// The observation, the dial-back or the probation is over, or the next dial-back is due.
    pub(crate) fn discovery_timeout(&mut self, now: Instant, conn: ConnId) {
        let admit_relayed = self.admits_relayed(conn);
        let Some(session) = self.session_mut(conn) else { return };
        let Some(discovery) = session.discovery else { return };
        let Some(&mapping) = session.observed.front() else {
            return match rules::refine(discovery, StunOutcome::NoAnswer, admit_relayed) {
                Ok((class, evidence)) => self.judge(conn, class, evidence),
                Err(code) => self.refuse(now, conn, Refusal::new(code)),
            };
        };
        if session.dial_back.take().is_none() {
            return self.dial_back(now, conn, mapping);
        }
        let since = session.since;
        match rules::refine(discovery, StunOutcome::Answered, admit_relayed) {
            Ok((class, evidence)) => self.judge(conn, class, evidence),
            Err(code) if now >= since + Duration::from_millis(PROBATION_MS) => {
                self.refuse(now, conn, Refusal::new(code));
            }
            Err(_) => {
                self.judge(conn, discovery.answered, Evidence::Observed);
                self.timers.set(Timer::Discovery(conn), Some(now + self.limits.dial_back_interval));
            }
        }
    }

    fn admits_relayed(&self, conn: ConnId) -> bool {
        let cluster = self.session(conn).and_then(|session| self.clusters.get(&session.cluster));
        cluster.is_some_and(|cluster| cluster.config.admit_relayed)
    }

    /// Settles a class, and tells everybody whom it concerns.
    fn judge(&mut self, conn: ConnId, class: NetworkClass, evidence: Evidence) {
        let Some(session) = self.session_mut(conn) else { return };
        session.class = Some((class, evidence));
        let observed = session.observed.front().copied();
        let event = Event::Classified {
            cluster: session.cluster.clone(),
            node: session.node,
            class,
            evidence,
            observed,
        };
        self.send(conn, ServerMessage::Classified { class, evidence, observed });
        self.outputs.push_back(Output::Event(event));
        self.announce(conn);
    }

    /// Takes a node's own addresses. Only such as can lie on a link are believed; public ones
    /// must have been observed.
    pub(crate) fn host_candidates(&mut self, now: Instant, conn: ConnId, hosts: Vec<SocketAddr>) {
        let Some(session) = self.session_mut(conn) else { return };
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
        self.retry_own(now, conn);
        self.retry_waiting_for(now, conn);
    }
}
