//! Tickets: each opens one WebSocket, soon. They stand for a token where no header can be set, because
//! a URL may end up in logs and histories; a used ticket there is worth nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::secrets;

/// How long a ticket waits to be used: a page's round trip, on a bad network.
pub(super) const LIFETIME: Duration = Duration::from_secs(30);
/// Tickets that wait. Who gives more to pages that do not use them errs.
const MAX_TICKETS: usize = 1024;

/// The tickets that wait to be used, by digest: looking one up takes no longer the more of it is right.
#[derive(Default)]
pub(super) struct Tickets(Mutex<BTreeMap<[u8; 32], Instant>>);

impl Tickets {
    /// A new ticket, if there is room for one.
    pub(super) fn issue(&self, now: Instant) -> Result<Option<String>, getrandom::Error> {
        let ticket = secrets::long_text()?;
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, until| *until > now);
        if waiting.len() >= MAX_TICKETS {
            return Ok(None);
        }
        waiting.insert(digest(&ticket), now + LIFETIME);
        Ok(Some(ticket))
    }

    /// Uses a ticket up. False if there is no such ticket any more.
    pub(super) fn redeem(&self, now: Instant, ticket: &str) -> bool {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest(ticket));
        until.is_some_and(|until| until > now)
    }
}

fn digest(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = |at| tickets.issue(at).unwrap().unwrap();
        let ticket = issue(now);
        assert!(!tickets.redeem(now, ""));
        assert!(!tickets.redeem(now, &ticket[1..]));
        assert!(tickets.redeem(now, &ticket));
        assert!(!tickets.redeem(now, &ticket));
        let late = issue(now);
        assert!(!tickets.redeem(now + LIFETIME, &late));
        let in_time = issue(now);
        assert!(tickets.redeem(now + LIFETIME - Duration::from_millis(1), &in_time));
    }

    #[test]
    fn so_many_wait_and_those_that_ended_make_room() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        for _ in 0..MAX_TICKETS {
            assert!(tickets.issue(now).unwrap().is_some());
        }
        assert!(tickets.issue(now).unwrap().is_none());
        assert!(tickets.issue(now + LIFETIME).unwrap().is_some());
    }
}
