//! The audit log, for reading.

mod query;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use self::query::AuditQuery;
use super::App;
use super::extract::{Query, Reader};
use super::problem::Problem;
use crate::store::StoreError;
use crate::store::audit::AuditRow;

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditView {
    /// Its number. The first one is 1; there are no gaps.
    #[schema(minimum = 1)]
    seq: u64,
    /// When.
    at_unix_ms: i64,
    /// Who: `admin`, `server`, or `node:` and a node's id.
    #[schema(example = "admin")]
    actor: String,
    /// From which address. Null if the server did it by itself.
    #[schema(example = "20.0.0.7")]
    source: Option<String>,
    /// Did what.
    #[schema(example = "join_token.create")]
    action: String,
    /// With what.
    #[schema(example = "default/aaaaaaaaaaaaaaaa")]
    target: String,
    /// The particulars.
    #[schema(value_type = Object)]
    detail: Value,
    /// SHA-256 over this entry and the hash of the one before, in hexadecimal.
    #[schema(min_length = 64, max_length = 64)]
    hash: String,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    /// In their order.
    items: Vec<AuditView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

impl TryFrom<AuditRow> for AuditView {
    type Error = StoreError;

    fn try_from(AuditRow { entry, hash }: AuditRow) -> Result<Self, StoreError> {
        Ok(Self {
            seq: entry.seq,
            at_unix_ms: entry.at_ms,
            actor: entry.actor,
            source: entry.source,
            action: entry.action,
            target: entry.target,
            detail: serde_json::from_str(&entry.detail).map_err(|_| StoreError::Corrupt("audit.detail"))?,
            hash: hash.to_string(),
        })
    }
}

/// Shows who did what, when, from where. The entries are a hash chain: `meetpoint audit verify` checks it.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "list_audit_entries", security(("viewer" = []), ("admin" = [])),
    params(AuditQuery),
    responses(
        (status = OK, body = AuditPage, description = "A page of the log, the oldest entry first"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Problem> {
    let filter = query.filter()?;
    let (after, limit) = query.page().parse::<u64>()?;
    // One more than asked for tells whether there is another page.
    let mut rows = app.service.audit(after.unwrap_or(0), &filter, limit + 1).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.entry.seq.to_string());
    let items = rows.into_iter().map(AuditView::try_from).collect::<Result<_, _>>();
    Ok(Json(AuditPage { items: items.map_err(crate::service::ServiceError::from)?, next }))
}
