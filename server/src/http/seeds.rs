//! Seeds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use meetpoint_proto::id::TokenId;
use meetpoint_proto::vouch::Registration;
use meetpoint_proto::{NetworkType, PublicKey, SeedAddr, SeedOrigin, Signature};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, Path, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::{NewSeed, SignedRegistration, UnixMs};
use crate::store::seeds::SeedRow;

/// What is said about a changed seed of the flags.
const RETURNS: &str = "the server's --seed names this seed: it is as it was there again after the next start, unless it is changed there too";

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
    /// Who named it: `flag`, `operator` or `self`.
    #[schema(example = "operator")]
    origin: &'static str,
    /// The operator stands by it. Only then the cluster depends on it.
    approved: bool,
    /// What was said of it: `PUBLIC`, `PRIVATE`, or nothing.
    #[schema(example = "PUBLIC")]
    network_type: Option<&'static str>,
    /// The key that whoever answers there must show.
    public_key: Option<String>,
    /// `unverified`, `up`, `down` or `refused`.
    #[schema(example = "up")]
    status: &'static str,
    /// Why it is not up: a stable code.
    #[schema(example = "seed_unreachable")]
    reason: Option<&'static str>,
    /// What to do about it.
    hint: Option<&'static str>,
    /// When it proved last to be there.
    verified_unix_ms: Option<i64>,
    /// Since when it is registered.
    created_unix_ms: i64,
}

/// All seeds of a cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedList {
    /// By name.
    items: Vec<SeedView>,
}

/// A seed that was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedChanged {
    /// As it is now; as it was, if it was deleted.
    seed: SeedView,
    /// What the operator should know about this change.
    warning: Option<&'static str>,
}

/// A seed as the operator wants it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedBody {
    /// An IP address, or a DNS name of up to 253 characters.
    #[schema(example = "20.0.0.1")]
    host: String,
    /// Its control port.
    #[schema(minimum = 1, maximum = 65535, example = 8080)]
    port: u16,
    /// `PUBLIC` or `PRIVATE`; refused if its address says otherwise.
    #[schema(example = "PUBLIC")]
    network_type: Option<String>,
    /// Its `seed_key`, as its `/v1/status` shows it. Without it the first one shown is pinned.
    public_key: Option<String>,
    /// Whether the operator stands by it; yes if nothing is said.
    approved: Option<bool>,
}

/// What is to be changed about a seed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedChange {
    /// Whether the operator stands by it.
    approved: bool,
}

/// A server's wish to be a seed, signed with its seed key and with a join token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationBody {
    /// The name it wants.
    #[schema(example = "seed2")]
    name: String,
    /// An IP address, or a DNS name of up to 253 characters.
    #[schema(example = "20.0.0.2")]
    host: String,
    /// Its control port.
    #[schema(minimum = 1, maximum = 65535, example = 8080)]
    port: u16,
    /// `PUBLIC` or `PRIVATE`; refused if its address says otherwise.
    #[schema(example = "PUBLIC")]
    network_type: Option<String>,
    /// Its seed key.
    public_key: String,
    /// The id of the join token.
    token: String,
    /// When it was signed, by the clock that this server's `/v1/status` shows. Later than the last time.
    issued_unix_ms: u64,
    /// By the seed key.
    signature: String,
    /// By the join token's key.
    token_signature: String,
}

impl From<SeedRow> for SeedView {
    fn from(row: SeedRow) -> Self {
        Self {
            name: row.addr.name.to_string(),
            host: row.addr.host.to_string(),
            port: row.addr.port,
            public: row.is_public,
            origin: row.origin.as_str(),
            approved: row.approved,
            network_type: row.declared.map(NetworkType::as_str),
            public_key: row.public_key.map(|key| key.to_string()),
            status: row.status.as_str(),
            reason: row.reason.map(meetpoint_proto::Code::as_str),
            hint: row.reason.map(meetpoint_proto::Code::hint),
            verified_unix_ms: row.verified_ms,
            created_unix_ms: row.created_ms,
        }
    }
}

