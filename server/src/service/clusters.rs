//! Clusters, and how a changed one reaches those who serve it.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use meetpoint_proto::{
    ClusterName, ClusterNetwork, Code, EffectiveNetwork, PublicKey, SeedAddr, SeedName, SeedOrigin,
};
use serde_json::json;
use sqlx::SqliteConnection;
use tracing::info;

use super::audit::{Action, Actor, record};
use super::seeds::{News, apply, fresh};
use super::{Cluster, Service, ServiceError, UnixMs};
use crate::events::{Event, Sender};
use crate::seeds::Judged;
use crate::store::clusters::{self, ClusterRow};
use crate::store::seeds::{self, SeedRow};
use crate::store::{Store, StoreError};

/// What is told of a seed that is no more.
const DELETED: &str = "deleted";

/// A cluster at the start of the server.
pub(crate) struct Established {
    pub(crate) row: ClusterRow,
    /// By its type and all its seeds, those of the operator and of earlier runs included.
    pub(crate) effective: EffectiveNetwork,
    /// Given seeds that the operator had deleted over REST.
    pub(crate) returned: Vec<SeedName>,
}

impl Cluster {
    /// A registered cluster as it is served now.
    pub(crate) fn new(row: ClusterRow, effective: EffectiveNetwork, open_join: bool) -> Self {
        Self {
            id: row.id,
            name: row.name,
            kind: row.kind,
            effective,
            created_ms: row.created_ms,
            open_join,
            admit_relayed: row.admit_relayed,
            key: SigningKey::from_bytes(&row.signing_key),
        }
    }

    /// What its certificates are checked with.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from(&self.key)
    }
}

/// Registers a cluster unless it is there, and its given seeds. Those that an earlier start was given
/// and this one was not are dropped; the operator's and those that named themselves stay.
pub(crate) async fn establish_cluster(
    store: &Store,
    now: UnixMs,
    name: ClusterName,
    kind: ClusterNetwork,
    signing_key: [u8; 32],
    given: Vec<Judged>,
) -> Result<Established, ServiceError> {
    let work = store.write(move |tx| {
        Box::pin(async move {
            clusters::insert(tx, &name, kind, &signing_key, now.0).await?;
            let row = clusters::all(&mut *tx).await?.into_iter().find(|row| row.name == name);
            let row = row.ok_or(StoreError::Corrupt("clusters.name"))?;
            let mut returned = seeds::take_deleted(tx, row.id).await?;
            returned.retain(|name| given.iter().any(|judged| judged.seed.name == *name));
            drop_former(tx, &row, &given).await?;
            let applied = apply(tx, row.id, row.kind, now, |seeds| {
                for judged in given {
                    let before = seeds.remove(&judged.seed.name);
                    let mut seed = fresh(judged.seed, before.as_ref(), now);
                    // A name that does not resolve today was public all the same.
                    seed.is_public |= judged.is_public;
                    seed.origin = SeedOrigin::Flag;
                    seed.approved = true;
                    seed.declared = judged.declared;
                    seeds.insert(seed.addr.name.clone(), seed);
                }
                Ok(())
            });
            let ((), News { effective, .. }) = applied.await?;
            Ok(Established { row, effective, returned })
        })
    });
    work.await
}

async fn drop_former(
    tx: &mut SqliteConnection,
    cluster: &ClusterRow,
    given: &[Judged],
) -> Result<(), ServiceError> {
    for old in seeds::all(&mut *tx, cluster.id).await? {
        let is_given = given.iter().any(|judged| judged.seed.name == old.addr.name);
        if old.origin == SeedOrigin::Flag && !is_given {
            seeds::delete(tx, cluster.id, &old.addr.name).await?;
        }
    }
    Ok(())
}

impl Service {
    /// Says whether a cluster keeps nodes that can only be relayed.
    pub(crate) async fn set_admit_relayed(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        admit_relayed: bool,
    ) -> Result<Arc<Cluster>, ServiceError> {
        let _changing = self.changing.lock().await;
        let cluster = self.cluster(cluster)?;
        if cluster.admit_relayed == admit_relayed {
            return Ok(cluster);
        }
        let (id, actor, target) = (cluster.id, *actor, cluster.name.to_string());
        let stored = self.store.write::<_, ServiceError, _>(move |tx| {
            Box::pin(async move {
                clusters::set_admit_relayed(tx, id, admit_relayed).await?;
                let detail = json!({ "admit_relayed": admit_relayed });
                record(tx, now, &actor, Action::ClusterChange, &target, detail).await
            })
        });
        stored.await?;
        let changed = Arc::new(Cluster { admit_relayed, ..Cluster::clone(&cluster) });
        info!(cluster = %changed.name, admit_relayed, "changed");
        self.replace(Arc::clone(&changed));
        Ok(changed)
    }

    /// The first events: the seeds, and what the clusters amount to by them.
    pub(crate) async fn tell_of_start(&self) -> Result<(), ServiceError> {
        for cluster in self.clusters().values() {
            for seed in self.seeds(cluster.name.as_str()).await? {
                self.tell_of_seed(&cluster.name, &seed, seed.status.as_str());
            }
            self.tell_of_cluster(cluster, "start");
        }
        Ok(())
    }

    /// Publishes what a committed change of a cluster's seeds has changed.
    pub(super) fn publish(&self, cluster: &Cluster, news: &News) {
        for seed in &news.gone {
            self.tell_of_seed(&cluster.name, seed, DELETED);
        }
        for seed in &news.changed {
            self.tell_of_seed(&cluster.name, seed, seed.status.as_str());
        }
        if news.effective != cluster.effective {
            let changed = Arc::new(Cluster { effective: news.effective, ..cluster.clone() });
            self.tell_of_cluster(&changed, "seeds");
            self.replace(changed);
        }
        self.seeds_changed.notify_one();
    }

    fn tell_of_seed(&self, cluster: &ClusterName, seed: &SeedRow, status: &'static str) {
        let SeedAddr { name, host, port } = seed.addr.clone();
        let reason = seed.reason.map(Code::as_str);
        info!(%cluster, %name, %host, port, status, reason, approved = seed.approved, "seed");
        let event = Event::SeedStatus { name, host: host.to_string(), port, status, reason };
        self.events.publish(cluster, Sender::Server, &event);
    }

    fn tell_of_cluster(&self, cluster: &Cluster, reason: &'static str) {
        let Cluster { name, kind, effective, .. } = cluster;
        info!(cluster = %name, %kind, %effective, reason, "cluster");
        let state = Event::ClusterState { kind: *kind, effective: *effective, reason: Some(reason) };
        self.events.publish(name, Sender::Server, &state);
    }

    fn replace(&self, cluster: Arc<Cluster>) {
        self.clusters.send_modify(|clusters| {
            Arc::make_mut(clusters).insert(cluster.name.clone(), cluster);
        });
    }
}
