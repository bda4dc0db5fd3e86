//! Who the first routers on the way to the server are: asked in the background, told to the agent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::egress::Egress;
use crate::route;

/// Answers waiting for the driver: there is one question in each network.
const QUEUE: usize = 4;

/// The number of the question, and who has answered.
type Traced = (u32, Vec<Option<IpAddr>>);

/// See the module.
#[derive(Debug)]
pub(super) struct Routes {
    tell: mpsc::Sender<Traced>,
    told: mpsc::Receiver<Traced>,
}

impl Routes {
    pub(super) fn new() -> Self {
        let (tell, told) = mpsc::channel(QUEUE);
        Self { tell, told }
    }

    /// Asks; for the caller to run.
    pub(super) fn trace(
        &self,
        number: u32,
        to: SocketAddr,
        payload: Vec<u8>,
        most: u8,
        egress: &Arc<Egress>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (egress, tell) = (Arc::clone(egress), self.tell.clone());
        async move {
            let hops = route::trace(&egress, to, &payload, most).await;
            // The driver may be gone.
            let _ = tell.send((number, hops)).await;
        }
    }

    /// The next answer. Cancelling loses nothing.
    pub(super) async fn traced(&mut self) -> Traced {
        match self.told.recv().await {
            Some(traced) => traced,
            // This holds a sender itself.
            None => std::future::pending().await,
        }
    }
}
