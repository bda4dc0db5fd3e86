//! The server's end with notice: nobody new is taken, and whoever is here is told, and goes elsewhere if he can.
//!
//! It ends when the server is empty, or at the deadline. Until then all that was granted goes on: control connections,
//! introductions among those who stay, allocations and their refreshes.
//!
//! An allocation outlives its node's control connection, so a node that went elsewhere may leave one behind: its paths
//! go by it until they are replaced, and one that died gives nothing back. Of members who are gone only what still
//! relays something is waited for ([`Remains`]). Others with credentials of the operator's have no connection by which
//! they would be known to be gone, and are waited for as long as they refresh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meetpoint_turn::is_node_user;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::http::App;
use crate::live::Live;
use crate::rendezvous::Handle;
use crate::service::UnixMs;
use crate::udp::{RelayHandle, SessionInfo};

/// How often to see whether everybody is gone.
const LOOK: Duration = Duration::from_millis(100);
/// How often to see what of the allocations is in use: the shards are asked to list them.
const LOOK_AT_REMAINS: Duration = Duration::from_secs(1);
/// So many allocations are looked at. Where there are more, the server is not empty.
const MAX_REMAINS: usize = 1024;
/// What relays nothing for so long serves nobody: a path on which nobody says anything is checked more often.
const QUIET: Duration = Duration::from_secs(30);
/// Where the patience is short, this share of it has to do: who is cut off by it would have been soon after.
const QUIET_SHARE: u32 = 4;

/// Orders the end, and tells of it. Clones are the same order.
#[derive(Debug, Clone)]
pub struct Drain {
    patience: Duration,
    until: Arc<watch::Sender<Option<Until>>>,
}

/// A deadline, for both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Until {
    pub(crate) at: Instant,
    pub(crate) unix_ms: i64,
}

impl Drain {
    /// Nothing is ordered yet; `patience` is how long whoever is here is waited for.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, until: Arc::new(watch::Sender::new(None)) }
    }

    /// Orders it, unless it is ordered already.
    pub fn begin(&self) {
        self.begin_within(None);
    }

    /// The same with a patience of its own. When the server will end at the latest.
    pub(crate) fn begin_within(&self, patience: Option<Duration>) -> Until {
        let patience = patience.unwrap_or(self.patience);
        let patience_ms = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        let unix_ms = UnixMs::now().0.saturating_add(patience_ms);
        let ordered = Until { at: Instant::now() + patience, unix_ms };
        self.until.send_if_modified(|until| {
            let is_first = until.is_none();
            until.get_or_insert(ordered);
            is_first
        });
        self.until().unwrap_or(ordered)
    }

    /// When the server ends at the latest, if that is ordered.
    pub(crate) fn until(&self) -> Option<Until> {
        *self.until.borrow()
    }

    /// Whether it is ordered.
    pub(crate) fn is_on(&self) -> bool {
        self.until().is_some()
    }

    /// Waits for the order.
    async fn ordered(&self) -> Until {
        let mut orders = self.until.subscribe();
        loop {
            if let Some(until) = *orders.borrow_and_update() {
                return until;
            }
            if orders.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The task that does it.
pub(crate) struct Draining {
    order: Drain,
    rendezvous: Handle,
    machines: RelayHandle,
    live: Arc<Live>,
}

impl Draining {
    pub(crate) fn of(app: &App) -> Self {
        Self {
            order: app.drain.clone(),
            rendezvous: app.rendezvous.clone(),
            machines: app.machines.clone(),
            live: Arc::clone(&app.live),
        }
    }

    /// Ends when the server may end, or is told to end at once.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let until = tokio::select! {
            () = stop.cancelled() => return,
            until = self.order.ordered() => until,
        };
        info!(
            until_unix_ms = until.unix_ms,
            "draining: nobody new is taken, and nodes are told to go elsewhere"
        );
        self.live.stop_allocations(&self.machines).await;
        if self.rendezvous.drain(until.at).await.is_err() {
            return;
        }
        let mut remains = Remains::new(until.at.saturating_duration_since(Instant::now()));
        loop {
            if let Some(left_over) = self.is_empty(&mut remains).await {
                return info!(left_over, "drained: nobody is here any more");
            }
            let next = until.at.min(Instant::now() + LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next.into()) => {}
            }
            if Instant::now() >= until.at {
                return warn!("the deadline of draining has come; who is still here is cut off");
            }
        }
    }

    /// With how many allocations that nobody uses, if it is.
    async fn is_empty(&self, remains: &mut Remains) -> Option<usize> {
        let members = self.rendezvous.query(|broker| broker.classes().count()).await.unwrap_or(0);
        let machines = self.machines.states().await.unwrap_or_default();
        let allocations = machines.iter().map(|machine| machine.allocations).sum();
        let now = Instant::now();
        match (members, allocations) {
            (0, 0) => Some(0),
            (0, 1..=MAX_REMAINS) if remains.is_due(now) => {
                let sessions = self.machines.sessions(None, MAX_REMAINS).await.unwrap_or_default();
                remains.are_unused(now, &sessions).then_some(allocations)
            }
            _ => None,
        }
    }
}

