//! The server's end with notice: nobody new is taken, and whoever is here is told, and goes elsewhere if he can.
//!
//! It ends when the server is empty, or at the deadline. Until then all that was granted goes on: control connections,
//! introductions among those who stay, allocations and their refreshes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::http::App;
use crate::live::Live;
use crate::rendezvous::Handle;
use crate::service::UnixMs;
use crate::udp::RelayHandle;

/// How often to see whether everybody is gone.
const LOOK: Duration = Duration::from_millis(100);

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
        loop {
            if self.is_empty().await {
                return info!("drained: nobody is here any more");
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

    async fn is_empty(&self) -> bool {
        let members = self.rendezvous.query(|broker| broker.classes().count()).await.unwrap_or(0);
        let machines = self.machines.states().await.unwrap_or_default();
        members == 0 && machines.iter().all(|machine| machine.allocations == 0)
    }
}
