//! Join tokens: made, listed, revoked.

use meetpoint_proto::id::{Fingerprint, TokenId};
use meetpoint_proto::{JoinToken, NamePattern, TokenScope};
use serde_json::json;

use super::audit::{Action, Actor, record};
use super::{Service, ServiceError, UnixMs};
use crate::secrets;
use crate::store::tokens::{self, TokenRow};

/// Longest label, in characters.
pub(crate) const MAX_LABEL_LEN: usize = 100;
/// Tokens of one cluster, revoked ones included: they are made by hand or by a script that errs.
const MAX_TOKENS: i64 = 10_000;

/// What a new token is to be.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    pub(crate) label: String,
    pub(crate) scope: TokenScope,
    /// Names that it admits; all of them, if there is none.
    pub(crate) names: Option<NamePattern>,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) max_uses: Option<i64>,
}

impl Service {
    /// Makes a token. Its secret is in the answer, once, and nowhere else.
    pub(crate) async fn create_token(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        new: NewToken,
        fingerprint: Fingerprint,
    ) -> Result<(TokenRow, JoinToken), ServiceError> {
        let token = JoinToken::mint(secrets::random()?, fingerprint);
        let row = self.register_token(now, actor, cluster, new, &token).await?;
        Ok((row, token))
    }

    /// Registers a token's public half unless it is there. Gives what is registered.
    pub(crate) async fn register_token(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        new: NewToken,
        token: &JoinToken,
    ) -> Result<TokenRow, ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{}", token.id()));
        let cluster = self.cluster(cluster)?.id;
        let row = TokenRow {
            id: token.id(),
            public_key: token.public_key(),
            label: new.label,
            scope: new.scope,
            names: new.names,
            created_ms: now.0,
            expires_ms: new.expires_ms,
            max_uses: new.max_uses,
            uses: 0,
            revoked_ms: None,
        };
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                if let Some(known) = tokens::find(&mut *tx, cluster, &row.id).await? {
                    return Ok(known);
                }
                if tokens::count(tx, cluster).await? >= MAX_TOKENS {
                    return Err(ServiceError::ClusterFull);
                }
                tokens::insert(tx, cluster, &row).await?;
                let detail = json!({
                    "label": row.label,
                    "scope": row.scope.as_str(),
                    "name_pattern": row.names.as_ref().map(NamePattern::as_str),
                    "expires_unix_ms": row.expires_ms,
                    "max_uses": row.max_uses,
                });
                record(tx, now, &actor, Action::TokenCreate, &target, detail).await?;
                Ok(row)
            })
        });
        stored.await
    }

    /// At most `limit` tokens with an id above `after`.
    pub(crate) async fn tokens(
        &self,
        cluster: &str,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<TokenRow>, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        Ok(self.store.timed(tokens::page(self.store.reads(), cluster, after, limit)).await?)
    }

    /// One token.
    pub(crate) async fn token(&self, cluster: &str, id: &TokenId) -> Result<TokenRow, ServiceError> {
        let cluster = self.cluster(cluster)?.id;
        self.store
            .timed(tokens::find(self.store.reads(), cluster, id))
            .await?
            .ok_or(ServiceError::UnknownToken)
    }

    /// Revokes a token. Nodes that joined with it stay members, and come back by their sessions.
    pub(crate) async fn revoke_token(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        id: TokenId,
    ) -> Result<(), ServiceError> {
        let (actor, target) = (*actor, format!("{cluster}/{id}"));
        let cluster = self.cluster(cluster)?.id;
        let revoked = self.store.write(move |tx| {
            Box::pin(async move {
                if !tokens::revoke(tx, cluster, &id, now.0).await? {
                    return Err(ServiceError::UnknownToken);
                }
                record(tx, now, &actor, Action::TokenRevoke, &target, json!({})).await
            })
        });
        revoked.await
    }
}
