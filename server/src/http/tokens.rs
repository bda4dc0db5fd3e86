//! Join tokens.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use meetpoint_proto::TokenScope;
use meetpoint_proto::id::TokenId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::extract::{Admin, Body, PageQuery, Path, Query, Reader, whole};

use super::problem::{Problem, ProblemCode};
use crate::service::{MAX_LABEL_LEN, NewToken, UnixMs};
use crate::store::tokens::TokenRow;

/// Ten years: longer is as good as for ever.
const MAX_EXPIRES_IN_S: u64 = 10 * 365 * 24 * 60 * 60;
/// More uses than a cluster has nodes are as good as unlimited.
const MAX_USES: u32 = 1_000_000;

/// What a new token is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTokenBody {
    /// For people. At most 100 printable characters.
    #[serde(default)]
    #[schema(max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "laptops")]
    label: String,
    /// What it admits: `node` (if absent) or `seed`.
    #[schema(example = "node", pattern = "^(node|seed)$")]
    scope: Option<String>,
    /// Names that it admits, in which `*` stands for any characters; all names if absent.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = r"^[A-Za-z0-9*][A-Za-z0-9._*-]*$",
        example = "web-*"
    )]
    name_pattern: Option<String>,
    /// Seconds it can be used; for ever if absent.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 315_360_000, example = 86_400)]
    expires_in_s: Option<u64>,
    /// Nodes that may join by it; any number if absent. A node that comes back is not counted again.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 1_000_000, example = 10)]
    max_uses: Option<u32>,
}

/// A join token, without its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    /// Names the token without revealing it.
    id: String,
    /// For people.
    label: String,
    /// What it admits: `node` or `seed`.
    #[schema(example = "node")]
    scope: &'static str,
    /// Names that it admits; all of them if absent.
    #[schema(example = "web-*")]
    name_pattern: Option<String>,
    /// `active`, `revoked`, `expired` or `used_up`.
    #[schema(example = "active")]
    state: &'static str,
    /// Nodes that joined by it.
    uses: i64,
    /// Nodes that may.
    max_uses: Option<i64>,
    /// When it was made.
    created_unix_ms: i64,
    /// When it ends.
    expires_unix_ms: Option<i64>,
    /// When it was revoked.
    revoked_unix_ms: Option<i64>,
}

/// A new join token.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    /// The token's public half.
    token: TokenView,
    /// The token itself. It is shown here, once, and kept nowhere.
    secret: String,
}

/// A page of join tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenPage {
    /// By id.
    items: Vec<TokenView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl TokenView {
    fn new(row: TokenRow, now: UnixMs) -> Self {
        let state = if row.revoked_ms.is_some() {
            "revoked"
        } else if row.expires_ms.is_some_and(|expires_ms| expires_ms <= now.0) {
            "expired"
        } else if row.max_uses.is_some_and(|max_uses| row.uses >= max_uses) {
            "used_up"
        } else {
            "active"
        };
        Self {
            id: row.id.to_string(),
            label: row.label,
            scope: row.scope.as_str(),
            name_pattern: row.names.map(|names| names.to_string()),
            state,
            uses: row.uses,
            max_uses: row.max_uses,
            created_unix_ms: row.created_ms,
            expires_unix_ms: row.expires_ms,
            revoked_unix_ms: row.revoked_ms,
        }
    }
}

impl NewTokenBody {
    fn check(self, now: UnixMs) -> Result<NewToken, Problem> {
        let invalid = |detail: &str| Problem::new(ProblemCode::Invalid, detail);
        if self.label.chars().count() > MAX_LABEL_LEN || self.label.chars().any(char::is_control) {
            return Err(invalid("label: at most 100 characters, none of them a control character"));
        }
        let scope = self.scope.as_deref().map(str::parse).transpose();
        let scope = scope.map_err(|error| invalid(&format!("scope: {error}")))?;
        let names = self.name_pattern.as_deref().map(str::parse).transpose();
        let names = names.map_err(|error| invalid(&format!("name_pattern: {error}; and '*'")))?;
        if self.expires_in_s.is_some_and(|s| !(1..=MAX_EXPIRES_IN_S).contains(&s)) {
            return Err(invalid("expires_in_s: from 1 to 315360000 (ten years); leave it out for no end"));
        }
        if self.max_uses.is_some_and(|uses| !(1..=MAX_USES).contains(&uses)) {
            return Err(invalid("max_uses: from 1 to 1000000; leave it out for any number"));
        }
        let lifetime_ms = self.expires_in_s.and_then(|s| i64::try_from(s.saturating_mul(1000)).ok());
        Ok(NewToken {
            label: self.label,
            scope: scope.unwrap_or(TokenScope::Node),
            names,
            expires_ms: lifetime_ms.map(|lifetime_ms| now.0.saturating_add(lifetime_ms)),
            max_uses: self.max_uses.map(i64::from),
        })
    }
}

/// Lists a cluster's join tokens.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/join-tokens", tag = "join-tokens", operation_id = "list_join_tokens", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), PageQuery<TokenId>),
    responses(
        (status = OK, body = TokenPage, description = "A page of join tokens"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Query(page): Query<PageQuery<TokenId>>,
) -> Result<Json<TokenPage>, Problem> {
    let (after, limit) = page.parse::<TokenId>()?;
    // One more than asked for tells whether there is another page.
    let mut rows = app.service.tokens(&cluster, after, limit + 1).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.id.to_string());
    let now = UnixMs::now();
    Ok(Json(TokenPage { items: rows.into_iter().map(|row| TokenView::new(row, now)).collect(), next }))
}

/// Makes a join token. The answer holds its secret, once.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/join-tokens", tag = "join-tokens", operation_id = "create_join_token", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name")),
    request_body = NewTokenBody,
    responses(
        (status = CREATED, body = CreatedToken, description = "The new join token", headers(("Location" = String, description = "Where the token is"))),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn create(
    Admin(actor): Admin,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Body(body): Body<NewTokenBody>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<CreatedToken>), Problem> {
    let now = UnixMs::now();
    let fingerprint = app.identity.fingerprint();
    let new = body.check(now)?;
    let (row, token) = app.service.create_token(now, &actor, &cluster, new, fingerprint).await?;
    let location = [(LOCATION, format!("/v1/clusters/{cluster}/join-tokens/{}", row.id))];
    let created = CreatedToken { token: TokenView::new(row, now), secret: token.reveal().to_owned() };
    Ok((StatusCode::CREATED, location, Json(created)))
}

/// Shows a join token, without its secret.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/join-tokens/{id}", tag = "join-tokens", operation_id = "get_join_token", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{16}$", description = "The token's id")),
    responses(
        (status = OK, body = TokenView, description = "The join token"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn get(
    _: Reader,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<Json<TokenView>, Problem> {
    let row = app.service.token(&cluster, &parse_id(&id)?).await?;
    Ok(Json(TokenView::new(row, UnixMs::now())))
}

/// Revokes a join token. Nodes that joined by it stay, and come back by their sessions; remove them to end that.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/join-tokens/{id}", tag = "join-tokens", operation_id = "revoke_join_token", security(("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), ("id" = String, Path, pattern = "^[a-z2-7]{16}$", description = "The token's id")),
    responses(
        (status = NO_CONTENT, description = "Revoked"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn revoke(
    Admin(actor): Admin,
    State(app): State<App>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    app.service.revoke_token(UnixMs::now(), &actor, &cluster, parse_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_id(text: &str) -> Result<TokenId, Problem> {
    text.parse().map_err(|error| Problem::new(ProblemCode::BadTokenId, format!("token id: {error}")))
}
