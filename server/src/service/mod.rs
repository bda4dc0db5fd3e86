//! The use cases. Each takes the time as an argument, decides, and has the store do the SQL.
//!
//! Deliberately absent: HTTP, and presence, which only the broker knows.

mod admit;
mod error;
mod registry;
mod tokens;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork};
use meetpoint_turn::Secrets;

pub(crate) use admit::{Admission, CERTIFICATE_LIFETIME_S};
pub(crate) use error::ServiceError;
pub(crate) use registry::establish_cluster;
pub(crate) use tokens::{MAX_LABEL_LEN, NewToken};

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
    stun: Vec<StunServer>,
    /// Mint the sessions' STUN credentials.
    stun_secrets: Secrets,
}

impl Service {
    pub(crate) fn new(
        store: Store,
        clusters: Vec<Cluster>,
        stun: Vec<StunServer>,
        stun_secrets: Secrets,
    ) -> Self {
        let clusters = clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect();
        Self { store, clusters, stun, stun_secrets }
    }

    /// The clusters as the broker needs them.
    pub(crate) fn broker_clusters(&self) -> impl Iterator<Item = ClusterConfig> + '_ {
        self.clusters.values().map(|cluster| ClusterConfig {
            name: cluster.name.clone(),
            kind: cluster.kind,
            effective: cluster.effective,
            key: cluster.key.clone(),
            open_join: cluster.open_join,
            admit_relayed: false,
            stun: self.stun.clone(),
        })
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

    /// Mints STUN and TURN credentials.
    pub(crate) fn mint(&self, user: &str, expires_unix_s: u64) -> (String, String) {
        self.stun_secrets.mint(user, expires_unix_s)
    }

    /// Proves that a write becomes durable.
    pub(crate) async fn probe(&self, now: UnixMs) -> Result<(), ServiceError> {
        Ok(self.store.probe(now.0).await?)
    }
}

#[cfg(test)]
mod tests;
