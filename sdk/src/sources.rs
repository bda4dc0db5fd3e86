//! Where a node hears of servers besides those it is given: files, registries, the LAN, the environment.
//!
//! Each place is a [`SeedSource`]. All are asked at once, from the node's start to its end; the first server heard of
//! is gone to, later ones are remembered, and as long as the node is no member, whichever answers first is taken. A
//! source that fails is asked again, ever more seldom.
//!
//! **What is heard is a hint.** The server has to prove itself as any other: by a fingerprint that the node was given,
//! or by a public authority. A fingerprint that comes with a hint counts only where the place itself is trusted: a
//! file, the environment, a registry that has proven itself. On a LAN anybody may say anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meetpoint_proto::id::Fingerprint;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::egress::{Blocked, Egress};

mod announce;
#[cfg(feature = "dns")]
mod dns;
mod file;
mod list;
#[cfg(feature = "mdns")]
mod mdns;
mod multicast;
mod registry;
mod text;

pub use announce::{Announcement, Announcer, AnnouncerError};
#[cfg(feature = "dns")]
pub(crate) use dns::Again;
#[cfg(feature = "dns")]
pub use dns::Dns;
pub use file::SeedFile;
pub use list::{Environment, FixedSeeds};
#[cfg(feature = "mdns")]
pub use mdns::Mdns;
pub use multicast::{Multicast, MulticastGroup, ParseGroupError};
pub use registry::{Registry, RegistryError};
pub use text::SeedTextError;

#[cfg(all(feature = "fuzzing", feature = "mdns"))]
pub(crate) use mdns::resolved;

/// What an announcement from this address leads to.
#[cfg(feature = "fuzzing")]
pub(crate) fn announced(datagram: &[u8], source: std::net::IpAddr) -> Option<FoundSeed> {
    Announcement::parse(datagram)?.seed(source)
}

/// The servers of a list.
#[cfg(feature = "fuzzing")]
pub(crate) fn listed(text: &str) -> Option<Vec<FoundSeed>> {
    text::any(text).ok()
}

/// The variable that [`Environment`] reads.
pub const SEEDS_VARIABLE: &str = "MEETPOINT_SEEDS";
/// Sources of one node.
pub(crate) const MAX_SOURCES: usize = 32;
/// Seeds waiting for the node; a source that is quicker waits.
const QUEUE: usize = 32;
/// Seeds remembered of one source, so that what it says again costs nothing; a node knows fewer servers.
const MAX_TOLD: usize = 1_024;
/// A source that has failed is asked again after this, and then after twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A server that may be one of the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundSeed {
    /// `http://HOST:PORT`, `https://HOST:PORT` or `NAME@HOST:PORT`.
    pub address: String,
    /// The fingerprint of its certificate's key. Only for sources that nobody else can speak for.
    pub fingerprint: Option<Fingerprint>,
    /// Servers of a lower number are preferred; those that the user names have 0.
    pub priority: u16,
    /// Whom its certificate has to be for, if not for the host in the address.
    pub tls_name: Option<String>,
}

impl FoundSeed {
    /// One among equals, of which no fingerprint is known.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), fingerprint: None, priority: 0, tls_name: None }
    }
}

/// Why a source found nothing, or no more. It is asked again.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SourceError(Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// For whatever went wrong.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl From<Blocked> for SourceError {
    fn from(blocked: Blocked) -> Self {
        Self::new(blocked)
    }
}

impl From<std::io::Error> for SourceError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

/// What [`SeedSource::search`] gives.
pub type Search<'a> = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>>;

/// A place where a node hears of servers. See the `meetpoint::sources` module for those there are.
pub trait SeedSource: fmt::Debug + Send + Sync {
    /// What it is called in messages.
    fn label(&self) -> String;

    /// Tells each server as it is found, and goes on for as long as there may be more. `Ok` means that there never will
    /// be; after an error it is called again. It is dropped when the node ends.
    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a>;
}

/// Whom a source tells what it finds.
#[derive(Debug)]
pub struct Seeds {
    label: String,
    told: mpsc::Sender<Told>,
    known: Mutex<BTreeSet<FoundSeed>>,
    egress: Arc<Egress>,
}

impl Seeds {
    /// A server that may be one of the cluster's; saying it again is harmless.
    pub async fn tell(&self, seed: FoundSeed) {
        let is_new = {
            let mut known = lock(&self.known);
            known.len() < MAX_TOLD && known.insert(seed.clone())
        };
        if is_new {
            tracing::info!(source = %self.label, address = %seed.address, "heard of a server");
            // The node may be gone.
            let _ = self.told.send(Told { source: self.label.clone(), seed }).await;
        }
    }

    /// The way out, for sources that have to ask somebody.
    pub(crate) fn egress(&self) -> &Arc<Egress> {
        &self.egress
    }
}

/// What a source has found.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) source: String,
    pub(crate) seed: FoundSeed,
}

/// Why sources found nothing when last asked, by their labels.
type Failures = Arc<Mutex<BTreeMap<String, String>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All sources of a node at work; they end with it.
#[derive(Debug)]
pub(crate) struct Sources {
    _tasks: JoinSet<()>,
    told: mpsc::Receiver<Told>,
    failures: Failures,
}

impl Sources {
    /// Asks all at once. To be called within a runtime.
    pub(crate) fn start(sources: &[Arc<dyn SeedSource>], egress: &Arc<Egress>) -> Self {
        let (sender, told) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let failures = Failures::default();
        for source in sources {
            let source = Arc::clone(source);
            let (told, egress) = (sender.clone(), Arc::clone(egress));
            let seeds = Seeds { label: source.label(), told, known: Mutex::default(), egress };
            tasks.spawn(ask(source, seeds, Arc::clone(&failures)));
        }
        Self { _tasks: tasks, told, failures }
    }

    /// The next server heard of; `None` if no source can say any more. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }

    /// Why there is nothing from where.
    pub(crate) fn failures(&self) -> Vec<String> {
        lock(&self.failures).iter().map(|(label, error)| format!("{label}: {error}")).collect()
    }
}

async fn ask(source: Arc<dyn SeedSource>, seeds: Seeds, failures: Failures) {
    let mut wait = RETRY.0;
    while let Err(error) = source.search(&seeds).await {
        tracing::debug!(source = %seeds.label, %error, "no servers from there");
        lock(&failures).insert(seeds.label.clone(), error.to_string());
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}
