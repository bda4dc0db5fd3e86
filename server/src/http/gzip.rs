//! Who takes what is compressed, and what the others get.

use std::io::{self, Read};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;

use super::problem::{Problem, ProblemCode};

/// More than any file that is compiled in has.
const MAX_BYTES: usize = 16 << 20;

/// Whether gzip is named and not refused by a weight of nothing (RFC 9110, section 12.5.3).
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|list| list.to_str().ok());
    let mut codings =
        lists.flat_map(|list| list.split(',')).map(|coding| coding.split_once(';').unwrap_or((coding, "")));
    let refused = |weight: &str| weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
    codings.any(|(name, weight)| name.trim().eq_ignore_ascii_case("gzip") && !refused(weight))
}

/// Unpacks an answer whose handler knows it packed only, for those who did not ask for that.
pub(super) async fn unpack_for_others(request: Request, next: Next) -> Response {
    let takes_gzip = takes_gzip(request.headers());
    let mut answer = next.run(request).await;
    if answer.headers().get(CONTENT_ENCODING).is_none_or(|coding| coding != "gzip") {
        return answer;
    }
    answer.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if takes_gzip {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.remove(CONTENT_LENGTH);
    let packed = to_bytes(body, MAX_BYTES).await.map_err(io::Error::other);
    match packed.and_then(|packed| unpacked(&packed)) {
        Ok(plain) => Response::from_parts(parts, Body::from(plain)),
        Err(error) => Problem::new(ProblemCode::Internal, error.to_string()).into_response(),
    }
}

fn unpacked(packed: &[u8]) -> io::Result<Bytes> {
    let mut plain = Vec::new();
    // The answer to HEAD has none.
    if !packed.is_empty() {
        GzDecoder::new(packed).take(MAX_BYTES as u64).read_to_end(&mut plain)?;
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding_table() {
        let check = |value: Option<&'static str>, expect: bool| {
            let headers = value.map(|value| (ACCEPT_ENCODING, HeaderValue::from_static(value)));
            assert_eq!(takes_gzip(&headers.into_iter().collect()), expect, "{value:?}");
        };
        check(None, false);
        check(Some(""), false);
        check(Some("gzip"), true);
        check(Some("br, GZIP;q=0.5"), true);
        check(Some("gzip;q=0"), false);
        check(Some("gzip; q=0.000, br"), false);
        check(Some("*"), false);
    }
}
