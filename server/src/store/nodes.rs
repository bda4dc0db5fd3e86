//! Nodes: who has joined, present or not.

use std::net::SocketAddr;

use data_encoding::HEXLOWER;
use meetpoint_broker::AdmitRequest;
use meetpoint_proto::wire::Profile;
use meetpoint_proto::{Evidence, NetworkClass, NetworkType, NodeId, NodeName};
use serde::Serialize;
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
#[derive(Debug, Serialize)]
pub(crate) struct Join<'a> {
    /// In hexadecimal.
    id: String,
    name: &'a str,
    ephemeral: i64,
    declared: Option<&'static str>,
    version: &'a str,
    /// A list as JSON.
    capabilities: String,
    datacenter: Option<&'a str>,
    rack: Option<&'a str>,
    /// A map as JSON.
    metadata: String,
    session_hash: String,
    session_expires_ms: i64,
    now_ms: i64,
}

impl<'a> Join<'a> {
    pub(crate) fn new(request: &'a AdmitRequest, session: &Session, now_ms: i64) -> Result<Self, StoreError> {
        let Profile { capabilities, datacenter, rack, metadata } = &request.profile;
        Ok(Self {
            id: HEXLOWER.encode(request.node.as_bytes()),
            name: request.name.as_str(),
            ephemeral: request.ephemeral.into(),
            declared: request.declared.map(NetworkType::as_str),
            version: &request.version,
            capabilities: text_of("nodes.capabilities", capabilities)?,
            datacenter: datacenter.as_deref(),
            rack: rack.as_deref(),
            metadata: text_of("nodes.metadata", metadata)?,
            session_hash: HEXLOWER.encode(&session.hash),
            session_expires_ms: session.expires_ms,
            now_ms,
        })
    }
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

/// What has to be known of a cluster before nodes join it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// How many nodes it has.
    pub(crate) nodes: i64,
    /// Those of the nodes in question that were removed from it and may not come back.
    pub(crate) revoked: Vec<NodeId>,
}

/// See [`Standing`]. `wanted` is the list that [`wanted`] makes.
pub(crate) async fn standing(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    wanted: &str,
) -> Result<Standing, StoreError> {
    let row = sqlx::query!(
        r#"SELECT nodes, (SELECT json_group_array(lower(hex(r.node_id)))
               FROM json_each(?2) AS wanted CROSS JOIN revocations r
               WHERE r.cluster_id = ?1 AND r.node_id = unhex(wanted.value ->> 0)) AS "revoked!: String"
           FROM node_counts WHERE cluster_id = ?1"#,
        cluster.0,
        wanted
    )
    .fetch_one(db)
    .await?;
    let revoked: Vec<String> = json("revocations.node_id", &row.revoked)?;
    let key =
        |hex: &String| bytes("revocations.node_id", HEXLOWER.decode(hex.as_bytes()).unwrap_or_default());
    let revoked = revoked.iter().map(|hex| key(hex).map(NodeId::from_bytes)).collect::<Result<_, _>>()?;
    Ok(Standing { nodes: row.nodes, revoked })
}

/// Keys with the names they ask for, as the queries take them.
pub(crate) fn wanted<'a>(joins: impl Iterator<Item = (&'a NodeId, &'a NodeName)>) -> String {
    let pair = |(id, name): (&NodeId, &NodeName)| json!([HEXLOWER.encode(id.as_bytes()), name.as_str()]);
    Value::Array(joins.map(pair).collect()).to_string()
}

/// Who has one of these keys or names. A node may be there twice.
pub(crate) async fn holders(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    wanted: &str,
) -> Result<Vec<Holder>, StoreError> {
    // One look-up by each index: SQLite would go through the whole cluster for an OR.
    let rows = sqlx::query!(
        r#"SELECT node_id AS "node_id!", name AS "name!", ephemeral AS "ephemeral!", session_hash, session_expires_ms
           FROM json_each(?2) AS wanted CROSS JOIN nodes
           WHERE cluster_id = ?1 AND node_id = unhex(wanted.value ->> 0)
           UNION ALL
           SELECT node_id, name, ephemeral, session_hash, session_expires_ms
           FROM json_each(?2) AS wanted CROSS JOIN nodes
           WHERE cluster_id = ?1 AND name = wanted.value ->> 1 AND node_id <> unhex(wanted.value ->> 0)"#,
        cluster.0,
        wanted
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

/// Stores joins, one after the other, by one statement. The class of an earlier stay is dropped: it is found out anew.
pub(crate) async fn join(
    db: &mut SqliteConnection,
    cluster: ClusterId,
    joins: &[Join<'_>],
) -> Result<(), StoreError> {
    let joins = text_of("nodes", &joins)?;
    // SQLite takes ON for a join's unless there is a WHERE.
    sqlx::query!(
        "INSERT INTO nodes (cluster_id, node_id, name, ephemeral, declared, version, first_seen_ms, last_seen_ms,
         capabilities, datacenter, rack, metadata, session_hash, session_expires_ms)
         SELECT ?1, unhex(value ->> 'id'), value ->> 'name', value ->> 'ephemeral', value ->> 'declared',
             value ->> 'version', value ->> 'now_ms', value ->> 'now_ms', value ->> 'capabilities',
             value ->> 'datacenter', value ->> 'rack', value ->> 'metadata', unhex(value ->> 'session_hash'),
             value ->> 'session_expires_ms'
         FROM json_each(?2) WHERE true ORDER BY key
         ON CONFLICT (cluster_id, node_id) DO UPDATE
         SET name = excluded.name, ephemeral = excluded.ephemeral, declared = excluded.declared,
             version = excluded.version, last_seen_ms = excluded.last_seen_ms,
             capabilities = excluded.capabilities, datacenter = excluded.datacenter, rack = excluded.rack,
             metadata = excluded.metadata, session_hash = excluded.session_hash,
             session_expires_ms = excluded.session_expires_ms,
             class = NULL, evidence = NULL, observed = NULL",
        cluster.0,
        joins
    )
    .execute(db)
    .await?;
    Ok(())
}

fn text_of<T: Serialize>(column: &'static str, value: &T) -> Result<String, StoreError> {
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
