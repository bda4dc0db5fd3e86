//! A backup: the registry as it is at one moment, and the files that make a server the same server.
//!
//! It is made beside the registry, while everything goes on, and is gone from the data directory before its first
//! byte is sent: whoever reads it slowly, or not at all, leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use meetpoint_proto::id::Fingerprint;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::audit::{Action, Actor};
use super::{DEFAULT_CLUSTER, Service, ServiceError, UnixMs};
use crate::data_dir::{DataDir, DataError};
use crate::store::StoreError;
use crate::store::backup::{self, Enclosed, FORMAT, Label};
use crate::{api_tokens, identity, secrets};

/// In the data directory, while a backup is made.
pub(crate) const DRAFT: &str = "backup.draft";
/// Read at once for the digest.
const CHUNK_BYTES: usize = 64 * 1024;

/// What of the data directory belongs to a backup: the tokens, the keys and the self-signed identity. Files that
/// flags name elsewhere are the operator's, and stay where they are.
pub(crate) fn enclosed_files() -> impl Iterator<Item = &'static str> {
    secrets::FILES.into_iter().chain(api_tokens::FILES).chain(identity::FILES)
}

/// A backup that can be read.
pub(crate) struct Backup {
    /// At its beginning. It has no name any more.
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
    /// Another one can be made when this is gone.
    pub(crate) place: OwnedSemaphorePermit,
}

impl Service {
    /// Makes a backup. One at a time, since each takes as much room as the registry.
    pub(crate) async fn backup(
        &self,
        now: UnixMs,
        actor: Actor,
        fingerprint: Fingerprint,
    ) -> Result<Backup, ServiceError> {
        let place = Arc::clone(&self.backups).try_acquire_owned();
        let place = place.map_err(|_| ServiceError::BackupRuns)?;
        // Before the copy is taken: so it tells of itself.
        let detail = json!({ "fingerprint": fingerprint.to_string() });
        self.note(now, actor, Action::BackupMake, DEFAULT_CLUSTER.to_owned(), detail).await?;
        let data = Arc::clone(&self.keyring.data);
        // Read before the registry: a file that is older than the registry is corrected by it at the next start.
        let prepared = tokio::task::spawn_blocking(move || prepare(&data)).await;
        let (draft, files) = prepared.map_err(|_| StoreError::Closed)??;
        self.store.copy_to(&draft.0).await?;
        let label = Label {
            format: FORMAT,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            made_ms: now.0,
            fingerprint: fingerprint.to_string(),
        };
        backup::enclose(&draft.0, &label, files).await?;
        let finished = tokio::task::spawn_blocking(move || draft.finish()).await;
        let (file, bytes, sha256) =
            finished.map_err(|_| StoreError::Closed)?.map_err(ServiceError::BackupFile)?;
        Ok(Backup { file, bytes, sha256, place })
    }
}

/// The file that a backup is made in. It goes with this.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // It may be gone already, and the next backup removes what is left.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Draft {
    fn finish(self) -> io::Result<(File, u64, [u8; 32])> {
        let mut file = File::open(&self.0)?;
        drop(self);
        let (mut hasher, mut chunk, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
        loop {
            let len = file.read(&mut chunk)?;
            if len == 0 {
                break;
            }
            hasher.update(&chunk[..len]);
            bytes += len as u64;
        }
        file.rewind()?;
        Ok((file, bytes, hasher.finalize().into()))
    }
}

/// An empty draft, and the files that go with it.
fn prepare(data: &DataDir) -> Result<(Draft, Vec<Enclosed>), ServiceError> {
    remove_leftovers(data).map_err(secrets::SecretsError::from).map_err(ServiceError::CredentialFile)?;
    let path = data.file(DRAFT);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(ServiceError::BackupFile)?;
    let draft = Draft(path);
    let mut files = Vec::new();
    for name in enclosed_files() {
        match std::fs::read(data.file(name)) {
            Ok(content) => files.push(Enclosed { name: name.to_owned(), content }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ServiceError::BackupFile(error)),
        }
    }
    Ok((draft, files))
}

/// Removes what a backup left behind that was killed.
pub(crate) fn remove_leftovers(data: &DataDir) -> Result<(), DataError> {
    data.remove(DRAFT)?;
    data.remove(&format!("{DRAFT}-journal"))
}
