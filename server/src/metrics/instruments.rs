//! What is counted while it happens. Each part of the server owns its instruments and counts in them without
//! waiting for anybody; cloning one shares it.
//!
//! Every label has one of a few words that are written in this program. A name, an id, an address or anything else
//! that somebody outside chooses is no label.

use std::sync::Arc;
use std::time::Duration;

use meetpoint_broker::TicketSide;
use meetpoint_proto::Code;
use meetpoint_proto::wire::TicketOutcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::nat::pair_of;

/// Labels and their words.
pub(super) type Words<const N: usize> = [(&'static str, &'static str); N];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What the registry's file takes.
#[derive(Clone)]
pub(crate) struct SqliteTimes(Histograms<Words<1>>);

/// What SQLite is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SqliteOp {
    /// One use case that reads.
    Read,
    /// One use case that writes, without its commit.
    Write,
    /// The commit of up to 64 of them, to the disk.
    Commit,
}

impl Default for SqliteTimes {
    fn default() -> Self {
        // From a cached page to a disk that is about to be given up.
        let buckets =
            || Histogram::new([0.000_05, 0.000_2, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0]);
        Self(Family::new_with_constructor(buckets))
    }
}

impl SqliteTimes {
    pub(crate) fn note(&self, op: SqliteOp, took: Duration) {
        let op = match op {
            SqliteOp::Read => "read",
            SqliteOp::Write => "write",
            SqliteOp::Commit => "commit",
        };
        self.0.get_or_create(&[("operation", op)]).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help =
            "What the registry's file takes: a use case that reads, one that writes, and the commit of many";
        registry.register_with_unit("sqlite", help, Unit::Seconds, self.0.clone());
    }
}

/// How far those who read the event stream are behind.
#[derive(Clone)]
pub(crate) struct StreamLag {
    behind: Histogram,
    gaps: Counter,
}

impl Default for StreamLag {
    fn default() -> Self {
        let buckets = [0.0, 1.0, 8.0, 64.0, 512.0, 4096.0, 16_384.0];
        Self { behind: Histogram::new(buckets), gaps: Counter::default() }
    }
}

impl StreamLag {
    /// A reader looks, and so many events wait for him.
    pub(crate) fn behind(&self, events: u64) {
        self.behind.observe(events as f64);
    }

    /// A reader was so slow that events were gone before he came to them.
    pub(crate) fn gap(&self) {
        self.gaps.inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Events that wait for a reader of the event stream when he takes the next ones";
        registry.register("event_stream_lag_events", help, self.behind.clone());
        let help = "Readers of the event stream to whom events were lost because they were too slow";
        registry.register("event_stream_gaps", help, self.gaps.clone());
    }
}

/// Who joined, and who met whom.
#[derive(Clone)]
pub(crate) struct Meetings {
    joins: Family<Words<2>, Counter>,
    introductions: Counter,
    outcomes: Family<Words<3>, Counter>,
    direct_after: Histogram,
}

impl Default for Meetings {
    fn default() -> Self {
        // Two and a half and five round trips of 50 ms are what most pairs need.
        let buckets = [0.025, 0.05, 0.1, 0.125, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
        Self {
            joins: Family::default(),
            introductions: Counter::default(),
            outcomes: Family::default(),
            direct_after: Histogram::new(buckets),
        }
    }
}

impl Meetings {
    pub(crate) fn joined(&self) {
        self.joins.get_or_create(&[("outcome", "joined"), ("code", "none")]).inc();
    }

    pub(crate) fn rejected(&self, code: Code) {
        self.joins.get_or_create(&[("outcome", "rejected"), ("code", code.as_str())]).inc();
    }

    pub(crate) fn introduced(&self) {
        self.introductions.inc();
    }

    pub(crate) fn ended(&self, sides: &[TicketSide; 2], direct_after: Option<Duration>) {
        let is_relayed = sides.iter().any(|side| matches!(side.said, Some(TicketOutcome::Relayed)));
        let outcome = match direct_after {
            Some(after) => {
                self.direct_after.observe(after.as_secs_f64());
                "direct"
            }
            None if is_relayed => "relayed",
            None => "failed",
        };
        let [nat, peer_nat] = pair_of(sides);
        let labels = [("nat", nat), ("peer_nat", peer_nat), ("outcome", outcome)];
        self.outcomes.get_or_create(&labels).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Joins by what became of them; the code is that of the refusal";
        registry.register("joins", help, self.joins.clone());
        registry.register("introductions", "Two nodes were introduced", self.introductions.clone());
        let help = "Introductions that ended, by both sides' NATs and what became of them";
        registry.register("introduction_outcomes", help, self.outcomes.clone());
        let help = "From an introduction to the first verified packet on a direct path";
        registry.register_with_unit("time_to_direct", help, Unit::Seconds, self.direct_after.clone());
    }
}

/// A request by its template, never by its path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: Arc<str>,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

/// Requests over HTTP.
#[derive(Clone)]
pub(crate) struct Requests {
    count: Family<RequestLabels, Counter>,
    times: Histograms<RouteLabels>,
}

impl Default for Requests {
    fn default() -> Self {
        let buckets = || Histogram::new([0.001, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 15.0]);
        Self { count: Family::default(), times: Family::new_with_constructor(buckets) }
    }
}

impl Requests {
    /// An answered one. `route` is one of the router's templates, or a word for none.
    pub(crate) fn note(&self, method: &axum::http::Method, route: &str, status: u16, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            "HEAD" => "HEAD",
            "OPTIONS" => "OPTIONS",
            // Anybody may invent one.
            _ => "other",
        };
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            507 => "507",
            _ => "5xx",
        };
        let route: Arc<str> = route.into();
        self.times.get_or_create(&RouteLabels { route: Arc::clone(&route) }).observe(took.as_secs_f64());
        self.count.get_or_create(&RequestLabels { method, route, status }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests by the template of their path and the class of their answer; 507 is a full disk";
        registry.register("http_requests", help, self.count.clone());
        let help = "From a request's head to its answer's";
        registry.register_with_unit("http_request", help, Unit::Seconds, self.times.clone());
    }
}