impl From<SeedRow> for SeedChanged {
    fn from(row: SeedRow) -> Self {
        let warning = (row.origin == SeedOrigin::Flag).then_some(RETURNS);
        Self { seed: row.into(), warning }
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

/// Adds a seed or replaces one. A DYNAMIC cluster becomes PUBLIC with its first approved public seed.
#[utoipa::path(
    put, path = "/v1/clusters/{cluster}/seeds/{name}", tag = "clusters", operation_id = "put_seed", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("name" = String, Path, description = "The seed's name")),
    request_body = SeedBody,
    responses(
        (status = OK, body = SeedChanged, description = "Replaced"),
        (status = CREATED, body = SeedChanged, description = "Added"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn put(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, name)): Path<(String, String)>,
    Body(body): Body<SeedBody>,
) -> Result<(StatusCode, Json<SeedChanged>), Problem> {
    let new = NewSeed {
        addr: seed_addr(&name, &body.host, body.port)?,
        declared: network_type(body.network_type.as_deref())?,
        public_key: body.public_key.as_deref().map(public_key).transpose()?,
        approved: body.approved.unwrap_or(true),
    };
    let service = Arc::clone(&app.service);
    let done = app.finish(async move { service.put_seed(UnixMs::now(), &actor, &cluster, new).await });
    let (row, is_new) = done.await?;
    Ok((created(is_new), Json(row.into())))
}

/// Approves a seed, or takes the approval back.
#[utoipa::path(
    patch, path = "/v1/clusters/{cluster}/seeds/{name}", tag = "clusters", operation_id = "change_seed", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("name" = String, Path, description = "The seed's name")),
    request_body = SeedChange,
    responses(
        (status = OK, body = SeedChanged, description = "Changed"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn change(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, name)): Path<(String, String)>,
    Body(change): Body<SeedChange>,
) -> Result<Json<SeedChanged>, Problem> {
    let service = Arc::clone(&app.service);
    let done = app.finish(async move {
        service.approve_seed(UnixMs::now(), &actor, &cluster, &name, change.approved).await
    });
    Ok(Json(done.await?.into()))
}

/// Deletes a seed. A DYNAMIC cluster becomes PRIVATE with its last public one.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/seeds/{name}", tag = "clusters", operation_id = "delete_seed", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("name" = String, Path, description = "The seed's name")),
    responses(
        (status = OK, body = SeedChanged, description = "Deleted"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, name)): Path<(String, String)>,
) -> Result<Json<SeedChanged>, Problem> {
    let service = Arc::clone(&app.service);
    let done = app.finish(async move { service.delete_seed(UnixMs::now(), &actor, &cluster, &name).await });
    Ok(Json(done.await?.into()))
}

/// A server registers itself as a seed. It needs no admin token: it signs with its seed key and with a
/// join token. The cluster does not depend on it until the operator approves it.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/seeds", tag = "clusters", operation_id = "register_seed",
    params(("cluster" = String, Path, description = "The cluster's name")),
    request_body = RegistrationBody,
    responses(
        (status = OK, body = SeedView, description = "Known, and as it is now"),
        (status = CREATED, body = SeedView, description = "Registered"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn register(
    State(app): State<App>,
    ConnectInfo(source): ConnectInfo<SocketAddr>,
    Path(cluster): Path<String>,
    Body(body): Body<RegistrationBody>,
) -> Result<(StatusCode, Json<SeedView>), Response> {
    app.strangers.pass(Instant::now(), source.ip())?;
    let signed = body.read(&cluster, app.me.public_key()).map_err(IntoResponse::into_response)?;
    let service = Arc::clone(&app.service);
    let done =
        app.finish(async move { service.register_seed(UnixMs::now(), &cluster, source.ip(), signed).await });
    let (row, is_new) = done.await.map_err(IntoResponse::into_response)?;
    Ok((created(is_new), Json(row.into())))
}

impl RegistrationBody {
    fn read(self, cluster: &str, audience: PublicKey) -> Result<SignedRegistration, Problem> {
        let token: TokenId = self.token.parse().map_err(|error| invalid("token", &error))?;
        let registration = Registration {
            cluster: cluster.to_owned(),
            audience,
            seed: seed_addr(&self.name, &self.host, self.port)?,
            declared: network_type(self.network_type.as_deref())?,
            public_key: public_key(&self.public_key)?,
            token,
            issued_unix_ms: self.issued_unix_ms,
        };
        let by_seed: Signature = self.signature.parse().map_err(|error| invalid("signature", &error))?;
        let by_token: Signature =
            self.token_signature.parse().map_err(|error| invalid("token_signature", &error))?;
        Ok(SignedRegistration { registration, by_seed, by_token })
    }
}

const fn created(is_new: bool) -> StatusCode {
    if is_new { StatusCode::CREATED } else { StatusCode::OK }
}

fn seed_addr(name: &str, host: &str, port: u16) -> Result<SeedAddr, Problem> {
    if port == 0 {
        return Err(invalid("port", &"from 1 to 65535"));
    }
    Ok(SeedAddr {
        name: name.parse().map_err(|error| invalid("name", &error))?,
        // In brackets or not: there is no port behind it here.
        host: match host.parse::<std::net::Ipv6Addr>() {
            Ok(v6) => meetpoint_proto::seed::Host::Ip(v6.into()),
            Err(_) => host.parse().map_err(|error| invalid("host", &error))?,
        },
        port,
    })
}

fn network_type(text: Option<&str>) -> Result<Option<NetworkType>, Problem> {
    text.map(|text| text.parse().map_err(|error| invalid("network_type", &error))).transpose()
}

fn public_key(text: &str) -> Result<PublicKey, Problem> {
    let key: PublicKey = text.parse().map_err(|error| invalid("public_key", &error))?;
    key.key().map_err(|error| invalid("public_key", &error))?;
    Ok(key)
}

fn invalid(field: &str, error: &dyn std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::Invalid, format!("{field}: {error}"))
}
