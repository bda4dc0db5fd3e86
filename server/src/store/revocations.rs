//! Nodes that were removed.

use meetpoint_proto::{ClusterName, NodeId, NodeName};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, bytes, word};

/// A removed node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevocationRow {
    pub(crate) node: NodeId,
    /// What it was called then.
    pub(crate) name: NodeName,
    pub(crate) revoked_ms: i64,
    pub(crate) until_s: i64,
}

/// At most `limit` of them with an id above `after`, by id.
pub(crate) async fn page(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
    after: Option<NodeId>,
    limit: u32,
) -> Result<Vec<RevocationRow>, StoreError> {
    // Every id sorts above the empty blob.
    let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
    let rows = sqlx::query!(
        "SELECT node_id, name, revoked_ms, until_s FROM revocations
         WHERE cluster_id = ? AND node_id > ? ORDER BY node_id LIMIT ?",
        cluster.0,
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    let row = |(id, name, revoked_ms, until_s): (Vec<u8>, String, i64, i64)| {
        Ok(RevocationRow {
            node: NodeId::from_bytes(bytes("revocations.node_id", id)?),
            name: word("revocations.name", &name)?,
            revoked_ms,
            until_s,
        })
    };
    rows.into_iter().map(|raw| row((raw.node_id, raw.name, raw.revoked_ms, raw.until_s))).collect()
}

/// Of all clusters those that peers have to be told of, the last to end first.
pub(crate) async fn in_force(
    db: impl SqliteExecutor<'_>,
    now_s: i64,
    limit: u32,
) -> Result<Vec<(ClusterName, NodeId, i64)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT c.name, r.node_id, r.until_s FROM revocations r JOIN clusters c ON c.id = r.cluster_id
         WHERE r.until_s > ? ORDER BY r.until_s DESC LIMIT ?",
        now_s,
        limit
    )
    .fetch_all(db)
    .await?;
    let row = |(name, id, until_s): (String, Vec<u8>, i64)| {
        let id = NodeId::from_bytes(bytes("revocations.node_id", id)?);
        Ok((word("clusters.name", &name)?, id, until_s))
    };
    rows.into_iter().map(|raw| row((raw.name, raw.node_id, raw.until_s))).collect()
}

/// How many there are.
pub(crate) async fn count(db: &mut SqliteConnection, cluster: ClusterId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!("SELECT count(*) FROM revocations WHERE cluster_id = ?", cluster.0)
        .fetch_one(db)
        .await?;
    Ok(count)
}

/// Adds one, or begins it anew.
pub(crate) async fn put(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    revocation: &RevocationRow,
) -> Result<(), StoreError> {
    let (node, name) = (revocation.node.as_bytes().as_slice(), revocation.name.as_str());
    sqlx::query!(
        "INSERT INTO revocations (cluster_id, node_id, name, revoked_ms, until_s) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (cluster_id, node_id) DO UPDATE
         SET name = excluded.name, revoked_ms = excluded.revoked_ms, until_s = excluded.until_s",
        cluster.0,
        node,
        name,
        revocation.revoked_ms,
        revocation.until_s
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lifts one. False if there is none.
pub(crate) async fn delete(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    node: &NodeId,
) -> Result<bool, StoreError> {
    let node = node.as_bytes().as_slice();
    let done = sqlx::query!("DELETE FROM revocations WHERE cluster_id = ? AND node_id = ?", cluster.0, node)
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}
