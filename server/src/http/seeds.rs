//! Seeds.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::extract::{Path, Reader};
use super::problem::Problem;
use crate::store::seeds::SeedRow;

/// A rendezvous address of a cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedView {
    /// Unique in the cluster.
    #[schema(example = "seed1")]
    name: String,
    /// An IP address or a DNS name.
    #[schema(example = "rendezvous.example.org")]
    host: String,
    /// Its control port.
    #[schema(example = 8080)]
    port: u16,
    /// It counts as public and reachable.
    public: bool,
    /// Since when it is registered.
    created_unix_ms: i64,
}

/// All seeds of a cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedList {
    /// By name.
    items: Vec<SeedView>,
}

impl From<SeedRow> for SeedView {
    fn from(row: SeedRow) -> Self {
        Self {
            name: row.addr.name.to_string(),
            host: row.addr.host.to_string(),
            port: row.addr.port,
            public: row.is_public,
            created_unix_ms: row.created_ms,
        }
    }
}

/// Lists a cluster's seeds.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/seeds", tag = "clusters", operation_id = "list_seeds", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    responses(
        (status = OK, body = SeedList, description = "The seeds"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
) -> Result<Json<SeedList>, Problem> {
    let seeds = app.service.seeds(&cluster).await?;
    Ok(Json(SeedList { items: seeds.into_iter().map(SeedView::from).collect() }))
}

/// Shows a seed.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/seeds/{name}", tag = "clusters", operation_id = "get_seed", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("name" = String, Path, description = "The seed's name")),
    responses(
        (status = OK, body = SeedView, description = "The seed"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn get(
    _: Reader,
    State(app): State<App>,
    Path((cluster, name)): Path<(String, String)>,
) -> Result<Json<SeedView>, Problem> {
    Ok(Json(app.service.seed(&cluster, &name).await?.into()))
}
