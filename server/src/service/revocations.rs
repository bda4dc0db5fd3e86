//! Nodes are removed, and let in again.

use meetpoint_proto::{ClusterName, NodeId};
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{CERTIFICATE_LIFETIME_S, Service, ServiceError, UnixMs};
use crate::store::nodes;
use crate::store::revocations::{self, RevocationRow};

/// Removed nodes of one cluster: as many as it may have nodes.
const MAX_REVOCATIONS: i64 = 100_000;
/// As many as the broker keeps.
const MAX_IN_FORCE: u32 = 10_000;

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
                let row = RevocationRow {
                    node: id,
                    name: node.name,
                    revoked_ms: now.0,
                    until_s: i64::try_from(until_unix_s).unwrap_or(i64::MAX),
                };
                revocations::put(tx, cluster, &row).await?;
                record(tx, now, &actor, Action::NodeRemove, &target, json!({ "name": row.name.as_str() }))
                    .await
            })
        });
        work.await?;
        Ok(until_unix_s)
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
        Ok(revocations::page(self.store.reads(), cluster, after, limit).await?)
    }

    /// Removed nodes whose certificates may still hold, in all clusters.
    pub(crate) async fn revocations_in_force(&self, now: UnixMs) -> Result<Vec<InForce>, ServiceError> {
        let rows = revocations::in_force(self.store.reads(), now.0 / 1000, MAX_IN_FORCE).await?;
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
                record(tx, now, &actor, Action::NodeSessionEnd, &target, json!({})).await
            })
        });
        work.await
    }
}
