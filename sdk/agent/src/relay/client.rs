//! One allocation on a server (RFC 8656): asking for it, keeping it, and its permissions and channels.
//!
//! Each request is a transaction of its own with its own clock, so one that is lost delays nobody else. An answer
//! counts only from the server, by the carrier it was asked by, and under our key; without a key only a challenge
//! does (RFC 8489, section 9.2.5), and few of those in a row. What follows from answers is in [`answers`].
//!
//! The allocation follows its client to another address, if the server gives tickets for that (RFC 8016): peers,
//! permissions and channels stay. A server that gives none tells that there is no allocation here, and another one is
//! made.

mod answers;
mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::Timers;

use crate::api::{AllocationId, Socket};
use crate::env::Env;
use crate::stun::{Ask, Credential, TransactionId};
use peers::{FIRST_CHANNEL, Peer};

/// First retransmission, as for the observation: a node that connects waits for the answer.
const FIRST_RTO: Duration = Duration::from_millis(200);
/// Each wait is twice the one before (RFC 8489, section 6.2.1), up to here.
const MAX_RTO: Duration = Duration::from_millis(1600);
/// Transmissions of one request (RFC 8489 calls it Rc): the last wait ends after 7.8 s.
const MAX_SENDS: u32 = 7;
/// A stream repeats by itself; what it has not answered by then it does not (RFC 8489, section 6.2.2 has 39.5 s
/// for a stream that is still being opened, ours is open).
const STREAM_TIMEOUT: Duration = Duration::from_secs(8);
/// What is asked for. The server may grant more.
const LIFETIME: Duration = Duration::from_secs(600);
/// After a server that has no room, or did not answer.
const RETRY_SOON: Duration = Duration::from_secs(30);
/// After an answer that the same request would get again. Also after an alternate server's failure: to be sent there
/// again within that time is to be ignored (RFC 8489, section 10), so that two servers play no ball with a client.
const RETRY_LATE: Duration = Duration::from_secs(300);

/// What the agent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// There are relayed addresses now.
    Granted,
    /// It has followed this node to where that is now.
    Followed,
    /// Data to and from this peer goes by this channel from now on.
    Bound { remote: SocketAddr },
    /// This peer has been forgotten, and its channel with it.
    Forgotten { remote: SocketAddr },
    /// It is over: it was never granted, or the server no longer has it. Another may be tried after so long.
    Over { retry: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking,
    /// An allocation of before is in the way (437) and is being ended.
    Clearing,
    Granted,
    Ending,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Transaction(TransactionId),
    Refresh,
    Peer(SocketAddr),
}

#[derive(Debug)]
struct Transaction {
    ask: Ask,
    sent: u32,
    challenges: u32,
}

/// How a client speaks with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// The main socket, or a stream.
    pub(crate) socket: Socket,
    pub(crate) server: SocketAddr,
    pub(crate) username: String,
    pub(crate) password: String,
    /// Where it may be sent on to.
    pub(crate) others: Vec<IpAddr>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: AllocationId,
    access: Access,
    credential: Option<Credential>,
    phase: Phase,
    /// By family: IPv4, IPv6.
    relayed: [Option<SocketAddr>; 2],
    has_cleared: bool,
    /// What to take it along by.
    ticket: Option<Vec<u8>>,
    /// Servers that have sent it on.
    left: Vec<SocketAddr>,
    transactions: BTreeMap<TransactionId, Transaction>,
    peers: BTreeMap<SocketAddr, Peer>,
    numbers: BTreeMap<u16, SocketAddr>,
    next_number: u16,
    /// Numbers of forgotten peers, the newest first.
    past: VecDeque<(SocketAddr, u16)>,
    due: Timers<Due>,
    news: VecDeque<News>,
}

impl Client {
    /// Asks for an allocation. A credential of an earlier exchange with the server, by the same socket, saves the
    /// challenge.
    pub(crate) fn new(
        env: &mut Env,
        now: Instant,
        id: AllocationId,
        access: Access,
        credential: Option<Credential>,
    ) -> Self {
        let mut client = Self {
            id,
            credential: credential.filter(|credential| credential.username() == access.username),
            access,
            phase: Phase::Asking,
            relayed: [None; 2],
            has_cleared: false,
            ticket: None,
            left: Vec::new(),
            transactions: BTreeMap::new(),
            peers: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_number: FIRST_CHANNEL,
            past: VecDeque::new(),
            due: Timers::new(),
            news: VecDeque::new(),
        };
        client.allocate(env, now);
        client
    }

    /// What a stream carries ends with it: nothing of that can be taken along.
    fn allocate(&mut self, env: &mut Env, now: Instant) {
        let is_mobile = !self.is_stream();
        self.ask(env, now, Ask::Allocate { is_mobile }, 0);
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.phase == Phase::Granted
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// It can follow this node to another address.
    pub(crate) fn is_mobile(&self) -> bool {
        self.is_granted() && (self.ticket.is_some() || self.is_stream())
    }

    /// It has been given up by this side.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Over)
    }

