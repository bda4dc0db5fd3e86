//! The audit log: added to and read, never changed.

use sqlx::{SqliteConnection, SqliteExecutor};

use super::{StoreError, bytes};
use crate::chain::{AuditEntry, AuditHash, AuditHead};

/// An entry with its hash.
#[derive(Debug, Clone)]
pub(crate) struct AuditRow {
    pub(crate) entry: AuditEntry,
    pub(crate) hash: AuditHash,
}

struct Raw {
    seq: i64,
    at_ms: i64,
    actor: String,
    source: Option<String>,
    action: String,
    target: String,
    detail: String,
    hash: Vec<u8>,
}

impl TryFrom<Raw> for AuditRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let Raw { seq, at_ms, actor, source, action, target, detail, hash } = raw;
        let seq = u64::try_from(seq).map_err(|_| StoreError::Corrupt("audit.seq"))?;
        let hash = AuditHash::from_bytes(bytes("audit.hash", hash)?);
        Ok(Self { entry: AuditEntry { seq, at_ms, actor, source, action, target, detail }, hash })
    }
}

/// Which entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditFilter {
    /// Of this action.
    pub(crate) action: Option<&'static str>,
    /// Not before this time.
    pub(crate) since_ms: Option<i64>,
    /// Before this time.
    pub(crate) until_ms: Option<i64>,
}

/// The last entry's number and hash.
pub(crate) async fn head(db: impl SqliteExecutor<'_>) -> Result<AuditHead, StoreError> {
    let last = sqlx::query!(r#"SELECT seq AS "seq!", hash FROM audit ORDER BY seq DESC LIMIT 1"#)
        .fetch_optional(db)
        .await?;
    let Some(last) = last else { return Ok(AuditHead::EMPTY) };
    let seq = u64::try_from(last.seq).map_err(|_| StoreError::Corrupt("audit.seq"))?;
    Ok(AuditHead { seq, hash: AuditHash::from_bytes(bytes("audit.hash", last.hash)?) })
}

/// Adds an entry. Its number has to be the next one.
pub(crate) async fn insert(
    db: &mut SqliteConnection,
    entry: &AuditEntry,
    hash: AuditHash,
) -> Result<(), StoreError> {
    let seq = i64::try_from(entry.seq).map_err(|_| StoreError::Corrupt("audit.seq"))?;
    let hash = hash.as_bytes().as_slice();
    sqlx::query!(
        "INSERT INTO audit (seq, at_ms, actor, source, action, target, detail, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        seq,
        entry.at_ms,
        entry.actor,
        entry.source,
        entry.action,
        entry.target,
        entry.detail,
        hash
    )
    .execute(db)
    .await?;
    Ok(())
}

/// At most `limit` entries with a number above `after`, by number.
pub(crate) async fn page(
    db: impl SqliteExecutor<'_>,
    after: u64,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    // No entry has a number beyond this one.
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let since_ms = filter.since_ms.unwrap_or(i64::MIN);
    let rows = sqlx::query_as!(
        Raw,
        r#"SELECT seq AS "seq!", at_ms, actor, source, action, target, detail, hash FROM audit
           WHERE seq > ?1 AND (?2 IS NULL OR action = ?2) AND at_ms >= ?3 AND (?4 IS NULL OR at_ms < ?4)
           ORDER BY seq LIMIT ?5"#,
        after,
        filter.action,
        since_ms,
        filter.until_ms,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(AuditRow::try_from).collect()
}
