//! The tokens of this very interface.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, Path, Reader, whole};
use super::problem::{Problem, ProblemCode};
use crate::api_tokens::{Role, Source};
use crate::service::UnixMs;

/// For other programs to be given the new token, if the request does not say.
const DEFAULT_OVERLAP_S: u64 = 600;
/// A week: longer than anybody needs to hand out a token.
const MAX_OVERLAP_S: u64 = 604_800;

/// How a token is to be replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenReplacement {
    /// Seconds for which the token in use is accepted further. Ten minutes if absent; 0 ends it at once.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 604_800, example = 600)]
    overlap_s: Option<u64>,
}

/// A token of the REST interface, without what it says.
#[derive(Serialize, ToSchema)]
pub(super) struct ApiTokenView {
    /// `admin` or `viewer`.
    #[schema(example = "admin")]
    role: &'static str,
    /// `data` (a file of the data directory, which can be replaced here), `file` (one that a flag names) or `flag`.
    #[schema(example = "data")]
    source: &'static str,
    /// Until when the token before is accepted, if it is.
    before_until_unix_ms: Option<i64>,
}

/// The tokens of the REST interface.
#[derive(Serialize, ToSchema)]
pub(super) struct ApiTokenList {
    /// Both.
    items: Vec<ApiTokenView>,
}

/// A token that has just been made.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedApiToken {
    /// `admin` or `viewer`.
    #[schema(example = "admin")]
    role: &'static str,
    /// The token. It is shown here, once; the server's data directory has it too.
    value: String,
    /// Until when the token before is accepted, if it is.
    before_until_unix_ms: Option<i64>,
}

/// Lists the tokens of the REST interface, without what they say.
#[utoipa::path(
    get, path = "/v1/api-tokens", tag = "api-tokens", operation_id = "list_api_tokens", security(("viewer" = []), ("admin" = [])),
    responses(
        (status = OK, body = ApiTokenList, description = "The tokens"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(_: Reader, State(app): State<App>) -> Json<ApiTokenList> {
    let views = app.api_tokens.views(UnixMs::now()).into_iter().map(|view| ApiTokenView {
        role: view.role.as_str(),
        source: match view.source {
            Source::Data => "data",
            Source::File(_) => "file",
            Source::Flag => "flag",
        },
        before_until_unix_ms: view.before_until_ms,
    });
    Json(ApiTokenList { items: views.collect() })
}

/// Replaces a token of the REST interface by a new one. The one in use is accepted for a while longer, so that whoever
/// else uses it can be given the new one; a token replaced before is not. What was opened by a token goes on.
#[utoipa::path(
    post, path = "/v1/api-tokens/{role}", tag = "api-tokens", operation_id = "replace_api_token", security(("admin" = [])),
    params(("role" = String, Path, description = "`admin` or `viewer`")),
    request_body = TokenReplacement,
    responses(
        (status = CREATED, body = CreatedApiToken, description = "The new token"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn replace(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(role): Path<String>,
    Body(body): Body<TokenReplacement>,
) -> Result<(StatusCode, Json<CreatedApiToken>), Problem> {
    let role = known(&role)?;
    let overlap_s = body.overlap_s.unwrap_or(DEFAULT_OVERLAP_S);
    if overlap_s > MAX_OVERLAP_S {
        return Err(Problem::new(ProblemCode::Invalid, format!("overlap_s: at most {MAX_OVERLAP_S}")));
    }
    let (tokens, service) = (Arc::clone(&app.api_tokens), Arc::clone(&app.service));
    let overlap_ms = i64::try_from(overlap_s * 1000).unwrap_or(i64::MAX);
    let change = async move { tokens.replace(&service, UnixMs::now(), &actor, role, overlap_ms).await };
    let made = app.finish(change).await?;
    let created = CreatedApiToken {
        role: role.as_str(),
        value: made.value,
        before_until_unix_ms: made.before_until_ms,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Ends a replaced token before its time.
#[utoipa::path(
    delete, path = "/v1/api-tokens/{role}/before", tag = "api-tokens", operation_id = "drop_replaced_api_token", security(("admin" = [])),
    params(("role" = String, Path, description = "`admin` or `viewer`")),
    responses(
        (status = NO_CONTENT, description = "Only the token in use is accepted"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn drop_before(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(role): Path<String>,
) -> Result<StatusCode, Problem> {
    let role = known(&role)?;
    let (tokens, service) = (Arc::clone(&app.api_tokens), Arc::clone(&app.service));
    app.finish(async move { tokens.drop_before(&service, UnixMs::now(), &actor, role).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn known(role: &str) -> Result<Role, Problem> {
    let known = Role::ALL.into_iter().find(|known| known.as_str() == role);
    known.ok_or_else(|| Problem::new(ProblemCode::NotFound, "there are the tokens `admin` and `viewer`"))
}
