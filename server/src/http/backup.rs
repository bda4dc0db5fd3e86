//! `POST /v1/backup`: everything that makes this server this server, as one file.

use std::io;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::extract::Admin;
use super::problem::Problem;
use crate::service::UnixMs;

/// Sent at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// RFC 9530, section 3: the digest of the whole.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Makes a backup: a SQLite database with the registry as it is at one moment, and the keys and tokens of the data
/// directory. Whoever has it can be this server and every cluster it is the home of. `Repr-Digest` is its SHA-256.
/// Nothing waits for it; one is made at a time.
#[utoipa::path(
    post, path = "/v1/backup", tag = "backup", operation_id = "make_backup", security(("admin" = [])),
    responses(
        (status = OK, body = String, content_type = "application/vnd.sqlite3", description = "The backup",
            headers(("repr-digest" = String, description = "`sha-256=:BASE64:` (RFC 9530)"))),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn make(Admin(actor): Admin, State(app): State<App>) -> Result<Response, Problem> {
    let (service, fingerprint) = (std::sync::Arc::clone(&app.service), app.identity.fingerprint());
    let backup = async move { service.backup(UnixMs::now(), actor, fingerprint).await };
    let backup = app.finish(backup).await?;
    let digest = format!("sha-256=:{}:", BASE64.encode(&backup.sha256));
    let digest = HeaderValue::try_from(digest).unwrap_or(HeaderValue::from_static(""));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3")),
        (CONTENT_LENGTH, HeaderValue::from(backup.bytes)),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"meetpoint-backup.db\"")),
        (REPR_DIGEST, digest),
    ];
    let file = tokio::fs::File::from_std(backup.file);
    let sending = Sending { file, _place: backup.place };
    Ok((headers, Body::from_stream(futures_util::stream::try_unfold(sending, next))).into_response())
}

/// A backup on its way.
struct Sending {
    file: tokio::fs::File,
    _place: OwnedSemaphorePermit,
}

/// An error breaks the connection off, and the receiver misses bytes.
async fn next(mut sending: Sending) -> io::Result<Option<(Bytes, Sending)>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let len = sending.file.read(&mut chunk).await?;
    chunk.truncate(len);
    Ok((len > 0).then(|| (chunk.into(), sending)))
}
