//! Extractors whose refusals are problem details, and who may ask.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Json;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use meetpoint_proto::id::TokenId;
use meetpoint_proto::{NodeId, addr};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};

use super::App;
use super::problem::{Problem, ProblemCode};
use crate::api_tokens::Role;
use crate::service::{Actor, UnixMs};

/// Entries of a page if the request does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Entries of a page at most: some 200 KB of JSON.
const MAX_LIMIT: u32 = 500;

/// [`axum::Json`] for request bodies, which are objects.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(Object(body)) = Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// What is written as an object. A struct by itself would be read from an array of its fields too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A whole number as JSON Schema has it: `3.0` is one, whatever a client's language makes of it.
pub(super) fn whole<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    /// Up to here a floating-point number is exact.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let exact = |float: &f64| float.fract() == 0.0 && (0.0..=MAX_EXACT).contains(float);
    let whole = number.as_u64().or_else(|| number.as_f64().filter(exact).map(|float| float as u64));
    let fitting = whole.and_then(|whole| T::try_from(whole).ok());
    fitting
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("{number} is no number that is allowed here")))
}

/// [`axum::extract::Path`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// [`axum::extract::Query`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// What the cursors of a list look like.
pub(super) trait Cursor {
    /// A regular expression that they all match, and nothing else.
    const PATTERN: Option<&str>;
}

/// Any text.
impl Cursor for String {
    const PATTERN: Option<&str> = None;
}

/// 256 bits in base32: the last character has one of them.
impl Cursor for NodeId {
    const PATTERN: Option<&str> = Some("^[a-z2-7]{51}[aq]$");
}

/// 80 bits in base32.
impl Cursor for TokenId {
    const PATTERN: Option<&str> = Some("^[a-z2-7]{16}$");
}

/// As many digits as always fit.
impl Cursor for u64 {
    const PATTERN: Option<&str> = Some("^[0-9]{1,19}$");
}

/// Which page, of a list with such cursors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub(super) struct PageQuery<C = String> {
    limit: Option<u32>,
    after: Option<String>,
    #[serde(skip)]
    cursors: PhantomData<C>,
}

impl<C: Cursor> IntoParams for PageQuery<C> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name, description, schema: ObjectBuilder| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            let parameter = parameter.description(Some(description)).required(Required::False);
            parameter.schema(Some(schema.build())).build()
        };
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT))
            .default(Some(DEFAULT_LIMIT.into()));
        let after = ObjectBuilder::new().schema_type(Type::String).pattern(C::PATTERN);
        vec![
            parameter("limit", "Entries at most.", limit),
            parameter("after", "`next` of the page before; leave it out for the first page.", after),
        ]
    }
}

impl<C> PageQuery<C> {
    /// For queries that ask for more than a page.
    pub(super) fn new(limit: Option<u32>, after: Option<String>) -> Self {
        Self { limit, after, cursors: PhantomData }
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
        match app.api_tokens.role_of(UnixMs::now(), token) {
            Some(Role::Admin) => Ok(Self(Actor::admin(source(parts)))),
            Some(Role::Viewer) => Err(Denied::Forbidden),
            None => Err(UNKNOWN),
        }
    }
}

impl FromRequestParts<App> for Reader {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Denied> {
        let token = bearer(&parts.headers)?;
        app.api_tokens.role_of(UnixMs::now(), token).map(|_| Self).ok_or(UNKNOWN)
    }
}

const UNKNOWN: Denied = Denied::Unauthorized("the token is neither the admin token nor the viewer token");

/// What is presented as a token.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
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
