//! Clusters whose home is another server.
//!
//! This server has their public key only. It admits who brings a membership certificate, keeps nothing
//! of him but his presence, and can't make anybody a member.

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork, PublicKey};

use super::{Cluster, DEFAULT_CLUSTER, Service, ServiceError};

/// A cluster that members of may visit.
pub(crate) struct Foreign {
    pub(crate) name: ClusterName,
    /// The cluster's key.
    pub(crate) home: PublicKey,
    /// Signs welcomes. It lasts as long as the server runs: what a node believes this server by is TLS.
    pub(crate) key: SigningKey,
}

impl Foreign {
    fn config(&self, effective: EffectiveNetwork, stun: Vec<StunServer>) -> ClusterConfig {
        ClusterConfig {
            name: self.name.clone(),
            kind: ClusterNetwork::Dynamic,
            effective,
            key: self.key.clone(),
            home: Some(self.home),
            open_join: false,
            admit_relayed: false,
            stun,
        }
    }
}

impl Service {
    /// Serves these clusters too. One of them takes the place of an own cluster of the same name.
    pub(crate) fn with_foreign(mut self, foreign: Vec<Foreign>) -> Self {
        self.foreign = foreign.into_iter().map(|foreign| (foreign.name.clone(), foreign)).collect();
        self
    }

    /// What the broker has to know when an own cluster has changed: itself, and the foreign ones if they
    /// find here what it amounts to.
    pub(crate) fn broker_clusters(&self, changed: &Cluster) -> Vec<ClusterConfig> {
        let own = (!self.foreign.contains_key(&changed.name)).then(|| self.broker_cluster(changed));
        let guests = self.foreign.values().filter(|_| changed.name.as_str() == DEFAULT_CLUSTER);
        let guests = guests.map(|foreign| foreign.config(changed.effective, self.stun.clone()));
        own.into_iter().chain(guests).collect()
    }

    /// What a served cluster amounts to now. This server's own seeds decide for one whose home is elsewhere.
    pub(super) fn effective(&self, name: &ClusterName) -> Result<EffectiveNetwork, ServiceError> {
        let decides = if self.foreign.contains_key(name) { DEFAULT_CLUSTER } else { name.as_str() };
        Ok(self.cluster(decides)?.effective)
    }
}
