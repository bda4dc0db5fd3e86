//! Who may use the relay: static users, and the secrets that time-limited credentials are minted
//! with.
//!
//! The registry has the last word. What is in force is a snapshot of it in a `watch` channel, which
//! the STUN server follows; changes are made one at a time, and are published after their commit.
//! The current secret also lies in a file of the data directory, for programs that mint by
//! themselves.

use std::sync::Arc;

use meetpoint_broker::StunCredential;
use meetpoint_proto::SessionId;
use meetpoint_proto::stun::REALM;
use meetpoint_turn::credentials::MAX_SECRETS;
use meetpoint_turn::users::MAX_USERS;
use meetpoint_turn::{LongTermKeys, MAX_LIFETIME, Secret, Secrets, User, Users};
use serde_json::json;
use sqlx::SqliteConnection;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use super::audit::{Action, Actor, record};
use super::{Service, ServiceError, UnixMs};
use crate::data_dir::DataDir;
use crate::secrets;
use crate::store::relay::{self, SecretRow, UserRow};
use crate::store::{Store, StoreError};

/// How long time-limited credentials hold if nobody says otherwise: long enough for a meeting, short
/// enough for a leak.
pub(crate) const DEFAULT_LIFETIME_S: u64 = 12 * 60 * 60;
/// How long they hold at most: a week. They can't be taken back one by one.
pub(crate) const MAX_LIFETIME_S: u64 = 7 * 24 * 60 * 60;
/// The longest user of a time-limited username: leaves room for its expiry (RFC 8489, section 14.3).
pub(crate) const MAX_MINTED_USER_LEN: usize = 128;
/// A shorter password is found by trying, offline, from one request that somebody overheard.
pub(crate) const MIN_PASSWORD_LEN: usize = 8;
/// Longer ones protect no better.
pub(crate) const MAX_PASSWORD_LEN: usize = 128;
/// The longest secret that is taken: HMAC-SHA1 hashes what is longer than its block of 64 bytes.
pub(crate) const MAX_SECRET_LEN: usize = 128;
/// Characters of a password we make: base32, so 160 bits, and no character that needs quoting.
const MADE_PASSWORD_LEN: usize = 32;
/// A secret is noted to be needed longer than the credential at hand, by one part in so many of its
/// lifetime: then the next ones need no write, some hours long.
const FORESIGHT: i64 = 8;

/// How long an allocation may outlive its credentials.
const ALLOCATION_MS: i64 = MAX_LIFETIME.as_millis() as i64;

/// What time-limited and static credentials are checked with.
#[derive(Debug, Clone)]
pub(crate) struct RelayKeys {
    pub(crate) secrets: Secrets,
    pub(crate) users: Users,
}

/// The keys in force, and the right to change them.
pub(crate) struct Keyring {
    /// The accepted secrets, the current one first. Held during each change.
    secrets: Mutex<Vec<SecretRow>>,
    keys: watch::Sender<RelayKeys>,
    pub(super) data: Arc<DataDir>,
}

/// A static user, after a change.
#[derive(Debug)]
pub(crate) struct ChangedUser {
    pub(crate) row: UserRow,
    pub(crate) is_new: bool,
    /// If it was made here: it is told once and kept nowhere.
    pub(crate) made_password: Option<String>,
}

impl Keyring {
    /// Reads what is in force. A secret in the data directory that the registry does not have is
    /// taken over as the current one: it is from a time before the registry kept them, or the
    /// operator has put it there. Without any, one is made.
    pub(crate) async fn open(
        store: &Store,
        data: Arc<DataDir>,
        now: UnixMs,
        announces_hashes: bool,
    ) -> Result<Self, ServiceError> {
        let given = secrets::credential_secret(&data)?;
        let made = secrets::long_text()?;
        let loaded = store.write(move |tx| {
            Box::pin(async move {
                relay::delete_unneeded_secrets(tx, now.0).await?;
                let known = relay::secrets(&mut *tx).await?;
                match given {
                    Some(given) if known.iter().all(|row| row.secret != given) => {
                        // Others may have minted with it.
                        let needed_until = after(now, MAX_LIFETIME_S);
                        install(tx, now, given, needed_until, DEFAULT_LIFETIME_S).await?;
                        record_added(tx, now, &Actor::SERVER, "file").await?;
                    }
                    None if known.is_empty() => {
                        install(tx, now, made, now.0, 0).await?;
                        record_added(tx, now, &Actor::SERVER, "made").await?;
                    }
                    _ => {}
                }
                let users = relay::users(&mut *tx).await?;
                Ok::<_, ServiceError>((relay::secrets(tx).await?, users))
            })
        });
        let (rows, users) = loaded.await?;
        let users = users.iter().map(in_force).collect::<Result<_, _>>()?;
        let users = Users::new(users).map_err(|_| StoreError::Corrupt("relay_users"))?;
        let users = if announces_hashes { users.announcing_hashes() } else { users };
        let keys = watch::Sender::new(RelayKeys { secrets: accepted(&rows)?, users });
        let keyring = Self { secrets: Mutex::new(rows), keys, data };
        if let Some(current) = keyring.secrets.lock().await.first() {
            keyring.write_file(current.secret.clone()).await?;
        }
        Ok(keyring)
    }

