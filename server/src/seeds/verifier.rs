//! The task that asks the seeds whether they are there, each some minutes after the last time.
//!
//! What is found goes to the registry; what that means for the cluster is the service's and the rules'
//! matter. Of a failed attempt only one thing is told, always after the same time: that there was no
//! proof. So nobody learns from this server which ports of others are open, closed or filtered.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meetpoint_proto::{
    AddressClass, ClusterName, ClusterNetwork, Code, EffectiveNetwork, PublicKey, SeedAddr, SeedName, addr,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::dial::{self, Unproven};
use super::me::Me;
use super::pace::Pace;
use super::{Checked, class, lookup};
use crate::clock;
use crate::config::SeedTiming;
use crate::defence::{Defence, Defences};
use crate::secrets;
use crate::service::{Service, UnixMs};
use crate::store::seeds::SeedRow;

/// Attempts at once. The others wait for their turn.
const MAX_RUNNING: usize = 16;
/// Failed attempts in a row that make a seed down.
const DOWN_AFTER: u32 = 3;
/// When to look again at a registry that did not answer.
const REGISTRY_PAUSE: Duration = Duration::from_secs(10);

type Key = (ClusterName, SeedName);

/// What an attempt depends on. If it changes, the seed is asked anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    addr: SeedAddr,
    approved: bool,
    key: Option<PublicKey>,
    network: (ClusterNetwork, EffectiveNetwork),
}

struct Entry {
    facts: Facts,
    row: SeedRow,
    due: Instant,
    is_running: bool,
    attempts: usize,
    failures: u32,
}

/// What an attempt needs.
struct Attempt {
    row: SeedRow,
    network: (ClusterNetwork, EffectiveNetwork),
    /// Which one it is; the addresses of a host take turns.
    number: usize,
    patience: Duration,
    me: Arc<Me>,
    pace: Arc<Mutex<Pace>>,
    defences: Defences,
}

/// What came of it.
enum Outcome {
    Checked(Checked),
    /// The host was asked a short while ago.
    Later(Instant),
}

/// The task's state.
pub(crate) struct Verifier {
    service: Arc<Service>,
    me: Arc<Me>,
    timing: SeedTiming,
    entries: BTreeMap<Key, Entry>,
    pace: Arc<Mutex<Pace>>,
    running: JoinSet<(Key, SeedRow, Outcome)>,
}

