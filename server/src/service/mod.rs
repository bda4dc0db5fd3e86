//! The use cases. Each takes the time as an argument, decides, and has the store do the SQL.
//!
//! Deliberately absent: HTTP, and presence, which only the broker knows.

mod admit;
pub(crate) mod audit;
pub(crate) mod backup;
mod cluster_secrets;
mod clusters;
mod error;
mod foreign;
mod joins;
mod notes;
mod registered;
mod registry;
mod relay;
mod revocations;
mod seeds;
mod token_keys;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork};
use tokio::sync::{Mutex, Notify, Semaphore, watch};

pub(crate) use admit::{Admission, CERTIFICATE_LIFETIME_S};
pub(crate) use audit::{Action, Actor, note};
pub use audit::{AuditError, verify_audit};
pub(crate) use clusters::{Established, establish_cluster};
pub(crate) use error::ServiceError;
pub(crate) use foreign::{Foreign, ForeignClusters};
pub(crate) use relay::{
    DEFAULT_LIFETIME_S, Keyring, MAX_LIFETIME_S, MAX_MINTED_USER_LEN, MAX_PASSWORD_LEN, MAX_SECRET_LEN,
    MIN_PASSWORD_LEN, RelayKeys,
};
pub(crate) use revocations::{InForce, MAX_TOLD};
pub(crate) use seeds::{NewSeed, SignedRegistration};
pub(crate) use tokens::{MAX_LABEL_LEN, NewToken};

use crate::defence::Defences;
use crate::events::Hub;
use crate::store::Store;
use crate::store::clusters::ClusterId;

/// The cluster every server has.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnixMs(pub(crate) i64);

impl UnixMs {
    /// The wall clock; only shells call it.
    pub(crate) fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// For machines that count in unsigned milliseconds.
    pub(crate) fn unsigned(self) -> u64 {
        self.0.max(0).unsigned_abs()
    }
}

/// A served cluster, as it is at one moment.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) name: ClusterName,
    pub(crate) kind: ClusterNetwork,
    pub(crate) effective: EffectiveNetwork,
    pub(crate) created_ms: i64,
    pub(crate) open_join: bool,
    /// Keeps nodes that can only be relayed.
    pub(crate) admit_relayed: bool,
    key: SigningKey,
}

/// The served clusters, by name.
pub(crate) type Clusters = Arc<BTreeMap<ClusterName, Arc<Cluster>>>;

/// The use cases, over the registry.
pub(crate) struct Service {
    store: Store,
    /// What is served now. Replaced after the commit of what changed it, and followed by the broker.
    clusters: watch::Sender<Clusters>,
    /// Held during each change of a cluster or its seeds, so that they are published in the order of
    /// their commits.
    changing: Mutex<()>,
    /// Clusters whose home is another server.
    foreign: watch::Sender<ForeignClusters>,
    stun: Vec<StunServer>,
    /// Mints and checks STUN and TURN credentials.
    keyring: Keyring,
    /// Told when a cluster or its seeds may be others than they were.
    pub(crate) seeds_changed: Notify,
    /// Told when a node was removed.
    pub(crate) removed: Notify,
    pub(crate) defences: Defences,
    joins: joins::Joins,
    notes: notes::Notes,
    token_keys: token_keys::TokenKeys,
    events: Hub,
    /// A place for each backup that may be made or read at once.
    backups: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(store: Store, clusters: Vec<Cluster>, stun: Vec<StunServer>, keyring: Keyring) -> Self {
        let by_name = |cluster: Cluster| (cluster.name.clone(), Arc::new(cluster));
        let clusters: Clusters = Arc::new(clusters.into_iter().map(by_name).collect());
        Self {
            store,
            clusters: watch::Sender::new(clusters),
            changing: Mutex::default(),
            foreign: watch::Sender::default(),
            stun,
            keyring,
            seeds_changed: Notify::new(),
            removed: Notify::new(),
            defences: Defences::default(),
            joins: joins::Joins::default(),
            notes: notes::Notes::default(),
            token_keys: token_keys::TokenKeys::default(),
            events: Hub::new(),
            backups: Arc::new(Semaphore::new(1)),
        }
    }

    /// A cluster as the broker needs it.
    fn broker_cluster(&self, cluster: &Cluster) -> ClusterConfig {
        ClusterConfig {
            name: cluster.name.clone(),
            kind: cluster.kind,
            effective: cluster.effective,
            key: cluster.key.clone(),
            home: None,
            open_join: cluster.open_join,
            admit_relayed: cluster.admit_relayed,
            stun: self.stun.clone(),
        }
    }

    /// The clusters as they are now, and whenever one changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Clusters> {
        self.clusters.subscribe()
    }

    /// What happens, for those who watch.
    pub(crate) fn events(&self) -> &Hub {
        &self.events
    }

    /// All clusters.
    pub(crate) fn clusters(&self) -> Clusters {
        Arc::clone(&self.clusters.borrow())
    }

    /// A cluster that this server is the home of, by its name as it came from outside.
    pub(crate) fn cluster(&self, name: &str) -> Result<Arc<Cluster>, ServiceError> {
        let name = name.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
        let cluster = self.clusters.borrow().get(&name).cloned();
        cluster.ok_or_else(|| match self.foreign.borrow().contains_key(&name) {
            true => ServiceError::ForeignCluster,
            false => ServiceError::UnknownCluster,
        })
    }

    /// Proves that a write becomes durable.
    pub(crate) async fn probe(&self, now: UnixMs) -> Result<(), ServiceError> {
        Ok(self.store.probe(now.0).await?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
