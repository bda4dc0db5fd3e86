//! Shows that this server is a seed that somebody asks for.

mod question;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, State};
use axum::http::HeaderName;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use meetpoint_proto::addr;
use meetpoint_proto::id::Nonce;
use serde::Serialize;
use utoipa::ToSchema;

use self::question::Question;
use super::App;
use super::extract::Query;
use super::problem::{Problem, ProblemCode};
use super::serve::ArrivedAt;

/// Questions of one source that are answered in a second. Each costs a signature, some 20 microseconds.
const MAX_A_SECOND: u32 = 10;
/// Sources share these places by a hash that nobody outside knows. So all of them together get
/// no more than a few thousand signatures a second.
const PLACES: usize = 256;

/// The holder of the key is met at the address that was asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct SeedProof {
    /// This server's seed key.
    public_key: String,
    /// By it, over the nonce, the key and the address.
    signature: String,
}

/// A source has asked too often.
pub(super) struct TooOften;

impl IntoResponse for TooOften {
    fn into_response(self) -> Response {
        let problem = Problem::new(ProblemCode::RateLimited, "this address has asked too often");
        ([(RETRY_AFTER, "1")] as [(HeaderName, &str); 1], problem).into_response()
    }
}

/// Bounds what strangers may have signed and verified.
pub(super) struct Throttle {
    started: Instant,
    hasher: RandomState,
    /// The second, and how many in it.
    places: Mutex<Vec<(u64, u32)>>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        let places = Mutex::new(vec![(0, 0); PLACES]);
        Self { started: Instant::now(), hasher: RandomState::new(), places }
    }

    /// Counts one more, if there may be one more.
    pub(super) fn pass(&self, now: Instant, ip: IpAddr) -> Result<(), TooOften> {
        let second = now.saturating_duration_since(self.started).as_secs();
        let place = self.hasher.hash_one(source(ip)) as usize % PLACES;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut places[place];
        if *since != second {
            (*since, *count) = (second, 0);
        }
        *count += 1;
        if *count > MAX_A_SECOND { Err(TooOften) } else { Ok(()) }
    }
}

/// An IPv4 address, or the network of an IPv6 address, whose holder has all of it.
fn source(ip: IpAddr) -> u64 {
    match addr::canonical(ip) {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
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
    app.throttle.pass(Instant::now(), source.ip()).map_err(IntoResponse::into_response)?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_is_answered_so_often() {
        let throttle = Throttle::new();
        let ip = IpAddr::from([20, 0, 0, 1]);
        let passed = |s: u64| {
            let now = throttle.started + Duration::from_secs(s);
            (0..50).filter(|_| throttle.pass(now, ip).is_ok()).count()
        };
        assert_eq!([passed(0), passed(0), passed(1), passed(7)], [10, 0, 10, 10]);
    }
}
