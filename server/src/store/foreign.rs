//! Clusters whose home is another server.

use meetpoint_proto::{ClusterName, PublicKey};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::{StoreError, bytes, word};

/// A registered one.
#[derive(Debug, Clone)]
pub(crate) struct ForeignRow {
    pub(crate) name: ClusterName,
    pub(crate) public_key: PublicKey,
    pub(crate) created_ms: i64,
}

/// All of them, by name.
pub(crate) async fn all(db: impl SqliteExecutor<'_>) -> Result<Vec<ForeignRow>, StoreError> {
    let rows = sqlx::query!("SELECT name, public_key, created_ms FROM foreign_clusters ORDER BY name")
        .fetch_all(db)
        .await?;
    let row = |(name, key, created_ms): (String, Vec<u8>, i64)| {
        Ok(ForeignRow {
            name: word("foreign_clusters.name", &name)?,
            public_key: PublicKey::from_bytes(bytes("foreign_clusters.public_key", key)?),
            created_ms,
        })
    };
    rows.into_iter().map(|raw| row((raw.name, raw.public_key, raw.created_ms))).collect()
}

/// Adds one, or gives it another key.
pub(crate) async fn put(db: &mut SqliteConnection, row: &ForeignRow) -> Result<(), StoreError> {
    let (name, key) = (row.name.as_str(), row.public_key.as_bytes().as_slice());
    sqlx::query!(
        "INSERT INTO foreign_clusters (name, public_key, created_ms) VALUES (?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key",
        name,
        key,
        row.created_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Drops one.
pub(crate) async fn delete(db: &mut SqliteConnection, name: &ClusterName) -> Result<(), StoreError> {
    let name = name.as_str();
    sqlx::query!("DELETE FROM foreign_clusters WHERE name = ?", name).execute(db).await?;
    Ok(())
}
