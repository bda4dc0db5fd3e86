//! Seeds.

use meetpoint_proto::SeedAddr;
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, word};

/// A registered seed.
#[derive(Debug, Clone)]
pub(crate) struct SeedRow {
    pub(crate) addr: SeedAddr,
    pub(crate) is_public: bool,
    pub(crate) created_ms: i64,
}

struct Raw {
    name: String,
    host: String,
    port: i64,
    is_public: i64,
    created_ms: i64,
}

impl TryFrom<Raw> for SeedRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let addr = SeedAddr {
            name: word("seeds.name", &raw.name)?,
            host: word("seeds.host", &raw.host)?,
            port: u16::try_from(raw.port).map_err(|_| StoreError::Corrupt("seeds.port"))?,
        };
        Ok(Self { addr, is_public: raw.is_public != 0, created_ms: raw.created_ms })
    }
}

/// All seeds of a cluster, by name.
pub(crate) async fn all(db: impl SqliteExecutor<'_>, cluster: ClusterId) -> Result<Vec<SeedRow>, StoreError> {
    let rows = sqlx::query_as!(
        Raw,
        "SELECT name, host, port, is_public, created_ms FROM seeds WHERE cluster_id = ? ORDER BY name",
        cluster.0
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(SeedRow::try_from).collect()
}

/// Adds a seed, or gives it another address.
pub(crate) async fn upsert(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    seed: &SeedAddr,
    is_public: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let (name, host, port) = (seed.name.as_str(), seed.host.to_string(), i64::from(seed.port));
    sqlx::query!(
        "INSERT INTO seeds (cluster_id, name, host, port, is_public, created_ms) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (cluster_id, name) DO UPDATE
         SET host = excluded.host, port = excluded.port, is_public = excluded.is_public",
        cluster.0,
        name,
        host,
        port,
        is_public,
        now_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Removes a seed.
pub(crate) async fn delete(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    name: &str,
) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM seeds WHERE cluster_id = ? AND name = ?", cluster.0, name).execute(db).await?;
    Ok(())
}
