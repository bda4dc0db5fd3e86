//! Nodes are removed, and let in again.

use std::collections::BTreeMap;
use std::sync::Arc;

use meetpoint_proto::wire::RevocationText;
use meetpoint_proto::{ClusterName, NodeId, Revocation};
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{CERTIFICATE_LIFETIME_S, Cluster, Service, ServiceError, UnixMs};
use crate::store::nodes;
use crate::store::revocations::{self, RevocationRow};

/// Removed nodes of one cluster: as many as it may have nodes.
const MAX_REVOCATIONS: i64 = 100_000;
/// As many as the broker keeps.
const MAX_IN_FORCE: u32 = 10_000;

/// Revocations that are told in one request, and of which each is a signature to verify.
pub(crate) const MAX_TOLD: usize = 16;

/// A removed node that members have to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    /// Seconds since 1970.
    pub(crate) until_unix_s: u64,
}

impl Service {
    /// Removes a node from the registry and keeps it out until that is lifted, whatever it shows. Gives
    /// until when, in seconds since 1970, its certificate may hold. Its session is the broker's to end.
    pub(crate) async fn remove_node(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: NodeId,
    ) -> Result<u64, ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let until_unix_s = now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S;
        let work = self.store.write(move |tx| {
            Box::pin(async move {
                let node = nodes::find(&mut *tx, cluster, &id).await?.ok_or(ServiceError::UnknownNode)?;
                if revocations::count(tx, cluster).await? >= MAX_REVOCATIONS {
                    return Err(ServiceError::ClusterFull);
                }
                nodes::delete(tx, cluster, &id).await?;
                let detail = json!({ "name": node.name.as_str() });
                record(tx, now, &actor, Action::NodeRemove, &target, detail).await?;
                let row = RevocationRow {
                    node: id,
                    name: node.name,
                    revoked_ms: now.0,
                    until_s: i64::try_from(until_unix_s).unwrap_or(i64::MAX),
                };
                Ok(revocations::put(tx, cluster, &row).await?)
            })
        });
        work.await?;
        self.removed.notify_one();
        Ok(until_unix_s)
    }

    /// The revocations in force of each own cluster, in its signed words. None of clusters without any.
    pub(crate) async fn signed_revocations(
        &self,
        now: UnixMs,
    ) -> Result<Vec<(Arc<Cluster>, Vec<RevocationText>)>, ServiceError> {
        let mut signed: BTreeMap<ClusterName, Vec<RevocationText>> = BTreeMap::new();
        let clusters = self.clusters();
        for InForce { cluster, node, until_unix_s } in self.revocations_in_force(now).await? {
            let Some(own) = clusters.get(&cluster) else { continue };
            let text = Revocation { node, until_unix_s }.sign(&cluster, &own.key);
            signed.entry(cluster).or_default().push(text);
        }
        let with_cluster = |(name, texts)| Some((Arc::clone(clusters.get(&name)?), texts));
        Ok(signed.into_iter().filter_map(with_cluster).collect())
    }

    /// Makes sure that all of this is a foreign cluster's own word.
    pub(crate) fn check_told(
        &self,
        cluster: &str,
        told: &[RevocationText],
    ) -> Result<ClusterName, ServiceError> {
        let name = cluster.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
        let foreign = self.foreign_clusters();
        let Some(foreign) = foreign.get(&name) else {
            let is_own = self.clusters().contains_key(&name);
            return Err(if is_own { ServiceError::OwnCluster } else { ServiceError::UnknownCluster });
        };
        let is_its_word = |text: &RevocationText| Revocation::verify(text, &name, &foreign.home).is_some();
        if told.iter().all(is_its_word) { Ok(name) } else { Err(ServiceError::BadRevocation) }
    }

    /// Lets a removed node join again, by a right to join like any other.
    pub(crate) async fn restore_node(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: NodeId,
    ) -> Result<(), ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let work = self.store.write(move |tx| {
            Box::pin(async move {
                if !revocations::delete(tx, cluster, &id).await? {
                    return Err(ServiceError::UnknownRevocation);
                }
                record(tx, now, &actor, Action::NodeRestore, &target, json!({})).await
            })
        });
        work.await
    }

    /// At most `limit` removed nodes with an id above `after`.
    pub(crate) async fn revocations(
        &self,
        cluster: &str,
        after: Option<NodeId>,
        limit: u32,
    ) -> Result<Vec<RevocationRow>, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        Ok(self.store.timed(revocations::page(self.store.reads(), cluster, after, limit)).await?)
    }

    /// Removed nodes whose certificates may still hold, in all clusters.
    pub(crate) async fn revocations_in_force(&self, now: UnixMs) -> Result<Vec<InForce>, ServiceError> {
        let rows =
            self.store.timed(revocations::in_force(self.store.reads(), now.0 / 1000, MAX_IN_FORCE)).await?;
        let told = rows.into_iter().map(|(cluster, node, until_s)| InForce {
            cluster,
            node,
            until_unix_s: until_s.max(0).unsigned_abs(),
        });
        Ok(told.collect())
    }

    /// Takes a node's session away: to come back it has to show a right to join. Ending the present
    /// connection is the broker's.
    pub(crate) async fn end_session(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: NodeId,
    ) -> Result<(), ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let work = self.store.write(move |tx| {
            Box::pin(async move {
                if !nodes::end_session(tx, cluster, &id).await? {
                    return Err(ServiceError::UnknownNode);
                }
                record(tx, now, &actor, Action::SessionEnd, &target, json!({})).await
            })
        });
        work.await
    }
}
