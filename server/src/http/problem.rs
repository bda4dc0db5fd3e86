//! Every refusal of the REST interface: RFC 9457 problem details with a stable code, a hint, and a page that explains it.

pub(super) mod pages;

use axum::body::Body;
use axum::extract::Request;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use meetpoint_proto::Code;
use serde::Serialize;
use utoipa::ToSchema;

use super::health::Check;
use crate::rendezvous::Gone;
use crate::service::ServiceError;
use crate::store::StoreError;

/// Where the pages are.
const TYPES: &str = "/problems";
/// The media type of problem details.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! problems {
    ($($variant:ident = $status:ident, $code:literal, $hint:literal;)+) => {
        /// What can go wrong. The code is part of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ProblemCode { $($variant),+ }

        impl ProblemCode {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(super) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The URI of its page, relative to this server (RFC 9457, section 3.1.1).
            const fn kind(self) -> &'static str {
                match self { $(Self::$variant => concat!("/problems/", $code)),+ }
            }

            pub(super) const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint),+ }
            }
        }
    };
}

problems! {
    BadRequest = BAD_REQUEST, "bad_request", "compare the request with /openapi.yaml";
    BadJson = BAD_REQUEST, "bad_json", "send one JSON object, nested no deeper than 127 levels";
    BadQuery = BAD_REQUEST, "bad_query", "compare the query parameters with /openapi.yaml";
    BadLimit = BAD_REQUEST, "bad_limit", "give a limit from 1 to 500";
    BadCursor = BAD_REQUEST, "bad_cursor", "give `after` exactly as `next` of the page before, or leave it out";
    BadEventId = BAD_REQUEST, "bad_event_id", "give `after` or Last-Event-ID as the `id` or the `seq` of an event, or leave it out";
    BadNodeId = BAD_REQUEST, "bad_node_id", "a node id has 52 characters of lower-case base32";
    BadTokenId = BAD_REQUEST, "bad_token_id", "a token id has 16 characters of lower-case base32; it is not the token itself";
    Unauthorized = UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer TOKEN` with the admin token or, to read, the viewer token; the operator finds them in the server's data directory";
    Forbidden = FORBIDDEN, "forbidden", "the viewer token reads and changes nothing: send the admin token";
    BadForwarded = BAD_REQUEST, "bad_forwarded", "have the trusted proxy write one of X-Forwarded-For and Forwarded, and drop the other one";
    NotFound = NOT_FOUND, "not_found", "compare the path with /openapi.yaml";
    UnknownCluster = NOT_FOUND, "unknown_cluster", "GET /v1/status lists the server's clusters";
    ForeignCluster = CONFLICT, "foreign_cluster", "ask the cluster's home: this server keeps nothing of it but who is present";
    OwnCluster = CONFLICT, "own_cluster", "a server keeps the clusters that it is the home of; --foreign-cluster at its start puts another one in the place of its own";
    ForeignClusterKnown = CONFLICT, "foreign_cluster_known", "DELETE /v1/clusters/{cluster} first, if its key has changed";
    UnknownNode = NOT_FOUND, "unknown_node", "GET /v1/clusters/{cluster}/nodes lists the registered nodes";
    UnknownSeed = NOT_FOUND, "unknown_seed", "GET /v1/clusters/{cluster}/seeds lists the seeds";
    UnknownToken = NOT_FOUND, "unknown_token", "GET /v1/clusters/{cluster}/join-tokens lists the join tokens";
    UnknownRevocation = NOT_FOUND, "unknown_revocation", "GET /v1/clusters/{cluster}/revocations lists the removed nodes";
    BadRevocation = FORBIDDEN, "bad_revocation", "pass on what the cluster's home has signed, word by word";
    UnknownSecret = NOT_FOUND, "unknown_secret", "GET /v1/clusters/{cluster}/secrets lists the cluster secrets in use";
    KnownSecret = CONFLICT, "known_secret", "it needs no second time; GET /v1/clusters/{cluster}/secrets lists those in use";
    UnknownRelaySession = NOT_FOUND, "unknown_relay_session", "GET /v1/relay/sessions lists the allocations";
    UnknownRelayUser = NOT_FOUND, "unknown_relay_user", "GET /v1/relay/users lists the static users";
    UnknownRelaySecret = NOT_FOUND, "unknown_relay_secret", "GET /v1/relay/secrets lists the accepted secrets";
    CurrentRelaySecret = CONFLICT, "current_relay_secret", "POST /v1/relay/secrets adds another one; then this one can be dropped";
    KnownRelaySecret = CONFLICT, "known_relay_secret", "give another secret, or leave it out to have one made";
    GivenToken = CONFLICT, "given_token", "replace the token where the server's start gets it from; only one in the data directory is the server's to replace";
    NoTokenBefore = NOT_FOUND, "no_token_before", "GET /v1/api-tokens shows whether a replaced token is still accepted";
    RelayFull = CONFLICT, "relay_full", "DELETE one of /v1/relay/users or /v1/relay/secrets that is no longer needed";
    RelayOff = CONFLICT, "relay_off", "start the server with --relay-ip";
    BackupRuns = CONFLICT, "backup_runs", "wait until the backup that is being made has been read to its end, or its reader has gone";
    SeedNameTaken = CONFLICT, "seed_name_taken", "choose another name, or let the operator put or delete that seed";
    SeedAddressTaken = CONFLICT, "seed_address_taken", "one server is one seed of a cluster; use the seed that is there";
    SeedApproved = CONFLICT, "seed_approved", "let the operator PUT the seed at its new place";
    StaleRegistration = CONFLICT, "stale_registration", "sign the registration anew";
    ClockSkew = UNPROCESSABLE_ENTITY, "clock_skew", "sign with the time that /v1/status shows as now_unix_ms";
    BadRegistration = FORBIDDEN, "bad_registration", "sign the very words sent, with `seed_key` of this server's /v1/status as the audience";
    BadToken = FORBIDDEN, "bad_token", "ask the operator for a fresh join token of the scope `seed`";
    NotHere = MISDIRECTED_REQUEST, "not_here", "tell this server its address, by --external-ip or by a --seed of its own";
    PublicSeedInPrivateCluster = UNPROCESSABLE_ENTITY, "public_seed_in_private_cluster", "a PRIVATE cluster never has public seeds";
    BadSeedInPublicCluster = UNPROCESSABLE_ENTITY, "bad_seed_in_public_cluster", "every seed of a PUBLIC cluster must be public and reachable";
    NoSeedInPublicCluster = UNPROCESSABLE_ENTITY, "no_seed_in_public_cluster", "a PUBLIC cluster keeps at least one approved seed; put another one first";
    DeclaredPublicButPrivate = UNPROCESSABLE_ENTITY, "declared_public_but_private", "leave network_type out, or give the seed's public address";
    DeclaredPrivateButPublic = UNPROCESSABLE_ENTITY, "declared_private_but_public", "leave network_type out, or give the seed's private address";
    SeedAddressRefused = UNPROCESSABLE_ENTITY, "seed_address_refused", "give an address that a server can have: not multicast, documentation or reserved";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "the Allow header lists the methods of this path";
    NotAcceptable = NOT_ACCEPTABLE, "not_acceptable", "accept text/event-stream, or upgrade to a WebSocket";
    Timeout = REQUEST_TIMEOUT, "timeout", "send the request faster, or try again later";
    ClusterFull = CONFLICT, "cluster_full", "the cluster has as many of these as it may; remove some";
    TooLarge = PAYLOAD_TOO_LARGE, "body_too_large", "keep the body under 64 KiB";
    UrlTooLong = URI_TOO_LONG, "url_too_long", "keep path and query under 4 KiB";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "keep all headers together under 32 KiB";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send the body as `Content-Type: application/json`";
    ConfigRefused = UNPROCESSABLE_ENTITY, "config_refused", "nothing was changed: put right what the detail names, then reload again";
    Invalid = UNPROCESSABLE_ENTITY, "invalid", "the detail names the field and what it may be";
    UpgradeRequired = UPGRADE_REQUIRED, "upgrade_required", "this path speaks WebSocket (RFC 6455) over HTTP/1.1";
    RateLimited = TOO_MANY_REQUESTS, "rate_limited", "wait as many seconds as Retry-After says; RateLimit-Policy says how many requests are allowed";
    Overloaded = SERVICE_UNAVAILABLE, "overloaded", "try again in a moment";
    NotReady = SERVICE_UNAVAILABLE, "not_ready", "the detail names what fails; the server's log says why";
    Internal = INTERNAL_SERVER_ERROR, "internal", "try again; the server's log has the particulars";
    Storage = INTERNAL_SERVER_ERROR, "storage", "nothing was changed; the server's log has the particulars";
    DiskFull = INSUFFICIENT_STORAGE, "disk_full", "nothing was changed; free space for the server's data directory, then try again";
}

/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The page that explains the code, on this server.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/problems/unknown_cluster")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// The particulars of this case.
    detail: String,
    /// Stable; programs decide by it.
    #[schema(example = "unknown_cluster")]
    code: &'static str,
    /// What to do about it.
    hint: &'static str,
    /// What was tried, where that is what it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

impl Problem {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            kind: code.kind(),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: shortened(detail.into()),
            code: code.as_str(),
            hint: code.hint(),
            checks: Vec::new(),
        }
    }

    /// With what was tried.
    pub(super) fn checks(self, checks: Vec<Check>) -> Self {
        Self { checks, ..self }
    }

    /// A detail may quote what was sent, for example the name of a field that there is none of. JSON
    /// escapes control characters; those that begin something in HTML are escaped here, in case a page
    /// shows the text as it comes.
    fn text(&self) -> String {
        #[allow(clippy::expect_used, reason = "a few texts and a number")]
        let text = serde_json::to_string(self).expect("a problem serialises");
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    }
}

/// As much of a quotation as helps: bodies have up to 64 KiB.
const MAX_DETAIL_CHARS: usize = 300;

fn shortened(mut detail: String) -> String {
    if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL_CHARS) {
        detail.truncate(end);
        detail.push('…');
    }
    detail
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let media_type = [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))];
        (status, media_type, self.text()).into_response()
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let code = match &error {
            ServiceError::UnknownCluster => ProblemCode::UnknownCluster,
            ServiceError::ForeignCluster => ProblemCode::ForeignCluster,
            ServiceError::OwnCluster => ProblemCode::OwnCluster,
            ServiceError::ForeignClusterKnown => ProblemCode::ForeignClusterKnown,
            ServiceError::UnknownNode => ProblemCode::UnknownNode,
            ServiceError::UnknownSeed => ProblemCode::UnknownSeed,
            ServiceError::UnknownToken => ProblemCode::UnknownToken,
            ServiceError::UnknownRevocation => ProblemCode::UnknownRevocation,
            ServiceError::BadRevocation => ProblemCode::BadRevocation,
            ServiceError::UnknownSecret => ProblemCode::UnknownSecret,
            ServiceError::KnownSecret => ProblemCode::KnownSecret,
            ServiceError::SeedRefused { code, .. } | ServiceError::ClusterRule(code) => by_rule(*code),
            ServiceError::TooManySeeds | ServiceError::TooManyClusters => ProblemCode::ClusterFull,
            ServiceError::SeedNameTaken(_) => ProblemCode::SeedNameTaken,
            ServiceError::SeedAddressTaken(_) => ProblemCode::SeedAddressTaken,
            ServiceError::SeedApproved(_) => ProblemCode::SeedApproved,
            ServiceError::StaleRegistration => ProblemCode::StaleRegistration,
            ServiceError::Skew { .. } => ProblemCode::ClockSkew,
            ServiceError::BadRegistration(_) => ProblemCode::BadRegistration,
            ServiceError::BadToken(_) | ServiceError::TokenScope(_) | ServiceError::NameNotAllowed(_) => {
                ProblemCode::BadToken
            }
            ServiceError::ClusterFull => ProblemCode::ClusterFull,
            ServiceError::UnknownRelayUser => ProblemCode::UnknownRelayUser,
            ServiceError::UnknownRelaySecret => ProblemCode::UnknownRelaySecret,
            ServiceError::CurrentRelaySecret => ProblemCode::CurrentRelaySecret,
            ServiceError::KnownRelaySecret => ProblemCode::KnownRelaySecret,
            ServiceError::RelayFull(_) => ProblemCode::RelayFull,
            ServiceError::BadSession
            | ServiceError::BadSecret
            | ServiceError::Removed
            | ServiceError::NameTaken
            | ServiceError::RelayUser(_)
            | ServiceError::RelaySecret(_) => ProblemCode::Invalid,
            ServiceError::GivenToken(_) => ProblemCode::GivenToken,
            ServiceError::NoTokenBefore => ProblemCode::NoTokenBefore,
            ServiceError::BackupRuns => ProblemCode::BackupRuns,
            ServiceError::BackupFile(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                ProblemCode::DiskFull
            }
            ServiceError::BackupFile(_) => ProblemCode::Storage,
            ServiceError::Random(_) => ProblemCode::Internal,
            ServiceError::CredentialFile(error) | ServiceError::ApiTokenFile(error)
                if error.is_for_space() =>
            {
                ProblemCode::DiskFull
            }
            ServiceError::CredentialFile(_) | ServiceError::ApiTokenFile(_) => ProblemCode::Storage,
            ServiceError::Store(StoreError::Full) => ProblemCode::DiskFull,
            ServiceError::Store(StoreError::Busy) => ProblemCode::Overloaded,
            ServiceError::Store(_) => ProblemCode::Storage,
        };
        match &error {
            // What the database says is for the operator's eyes.
            ServiceError::Store(cause) => {
                tracing::error!(error = %cause, "a request failed in the registry");
                Self::new(code, "the registry did not take it")
            }
            ServiceError::BackupFile(cause) => {
                tracing::error!(error = %cause, "a backup failed in the data directory");
                Self::new(code, "the data directory did not take it")
            }
            ServiceError::CredentialFile(cause) | ServiceError::ApiTokenFile(cause) => {
                tracing::error!(error = %cause, "a request failed in the data directory");
                Self::new(code, "the data directory did not take it")
            }
            _ => Self::new(code, error.to_string()),
        }
    }
}

impl From<Gone> for Problem {
    fn from(_: Gone) -> Self {
        Self::new(ProblemCode::NotReady, "the broker does not answer")
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let code = match &rejection {
            JsonRejection::JsonDataError(_) => ProblemCode::Invalid,
            JsonRejection::JsonSyntaxError(_) => ProblemCode::BadJson,
            JsonRejection::MissingJsonContentType(_) => ProblemCode::UnsupportedMediaType,
            _ => by_status(rejection.status()),
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ProblemCode::BadRequest, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ProblemCode::BadQuery, rejection.body_text())
    }
}

/// The problem behind a rule about seeds.
const fn by_rule(code: Code) -> ProblemCode {
    match code {
        Code::PublicSeedInPrivateCluster => ProblemCode::PublicSeedInPrivateCluster,
        Code::BadSeedInPublicCluster => ProblemCode::BadSeedInPublicCluster,
        Code::NoSeedInPublicCluster => ProblemCode::NoSeedInPublicCluster,
        Code::DeclaredPublicButPrivate => ProblemCode::DeclaredPublicButPrivate,
        Code::DeclaredPrivateButPublic => ProblemCode::DeclaredPrivateButPublic,
        Code::SeedAddressRefused => ProblemCode::SeedAddressRefused,
        _ => ProblemCode::Invalid,
    }
}

/// The problem behind a status that a library answered with.
fn by_status(status: StatusCode) -> ProblemCode {
    match status {
        StatusCode::NOT_FOUND => ProblemCode::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ProblemCode::MethodNotAllowed,
        StatusCode::NOT_ACCEPTABLE => ProblemCode::NotAcceptable,
        StatusCode::REQUEST_TIMEOUT => ProblemCode::Timeout,
        StatusCode::PAYLOAD_TOO_LARGE => ProblemCode::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ProblemCode::UnsupportedMediaType,
        StatusCode::UPGRADE_REQUIRED => ProblemCode::UpgradeRequired,
        StatusCode::TOO_MANY_REQUESTS => ProblemCode::RateLimited,
        StatusCode::SERVICE_UNAVAILABLE => ProblemCode::Overloaded,
        status if status.is_server_error() => ProblemCode::Internal,
        _ => ProblemCode::BadRequest,
    }
}

/// Turns the refusals of libraries (an unknown path, a wrong method, a body over the limit, a
/// timeout) into problem details. Their headers stay: Allow is one of them.
pub(super) async fn normalise(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || is_problem(&response) {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path".to_owned(),
        StatusCode::METHOD_NOT_ALLOWED => "this path does not have this method".to_owned(),
        _ => format!("the request was refused: {status}"),
    };
    let problem = Problem::new(by_status(status), detail).into_response();
    let (mut parts, _) = response.into_parts();
    let (made, body) = problem.into_parts();
    parts.status = made.status;
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Response::from_parts(parts, body)
}

fn is_problem(response: &Response<Body>) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|value| value == MEDIA_TYPE)
}

/// A handler panicked: the request is lost, the server is not.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a request handler panicked");
    Problem::new(ProblemCode::Internal, "the server failed while it worked on this request").into_response()
}

/// More requests at once than the server takes.
pub(super) async fn overloaded(_: tower::BoxError) -> Problem {
    Problem::new(ProblemCode::Overloaded, "the server works on as many requests as it may")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_say_what_to_do() {
        let mut seen = std::collections::BTreeSet::new();
        for &code in ProblemCode::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(!code.hint().is_empty());
        }
    }

    #[tokio::test]
    async fn what_libraries_refuse_becomes_a_problem() {
        use axum::Router;
        use axum::routing::get;
        use std::time::Duration;
        use tower::ServiceExt;
        use tower_http::catch_panic::CatchPanicLayer;
        use tower_http::timeout::TimeoutLayer;

        let limit = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(1));
        let panics = || async { std::hint::black_box(None::<&str>).expect("secret particulars") };
        let router = Router::new()
            .route("/slow", get(std::future::pending::<()>).layer(limit))
            .route("/panic", get(panics))
            .route("/bare", get(|| async { StatusCode::BAD_GATEWAY }))
            .layer(axum::middleware::from_fn(normalise))
            .layer(CatchPanicLayer::custom(panicked));
        let cases = [
            ("/slow", 408, "timeout"),
            ("/panic", 500, "internal"),
            ("/bare", 500, "internal"),
            ("/x", 404, "not_found"),
        ];
        for (path, status, code) in cases {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert!(is_problem(&response), "{path}");
            assert_eq!(response.status().as_u16(), status, "{path}");
            let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
            let body = String::from_utf8_lossy(&body);
            assert!(body.contains(&format!("\"code\":\"{code}\"")), "{path}: {body}");
            assert!(!body.contains("secret"), "{path}: {body}");
        }
    }
}
