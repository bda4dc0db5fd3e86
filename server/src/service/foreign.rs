//! Clusters whose home is another server.
//!
//! This server has their public key only. It admits who brings a membership certificate, keeps nothing
//! of him but his presence, and can't make anybody a member.

use ed25519_dalek::SigningKey;
use meetpoint_broker::ClusterConfig;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork, PublicKey};

use super::{Service, ServiceError};

/// A cluster that members of may visit.
pub(crate) struct Foreign {
    pub(crate) name: ClusterName,
    /// The cluster's key.
    pub(crate) home: PublicKey,
    /// What members find here; this server's own seeds decide.
    pub(crate) effective: EffectiveNetwork,
    /// Signs welcomes. It lasts as long as the server runs: what a node believes this server by is TLS.
    pub(crate) key: SigningKey,
}

impl Foreign {
    pub(super) fn config(&self, stun: Vec<StunServer>) -> ClusterConfig {
        ClusterConfig {
            name: self.name.clone(),
            kind: ClusterNetwork::Dynamic,
            effective: self.effective,
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

    /// What a served cluster amounts to now, wherever its home is.
    pub(super) fn effective(&self, name: &ClusterName) -> Result<EffectiveNetwork, ServiceError> {
        match self.foreign.get(name) {
            Some(foreign) => Ok(foreign.effective),
            None => Ok(self.cluster(name.as_str())?.effective),
        }
    }
}
