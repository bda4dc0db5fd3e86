//! The audit log: who did what, when, from where.
//!
//! An entry is added in the transaction of the change it tells of: neither is there without the other.
//! What is recorded is what operators do, the server's start and end, and joins refused for a bad token.
//! Joins themselves are not: they are many, and the registry and the events tell of them.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use meetpoint_proto::{NodeId, PublicKey};
use serde_json::{Map, Value, json};
use sqlx::SqliteConnection;
use thiserror::Error;

use super::{Service, ServiceError, UnixMs};
use crate::chain::{AuditBroken, AuditChain, AuditEntry, AuditHead, canonical_json};
use crate::store::audit::{self, AuditFilter, AuditRow};
use crate::store::{self, OpenError, Store, StoreError};

/// Longest target, in characters: two of the longest names and ids.
const MAX_TARGET_LEN: usize = 256;
/// Longest detail, in bytes. A server's start with as many seeds as there may be has some 3 KB, if their
/// names are of ordinary length; a page of 500 of the longest is still less than what a client takes.
const MAX_DETAIL_BYTES: usize = 8 * 1024;
/// Entries that are read in one go when a log is checked offline.
const VERIFY_PAGE: u32 = 500;

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The bearer of the admin token.
    Admin,
    /// A node that has proven its key.
    Node(NodeId),
    /// A seed that has proven its key.
    Seed(PublicKey),
    /// The server, by itself or by its flags.
    Server,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Node(id) => write!(f, "node:{id}"),
            Self::Seed(key) => write!(f, "seed:{key}"),
            Self::Server => f.write_str("server"),
        }
    }
}

/// Who did it, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) who: Who,
    /// The source address of the connection; `None` for the server.
    pub(crate) source: Option<IpAddr>,
}

impl Actor {
    /// The server.
    pub(crate) const SERVER: Self = Self { who: Who::Server, source: None };

    /// The bearer of the admin token, there.
    pub(crate) const fn admin(source: IpAddr) -> Self {
        Self { who: Who::Admin, source: Some(source) }
    }

    /// A seed, there.
    pub(crate) const fn seed(key: PublicKey, source: IpAddr) -> Self {
        Self { who: Who::Seed(key), source: Some(source) }
    }

    /// A node, there.
    pub(crate) const fn node(id: NodeId, source: IpAddr) -> Self {
        Self { who: Who::Node(id), source: Some(source) }
    }
}