    fn publish_secrets(&self, rows: &[SecretRow]) -> Result<(), ServiceError> {
        let secrets = accepted(rows)?;
        self.keys.send_modify(|keys| keys.secrets = secrets);
        Ok(())
    }

    fn publish_users(&self, change: impl FnOnce(&mut Vec<User>)) -> Result<(), ServiceError> {
        let now = self.keys.borrow().users.clone();
        let mut list = now.as_slice().to_vec();
        change(&mut list);
        let users = now.with(list).map_err(|_| StoreError::Corrupt("relay_users"))?;
        self.keys.send_modify(|keys| keys.users = users);
        Ok(())
    }

    async fn write_file(&self, secret: String) -> Result<(), ServiceError> {
        let data = Arc::clone(&self.data);
        let written = tokio::task::spawn_blocking(move || secrets::write_credential_secret(&data, &secret));
        Ok(written.await.map_err(|_| StoreError::Closed)??)
    }
}

impl Service {
    /// What credentials are checked with, now and whenever it changes.
    pub(crate) fn relay_keys(&self) -> watch::Receiver<RelayKeys> {
        self.keyring.keys.subscribe()
    }

    /// Mints STUN and TURN credentials, valid until `expires_unix_s`. That the secret is needed so
    /// long is stored first.
    pub(crate) async fn mint(
        &self,
        now: UnixMs,
        user: &str,
        expires_unix_s: u64,
    ) -> Result<(String, String), ServiceError> {
        let expires_ms = i64::try_from(expires_unix_s).unwrap_or(i64::MAX).saturating_mul(1000);
        // What was allocated at the last moment lasts a little longer, and so do its requests.
        let needed_ms = expires_ms.saturating_add(ALLOCATION_MS);
        let mut rows = self.keyring.secrets.lock().await;
        let current = rows.first_mut().ok_or(StoreError::Corrupt("relay_secrets"))?;
        if current.needed_until_ms < needed_ms {
            let id = current.id;
            let until_ms = needed_ms.saturating_add((expires_ms - now.0) / FORESIGHT);
            let noted = self.store.write::<_, ServiceError, _>(move |tx| {
                Box::pin(async move { Ok(relay::need_secret(tx, id, until_ms).await?) })
            });
            noted.await?;
            current.needed_until_ms = until_ms;
        }
        Ok(self.keyring.keys.borrow().secrets.mint(user, expires_unix_s))
    }

    /// Credentials that end before anybody could replace the secret for good: nothing is stored for them.
    pub(crate) fn mint_for_probe(&self, user: &str, expires_unix_s: u64) -> (String, String) {
        self.keyring.keys.borrow().secrets.mint(user, expires_unix_s)
    }

    /// Mints credentials for an operator. They are noted, outside the lock under which secrets change:
    /// those of many callers go into one commit.
    pub(crate) async fn mint_for_operator(
        &self,
        now: UnixMs,
        actor: Actor,
        user: &str,
        expires_unix_s: u64,
    ) -> Result<(String, String), ServiceError> {
        let credentials = self.mint(now, user, expires_unix_s).await?;
        let detail = json!({ "expires_unix_s": expires_unix_s });
        self.note(now, actor, Action::CredentialsCreate, user.to_owned(), detail).await?;
        Ok(credentials)
    }

    /// The STUN credential of a node's session.
    pub(crate) async fn mint_for_session(
        &self,
        now: UnixMs,
        session: &SessionId,
        expires_unix_s: u64,
    ) -> Result<StunCredential, ServiceError> {
        let user = meetpoint_turn::node_user(session);
        let (username, password) = self.mint(now, &user, expires_unix_s).await?;
        let stream_nonce = self.keyring.keys.borrow().secrets.stream_nonce(&username, now.unsigned() / 1000);
        Ok(StunCredential { username, password, stream_nonce: Some(stream_nonce) })
    }

