//! One pair meets.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::Host;

use super::kind::{Kind, Prospect, prospect};
use crate::binary::Node;

/// For a node to join and to find out about its NAT.
const WARM_UP: Duration = Duration::from_secs(30);
/// For a first path, by whatever way.
const FIRST_PATH: Duration = Duration::from_secs(15);
/// How long a pair that has a path by relay is given for a direct one, where its NATs allow one.
const UPGRADE: Duration = Duration::from_secs(10);
/// And where they do not: long enough that a direct path that should be impossible would show.
const NO_UPGRADE: Duration = Duration::from_secs(3);

/// Where the meetings take place.
pub(super) struct Place<'a> {
    pub(super) program: &'a Path,
    pub(super) token: String,
}

/// Who meets.
pub(super) struct Pair<'a> {
    pub(super) number: usize,
    pub(super) one: &'a (Kind, Host),
    pub(super) other: &'a (Kind, Host),
}

/// What came of it. Times count from the connect call, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Meeting {
    /// Behind which NAT the one is that connects.
    pub one: Kind,
    /// Behind which the other.
    pub other: Kind,
    /// When the first path was there, of whatever kind.
    pub first_ms: Option<f64>,
    /// When there was a direct one.
    pub direct_ms: Option<f64>,
}

impl Meeting {
    /// True if they met, and directly where that can't fail.
    #[must_use]
    pub fn is_as_promised(&self) -> bool {
        match prospect(self.one, self.other) {
            Prospect::Direct => self.direct_ms.is_some(),
            Prospect::Likely | Prospect::Unlikely | Prospect::Relay => self.first_ms.is_some(),
        }
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: ", self.one, self.other)?;
        match (self.first_ms, self.direct_ms) {
            (_, Some(ms)) => write!(f, "direct after {ms:.0} ms"),
            (Some(ms), None) => write!(f, "relayed after {ms:.0} ms"),
            (None, None) => f.write_str("no path"),
        }
    }
}

/// Has a pair meet once.
pub(super) fn meet(place: &Place<'_>, pair: &Pair<'_>) -> Meeting {
    let (one, other) = (format!("one-{}", pair.number), format!("other-{}", pair.number));
    let start = |side: &(Kind, Host), name: &str, args: &[&str]| {
        Node::start(side.1.command(place.program), &side.0.url(), name, Some(&place.token), args)
    };
    let mut waits = start(pair.other, &other, &["--echo"]);
    warm_up(&mut waits, pair.other.0);
    let mut asks = start(pair.one, &one, &["--settle", "--connect", &other]);
    warm_up(&mut asks, pair.one.0);
    let allowed = prospect(pair.one.0, pair.other.0);
    let (first_ms, direct_ms) = watch(&mut asks, allowed);
    Meeting { one: pair.one.0, other: pair.other.0, first_ms, direct_ms }
}

/// Waits until a node knows what it can find out.
fn warm_up(node: &mut Node, kind: Kind) {
    node.event_within("classified", WARM_UP);
    if kind.passes_udp() {
        node.event_within("behavior", WARM_UP);
    }
}

/// When the first path was there, and when the first direct one.
fn watch(node: &mut Node, allowed: Prospect) -> (Option<f64>, Option<f64>) {
    let (upgrade, mut first) = match allowed {
        Prospect::Direct | Prospect::Likely => (UPGRADE, None),
        Prospect::Unlikely | Prospect::Relay => (NO_UPGRADE, None),
    };
    let mut until = Instant::now() + FIRST_PATH;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(path) = node.next_event("path", left) else { return (first, None) };
        let elapsed = path["elapsed_ms"].as_f64();
        if first.is_none() {
            first = elapsed;
            until = Instant::now() + upgrade;
        }
        if path["kind"] == "direct" {
            return (first, elapsed);
        }
    }
}
