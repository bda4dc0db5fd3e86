//! HTTP: the REST interface, its contract and documentation, and the control channel's door.
//!
//! A handler extracts, authorises and maps; what is decided is decided in the service or the broker.
//! One list of routes makes both the router and the contract.

mod api_tokens;
mod audit;
mod backup;
mod clusters;
mod control;
mod dashboard;
mod docs;
mod events;
mod extract;
pub(crate) mod forwarded;
pub(crate) mod gate;
mod gzip;
mod health;
mod limit;
mod metrics;
mod nodes;
mod operations;
mod paths;
pub(crate) mod plain;
mod problem;
mod relay;
mod revocations;
mod secrets;
mod seed_proof;
mod seeds;
pub(crate) mod serve;
mod stall;
pub(crate) mod status;
mod tokens;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{FromRef, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use meetpoint_proto::wire::CONTROL_PATH;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::problem::{Problem, ProblemCode};
use crate::api_tokens::ApiTokens;
use crate::config::AccessLimits;
use crate::drain::Drain;
use crate::identity::Identity;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::rendezvous::Handle;
use crate::seeds::me::Me;
use crate::service::{Service, ServiceError};
use crate::udp::RelayHandle;

/// Largest request body. The largest there is, a new join token, has under 1 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// From the request's head to the response's: event streams, whose bodies last, are not cut. A handler takes milliseconds; the rest is a slow sender.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests at once, each until its response begins. They are short; what is beyond is refused at once instead of queueing up.
const MAX_REQUESTS: usize = 512;
/// The same for what takes as long as the registry is large: some GB a minute on a slow disk.
const SLOW_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Of those at once. Each is refused by itself if another one is at work.
const MAX_SLOW_REQUESTS: usize = 4;
/// Answers of a listener for metrics at once.
const MAX_SCRAPES: usize = 4;
/// Control connections at once whose node has not proven anything yet. With a handshake of a few round
/// trips it lets thousands a second pass; each holds some 20 KB for at most the handshake's timeout.
const MAX_STRANGERS: usize = 1024;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App(Arc<AppState>);

/// See [`App`].
pub(crate) struct AppState {
    pub(crate) service: Arc<Service>,
    pub(crate) rendezvous: Handle,
    /// Nothing if this server does not relay.
    pub(crate) relay: Option<RelayHandle>,
    /// All STUN machines, whether they relay or not.
    pub(crate) machines: RelayHandle,
    pub(crate) metrics: Metrics,
    pub(crate) api_tokens: Arc<ApiTokens>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) me: Arc<Me>,
    pub(crate) warnings: Vec<crate::Warning>,
    pub(crate) started: Instant,
    /// Owns the control connections.
    pub(crate) tasks: TaskTracker,
    /// The server is going away.
    pub(crate) shutdown: CancellationToken,
    /// Control connections end, whatever they do.
    pub(crate) halt: CancellationToken,
    pub(crate) stun_probe: std::net::SocketAddr,
    pub(crate) stun_ports: status::StunPorts,
    streams: events::Streams,
    readiness: health::Readiness,
    pub(crate) plain: Arc<plain::PlainHttp>,
    pub(crate) drain: Drain,
    pub(crate) live: Arc<Live>,
    /// For connections that speak HTTP.
    pub(crate) connections: Arc<gate::Gate>,
    /// For strangers on the control channel.
    gate: Arc<gate::Gate>,
    turns: turns::Turns,
    /// What is signed and verified for those who have proven nothing.
    strangers: limit::Strangers,
    limiter: limit::RestLimiter,
    pub(crate) proxies: Arc<forwarded::TrustedProxies>,
}

/// What [`App::new`] takes.
pub(crate) struct Parts {
    pub(crate) service: Arc<Service>,
    pub(crate) rendezvous: Handle,
    pub(crate) machines: RelayHandle,
    pub(crate) is_relaying: bool,
    pub(crate) metrics: Metrics,
    pub(crate) api_tokens: Arc<ApiTokens>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) me: Arc<Me>,
    pub(crate) warnings: Vec<crate::Warning>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) halt: CancellationToken,
    /// A STUN socket of this server, as the server itself reaches it.
    pub(crate) stun_probe: std::net::SocketAddr,
    /// As everybody may know them.
    pub(crate) stun_ports: status::StunPorts,
    pub(crate) drain: Drain,
    pub(crate) live: Arc<Live>,
    pub(crate) limits: AccessLimits,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            service,
            rendezvous,
            machines,
            is_relaying,
            metrics,
            api_tokens,
            identity,
            me,
            warnings,
            tasks,
            shutdown,
            halt,
            stun_probe,
            stun_ports,
            drain,
            live,
            limits,
        } = parts;
        Self(Arc::new(AppState {
            service,
            rendezvous,
            relay: is_relaying.then(|| machines.clone()),
            machines,
            metrics,
            api_tokens,
            identity,
            me,
            warnings,
            started: Instant::now(),
            tasks,
            shutdown,
            halt,
            stun_probe,
            stun_ports,
            streams: events::Streams::new(),
            readiness: health::Readiness::default(),
            plain: Arc::default(),
            drain,
            live,
            connections: gate::Gate::new(serve::MAX_CONNECTIONS, limits.connections_per_source),
            gate: gate::Gate::new(MAX_STRANGERS, limits.joins_per_source),
            limiter: limit::RestLimiter::new(&limits),
            proxies: Arc::new(forwarded::TrustedProxies::new(limits.trusted_proxies)),
            turns: turns::Turns::default(),
            strangers: limit::Strangers::default(),
        }))
    }
}

