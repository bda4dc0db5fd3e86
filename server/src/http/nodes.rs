//! Nodes: the registry's row, and the broker's view of those that are present.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_broker::SessionView;
use meetpoint_proto::{Filtering, Mapping, NodeId};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, PageQuery, Path, Query, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::UnixMs;
use crate::store::nodes::NodeRow;

/// A registered node.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeView {
    /// Its public key, in base32.
    id: String,
    /// Unique in the cluster.
    #[schema(example = "alice")]
    name: String,
    /// It is forgotten with its session.
    ephemeral: bool,
    /// What it says of itself: `PUBLIC` or `PRIVATE`.
    declared: Option<&'static str>,
    /// What was found out about it when it was last judged.
    #[schema(example = "Private")]
    class: Option<&'static str>,
    /// What the class rests on: `declared`, `observed` or `proven`.
    evidence: Option<&'static str>,
    /// The mapping that was observed then.
    #[schema(example = "20.0.0.7:40001")]
    observed: Option<String>,
    /// Its software version.
    version: String,
    /// What it says it can do.
    capabilities: Vec<String>,
    /// Where it says it runs.
    #[schema(example = "fra1")]
    datacenter: Option<String>,
    /// And where there.
    rack: Option<String>,
    /// What else it says.
    metadata: BTreeMap<String, String>,
    /// Until then it may come back without a join token or a cluster secret.
    session_expires_unix_ms: Option<i64>,
    /// When it first joined.
    first_seen_unix_ms: i64,
    /// When it last joined, was judged, or left.
    last_seen_unix_ms: i64,
    /// Its session, if it is present.
    presence: Option<Presence>,
}

/// A session of a present node.
#[derive(Serialize, ToSchema)]
pub(super) struct Presence {
    /// The session's id.
    session: String,
    /// Where its control connection comes from.
    #[schema(example = "20.0.0.7:51234")]
    source: String,
    /// Its observed mappings, newest first.
    observed: Vec<String>,
    /// How its NAT maps, by its own account.
    mapping: Option<&'static str>,
    /// How its NAT filters, by its own account.
    filtering: Option<&'static str>,
    /// The longest silence, in seconds, after which its NAT was seen to remember a mapping.
    nat_lifetime_s: Option<u32>,
    /// There is another NAT behind its router, by its own account.
    double_nat: Option<bool>,
    /// How many address translators there are between it and the internet, as the routers on its way tell, by its own account.
    nat_depth: Option<Depth>,
    /// It reaches this server, but by no UDP, by its own account.
    udp_blocked: bool,
    /// The control channel's smoothed round trip.
    rtt_ms: Option<f64>,
    /// Since when it is present.
    since_unix_ms: i64,
}

/// How many address translators there are on the way of a node.
#[derive(Serialize, ToSchema)]
pub(super) struct Depth {
    /// No more than so many.
    #[schema(minimum = 1, maximum = 255)]
    at_most: u8,
    /// A router answers from the public address; else it is concluded from who has a private one.
    proven: bool,
}

/// A page of nodes.
#[derive(Serialize, ToSchema)]
pub(super) struct NodePage {
    /// By id.
    items: Vec<NodeView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl NodeView {
    fn new(row: NodeRow, session: Option<SessionView>, now: UnixMs) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            ephemeral: row.ephemeral,
            declared: row.declared.map(meetpoint_proto::NetworkType::as_str),
            class: row.class.map(meetpoint_proto::NetworkClass::as_str),
            evidence: row.evidence.map(meetpoint_proto::Evidence::as_str),
            observed: row.observed.map(|addr| addr.to_string()),
            version: row.version,
            capabilities: row.profile.capabilities,
            datacenter: row.profile.datacenter,
            rack: row.profile.rack,
            metadata: row.profile.metadata,
            session_expires_unix_ms: row.session_expires_ms,
            first_seen_unix_ms: row.first_seen_ms,
            last_seen_unix_ms: row.last_seen_ms,
            presence: session.map(|session| Presence::new(&session, now)),
        }
    }
}

