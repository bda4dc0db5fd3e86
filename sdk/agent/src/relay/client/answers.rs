//! What a client does with what its server answers, or does not.
//!
//! A server may send the client on to another one (300, Try Alternate; RFC 8489, section 10). That is followed if it is
//! said under our key, to places that the welcome names, and to each once. By a stream it is not: which one was opened
//! to where, by which protocol and under which identity, is not this module's to decide.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr;

use super::peers::{PEER_REFRESH, PEER_RETRY};
use super::{Client, FIRST_RTO, News, Phase, RETRY_LATE, RETRY_SOON, Transaction};
use crate::env::Env;
use crate::stun::{Ask, Class, Datagram, TransactionId};

/// Challenges answered in a row; more means that the credential is not accepted.
const MAX_CHALLENGES: u32 = 3;
/// Alternate servers that are followed for one allocation.
pub(super) const MAX_REDIRECTIONS: usize = 2;
/// After an allocation that another session's user has by the same socket (441).
pub(super) const RETRY_MISMATCH: Duration = Duration::from_secs(2);
/// After a quota (486): other allocations of this user have to end first.
pub(super) const RETRY_QUOTA: Duration = Duration::from_secs(60);

impl Client {
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
                self.channel_made(*peer);
            }
            _ => {}
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
    pub(super) fn refused(&mut self, env: &mut Env, now: Instant, id: TransactionId, code: u16) {
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