impl App {
    /// Does a change to its end, even if whoever asked for it goes away meanwhile: what is committed
    /// must be published too.
    async fn finish<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = self.tasks.spawn(change).await;
        let failed = |_| Problem::new(ProblemCode::Internal, "the change broke off");
        Ok(done.map_err(failed)??)
    }
}

impl std::ops::Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

/// The contract's routes. All but those of `health`, `status` and `seed_proof`, a seed's own registration and
/// a cluster's signed word, want a token: to read the viewer token suffices, all else wants the admin token.
fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::contract_head())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(status::status))
        .routes(routes!(clusters::list, clusters::add))
        .routes(routes!(seed_proof::prove))
        .routes(routes!(clusters::get, clusters::change, clusters::remove))
        .routes(routes!(seeds::list, seeds::register))
        .routes(routes!(seeds::get, seeds::put, seeds::change, seeds::remove))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get, nodes::remove))
        .routes(routes!(nodes::end_session))
        .routes(routes!(paths::list::list))
        .routes(routes!(paths::explain))
        .routes(routes!(revocations::list, revocations::tell))
        .routes(routes!(revocations::lift))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::get, tokens::revoke))
        .routes(routes!(secrets::list, secrets::add))
        .routes(routes!(secrets::remove))
        .routes(routes!(api_tokens::list))
        .routes(routes!(api_tokens::replace))
        .routes(routes!(api_tokens::drop_before))
        .routes(routes!(events::watch))
        .routes(routes!(events::create_ticket))
        .routes(routes!(operations::reload))
        .routes(routes!(operations::drain))
        .routes(routes!(audit::list))
        .routes(routes!(relay::create_credentials))
        .routes(routes!(relay::users::list))
        .routes(routes!(relay::users::put, relay::users::remove))
        .routes(routes!(relay::secrets::list, relay::secrets::add))
        .routes(routes!(relay::secrets::remove))
        .routes(routes!(relay::list))
        .routes(routes!(relay::end))
}

/// Those of the contract's routes whose answers take their time.
fn slow_api() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(backup::make))
}

/// The whole contract.
fn whole() -> utoipa::openapi::OpenApi {
    let (_, mut contract) = api().merge(slow_api()).split_for_parts();
    docs::complete(&mut contract);
    contract
}

/// The REST contract, as YAML.
pub(crate) fn contract() -> String {
    docs::yaml(&whole())
}

/// Everything this server answers over HTTP.
pub(crate) fn router(app: App) -> Router {
    let contract = whole();
    let no_store = header(CACHE_CONTROL, "no-store");
    let (api, slow) = (Router::from(api()).layer(no_store.clone()), Router::from(slow_api()).layer(no_store));
    let outer = ServiceBuilder::new()
        .layer(from_fn_with_state(app.clone(), metrics::count))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(X_FRAME_OPTIONS, "DENY"))
        .layer(header(REFERRER_POLICY, "no-referrer"))
        .layer(header(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(from_fn(problem::normalise))
        .layer(CatchPanicLayer::custom(problem::panicked));
    let routes = api
        .merge(docs::routes(&contract))
        .merge(dashboard::routes())
        .merge(problem::pages::routes())
        .route(CONTROL_PATH, any(control::door));
    let caller = ServiceBuilder::new()
        .layer(from_fn(limit::head))
        .layer(from_fn_with_state(app.clone(), forwarded::resolve))
        .layer(from_fn_with_state(app.clone(), limit::rest));
    let routes = bounded(routes, MAX_REQUESTS, REQUEST_TIMEOUT);
    routes
        .merge(bounded(slow, MAX_SLOW_REQUESTS, SLOW_REQUEST_TIMEOUT))
        .layer(caller)
        .layer(outer)
        .with_state(app)
}

/// What a listener answers that is for `/metrics` alone.
pub(crate) fn metrics_router(app: App) -> Router {
    let outer = ServiceBuilder::new()
        .layer(from_fn_with_state(app.clone(), metrics::count))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(from_fn(problem::normalise))
        .layer(CatchPanicLayer::custom(problem::panicked));
    bounded(metrics::own_listener(), MAX_SCRAPES, REQUEST_TIMEOUT).layer(outer).with_state(app)
}

/// Bounds what a request takes until its response begins. A body that lasts, or what a connection is
/// upgraded to, is not cut: it has bounds of its own.
fn bounded<S: Clone + Send + Sync + 'static>(router: Router<S>, at_once: usize, time: Duration) -> Router<S> {
    let bounds = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(problem::overloaded))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(at_once))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, time))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES));
    router.layer(bounds)
}

/// Sets a header that a handler has not set itself.
fn header(name: axum::http::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Path and method only: a query or a header may hold what does not belong in a log.
fn span(request: &Request) -> tracing::Span {
    let id = request.extensions().get::<RequestId>();
    let id = id.and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    tracing::debug_span!("http", method = %request.method(), path = request.uri().path(), request_id = id)
}

impl FromRef<App> for Arc<Service> {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.service)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::http::StatusCode;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_lasts_is_neither_cut_nor_counted() {
        const TIME: Duration = Duration::from_secs(15);
        let ticks = || async {
            let ticks = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(TIME * 2).await;
                Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"tick")), ()))
            });
            Body::from_stream(ticks)
        };
        let slow = || tokio::time::sleep(TIME * 2);
        let router = Router::new().route("/ticks", get(ticks)).route("/slow", get(slow));
        let router = bounded(router, 1, TIME);
        let ask = |path| router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(ask("/ticks").await.unwrap().into_body());
        }
        for stream in &mut streams {
            for _ in 0..3 {
                let frame = stream.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), "tick");
            }
        }
        // What has no beginning is both.
        let (slow, beside) = tokio::join!(ask("/slow"), ask("/ticks"));
        assert_eq!(slow.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(beside.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
