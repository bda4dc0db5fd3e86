//! One allocation on a server (RFC 8656): asking for it, keeping it, and its permissions and channels.
//!
//! Each request is a transaction of its own with its own clock, so one that is lost delays nobody else. An answer
//! counts only from the server, by the carrier it was asked by, and under our key; without a key only a challenge
//! does (RFC 8489, section 9.2.5), and few of those in a row.
//!
//! A server may send the client on to another one (300, Try Alternate; RFC 8489, section 10). That is followed if it is
//! said under our key, to places that the welcome names, and to each once. By a stream it is not: which one was opened to
//! where, by which protocol and under which identity, is not this module's to decide.
//!
//! The allocation follows its client to another address, if the server gives tickets for that (RFC 8016): peers, permissions
//! and channels stay. A server that gives none tells that there is no allocation here, and another one is made.
//!
//! A node names a peer before it hears of it: that is a permission. What it uses for more than checks gets a
//! channel, which renews the permission as well (section 12). Peers that nothing was sent to for a while are
//! forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::{Timers, addr};
use meetpoint_stun::{channel_header, read_channel_data};

use crate::api::{AllocationId, Socket};
use crate::env::Env;
use crate::stun::{self, Ask, Class, Credential, Datagram, TransactionId};

/// First retransmission, as for the observation: a node that connects waits for the answer.
const FIRST_RTO: Duration = Duration::from_millis(200);
/// Each wait is twice the one before (RFC 8489, section 6.2.1), up to here.
const MAX_RTO: Duration = Duration::from_millis(1600);
/// Transmissions of one request (RFC 8489 calls it Rc): the last wait ends after 7.8 s.
const MAX_SENDS: u32 = 7;
/// A stream repeats by itself; what it has not answered by then it does not (RFC 8489, section 6.2.2 has 39.5 s
/// for a stream that is still being opened, ours is open).
const STREAM_TIMEOUT: Duration = Duration::from_secs(8);
/// Challenges answered in a row; more means that the credential is not accepted.
const MAX_CHALLENGES: u32 = 3;
/// Alternate servers that are followed for one allocation.
const MAX_REDIRECTIONS: usize = 2;
/// What is asked for. The server may grant more.
const LIFETIME: Duration = Duration::from_secs(600);
/// Between two renewals of a permission, which lasts 300 s (RFC 8656, section 9); a channel lasts longer.
const PEER_REFRESH: Duration = Duration::from_secs(200);
/// Before a permission or a channel that was not granted is asked for again.
const PEER_RETRY: Duration = Duration::from_secs(10);
/// Peers of one allocation; a server gives 128 permissions.
const MAX_PEERS: usize = 96;
/// RFC 8656, section 12: the channel numbers.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;
/// After a server that has no room, or did not answer.
const RETRY_SOON: Duration = Duration::from_secs(30);
/// After an allocation that another session's user has by the same socket (441).
const RETRY_MISMATCH: Duration = Duration::from_secs(2);
/// After a quota (486): other allocations of this user have to end first.
const RETRY_QUOTA: Duration = Duration::from_secs(60);
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

#[derive(Debug)]
struct Peer {
    /// Something was sent to it last.
    used: Instant,
    /// A request about it is under way.
    asking: bool,
    channel: Option<Channel>,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: u16,
    is_bound: bool,
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
            next_number: *CHANNELS.start(),
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

    /// Lets peers in, all by one request. What does not fit the tables is left out: its checks stay unanswered.
    pub(crate) fn permit(&mut self, env: &mut Env, now: Instant, remotes: &[SocketAddr]) {
        let mut fresh = Vec::new();
        for &remote in remotes {
            if !self.reaches(remote) || self.peers.contains_key(&remote) || self.peers.len() >= MAX_PEERS {
                continue;
            }
            self.peers.insert(remote, Peer { used: now, asking: true, channel: None });
            fresh.push(remote);
        }
        if !fresh.is_empty() {
            self.ask(env, now, Ask::Permit(fresh), 0);
        }
    }