impl Presence {
    fn new(view: &SessionView, now: UnixMs) -> Self {
        let age_ms = i64::try_from(view.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let behavior = view.behavior.unwrap_or_default();
        Self {
            session: view.session.to_string(),
            source: view.source.to_string(),
            observed: view.observed.iter().map(ToString::to_string).collect(),
            mapping: behavior.mapping.map(Mapping::as_str),
            filtering: behavior.filtering.map(Filtering::as_str),
            nat_lifetime_s: behavior.lifetime_s,
            double_nat: behavior.double_nat,
            nat_depth: behavior.depth.map(|depth| Depth { at_most: depth.at_most, proven: depth.proven }),
            udp_blocked: behavior.udp_blocked,
            rtt_ms: view.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            since_unix_ms: now.0.saturating_sub(age_ms),
        }
    }
}

/// Lists a cluster's nodes, present or not.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/nodes", tag = "nodes", operation_id = "list_nodes", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), PageQuery<NodeId>),
    responses(
        (status = OK, body = NodePage, description = "A page of nodes"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Query(page): Query<PageQuery<NodeId>>,
) -> Result<Json<NodePage>, Problem> {
    let (after, limit) = page.parse::<NodeId>()?;
    let name = app.service.cluster(&cluster)?.name.clone();
    // One more than asked for tells whether there is another page.
    let mut rows = app.service.nodes(&cluster, after, limit + 1).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.id.to_string());
    let ids: Vec<NodeId> = rows.iter().map(|row| row.id).collect();
    let look_up = move |broker: &meetpoint_broker::Broker| -> Vec<Option<SessionView>> {
        ids.iter().map(|id| broker.session_of(&name, id)).collect()
    };
    let sessions = app.rendezvous.query(look_up).await?;
    let now = UnixMs::now();
    let items = rows.into_iter().zip(sessions).map(|(row, session)| NodeView::new(row, session, now));
    Ok(Json(NodePage { items: items.collect(), next }))
}

/// Shows a node.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/nodes/{id}", tag = "nodes", operation_id = "get_node", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{51}[aq]$", description = "The node's id")),
    responses(
        (status = OK, body = NodeView, description = "The node"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn get(
    _: Reader,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<Json<NodeView>, Problem> {
    let name = app.service.cluster(&cluster)?.name.clone();
    let id = parse_id(&id)?;
    let row = app.service.node(&cluster, &id).await?;
    let session = app.rendezvous.query(move |broker| broker.session_of(&name, &id)).await?;
    Ok(Json(NodeView::new(row, session, UnixMs::now())))
}

/// Removes a node, ends its session and tells all members. It may not come back, whatever it shows, until
/// the revocation is lifted.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/nodes/{id}", tag = "nodes", operation_id = "remove_node", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{51}[aq]$", description = "The node's id")),
    responses(
        (status = NO_CONTENT, description = "Removed"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let name = app.service.cluster(&cluster)?.name.clone();
    let id = parse_id(&id)?;
    let until_unix_s = app.service.remove_node(UnixMs::now(), &actor, &cluster, id).await?;
    app.rendezvous.revoke(name, id, until_unix_s).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a node's session. It stays registered, and comes back by a join token or a cluster secret only.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/nodes/{id}/session", tag = "nodes", operation_id = "end_node_session", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{51}[aq]$", description = "The node's id")),
    responses(
        (status = NO_CONTENT, description = "Ended"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn end_session(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let name = app.service.cluster(&cluster)?.name.clone();
    let id = parse_id(&id)?;
    app.service.end_session(UnixMs::now(), &actor, &cluster, id).await?;
    app.rendezvous.end_session(name, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_id(text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|error| Problem::new(ProblemCode::BadNodeId, format!("node id: {error}")))
}
