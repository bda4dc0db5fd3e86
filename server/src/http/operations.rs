//! What an operator has a running server do: read its configuration again, and end with notice.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, whole};
use super::problem::{Problem, ProblemCode};
use crate::live::{Changes, LiveError, Targets};
use crate::service::{Action, Actor, UnixMs};

/// A server that waits longer is not ending.
const MAX_DRAIN_S: u64 = 24 * 3600;

/// What a reload did.
#[derive(Serialize, ToSchema)]
pub(super) struct Reloaded {
    /// The certificate: `same`, `renewed`, or `rekeyed`, after which those who pinned the old key refuse this server.
    #[schema(example = "same")]
    certificate: &'static str,
    /// Tokens that were replaced by what their files say: `admin`, `viewer`.
    tokens: Vec<&'static str>,
    /// Settings that have changed and are in use.
    #[schema(example = json!(["relay-rate"]))]
    changed: Vec<String>,
    /// Settings that have changed and are in use after a restart only.
    needs_restart: Vec<String>,
}

/// How to end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDrain {
    /// Seconds to wait for those who are here; as `--drain-timeout` says if absent.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 86_400, example = 30)]
    timeout_s: Option<u64>,
}

/// The server's end.
#[derive(Serialize, ToSchema)]
pub(super) struct DrainView {
    /// It ends then at the latest, or as soon as nobody is here any more.
    until_unix_ms: i64,
}

impl App {
    /// Reads files again, and takes into use what they say.
    pub(crate) async fn reload(&self, now: UnixMs, actor: Actor) -> Result<Changes, LiveError> {
        let set_rest = |limits: &crate::config::AccessLimits| self.limiter.set_policy(limits.rest);
        let targets = Targets {
            machines: &self.machines,
            rendezvous: &self.rendezvous,
            strangers: &self.gate,
            connections: &self.connections,
            set_rest: &set_rest,
        };
        self.live.reload(now, actor, &targets).await
    }
}

/// Reads the configuration file, the certificate and the tokens' files again, as SIGHUP does. What is refused changes
/// nothing; what is taken ends no allocation and no connection.
#[utoipa::path(
    post, path = "/v1/reload", tag = "status", operation_id = "reload", security(("admin" = [])),
    responses(
        (status = OK, body = Reloaded, description = "What changed, and what needs a restart"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused, and nothing was changed: the detail names file, key, value and what is allowed")
    )
)]
pub(super) async fn reload(Admin(actor): Admin, State(app): State<App>) -> Result<Json<Reloaded>, Problem> {
    let Changes { certificate, tokens, changed, needs_restart } = app.reload(UnixMs::now(), actor).await?;
    Ok(Json(Reloaded { certificate, tokens, changed, needs_restart }))
}

/// Ends the server with notice: it is not ready any more, takes no joins and makes no allocations, tells its nodes to go
/// elsewhere, and ends when nobody is here or at the deadline.
#[utoipa::path(
    post, path = "/v1/drain", tag = "status", operation_id = "drain", security(("admin" = [])),
    request_body = NewDrain,
    responses(
        (status = ACCEPTED, body = DrainView, description = "It has begun, perhaps before"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn drain(
    Admin(actor): Admin,
    State(app): State<App>,
    Body(body): Body<NewDrain>,
) -> Result<(StatusCode, Json<DrainView>), Problem> {
    if body.timeout_s.is_some_and(|seconds| !(1..=MAX_DRAIN_S).contains(&seconds)) {
        return Err(Problem::new(ProblemCode::Invalid, format!("timeout_s: expected 1 to {MAX_DRAIN_S}")));
    }
    let detail = json!({ "timeout_s": body.timeout_s });
    app.service.note(UnixMs::now(), actor, Action::Drain, "server".to_owned(), detail).await?;
    let until = app.drain.begin_within(body.timeout_s.map(Duration::from_secs));
    Ok((StatusCode::ACCEPTED, Json(DrainView { until_unix_ms: until.unix_ms })))
}

impl From<LiveError> for Problem {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::Config(_) | LiveError::Certificate(_) | LiveError::Token(_) => {
                Self::new(ProblemCode::ConfigRefused, error.to_string())
            }
            LiveError::Service(error) => error.into(),
            LiveError::Broken => Self::new(ProblemCode::Internal, error.to_string()),
        }
    }
}
