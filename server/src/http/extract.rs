//! Extractors whose refusals are problem details, and who may ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use meetpoint_proto::addr;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::problem::{Problem, ProblemCode};
use crate::service::Actor;

/// Entries of a page if the request does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Entries of a page at most: some 200 KB of JSON.
const MAX_LIMIT: u32 = 500;

/// [`axum::Json`] for request bodies.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub(super) struct Body<T>(pub(super) T);

/// [`axum::extract::Path`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// [`axum::extract::Query`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Entries at most.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// `next` of the page before; leave it out for the first page.
    after: Option<String>,
}

impl PageQuery {
    /// For queries that ask for more than a page.
    pub(super) fn new(limit: Option<u32>, after: Option<String>) -> Self {
        Self { limit, after }
    }

    /// Reads limit and cursor.
    pub(super) fn parse<T: std::str::FromStr>(&self) -> Result<(Option<T>, u32), Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::new(ProblemCode::BadLimit, format!("limit is {limit}")));
        }
        let cursor = self.after.as_deref().map(str::parse).transpose();
        let cursor = cursor
            .map_err(|_| Problem::new(ProblemCode::BadCursor, "`after` is not a cursor of this list"))?;
        Ok((cursor, limit))
    }
}

/// The request bears the admin token. Who asks, and from where, is for the audit log.
pub(super) struct Admin(pub(super) Actor);

/// The request bears the viewer token, or the admin token.
pub(super) struct Reader;

/// It does not.
pub(super) enum Denied {
    /// It bears none.
    Unauthorized(&'static str),
    /// It bears one that does not suffice.
    Forbidden,
}

impl FromRequestParts<App> for Admin {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Denied> {
        let token = bearer(&parts.headers)?;
        if app.api_tokens.admin.matches(token) {
            Ok(Self(Actor::admin(source(parts))))
        } else if app.api_tokens.viewer.matches(token) {
            Err(Denied::Forbidden)
        } else {
            Err(UNKNOWN)
        }
    }
}

impl FromRequestParts<App> for Reader {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Denied> {
        let token = bearer(&parts.headers)?;
        let is_known = app.api_tokens.admin.matches(token) || app.api_tokens.viewer.matches(token);
        if is_known { Ok(Self) } else { Err(UNKNOWN) }
    }
}

const UNKNOWN: Denied = Denied::Unauthorized("the token is neither the admin token nor the viewer token");

fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let header = headers.get(AUTHORIZATION);
    let header = header.ok_or(Denied::Unauthorized("there is no Authorization header"))?;
    let text = header.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(Denied::Unauthorized("the Authorization header has another scheme than Bearer"))
    }
}

/// Where the request comes from.
fn source(parts: &Parts) -> IpAddr {
    let connected = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    connected.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| addr::unmap(info.0).ip())
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let detail = match self {
            Self::Unauthorized(detail) => detail,
            Self::Forbidden => {
                return Problem::new(ProblemCode::Forbidden, "the viewer token does not suffice")
                    .into_response();
            }
        };
        let mut response = Problem::new(ProblemCode::Unauthorized, detail).into_response();
        debug_assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"meetpoint\""));
        response
    }
}
