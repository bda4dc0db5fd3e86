//! The task that registers this server as a seed of another server's cluster.
//!
//! It tries until the other one has taken it, and again from time to time: the operator may have deleted
//! the seed, or the other server may have lost its registry.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use meetpoint_proto::vouch::Registration;
use meetpoint_proto::{JoinToken, NetworkType, PublicKey, SeedAddr};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::fetch::{Question, fetch};
use super::lookup;
use super::me::Me;

/// The cluster that every server has.
const CLUSTER: &str = "default";
/// For both requests together.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// From one success to the next attempt.
const RENEWAL: Duration = Duration::from_secs(60 * 60);

/// Registers this server.
pub(crate) struct Registrar {
    /// The other server; its name is of no meaning.
    pub(crate) home: SeedAddr,
    /// Which seed this server is.
    pub(crate) seed: SeedAddr,
    pub(crate) declared: Option<NetworkType>,
    pub(crate) token: JoinToken,
    pub(crate) me: Arc<Me>,
}

/// Why this server is not registered.
#[derive(Debug, Error)]
enum Unregistered {
    #[error("its host does not resolve to an address")]
    Unresolved,
    #[error("it did not answer in time")]
    TimedOut,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its state is not that of a Meetpoint server: {0}")]
    Status(#[from] serde_json::Error),
    #[error("it says {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
}

/// What is needed of `/v1/status`.
#[derive(Deserialize)]
struct Status {
    seed_key: PublicKey,
    now_unix_ms: u64,
}

/// What is needed of a problem.
#[derive(Deserialize)]
struct Problem {
    code: String,
}

impl Registrar {
    /// Works until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let tried = tokio::time::timeout(PATIENCE, self.register());
            let Some(outcome) = stop.run_until_cancelled(tried).await else { return };
            let home = format!("{}:{}", self.home.host, self.home.port);
            let next = match outcome.unwrap_or(Err(Unregistered::TimedOut)) {
                Ok(()) => {
                    info!(%home, seed = %self.seed, "registered as a seed there");
                    pause = FIRST_PAUSE;
                    RENEWAL
                }
                Err(error) => {
                    warn!(%home, seed = %self.seed, %error, "not registered as a seed there; tried again");
                    let now = pause;
                    pause = LAST_PAUSE.min(pause * 2);
                    now
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(next)).await.is_none() {
                return;
            }
        }
    }

    async fn register(&self) -> Result<(), Unregistered> {
        let ips = lookup(&self.home).await;
        let mut last = Unregistered::Unresolved;
        for ip in ips {
            match self.register_at(SocketAddr::new(ip, self.home.port)).await {
                Err(Unregistered::Io(error)) => last = error.into(),
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn register_at(&self, at: SocketAddr) -> Result<(), Unregistered> {
        let (_, status) = fetch(at, Question::get("/v1/status".to_owned())).await?;
        let status: Status = serde_json::from_slice(&status)?;
        let registration = Registration {
            cluster: CLUSTER.to_owned(),
            audience: status.seed_key,
            seed: self.seed.clone(),
            declared: self.declared,
            public_key: self.me.public_key(),
            token: self.token.id(),
            issued_unix_ms: status.now_unix_ms,
        };
        let body = json!({
            "name": self.seed.name.as_str(),
            "host": self.seed.host.to_string(),
            "port": self.seed.port,
            "network_type": self.declared.map(NetworkType::as_str),
            "public_key": registration.public_key.to_string(),
            "token": registration.token.to_string(),
            "issued_unix_ms": registration.issued_unix_ms,
            "signature": registration.sign(&self.me.key).to_string(),
            "token_signature": registration.sign_by_token(&self.token.signing_key()).to_string(),
        });
        let path = format!("/v1/clusters/{CLUSTER}/seeds");
        let question = Question { method: Method::POST, path, body: body.to_string().into_bytes() };
        let (status, answer) = fetch(at, question).await?;
        if status.is_success() {
            return Ok(());
        }
        // Its words could be anybody's; the code is one of ours or of no interest.
        let detail =
            serde_json::from_slice(&answer).map_or_else(|_| String::new(), |problem: Problem| problem.code);
        let is_code = detail.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        Err(Unregistered::Refused { status, detail: if is_code { detail } else { String::new() } })
    }
}
