//! Nodes as they are registered.

use std::net::SocketAddr;

use meetpoint_proto::{ClusterName, Evidence, NetworkClass, NodeId};
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{Service, ServiceError, UnixMs};
use crate::store::StoreError;
use crate::store::nodes::{self, NodeRow};

impl Service {
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
        let Ok(cluster) = self.cluster(cluster.as_str()).map(|cluster| cluster.id) else { return };
        self.store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move { nodes::classify(tx, cluster, &id, class, evidence, observed, now.0).await })
        });
    }

    /// Notes that a node was there until now, in the order of the calls.
    pub(crate) fn note_seen(&self, now: UnixMs, cluster: &ClusterName, id: NodeId) {
        let Ok(cluster) = self.cluster(cluster.as_str()).map(|cluster| cluster.id) else { return };
        self.store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move { nodes::seen(tx, cluster, &id, now.0).await })
        });
    }

    /// Forgets a node if it is an ephemeral one, in the order of the calls.
    pub(crate) fn forget(&self, cluster: &ClusterName, id: NodeId) {
        let Ok(cluster) = self.cluster(cluster.as_str()).map(|cluster| cluster.id) else { return };
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
