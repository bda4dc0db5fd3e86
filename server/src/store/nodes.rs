//! Nodes: who has joined, present or not.

use std::net::SocketAddr;

use data_encoding::HEXLOWER;
use meetpoint_proto::wire::Profile;
use meetpoint_proto::{Evidence, NetworkClass, NetworkType, NodeId, NodeName};
use serde_json::{Value, json};
use sqlx::{SqliteConnection, SqliteExecutor};

use super::clusters::ClusterId;
use super::{StoreError, bytes, word};

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) name: NodeName,
    /// Forgotten with its session.
    pub(crate) ephemeral: bool,
    pub(crate) declared: Option<NetworkType>,
    pub(crate) class: Option<NetworkClass>,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) version: String,
    pub(crate) profile: Profile,
    pub(crate) session_expires_ms: Option<i64>,
    pub(crate) first_seen_ms: i64,
    pub(crate) last_seen_ms: i64,
}

struct Raw {
    node_id: Vec<u8>,
    name: String,
    ephemeral: i64,
    declared: Option<String>,
    class: Option<String>,
    evidence: Option<String>,
    observed: Option<String>,
    version: String,
    capabilities: String,
    datacenter: Option<String>,
    rack: Option<String>,
    metadata: String,
    session_expires_ms: Option<i64>,
    first_seen_ms: i64,
    last_seen_ms: i64,
}

impl TryFrom<Raw> for NodeRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: NodeId::from_bytes(bytes("nodes.node_id", raw.node_id)?),
            name: word("nodes.name", &raw.name)?,
            ephemeral: raw.ephemeral != 0,
            declared: raw.declared.map(|text| word("nodes.declared", &text)).transpose()?,
            class: raw.class.map(|text| word("nodes.class", &text)).transpose()?,
            evidence: raw.evidence.map(|text| word("nodes.evidence", &text)).transpose()?,
            observed: raw.observed.map(|text| word("nodes.observed", &text)).transpose()?,
            version: raw.version,
            profile: Profile {
                capabilities: json("nodes.capabilities", &raw.capabilities)?,
                datacenter: raw.datacenter,
                rack: raw.rack,
                metadata: json("nodes.metadata", &raw.metadata)?,
            },
            session_expires_ms: raw.session_expires_ms,
            first_seen_ms: raw.first_seen_ms,
            last_seen_ms: raw.last_seen_ms,
        })
    }
}

fn json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt(column))
}

/// What a join writes.
#[derive(Debug)]
pub(crate) struct Join<'a> {
    pub(crate) id: &'a NodeId,
    pub(crate) name: &'a NodeName,
    pub(crate) ephemeral: bool,
    pub(crate) declared: Option<NetworkType>,
    pub(crate) version: &'a str,
    pub(crate) profile: &'a Profile,
    pub(crate) session: Session,
}

/// A session that a node may come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    /// Of its token.
    pub(crate) hash: [u8; 32],
    pub(crate) expires_ms: i64,
}

/// Who has a key or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: NodeId,
    pub(crate) name: NodeName,
    pub(crate) ephemeral: bool,
    pub(crate) session: Option<Session>,
}

