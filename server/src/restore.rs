//! Checking a backup, and making a data directory of it.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chain::AuditHead;
use crate::data_dir::{self, DataDir, DataError, Replacement};
use crate::service::audit::verify_chain;
use crate::service::backup::enclosed_files;
use crate::service::{self, Action, Actor, AuditError, DEFAULT_CLUSTER, UnixMs};
use crate::store::backup::{self, FORMAT, Opened};
use crate::store::{self, OpenError, StoreError};

/// Copied at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Beside the registry while SQLite has it open, or after a crash.
const REGISTRY_FILES: [&str; 4] =
    [store::FILE, "meetpoint.db-wal", "meetpoint.db-shm", "meetpoint.db-journal"];

/// What a backup is found to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackupInfo {
    /// The version of the server that made it.
    pub server_version: String,
    /// When, in milliseconds since 1970.
    pub made_unix_ms: i64,
    /// The fingerprint of the certificate that the server had then.
    pub fingerprint: String,
    /// The newest change of the schema in it.
    pub schema: i64,
    /// The end of its audit log, which is whole.
    pub audit_head: AuditHead,
    /// The files of the data directory in it.
    pub files: Vec<String>,
    /// How many of what the registry holds.
    pub counts: [(&'static str, i64); 3],
}

/// A data directory that was made of a backup.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The backup.
    pub info: BackupInfo,
    /// Where the files that were there before are kept, if there were any.
    pub kept: Option<PathBuf>,
}

/// Why a backup can't be used. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It can't be read, or not be copied.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else.
    #[error("{}: not a backup of a Meetpoint server", path.display())]
    NotABackup {
        /// The file.
        path: PathBuf,
    },
    /// SQLite finds it damaged.
    #[error("{}: damaged: {fault}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it says.
        fault: String,
    },
    /// It comes from a later version.
    #[error("{}: made by meetpoint {version}, which this one is too old for: {what}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version that made it.
        version: String,
        /// What this one does not know.
        what: String,
    },
    /// Its audit log is not whole.
    #[error("{}: its audit log: {source}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AuditError,
    },
    /// The directory has a registry.
    #[error("--data {}: there is a registry in it; with --force it is replaced, and what is there is kept aside", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The registry can't be made of it.
    #[error("the registry: {0}")]
    Registry(String),
}

/// Looks at all of a backup: SQLite's own check, the schema, the audit log's chain. The file is not changed.
///
/// # Errors
/// [`BackupError`] says what is wrong with it.
pub async fn verify_backup(path: &Path) -> Result<BackupInfo, BackupError> {
    let damaged = |error: StoreError| BackupError::Damaged { path: path.into(), fault: error.to_string() };
    let not_a_backup = || BackupError::NotABackup { path: path.into() };
    // SQLite would make a file that is missing, and say little of one that can't be read.
    std::fs::File::open(path).map_err(|source| BackupError::Io { path: path.into(), source })?;
    let mut opened = Opened::read(path).await.map_err(damaged)?;
    let label = opened.label().await.map_err(|_| not_a_backup())?.ok_or_else(not_a_backup)?;
    let newer = |what| BackupError::Newer { path: path.into(), version: label.server_version.clone(), what };
    if label.format != FORMAT {
        return Err(newer(format!("format {}", label.format)));
    }
    if let Some(fault) = opened.fault().await.map_err(damaged)? {
        return Err(BackupError::Damaged { path: path.into(), fault });
    }
    let schema = opened.schema().await.map_err(damaged)?;
    let schema = schema.map_err(|unknown| newer(format!("schema {unknown}")))?;
    let audit_head = verify_chain(opened.registry(), None).await;
    let audit_head = audit_head.map_err(|source| BackupError::Audit { path: path.into(), source })?;
    let files: Vec<String> =
        opened.files().await.map_err(damaged)?.into_iter().map(|file| file.name).collect();
    if let Some(stranger) = files.iter().find(|name| enclosed_files().all(|known| known != **name)) {
        return Err(newer(format!("file {stranger:?}")));
    }
    Ok(BackupInfo {
        made_unix_ms: label.made_ms,
        fingerprint: label.fingerprint.clone(),
        schema,
        audit_head,
        files,
        counts: opened.counts().await.map_err(damaged)?,
        server_version: label.server_version,
    })
}

