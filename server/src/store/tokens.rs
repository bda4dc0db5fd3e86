//! Join tokens: what is needed to check one, never what is needed to use one.

use meetpoint_proto::id::TokenId;
use meetpoint_proto::{NamePattern, PublicKey, TokenScope};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, bytes, word};

/// A registered join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: TokenId,
    pub(crate) public_key: PublicKey,
    pub(crate) label: String,
    pub(crate) scope: TokenScope,
    /// Names that it admits; all of them, if there is none.
    pub(crate) names: Option<NamePattern>,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) max_uses: Option<i64>,
    pub(crate) uses: i64,
    pub(crate) revoked_ms: Option<i64>,
}

struct Raw {
    token_id: Vec<u8>,
    public_key: Vec<u8>,
    label: String,
    scope: String,
    name_pattern: Option<String>,
    created_ms: i64,
    expires_ms: Option<i64>,
    max_uses: Option<i64>,
    uses: i64,
    revoked_ms: Option<i64>,
}

impl TryFrom<Raw> for TokenRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: TokenId::from_bytes(bytes("join_tokens.token_id", raw.token_id)?),
            public_key: PublicKey::from_bytes(bytes("join_tokens.public_key", raw.public_key)?),
            label: raw.label,
            scope: word("join_tokens.scope", &raw.scope)?,
            names: raw.name_pattern.map(|text| word("join_tokens.name_pattern", &text)).transpose()?,
            created_ms: raw.created_ms,
            expires_ms: raw.expires_ms,
            max_uses: raw.max_uses,
            uses: raw.uses,
            revoked_ms: raw.revoked_ms,
        })
    }
}

/// One of them.
pub(crate) async fn find(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
    id: &TokenId,
) -> Result<Option<TokenRow>, StoreError> {
    let id = id.as_bytes().as_slice();
    let row = sqlx::query_as!(
        Raw,
        "SELECT token_id, public_key, label, scope, name_pattern, created_ms, expires_ms, max_uses, uses, revoked_ms
         FROM join_tokens WHERE cluster_id = ? AND token_id = ?",
        cluster.0,
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(TokenRow::try_from).transpose()
}

/// At most `limit` of them with an id above `after`, by id.
pub(crate) async fn page(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
    after: Option<TokenId>,
    limit: u32,
) -> Result<Vec<TokenRow>, StoreError> {
    // Every id sorts above the empty blob.
    let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
    let rows = sqlx::query_as!(
        Raw,
        "SELECT token_id, public_key, label, scope, name_pattern, created_ms, expires_ms, max_uses, uses, revoked_ms
         FROM join_tokens WHERE cluster_id = ? AND token_id > ? ORDER BY token_id LIMIT ?",
        cluster.0,
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TokenRow::try_from).collect()
}

/// How many there are.
pub(crate) async fn count(db: &mut SqliteConnection, cluster: ClusterId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!("SELECT count(*) FROM join_tokens WHERE cluster_id = ?", cluster.0)
        .fetch_one(db)
        .await?;
    Ok(count)
}

/// Adds one unless it is there.
pub(crate) async fn insert(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    token: &TokenRow,
) -> Result<(), StoreError> {
    let (id, key) = (token.id.as_bytes().as_slice(), token.public_key.as_bytes().as_slice());
    let (scope, names) = (token.scope.as_str(), token.names.as_ref().map(NamePattern::as_str));
    sqlx::query!(
        "INSERT INTO join_tokens
         (cluster_id, token_id, public_key, label, scope, name_pattern, created_ms, expires_ms, max_uses)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (cluster_id, token_id) DO NOTHING",
        cluster.0,
        id,
        key,
        token.label,
        scope,
        names,
        token.created_ms,
        token.expires_ms,
        token.max_uses
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Counts uses.
pub(crate) async fn count_uses(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &TokenId,
    uses: i64,
) -> Result<(), StoreError> {
    let id = id.as_bytes().as_slice();
    sqlx::query!(
        "UPDATE join_tokens SET uses = uses + ? WHERE cluster_id = ? AND token_id = ?",
        uses,
        cluster.0,
        id
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Revokes one; a token that is revoked already keeps its time. False if there is none.
pub(crate) async fn revoke(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &TokenId,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let id = id.as_bytes().as_slice();
    let done = sqlx::query!(
        "UPDATE join_tokens SET revoked_ms = coalesce(revoked_ms, ?) WHERE cluster_id = ? AND token_id = ?",
        now_ms,
        cluster.0,
        id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}
