//! Clusters whose home is another server.
//!
//! This server has their public key only. It admits who brings a membership certificate, keeps nothing
//! of him but his presence, and can't make anybody a member.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork, PublicKey};
use serde_json::json;
use sqlx::SqliteConnection;
use tokio::sync::watch;
use tracing::info;

use super::audit::{Action, Actor, record};
use super::{Cluster, DEFAULT_CLUSTER, Service, ServiceError, UnixMs};
use crate::events::{Event, Sender};
use crate::secrets;
use crate::store::foreign::{self, ForeignRow};

/// Foreign clusters that a server serves: each is a place in every table of the broker, and more than a handful is a
/// mistake.
const MAX_FOREIGN: usize = 64;

/// A cluster that members of may visit.
pub(crate) struct Foreign {
    pub(crate) name: ClusterName,
    /// The cluster's key.
    pub(crate) home: PublicKey,
    pub(crate) created_ms: i64,
    /// Signs welcomes. It lasts as long as the server runs: what a node believes this server by is TLS.
    key: SigningKey,
}

/// Those that are served, by name.
pub(crate) type ForeignClusters = Arc<BTreeMap<ClusterName, Arc<Foreign>>>;

impl Foreign {
    fn new(row: ForeignRow) -> Result<Arc<Self>, ServiceError> {
        let ForeignRow { name, public_key: home, created_ms } = row;
        Ok(Arc::new(Self { name, home, created_ms, key: SigningKey::from_bytes(&secrets::random()?) }))
    }
}

impl Service {
    /// Serves the foreign clusters of the registry, after it has put those that a flag names there. One of these may
    /// take the place of an own cluster of its name.
    pub(crate) async fn serve_foreign(
        &self,
        now: UnixMs,
        given: Vec<(ClusterName, PublicKey)>,
    ) -> Result<(), ServiceError> {
        let work = self.store.write(move |tx| {
            Box::pin(async move {
                let known = foreign::all(&mut *tx).await?;
                for (name, public_key) in given {
                    let is_given = |row: &ForeignRow| (&row.name, row.public_key) == (&name, public_key);
                    if !known.iter().any(is_given) {
                        let row = ForeignRow { name, public_key, created_ms: now.0 };
                        put(tx, now, &Actor::SERVER, &row).await?;
                    }
                }
                Ok::<_, ServiceError>(foreign::all(&mut *tx).await?)
            })
        });
        let served = work.await?.into_iter().map(|row| Ok((row.name.clone(), Foreign::new(row)?)));
        let served: BTreeMap<_, _> = served.collect::<Result<_, ServiceError>>()?;
        self.foreign.send_replace(Arc::new(served));
        Ok(())
    }

    /// Serves one more. One that is served already stays as it is; false for that.
    pub(crate) async fn add_foreign(
        &self,
        now: UnixMs,
        actor: &Actor,
        name: ClusterName,
        public_key: PublicKey,
    ) -> Result<(Arc<Foreign>, bool), ServiceError> {
        let _changing = self.changing.lock().await;
        let served = self.foreign_clusters();
        match served.get(&name) {
            Some(known) if known.home == public_key => return Ok((Arc::clone(known), false)),
            Some(_) => return Err(ServiceError::ForeignClusterKnown),
            None if self.clusters().contains_key(&name) => return Err(ServiceError::OwnCluster),
            None if served.len() >= MAX_FOREIGN => return Err(ServiceError::TooManyClusters),
            None => {}
        }
        let row = ForeignRow { name, public_key, created_ms: now.0 };
        let added = Foreign::new(row.clone())?;
        let actor = *actor;
        let stored = self.store.write(move |tx| Box::pin(async move { put(tx, now, &actor, &row).await }));
        stored.await?;
        info!(cluster = %added.name, home = %added.home, "a foreign cluster is served");
        self.foreign.send_modify(|served| {
            Arc::make_mut(served).insert(added.name.clone(), Arc::clone(&added));
        });
        self.tell_foreign(&added.name, "foreign_added");
        Ok((added, true))
    }

