//! The data directory: mode 0700, its secrets mode 0600, one server at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

mod replace;

pub(crate) use replace::{Replacement, is_unfinished};

/// Why the data directory can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or directory can't be made, read or written.
    #[error("--data: {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server uses it.
    #[error("--data {}: another server uses this directory; stop it, or give another --data", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// The data directory, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be, and locks it. A restoration that was cut short is finished.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let at = |source| DataError::Io { path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| DataError::Io { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {
                replace::finish(path, &crate::restore::data_files())?;
                Ok(Self { path: path.to_path_buf(), _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(DataError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(source)) => Err(DataError::Io { path: lock_path, source }),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's content without surrounding white space; `None` if there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, DataError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    /// Writes a secret, mode 0600: whole or not at all, even if the power fails.
    pub(crate) fn write_secret(&self, name: &str, content: &str) -> Result<(), DataError> {
        let path = self.file(name);
        write_atomically(&path, content).map_err(|source| DataError::Io { path, source })
    }

    /// Removes a file, if there is one.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DataError::Io { path, source }),
            _ => Ok(()),
        }
    }

    /// Makes a directory inside, mode 0700.
    pub(crate) fn make_dir(&self, name: &str) -> Result<(), DataError> {
        let path = self.file(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| DataError::Io { path, source })
    }
}

fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let draft = path.with_added_extension("new");
    // A draft left by a crash may have any mode: start from none.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
