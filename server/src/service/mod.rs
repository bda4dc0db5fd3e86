//! The use cases. Each takes the time as an argument, decides, and has the store do the SQL.
//!
//! Deliberately absent: HTTP, and presence, which only the broker knows.

mod admit;
pub(crate) mod audit;
mod cluster_secrets;
mod error;
mod foreign;
mod registry;
mod relay;
mod revocations;
mod tokens;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork};

pub(crate) use admit::{Admission, CERTIFICATE_LIFETIME_S};
pub(crate) use audit::{Action, Actor, note};
pub use audit::{AuditError, verify_audit};
pub(crate) use error::ServiceError;
pub(crate) use foreign::Foreign;
pub(crate) use registry::establish_cluster;
pub(crate) use relay::{
    DEFAULT_LIFETIME_S, Keyring, MAX_LIFETIME_S, MAX_MINTED_USER_LEN, MAX_PASSWORD_LEN, MAX_SECRET_LEN,
    MIN_PASSWORD_LEN, RelayKeys,
};
pub(crate) use revocations::InForce;
pub(crate) use tokens::{MAX_LABEL_LEN, NewToken};

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

/// A served cluster.
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) name: ClusterName,
    pub(crate) kind: ClusterNetwork,
    pub(crate) effective: EffectiveNetwork,
    pub(crate) created_ms: i64,
    pub(crate) open_join: bool,
    key: SigningKey,
}

/// The use cases, over the registry.
pub(crate) struct Service {
    store: Store,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// Clusters whose home is another server.
    foreign: BTreeMap<ClusterName, Foreign>,
    stun: Vec<StunServer>,
    /// Mints and checks STUN and TURN credentials.
    keyring: Keyring,
    events: Hub,
}

impl Service {
    pub(crate) fn new(store: Store, clusters: Vec<Cluster>, stun: Vec<StunServer>, keyring: Keyring) -> Self {
        let clusters = clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect();
        Self { store, clusters, foreign: BTreeMap::new(), stun, keyring, events: Hub::new() }
    }

    /// The clusters as the broker needs them.
    pub(crate) fn broker_clusters(&self) -> impl Iterator<Item = ClusterConfig> + '_ {
        let own = self.clusters.values().filter(|cluster| !self.foreign.contains_key(&cluster.name));
        let own = own.map(|cluster| ClusterConfig {
            name: cluster.name.clone(),
            kind: cluster.kind,
            effective: cluster.effective,
            key: cluster.key.clone(),
            home: None,
            open_join: cluster.open_join,
            admit_relayed: false,
            stun: self.stun.clone(),
        });
        own.chain(self.foreign.values().map(|foreign| foreign.config(self.stun.clone())))
    }

    /// What happens, for those who watch.
    pub(crate) fn events(&self) -> &Hub {
        &self.events
    }

    /// All clusters, by name.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.values()
    }

    /// A cluster by its name as it came from outside.
    pub(crate) fn cluster(&self, name: &str) -> Result<&Cluster, ServiceError> {
        let known = name.parse::<ClusterName>().ok().and_then(|name| self.clusters.get(&name));
        known.ok_or(ServiceError::UnknownCluster)
    }

    /// Proves that a write becomes durable.
    pub(crate) async fn probe(&self, now: UnixMs) -> Result<(), ServiceError> {
        Ok(self.store.probe(now.0).await?)
    }
}

#[cfg(test)]
mod tests;
