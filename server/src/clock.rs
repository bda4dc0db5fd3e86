//! Waiting for the moments that pure machines name.

use std::time::Instant;

/// Waits until then; for ever if there is no such moment.
pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
