//! The file that holds a node's newest membership.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meetpoint::Node;

use crate::exit::Failure;

/// How often to see whether the membership was renewed: far less than it holds.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The membership in the file; nothing if there is no file yet.
pub(super) fn read(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(file, &error)),
    }
}

/// Writes the node's newest membership there: who has heard that the node has joined finds it.
pub(super) fn save(node: &Node, file: &Path) -> Result<(), Failure> {
    let Some(newest) = node.membership() else { return Ok(()) };
    write(file, &newest).map_err(|error| failed(file, &error))
}

/// Writes each new membership of the node there.
pub(super) async fn keep(node: Arc<Node>, file: PathBuf) -> Result<(), Failure> {
    let mut kept = None;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let newest = node.membership();
        if newest != kept {
            save(&node, &file)?;
            kept = newest;
        }
    }
}

/// Whole or not at all: the file of a node that is killed meanwhile is still good.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let mut next = file.as_os_str().to_owned();
    next.push(".next");
    let next = PathBuf::from(next);
    let mut out = std::fs::File::create(&next)?;
    writeln!(out, "{text}")?;
    out.sync_all()?;
    std::fs::rename(next, file)
}

fn failed(file: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("--membership-file {}: {error}", file.display()))
}
