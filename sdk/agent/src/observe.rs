//! Has the main socket's mapping observed by the server, and keeps it alive.
//!
//! Bindings go to the server's primary address and to no other: a packet of the main socket to the
//! alternate address would open an address-restricted NAT for the very dial-back that is to prove
//! that the node can be reached unasked.
//!
//! The first Binding only names the user, and the server challenges it (RFC 8489, section 9.2.4);
//! all later ones carry the nonce, so the server sees one that was delivered to that very source.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
/// Between two refreshes of a mapping. Many NATs drop one after 30 s of silence, so that a single
/// lost packet and its retransmission still come in time.
const REFRESH: Duration = Duration::from_secs(20);
/// Between two attempts when nothing answers: UDP may be let through later.
const RETRY: Duration = Duration::from_secs(10);
/// Challenges answered in a row; more means that the credential is not accepted.
const MAX_CHALLENGES: u32 = 3;

#[derive(Debug)]
enum State {
    /// The next request is due then.
    Idle { until: Instant },
    /// A request is under way.
    Asking { id: TransactionId, sent: u32, again_at: Instant },
}

/// One address family's observation.
#[derive(Debug)]
pub(crate) struct Observer {
    server: SocketAddr,
    username: String,
    password: String,
    credential: Option<Credential>,
    challenges: u32,
    state: State,
}

impl Observer {
    pub(crate) fn new(now: Instant, server: SocketAddr, username: String, password: String) -> Self {
        let state = State::Idle { until: now };
        Self { server, username, password, credential: None, challenges: 0, state }
    }

    /// What the server's challenge and this user make; whoever sends by the same socket can use it too.
    pub(crate) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    pub(crate) fn deadline(&self) -> Instant {
        match self.state {
            State::Idle { until } => until,
            State::Asking { again_at, .. } => again_at,
        }
    }

    /// Asks at once, for the mapping may have changed.
    pub(crate) fn refresh(&mut self, now: Instant) {
        self.state = State::Idle { until: now };
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) {
        match self.state {
            State::Idle { until } if until <= now => self.ask(env, now),
            State::Asking { sent, again_at, .. } if again_at <= now && sent >= MAX_SENDS => {
                self.rest(env, now, RETRY);
            }
            State::Asking { id, sent, again_at } if again_at <= now => self.transmit(env, now, id, sent),
            State::Idle { .. } | State::Asking { .. } => {}
        }
    }

    /// True if the datagram was for this observer.
    pub(crate) fn handle(
        &mut self,
        env: &mut Env,
        now: Instant,
        source: SocketAddr,
        datagram: &Datagram<'_>,
    ) -> bool {
        let State::Asking { id, .. } = self.state else { return false };
        if source != self.server || datagram.id() != id {
            return false;
        }
        match (datagram.class(), datagram.error_code()) {
            (Class::Success, _) => {
                if self.credential.as_ref().is_some_and(|credential| datagram.verify(credential.key())) {
                    self.challenges = 0;
                    self.rest(env, now, REFRESH);
                }
            }
            (Class::Error, Some(401 | 438)) => self.challenged(env, now, datagram),
            (Class::Error, _) => self.rest(env, now, RETRY),
            (Class::Request | Class::Indication, _) => return false,
        }
        true
    }

    fn challenged(&mut self, env: &mut Env, now: Instant, datagram: &Datagram<'_>) {
        self.credential = datagram.challenge(&self.username, &self.password);
        self.challenges += 1;
        if self.credential.is_none() || self.challenges > MAX_CHALLENGES {
            self.challenges = 0;
            self.rest(env, now, RETRY);
        } else {
            self.ask(env, now);
        }
    }

    fn ask(&mut self, env: &mut Env, now: Instant) {
        let id = env.transaction_id();
        self.transmit(env, now, id, 0);
    }

    fn transmit(&mut self, env: &mut Env, now: Instant, id: TransactionId, sent: u32) {
        let payload = match &self.credential {
            Some(credential) => stun::binding_authenticated(id, credential),
            None => stun::binding_named(id, &self.username),
        };
        env.transmit_main(now, self.server, payload);
        let again_at = now + if sent == 0 { FIRST_RTO } else { MAX_RTO };
        self.state = State::Asking { id, sent: sent + 1, again_at };
    }

    /// Up to a tenth earlier, so that nodes which joined together do not ask together for ever.
    fn rest(&mut self, env: &mut Env, now: Instant, wait: Duration) {
        use rand_chacha::rand_core::Rng;
        self.state = State::Idle { until: now + wait - scale(wait / 10, env.rng.next_u32()) };
    }
}