/// Makes a data directory of a backup, for a server that does not run. What is there already is replaced only if
/// `force`, and kept aside. A crash at any moment leaves the directory as it was, or has it restored when it is
/// opened next. `progress` is told a stage, and how many bytes of how many are done with it.
///
/// # Errors
/// [`BackupError`]; the directory's content is as it was.
pub async fn restore(
    file: &Path,
    data: &Path,
    force: bool,
    progress: impl Fn(&'static str, u64, u64),
) -> Result<Restored, BackupError> {
    progress("checking the backup", 0, 0);
    let info = verify_backup(file).await?;
    let dir = DataDir::open(data)?;
    if !force && dir.file(store::FILE).exists() {
        return Err(BackupError::Occupied { path: data.into() });
    }
    let new = Replacement::begin(&dir)?;
    let registry = new.file(store::FILE);
    copy(file, &registry, |done, total| progress("copying", done, total)).await?;
    progress("making the registry", 0, 0);
    let broken = |error: StoreError| BackupError::Registry(error.to_string());
    for enclosed in Opened::read(&registry).await.map_err(broken)?.files().await.map_err(broken)? {
        new.write(&enclosed.name, &enclosed.content)?;
    }
    make_registry(&registry, &info).await?;
    progress("checking the registry", 0, 0);
    let mut made = Opened::read(&registry).await.map_err(broken)?;
    if let Some(fault) = made.fault().await.map_err(broken)? {
        return Err(BackupError::Registry(fault));
    }
    drop(made);
    let kept = new.commit(&data_files())?;
    Ok(Restored { info, kept })
}

/// Migrates the copy, notes the restoration, and takes out what is no registry's.
async fn make_registry(registry: &Path, info: &BackupInfo) -> Result<(), BackupError> {
    let failed = |error: &dyn std::fmt::Display| BackupError::Registry(error.to_string());
    let mut conn = backup::adopt(registry).await.map_err(|error: OpenError| failed(&error))?;
    let detail = json!({ "made_unix_ms": info.made_unix_ms, "backup_head": info.audit_head.to_string() });
    let (now, action) = (UnixMs::now(), Action::BackupRestore);
    let noted = service::audit::record(&mut conn, now, &Actor::SERVER, action, DEFAULT_CLUSTER, detail);
    noted.await.map_err(|error| failed(&error))?;
    backup::strip(conn).await.map_err(|error| failed(&error))
}

/// Finishes a restoration that was cut short after it was decided.
pub(crate) fn finish_unfinished(data: &Path) -> Result<(), DataError> {
    // Opening does it.
    if data_dir::is_unfinished(data) { DataDir::open(data).map(drop) } else { Ok(()) }
}

/// All files that a restoration replaces.
pub(crate) fn data_files() -> Vec<&'static str> {
    REGISTRY_FILES.into_iter().chain(enclosed_files()).collect()
}

async fn copy(from: &Path, to: &Path, progress: impl Fn(u64, u64)) -> Result<(), BackupError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BackupError::Io { path, source }
    };
    let mut source = tokio::fs::File::open(from).await.map_err(at(from))?;
    let total = source.metadata().await.map_err(at(from))?.len();
    let target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut target = tokio::fs::File::from_std(target.map_err(at(to))?);
    let (mut chunk, mut done) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let len = source.read(&mut chunk).await.map_err(at(from))?;
        if len == 0 {
            break;
        }
        target.write_all(&chunk[..len]).await.map_err(at(to))?;
        done += len as u64;
        progress(done, total);
    }
    // A write is only begun by `write_all`; this one waits for it and tells of a full disk.
    target.flush().await.map_err(at(to))
}
