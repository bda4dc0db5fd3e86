//! Has the router lead a port of its own to the node's socket: by PCP or NAT-PMP (RFC 6887, RFC 6886), or by UPnP
//! (IGD).
//!
//! One task, told by the agent whether a mapping is of use: it is not in an effectively PRIVATE cluster, nor for a node
//! with a public address. The protocols are raced in asking; a mapping is made by one. A lease is renewed at half its
//! life, and taken back when the node leaves, when the cluster becomes PRIVATE, or when there is another router; what
//! the taking back does not reach ends with its lease.
//!
//! A router's word is a claim: the server counts a mapped address only if it observes the node at the same IP, and
//! calls the node reachable only when a dial-back has come in by it.
//!
//! The crate that speaks PCP and NAT-PMP has sockets of its own, so the gate ([`Egress::check_port_mapping`]) is asked
//! before anything else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::egress::{Blocked, Egress};
use crate::interfaces::{self, Gateway};

mod pmp;
mod probe;
mod upnp;

#[cfg(feature = "fuzzing")]
pub(crate) use probe::note;
pub use probe::{PortMapping, port_mapping};
#[cfg(feature = "fuzzing")]
pub(crate) use upnp::{upnp_external, upnp_location, upnp_service};

/// Bounds on the time between renewals, whatever the router grants: half of the shortest lease that may be asked for,
/// and no more than an hour, since routers forget.
const RENEWAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60 * 60));
/// After this long without a mapping the router is asked again, if one has made any: it may have been rebooting.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// The same if none ever has: others' mappings may have ended, or somebody has switched it on. Asking takes two
/// kilobytes.
const RARE_RETRY: Duration = Duration::from_secs(30 * 60);
/// How long asking may take by each protocol.
const ASKING: Duration = Duration::from_secs(5);
/// PCP and NAT-PMP are one exchange and UPnP at least four: when UPnP answers first, they still get so long.
const HEAD_START: Duration = Duration::from_millis(250);
/// Taking a mapping back must not keep a process from its end.
const REMOVAL: Duration = Duration::from_secs(1);

/// What is wanted of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    gateway: Option<Gateway>,
}

/// The driver's end. Dropping it takes the mapping back.
#[derive(Debug)]
pub(crate) struct PortMap {
    wish: watch::Sender<Option<Wish>>,
    mapped: mpsc::Receiver<Option<SocketAddr>>,
}

impl PortMap {
    /// Nothing is asked yet. The task ends when it has taken its mapping back after the driver's end is dropped.
    pub(crate) fn new(
        port: u16,
        lease: Duration,
        egress: Arc<Egress>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (wish, wishes) = watch::channel(None);
        let (told, mapped) = mpsc::channel(1);
        let task = Task { port, lease, egress, wishes, told };
        (Self { wish, mapped }, task.run())
    }

    /// A mapping is of use, or no more. Said again when the machine's router may be another one.
    pub(crate) fn want(&self, wanted: bool) {
        let wish = wanted.then(|| Wish { gateway: interfaces::default_gateway() });
        self.wish.send_if_modified(|known| {
            let is_news = *known != wish;
            *known = wish;
            is_news
        });
    }

    /// The machine's router may be another one.
    pub(crate) fn look_again(&self) {
        let is_wanted = self.wish.borrow().is_some();
        self.want(is_wanted);
    }

    /// The mapped address whenever it changes. Cancelling loses nothing.
    pub(crate) async fn changed(&mut self) -> Option<SocketAddr> {
        match self.mapped.recv().await {
            Some(mapped) => mapped,
            // The task lives as long as this does.
            None => std::future::pending().await,
        }
    }
}

/// Why there is no mapping.
#[derive(Debug, Error)]
enum MapError {
    /// The gate is closed.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The machine has no router that it knows of.
    #[error("no default router is known")]
    NoGateway,
    /// Nothing answered.
    #[error("no answer")]
    TimedOut,
    /// By PCP and NAT-PMP.
    #[error(transparent)]
    Pmp(#[from] pmp::PmpError),
    /// By UPnP.
    #[error(transparent)]
    Upnp(#[from] upnp::UpnpError),
}

/// A mapping.
#[derive(Debug)]
enum Lease {
    Pmp(pmp::Lease),
    Upnp(upnp::Lease),
}

impl Lease {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Pmp(lease) => lease.addr(),
            Self::Upnp(lease) => lease.addr(),
        }
    }

    fn renewal(&self) -> Duration {
        let lifetime = match self {
            Self::Pmp(lease) => lease.lifetime(),
            Self::Upnp(lease) => lease.lifetime(),
        };
        (lifetime / 2).clamp(RENEWAL.0, RENEWAL.1)
    }

