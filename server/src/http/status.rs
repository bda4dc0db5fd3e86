//! What this server is, for everybody: no address, no name of a node.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use meetpoint_proto::{ClusterName, ClusterNetwork, EffectiveNetwork};
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
    /// On which ports of its address it answers STUN.
    stun: StunPorts,
    /// Since its start.
    uptime_ms: u64,
    /// The server's clock.
    now_unix_ms: i64,
    /// The clusters it serves.
    clusters: Vec<ClusterStatus>,
}

/// On which ports a server answers STUN.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct StunPorts {
    /// By UDP.
    #[schema(example = 3478)]
    pub(crate) udp: u16,
    /// By TCP, if it does.
    pub(crate) tcp: Option<u16>,
    /// By TLS, if it does.
    pub(crate) tls: Option<u16>,
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
    /// Its home is another server.
    foreign: bool,
    /// What it was created as. A foreign one is `DYNAMIC` here.
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
    let mut clusters = clusters(&app)?;
    let names: Vec<_> = clusters.keys().cloned().collect();
    let count = move |broker: &meetpoint_broker::Broker| -> Vec<usize> {
        names.iter().map(|name| broker.present(name)).collect()
    };
    for (cluster, present) in clusters.values_mut().zip(app.rendezvous.query(count).await?) {
        cluster.nodes_present = present;
    }
    let default = app.service.cluster(DEFAULT_CLUSTER).map(|cluster| cluster.effective);
    let effective = default.unwrap_or(EffectiveNetwork::Private);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        effective: effective.as_str(),
        warnings: warnings(&app, effective),
        seed_key: app.me.public_key().to_string(),
        stun: app.stun_ports,
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        now_unix_ms: UnixMs::now().0,
        clusters: clusters.into_values().collect(),
    }))
}

/// The clusters, still without those who are present.
fn clusters(app: &App) -> Result<BTreeMap<ClusterName, ClusterStatus>, Problem> {
    let own = app.service.clusters();
    let own = own.values().map(|own| (own.name.clone(), own.kind, false));
    let foreign = app.service.foreign_clusters();
    // In this order: a foreign one may have the place of an own one.
    let all = own.chain(foreign.keys().map(|name| (name.clone(), ClusterNetwork::Dynamic, true)));
    let status = |(name, kind, foreign): (ClusterName, ClusterNetwork, bool)| {
        let effective = app.service.effective(&name)?.as_str();
        let shown = name.to_string();
        let status = ClusterStatus { name: shown, foreign, kind: kind.as_str(), effective, nodes_present: 0 };
        Ok((name, status))
    };
    all.map(status).collect()
}

/// Those of the start, but for the one about the cluster: that may have become another meanwhile. And what was
/// noticed since.
fn warnings(app: &App, effective: EffectiveNetwork) -> Vec<StatusWarning> {
    let (of_cluster, others): (Vec<&Warning>, Vec<&Warning>) =
        app.warnings.iter().partition(|warning| matches!(warning, Warning::PrivateOnly { .. }));
    let private_only = Warning::PrivateOnly { no_seed: false };
    let of_cluster = of_cluster.first().copied().unwrap_or(&private_only);
    let holds = (effective == EffectiveNetwork::Private).then_some(of_cluster);
    let plain = app.plain.is_seen().then_some(&Warning::PlainHttp);
    holds.into_iter().chain(others).chain(plain).map(StatusWarning::from).collect()
}

impl From<&Warning> for StatusWarning {
    fn from(warning: &Warning) -> Self {
        Self { code: warning.code(), message: warning.to_string() }
    }
}
