//! Shows that this server is a seed that somebody asks for.

mod question;

use std::net::SocketAddr;
use std::time::Instant;

use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use meetpoint_proto::id::Nonce;
use serde::Serialize;
use utoipa::ToSchema;

use self::question::Question;
use super::App;
use super::extract::Query;
use super::problem::{Problem, ProblemCode};
use super::serve::ArrivedAt;

/// The holder of the key is met at the address that was asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedProof {
    /// This server's seed key.
    public_key: String,
    /// By it, over the nonce, the key and the address.
    signature: String,
}

/// Is this server met at an address? Shown by a signature with its seed key, which `/v1/status` names.
#[utoipa::path(
    get, path = "/v1/seed-proof", tag = "status", operation_id = "prove_seed",
    params(Question),
    responses(
        (status = OK, body = SeedProof, description = "It is"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused, with 421 if it does not know the address as its own")
    )
)]
pub(super) async fn prove(
    State(app): State<App>,
    ConnectInfo(source): ConnectInfo<SocketAddr>,
    Extension(ArrivedAt(arrived_at)): Extension<ArrivedAt>,
    Query(question): Query<Question>,
) -> Result<Json<SeedProof>, Response> {
    app.strangers.pass(Instant::now(), source.ip())?;
    let bad = |detail: String| Problem::new(ProblemCode::BadQuery, detail).into_response();
    let nonce: Nonce = question.nonce.parse().map_err(|error| bad(format!("nonce: {error}")))?;
    let at: SocketAddr =
        question.at.parse().map_err(|_| bad("at: expected IP:PORT, with IPv6 in brackets".to_owned()))?;
    let proof = app.me.prove(&nonce, at, arrived_at).ok_or_else(|| {
        let detail = format!("{at} is not known here as an address of this server");
        Problem::new(ProblemCode::NotHere, detail).into_response()
    })?;
    Ok(Json(SeedProof { public_key: proof.public_key.to_string(), signature: proof.signature.to_string() }))
}