/// One of them.
pub(crate) async fn find(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
    id: &NodeId,
) -> Result<Option<NodeRow>, StoreError> {
    let id = id.as_bytes().as_slice();
    let row = sqlx::query_as!(
        Raw,
        "SELECT node_id, name, ephemeral, declared, class, evidence, observed, version, capabilities, datacenter,
         rack, metadata, session_expires_ms, first_seen_ms, last_seen_ms
         FROM nodes WHERE cluster_id = ? AND node_id = ?",
        cluster.0,
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(NodeRow::try_from).transpose()
}

/// At most `limit` of them with an id above `after`, by id.
pub(crate) async fn page(
    db: impl SqliteExecutor<'_>,
    cluster: ClusterId,
    after: Option<NodeId>,
    limit: u32,
) -> Result<Vec<NodeRow>, StoreError> {
    // Every id sorts above the empty blob.
    let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
    let rows = sqlx::query_as!(
        Raw,
        "SELECT node_id, name, ephemeral, declared, class, evidence, observed, version, capabilities, datacenter,
         rack, metadata, session_expires_ms, first_seen_ms, last_seen_ms
         FROM nodes WHERE cluster_id = ? AND node_id > ? ORDER BY node_id LIMIT ?",
        cluster.0,
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(NodeRow::try_from).collect()
}

/// How many there are.
pub(crate) async fn count(db: impl SqliteExecutor<'_>, cluster: ClusterId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!("SELECT nodes FROM node_counts WHERE cluster_id = ?", cluster.0)
        .fetch_one(db)
        .await?;
    Ok(count)
}

/// What has to be known of a cluster before a node joins it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// How many nodes it has.
    pub(crate) nodes: i64,
    /// The node was removed from it and may not come back.
    pub(crate) is_revoked: bool,
}

/// See [`Standing`].
pub(crate) async fn standing(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &NodeId,
) -> Result<Standing, StoreError> {
    let id = id.as_bytes().as_slice();
    let row = sqlx::query!(
        r#"SELECT nodes, EXISTS (SELECT 1 FROM revocations r WHERE r.cluster_id = ?1 AND r.node_id = ?2)
               AS "is_revoked: bool"
           FROM node_counts WHERE cluster_id = ?1"#,
        cluster.0,
        id
    )
    .fetch_one(db)
    .await?;
    Ok(Standing { nodes: row.nodes, is_revoked: row.is_revoked })
}

/// Who has this key, and who has this name: one node, two, or none.
pub(crate) async fn holders(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &NodeId,
    name: &NodeName,
) -> Result<Vec<Holder>, StoreError> {
    let (id, name) = (id.as_bytes().as_slice(), name.as_str());
    // One look-up by each index: SQLite would go through the whole cluster for an OR.
    let rows = sqlx::query!(
        "SELECT node_id, name, ephemeral, session_hash, session_expires_ms FROM nodes
         WHERE cluster_id = ?1 AND node_id = ?2
         UNION ALL
         SELECT node_id, name, ephemeral, session_hash, session_expires_ms FROM nodes
         WHERE cluster_id = ?1 AND name = ?3 AND node_id <> ?2",
        cluster.0,
        id,
        name
    )
    .fetch_all(db)
    .await?;
    let mut holders = Vec::with_capacity(rows.len());
    for row in rows {
        let session = match (row.session_hash, row.session_expires_ms) {
            (Some(hash), Some(expires_ms)) => {
                Some(Session { hash: bytes("nodes.session_hash", hash)?, expires_ms })
            }
            _ => None,
        };
        holders.push(Holder {
            id: NodeId::from_bytes(bytes("nodes.node_id", row.node_id)?),
            name: word("nodes.name", &row.name)?,
            ephemeral: row.ephemeral != 0,
            session,
        });
    }
    Ok(holders)
}

/// Stores a join. The class of an earlier stay is dropped: it is found out anew.
pub(crate) async fn join(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    join: &Join<'_>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let (id, name) = (join.id.as_bytes().as_slice(), join.name.as_str());
    let declared = join.declared.map(NetworkType::as_str);
    let Profile { capabilities, datacenter, rack, metadata } = join.profile;
    let capabilities = text_of("nodes.capabilities", capabilities)?;
    let metadata = text_of("nodes.metadata", metadata)?;
    let session_hash = join.session.hash.as_slice();
    sqlx::query!(
        "INSERT INTO nodes (cluster_id, node_id, name, ephemeral, declared, version, first_seen_ms, last_seen_ms,
         capabilities, datacenter, rack, metadata, session_hash, session_expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (cluster_id, node_id) DO UPDATE
         SET name = excluded.name, ephemeral = excluded.ephemeral, declared = excluded.declared,
             version = excluded.version, last_seen_ms = excluded.last_seen_ms,
             capabilities = excluded.capabilities, datacenter = excluded.datacenter, rack = excluded.rack,
             metadata = excluded.metadata, session_hash = excluded.session_hash,
             session_expires_ms = excluded.session_expires_ms,
             class = NULL, evidence = NULL, observed = NULL",
        cluster.0,
        id,
        name,
        join.ephemeral,
        declared,
        join.version,
        now_ms,
        capabilities,
        datacenter,
        rack,
        metadata,
        session_hash,
        join.session.expires_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

fn text_of<T: serde::Serialize>(column: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt(column))
}

/// Puts the end of a session off. False if there is no such node, or it was removed.
pub(crate) async fn renew(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &NodeId,
    expires_ms: i64,
) -> Result<bool, StoreError> {
    let id = id.as_bytes().as_slice();
    let done = sqlx::query!(
        "UPDATE nodes SET session_expires_ms = ?1 WHERE cluster_id = ?2 AND node_id = ?3 AND NOT EXISTS
         (SELECT 1 FROM revocations r WHERE r.cluster_id = ?2 AND r.node_id = ?3)",
        expires_ms,
        cluster.0,
        id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends the session that a node could come back to. False if there is no such node.
pub(crate) async fn end_session(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &NodeId,
) -> Result<bool, StoreError> {
    let id = id.as_bytes().as_slice();
    let done = sqlx::query!(
        "UPDATE nodes SET session_hash = NULL, session_expires_ms = NULL WHERE cluster_id = ? AND node_id = ?",
        cluster.0,
        id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// What is to be changed of a node in passing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    /// It was there until then.
    pub(crate) seen_ms: Option<i64>,
    /// It was judged.
    pub(crate) verdict: Option<(NetworkClass, Evidence, Option<SocketAddr>)>,
    /// It is to be forgotten if it is an ephemeral one.
    pub(crate) is_gone: bool,
}

/// Stores notes, all by the same statements. Nodes that are not registered are passed over.
pub(crate) async fn note(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    notes: &[((ClusterId, NodeId), Note)],
) -> Result<(), StoreError> {
    let rows = |wanted: fn(&Note) -> bool| {
        let rows = notes.iter().filter(|(_, note)| wanted(note)).map(|((_, id), note)| {
            let (class, evidence, observed) = note.verdict.map_or((None, None, None), |verdict| {
                (Some(verdict.0.as_str()), Some(verdict.1.as_str()), verdict.2)
            });
            let id = HEXLOWER.encode(id.as_bytes());
            json!({ "cluster": cluster.0, "id": id, "seen": note.seen_ms, "class": class,
                    "evidence": evidence, "observed": observed })
        });
        Value::Array(rows.collect()).to_string()
    };
    let (changed, gone) = (rows(|note| note.seen_ms.is_some()), rows(|note| note.is_gone));
    if changed != NO_ROWS {
        sqlx::query!(
            "UPDATE nodes SET last_seen_ms = note.value ->> 'seen',
                 class = coalesce(note.value ->> 'class', class),
                 evidence = coalesce(note.value ->> 'evidence', evidence),
                 observed = CASE WHEN note.value ->> 'class' IS NULL THEN observed
                            ELSE note.value ->> 'observed' END
             FROM json_each(?) AS note
             WHERE cluster_id = note.value ->> 'cluster' AND node_id = unhex(note.value ->> 'id')",
            changed
        )
        .execute(&mut *db)
        .await?;
    }
    if gone != NO_ROWS {
        sqlx::query!(
            "DELETE FROM nodes WHERE cluster_id = ? AND ephemeral = 1
                 AND node_id IN (SELECT unhex(note.value ->> 'id') FROM json_each(?) AS note)",
            cluster.0,
            gone
        )
        .execute(db)
        .await?;
    }
    Ok(())
}

const NO_ROWS: &str = "[]";

/// Forgets a node. False if there is none.
pub(crate) async fn delete(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    id: &NodeId,
) -> Result<bool, StoreError> {
    let id = id.as_bytes().as_slice();
    let done = sqlx::query!("DELETE FROM nodes WHERE cluster_id = ? AND node_id = ?", cluster.0, id)
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets the ephemeral nodes that were last seen before a time.
pub(crate) async fn forget_unseen(db: &mut SqliteConnection, before_ms: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!("DELETE FROM nodes WHERE ephemeral = 1 AND last_seen_ms < ?", before_ms)
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}
