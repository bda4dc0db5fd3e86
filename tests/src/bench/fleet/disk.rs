//! How long the disk itself takes to make a write durable, while the joins go on.
//!
//! A join is answered after its commit is on the disk, so whoever reads how long joins took has to know how long the
//! disk took: one stall of the host's storage is a stall of every join that waits behind it.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::BenchError;
use crate::bench::histogram::Histogram;

/// A hundred times a second: a stall that matters is seen, and the disk has little more to do.
const PERIOD: Duration = Duration::from_millis(10);
/// A page of the registry's log.
const PAGE: [u8; 4096] = [0x5a; 4096];

/// Looks until it is asked what it saw.
pub(super) struct Disk {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Histogram>>,
}

impl Disk {
    /// Of the disk that has this directory.
    pub(super) fn watch(dir: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (path, until) = (dir.join("disk-probe"), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
            let mut seen = Histogram::default();
            while !until.load(Ordering::Relaxed) {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&PAGE)?;
                let begun = Instant::now();
                file.sync_data()?;
                seen.record(begun.elapsed());
                std::thread::sleep(PERIOD);
            }
            Ok(seen)
        });
        Self { ended, thread }
    }

    pub(super) fn seen(self) -> Result<Histogram, BenchError> {
        self.ended.store(true, Ordering::Relaxed);
        let seen = self
            .thread
            .join()
            .map_err(|_| BenchError::Unexpected("the look at the disk ended".to_owned()))?;
        seen.map_err(BenchError::io("the look at the disk"))
    }
}
