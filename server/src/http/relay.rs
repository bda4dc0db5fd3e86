//! The relay: credentials for it, and what goes through it.

pub(super) mod secrets;
pub(super) mod users;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_turn::{Traffic, Transport};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, PageQuery, Path, Query, Reader};
use super::problem::{Problem, ProblemCode};
use crate::service::{Action, DEFAULT_LIFETIME_S, MAX_LIFETIME_S, MAX_MINTED_USER_LEN, ServiceError, UnixMs};
use crate::udp::{RelayHandle, SessionInfo};

/// For whom credentials are to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCredentials {
    /// Whose allocations they are: quotas count by it. 1 to 128 visible ASCII characters, not `node:` first.
    #[schema(min_length = 1, max_length = 128, example = "alice")]
    user: String,
    /// Seconds they can be used; half a day if absent.
    #[schema(minimum = 1, maximum = 604_800, example = 43_200)]
    lifetime_s: Option<u64>,
}

/// Credentials for STUN and TURN.
#[derive(Serialize, ToSchema)]
pub(super) struct Credentials {
    /// Expiry and user.
    #[schema(example = "1800000000:alice")]
    username: String,
    /// It is shown here, once, and kept nowhere.
    password: String,
    /// When they end.
    expires_unix_ms: i64,
}

/// What went one way.
#[derive(Serialize, ToSchema)]
pub(super) struct TrafficView {
    /// Datagrams.
    packets: u64,
    /// Their bytes, without what wraps them.
    bytes: u64,
}

/// An allocation on the relay.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionView {
    /// Names it while it lasts.
    id: String,
    /// Whose it is.
    user: String,
    /// Where its client is.
    #[schema(example = "20.0.0.7:40001")]
    client: String,
    /// How its client reaches the server: udp, tcp or tls.
    #[schema(example = "udp")]
    transport: &'static str,
    /// Its relayed addresses.
    relayed: Vec<String>,
    /// How long it lasts if its client is silent.
    lifetime_left_s: u64,
    /// From the client to peers.
    to_peer: TrafficView,
    /// From peers to the client.
    to_client: TrafficView,
}

/// A page of allocations.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionPage {
    /// By id.
    items: Vec<SessionView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl From<Traffic> for TrafficView {
    fn from(traffic: Traffic) -> Self {
        Self { packets: traffic.packets, bytes: traffic.bytes }
    }
}

impl From<SessionInfo> for SessionView {
    fn from(session: SessionInfo) -> Self {
        Self {
            id: session.id.to_string(),
            user: session.user,
            client: session.client.to_string(),
            transport: match session.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
                Transport::Tls => "tls",
            },
            relayed: session.relayed.iter().map(ToString::to_string).collect(),
            lifetime_left_s: session.lifetime_left.as_secs(),
            to_peer: session.to_peer.into(),
            to_client: session.to_client.into(),
        }
    }
}

/// Mints credentials for STUN and TURN. They end by themselves; they can be taken back only with the
/// secret they were minted with.
#[utoipa::path(
    post, path = "/v1/relay/credentials", tag = "relay", operation_id = "create_relay_credentials", security(("admin" = [])),
    request_body = NewCredentials,
    responses(
        (status = OK, body = Credentials, description = "The credentials"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn create_credentials(
    Admin(actor): Admin,
    State(app): State<App>,
    Body(body): Body<NewCredentials>,
) -> Result<Json<Credentials>, Problem> {
    relay(&app)?;
    let is_visible = body.user.bytes().all(|b| b.is_ascii_graphic());
    if !(1..=MAX_MINTED_USER_LEN).contains(&body.user.len()) || !is_visible {
        return Err(Problem::new(ProblemCode::Invalid, "user: 1 to 128 visible ASCII characters"));
    }
    if meetpoint_turn::is_node_user(&body.user) {
        return Err(Problem::new(
            ProblemCode::Invalid,
            "user: names that begin with `node:` are the nodes' own",
        ));
    }
    let lifetime_s = body.lifetime_s.unwrap_or(DEFAULT_LIFETIME_S);
    if !(1..=MAX_LIFETIME_S).contains(&lifetime_s) {
        return Err(Problem::new(ProblemCode::Invalid, "lifetime_s: from 1 to 604800 (a week)"));
    }
    let now = UnixMs::now();
    let expires_unix_s = now.unsigned() / 1000 + lifetime_s;
    let (username, password) = app.service.mint_for_operator(now, actor, &body.user, expires_unix_s).await?;
    let expires_unix_ms = i64::try_from(expires_unix_s * 1000).unwrap_or(i64::MAX);
    Ok(Json(Credentials { username, password, expires_unix_ms }))
}

/// Lists the allocations there are.
#[utoipa::path(
    get, path = "/v1/relay/sessions", tag = "relay", operation_id = "list_relay_sessions", security(("viewer" = []), ("admin" = [])),
    params(PageQuery),
    responses(
        (status = OK, body = SessionPage, description = "A page of allocations"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<SessionPage>, Problem> {
    let (after, limit) = page.parse::<u64>()?;
    let limit = limit as usize;
    // One more than asked for tells whether there is another page.
    let mut rows = relay(&app)?.sessions(after, limit + 1).await.ok_or_else(going_away)?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| row.id.to_string());
    Ok(Json(SessionPage { items: rows.into_iter().map(SessionView::from).collect(), next }))
}

/// Ends an allocation. Its client may make another one as long as its credentials hold.
#[utoipa::path(
    delete, path = "/v1/relay/sessions/{id}", tag = "relay", operation_id = "end_relay_session", security(("admin" = [])),
    params(("id" = String, Path, description = "The allocation's id")),
    responses(
        (status = NO_CONTENT, description = "Ended"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn end(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let relay = relay(&app)?;
    let unknown = || Problem::new(ProblemCode::UnknownRelaySession, "there is no such allocation");
    let id: u64 = id.parse().map_err(|_| unknown())?;
    let found = relay.sessions(id.checked_sub(1), 1).await.ok_or_else(going_away)?;
    let session = found.into_iter().find(|session| session.id == id).ok_or_else(unknown)?;
    // Noted first: an allocation that ends by itself meanwhile does less harm than an end that nobody
    // can explain.
    let detail = json!({ "user": session.user, "client": session.client.to_string() });
    app.service.note(UnixMs::now(), actor, Action::RelaySessionEnd, id.to_string(), detail).await?;
    if relay.end(id).await.ok_or_else(going_away)? { Ok(StatusCode::NO_CONTENT) } else { Err(unknown()) }
}

fn relay(app: &App) -> Result<&RelayHandle, Problem> {
    let off = || Problem::new(ProblemCode::RelayOff, "this server does not relay");
    app.relay.as_ref().ok_or_else(off)
}

/// Carries out a change even if the caller goes away meanwhile: what is stored has to come into force.
async fn to_the_end<T, F>(app: &App, change: F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    T: Send + 'static,
{
    Ok(app.tasks.spawn(change).await.map_err(|_| going_away())??)
}

fn going_away() -> Problem {
    Problem::new(ProblemCode::Overloaded, "the server is going away")
}
