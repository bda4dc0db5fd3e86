//! Clusters.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::extract::{Path, Reader};
use super::problem::Problem;
use crate::service::Cluster;

/// A cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// Its name.
    #[schema(example = "default")]
    name: String,
    /// What it was created as: `PRIVATE`, `PUBLIC` or `DYNAMIC`.
    #[serde(rename = "type")]
    #[schema(example = "DYNAMIC")]
    kind: &'static str,
    /// What it amounts to now: `PUBLIC` or `PRIVATE`.
    #[schema(example = "PUBLIC")]
    effective: &'static str,
    /// The public half of its key: what another server needs to admit its members (`--foreign-cluster`).
    public_key: String,
    /// Nodes need no token.
    open_join: bool,
    /// Registered nodes, present or not.
    nodes: i64,
    /// Nodes that are present.
    nodes_present: usize,
    /// Since when it exists.
    created_unix_ms: i64,
}

/// All clusters of the server.
#[derive(Serialize, ToSchema)]
pub(super) struct ClusterList {
    /// By name.
    items: Vec<ClusterView>,
}

/// Lists the clusters.
#[utoipa::path(
    get, path = "/v1/clusters", tag = "clusters", operation_id = "list_clusters", security(("viewer" = []), ("admin" = [])),
    responses(
        (status = OK, body = ClusterList, description = "The clusters"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(_: Reader, State(app): State<App>) -> Result<Json<ClusterList>, Problem> {
    let mut items = Vec::new();
    for cluster in app.service.clusters() {
        items.push(view(&app, cluster).await?);
    }
    Ok(Json(ClusterList { items }))
}

/// Shows a cluster.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}", tag = "clusters", operation_id = "get_cluster", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    responses(
        (status = OK, body = ClusterView, description = "The cluster"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn get(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
) -> Result<Json<ClusterView>, Problem> {
    let cluster = app.service.cluster(&cluster)?;
    Ok(Json(view(&app, cluster).await?))
}

async fn view(app: &App, cluster: &Cluster) -> Result<ClusterView, Problem> {
    let name = cluster.name.clone();
    Ok(ClusterView {
        name: name.to_string(),
        kind: cluster.kind.as_str(),
        effective: cluster.effective.as_str(),
        public_key: cluster.public_key().to_string(),
        open_join: cluster.open_join,
        nodes: app.service.node_count(name.as_str()).await?,
        nodes_present: app.rendezvous.query(move |broker| broker.present(&name)).await?,
        created_unix_ms: cluster.created_ms,
    })
}