impl Verifier {
    pub(crate) fn new(service: Arc<Service>, me: Arc<Me>, timing: SeedTiming) -> Self {
        Self {
            service,
            me,
            timing,
            entries: BTreeMap::new(),
            pace: Arc::new(Mutex::new(Pace::new(timing.per_target))),
            running: JoinSet::new(),
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let service = Arc::clone(&self.service);
        let mut look_again = self.refresh().await;
        loop {
            self.start_due();
            let waiting = self.entries.values().filter(|entry| !entry.is_running).map(|entry| entry.due);
            let due = if self.running.len() < MAX_RUNNING { waiting.min() } else { None };
            tokio::select! {
                () = stop.cancelled() => return,
                () = service.seeds_changed.notified() => look_again = self.refresh().await,
                () = clock::sleep_until(look_again), if look_again.is_some() => look_again = self.refresh().await,
                Some(done) = self.running.join_next() => match done {
                    Ok((key, asked, outcome)) => self.done(key, asked, outcome).await,
                    Err(error) => warn!(%error, "an attempt to ask a seed broke off"),
                },
                () = clock::sleep_until(due) => {}
            }
        }
    }

    /// Takes the seeds as they are registered now. Tells when to look again if that failed.
    async fn refresh(&mut self) -> Option<Instant> {
        let mut seen = BTreeMap::new();
        for cluster in self.service.clusters().values() {
            let rows = match self.service.seeds(cluster.name.as_str()).await {
                Ok(rows) => rows,
                Err(error) => {
                    warn!(%error, "the seeds can't be read; they are not asked meanwhile");
                    return Some(Instant::now() + REGISTRY_PAUSE);
                }
            };
            for row in rows {
                let key = (cluster.name.clone(), row.addr.name.clone());
                let entry = self.entry(&key, row, (cluster.kind, cluster.effective));
                seen.insert(key, entry);
            }
        }
        self.entries = seen;
        None
    }

    fn entry(&mut self, key: &Key, row: SeedRow, network: (ClusterNetwork, EffectiveNetwork)) -> Entry {
        let facts = Facts { addr: row.addr.clone(), approved: row.approved, key: row.public_key, network };
        match self.entries.remove(key) {
            Some(known) if known.facts == facts => Entry { row, ..known },
            known => Entry {
                facts,
                row,
                due: Instant::now() + self.timing.settle,
                is_running: known.is_some_and(|known| known.is_running),
                attempts: 0,
                failures: 0,
            },
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for (key, entry) in &mut self.entries {
            if self.running.len() >= MAX_RUNNING {
                return;
            }
            if entry.is_running || now < entry.due {
                continue;
            }
            entry.is_running = true;
            let attempt = Attempt {
                row: entry.row.clone(),
                network: entry.facts.network,
                number: entry.attempts,
                patience: self.timing.patience,
                me: Arc::clone(&self.me),
                pace: Arc::clone(&self.pace),
                defences: self.service.defences,
            };
            entry.attempts += 1;
            let key = key.clone();
            self.running.spawn(async move {
                let outcome = attempt.run().await;
                (key, attempt.row, outcome)
            });
        }
    }

    async fn done(&mut self, key: Key, asked: SeedRow, outcome: Outcome) {
        let now = Instant::now();
        // It may have been deleted meanwhile.
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.is_running = false;
        if (&entry.row.addr, entry.row.public_key) != (&asked.addr, asked.public_key) {
            return;
        }
        let checked = match outcome {
            Outcome::Later(due) => {
                entry.due = due;
                return;
            }
            Outcome::Checked(checked) => checked,
        };
        entry.due = now + jittered(self.timing.interval);
        let checked = match checked {
            Checked::Failed { code, .. } => {
                entry.failures = entry.failures.saturating_add(1);
                entry.due = now + jittered(self.timing.per_target);
                Checked::Failed { code, is_down: entry.failures >= DOWN_AFTER }
            }
            other => {
                entry.failures = 0;
                other
            }
        };
        if let Checked::Proven { key, .. } = &checked {
            // What this attempt has pinned is no reason for another one.
            entry.facts.key = Some(*key);
        }
        debug!(seed = %asked.addr, ?checked, "asked");
        if let Err(error) = self.service.note_seed_check(UnixMs::now(), key.0.as_str(), asked, checked).await
        {
            warn!(%error, "what was found out about a seed could not be stored");
        }
    }
}

impl Attempt {
    async fn run(&self) -> Outcome {
        let seed = &self.row.addr;
        let ips = lookup(seed).await;
        if ips.is_empty() {
            return failed(Code::SeedUnresolved);
        }
        if ips.iter().any(|ip| self.me.is_at(SocketAddr::new(*ip, seed.port))) {
            return self.shown(self.me.public_key(), ips);
        }
        let ip = match self.choose(&ips) {
            Ok(ip) => ip,
            Err(checked) => return Outcome::Checked(checked),
        };
        let asked =
            self.pace.lock().unwrap_or_else(PoisonError::into_inner).ask(Instant::now(), &seed.host, ip);
        match asked {
            Err(later) if self.defences.stand(Defence::Pace) => return Outcome::Later(later),
            _ => {}
        }
        let ends = tokio::time::Instant::now() + self.patience;
        let found = tokio::time::timeout_at(ends, dial::ask(SocketAddr::new(ip, seed.port))).await;
        match found.unwrap_or(Err(Unproven::Silent)) {
            Ok(key) => self.shown(key, ips),
            Err(Unproven::NotHere) => failed(Code::SeedNotHere),
            Err(Unproven::Silent) => {
                if self.defences.stand(Defence::Silence) {
                    // A closed port says so at once, a filtered one never.
                    tokio::time::sleep_until(ends).await;
                }
                failed(Code::SeedUnreachable)
            }
        }
    }

    /// The one address that is asked this time.
    fn choose(&self, ips: &[IpAddr]) -> Result<IpAddr, Checked> {
        let (kind, effective) = self.network;
        if kind == ClusterNetwork::Private && class(ips) == AddressClass::Public {
            return Err(Checked::Refused(Code::PublicSeedInPrivateCluster));
        }
        let guarded = self.defences.stand(Defence::Addresses);
        let fits = |ip: &&IpAddr| match addr::classify(**ip) {
            AddressClass::Public => true,
            AddressClass::Special => !guarded,
            AddressClass::Loopback | AddressClass::Private => {
                effective == EffectiveNetwork::Private || !guarded
            }
        };
        let fitting: Vec<IpAddr> = ips.iter().filter(fits).copied().collect();
        if fitting.is_empty() {
            return Err(Checked::NotAsked(Code::SeedAddressRefused));
        }
        let ip = fitting[self.number % fitting.len()];
        let from = self.row.registered_from.map(addr::canonical);
        if guarded && !self.row.approved && from != Some(addr::canonical(ip)) {
            return Err(Checked::NotAsked(Code::SeedNotApproved));
        }
        Ok(ip)
    }

    /// Somebody has shown this key.
    fn shown(&self, key: PublicKey, ips: Vec<IpAddr>) -> Outcome {
        let fits = self.row.public_key.is_none_or(|pinned| pinned == key);
        Outcome::Checked(if fits {
            Checked::Proven { key, ips }
        } else {
            Checked::Refused(Code::SeedWrongKey)
        })
    }
}

/// Whether it is down is not the attempt's to say.
fn failed(code: Code) -> Outcome {
    Outcome::Checked(Checked::Failed { code, is_down: false })
}

/// A tenth more or less, so that servers that started together do not ask together for ever.
fn jittered(time: Duration) -> Duration {
    let [byte] = secrets::random::<1>().unwrap_or([128]);
    time.mul_f64(0.9 + f64::from(byte) * 0.2 / 255.0)
}

#[cfg(test)]
mod tests;
