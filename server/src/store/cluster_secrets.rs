//! Cluster secrets: what checks a proof under one. It would also make one.

use meetpoint_proto::id::SecretId;
use meetpoint_proto::secret::SecretKey;
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, bytes};

/// A registered cluster secret.
#[derive(Debug, Clone)]
pub(crate) struct ClusterSecretRow {
    pub(crate) id: SecretId,
    pub(crate) key: SecretKey,
    pub(crate) created_ms: i64,
}

/// All of a cluster, the newest first.
pub(crate) async fn all(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<ClusterSecretRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT secret_id, mac_key, created_ms FROM cluster_secrets
         WHERE cluster_id = ? ORDER BY created_ms DESC, secret_id",
        cluster.0
    )
    .fetch_all(db)
    .await?;
    let row = |(id, key, created_ms)| {
        Ok(ClusterSecretRow {
            id: SecretId::from_bytes(bytes("cluster_secrets.secret_id", id)?),
            key: SecretKey::from_bytes(bytes("cluster_secrets.mac_key", key)?),
            created_ms,
        })
    };
    rows.into_iter().map(|raw| row((raw.secret_id, raw.mac_key, raw.created_ms))).collect()
}

/// Adds one.
pub(crate) async fn insert(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    secret: &ClusterSecretRow,
) -> Result<(), StoreError> {
    let (id, key) = (secret.id.as_bytes().as_slice(), secret.key.as_bytes().as_slice());
    sqlx::query!(
        "INSERT INTO cluster_secrets (cluster_id, secret_id, mac_key, created_ms) VALUES (?, ?, ?, ?)",
        cluster.0,
        id,
        key,
        secret.created_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Drops one. False if there is none.
pub(crate) async fn delete(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &SecretId,
) -> Result<bool, StoreError> {
    let id = id.as_bytes().as_slice();
    let done =
        sqlx::query!("DELETE FROM cluster_secrets WHERE cluster_id = ? AND secret_id = ?", cluster.0, id)
            .execute(db)
            .await?;
    Ok(done.rows_affected() > 0)
}