    /// The accepted secrets, the current one first.
    pub(crate) async fn relay_secrets(&self) -> Vec<SecretRow> {
        self.keyring.secrets.lock().await.clone()
    }

    /// Takes a secret, or makes one, and mints with it from now on. The one before is accepted as long
    /// as credentials known to be minted with it, or what they allocated, may last, and for `overlap_s`
    /// at least.
    pub(crate) async fn add_relay_secret(
        &self,
        now: UnixMs,
        actor: &Actor,
        given: Option<String>,
        overlap_s: u64,
    ) -> Result<SecretRow, ServiceError> {
        let (actor, origin) = (*actor, if given.is_some() { "given" } else { "made" });
        let secret = given.map_or_else(secrets::long_text, Ok)?;
        Secret::new(secret.as_bytes())?;
        let mut rows = self.keyring.secrets.lock().await;
        check_room(&rows, now, &secret)?;
        let before = rows.first().map(|row| row.secret.clone());
        // First the file: what is found there at the next start is the current secret then, so that
        // neither a crash nor a full disk brings back one that was dropped.
        self.keyring.write_file(secret.clone()).await?;
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                relay::delete_unneeded_secrets(tx, now.0).await?;
                install(tx, now, secret, now.0, overlap_s).await?;
                record_added(tx, now, &actor, origin).await?;
                Ok::<_, ServiceError>(relay::secrets(tx).await?)
            })
        });
        match stored.await {
            Ok(stored) => *rows = stored,
            Err(error) => {
                if let Some(before) = before
                    && let Err(error) = self.keyring.write_file(before).await
                {
                    warn!(%error, "the credential secret's file is ahead of the registry; the next start takes it over");
                }
                return Err(error);
            }
        }
        self.keyring.publish_secrets(&rows)?;
        let current = rows.first().cloned().ok_or(StoreError::Corrupt("relay_secrets"))?;
        info!(secret = current.id, "a new credential secret mints from now on");
        Ok(current)
    }

    /// Drops a secret at once, and with it all credentials that were minted with it.
    pub(crate) async fn drop_relay_secret(
        &self,
        now: UnixMs,
        actor: &Actor,
        id: i64,
    ) -> Result<(), ServiceError> {
        let actor = *actor;
        let mut rows = self.keyring.secrets.lock().await;
        match rows.iter().position(|row| row.id == id) {
            None => return Err(ServiceError::UnknownRelaySecret),
            Some(0) => return Err(ServiceError::CurrentRelaySecret),
            Some(_) => {}
        }
        let dropped = self.store.write::<_, ServiceError, _>(move |tx| {
            Box::pin(async move {
                relay::delete_secret(tx, id).await?;
                record(tx, now, &actor, Action::RelaySecretDrop, &id.to_string(), json!({})).await
            })
        });
        dropped.await?;
        rows.retain(|row| row.id != id);
        info!(secret = id, "a credential secret is dropped");
        self.keyring.publish_secrets(&rows)
    }

    /// Drops the secrets whose credentials have all ended, and what was allocated with them too.
    pub(crate) async fn drop_unneeded_relay_secrets(&self, now: UnixMs) -> Result<(), ServiceError> {
        let mut rows = self.keyring.secrets.lock().await;
        if rows.iter().skip(1).all(|row| row.needed_until_ms > now.0) {
            return Ok(());
        }
        let dropped = self.store.write(move |tx| {
            Box::pin(async move {
                relay::delete_unneeded_secrets(tx, now.0).await?;
                Ok::<_, ServiceError>(relay::secrets(tx).await?)
            })
        });
        *rows = dropped.await?;
        info!(left = rows.len(), "credential secrets that nobody needs any more are dropped");
        self.keyring.publish_secrets(&rows)
    }

    /// Makes a static user, or gives a known one another password. Without a password one is made.
    pub(crate) async fn put_relay_user(
        &self,
        now: UnixMs,
        actor: &Actor,
        name: &str,
        password: Option<&str>,
    ) -> Result<ChangedUser, ServiceError> {
        let made_password = match password {
            Some(_) => None,
            None => Some(secrets::long_text()?[..MADE_PASSWORD_LEN].to_owned()),
        };
        let password = password.or(made_password.as_deref()).unwrap_or_default();
        let user = User::new(name, REALM, LongTermKeys::derive(name, REALM, password))?;
        let _one_at_a_time = self.keyring.secrets.lock().await;
        let users = self.keyring.keys.borrow().users.clone();
        let is_new = users.as_slice().iter().all(|known| known.name() != user.name());
        if is_new && users.as_slice().len() >= MAX_USERS {
            return Err(ServiceError::RelayFull("static users"));
        }
        let (actor, stored) = (*actor, user.clone());
        let row = self.store.write::<_, ServiceError, _>(move |tx| {
            Box::pin(async move {
                let row = relay::upsert_user(tx, stored.name(), stored.keys(), now.0).await?;
                let detail = json!({ "is_new": is_new });
                record(tx, now, &actor, Action::RelayUserPut, stored.name(), detail).await?;
                Ok(row)
            })
        });
        let row = row.await?;
        info!(user = row.name, is_new, "a static user may use the relay");
        self.keyring.publish_users(|list| {
            list.retain(|known| known.name() != user.name());
            list.push(user);
        })?;
        Ok(ChangedUser { row, is_new, made_password })
    }

    /// At most `limit` static users with a name above `after`.
    pub(crate) async fn relay_users(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<UserRow>, ServiceError> {
        Ok(self.store.timed(relay::page_users(self.store.reads(), after, limit)).await?)
    }

    /// Removes a static user. What it was granted lasts until it would have to be refreshed.
    pub(crate) async fn remove_relay_user(
        &self,
        now: UnixMs,
        actor: &Actor,
        name: String,
    ) -> Result<(), ServiceError> {
        let _one_at_a_time = self.keyring.secrets.lock().await;
        let (actor, key) = (*actor, name.clone());
        let removed = self.store.write(move |tx| {
            Box::pin(async move {
                if !relay::delete_user(tx, &key).await? {
                    return Err(ServiceError::UnknownRelayUser);
                }
                record(tx, now, &actor, Action::RelayUserRemove, &key, json!({})).await
            })
        });
        removed.await?;
        info!(user = name, "a static user is removed");
        self.keyring.publish_users(|list| list.retain(|user| **user.name() != *name))
    }
}

