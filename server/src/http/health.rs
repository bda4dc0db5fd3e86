//! Is it alive, is it ready.
//!
//! Ready means tried: a write became durable, the broker answered, the STUN server answered a Binding, and the relay
//! carried a datagram from one allocation to another. The verdict is kept for a moment, since anybody may ask.

mod relay;

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
use crate::metrics::process::free_bytes;
use crate::secrets;
use crate::service::UnixMs;

/// How long a verdict holds.
const KEEP: Duration = Duration::from_secs(1);
/// How long each check may take. A disk that needs longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the registry's log grows to before it is folded in, twice.
const MIN_FREE_BYTES: u64 = 8 << 20;
/// A Binding request without attributes (RFC 8489, section 5): type, length, magic cookie; then the
/// transaction's id.
const BINDING_REQUEST: [u8; 8] = [0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42];
/// The type of its success response.
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const TRANSACTION: std::ops::Range<usize> = 8..20;

/// The last verdict.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Vec<Check>)>>);

/// What was tried, and what came of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Check {
    /// What: `registry`, `broker`, `stun`, `disk`, and `relay` where the server relays.
    #[schema(example = "registry")]
    name: &'static str,
    /// It worked.
    ok: bool,
    /// How long it took, in milliseconds.
    #[schema(example = 3)]
    ms: u64,
    /// What to do about it, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// The server can do its work.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What was tried.
    checks: Vec<Check>,
}

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = OK, body = Health, description = "It is")))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Can it do its work? A durable write, the broker, a STUN round trip, a relayed datagram and the free space are tried.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = OK, body = Ready, description = "It is"),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json", description = "Not ready; `checks` say what fails, and the detail names it")
    )
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Ready>, Problem> {
    if app.shutdown.is_cancelled() {
        return Err(Problem::new(ProblemCode::NotReady, "the server is shutting down"));
    }
    if app.drain.is_on() {
        return Err(Problem::new(ProblemCode::NotReady, "the server is draining: it takes nobody new"));
    }
    // Whoever comes while a check runs waits for it and shares its verdict.
    let mut last = app.readiness.0.lock().await;
    let checks = match &*last {
        Some((at, checks)) if at.elapsed() < KEEP => checks.clone(),
        _ => {
            let checks = try_all(&app).await;
            *last = Some((Instant::now(), checks.clone()));
            checks
        }
    };
    let failed: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
    if failed.is_empty() {
        Ok(Json(Ready { status: "ok", checks }))
    } else {
        let detail = format!("failing: {}", failed.join(", "));
        Err(Problem::new(ProblemCode::NotReady, detail).checks(checks))
    }
}

async fn try_all(app: &App) -> Vec<Check> {
    let registry = tried(
        "registry",
        "free space for the data directory, or look for what the log says of the registry",
        async { app.service.probe(UnixMs::now()).await.is_ok() },
    );
    let broker =
        tried("broker", "restart the server and keep its log: the broker should always answer", async {
            app.rendezvous.query(|_| ()).await.is_ok()
        });
    let stun = tried(
        "stun",
        "see that no firewall of this machine stops UDP to --stun from the machine itself",
        async { binding(app.stun_probe).await.unwrap_or(false) },
    );
    let disk = tried("disk", "free space for the data directory: at least 8 MiB", async {
        // A system that does not tell is no reason to turn everybody away.
        free_bytes(app.metrics.data()).is_none_or(|free| free >= MIN_FREE_BYTES)
    });
    let relayed = tried(
        "relay",
        "see that --relay-ip is an address of this machine, and that --relay-ports are free",
        async {
            match &app.relay {
                Some(_) => relay::round_trip(&app.service, app.stun_probe).await.is_ok(),
                None => true,
            }
        },
    );
    let (registry, broker, stun, disk, relayed) = tokio::join!(registry, broker, stun, disk, relayed);
    let relayed = app.relay.is_some().then_some(relayed);
    [registry, broker, stun, disk].into_iter().chain(relayed).collect()
}

async fn tried(name: &'static str, hint: &'static str, attempt: impl Future<Output = bool>) -> Check {
    let begun = Instant::now();
    let ok = timeout(PATIENCE, attempt).await.unwrap_or(false);
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Check { name, ok, ms, hint: (!ok).then_some(hint) }
}

/// A socket of its own towards a server.
async fn socket_towards(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

/// One Binding.
async fn binding(server: SocketAddr) -> std::io::Result<bool> {
    let socket = socket_towards(server).await?;
    let id: [u8; 12] = secrets::random().map_err(std::io::Error::other)?;
    let request = [BINDING_REQUEST.as_slice(), id.as_slice()].concat();
    socket.send(&request).await?;
    let mut answer = [0; 256];
    let len = socket.recv(&mut answer).await?;
    let answer = &answer[..len];
    Ok(stun::is_stun(answer) && answer[..2] == BINDING_SUCCESS && answer[TRANSACTION] == id)
}
