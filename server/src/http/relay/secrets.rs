//! The secrets that time-limited credentials are minted with.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meetpoint_turn::credentials::MIN_SECRET_LEN;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{relay, to_the_end};
use crate::http::App;
use crate::http::extract::{Admin, Body, Path, Reader};
use crate::http::problem::{Problem, ProblemCode};
use crate::service::{DEFAULT_LIFETIME_S, MAX_LIFETIME_S, MAX_SECRET_LEN, UnixMs};
use crate::store::relay::SecretRow;

/// A secret to mint with from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NewSecret {
    /// 16 to 128 visible ASCII characters that nobody can guess. Leave it out to have one made.
    #[schema(min_length = 16, max_length = 128)]
    secret: Option<String>,
    /// Seconds for which the secret before is accepted at least, for credentials that programs have
    /// minted with it by themselves; half a day if absent. What this server has minted is accepted to
    /// its end in any case, and what was allocated with it lasts to its own.
    #[schema(minimum = 0, maximum = 604_800, example = 43_200)]
    overlap_s: Option<u64>,
}

/// A secret, without what it says.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct SecretView {
    /// Names it; never another one.
    #[schema(example = "1")]
    id: String,
    /// `current` (new credentials are minted with it) or `accepted`.
    #[schema(example = "current")]
    state: &'static str,
    /// When it came into force.
    created_unix_ms: i64,
    /// When it is dropped by itself. Absent for the current one.
    accepted_until_unix_ms: Option<i64>,
}

/// A secret that has just come into force.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct CreatedSecret {
    /// Its name and state.
    secret: SecretView,
    /// The secret itself, for programs that mint by themselves. The file `credential-secret` in the
    /// server's data directory has it too.
    value: String,
}

/// The secrets in force.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct SecretList {
    /// The current one first. There are at most four.
    items: Vec<SecretView>,
}

impl SecretView {
    fn new(row: &SecretRow, is_current: bool) -> Self {
        Self {
            id: row.id.to_string(),
            state: if is_current { "current" } else { "accepted" },
            created_unix_ms: row.created_ms,
            accepted_until_unix_ms: (!is_current).then_some(row.needed_until_ms),
        }
    }
}

/// Lists the secrets in force, without what they say.
#[utoipa::path(
    get, path = "/v1/relay/secrets", tag = "relay", operation_id = "list_relay_secrets", security(("viewer" = []), ("admin" = [])),
    responses(
        (status = OK, body = SecretList, description = "The secrets"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn list(_: Reader, State(app): State<App>) -> Result<Json<SecretList>, Problem> {
    relay(&app)?;
    let rows = app.service.relay_secrets().await;
    let items = rows.iter().enumerate().map(|(at, row)| SecretView::new(row, at == 0)).collect();
    Ok(Json(SecretList { items }))
}

/// Mints with a new secret from now on. The ones before are accepted as long as credentials minted with
/// them are in use, and are dropped then. No allocation ends by this.
#[utoipa::path(
    post, path = "/v1/relay/secrets", tag = "relay", operation_id = "add_relay_secret", security(("admin" = [])),
    request_body = NewSecret,
    responses(
        (status = CREATED, body = CreatedSecret, description = "The new secret"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn add(
    Admin(actor): Admin,
    State(app): State<App>,
    Body(body): Body<NewSecret>,
) -> Result<(StatusCode, Json<CreatedSecret>), Problem> {
    relay(&app)?;
    let is_good = |secret: &String| {
        let is_visible = secret.bytes().all(|b| b.is_ascii_graphic());
        is_visible && (MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&secret.len())
    };
    if !body.secret.as_ref().is_none_or(is_good) {
        let detail = "secret: 16 to 128 visible ASCII characters; leave it out to have one made";
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    let overlap_s = body.overlap_s.unwrap_or(DEFAULT_LIFETIME_S);
    if overlap_s > MAX_LIFETIME_S {
        return Err(Problem::new(ProblemCode::Invalid, "overlap_s: from 0 to 604800 (a week)"));
    }
    let service = Arc::clone(&app.service);
    let change = async move { service.add_relay_secret(UnixMs::now(), &actor, body.secret, overlap_s).await };
    let row = to_the_end(&app, change).await?;
    let created = CreatedSecret { secret: SecretView::new(&row, true), value: row.secret };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Drops a secret at once: credentials minted with it no longer hold, and allocations made with them
/// can't be refreshed. Those of the other secrets are not affected.
#[utoipa::path(
    delete, path = "/v1/relay/secrets/{id}", tag = "relay", operation_id = "drop_relay_secret", security(("admin" = [])),
    params(("id" = String, Path, description = "The secret's id")),
    responses(
        (status = NO_CONTENT, description = "Dropped"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    relay(&app)?;
    let unknown = |_| Problem::new(ProblemCode::UnknownRelaySecret, "there is no such secret");
    let id = id.parse().map_err(unknown)?;
    let service = Arc::clone(&app.service);
    let change = async move { service.drop_relay_secret(UnixMs::now(), &actor, id).await };
    to_the_end(&app, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
