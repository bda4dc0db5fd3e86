//! Nodes as they are registered.

use meetpoint_proto::NodeId;

use super::{Service, ServiceError, UnixMs};
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
        Ok(self.store.timed(nodes::page(self.store.reads(), cluster, after, limit)).await?)
    }

    /// One node.
    pub(crate) async fn node(&self, cluster: &str, id: &NodeId) -> Result<NodeRow, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        self.store.timed(nodes::find(self.store.reads(), cluster, id)).await?.ok_or(ServiceError::UnknownNode)
    }

    /// How many nodes a cluster has, present or not.
    pub(crate) async fn node_count(&self, cluster: &str) -> Result<i64, ServiceError> {
        Ok(self.store.timed(nodes::count(self.store.reads(), self.cluster(cluster)?.id)).await?)
    }

    /// Forgets the ephemeral nodes of an earlier run of the server that did not come back.
    pub(crate) async fn forget_unseen(&self, before: UnixMs) -> Result<u64, ServiceError> {
        let work =
            self.store.write(move |tx| Box::pin(async move { nodes::forget_unseen(tx, before.0).await }));
        Ok(work.await?)
    }
}