    /// Serves one no longer. Its visitors are disconnected.
    pub(crate) async fn remove_foreign(
        &self,
        now: UnixMs,
        actor: &Actor,
        name: &str,
    ) -> Result<(), ServiceError> {
        let _changing = self.changing.lock().await;
        let name = name.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
        if !self.foreign_clusters().contains_key(&name) {
            let is_own = self.clusters().contains_key(&name);
            return Err(if is_own { ServiceError::OwnCluster } else { ServiceError::UnknownCluster });
        }
        let (actor, target) = (*actor, name.clone());
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                foreign::delete(tx, &target).await?;
                record(tx, now, &actor, Action::ClusterRemove, target.as_str(), json!({})).await
            })
        });
        stored.await?;
        info!(cluster = %name, "a foreign cluster is served no longer");
        self.foreign.send_modify(|served| {
            Arc::make_mut(served).remove(&name);
        });
        self.tell_foreign(&name, "foreign_removed");
        Ok(())
    }

    /// Tells those who watch that a foreign cluster came or went. What it amounts to is found here, so that goes with
    /// it.
    fn tell_foreign(&self, name: &ClusterName, reason: &'static str) {
        let effective = self.cluster(DEFAULT_CLUSTER).map(|cluster| cluster.effective);
        let effective = effective.unwrap_or(EffectiveNetwork::Private);
        let state = Event::ClusterState { kind: ClusterNetwork::Dynamic, effective, reason: Some(reason) };
        self.events().publish(name, Sender::Server, &state);
    }

    /// The foreign clusters as they are now.
    pub(crate) fn foreign_clusters(&self) -> ForeignClusters {
        Arc::clone(&self.foreign.borrow())
    }

    /// And whenever one comes or goes.
    pub(crate) fn foreign_changes(&self) -> watch::Receiver<ForeignClusters> {
        self.foreign.subscribe()
    }

    /// What the broker has to know when an own cluster has changed: itself, and the foreign ones if they
    /// find here what it amounts to.
    pub(crate) fn broker_clusters(&self, changed: &Cluster) -> Vec<ClusterConfig> {
        let foreign = self.foreign_clusters();
        let own = (!foreign.contains_key(&changed.name)).then(|| self.broker_cluster(changed));
        let guests = foreign.values().filter(|_| changed.name.as_str() == DEFAULT_CLUSTER);
        let guests = guests.map(|foreign| self.config_of(foreign, changed.effective));
        own.into_iter().chain(guests).collect()
    }

    /// A foreign cluster as the broker needs it.
    pub(crate) fn broker_foreign(&self, foreign: &Foreign) -> Result<ClusterConfig, ServiceError> {
        Ok(self.config_of(foreign, self.effective(&foreign.name)?))
    }

    fn config_of(&self, foreign: &Foreign, effective: EffectiveNetwork) -> ClusterConfig {
        ClusterConfig {
            name: foreign.name.clone(),
            kind: ClusterNetwork::Dynamic,
            effective,
            key: foreign.key.clone(),
            home: Some(foreign.home),
            open_join: false,
            admit_relayed: false,
            stun: self.stun.clone(),
        }
    }

    /// What a served cluster amounts to now. This server's own seeds decide for one whose home is elsewhere.
    pub(crate) fn effective(&self, name: &ClusterName) -> Result<EffectiveNetwork, ServiceError> {
        let decides = if self.foreign.borrow().contains_key(name) { DEFAULT_CLUSTER } else { name.as_str() };
        Ok(self.cluster(decides)?.effective)
    }
}

async fn put(
    tx: &mut SqliteConnection,
    now: UnixMs,
    actor: &Actor,
    row: &ForeignRow,
) -> Result<(), ServiceError> {
    foreign::put(tx, row).await?;
    let detail = json!({ "public_key": row.public_key.to_string() });
    record(tx, now, actor, Action::ClusterAdd, row.name.as_str(), detail).await
}
