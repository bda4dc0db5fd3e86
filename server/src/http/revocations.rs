//! Nodes that were removed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_proto::NodeId;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, PageQuery, Path, Query, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::UnixMs;
use crate::store::revocations::RevocationRow;

/// A node that was removed and may not come back.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationView {
    /// Its public key, in base32.
    id: String,
    /// What it was called.
    #[schema(example = "alice")]
    name: String,
    /// When it was removed.
    revoked_unix_ms: i64,
    /// Members and other servers are told of it until then: no certificate of it holds longer.
    told_until_unix_s: i64,
}

/// A page of removed nodes.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationPage {
    /// By id.
    items: Vec<RevocationView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl From<RevocationRow> for RevocationView {
    fn from(row: RevocationRow) -> Self {
        Self {
            id: row.node.to_string(),
            name: row.name.to_string(),
            revoked_unix_ms: row.revoked_ms,
            told_until_unix_s: row.until_s,
        }
    }
}

/// Lists the nodes that were removed and may not come back.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/revocations", tag = "nodes", operation_id = "list_revocations", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), PageQuery<NodeId>),
    responses(
        (status = OK, body = RevocationPage, description = "A page of removed nodes"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Query(page): Query<PageQuery<NodeId>>,
) -> Result<Json<RevocationPage>, Problem> {
    let (after, limit) = page.parse::<NodeId>()?;
    // One more than asked for tells whether there is another page.
    let mut rows = app.service.revocations(&cluster, after, limit + 1).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.node.to_string());
    Ok(Json(RevocationPage { items: rows.into_iter().map(RevocationView::from).collect(), next }))
}

/// Lets a removed node join again. It needs a join token or a cluster secret like any other.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/revocations/{id}", tag = "nodes", operation_id = "lift_revocation", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{51}[aq]$", description = "The node's id")),
    responses(
        (status = NO_CONTENT, description = "Lifted"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn lift(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let name = app.service.cluster(&cluster)?.name.clone();
    let id: NodeId =
        id.parse().map_err(|error| Problem::new(ProblemCode::BadNodeId, format!("node id: {error}")))?;
    app.service.restore_node(UnixMs::now(), &actor, &cluster, id).await?;
    app.rendezvous.restore(name, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
