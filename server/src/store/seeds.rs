//! Seeds.

use std::net::IpAddr;

use meetpoint_proto::{Code, NetworkType, PublicKey, SeedAddr, SeedName, SeedOrigin, SeedStatus};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, bytes, word};

/// A registered seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeedRow {
    pub(crate) addr: SeedAddr,
    pub(crate) is_public: bool,
    pub(crate) created_ms: i64,
    pub(crate) origin: SeedOrigin,
    /// Only an approved one counts for the cluster.
    pub(crate) approved: bool,
    pub(crate) declared: Option<NetworkType>,
    /// Whoever answers at the address must hold it.
    pub(crate) public_key: Option<PublicKey>,
    pub(crate) status: SeedStatus,
    /// Why it is not up.
    pub(crate) reason: Option<Code>,
    /// When it last proved itself.
    pub(crate) verified_ms: Option<i64>,
    /// Where the message of a seed that named itself came from.
    pub(crate) registered_from: Option<IpAddr>,
    /// When that message was signed.
    pub(crate) issued_ms: Option<i64>,
}

struct Raw {
    name: String,
    host: String,
    port: i64,
    is_public: i64,
    created_ms: i64,
    origin: String,
    approved: i64,
    declared: Option<String>,
    public_key: Option<Vec<u8>>,
    status: String,
    reason: Option<String>,
    verified_ms: Option<i64>,
    registered_from: Option<String>,
    issued_ms: Option<i64>,
}

impl TryFrom<Raw> for SeedRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let addr = SeedAddr {
            name: word("seeds.name", &raw.name)?,
            host: word("seeds.host", &raw.host)?,
            port: u16::try_from(raw.port).map_err(|_| StoreError::Corrupt("seeds.port"))?,
        };
        let key = raw.public_key.map(|key| bytes("seeds.public_key", key)).transpose()?;
        let known = |text: &str| Code::ALL.iter().copied().find(|code| code.as_str() == text);
        Ok(Self {
            addr,
            is_public: raw.is_public != 0,
            created_ms: raw.created_ms,
            origin: word("seeds.origin", &raw.origin)?,
            approved: raw.approved != 0,
            declared: raw.declared.map(|text| word("seeds.declared", &text)).transpose()?,
            public_key: key.map(PublicKey::from_bytes),
            status: word("seeds.status", &raw.status)?,
            reason: raw.reason.map(|text| known(&text).unwrap_or(Code::Unknown)),
            verified_ms: raw.verified_ms,
            registered_from: raw
                .registered_from
                .map(|text| word("seeds.registered_from", &text))
                .transpose()?,
            issued_ms: raw.issued_ms,
        })
    }
}

/// All seeds of a cluster, by name.
pub(crate) async fn all(db: impl SqliteExecutor<'_>, cluster: ClusterId) -> Result<Vec<SeedRow>, StoreError> {
    let rows = sqlx::query_as!(
        Raw,
        "SELECT name, host, port, is_public, created_ms, origin, approved, declared, public_key, status, reason,
                verified_ms, registered_from, issued_ms
         FROM seeds WHERE cluster_id = ? ORDER BY name",
        cluster.0
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(SeedRow::try_from).collect()
}

/// Adds a seed, or changes everything about it except since when it is there.
pub(crate) async fn put(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    row: &SeedRow,
) -> Result<(), StoreError> {
    let (name, host) = (row.addr.name.as_str(), row.addr.host.to_string());
    let (port, origin) = (i64::from(row.addr.port), row.origin.as_str());
    let declared = row.declared.map(NetworkType::as_str);
    let key = row.public_key.as_ref().map(|key| key.as_bytes().as_slice());
    let (status, reason) = (row.status.as_str(), row.reason.map(Code::as_str));
    let registered_from = row.registered_from.map(|ip| ip.to_string());
    sqlx::query!(
        "INSERT INTO seeds (cluster_id, name, host, port, is_public, created_ms, origin, approved, declared,
                            public_key, status, reason, verified_ms, registered_from, issued_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (cluster_id, name) DO UPDATE
         SET host = excluded.host, port = excluded.port, is_public = excluded.is_public,
             origin = excluded.origin, approved = excluded.approved, declared = excluded.declared,
             public_key = excluded.public_key, status = excluded.status, reason = excluded.reason,
             verified_ms = excluded.verified_ms, registered_from = excluded.registered_from,
             issued_ms = excluded.issued_ms",
        cluster.0,
        name,
        host,
        port,
        row.is_public,
        row.created_ms,
        origin,
        row.approved,
        declared,
        key,
        status,
        reason,
        row.verified_ms,
        registered_from,
        row.issued_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Removes a seed.
pub(crate) async fn delete(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    name: &SeedName,
) -> Result<(), StoreError> {
    let name = name.as_str();
    sqlx::query!("DELETE FROM seeds WHERE cluster_id = ? AND name = ?", cluster.0, name).execute(db).await?;
    Ok(())
}

/// Notes that a seed of the flags was deleted all the same.
pub(crate) async fn note_deleted(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    name: &SeedName,
    now_ms: i64,
) -> Result<(), StoreError> {
    let name = name.as_str();
    sqlx::query!(
        "INSERT OR REPLACE INTO deleted_seeds (cluster_id, name, deleted_ms) VALUES (?, ?, ?)",
        cluster.0,
        name,
        now_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets which seeds of the flags were deleted, and tells them.
pub(crate) async fn take_deleted(
    db: &mut SqliteConnection,
    cluster: ClusterId,
) -> Result<Vec<SeedName>, StoreError> {
    let names = sqlx::query_scalar!("SELECT name FROM deleted_seeds WHERE cluster_id = ?", cluster.0)
        .fetch_all(&mut *db)
        .await?;
    sqlx::query!("DELETE FROM deleted_seeds WHERE cluster_id = ?", cluster.0).execute(db).await?;
    names.iter().map(|name| word("deleted_seeds.name", name)).collect()
}
