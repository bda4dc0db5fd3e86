//! The dashboard at `/`: static files that are compiled in.
//!
//! They are public, as they say nothing about this server; what the page shows it asks for over the REST interface, with the
//! token that the operator types. The policy lets it load from this server alone and makes nothing of text but text.

use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::App;
use super::gzip::takes_gzip;

/// Nothing but the server's own scripts and sheets, nobody else's page around it, and no markup made from text (trusted types):
/// a node may call itself what it likes.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// A browser asks each time whether its copy is still the one: after an update of the server nobody has half of each.
const ASK: &str = "no-cache";
/// What has its version in its name stays as it is.
const KEEP: &str = "public, max-age=31536000, immutable";
/// As much of a hash as tells versions of a file apart.
const TAG_BYTES: usize = 12;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SHEET: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

struct File {
    path: &'static str,
    media_type: &'static str,
    caching: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal = $file:literal, $media_type:expr, $caching:expr;)+) => {
        const FILES: &[File] = &[$(File {
            path: $path,
            media_type: $media_type,
            caching: $caching,
            text: include_str!(concat!("../../dashboard/", $file)),
        }),+];
    };
}

files! {
    "/" = "index.html", HTML, ASK;
    "/dashboard/icon.svg" = "icon.svg", IMAGE, ASK;
    "/dashboard/style.css" = "style.css", SHEET, ASK;
    "/dashboard/app.js" = "app.js", SCRIPT, ASK;
    "/dashboard/api.js" = "api.js", SCRIPT, ASK;
    "/dashboard/charts.js" = "charts.js", SCRIPT, ASK;
    "/dashboard/dom.js" = "dom.js", SCRIPT, ASK;
    "/dashboard/graph.js" = "graph.js", SCRIPT, ASK;
    "/dashboard/store.js" = "store.js", SCRIPT, ASK;
    "/dashboard/table.js" = "table.js", SCRIPT, ASK;
    "/dashboard/views.js" = "views.js", SCRIPT, ASK;
    "/dashboard/vendor/cytoscape-3.34.4.min.mjs" = "vendor/cytoscape-3.34.4.min.mjs", SCRIPT, KEEP;
    "/dashboard/vendor/uplot-1.6.32.min.js" = "vendor/uplot-1.6.32.min.js", SCRIPT, KEEP;
    "/dashboard/vendor/uplot-1.6.32.min.css" = "vendor/uplot-1.6.32.min.css", SHEET, KEEP;
}

/// A file as it travels.
struct Asset {
    file: &'static File,
    tag: String,
    /// Compressed.
    small: Bytes,
}

/// Made at the first request for any: a server that nobody looks at spends nothing on it.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(Asset::new).collect());

impl Asset {
    fn new(file: &'static File) -> Self {
        let hash = Sha256::digest(file.text);
        let tag = HEXLOWER.encode(&hash[..TAG_BYTES]);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory can't fail; if it did, what is sent would be empty and marked so by nothing: then the file travels as it is.
        let small =
            encoder.write_all(file.text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
        Self { file, tag, small: small.into() }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let is_small = !self.small.is_empty() && takes_gzip(headers);
        let tag = if is_small { format!("\"{}-gz\"", self.tag) } else { format!("\"{}\"", self.tag) };
        let file = self.file;
        let fixed = [
            (CONTENT_TYPE, file.media_type),
            (CACHE_CONTROL, file.caching),
            (CONTENT_SECURITY_POLICY, POLICY),
            (VARY, "accept-encoding"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let known =
            |value: &HeaderValue| value.to_str().is_ok_and(|tags| tags == "*" || tags.contains(&self.tag));
        if headers.get_all(IF_NONE_MATCH).iter().any(known) {
            return (StatusCode::NOT_MODIFIED, fixed, [(ETAG, tag)]).into_response();
        }
        if is_small {
            let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            return (fixed, encoding, [(ETAG, tag)], self.small.clone()).into_response();
        }
        (fixed, [(ETAG, tag)], file.text).into_response()
    }
}

fn serve(at: usize) -> MethodRouter<App> {
    get(move |request: Request| async move { ASSETS[at].answer(request.headers()) })
}

/// The page and its files.
pub(super) fn routes() -> Router<App> {
    let files = FILES.iter().enumerate();
    files.fold(Router::new(), |router, (at, file)| router.route(file.path, serve(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendored_files_are_what_their_table_says() {
        let table = include_str!("../../dashboard/vendor/README.md");
        let vendored: Vec<&File> = FILES.iter().filter(|file| file.path.contains("/vendor/")).collect();
        assert_eq!(vendored.len(), 3);
        for file in vendored {
            let name = file.path.rsplit('/').next().unwrap();
            let row = table.lines().find(|line| line.contains(&format!("`{name}`"))).unwrap();
            assert!(row.contains(&HEXLOWER.encode(&Sha256::digest(file.text))), "{name} was changed");
        }
    }

    /// Each file names others by where they lie, so all are there.
    #[test]
    fn what_the_files_name_is_there() {
        for file in FILES {
            let quoted = file.text.split(['"', '\'']).filter(|_| !file.path.contains("/vendor/"));
            for name in quoted.filter(|text| text.starts_with("/dashboard/") || text.starts_with("./")) {
                let path = name
                    .strip_prefix("./")
                    .map_or_else(|| name.to_owned(), |rest| format!("/dashboard/{rest}"));
                assert!(FILES.iter().any(|file| file.path == path), "{}: {name}", file.path);
            }
        }
    }
}
