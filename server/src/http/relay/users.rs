//! Static users of the relay.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{relay, to_the_end};
use crate::http::App;
use crate::http::extract::{Admin, Body, PageQuery, Path, Query, Reader};
use crate::http::problem::{Problem, ProblemCode};
use crate::service::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN, UnixMs};
use crate::store::relay::UserRow;

/// A user's new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PutUser {
    /// 8 to 128 printable ASCII characters. Leave it out to have one made.
    #[schema(min_length = 8, max_length = 128)]
    password: Option<String>,
}

/// A static user.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct UserView {
    /// What the client gives as its username.
    #[schema(example = "alice")]
    name: String,
    /// When it was made.
    created_unix_ms: i64,
    /// When its password was last set.
    changed_unix_ms: i64,
}

/// A static user whose password was set.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PutUserView {
    /// The user.
    user: UserView,
    /// The password, if it was made here. It is shown here, once, and kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// A page of static users.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct UserPage {
    /// By name.
    items: Vec<UserView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl From<UserRow> for UserView {
    fn from(row: UserRow) -> Self {
        Self { name: row.name, created_unix_ms: row.created_ms, changed_unix_ms: row.changed_ms }
    }
}

/// Lists the static users.
#[utoipa::path(
    get, path = "/v1/relay/users", tag = "relay", operation_id = "list_relay_users", security(("viewer" = []), ("admin" = [])),
    params(PageQuery),
    responses(
        (status = OK, body = UserPage, description = "A page of users"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn list(
    _: Reader,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<UserPage>, Problem> {
    relay(&app)?;
    let (after, limit) = page.parse::<String>()?;
    // One more than asked for tells whether there is another page.
    let mut rows = app.service.relay_users(after.as_deref(), limit + 1).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.name.clone());
    Ok(Json(UserPage { items: rows.into_iter().map(UserView::from).collect(), next }))
}

/// Makes a static user, or sets the password of one. Its credentials hold until it is removed. Only
/// keys derived from the password are stored; whoever has those can log in with them.
#[utoipa::path(
    put, path = "/v1/relay/users/{name}", tag = "relay", operation_id = "put_relay_user", security(("admin" = [])),
    params(("name" = String, Path, description = "1 to 63 letters, digits and `.`, `_`, `-`, `+`, `@`")),
    request_body = PutUser,
    responses(
        (status = CREATED, body = PutUserView, description = "A new user"),
        (status = OK, body = PutUserView, description = "A known user with a new password"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn put(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(body): Body<PutUser>,
) -> Result<(StatusCode, Json<PutUserView>), Problem> {
    relay(&app)?;
    let is_good = |password: &String| {
        // The OpaqueString profile (RFC 8265) leaves these as they are.
        let is_printable = password.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        is_printable && (MIN_PASSWORD_LEN..=MAX_PASSWORD_LEN).contains(&password.len())
    };
    if !body.password.as_ref().is_none_or(is_good) {
        let detail = "password: 8 to 128 printable ASCII characters; leave it out to have one made";
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    let service = Arc::clone(&app.service);
    let change = async move {
        let now = UnixMs::now();
        service.put_relay_user(now, &actor, &name, body.password.as_deref()).await
    };
    let changed = to_the_end(&app, change).await?;
    let status = if changed.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let view = PutUserView { user: changed.row.into(), password: changed.made_password };
    Ok((status, Json(view)))
}

/// Removes a static user. Its allocations can no longer be refreshed; to end them at once, end the
/// sessions.
#[utoipa::path(
    delete, path = "/v1/relay/users/{name}", tag = "relay", operation_id = "remove_relay_user", security(("admin" = [])),
    params(("name" = String, Path, description = "The user's name")),
    responses(
        (status = NO_CONTENT, description = "Removed"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn remove(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    relay(&app)?;
    let service = Arc::clone(&app.service);
    let change = async move { service.remove_relay_user(UnixMs::now(), &actor, name).await };
    to_the_end(&app, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
