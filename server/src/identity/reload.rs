//! When the certificate is read again: when the operator asks, and when its files have changed. Tools
//! that renew certificates replace the files and tell nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Identity, ReloadError, Reloaded};
use crate::data_dir::DataDir;
use crate::secrets;

/// Between two looks at the files. A certificate is renewed days before it ends; this is short only so
/// that whoever replaces one by hand sees it taken.
const WATCH_INTERVAL: Duration = Duration::from_secs(30);

/// Asks a running server to read its certificate again. What came of it is in the log.
#[derive(Debug, Clone, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Asks. Requests that come while one is waiting are one with it.
    pub fn request(&self) {
        self.0.notify_one();
    }
}

/// The task that keeps the certificate current.
pub(crate) struct Reloader {
    pub(crate) identity: Arc<Identity>,
    pub(crate) data: Arc<DataDir>,
    pub(crate) requests: Reload,
}

impl Reloader {
    /// Works until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut looks = interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.requests.0.notified() => true,
                _ = looks.tick() => false,
            };
            let (identity, data) = (Arc::clone(&self.identity), Arc::clone(&self.data));
            // Files may lie on a disk that takes its time.
            let work = move || {
                if is_asked || identity.is_outdated() {
                    tell(identity.reload(), is_asked, &data);
                }
            };
            if tokio::task::spawn_blocking(work).await.is_err() {
                return;
            }
        }
    }
}

/// A refused pair is told once: the files have to change before they are read again.
fn tell(outcome: Result<Reloaded, ReloadError>, is_asked: bool, data: &DataDir) {
    match outcome {
        Ok(Reloaded::Same) if is_asked => info!("the certificate was read again and is the same"),
        Ok(Reloaded::Same) => {}
        Ok(Reloaded::Renewed) => info!("the certificate was renewed; new connections get the new one"),
        Ok(Reloaded::Rekeyed { before, after }) => {
            warn!(
                %before, %after,
                "the certificate was replaced by one with ANOTHER KEY: nodes whose join token carries the old \
                 fingerprint refuse this server until they are given a new token"
            );
            if let Err(error) = secrets::repin_join_token(data, after) {
                error!(%error, "the stored join token still carries the old fingerprint");
            }
        }
        Err(error) => error!(%error, "the certificate was not read again; the one in use stays"),
    }
}
