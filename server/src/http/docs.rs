//! The contract and its documentation. The user interface is compiled in: it loads nothing from
//! elsewhere and tells nobody of the contract.

mod complete;
mod share;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::middleware::from_fn;
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::App;
use super::gzip::unpack_for_others;

const CONTRACT_PATH: &str = "/openapi.yaml";
/// The events' contract, written by hand and held true by a test.
const EVENTS_CONTRACT: &str = include_str!("../../../asyncapi.yaml");
/// Swagger UI sets styles from its scripts and has images in them.
const UI_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Meetpoint rendezvous",
        description = "Administration of a Meetpoint rendezvous server. Every refusal is a problem detail (RFC 9457) \
                       with a stable `code` and a `hint`. Lists come in pages: give `next` of one page as `after` of \
                       the next request. Times are milliseconds since 1970. `RateLimit-Policy` says how many requests \
                       are allowed, `RateLimit` how many are left; beyond them the answer is 429 with `Retry-After`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "health", description = "Is it alive, is it ready. Public."),
        (name = "status", description = "What it is. Public, and without addresses."),
        (name = "clusters", description = "Clusters and their seeds."),
        (name = "nodes", description = "Registered nodes, and which of them are present."),
        (name = "join-tokens", description = "The right to join a cluster."),
        (name = "events", description = "What happens, as it happens. `/asyncapi.yaml` describes the events."),
        (name = "audit", description = "Who did what, when, from where."),
        (name = "backup", description = "All of it as one file, while it runs."),
        (name = "api-tokens", description = "The tokens of this interface: replaced while it is in use."),
        (name = "relay", description = "TURN: credentials, and what is relayed. Nothing without --relay-ip.")
    )
)]
struct Head;

/// The contract before its routes.
pub(super) fn contract_head() -> utoipa::openapi::OpenApi {
    let mut contract = Head::openapi();
    let components = contract.components.get_or_insert_default();
    let schemes = [
        ("admin", "The admin token, which may do everything: `admin-token` in the server's data directory."),
        ("viewer", "The viewer token, which may read: `viewer-token` in the server's data directory."),
    ];
    for (name, description) in schemes {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        components.add_security_scheme(name, SecurityScheme::Http(bearer));
    }
    contract
}

/// Adds to the contract with its routes what is told of each: examples, and the problems it can answer with.
pub(super) fn complete(contract: &mut utoipa::openapi::OpenApi) {
    complete::complete(contract);
    share::share(contract);
}

/// The contract's text, the same byte for byte each time.
pub(super) fn yaml(contract: &utoipa::openapi::OpenApi) -> String {
    #[allow(clippy::expect_used, reason = "plain data with string keys; the contract test would fail first")]
    contract.to_yaml().expect("the contract serialises")
}

/// `/openapi.yaml`, `/asyncapi.yaml` and `/docs`.
pub(super) fn routes(contract: &utoipa::openapi::OpenApi) -> Router<App> {
    let text = yaml(contract);
    let media_type = [(CONTENT_TYPE, HeaderValue::from_static("application/yaml"))];
    let events = (media_type.clone(), EVENTS_CONTRACT);
    let config = Config::new([CONTRACT_PATH]).validator_url("none").display_request_duration(true);
    let policy = HeaderValue::from_static(UI_POLICY);
    // The interface's files are compiled in packed.
    Router::from(SwaggerUi::new("/docs").config(config))
        .layer(from_fn(unpack_for_others))
        .layer(SetResponseHeaderLayer::if_not_present(CONTENT_SECURITY_POLICY, policy))
        .route(CONTRACT_PATH, get(move || std::future::ready((media_type, text))))
        .route("/asyncapi.yaml", get(move || std::future::ready(events)))
}
