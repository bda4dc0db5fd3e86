//! What this server is, for everybody: no address, no name of a node.

use axum::Json;
use axum::extract::State;
use meetpoint_proto::EffectiveNetwork;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use crate::Warning;
use crate::service::{DEFAULT_CLUSTER, UnixMs};

/// The server's state in a few words.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// The server's version.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// What the cluster `default` amounts to: `PUBLIC` or `PRIVATE`.
    #[schema(example = "PUBLIC")]
    effective: &'static str,
    /// What the operator should know. Empty if all is well.
    warnings: Vec<StatusWarning>,
    /// The key by which this server proves to be a seed (`/v1/seed-proof`).
    seed_key: String,
    /// Since its start.
    uptime_ms: u64,
    /// The server's clock.
    now_unix_ms: i64,
    /// The clusters it serves.
    clusters: Vec<ClusterStatus>,
}

/// Something the operator should know.
#[derive(Serialize, ToSchema)]
struct StatusWarning {
    /// Stable.
    #[schema(example = "open_join")]
    code: &'static str,
    /// In words.
    message: String,
}

/// A cluster in a few words.
#[derive(Serialize, ToSchema)]
struct ClusterStatus {
    /// Its name.
    #[schema(example = "default")]
    name: String,
    /// What it was created as.
    #[serde(rename = "type")]
    #[schema(example = "DYNAMIC")]
    kind: &'static str,
    /// What it amounts to now.
    #[schema(example = "PUBLIC")]
    effective: &'static str,
    /// Nodes that are present.
    nodes_present: usize,
}

/// What is this server, and is there anything its operator should know?
#[utoipa::path(
    get, path = "/v1/status", tag = "status",
    responses(
        (status = OK, body = Status, description = "The state"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    let served = app.service.clusters();
    let names: Vec<_> = served.keys().cloned().collect();
    let count = move |broker: &meetpoint_broker::Broker| -> Vec<usize> {
        names.iter().map(|name| broker.present(name)).collect()
    };
    let present = app.rendezvous.query(count).await?;
    let clusters = served.values().zip(present).map(|(cluster, nodes_present)| ClusterStatus {
        name: cluster.name.to_string(),
        kind: cluster.kind.as_str(),
        effective: cluster.effective.as_str(),
        nodes_present,
    });
    let default = app.service.cluster(DEFAULT_CLUSTER).map(|cluster| cluster.effective);
    let effective = default.unwrap_or(EffectiveNetwork::Private);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        effective: effective.as_str(),
        warnings: warnings(&app.warnings, effective),
        seed_key: app.me.public_key().to_string(),
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        now_unix_ms: UnixMs::now().0,
        clusters: clusters.collect(),
    }))
}

/// Those of the start, but for the one about the cluster: that may have become another meanwhile.
fn warnings(at_start: &[Warning], effective: EffectiveNetwork) -> Vec<StatusWarning> {
    let (of_cluster, others): (Vec<&Warning>, Vec<&Warning>) =
        at_start.iter().partition(|warning| matches!(warning, Warning::PrivateOnly { .. }));
    let private_only = Warning::PrivateOnly { no_seed: false };
    let of_cluster = of_cluster.first().copied().unwrap_or(&private_only);
    let holds = (effective == EffectiveNetwork::Private).then_some(of_cluster);
    holds.into_iter().chain(others).map(StatusWarning::from).collect()
}

impl From<&Warning> for StatusWarning {
    fn from(warning: &Warning) -> Self {
        Self { code: warning.code(), message: warning.to_string() }
    }
}
