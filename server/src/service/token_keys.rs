//! The public halves of join tokens, remembered: a thousand nodes a second show the same few tokens.
//!
//! A token's id is derived from its key, so what is remembered never becomes wrong. Whether the token still holds is
//! asked of the registry, in the transaction that stores the join.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use meetpoint_proto::PublicKey;
use meetpoint_proto::id::TokenId;

use crate::store::clusters::ClusterId;
use crate::store::{Store, StoreError, tokens};

/// Tokens remembered. Beyond it all are forgotten, and read again as they are shown.
const MAX_KEYS: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TokenKeys(Mutex<BTreeMap<(ClusterId, TokenId), PublicKey>>);

impl TokenKeys {
    /// The key of a registered token. Of one that is not nothing is remembered: strangers make up as many as they like.
    pub(super) async fn get(
        &self,
        store: &Store,
        cluster: ClusterId,
        id: TokenId,
    ) -> Result<Option<PublicKey>, StoreError> {
        let known = self.with(|keys| keys.get(&(cluster, id)).copied());
        if known.is_some() {
            return Ok(known);
        }
        let Some(token) = tokens::find(store.reads(), cluster, &id).await? else { return Ok(None) };
        self.with(|keys| {
            if keys.len() >= MAX_KEYS {
                keys.clear();
            }
            keys.insert((cluster, id), token.public_key);
        });
        Ok(Some(token.public_key))
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<(ClusterId, TokenId), PublicKey>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
