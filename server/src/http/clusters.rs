//! Clusters.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_proto::{ClusterName, ClusterNetwork, PublicKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, Path, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::{Cluster, Foreign, ServiceError, UnixMs};

/// A cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// Its name.
    #[schema(example = "default")]
    name: String,
    /// Its home is another server: its members are admitted by the membership certificates that they bring, and nothing of
    /// them is stored.
    foreign: bool,
    /// What it was created as: `PRIVATE`, `PUBLIC` or `DYNAMIC`. A foreign one is `DYNAMIC` here.
    #[serde(rename = "type")]
    #[schema(example = "DYNAMIC")]
    kind: &'static str,
    /// What it amounts to now: `PUBLIC` or `PRIVATE`. For a foreign one the seeds of this server's own decide.
    #[schema(example = "PUBLIC")]
    effective: &'static str,
    /// The public half of its key: what another server needs to admit its members (`--foreign-cluster`).
    public_key: String,
    /// Nodes need no token.
    open_join: bool,
    /// Nodes that can only be relayed are kept.
    admit_relayed: bool,
    /// Registered nodes, present or not. None of a foreign cluster.
    nodes: i64,
    /// Nodes that are present.
    nodes_present: usize,
    /// Since when it exists.
    created_unix_ms: i64,
}

/// What is to be changed about a cluster.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterChange {
    /// Keep nodes that can only be relayed.
    admit_relayed: Option<bool>,
}

/// A cluster whose home is another server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewForeignCluster {
    /// Its name there.
    #[schema(example = "fleet")]
    name: String,
    /// `public_key` of the cluster there.
    public_key: String,
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
    let foreign = app.service.foreign_clusters();
    for cluster in app.service.clusters().values().filter(|own| !foreign.contains_key(&own.name)) {
        items.push(view(&app, cluster).await?);
    }
    for cluster in foreign.values() {
        items.push(foreign_view(&app, cluster).await?);
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
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
    let name = cluster.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
    let view = match app.service.foreign_clusters().get(&name) {
        Some(foreign) => foreign_view(&app, foreign).await?,
        None => view(&app, &*app.service.cluster(&cluster)?).await?,
    };
    Ok(Json(view))
}

/// Serves a cluster whose home is another server, at once and after each restart. Asking again for what is served already
/// changes nothing.
#[utoipa::path(
    post, path = "/v1/clusters", tag = "clusters", operation_id = "add_foreign_cluster", security(("admin" = [])),
    request_body = NewForeignCluster,
    responses(
        (status = CREATED, body = ClusterView, description = "It is served now"),
        (status = OK, body = ClusterView, description = "It was served already"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn add(
    Admin(actor): Admin,
    State(app): State<App>,
    Body(new): Body<NewForeignCluster>,
) -> Result<(StatusCode, Json<ClusterView>), Problem> {
    let invalid = |field: &str, error: &dyn std::fmt::Display| {
        Problem::new(ProblemCode::Invalid, format!("{field}: {error}"))
    };
    let name: ClusterName = new.name.parse().map_err(|error| invalid("name", &error))?;
    let key: PublicKey = new.public_key.parse().map_err(|error| invalid("public_key", &error))?;
    key.key().map_err(|error| invalid("public_key", &error))?;
    let (service, now) = (Arc::clone(&app.service), UnixMs::now());
    let (cluster, is_new) =
        app.finish(async move { service.add_foreign(now, &actor, name, key).await }).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(foreign_view(&app, &cluster).await?)))
}

/// Serves a foreign cluster no longer: its visitors are disconnected. One that a flag names comes back with the next start.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}", tag = "clusters", operation_id = "remove_foreign_cluster", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    responses(
        (status = NO_CONTENT, description = "It is not served any more"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(cluster): Path<String>,
) -> Result<StatusCode, Problem> {
    let (service, now) = (Arc::clone(&app.service), UnixMs::now());
    app.finish(async move { service.remove_foreign(now, &actor, &cluster).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a cluster. What is left out stays as it is.
#[utoipa::path(
    patch, path = "/v1/clusters/{cluster}", tag = "clusters", operation_id = "change_cluster", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    request_body = ClusterChange,
    responses(
        (status = OK, body = ClusterView, description = "The cluster as it is now"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn change(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Body(change): Body<ClusterChange>,
) -> Result<Json<ClusterView>, Problem> {
    let before = app.service.cluster(&cluster)?;
    let changed = match change.admit_relayed {
        Some(admit_relayed) => {
            let service = Arc::clone(&app.service);
            let now = UnixMs::now();
            let change = async move { service.set_admit_relayed(now, &actor, &cluster, admit_relayed).await };
            app.finish(change).await?
        }
        None => before,
    };
    Ok(Json(view(&app, &changed).await?))
}

async fn view(app: &App, cluster: &Cluster) -> Result<ClusterView, Problem> {
    let name = cluster.name.clone();
    Ok(ClusterView {
        name: name.to_string(),
        foreign: false,
        kind: cluster.kind.as_str(),
        effective: cluster.effective.as_str(),
        public_key: cluster.public_key().to_string(),
        open_join: cluster.open_join,
        admit_relayed: cluster.admit_relayed,
        nodes: app.service.node_count(name.as_str()).await?,
        nodes_present: app.rendezvous.query(move |broker| broker.present(&name)).await?,
        created_unix_ms: cluster.created_ms,
    })
}

async fn foreign_view(app: &App, cluster: &Foreign) -> Result<ClusterView, Problem> {
    let name = cluster.name.clone();
    Ok(ClusterView {
        name: name.to_string(),
        foreign: true,
        kind: ClusterNetwork::Dynamic.as_str(),
        effective: app.service.effective(&name)?.as_str(),
        public_key: cluster.home.to_string(),
        open_join: false,
        admit_relayed: false,
        nodes: 0,
        created_unix_ms: cluster.created_ms,
        nodes_present: app.rendezvous.query(move |broker| broker.present(&name)).await?,
    })
}
