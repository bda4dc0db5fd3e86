//! A node joins, comes back, and stays.

use std::sync::Arc;

use meetpoint_broker::{AdmissionProof, AdmitRequest, StunCredential};
use meetpoint_proto::id::SessionToken;
use meetpoint_proto::join::Domain;
use meetpoint_proto::{ClusterName, EffectiveNetwork, NodeId, SessionId};
use sha2::{Digest, Sha256};

use super::joins::Applicant;
use super::registered::Right;
use super::{Service, ServiceError, UnixMs};
use crate::secrets;
use crate::store::clusters::ClusterId;
use crate::store::nodes::Session;
use crate::store::{cluster_secrets, nodes};

/// How long a membership certificate holds. Peers take it without asking the server, so a removed
/// node may be believed for so long by who was not told; a node that stays has it renewed.
pub(crate) const CERTIFICATE_LIFETIME_S: u64 = 24 * 60 * 60;
/// How long a node may be away and come back without showing a join token or a cluster secret. As long
/// as its certificate holds: what it may claim towards peers, it may claim here.
pub(crate) const SESSION_LIFETIME_MS: i64 = CERTIFICATE_LIFETIME_S as i64 * 1000;

/// A join is stored.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) not_after_unix_s: u64,
    pub(crate) credential: Option<StunCredential>,
    /// The node's new session. `None`: the one it came with goes on.
    pub(crate) session_token: Option<SessionToken>,
}

impl Service {
    /// Checks the node's right to join and stores the join, durably, in one transaction.
    ///
    /// A session that the node may come back to is enough. Else a cluster secret or a join token is
    /// needed; a use of the token is counted for each new node only.
    pub(crate) async fn admit(&self, now: UnixMs, request: AdmitRequest) -> Result<Admission, ServiceError> {
        if let Some(until_unix_s) = request.visitor_until_unix_s {
            return self.admit_visitor(now, &request, until_unix_s).await;
        }
        let cluster = self.cluster(request.cluster.as_str())?;
        let (id, is_open) = (cluster.id, cluster.open_join);
        let not_after_unix_s = now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S;
        let credential = self.credential(now, &request.cluster, &request.session, not_after_unix_s).await?;
        let request = Arc::new(request);
        if let Some(token) = request.admission.as_ref().and_then(|claims| claims.resume) {
            let hash = session_hash(&token);
            match self.store_join(id, now, &request, Right::Session(hash), hash).await {
                Ok(()) => return Ok(Admission { not_after_unix_s, credential, session_token: None }),
                // Whatever else it has to show may still let it in.
                Err(ServiceError::BadSession) => {}
                Err(error) => return Err(error),
            }
        }
        let right = self.right(id, is_open, &request).await?;
        let token = SessionToken::from_bytes(secrets::random()?);
        self.store_join(id, now, &request, right, session_hash(&token)).await?;
        Ok(Admission { not_after_unix_s, credential, session_token: Some(token) })
    }

    /// A member of a cluster whose home is elsewhere: only its presence is kept.
    async fn admit_visitor(
        &self,
        now: UnixMs,
        request: &AdmitRequest,
        until_unix_s: u64,
    ) -> Result<Admission, ServiceError> {
        let not_after_unix_s = until_unix_s.min(now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S);
        let credential = self.credential(now, &request.cluster, &request.session, not_after_unix_s).await?;
        Ok(Admission { not_after_unix_s: until_unix_s, credential, session_token: None })
    }

    /// Gives a member that is present another certificate's time, durably.
    pub(crate) async fn renew(
        &self,
        now: UnixMs,
        cluster: &ClusterName,
        node: NodeId,
        session: SessionId,
    ) -> Result<Admission, ServiceError> {
        let id = self.cluster(cluster.as_str())?.id;
        let not_after_unix_s = now.unsigned() / 1000 + CERTIFICATE_LIFETIME_S;
        let credential = self.credential(now, cluster, &session, not_after_unix_s).await?;
        let expires_ms = now.0.saturating_add(SESSION_LIFETIME_MS);
        let work = self
            .store
            .write(move |tx| Box::pin(async move { nodes::renew(tx, id, &node, expires_ms).await }));
        if work.await? {
            Ok(Admission { not_after_unix_s, credential, session_token: None })
        } else {
            Err(ServiceError::Removed)
        }
    }

    /// A STUN credential bound to the session, in effectively PUBLIC clusters.
    async fn credential(
        &self,
        now: UnixMs,
        cluster: &ClusterName,
        session: &SessionId,
        until_unix_s: u64,
    ) -> Result<Option<StunCredential>, ServiceError> {
        if self.effective(cluster)? != EffectiveNetwork::Public {
            return Ok(None);
        }
        Ok(Some(self.mint_for_session(now, session, until_unix_s).await?))
    }

    /// What of a node's claims is proven. Whoever holds nothing learns nothing about the state of what
    /// he names.
    async fn right(
        &self,
        cluster: ClusterId,
        is_open: bool,
        request: &AdmitRequest,
    ) -> Result<Right, ServiceError> {
        let Some(claims) = &request.admission else {
            return if is_open { Ok(Right::Open) } else { Err(ServiceError::BadToken("is missing")) };
        };
        if self.holds_secret(cluster, claims).await? {
            return Ok(Right::Secret);
        }
        match &claims.token {
            Some(proof) => {
                let key = self.token_keys.get(&self.store, cluster, proof.token).await?;
                let key = key.ok_or(ServiceError::BadToken("is not known here"))?;
                if claims.transcript.verify(Domain::Admission, &key, &proof.signature) {
                    Ok(Right::Token(proof.token))
                } else {
                    Err(ServiceError::BadToken("does not fit the signature"))
                }
            }
            None if is_open => Ok(Right::Open),
            None if claims.secrets.is_empty() => Err(ServiceError::BadSession),
            None => Err(ServiceError::BadSecret),
        }
    }

    async fn holds_secret(&self, cluster: ClusterId, claims: &AdmissionProof) -> Result<bool, ServiceError> {
        if claims.secrets.is_empty() {
            return Ok(false);
        }
        let known = self.store.timed(cluster_secrets::all(self.store.reads(), cluster)).await?;
        Ok(claims.secrets.iter().any(|proof| {
            let known = known.iter().find(|row| row.id == proof.secret);
            known.is_some_and(|row| claims.transcript.verify_mac(&row.key, &proof.mac))
        }))
    }

    async fn store_join(
        &self,
        cluster: ClusterId,
        now: UnixMs,
        request: &Arc<AdmitRequest>,
        right: Right,
        session_hash: [u8; 32],
    ) -> Result<(), ServiceError> {
        let session = Session { hash: session_hash, expires_ms: now.0.saturating_add(SESSION_LIFETIME_MS) };
        let applicant = Applicant { request: Arc::clone(request), right, session, now };
        self.joins.store(&self.store, cluster, applicant).await
    }
}

/// What the registry keeps of a session's token. The token is random enough to need no salt.
pub(super) fn session_hash(token: &SessionToken) -> [u8; 32] {
    Sha256::new().chain_update(b"meetpoint/v1/session-token").chain_update(token.as_bytes()).finalize().into()
}
