//! Clusters.

use meetpoint_proto::{ClusterName, ClusterNetwork};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::{StoreError, bytes, word};

/// A cluster's number inside the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClusterId(pub(crate) i64);

/// A registered cluster.
#[derive(Clone)]
pub(crate) struct ClusterRow {
    pub(crate) id: ClusterId,
    pub(crate) name: ClusterName,
    pub(crate) kind: ClusterNetwork,
    /// The seed of its signing key.
    pub(crate) signing_key: [u8; 32],
    pub(crate) created_ms: i64,
    /// Keeps nodes that can only be relayed.
    pub(crate) admit_relayed: bool,
}

struct Raw {
    id: i64,
    name: String,
    kind: String,
    signing_key: Vec<u8>,
    created_ms: i64,
    admit_relayed: i64,
}

impl TryFrom<Raw> for ClusterRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: ClusterId(raw.id),
            name: word("clusters.name", &raw.name)?,
            kind: word("clusters.kind", &raw.kind)?,
            signing_key: bytes("clusters.signing_key", raw.signing_key)?,
            created_ms: raw.created_ms,
            admit_relayed: raw.admit_relayed != 0,
        })
    }
}

/// All of them, by name.
pub(crate) async fn all(db: impl SqliteExecutor<'_>) -> Result<Vec<ClusterRow>, StoreError> {
    let rows = sqlx::query_as!(
        Raw,
        r#"SELECT id AS "id!", name, kind, signing_key, created_ms, admit_relayed FROM clusters ORDER BY name"#
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(ClusterRow::try_from).collect()
}

/// Adds one unless it is there.
pub(crate) async fn insert(
    db: &mut SqliteConnection,
    name: &ClusterName,
    kind: ClusterNetwork,
    signing_key: &[u8; 32],
    now_ms: i64,
) -> Result<(), StoreError> {
    let (name, kind, key) = (name.as_str(), kind.as_str(), signing_key.as_slice());
    sqlx::query!(
        "INSERT INTO clusters (name, kind, signing_key, created_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (name) DO NOTHING",
        name,
        kind,
        key,
        now_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whether it keeps nodes that can only be relayed.
pub(crate) async fn set_admit_relayed(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    admit_relayed: bool,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE clusters SET admit_relayed = ? WHERE id = ?", admit_relayed, cluster.0)
        .execute(db)
        .await?;
    Ok(())
}