    /// Wants a channel for a peer; [`News::Bound`] tells when there is one.
    pub(crate) fn bind(&mut self, env: &mut Env, now: Instant, remote: SocketAddr) {
        if !self.reaches(remote) || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&remote)) {
            return;
        }
        let peer = self.peers.entry(remote).or_insert(Peer { used: now, asking: false, channel: None });
        peer.used = now;
        if peer.channel.is_some() {
            return;
        }
        let Some(number) = self.free_number() else { return };
        if let Some(peer) = self.peers.get_mut(&remote) {
            peer.channel = Some(Channel { number, is_bound: false });
            peer.asking = true;
        }
        self.numbers.insert(number, remote);
        self.ask(env, now, Ask::Bind { number, peer: remote }, 0);
    }

    /// The channel that carries data to this peer.
    pub(crate) fn channel(&self, remote: SocketAddr) -> Option<u16> {
        let channel = self.peers.get(&remote)?.channel.filter(|channel| channel.is_bound)?;
        Some(channel.number)
    }

    /// The channel that was asked for; it may be there already.
    pub(crate) fn asked_channel(&self, remote: SocketAddr) -> Option<u16> {
        Some(self.peers.get(&remote)?.channel?.number)
    }

    /// Who has a channel.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.numbers.values().copied()
    }

    /// Numbers go round, so that one comes back only after thousands of others: a server keeps the one it stood for
    /// for ten minutes, and another five (RFC 8656, section 12).
    fn free_number(&mut self) -> Option<u16> {
        for _ in CHANNELS {
            let number = self.next_number;
            self.next_number = if number == *CHANNELS.end() { *CHANNELS.start() } else { number + 1 };
            if !self.numbers.contains_key(&number) {
                return Some(number);
            }
        }
        None
    }

    /// Sends bytes to a peer, who was permitted before.
    pub(crate) fn send(&mut self, env: &mut Env, now: Instant, remote: SocketAddr, data: &[u8]) {
        if !self.is_granted() {
            return;
        }
        self.permit(env, now, &[remote]);
        let Some(peer) = self.peers.get_mut(&remote) else { return };
        peer.used = now;
        let bound = peer.channel.filter(|channel| channel.is_bound);
        let payload = match (bound, u16::try_from(data.len())) {
            (Some(channel), Ok(len)) => {
                let padding = if self.is_stream() { data.len().next_multiple_of(4) - data.len() } else { 0 };
                [&channel_header(channel.number, len)[..], data, &[0; 3][..padding]].concat()
            }
            (_, _) => stun::send(env.transaction_id(), remote, data),
        };
        self.transmit(env, now, payload);
    }

    /// What ChannelData of the server brings, and from whom.
    pub(crate) fn read_channel<'a>(&self, frame: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let (number, data) = read_channel_data(frame)?;
        Some((*self.numbers.get(&number)?, data))
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

    /// The node's NAT shows it at another address, to which the server has given this challenge. What nobody depends on does
    /// not follow: it would cost an idle node more than it is worth.
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

    /// True if the datagram answers one of our requests, whatever it says.
    pub(crate) fn handle(&mut self, env: &mut Env, now: Instant, answer: &Datagram<'_>) -> bool {
        let Some(transaction) = self.transactions.get(&answer.id()) else { return false };
        let challenges = transaction.challenges;
        let is_ours = self.credential.as_ref().is_some_and(|credential| answer.verify(credential.key()));
        match (answer.class(), answer.error_code()) {
            (Class::Success, _) if is_ours => {
                if let Some(transaction) = self.take(answer.id()) {
                    self.granted(env, now, &transaction.ask, answer);
                }
            }
            (Class::Error, Some(401 | 438)) => {
                let known = self.credential.as_ref();
                let fresh = answer.challenge(&self.access.username, &self.access.password);
                let Some(fresh) = fresh.filter(|_| challenges < MAX_CHALLENGES) else {
                    // Without a key anybody who saw the question could say so: with one, the next try will tell.
                    if known.is_none() || challenges >= MAX_CHALLENGES {
                        self.refused(env, now, answer.id(), 401);
                    }
                    return true;
                };
                self.credential = Some(fresh);
                if let Some(transaction) = self.take(answer.id()) {
                    self.ask(env, now, transaction.ask, challenges + 1);
                }
            }
            (Class::Error, Some(300)) if is_ours => self.sent_on(env, now, answer),
            (Class::Error, Some(code)) if is_ours => self.refused(env, now, answer.id(), code),
            // Forged, or damaged: the real answer may still come.
            _ => env.counters.unsolicited += 1,
        }
        true
    }

    fn granted(&mut self, env: &mut Env, now: Instant, ask: &Ask, answer: &Datagram<'_>) {
        match (ask, self.phase) {
            (Ask::Allocate { .. }, Phase::Asking) => {
                for relayed in answer.relayed() {
                    self.relayed[usize::from(relayed.is_ipv6())].get_or_insert(relayed);
                }
                if self.relayed.iter().all(Option::is_none) {
                    return self.over(RETRY_LATE);
                }
                self.phase = Phase::Granted;
                self.ticket = answer.mobility_ticket().map(<[u8]>::to_vec);
                self.refresh_in(now, answer.lifetime());
                self.news.push_back(News::Granted);
            }
            (Ask::Refresh(_), Phase::Clearing) => {
                self.phase = Phase::Asking;
                self.allocate(env, now);
            }
            (Ask::Refresh(_), Phase::Ending) => self.phase = Phase::Over,
            (Ask::Refresh(_), Phase::Granted) => self.refresh_in(now, answer.lifetime()),
            (Ask::Follow { .. }, Phase::Granted) => {
                self.ticket = answer.mobility_ticket().map(<[u8]>::to_vec);
                self.refresh_in(now, answer.lifetime());
                self.news.push_back(News::Followed);
            }
            (Ask::Permit(peers), Phase::Granted) => {
                peers.iter().for_each(|peer| self.peer_asked(*peer, now + PEER_REFRESH));
            }
            (Ask::Bind { peer, .. }, Phase::Granted) => {
                self.peer_asked(*peer, now + PEER_REFRESH);
                if let Some(Channel { is_bound, .. }) =
                    self.peers.get_mut(peer).and_then(|peer| peer.channel.as_mut())
                    && !std::mem::replace(is_bound, true)
                {
                    self.news.push_back(News::Bound { remote: *peer });
                }
            }
            _ => {}
        }
    }

    /// Half of a lifetime is left for what goes wrong.
    fn refresh_in(&mut self, now: Instant, lifetime: Option<Duration>) {
        let lifetime = lifetime.unwrap_or(LIFETIME).clamp(LIFETIME / 10, 6 * LIFETIME);
        self.due.set(Due::Refresh, Some(now + lifetime / 2));
    }

    fn peer_asked(&mut self, remote: SocketAddr, again: Instant) {
        if let Some(peer) = self.peers.get_mut(&remote) {
            peer.asking = false;
            self.due.set(Due::Peer(remote), Some(again));
        }
    }

    /// Renews what a peer has, or forgets a peer that nothing was sent to since the last time.
    fn refresh_peer(&mut self, env: &mut Env, now: Instant, remote: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&remote) else { return };
        if now >= peer.used + PEER_REFRESH {
            self.forget(remote);
            return;
        }
        if std::mem::replace(&mut peer.asking, true) {
            return;
        }
        let ask = match peer.channel {
            Some(Channel { number, .. }) => Ask::Bind { number, peer: remote },
            None => Ask::Permit(vec![remote]),
        };
        self.ask(env, now, ask, 0);
    }

    fn forget(&mut self, remote: SocketAddr) {
        if let Some(Peer { channel: Some(channel), .. }) = self.peers.remove(&remote) {
            self.numbers.remove(&channel.number);
            self.news.push_back(News::Forgotten { remote });
        }
    }

    /// The server names another one. That one challenges anew: our nonce is this one's.
    fn sent_on(&mut self, env: &mut Env, now: Instant, answer: &Datagram<'_>) {
        let to = answer.alternate_server().map(addr::unmap).filter(|to| self.may_follow(*to));
        let is_allocate = self
            .transactions
            .get(&answer.id())
            .is_some_and(|running| matches!(running.ask, Ask::Allocate { .. }));
        let Some(to) = to.filter(|_| is_allocate) else {
            return self.refused(env, now, answer.id(), 300);
        };
        self.take(answer.id());
        self.left.push(std::mem::replace(&mut self.access.server, to));
        self.credential = None;
        self.allocate(env, now);
    }

    /// RFC 8489, section 14.15, wants the same family; the other conditions are in the module's text.
    fn may_follow(&self, to: SocketAddr) -> bool {
        let is_named = self.access.others.contains(&to.ip()) && to.port() != 0;
        let is_new = to != self.access.server && !self.left.contains(&to);
        let is_like = to.is_ipv6() == self.access.server.is_ipv6() && !self.is_stream();
        is_named && is_new && is_like && self.left.len() < MAX_REDIRECTIONS
    }

    /// The server says no, or nothing at all (code 0).
    fn refused(&mut self, env: &mut Env, now: Instant, id: TransactionId, code: u16) {
        let Some(Transaction { ask, .. }) = self.take(id) else { return };
        match (ask, code) {
            (Ask::Allocate { .. }, 437) if !self.has_cleared => {
                self.has_cleared = true;
                self.phase = Phase::Clearing;
                self.ask(env, now, Ask::Refresh(Duration::ZERO), 0);
            }
            // It was not there any more, which is what was wanted.
            (Ask::Refresh(_), 437) if self.phase == Phase::Clearing => {
                self.phase = Phase::Asking;
                self.allocate(env, now);
            }
            // A server that has tickets and gives this client none.
            (Ask::Allocate { is_mobile: true }, 405) => {
                self.ask(env, now, Ask::Allocate { is_mobile: false }, 0);
            }
            // It is not here, and may be where this node was.
            (Ask::Refresh(_), 437) if self.phase == Phase::Granted && self.follow(env, now) => {}
            (Ask::Permit(peers), 437) if self.phase == Phase::Granted && self.ticket.is_some() => {
                peers.iter().for_each(|peer| self.peer_asked(*peer, now + FIRST_RTO));
                self.probe(env, now);
            }
            (Ask::Bind { peer, .. }, 437) if self.phase == Phase::Granted && self.ticket.is_some() => {
                self.peer_asked(peer, now + FIRST_RTO);
                self.probe(env, now);
            }
            (Ask::Refresh(_), _) if self.phase == Phase::Ending => self.phase = Phase::Over,
            // It is gone, and another one can be had.
            (Ask::Follow { .. }, 405 | 437) => self.over(Duration::ZERO),
            (Ask::Allocate { .. } | Ask::Refresh(_) | Ask::Follow { .. }, code) => {
                self.over(retry_after(code));
            }
            // The allocation is gone, whichever request tells.
            (Ask::Permit(_) | Ask::Bind { .. }, 437) => self.over(Duration::ZERO),
            // Another peer of the same request may be the one it is about.
            (Ask::Permit(peers), _) if peers.len() > 1 => {
                for peer in peers {
                    self.ask(env, now, Ask::Permit(vec![peer]), 0);
                }
            }
            (Ask::Permit(peers), _) => peers.iter().for_each(|peer| self.peer_asked(*peer, now + PEER_RETRY)),
            (Ask::Bind { peer, .. }, _) => self.peer_asked(peer, now + PEER_RETRY),
        }
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

/// When a server that said this may be asked again; 0: it said nothing.
const fn retry_after(code: u16) -> Duration {
    match code {
        0 | 437 | 508 => RETRY_SOON,
        486 => RETRY_QUOTA,
        // An allocation of an earlier session is there, and is being ended.
        441 => RETRY_MISMATCH,
        _ => RETRY_LATE,
    }
}

#[cfg(test)]
mod tests;