    /// The relayed addresses.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let granted = self.relayed.iter().flatten().copied();
        granted.filter(|_| self.is_granted())
    }

    /// True if it can send to peers of this family.
    pub(crate) fn reaches(&self, remote: SocketAddr) -> bool {
        self.is_granted() && self.relayed[usize::from(remote.is_ipv6())].is_some()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    pub(crate) fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// True if this username stands for the same user, whenever it expires.
    pub(crate) fn is_of(&self, username: &str) -> bool {
        let user = |name: &str| name.split_once(':').map(|(_, user)| user.to_owned());
        user(&self.access.username) == user(username)
    }

    /// Later requests name this user, who must be the same but for the expiry (RFC 8656, section 5).
    pub(crate) fn renew(&mut self, username: &str, password: &str) {
        self.credential = self.credential.as_ref().map(|known| known.of_user(username, password));
        username.clone_into(&mut self.access.username);
        password.clone_into(&mut self.access.password);
    }

    /// Ends it; the server hears of it if it can.
    pub(crate) fn end(&mut self, env: &mut Env, now: Instant) {
        if self.is_ending() {
            return;
        }
        let was_known = matches!(self.phase, Phase::Granted);
        self.transactions.clear();
        self.due = Timers::new();
        self.phase = if was_known { Phase::Ending } else { Phase::Over };
        if was_known {
            self.ask(env, now, Ask::Refresh(Duration::ZERO), 0);
        }
    }

    /// The stream below it is gone.
    pub(crate) fn broke(&mut self) {
        self.over(RETRY_SOON);
    }

    /// Has the server tell now whether it still has the allocation, and has that follow to where this node is.
    pub(crate) fn probe(&mut self, env: &mut Env, now: Instant) {
        let is_asked = |ask: &Ask| matches!(ask, Ask::Refresh(_) | Ask::Follow { .. });
        if !self.is_granted() || self.transactions.values().any(|running| is_asked(&running.ask)) {
            return;
        }
        if !self.follow(env, now) {
            self.ask(env, now, Ask::Refresh(LIFETIME), 0);
        }
    }

    /// The node's NAT shows it at another address, to which the server has given this challenge. What nobody depends on
    /// does not follow: it would cost an idle node more than it is worth.
    pub(crate) fn moved(
        &mut self,
        env: &mut Env,
        now: Instant,
        challenged: Option<&Credential>,
        is_needed: bool,
    ) {
        self.ticket.take_if(|_| !is_needed);
        if let Some(fresh) = challenged.filter(|_| !self.is_stream()) {
            self.credential = Some(fresh.of_user(&self.access.username, &self.access.password));
        }
        // What was asked from the old address is not answered to this one.
        let is_refresh = |running: &Transaction| matches!(running.ask, Ask::Refresh(_) | Ask::Follow { .. });
        let stale: Vec<TransactionId> =
            self.transactions.iter().filter(|(_, running)| is_refresh(running)).map(|(id, _)| *id).collect();
        if self.is_granted() {
            stale.into_iter().for_each(|id| drop(self.take(id)));
        }
        self.probe(env, now);
    }

    /// Has the allocation follow, if there is a ticket for that.
    fn follow(&mut self, env: &mut Env, now: Instant) -> bool {
        let ticket = self.ticket.clone();
        let has_one = ticket.is_some();
        if let Some(ticket) = ticket {
            self.ask(env, now, Ask::Follow { lifetime: LIFETIME, ticket }, 0);
        }
        has_one
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) {
        while let Some(due) = self.due.pop_due(now) {
            match due {
                Due::Transaction(id) => self.repeat(env, now, id),
                Due::Refresh => self.ask(env, now, Ask::Refresh(LIFETIME), 0),
                Due::Peer(remote) => self.refresh_peer(env, now, remote),
            }
        }
    }

    /// Half of a lifetime is left for what goes wrong.
    fn refresh_in(&mut self, now: Instant, lifetime: Option<Duration>) {
        let lifetime = lifetime.unwrap_or(LIFETIME).clamp(LIFETIME / 10, 6 * LIFETIME);
        self.due.set(Due::Refresh, Some(now + lifetime / 2));
    }

    fn over(&mut self, retry: Duration) {
        let retry = if self.left.is_empty() { retry } else { retry.max(RETRY_LATE) };
        if self.phase != Phase::Over {
            self.news.push_back(News::Over { retry });
        }
        self.phase = Phase::Over;
        self.transactions.clear();
        self.due = Timers::new();
    }

    fn take(&mut self, id: TransactionId) -> Option<Transaction> {
        self.due.set(Due::Transaction(id), None);
        self.transactions.remove(&id)
    }

    fn ask(&mut self, env: &mut Env, now: Instant, ask: Ask, challenges: u32) {
        let id = env.transaction_id();
        self.transactions.insert(id, Transaction { ask, sent: 0, challenges });
        self.repeat(env, now, id);
    }

    fn repeat(&mut self, env: &mut Env, now: Instant, id: TransactionId) {
        let is_stream = self.is_stream();
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        let most = if is_stream { 1 } else { MAX_SENDS };
        if transaction.sent >= most {
            return self.refused(env, now, id, 0);
        }
        let wait = match is_stream {
            true => STREAM_TIMEOUT,
            false => (FIRST_RTO * (1 << transaction.sent)).min(MAX_RTO),
        };
        transaction.sent += 1;
        let payload = transaction.ask.write(id, self.credential.as_ref());
        self.due.set(Due::Transaction(id), Some(now + wait));
        self.transmit(env, now, payload);
    }

    fn is_stream(&self) -> bool {
        matches!(self.access.socket, Socket::Stream(_))
    }

    fn transmit(&self, env: &mut Env, now: Instant, payload: Vec<u8>) {
        env.transmit(now, self.access.socket, self.access.server, payload, None);
    }
}

#[cfg(test)]
mod tests;
