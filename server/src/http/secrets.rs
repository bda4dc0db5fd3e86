//! Cluster secrets.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_proto::ClusterSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, Path, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::{ServiceError, UnixMs};
use crate::store::cluster_secrets::ClusterSecretRow;

/// A cluster secret to take into use.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewClusterSecret {
    /// One that was made elsewhere, `mps1...`. Leave it out to have one made.
    #[schema(min_length = 60, max_length = 60)]
    secret: Option<String>,
}

/// A cluster secret, without what it says.
#[derive(Serialize, ToSchema)]
pub(super) struct ClusterSecretView {
    /// Names it without revealing it; nodes and other servers of the cluster name it the same.
    id: String,
    /// When it came into use.
    created_unix_ms: i64,
}

/// A cluster secret that has just come into use.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedClusterSecret {
    /// Its name.
    secret: ClusterSecretView,
    /// The secret itself, if this request has made it. It is shown here, once, and kept nowhere.
    value: Option<String>,
}

/// The cluster secrets in use.
#[derive(Serialize, ToSchema)]
pub(super) struct ClusterSecretList {
    /// The newest first. There are at most eight.
    items: Vec<ClusterSecretView>,
}

impl From<&ClusterSecretRow> for ClusterSecretView {
    fn from(row: &ClusterSecretRow) -> Self {
        Self { id: row.id.to_string(), created_unix_ms: row.created_ms }
    }
}

/// Lists the cluster secrets in use, without what they say.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/secrets", tag = "cluster-secrets", operation_id = "list_cluster_secrets", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    responses(
        (status = OK, body = ClusterSecretList, description = "The cluster secrets"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
) -> Result<Json<ClusterSecretList>, Problem> {
    let rows = app.service.secrets(&cluster).await?;
    Ok(Json(ClusterSecretList { items: rows.iter().map(ClusterSecretView::from).collect() }))
}

/// Takes one more cluster secret into use; nodes join by any of them. To replace one, add another, give it
/// to the nodes, and drop the old one: no node is disconnected by any of it.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/secrets", tag = "cluster-secrets", operation_id = "add_cluster_secret", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    request_body = NewClusterSecret,
    responses(
        (status = CREATED, body = CreatedClusterSecret, description = "The new cluster secret"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn add(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Body(body): Body<NewClusterSecret>,
) -> Result<(StatusCode, Json<CreatedClusterSecret>), Problem> {
    let given = body.secret.as_deref().map(str::parse::<ClusterSecret>).transpose();
    let given = given.map_err(|error| Problem::new(ProblemCode::Invalid, format!("secret: {error}")))?;
    let is_made_here = given.is_none();
    let (row, secret) = app.service.add_secret(UnixMs::now(), &actor, &cluster, given).await?;
    let value = is_made_here.then(|| secret.reveal());
    Ok((StatusCode::CREATED, Json(CreatedClusterSecret { secret: (&row).into(), value })))
}

/// Drops a cluster secret. Nodes that joined by it stay, and come back by their sessions.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/secrets/{id}", tag = "cluster-secrets", operation_id = "drop_cluster_secret", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, description = "The secret's id")),
    responses(
        (status = NO_CONTENT, description = "Dropped"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let id = id.parse().map_err(|_| Problem::from(ServiceError::UnknownSecret))?;
    app.service.drop_secret(UnixMs::now(), &actor, &cluster, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
