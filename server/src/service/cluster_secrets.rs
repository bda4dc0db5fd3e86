//! Cluster secrets: added, listed, dropped. All that are there are in use: nodes show what they have.

use meetpoint_proto::ClusterSecret;
use meetpoint_proto::id::SecretId;
use meetpoint_proto::wire::MAX_SECRETS;
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{Service, ServiceError, UnixMs};
use crate::secrets;
use crate::store::cluster_secrets::{self, ClusterSecretRow};

impl Service {
    /// Takes one more secret into use, or makes one. What is stored is derived from it.
    pub(crate) async fn add_secret(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        given: Option<ClusterSecret>,
    ) -> Result<(ClusterSecretRow, ClusterSecret), ServiceError> {
        let secret = match given {
            Some(secret) => secret,
            None => ClusterSecret::from_bytes(secrets::random()?),
        };
        let cluster = self.cluster(cluster)?;
        let (id, name) = (cluster.id, &cluster.name);
        let row = ClusterSecretRow { id: secret.id(name), key: secret.key(name), created_ms: now.0 };
        let (actor, target) = (*actor, format!("{name}/{}", row.id));
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                let known = cluster_secrets::all(&mut *tx, id).await?;
                if known.iter().any(|known| known.id == row.id) {
                    return Err(ServiceError::KnownSecret);
                }
                if known.len() >= MAX_SECRETS {
                    return Err(ServiceError::ClusterFull);
                }
                cluster_secrets::insert(tx, id, &row).await?;
                record(tx, now, &actor, Action::ClusterSecretAdd, &target, json!({})).await?;
                Ok(row)
            })
        });
        Ok((stored.await?, secret))
    }

    /// The secrets in use, the newest first.
    pub(crate) async fn secrets(&self, cluster: &str) -> Result<Vec<ClusterSecretRow>, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        Ok(self.store.timed(cluster_secrets::all(self.store.reads(), cluster)).await?)
    }

    /// Drops a secret. Nodes that joined by it stay members, and come back by their sessions.
    pub(crate) async fn drop_secret(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: SecretId,
    ) -> Result<(), ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let work = self.store.write(move |tx| {
            Box::pin(async move {
                if !cluster_secrets::delete(tx, cluster, &id).await? {
                    return Err(ServiceError::UnknownSecret);
                }
                record(tx, now, &actor, Action::ClusterSecretDrop, &target, json!({})).await
            })
        });
        work.await
    }
}