/// What members that are gone have left of the relay.
#[derive(Debug)]
struct Remains {
    /// What relays nothing for so long is not in use.
    quiet: Duration,
    next_look: Option<Instant>,
    /// How much each allocation had relayed, and since when.
    seen: BTreeMap<u64, (u64, Instant)>,
}

impl Remains {
    fn new(patience: Duration) -> Self {
        Self { quiet: QUIET.min(patience / QUIET_SHARE), next_look: None, seen: BTreeMap::new() }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next_look.is_none_or(|at| at <= now)
    }

    /// Takes in what there is. True if all of it is members', and none of it in use.
    fn are_unused(&mut self, now: Instant, sessions: &[SessionInfo]) -> bool {
        self.next_look = Some(now + LOOK_AT_REMAINS.min(self.quiet));
        self.seen.retain(|id, _| sessions.iter().any(|session| session.id == *id));
        let mut are_unused = true;
        for session in sessions {
            let relayed = session.to_peer.packets.wrapping_add(session.to_client.packets);
            let seen = self.seen.entry(session.id).or_insert((relayed, now));
            if seen.0 != relayed {
                *seen = (relayed, now);
            }
            are_unused &= is_node_user(&session.user) && now.duration_since(seen.1) >= self.quiet;
        }
        are_unused
    }
}

#[cfg(test)]
mod tests {
    use meetpoint_turn::{Traffic, Transport};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn session(id: u64, user: &str, packets: u64) -> SessionInfo {
        let none = Traffic::default();
        SessionInfo {
            id,
            user: user.to_owned(),
            client: "20.0.0.7:1".parse().unwrap(),
            transport: Transport::Udp,
            relayed: Vec::new(),
            lifetime_left: S,
            to_peer: Traffic { packets, ..none },
            to_client: none,
        }
    }

    /// When they are found to be unused, looked at each second; each relays one packet a second up to such a time.
    fn check(patience_s: u64, users: &[(&str, u64)], expect: Option<u64>) {
        let begun = Instant::now();
        let mut remains = Remains::new(Duration::from_secs(patience_s));
        let is_unused = |second: &u64| {
            let now = begun + S * u32::try_from(*second).unwrap();
            let session =
                |(id, (user, until)): (usize, &(&str, u64))| session(id as u64, user, *until.min(second));
            let sessions: Vec<_> = users.iter().enumerate().map(session).collect();
            remains.is_due(now) && remains.are_unused(now, &sessions)
        };
        assert_eq!((0..patience_s).find(is_unused), expect, "{users:?} within {patience_s} s");
    }

    #[test]
    fn what_members_left_and_nobody_uses_is_not_waited_for() {
        let (alice, bob) = ("node:aaaaaaaaaaaaaaaaaaaaaaaaaa", "node:bbbbbbbbbbbbbbbbbbbbbbbbbb");
        check(600, &[], Some(0));
        check(600, &[(alice, 0)], Some(30));
        check(600, &[(alice, 100)], Some(130));
        check(600, &[(alice, 100), (bob, 200)], Some(230));
        check(600, &[(alice, 600)], None);
        check(600, &[(alice, 0), ("carol", 0)], None);
        check(20, &[(alice, 0), (bob, 3)], Some(8));
        check(2, &[(alice, 0)], Some(1));
    }
}
