//! Is it alive, is it ready.
//!
//! Ready means tried: a write became durable, the broker answered, the STUN server answered a
//! Binding. The verdict is kept for a moment, since anybody may ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use meetpoint_proto::stun;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::App;
use super::problem::{Problem, ProblemCode};
use crate::secrets;
use crate::service::UnixMs;

/// How long a verdict holds.
const KEEP: Duration = Duration::from_secs(1);
/// How long each check may take. A disk that needs longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// A Binding request without attributes (RFC 8489, section 5): type, length, magic cookie; then the
/// transaction's id.
const BINDING_REQUEST: [u8; 8] = [0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42];
/// The type of its success response.
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const TRANSACTION: std::ops::Range<usize> = 8..20;

/// The last verdict.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Checks)>>);

#[derive(Clone, Copy)]
struct Checks {
    registry: bool,
    broker: bool,
    stun: bool,
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = OK, body = Health, description = "It is")))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Can it do its work? A write, the broker and the STUN server are tried.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = OK, body = Health, description = "It is"),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json", description = "Not ready; the detail says what fails")
    )
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.shutdown.is_cancelled() {
        return Err(Problem::new(ProblemCode::NotReady, "the server is shutting down"));
    }
    // Whoever comes while a check runs waits for it and shares its verdict.
    let mut last = app.readiness.0.lock().await;
    let checks = match *last {
        Some((at, checks)) if at.elapsed() < KEEP => checks,
        _ => {
            let checks = check(&app).await;
            *last = Some((Instant::now(), checks));
            checks
        }
    };
    let named = [("registry", checks.registry), ("broker", checks.broker), ("stun", checks.stun)];
    let failed: Vec<&str> = named.iter().filter(|(_, is_ok)| !is_ok).map(|(name, _)| *name).collect();
    if failed.is_empty() {
        Ok(Json(Health { status: "ok" }))
    } else {
        Err(Problem::new(ProblemCode::NotReady, format!("failing: {}", failed.join(", "))))
    }
}

async fn check(app: &App) -> Checks {
    let registry = timeout(PATIENCE, app.service.probe(UnixMs::now()));
    let broker = timeout(PATIENCE, app.rendezvous.query(|_| ()));
    let stun = timeout(PATIENCE, binding(app.stun_probe));
    let (registry, broker, stun) = tokio::join!(registry, broker, stun);
    Checks {
        registry: matches!(registry, Ok(Ok(()))),
        broker: matches!(broker, Ok(Ok(()))),
        stun: matches!(stun, Ok(Ok(true))),
    }
}

/// One Binding, from a socket of its own.
async fn binding(server: SocketAddr) -> std::io::Result<bool> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id: [u8; 12] = secrets::random().map_err(std::io::Error::other)?;
    let request = [BINDING_REQUEST.as_slice(), id.as_slice()].concat();
    socket.send(&request).await?;
    let mut answer = [0; 256];
    let len = socket.recv(&mut answer).await?;
    let answer = &answer[..len];
    Ok(stun::is_stun(answer) && answer[..2] == BINDING_SUCCESS && answer[TRANSACTION] == id)
}
