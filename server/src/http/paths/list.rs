//! All paths of a cluster: its graph.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use meetpoint_broker::PathView as Known;
use meetpoint_proto::{ClusterName, NodeId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::App;
use crate::http::extract::{Cursor, PageQuery, Path, Query, Reader};
use crate::http::problem::Problem;
use crate::rendezvous::{elapsed_ms, path_word};
use crate::service::{ServiceError, UnixMs};

/// How two present nodes meet, by what they last said of it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PathView {
    /// The lower one of both ids.
    a: String,
    /// The other one.
    b: String,
    /// `direct`; `relay`: a relay carries what they say; `none`: their last introduction led to no path.
    #[schema(example = "direct")]
    path: &'static str,
    /// The round trip by the path, as it was measured when they said it.
    rtt_ms: Option<f64>,
    /// From their introduction to the first verified packet, if the path is direct.
    elapsed_ms: Option<u32>,
    /// When they said it.
    said_unix_ms: i64,
}

/// A page of paths.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PathPage {
    /// By both ids.
    items: Vec<PathView>,
    /// Give it as `after` for the next page. Absent on the last one.
    next: Option<String>,
}

/// The place behind a pair.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Pair([NodeId; 2]);

/// Two ids of 256 bits in base32.
impl Cursor for Pair {
    const PATTERN: Option<&str> = Some("^[a-z2-7]{51}[aq]-[a-z2-7]{51}[aq]$");
}

/// The text is not two ids.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct NoPair;

impl FromStr for Pair {
    type Err = NoPair;

    fn from_str(text: &str) -> Result<Self, NoPair> {
        let (a, b) = text.split_once('-').ok_or(NoPair)?;
        Ok(Self([a.parse().map_err(|_| NoPair)?, b.parse().map_err(|_| NoPair)?]))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0[0], self.0[1])
    }
}

impl PathView {
    fn new(known: &Known, now: UnixMs) -> Self {
        let ago_ms = i64::try_from(known.ago.as_millis()).unwrap_or(i64::MAX);
        let [a, b] = known.nodes.map(|node| node.to_string());
        Self {
            a,
            b,
            path: path_word(known.outcome),
            rtt_ms: known.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            elapsed_ms: elapsed_ms(known.outcome),
            said_unix_ms: now.0.saturating_sub(ago_ms),
        }
    }
}

/// Lists how the present nodes of a cluster meet, by what they last said of it. Pairs that were not introduced since both
/// are here are left out.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/paths", tag = "nodes", operation_id = "list_paths", security(("viewer" = []), ("admin" = [])),
    params(("cluster" = String, Path, description = "The cluster's name"), PageQuery<Pair>),
    responses(
        (status = OK, body = PathPage, description = "A page of paths"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(in crate::http) async fn list(
    _: Reader,
    State(app): State<App>,
    Path(cluster): Path<String>,
    Query(page): Query<PageQuery<Pair>>,
) -> Result<Json<PathPage>, Problem> {
    let (after, limit) = page.parse::<Pair>()?;
    let limit = limit as usize;
    let name = cluster.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
    app.service.effective(&name)?;
    // One more than asked for tells whether there is another page.
    let look_up = move |broker: &meetpoint_broker::Broker| {
        broker.paths(Instant::now(), &name, after.map(|pair| pair.0), limit + 1)
    };
    let mut rows = app.rendezvous.query(look_up).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| Pair(row.nodes).to_string());
    let now = UnixMs::now();
    Ok(Json(PathPage { items: rows.iter().map(|row| PathView::new(row, now)).collect(), next }))
}