macro_rules! actions {
    ($($variant:ident = $text:literal;)+) => {
        /// What can be done. The word is part of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Action { $($variant),+ }

        impl Action {
            /// All words.
            pub(crate) const WORDS: &'static [&'static str] = &[$($text),+];

            /// The word in the log.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

actions! {
    ServerStart = "server.start";
    ServerStop = "server.stop";
    Reload = "server.reload";
    Drain = "server.drain";
    JoinRefuse = "join.refuse";
    NodeRemove = "node.remove";
    NodeRestore = "node.restore";
    SessionEnd = "node_session.end";
    ClusterAdd = "cluster.add";
    ClusterChange = "cluster.change";
    ClusterRemove = "cluster.remove";
    SeedPut = "seed.put";
    SeedApprove = "seed.approve";
    SeedDelete = "seed.delete";
    SeedRegister = "seed.register";
    TokenCreate = "join_token.create";
    TokenRevoke = "join_token.revoke";
    ClusterSecretAdd = "cluster_secret.add";
    ClusterSecretDrop = "cluster_secret.drop";
    ApiTokenReplace = "api_token.replace";
    ApiTokenDrop = "api_token.drop";
    CredentialsCreate = "relay_credentials.create";
    RelayUserPut = "relay_user.put";
    RelayUserRemove = "relay_user.remove";
    RelaySecretAdd = "relay_secret.add";
    RelaySecretDrop = "relay_secret.drop";
    RelaySessionEnd = "relay_session.end";
    BackupMake = "backup.make";
    BackupRestore = "backup.restore";
}

/// Adds an entry, in the transaction of the change itself. `detail` is an object of strings, whole
/// numbers and the like, and holds no secret.
pub(crate) async fn record(
    tx: &mut SqliteConnection,
    now: UnixMs,
    actor: &Actor,
    action: Action,
    target: &str,
    detail: Value,
) -> Result<(), ServiceError> {
    let head = audit::head(&mut *tx).await?;
    let entry = AuditEntry {
        seq: head.seq + 1,
        at_ms: now.0,
        actor: actor.who.to_string(),
        source: actor.source.map(|ip| ip.to_string()),
        action: action.as_str().to_owned(),
        target: fit_to_be_shown(target).chars().take(MAX_TARGET_LEN).collect(),
        detail: bounded(&cleaned(detail)),
    };
    Ok(audit::insert(tx, &entry, head.after(&entry).hash).await?)
}

/// Adds an entry about what changes nothing in the registry.
pub(crate) async fn note(
    store: &Store,
    now: UnixMs,
    actor: Actor,
    action: Action,
    target: String,
    detail: Value,
) -> Result<(), ServiceError> {
    let work = store
        .write(move |tx| Box::pin(async move { record(tx, now, &actor, action, &target, detail).await }));
    work.await
}

impl Service {
    /// At most `limit` entries with a number above `after`.
    pub(crate) async fn audit(
        &self,
        after: u64,
        filter: &AuditFilter,
        limit: u32,
    ) -> Result<Vec<AuditRow>, ServiceError> {
        Ok(self.store.timed(audit::page(self.store.reads(), after, filter, limit)).await?)
    }

    /// Notes what an operator does with something that is not in the registry.
    pub(crate) async fn note(
        &self,
        now: UnixMs,
        actor: Actor,
        action: Action,
        target: String,
        detail: Value,
    ) -> Result<(), ServiceError> {
        note(&self.store, now, actor, action, target, detail).await
    }

    /// Notes that a node was refused, without waiting. How often is the caller's to bound: strangers
    /// cause it. `left_out` is how many he has not noted since the last.
    pub(crate) fn note_refusal(
        &self,
        now: UnixMs,
        actor: Actor,
        target: String,
        error: &ServiceError,
        left_out: u64,
    ) {
        let detail =
            json!({ "code": error.code().as_str(), "detail": error.to_string(), "left_out": left_out });
        self.store.post::<(), ServiceError, _>(move |tx| {
            Box::pin(async move { record(tx, now, &actor, Action::JoinRefuse, &target, detail).await })
        });
    }
}

/// Why the audit log in a data directory is not found to be whole.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// It is not whole.
    #[error(transparent)]
    Broken(#[from] AuditBroken),
    /// It does not parse.
    #[error("the log is not readable: {0}")]
    Unreadable(String),
    /// The registry can't be opened.
    #[error(transparent)]
    Registry(#[from] OpenError),
    /// There is none.
    #[error("there is no audit log in it")]
    NoLog,
}

/// Checks the audit log in a data directory, whose server may be running or not. Gives its head.
///
/// # Errors
/// [`AuditError`]. Nothing is changed in any case.
pub async fn verify_audit(data: &Path, noted: Option<AuditHead>) -> Result<AuditHead, AuditError> {
    let mut conn = store::peek_audit(&data.join(store::FILE)).await?.ok_or(AuditError::NoLog)?;
    verify_chain(&mut conn, noted).await
}

/// Checks an audit log, whole.
pub(crate) async fn verify_chain(
    conn: &mut SqliteConnection,
    noted: Option<AuditHead>,
) -> Result<AuditHead, AuditError> {
    let unreadable = |error: StoreError| AuditError::Unreadable(error.to_string());
    let (mut chain, all) = (AuditChain::new(noted), AuditFilter::default());
    loop {
        let page = audit::page(&mut *conn, chain.head().seq, &all, VERIFY_PAGE);
        let page = page.await.map_err(unreadable)?;
        if page.is_empty() {
            return Ok(chain.finish()?);
        }
        for row in page {
            chain.check(&row.entry, row.hash)?;
        }
    }
}

fn cleaned(detail: Value) -> Value {
    match detail {
        Value::String(text) => fit_to_be_shown(&text).into(),
        Value::Array(items) => items.into_iter().map(cleaned).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, member)| (name, cleaned(member))).collect::<Map<_, _>>().into()
        }
        plain => plain,
    }
}

/// Without what could deceive a reader: control characters, line breaks of any kind, and those that turn
/// the direction of the text.
fn fit_to_be_shown(text: &str) -> String {
    #[cfg(test)]
    if tests::TAKES_ANY_TEXT.get() {
        return text.to_owned();
    }
    let clean = |c: char| match c {
        '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' => {
            '\u{FFFD}'
        }
        c if c.is_control() => '\u{FFFD}',
        c => c,
    };
    text.chars().map(clean).collect()
}

fn bounded(detail: &Value) -> String {
    let text = canonical_json(detail);
    if text.len() <= MAX_DETAIL_BYTES { text } else { format!("{{\"left_out_bytes\":{}}}", text.len()) }
}

#[cfg(test)]
mod tests;
