//! The registry as one file that can be carried elsewhere, and what such a file says of itself.
//!
//! A backup is a SQLite database: the registry as it was at one moment, and two tables more, which hold what
//! else a server needs to be the same server. No migration knows them, so their queries are checked as they run.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::{MIGRATIONS, OpenError, Store, StoreError};

/// What the two tables look like. Another number is another program's backup.
pub(crate) const FORMAT: i64 = 1;

const CREATE: &str = "CREATE TABLE backup (
         format INTEGER NOT NULL, server_version TEXT NOT NULL, made_ms INTEGER NOT NULL, fingerprint TEXT NOT NULL
     ) STRICT;
     CREATE TABLE backup_files (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID";

/// What a backup says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) format: i64,
    pub(crate) server_version: String,
    pub(crate) made_ms: i64,
    /// Of the certificate that the server had then.
    pub(crate) fingerprint: String,
}

/// A file of the data directory.
pub(crate) struct Enclosed {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl Store {
    /// Copies the registry as it is at one moment into a file that is there and empty. Neither readers nor
    /// the writer wait: it is one long read.
    pub(crate) async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let options = self.reads.connect_options();
        let mut conn = options.connect().await?;
        let path = path.to_str().ok_or(StoreError::Corrupt("the data directory's name"))?;
        sqlx::query("VACUUM INTO ?").bind(path).execute(&mut conn).await?;
        Ok(conn.close().await?)
    }
}

/// Adds to a copy what makes it a backup.
pub(crate) async fn enclose(path: &Path, label: &Label, files: Vec<Enclosed>) -> Result<(), StoreError> {
    // The copy is nobody's yet: a crash leaves something to throw away, not something to repair.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Memory)
        .synchronous(SqliteSynchronous::Off)
        .disable_statement_logging();
    let mut conn = options.connect().await?;
    sqlx::query(CREATE).execute(&mut conn).await?;
    sqlx::query("INSERT INTO backup (format, server_version, made_ms, fingerprint) VALUES (?, ?, ?, ?)")
        .bind(label.format)
        .bind(&label.server_version)
        .bind(label.made_ms)
        .bind(&label.fingerprint)
        .execute(&mut conn)
        .await?;
    for file in files {
        sqlx::query("INSERT INTO backup_files (name, content) VALUES (?, ?)")
            .bind(file.name)
            .bind(file.content)
            .execute(&mut conn)
            .await?;
    }
    Ok(conn.close().await?)
}

/// A backup that is looked at.
pub(crate) struct Opened(SqliteConnection);

impl Opened {
    /// Opens a file to read it. It is not written, and nothing is made beside it.
    pub(crate) async fn read(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
        Ok(Self(options.disable_statement_logging().connect().await?))
    }

    /// What SQLite finds wrong with it: `None` if nothing.
    pub(crate) async fn fault(&mut self) -> Result<Option<String>, StoreError> {
        let said: String = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut self.0).await?;
        if said != "ok" {
            return Ok(Some(said));
        }
        let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_optional(&mut self.0).await?;
        Ok(dangling.map(|_| "a row refers to one that is not there".to_owned()))
    }

    /// What it says of itself; `None` if it is no backup.
    pub(crate) async fn label(&mut self) -> Result<Option<Label>, StoreError> {
        let tables: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('backup', 'backup_files', 'audit')",
        )
        .fetch_one(&mut self.0)
        .await?;
        if tables < 3 {
            return Ok(None);
        }
        let row = sqlx::query("SELECT format, server_version, made_ms, fingerprint FROM backup")
            .fetch_optional(&mut self.0)
            .await?;
        row.map(|row| {
            Ok(Label {
                format: row.try_get("format")?,
                server_version: row.try_get("server_version")?,
                made_ms: row.try_get("made_ms")?,
                fingerprint: row.try_get("fingerprint")?,
            })
        })
        .transpose()
    }

    /// The newest migration that was applied, or else one that this program does not have.
    pub(crate) async fn schema(&mut self) -> Result<Result<i64, i64>, StoreError> {
        let rows =
            sqlx::query("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version");
        let mut newest = 0;
        for row in rows.fetch_all(&mut self.0).await? {
            let (version, checksum): (i64, Vec<u8>) = (row.try_get("version")?, row.try_get("checksum")?);
            let known = MIGRATIONS.iter().find(|known| known.version == version);
            if known.is_none_or(|known| *known.checksum != *checksum) {
                return Ok(Err(version));
            }
            newest = version;
        }
        Ok(Ok(newest))
    }

    /// Nodes, join tokens, and what else a person would count.
    pub(crate) async fn counts(&mut self) -> Result<[(&'static str, i64); 3], StoreError> {
        let mut counts = [("clusters", 0), ("nodes", 0), ("join_tokens", 0)];
        let query = "SELECT (SELECT count(*) FROM clusters), (SELECT count(*) FROM nodes), (SELECT count(*) FROM join_tokens)";
        let row = sqlx::query(query).fetch_one(&mut self.0).await?;
        for (at, (_, count)) in counts.iter_mut().enumerate() {
            *count = row.try_get(at)?;
        }
        Ok(counts)
    }

    /// The files that came with it.
    pub(crate) async fn files(&mut self) -> Result<Vec<Enclosed>, StoreError> {
        let rows = sqlx::query("SELECT name, content FROM backup_files ORDER BY name").fetch_all(&mut self.0);
        let file = |row: sqlx::sqlite::SqliteRow| {
            Ok(Enclosed { name: row.try_get("name")?, content: row.try_get("content")? })
        };
        rows.await?.into_iter().map(file).collect()
    }

    /// For reads of the registry itself.
    pub(crate) fn registry(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// Opens a copy of a backup to make a registry of it: migrated, and with what is no registry's taken out on
/// [`strip`].
pub(crate) async fn adopt(path: &Path) -> Result<SqliteConnection, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .disable_statement_logging();
    let mut conn = options.connect().await?;
    MIGRATIONS.run(&mut conn).await?;
    Ok(conn)
}

/// Takes out of a copy what is no registry's, secrets included, and closes it.
pub(crate) async fn strip(mut conn: SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("DROP TABLE backup; DROP TABLE backup_files").execute(&mut conn).await?;
    // What was dropped lies on free pages until these are gone.
    sqlx::query("VACUUM").execute(&mut conn).await?;
    Ok(conn.close().await?)
}
