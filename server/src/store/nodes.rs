//! Nodes: who has joined, present or not.

use std::net::SocketAddr;

use data_encoding::HEXLOWER;
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
            first_seen_ms: raw.first_seen_ms,
            last_seen_ms: raw.last_seen_ms,
        })
    }
}

/// What a join writes.
#[derive(Debug)]
pub(crate) struct Join<'a> {
    pub(crate) id: &'a NodeId,
    pub(crate) name: &'a NodeName,
    pub(crate) ephemeral: bool,
    pub(crate) declared: Option<NetworkType>,
    pub(crate) version: &'a str,
}

/// Who has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: NodeId,
    pub(crate) ephemeral: bool,
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
        "SELECT node_id, name, ephemeral, declared, class, evidence, observed, version, first_seen_ms, last_seen_ms
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
        "SELECT node_id, name, ephemeral, declared, class, evidence, observed, version, first_seen_ms, last_seen_ms
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

/// Who has this name.
pub(crate) async fn holder(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    name: &NodeName,
) -> Result<Option<Holder>, StoreError> {
    let name = name.as_str();
    let row = sqlx::query!(
        "SELECT node_id, ephemeral FROM nodes WHERE cluster_id = ? AND name = ?",
        cluster.0,
        name
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let id = NodeId::from_bytes(bytes("nodes.node_id", row.node_id)?);
    Ok(Some(Holder { id, ephemeral: row.ephemeral != 0 }))
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
    sqlx::query!(
        "INSERT INTO nodes (cluster_id, node_id, name, ephemeral, declared, version, first_seen_ms, last_seen_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
         ON CONFLICT (cluster_id, node_id) DO UPDATE
         SET name = excluded.name, ephemeral = excluded.ephemeral, declared = excluded.declared,
             version = excluded.version, last_seen_ms = excluded.last_seen_ms,
             class = NULL, evidence = NULL, observed = NULL",
        cluster.0,
        id,
        name,
        join.ephemeral,
        declared,
        join.version,
        now_ms
    )
    .execute(db)
    .await?;
    Ok(())
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
    notes: &[((ClusterId, NodeId), Note)],
) -> Result<(), StoreError> {
    let rows = |wanted: fn(&Note) -> bool| {
        let rows = notes.iter().filter(|(_, note)| wanted(note)).map(|((cluster, id), note)| {
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
            "DELETE FROM nodes WHERE ephemeral = 1 AND (cluster_id, node_id) IN
                 (SELECT note.value ->> 'cluster', unhex(note.value ->> 'id') FROM json_each(?) AS note)",
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