    async fn renew(&mut self) -> Result<(), MapError> {
        let renewal = async {
            match self {
                Self::Pmp(lease) => lease.renew().await.map_err(MapError::from),
                Self::Upnp(lease) => lease.renew().await.map_err(MapError::from),
            }
        };
        timeout(ASKING, renewal).await.map_err(|_| MapError::TimedOut)?
    }

    async fn remove(self) {
        let addr = self.addr();
        let removal = async {
            match self {
                Self::Pmp(lease) => lease.remove().await.map_err(MapError::from),
                Self::Upnp(lease) => lease.remove().await.map_err(MapError::from),
            }
        };
        match timeout(REMOVAL, removal).await {
            Ok(Ok(())) => tracing::debug!(%addr, "took the port mapping back"),
            Ok(Err(error)) => tracing::debug!(%addr, %error, "the port mapping ends with its lease"),
            Err(_) => tracing::debug!(%addr, "the port mapping ends with its lease: no answer"),
        }
    }
}

struct Task {
    port: u16,
    /// What a mapping is asked for.
    lease: Duration,
    egress: Arc<Egress>,
    wishes: watch::Receiver<Option<Wish>>,
    told: mpsc::Sender<Option<SocketAddr>>,
}

impl Task {
    async fn run(mut self) {
        let mut retry = RARE_RETRY;
        loop {
            let wish = self.wishes.borrow_and_update().clone();
            let Some(wish) = wish else {
                if self.wishes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut wishes = self.wishes.clone();
            let found = tokio::select! {
                found = find(self.port, self.lease, &wish, &self.egress) => found,
                changed = wishes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let goes_on = match found {
                Ok(lease) => {
                    retry = RETRY;
                    self.keep(lease).await
                }
                Err(error) => {
                    tracing::debug!(%error, "no port mapping");
                    self.rest(retry).await
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Keeps a mapping until it fails or another wish is there; false if the driver is gone.
    async fn keep(&mut self, mut lease: Lease) -> bool {
        let addr = lease.addr();
        tracing::info!(%addr, "the router has mapped a port");
        // A driver that is gone is noticed below.
        let _ = self.told.send(Some(addr)).await;
        loop {
            tokio::select! {
                changed = self.wishes.changed() => {
                    let _ = self.told.send(None).await;
                    lease.remove().await;
                    return changed.is_ok();
                }
                () = sleep(lease.renewal()) => {
                    let renewed = lease.renew().await;
                    if renewed.is_ok() && lease.addr() == addr {
                        continue;
                    }
                    tracing::info!(%addr, error = ?renewed.err(), "the port mapping is lost");
                    let _ = self.told.send(None).await;
                    return true;
                }
            }
        }
    }

    /// Waits for another attempt; false if the driver is gone.
    async fn rest(&mut self, wait: Duration) -> bool {
        tokio::select! {
            changed = self.wishes.changed() => changed.is_ok(),
            () = sleep(wait) => true,
        }
    }
}

/// Asks by all protocols at once, and has the first that answers make the mapping.
async fn find(port: u16, lease: Duration, wish: &Wish, egress: &Arc<Egress>) -> Result<Lease, MapError> {
    let gateway = wish.gateway.as_ref().map(|gateway| IpAddr::V4(gateway.ip));
    egress.check_port_mapping()?;
    let pmp = async {
        let gateway = gateway.ok_or(MapError::NoGateway)?;
        let asked = timeout(ASKING, pmp::Lease::ask(gateway, port, lease)).await;
        asked.map_err(|_| MapError::TimedOut)?.map(Lease::Pmp).map_err(MapError::from)
    };
    let upnp = async {
        let found = timeout(ASKING, upnp::Router::find(egress, gateway)).await;
        found.map_err(|_| MapError::TimedOut)?.map_err(MapError::from)
    };
    tokio::pin!(pmp, upnp);
    let router = tokio::select! {
        lease = &mut pmp => match lease {
            Ok(lease) => return Ok(lease),
            Err(error) => {
                tracing::debug!(%error, "neither PCP nor NAT-PMP");
                upnp.await?
            }
        },
        router = &mut upnp => {
            let patience = if router.is_ok() { HEAD_START } else { ASKING };
            match (timeout(patience, pmp).await, router) {
                (Ok(Ok(lease)), _) => return Ok(lease),
                (_, Ok(router)) => router,
                (Ok(Err(error)), Err(_)) => return Err(error),
                (Err(_), Err(error)) => return Err(error),
            }
        }
    };
    let made = timeout(ASKING, router.map(port, lease)).await;
    Ok(Lease::Upnp(made.map_err(|_| MapError::TimedOut)??))
}
