//! Meetings as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::kind::{Kind, Prospect, prospect};
use super::meeting::Meeting;

/// A table with a row for each kind that connects and a column for each kind that is connected to, and what all of
/// them make together.
#[must_use]
pub fn report(meetings: &[Meeting], round_trip: Duration) -> String {
    let kinds: BTreeSet<Kind> = meetings.iter().map(|meeting| meeting.one).collect();
    let mut text = String::from("| connects \\ to |");
    for kind in &kinds {
        let _ = write!(text, " {kind} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(kinds.len()));
    for one in &kinds {
        let _ = write!(text, "| {one} |");
        for other in &kinds {
            let of_pair = |meeting: &&Meeting| meeting.one == *one && meeting.other == *other;
            let cell: Vec<&Meeting> = meetings.iter().filter(of_pair).collect();
            let _ = write!(text, " {} |", self::cell(&cell));
        }
        text.push('\n');
    }
    let _ = write!(text, "\n{}", summary(meetings, round_trip));
    text
}

/// How many were direct, where not all were, and the median time to the path.
fn cell(meetings: &[&Meeting]) -> String {
    let direct: Vec<f64> = meetings.iter().filter_map(|meeting| meeting.direct_ms).collect();
    let relayed: Vec<f64> = meetings
        .iter()
        .filter(|meeting| meeting.direct_ms.is_none())
        .filter_map(|meeting| meeting.first_ms)
        .collect();
    let lost = meetings.len() - direct.len() - relayed.len();
    let mut parts = Vec::new();
    for (word, times) in [("", direct), ("relay ", relayed)] {
        if let Some(median) = quantile(&times, 0.5) {
            let count =
                if times.len() < meetings.len() { format!("{} x ", times.len()) } else { String::new() };
            parts.push(format!("{count}{word}{median:.0}"));
        }
    }
    if lost > 0 {
        parts.push(format!("{lost} x none"));
    }
    parts.join(", ")
}

fn summary(meetings: &[Meeting], round_trip: Duration) -> String {
    let mut text = String::new();
    let connected = meetings.iter().filter(|meeting| meeting.first_ms.is_some()).count();
    let _ = writeln!(text, "* connected: {connected} of {}", meetings.len());
    for (kind, words) in [
        (Prospect::Direct, "where a direct path is certain"),
        (Prospect::Likely, "where one is likely"),
        (Prospect::Unlikely, "where one is unlikely"),
        (Prospect::Relay, "where UDP is blocked, or no family of addresses is common to both"),
    ] {
        let of_kind: Vec<&Meeting> = meetings.iter().filter(|m| prospect(m.one, m.other) == kind).collect();
        let times: Vec<f64> = of_kind.iter().filter_map(|meeting| meeting.direct_ms).collect();
        let _ = write!(text, "* {words}: {} of {} direct", times.len(), of_kind.len());
        if let (Some(median), Some(most)) = (quantile(&times, 0.5), quantile(&times, 0.99)) {
            let _ = write!(
                text,
                ", median {median:.0} ms{}, p99 {most:.0} ms{}",
                in_trips(median, round_trip),
                in_trips(most, round_trip)
            );
        }
        text.push('\n');
    }
    let is_relayed = |meeting: &&Meeting| meeting.direct_ms.is_none();
    let relayed: Vec<f64> =
        meetings.iter().filter(is_relayed).filter_map(|meeting| meeting.first_ms).collect();
    if let (Some(median), Some(most)) = (quantile(&relayed, 0.5), quantile(&relayed, 0.99)) {
        let _ = writeln!(
            text,
            "* relayed: {}, median {median:.0} ms{}, p99 {most:.0} ms{}; a relayed round trip is two R",
            relayed.len(),
            in_trips(median, round_trip),
            in_trips(most, round_trip)
        );
    }
    text
}

fn in_trips(ms: f64, round_trip: Duration) -> String {
    if round_trip.is_zero() {
        return String::new();
    }
    format!(" ({:.1} R)", ms / 1e3 / round_trip.as_secs_f64())
}

/// The value that this share of the others does not exceed.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}
