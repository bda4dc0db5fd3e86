//! `/metrics`: on this machine for everybody, else for whoever has a token; on a listener of its own, if the operator
//! gives it one, for whoever reaches that.

use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, FORWARDED, VIA};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::App;
use super::extract::{Denied, Reader};
use super::problem::{Problem, ProblemCode};
use crate::metrics::{MEDIA_TYPE, Members, Snapshot};

/// The route of requests to which no template fits.
const NO_ROUTE: &str = "none";
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Whoever asks is on this machine, or has a token that reads.
pub(super) struct Observer;

impl FromRequestParts<App> for Observer {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Denied> {
        let source = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let is_here = source.is_some_and(|ConnectInfo(source)| source.ip().to_canonical().is_loopback());
        // A reverse proxy on this machine that the operator has not named brings the whole world from here.
        let headers = &parts.headers;
        let is_passed_on = headers.contains_key(X_FORWARDED_FOR)
            || headers.contains_key(FORWARDED)
            || headers.contains_key(VIA);
        if is_here && !is_passed_on {
            return Ok(Self);
        }
        Reader::from_request_parts(parts, app).await.map(|_| Self)
    }
}

/// What the server counts, in the OpenMetrics text format: joins, sessions, introductions and what became of them,
/// STUN, TURN, the registry, HTTP and the process. Without a token from this machine only.
#[utoipa::path(
    get, path = "/metrics", tag = "status", operation_id = "metrics", security((), ("viewer" = []), ("admin" = [])),
    responses(
        (status = OK, body = String, content_type = "application/openmetrics-text", description = "The metrics"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn metrics(_: Observer, State(app): State<App>) -> Result<Response, Problem> {
    scrape(State(app)).await
}

/// The router of a listener of its own.
pub(super) fn own_listener() -> Router<App> {
    Router::new().route("/metrics", get(scrape))
}

async fn scrape(State(app): State<App>) -> Result<Response, Problem> {
    let gone = || Problem::new(ProblemCode::NotReady, "the server is shutting down");
    let members = app.rendezvous.query(Members::of).await?;
    let machines = app.machines.states().await.ok_or_else(gone)?;
    let snapshot = Snapshot { machines, members, is_draining: app.drain.is_on() };
    let failed = |_| Problem::new(ProblemCode::Internal, "the metrics can't be written");
    let text = app.metrics.text(&snapshot).map_err(failed)?;
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// Counts each request by the template that it fits.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    app.metrics.requests().note(&method, route, response.status().as_u16(), begun.elapsed());
    response
}
