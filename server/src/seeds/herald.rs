//! The task that tells the seeds of a cluster whom its operator has removed.
//!
//! A seed that is another server admits the cluster's members by their certificates, and one of a removed node
//! holds for a day at most. The cluster's signed word ends that sooner. It is no secret and proves itself, so it
//! goes to whoever answers at a seed's address; and all of what is in force is told again from time to time, for
//! a server that was away or that has forgotten.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use meetpoint_proto::wire::RevocationText;
use meetpoint_proto::{AddressClass, ClusterNetwork, EffectiveNetwork, addr};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::fetch::{Question, fetch};
use super::lookup;
use super::me::Me;
use crate::service::{Cluster, MAX_TOLD, Service, UnixMs};

/// Between two rounds without a reason.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// For one seed, so that one that hangs does not keep the others waiting for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Herald {
    pub(crate) service: Arc<Service>,
    pub(crate) me: Arc<Me>,
}

impl Herald {
    /// Works until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut rounds = interval(INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.service.removed.notified() => {}
                _ = rounds.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
        }
    }

    async fn round(&self) {
        let told = match self.service.signed_revocations(UnixMs::now()).await {
            Ok(told) => told,
            Err(error) => return warn!(%error, "no seed is told who was removed"),
        };
        for (cluster, texts) in told {
            let seeds = match self.service.seeds(cluster.name.as_str()).await {
                Ok(seeds) => seeds,
                Err(error) => return warn!(%error, "no seed is told who was removed"),
            };
            for seed in seeds.into_iter().filter(|seed| seed.approved) {
                for ip in lookup(&seed.addr).await.into_iter().filter(|ip| may_tell(&cluster, *ip)).take(1) {
                    let at = SocketAddr::new(ip, seed.addr.port);
                    if !self.me.is_at(at) {
                        tell(at, &cluster, &texts).await;
                    }
                }
            }
        }
    }
}

/// As far as its cluster reaches, and no further.
fn may_tell(cluster: &Cluster, ip: IpAddr) -> bool {
    match addr::classify(ip) {
        AddressClass::Public => cluster.kind != ClusterNetwork::Private,
        AddressClass::Loopback | AddressClass::Private => cluster.effective == EffectiveNetwork::Private,
        AddressClass::Special => false,
    }
}

async fn tell(at: SocketAddr, cluster: &Cluster, texts: &[RevocationText]) {
    for texts in texts.chunks(MAX_TOLD) {
        let question = Question {
            method: Method::POST,
            path: format!("/v1/clusters/{}/revocations", cluster.name),
            body: json!({ "revocations": texts }).to_string().into_bytes(),
        };
        match timeout(PATIENCE, fetch(at, question)).await {
            Ok(Ok((status, _))) if status.is_success() => {}
            // It may not serve this cluster, or be the home of another one of that name: it is told again.
            Ok(Ok((status, _))) => debug!(%at, %status, "a seed does not take who was removed"),
            Ok(Err(error)) => return debug!(%at, %error, "a seed was not told who was removed"),
            Err(_) => return debug!(%at, "a seed was not told who was removed in time"),
        }
    }
}
