//! `GET /v1/events`: what happens, as a WebSocket or as an event stream. `asyncapi.yaml` is the contract.
//!
//! A stream is a place in the hub's ring and a connection. It waits for the connection and never makes
//! anybody wait for it; it ends with the server. Its number is bounded apart from that of requests.

mod query;
mod socket;
mod tickets;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::query::{WatchQuery, accepts_event_stream, wants_socket};
use self::tickets::Tickets;
use super::App;
use super::control::NoUpgrade;
use super::extract::{Denied, Query, Reader};
use super::problem::{Problem, ProblemCode};
use crate::events::{Event, Frame, Subscription};
use crate::service::{ServiceError, UnixMs};

/// Streams at once: some dashboards and programs that watch. Each is woken by every event.
const MAX_STREAMS: usize = 256;
/// How often a stream says that it is alive, and up to which event it has told all: often enough for
/// proxies that cut what is silent for half a minute.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// The media type of an event stream (WHATWG HTML, section 9.2).
const EVENT_STREAM: &str = "text/event-stream";
/// Keeps proxies from gathering an event stream before they pass it on.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The streams' bounds.
pub(super) struct Streams {
    places: Arc<Semaphore>,
    tickets: Tickets,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_STREAMS)), tickets: Tickets::default() }
    }
}

/// The right to open one WebSocket.
#[derive(Serialize, ToSchema)]
pub(super) struct Ticket {
    /// Give it as `ticket` in the query. It is good for one time.
    ticket: String,
    /// When it ends, half a minute from now.
    expires_unix_ms: i64,
}

/// Who asks bears a token, or opens a WebSocket with a ticket.
pub(super) struct Watcher;

impl FromRequestParts<App> for Watcher {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Denied> {
        let denied = match Reader::from_request_parts(parts, app).await {
            Ok(Reader) => return Ok(Self),
            Err(denied) => denied,
        };
        let query = axum::extract::Query::<WatchQuery>::try_from_uri(&parts.uri);
        let ticket = query.ok().and_then(|query| query.0.ticket);
        let Some(ticket) = ticket.filter(|_| wants_socket(&parts.headers)) else { return Err(denied) };
        if app.streams.tickets.redeem(Instant::now(), &ticket) {
            Ok(Self)
        } else {
            Err(Denied::Unauthorized("the ticket was used, has ended, or was never given"))
        }
    }
}

/// Gives a ticket with which one WebSocket can be opened, where no header can be set. A token never
/// belongs in a URL.
#[utoipa::path(
    post, path = "/v1/events/tickets", tag = "events", operation_id = "create_event_ticket", security(("viewer" = []), ("admin" = [])),
    responses(
        (status = CREATED, body = Ticket, description = "The ticket"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn create_ticket(
    _: Reader,
    State(app): State<App>,
) -> Result<(StatusCode, Json<Ticket>), Problem> {
    let ticket = app.streams.tickets.issue(Instant::now()).map_err(ServiceError::from)?;
    let ticket =
        ticket.ok_or_else(|| Problem::new(ProblemCode::Overloaded, "too many tickets wait to be used"))?;
    let lifetime_ms = i64::try_from(tickets::LIFETIME.as_millis()).unwrap_or(i64::MAX);
    let expires_unix_ms = UnixMs::now().0.saturating_add(lifetime_ms);
    Ok((StatusCode::CREATED, Json(Ticket { ticket, expires_unix_ms })))
}

/// Tells what happens, as it happens: an event stream, or a WebSocket if the request asks to upgrade.
/// `/asyncapi.yaml` describes the events. Resume with `after`, or by Last-Event-ID; what is no longer
/// kept is told as a `system:gap`.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "watch_events", security(("viewer" = []), ("admin" = [])),
    params(WatchQuery, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was received")),
    responses(
        (status = OK, body = String, content_type = "text/event-stream", description = "The events, without end"),
        (status = SWITCHING_PROTOCOLS, description = "A WebSocket"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn watch(
    _: Watcher,
    State(app): State<App>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let filter = query.filter(&app.service)?;
    let after = query.after(&headers)?;
    let is_socket = wants_socket(&headers);
    if !is_socket && !accepts_event_stream(&headers) {
        return Err(Problem::new(ProblemCode::NotAcceptable, "Accept has another media type"));
    }
    let place = Arc::clone(&app.streams.places).try_acquire_owned();
    let full = |_| Problem::new(ProblemCode::Overloaded, "there are as many event streams as there may be");
    let place = place.map_err(full)?;
    let mut stream = Stream::new(&app, app.service.events().subscribe(after, filter), place);
    stream.over = query.lasts()?.map(|lasts| tokio::time::Instant::now() + lasts);
    if !is_socket {
        return Ok(stream.into_response());
    }
    match upgrade {
        Ok(upgrade) => Ok(socket::upgrade(upgrade, &app, stream)),
        Err(error) => Ok(NoUpgrade(error.body_text()).into_response()),
    }
}

/// A stream before it is known how it travels.
struct Stream {
    events: Subscription,
    has_begun: bool,
    pings: Interval,
    /// When it ends, if the request says so.
    over: Option<tokio::time::Instant>,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    fn new(app: &App, events: Subscription, place: OwnedSemaphorePermit) -> Self {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { events, has_begun: false, pings, over: None, shutdown: app.shutdown.clone(), _place: place }
    }

    /// What is to be sent next; `None` when the server ends, or the time that was asked for. Nothing is lost if the waiting is given up.
    async fn next(&mut self) -> Option<Frame> {
        // The first ping comes at once: it tells in which place the stream begins.
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(self.events.say(&Event::Ping {}));
        }
        let over = async {
            match self.over {
                Some(over) => tokio::time::sleep_until(over).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            () = over => None,
            _ = self.pings.tick() => Some(self.events.say(&Event::Ping {})),
            frame = self.events.next() => Some(frame),
        }
    }
}

impl IntoResponse for Stream {
    fn into_response(self) -> Response {
        let bytes = futures_util::stream::unfold(self, async |mut stream| {
            let frame = stream.next().await?;
            Some((Ok::<Bytes, Infallible>(frame.sse()), stream))
        });
        let media_type = (CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        ([media_type, NO_BUFFERING], Body::from_stream(bytes)).into_response()
    }
}
