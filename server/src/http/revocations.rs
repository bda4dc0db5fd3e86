//! Nodes that were removed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_proto::NodeId;
use meetpoint_proto::wire::RevocationText;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, PageQuery, Path, Query, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::{MAX_TOLD, UnixMs};
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

/// What the home of a foreign cluster says of removed nodes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToldRevocations {
    /// At most sixteen.
    #[schema(max_items = 16)]
    revocations: Vec<SignedRevocation>,
}

/// A cluster's signed word about one node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignedRevocation {
    /// The node's public key, in base32.
    #[schema(pattern = "^[a-z2-7]{51}[aq]$")]
    id: String,
    /// Certificates that end by then are those of before the removal. Seconds since 1970.
    until_unix_s: u64,
    /// By the cluster's key.
    signature: String,
}

impl SignedRevocation {
    fn parse(&self) -> Result<RevocationText, Problem> {
        let bad = |what: &str| Problem::new(ProblemCode::Invalid, format!("revocations: a bad {what}"));
        let id = self.id.parse().map_err(|_| bad("id"))?;
        let signature = self.signature.parse().map_err(|_| bad("signature"))?;
        Ok(RevocationText { id, until_unix_s: self.until_unix_s, signature })
    }
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

/// Takes the word of a foreign cluster's home about nodes that it has removed: they are disconnected, and certificates of
/// before the removal are no longer taken. No token is needed, for the cluster's signature proves it.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/revocations", tag = "nodes", operation_id = "tell_revocations",
    params(("cluster" = String, Path, description = "The foreign cluster's name")),
    request_body = ToldRevocations,
    responses(
        (status = NO_CONTENT, description = "Taken"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn tell(
    State(app): State<App>,
    Path(cluster): Path<String>,
    Body(body): Body<ToldRevocations>,
) -> Result<StatusCode, Problem> {
    if body.revocations.len() > MAX_TOLD {
        return Err(Problem::new(ProblemCode::Invalid, format!("revocations: at most {MAX_TOLD}")));
    }
    let told: Result<Vec<RevocationText>, Problem> =
        body.revocations.iter().map(SignedRevocation::parse).collect();
    let told = told?;
    let name = app.service.check_told(&cluster, &told)?;
    for text in told {
        app.rendezvous.told(name.clone(), text).await?;
    }
    Ok(StatusCode::NO_CONTENT)
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
