//! Who may use the relay: static users, and the secrets of time-limited credentials.

use meetpoint_turn::LongTermKeys;
use sqlx::{SqliteConnection, SqliteExecutor};

use super::{StoreError, bytes};

/// A static user, with what stands for a password.
#[derive(Debug, Clone)]
pub(crate) struct UserRow {
    pub(crate) name: String,
    pub(crate) keys: LongTermKeys,
    pub(crate) created_ms: i64,
    pub(crate) changed_ms: i64,
}

struct RawUser {
    name: String,
    md5_key: Vec<u8>,
    sha256_key: Vec<u8>,
    created_ms: i64,
    changed_ms: i64,
}

impl TryFrom<RawUser> for UserRow {
    type Error = StoreError;

    fn try_from(raw: RawUser) -> Result<Self, StoreError> {
        let keys = LongTermKeys {
            md5: bytes("relay_users.md5_key", raw.md5_key)?,
            sha256: bytes("relay_users.sha256_key", raw.sha256_key)?,
        };
        Ok(Self { name: raw.name, keys, created_ms: raw.created_ms, changed_ms: raw.changed_ms })
    }
}

/// A credential secret. It has no `Debug`: it is not for logs.
#[derive(Clone)]
pub(crate) struct SecretRow {
    pub(crate) id: i64,
    pub(crate) secret: String,
    pub(crate) created_ms: i64,
    /// No credential minted with it, and no allocation made with such a credential, ends later.
    pub(crate) needed_until_ms: i64,
}

/// All users, by name.
pub(crate) async fn users(db: impl SqliteExecutor<'_>) -> Result<Vec<UserRow>, StoreError> {
    let rows = sqlx::query_as!(
        RawUser,
        "SELECT name, md5_key, sha256_key, created_ms, changed_ms FROM relay_users ORDER BY name"
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(UserRow::try_from).collect()
}

/// At most `limit` users with a name above `after`, by name.
pub(crate) async fn page_users(
    db: impl SqliteExecutor<'_>,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<UserRow>, StoreError> {
    // Every name sorts above the empty one.
    let after = after.unwrap_or_default();
    let rows = sqlx::query_as!(
        RawUser,
        "SELECT name, md5_key, sha256_key, created_ms, changed_ms FROM relay_users
         WHERE name > ? ORDER BY name LIMIT ?",
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(UserRow::try_from).collect()
}

/// Adds a user, or gives a known one other keys. Returns the row as it is now.
pub(crate) async fn upsert_user(
    db: &mut SqliteConnection,
    name: &str,
    keys: &LongTermKeys,
    now_ms: i64,
) -> Result<UserRow, StoreError> {
    let (md5, sha256) = (keys.md5.as_slice(), keys.sha256.as_slice());
    let row = sqlx::query_as!(
        RawUser,
        "INSERT INTO relay_users (name, md5_key, sha256_key, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT (name) DO UPDATE
         SET md5_key = excluded.md5_key, sha256_key = excluded.sha256_key, changed_ms = excluded.changed_ms
         RETURNING name, md5_key, sha256_key, created_ms, changed_ms",
        name,
        md5,
        sha256,
        now_ms
    )
    .fetch_one(db)
    .await?;
    row.try_into()
}

/// Removes a user. False if there is none.
pub(crate) async fn delete_user(db: &mut SqliteConnection, name: &str) -> Result<bool, StoreError> {
    let done = sqlx::query!("DELETE FROM relay_users WHERE name = ?", name).execute(db).await?;
    Ok(done.rows_affected() > 0)
}

/// All secrets, the current one first.
pub(crate) async fn secrets(db: impl SqliteExecutor<'_>) -> Result<Vec<SecretRow>, StoreError> {
    let rows = sqlx::query_as!(
        SecretRow,
        r#"SELECT id AS "id!", secret, created_ms, needed_until_ms FROM relay_secrets ORDER BY id DESC"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Adds a secret, which is the current one from now on.
pub(crate) async fn insert_secret(
    db: &mut SqliteConnection,
    secret: &str,
    needed_until_ms: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO relay_secrets (secret, created_ms, needed_until_ms) VALUES (?, ?, ?)",
        secret,
        now_ms,
        needed_until_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that a secret is needed for so long, if it is not noted already.
pub(crate) async fn need_secret(db: &mut SqliteConnection, id: i64, until_ms: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE relay_secrets SET needed_until_ms = max(needed_until_ms, ?) WHERE id = ?",
        until_ms,
        id
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Drops a secret.
pub(crate) async fn delete_secret(db: &mut SqliteConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM relay_secrets WHERE id = ?", id).execute(db).await?;
    Ok(())
}

/// Drops the secrets that nobody needs any more. The current one stays.
pub(crate) async fn delete_unneeded_secrets(
    db: &mut SqliteConnection,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM relay_secrets
         WHERE needed_until_ms <= ? AND id < (SELECT max(id) FROM relay_secrets)",
        now_ms
    )
    .execute(db)
    .await?;
    Ok(())
}
