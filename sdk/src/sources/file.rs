//! Servers that a file lists.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use super::{Search, SeedSource, Seeds, SourceError, text};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// A file with one server a line, `ADDRESS [FINGERPRINT] [PRIORITY]`, or a JSON array of them. It is read again when it
/// changes: servers that were added are heard of; what was heard before is not taken back.
#[derive(Debug, Clone)]
pub struct SeedFile {
    path: PathBuf,
    interval: Duration,
}

impl SeedFile {
    /// It need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), interval: INTERVAL }
    }

    /// How often it is looked at; every two seconds if not set.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl SeedSource for SeedFile {
    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            let mut newest = None;
            loop {
                // A list of servers is short, and the disk at hand.
                let metadata = std::fs::metadata(&self.path)?;
                let stamp = (metadata.len(), metadata.modified().ok());
                if newest != Some(stamp) {
                    if metadata.len() > text::MAX_LEN as u64 {
                        return Err(SourceError::new("the file is too long"));
                    }
                    let content = std::fs::read_to_string(&self.path)?;
                    for seed in text::any(&content).map_err(SourceError::new)? {
                        seeds.tell(seed).await;
                    }
                    newest = Some(stamp);
                }
                sleep(self.interval).await;
            }
        })
    }
}