/// So many seconds later.
fn after(now: UnixMs, seconds: u64) -> i64 {
    now.0.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// Adds a secret as the current one. The one before is needed a while longer.
async fn install(
    tx: &mut SqliteConnection,
    now: UnixMs,
    secret: String,
    needed_until_ms: i64,
    overlap_s: u64,
) -> Result<(), ServiceError> {
    let known = relay::secrets(&mut *tx).await?;
    check_room(&known, now, &secret)?;
    if let Some(before) = known.first() {
        relay::need_secret(tx, before.id, after(now, overlap_s)).await?;
    }
    Ok(relay::insert_secret(tx, &secret, needed_until_ms, now.0).await?)
}

/// Notes that a secret was added: the one that is current now.
async fn record_added(
    tx: &mut SqliteConnection,
    now: UnixMs,
    actor: &Actor,
    origin: &'static str,
) -> Result<(), ServiceError> {
    let rows = relay::secrets(&mut *tx).await?;
    let id = rows.first().ok_or(StoreError::Corrupt("relay_secrets"))?.id.to_string();
    record(tx, now, actor, Action::RelaySecretAdd, &id, json!({ "origin": origin })).await
}

/// Whether another secret can be accepted next to these.
fn check_room(known: &[SecretRow], now: UnixMs, secret: &str) -> Result<(), ServiceError> {
    if known.iter().any(|row| row.secret == secret) {
        return Err(ServiceError::KnownRelaySecret);
    }
    let is_needed = |(at, row): &(usize, &SecretRow)| *at == 0 || row.needed_until_ms > now.0;
    if known.iter().enumerate().filter(is_needed).count() >= MAX_SECRETS {
        return Err(ServiceError::RelayFull("credential secrets"));
    }
    Ok(())
}

fn accepted(rows: &[SecretRow]) -> Result<Secrets, ServiceError> {
    let secrets = rows.iter().map(|row| Secret::new(row.secret.as_bytes())).collect::<Result<_, _>>();
    let secrets = secrets.and_then(Secrets::new);
    Ok(secrets.map_err(|_| StoreError::Corrupt("relay_secrets.secret"))?)
}

fn in_force(row: &UserRow) -> Result<User, StoreError> {
    User::new(&row.name, REALM, row.keys.clone()).map_err(|_| StoreError::Corrupt("relay_users.name"))
}
