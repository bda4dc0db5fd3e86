//! A node joins.

use meetpoint_broker::{AdmitRequest, StunCredential, TokenProof};
use meetpoint_proto::EffectiveNetwork;
use meetpoint_proto::join::Domain;
use sqlx::SqliteConnection;

use super::{Cluster, Service, ServiceError, UnixMs};
use crate::store::clusters::ClusterId;
use crate::store::nodes::Join;
use crate::store::tokens::TokenRow;
use crate::store::{nodes, tokens};

/// How long a membership certificate holds. Peers take it without asking the server, so a removed
/// node may be believed for so long; a node that stays renews it with each join.
pub(crate) const CERTIFICATE_LIFETIME_S: u64 = 24 * 60 * 60;
/// Nodes registered in one cluster: some 20 MB of registry. Keeps an open cluster from filling the disk.
const MAX_NODES: i64 = 100_000;

/// A join is stored.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) not_after_unix_s: u64,
    pub(crate) credential: Option<StunCredential>,
}

impl Service {
    /// Checks the token and stores the join, durably.
    ///
    /// A use of the token is counted for each new node. A known node that comes back needs a valid
    /// token all the same, but not a use of it.
    pub(crate) async fn admit(&self, now: UnixMs, request: AdmitRequest) -> Result<Admission, ServiceError> {
        let cluster = self.cluster(request.cluster.as_str())?;
        match &request.admission {
            Some(proof) => self.check_proof(&cluster, proof).await?,
            None if cluster.open_join => {}
            None => return Err(ServiceError::BadToken("is missing")),
        }
        let not_after_unix_s = now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S;
        let id = cluster.id;
        let credential = if cluster.effective == EffectiveNetwork::Public {
            let user = meetpoint_turn::node_user(&request.session);
            let (username, password) = self.mint(now, &user, not_after_unix_s).await?;
            Some(StunCredential { username, password })
        } else {
            None
        };
        self.store.write(move |tx| Box::pin(async move { store_join(tx, id, now, &request).await })).await?;
        Ok(Admission { not_after_unix_s, credential })
    }

    /// Whether the node holds the token. Whoever does not, learns nothing about the token's state.
    async fn check_proof(&self, cluster: &Cluster, proof: &TokenProof) -> Result<(), ServiceError> {
        let found = tokens::find(self.store.reads(), cluster.id, &proof.token).await?;
        let token = found.ok_or(ServiceError::BadToken("is not known here"))?;
        if !proof.transcript.verify(Domain::Admission, &token.public_key, &proof.signature) {
            return Err(ServiceError::BadToken("does not fit the signature"));
        }
        Ok(())
    }
}

async fn store_join(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    now: UnixMs,
    request: &AdmitRequest,
) -> Result<(), ServiceError> {
    let is_new = nodes::find(&mut *tx, cluster, &request.node).await?.is_none();
    if is_new && nodes::count(&mut *tx, cluster).await? >= MAX_NODES {
        return Err(ServiceError::ClusterFull);
    }
    if let Some(proof) = &request.admission {
        let token = tokens::find(&mut *tx, cluster, &proof.token).await?;
        let token = token.ok_or(ServiceError::BadToken("is not known here"))?;
        check_usable(&token, now, is_new)?;
        if is_new {
            tokens::count_use(tx, cluster, &proof.token).await?;
        }
    }
    free_name(tx, cluster, request).await?;
    let join = Join {
        id: &request.node,
        name: &request.name,
        ephemeral: request.ephemeral,
        declared: request.declared,
        version: &request.version,
    };
    Ok(nodes::join(tx, cluster, &join, now.0).await?)
}

/// Whether a token that its bearer has proven to hold lets him in.
pub(super) fn check_usable(token: &TokenRow, now: UnixMs, is_new: bool) -> Result<(), ServiceError> {
    if token.revoked_ms.is_some() {
        return Err(ServiceError::BadToken("was revoked"));
    }
    if token.expires_ms.is_some_and(|expires_ms| expires_ms <= now.0) {
        return Err(ServiceError::BadToken("has expired"));
    }
    if is_new && token.max_uses.is_some_and(|max_uses| token.uses >= max_uses) {
        return Err(ServiceError::BadToken("is used up"));
    }
    Ok(())
}

/// Makes sure that nobody else has the name. An ephemeral node that is not present has no claim:
/// its key is gone with its process.
async fn free_name(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    request: &AdmitRequest,
) -> Result<(), ServiceError> {
    let holder = nodes::holder(tx, cluster, &request.name).await?;
    let Some(holder) = holder.filter(|holder| holder.id != request.node) else { return Ok(()) };
    let is_present = request.name_holder == Some(holder.id);
    if is_present || !holder.ephemeral {
        return Err(ServiceError::NameTaken);
    }
    nodes::delete(tx, cluster, &holder.id).await?;
    Ok(())
}
