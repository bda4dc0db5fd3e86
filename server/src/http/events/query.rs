//! What a request for events asks for.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::header::{ACCEPT, UPGRADE};
use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use utoipa::IntoParams;

use super::EVENT_STREAM;
use crate::events::{Cursor, Filter, Kind};
use crate::http::problem::{Problem, ProblemCode};
use crate::service::Service;

/// Where a client that reconnects says what it has (WHATWG HTML, section 9.2.3).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Whoever wants to watch for longer does so without an end.
const MAX_SECONDS: u64 = 3600;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WatchQuery {
    /// Only events of these types, separated by commas. What the stream says of itself (`system:`) comes in any case.
    #[param(example = "node:announce,node:leave")]
    types: Option<String>,
    /// Only events of this cluster.
    #[param(example = "default")]
    cluster: Option<String>,
    /// Resume after this event: its `id`, or its `seq`; 0 is before the first one. Left out: what happens from now on.
    after: Option<String>,
    /// End the stream after so many seconds. Left out: it lasts.
    #[param(minimum = 1, maximum = 3600, example = 5)]
    for_s: Option<u64>,
    /// A ticket, for a WebSocket.
    pub(super) ticket: Option<String>,
}

impl WatchQuery {
    /// The events asked for.
    pub(super) fn filter(&self, service: &Service) -> Result<Filter, Problem> {
        let words = self.types.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
        let kinds = words.map(str::parse::<Kind>).collect::<Result<BTreeSet<_>, _>>();
        let kinds = kinds.map_err(|error| Problem::new(ProblemCode::BadQuery, format!("types: {error}")))?;
        let cluster = self.cluster.as_deref().map(|name| service.cluster(name)).transpose()?;
        Ok(Filter { kinds, cluster: cluster.map(|cluster| cluster.name.clone()) })
    }

    /// How long the stream is to last.
    pub(super) fn lasts(&self) -> Result<Option<Duration>, Problem> {
        let Some(seconds) = self.for_s else { return Ok(None) };
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(Problem::new(ProblemCode::BadQuery, format!("for_s: from 1 to {MAX_SECONDS}")));
        }
        Ok(Some(Duration::from_secs(seconds)))
    }

    /// The place to resume from. The header says what this client has had most recently: it wins over
    /// the URL that it once began with.
    pub(super) fn after(&self, headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
        let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
        let after = header.filter(|text| !text.is_empty()).or(self.after.as_deref());
        let bad = |_| Problem::new(ProblemCode::BadEventId, "`after` or Last-Event-ID");
        after.map(|text| text.parse().map_err(bad)).transpose()
    }
}

/// Whether the request asks for a WebSocket.
pub(super) fn wants_socket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether it accepts an event stream, or leaves it open (RFC 9110, section 12.5.1). Weights do not matter for one type.
pub(super) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let mut lists = headers.get_all(ACCEPT).into_iter().filter_map(|list| list.to_str().ok()).peekable();
    if lists.peek().is_none() {
        return true;
    }
    let ranges = lists.flat_map(|list| list.split(',')).filter_map(|range| range.split(';').next());
    ranges
        .map(str::trim)
        .any(|range| ["*/*", "text/*", EVENT_STREAM].iter().any(|t| t.eq_ignore_ascii_case(range)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn accept_table() {
        let check = |values: &[&'static str], expect: bool| {
            let values = values.iter().map(|value| (ACCEPT, HeaderValue::from_static(value)));
            assert_eq!(accepts_event_stream(&values.collect()), expect);
        };
        check(&[], true);
        check(&["*/*"], true);
        check(&["text/event-stream"], true);
        check(&["Text/Event-Stream; charset=utf-8"], true);
        check(&["application/json, text/*;q=0.1"], true);
        check(&["application/json", "text/event-stream"], true);
        check(&["application/json"], false);
        check(&["text/html, application/json"], false);
        check(&[""], false);
    }
}
