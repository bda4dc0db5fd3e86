//! Another content for a data directory, so that a crash at any moment leaves either the one or the other.
//!
//! The directory itself may be where a volume is mounted, and can't be exchanged. So the new files are gathered in
//! [`DRAFT`], which a crash makes waste of. Its renaming to [`READY`] decides: from there on, whoever opens the
//! directory next finishes what was begun. First the old files go to [`KEPT`], then the new ones come in.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DataDir, DataError};

/// The new files, as long as they may be incomplete.
const DRAFT: &str = "restore.draft";
/// The new files, complete. The old ones are on their way out.
const READY: &str = "restore.ready";
/// The new files, on their way in. The old ones are out.
const MOVING: &str = "restore.moving";
/// The old files.
const KEPT: &str = "replaced";
/// Old files are kept for so many replacements.
const MAX_KEPT: u32 = 1000;

/// New content of a data directory. What is not [committed](Self::commit) goes with this.
pub(crate) struct Replacement<'d> {
    dir: &'d DataDir,
    is_committed: bool,
}

impl<'d> Replacement<'d> {
    /// Begins with nothing.
    pub(crate) fn begin(dir: &'d DataDir) -> Result<Self, DataError> {
        let path = dir.file(DRAFT);
        remove_all(&path).map_err(at(&path))?;
        dir.make_dir(DRAFT)?;
        Ok(Self { dir, is_committed: false })
    }

    /// Where a new file is to be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.file(DRAFT).join(name)
    }

    /// Writes a new file, mode 0600.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), DataError> {
        let path = self.file(name);
        let write = || {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content)
        };
        write().map_err(at(&path))
    }

    /// Puts the new files into the place of those of `ours` that are there. Gives where the latter are kept, if there
    /// were any.
    pub(crate) fn commit(mut self, ours: &[&str]) -> Result<Option<PathBuf>, DataError> {
        let (draft, ready) = (self.dir.file(DRAFT), self.dir.file(READY));
        let begin = || {
            sync_all(&draft)?;
            make_room(&self.dir.path)?;
            fs::rename(&draft, &ready)?;
            sync(&self.dir.path)
        };
        begin().map_err(at(&ready))?;
        self.is_committed = true;
        finish(&self.dir.path, ours)?;
        let kept = self.dir.file(KEPT);
        Ok(kept.exists().then_some(kept))
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            // What is left is removed when the next one begins.
            let _ = remove_all(&self.dir.file(DRAFT));
        }
    }
}

/// Whether a replacement was decided and not finished.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    dir.join(READY).exists() || dir.join(MOVING).exists()
}

/// Finishes what was decided, if anything was.
pub(crate) fn finish(dir: &Path, ours: &[&str]) -> Result<(), DataError> {
    let (ready, moving, kept) = (dir.join(READY), dir.join(MOVING), dir.join(KEPT));
    let out = || {
        for name in ours {
            carry(dir, &kept, name)?;
        }
        fs::rename(&ready, &moving)?;
        sync(dir)
    };
    let into = || {
        for name in ours {
            carry(&moving, dir, name)?;
        }
        fs::remove_dir_all(&moving)?;
        sync(dir)
    };
    if ready.exists() {
        out().map_err(at(&ready))?;
    }
    if moving.exists() {
        into().map_err(at(&moving))?;
    }
    Ok(())
}

/// Moves a file, if it is there, and makes that durable.
fn carry(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    let (source, target) = (from.join(name), to.join(name));
    if !source.exists() {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(to);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::rename(&source, &target)?;
    sync(folder)
}

/// What an earlier replacement kept goes on being kept, under a name with a number.
fn make_room(dir: &Path) -> io::Result<()> {
    let kept = dir.join(KEPT);
    if !kept.exists() {
        return Ok(());
    }
    let free = (1..MAX_KEPT).map(|number| dir.join(format!("{KEPT}.{number}"))).find(|path| !path.exists());
    let free = free.ok_or_else(|| io::Error::other("remove what earlier restores have kept"))?;
    fs::rename(kept, free)
}

fn sync_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(dir)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_path_buf();
    move |source| DataError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [&str; 4] = ["db", "db-wal", "tls/key", "token"];

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(dir: &Path, name: &str) -> Option<String> {
        fs::read_to_string(dir.join(name)).ok()
    }

    fn old(dir: &Path) {
        for name in ["db", "db-wal", "tls/key", "lost+found/x"] {
            write(dir, name, "old");
        }
    }

    /// All of the new, nothing of the old, and what is not ours as it was.
    fn check_new(dir: &Path) {
        let found = OURS.map(|name| read(dir, name));
        assert_eq!(found, [Some("new".into()), None, Some("new".into()), Some("new".into())]);
        assert_eq!(read(dir, "lost+found/x").as_deref(), Some("old"));
        for gone in [DRAFT, READY, MOVING] {
            assert!(!dir.join(gone).exists(), "{gone}");
        }
    }

    #[test]
    fn old_or_new_and_nothing_between() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        old(path);
        let dir = DataDir::open(path).unwrap();
        let new = Replacement::begin(&dir).unwrap();
        new.write("db", b"new").unwrap();
        drop(new);
        assert_eq!((read(path, "db").as_deref(), path.join(DRAFT).exists()), (Some("old"), false));
        for kept in ["replaced", "replaced.1"] {
            let new = Replacement::begin(&dir).unwrap();
            for name in ["db", "tls/key", "token"] {
                new.write(name, b"new").unwrap();
            }
            assert_eq!(new.commit(&OURS).unwrap(), Some(path.join(KEPT)));
            check_new(path);
            assert_eq!(read(&path.join(kept), "db-wal").as_deref(), Some("old"));
        }
    }

    /// Whatever has been moved when the crash comes, in either phase.
    #[test]
    fn what_a_crash_left_is_finished() {
        for phase in [READY, MOVING] {
            for moved in 0..OURS.len() {
                let root = tempfile::tempdir().unwrap();
                let path = root.path();
                old(path);
                for name in ["db", "tls/key", "token"] {
                    write(&path.join(phase), name, "new");
                }
                let out = if phase == MOVING { OURS.len() } else { moved };
                for name in &OURS[..out] {
                    carry(path, &path.join(KEPT), name).unwrap();
                }
                if phase == MOVING {
                    for name in &OURS[..moved] {
                        carry(&path.join(MOVING), path, name).unwrap();
                    }
                }
                assert!(is_unfinished(path));
                finish(path, &OURS).unwrap();
                check_new(path);
                assert_eq!(read(&path.join(KEPT), "tls/key").as_deref(), Some("old"), "{phase} {moved}");
            }
        }
    }
}
