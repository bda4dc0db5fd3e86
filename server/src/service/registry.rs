//! Clusters, seeds and nodes as they are registered.

use std::net::SocketAddr;

use ed25519_dalek::SigningKey;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork, Evidence, NetworkClass, NodeId};
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{Cluster, Service, ServiceError, UnixMs};
use crate::seeds::Judged;
use crate::store::clusters::{self, ClusterRow};
use crate::store::nodes::{self, NodeRow};
use crate::store::seeds::{self, SeedRow};
use crate::store::{Store, StoreError};

impl Cluster {
    /// A registered cluster as it is served now.
    pub(crate) fn new(row: ClusterRow, effective: EffectiveNetwork, open_join: bool) -> Self {
        Self {
            id: row.id,
            name: row.name,
            kind: row.kind,
            effective,
            created_ms: row.created_ms,
            open_join,
            key: SigningKey::from_bytes(&row.signing_key),
        }
    }
}

/// Registers a cluster with exactly these seeds, unless it is there; then only its seeds change.
pub(crate) async fn establish_cluster(
    store: &Store,
    now: UnixMs,
    name: ClusterName,
    kind: ClusterNetwork,
    signing_key: [u8; 32],
    given: Vec<Judged>,
) -> Result<ClusterRow, ServiceError> {
    let work = store.write(move |tx| {
        Box::pin(async move {
            clusters::insert(tx, &name, kind, &signing_key, now.0).await?;
            let row = clusters::all(&mut *tx).await?.into_iter().find(|row| row.name == name);
            let row = row.ok_or(StoreError::Corrupt("clusters.name"))?;
            for old in seeds::all(&mut *tx, row.id).await? {
                if given.iter().all(|judged| judged.seed.name != old.addr.name) {
                    seeds::delete(tx, row.id, old.addr.name.as_str()).await?;
                }
            }
            for judged in &given {
                seeds::upsert(tx, row.id, &judged.seed, judged.is_public, now.0).await?;
            }
            Ok(row)
        })
    });
    work.await
}

impl Service {
    /// The seeds of a cluster, by name.
    pub(crate) async fn seeds(&self, cluster: &str) -> Result<Vec<SeedRow>, ServiceError> {
        Ok(seeds::all(self.store.reads(), self.cluster(cluster)?.id).await?)
    }

    /// One of them.
    pub(crate) async fn seed(&self, cluster: &str, name: &str) -> Result<SeedRow, ServiceError> {
        let seeds = self.seeds(cluster).await?;
        seeds.into_iter().find(|seed| seed.addr.name.as_str() == name).ok_or(ServiceError::UnknownSeed)
    }

    /// At most `limit` nodes with an id above `after`.
    pub(crate) async fn nodes(
        &self,
        cluster: &str,
        after: Option<NodeId>,
        limit: u32,
    ) -> Result<Vec<NodeRow>, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        Ok(nodes::page(self.store.reads(), cluster, after, limit).await?)
    }

    /// One node.
    pub(crate) async fn node(&self, cluster: &str, id: &NodeId) -> Result<NodeRow, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        nodes::find(self.store.reads(), cluster, id).await?.ok_or(ServiceError::UnknownNode)
    }

    /// How many nodes a cluster has, present or not.
    pub(crate) async fn node_count(&self, cluster: &str) -> Result<i64, ServiceError> {
        Ok(nodes::count(self.store.reads(), self.cluster(cluster)?.id).await?)
    }

    /// Removes a node from the registry. Its session is the broker's to end.
    pub(crate) async fn remove_node(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: NodeId,
    ) -> Result<(), ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let removed = self.store.write(move |tx| {
            Box::pin(async move {
                let node = nodes::find(&mut *tx, cluster, &id).await?.ok_or(ServiceError::UnknownNode)?;
                nodes::delete(tx, cluster, &id).await?;
                let detail = json!({ "name": node.name.as_str() });
                record(tx, now, &actor, Action::NodeRemove, &target, detail).await
            })
        });
        removed.await
    }

    /// Notes a verdict, in the order of the calls.
    pub(crate) fn note_class(
        &self,
        now: UnixMs,
        cluster: &ClusterName,
        id: NodeId,
        (class, evidence, observed): (NetworkClass, Evidence, Option<SocketAddr>),
    ) {
        let Ok(Cluster { id: cluster, .. }) = self.cluster(cluster.as_str()) else { return };
        let cluster = *cluster;
        self.store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move { nodes::classify(tx, cluster, &id, class, evidence, observed, now.0).await })
        });
    }

    /// Notes that a node was there until now, in the order of the calls.
    pub(crate) fn note_seen(&self, now: UnixMs, cluster: &ClusterName, id: NodeId) {
        let Ok(Cluster { id: cluster, .. }) = self.cluster(cluster.as_str()) else { return };
        let cluster = *cluster;
        self.store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move { nodes::seen(tx, cluster, &id, now.0).await })
        });
    }

    /// Forgets a node if it is an ephemeral one, in the order of the calls.
    pub(crate) fn forget(&self, cluster: &ClusterName, id: NodeId) {
        let Ok(Cluster { id: cluster, .. }) = self.cluster(cluster.as_str()) else { return };
        let cluster = *cluster;
        self.store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move { nodes::forget(tx, cluster, &id).await })
        });
    }

    /// Forgets the ephemeral nodes of an earlier run of the server that did not come back.
    pub(crate) async fn forget_unseen(&self, before: UnixMs) -> Result<u64, ServiceError> {
        let work =
            self.store.write(move |tx| Box::pin(async move { nodes::forget_unseen(tx, before.0).await }));
        Ok(work.await?)
    }
}
