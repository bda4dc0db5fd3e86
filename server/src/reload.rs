//! How a running server is asked to read its files again.

use std::sync::Arc;

use tokio::sync::watch;

/// Asks a running server to read its certificate and the tokens of its REST interface again. What came of it
/// is in the log.
#[derive(Debug, Clone, Default)]
pub struct Reload(Arc<watch::Sender<u64>>);

impl Reload {
    /// Asks. Requests that come while one is waiting are one with it.
    pub fn request(&self) {
        self.0.send_modify(|requests| *requests += 1);
    }

    /// Sees each request, those before the first look included.
    pub(crate) fn requests(&self) -> Requests {
        let mut requests = self.0.subscribe();
        if *requests.borrow_and_update() > 0 {
            requests.mark_changed();
        }
        Requests(requests)
    }
}

/// See [`Reload::requests`].
pub(crate) struct Requests(watch::Receiver<u64>);

impl Requests {
    /// Waits for the next request; for ever, if nobody can make one any more.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
