//! The dashboard and the alert rules ask for what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meetpoint_broker::TicketSide;
use meetpoint_proto::Code;
use meetpoint_proto::wire::TicketOutcome;
use serde_json::Value;

use super::instruments::SqliteOp;
use super::*;

const DASHBOARD: &str = include_str!("../../../docker/grafana/meetpoint.json");
const ALERTS: &str = include_str!("../../../docker/prometheus/alerts.yml");
/// Labels that the scraper adds, and those of the query language itself.
const SCRAPERS: [&str; 3] = ["instance", "job", "le"];

/// An exposition in which every instrument has counted something.
fn everything() -> String {
    let (sqlite, lag) = (SqliteTimes::default(), StreamLag::default());
    let meetings = Meetings::default();
    for op in [SqliteOp::Read, SqliteOp::Write, SqliteOp::Commit] {
        sqlite.note(op, Duration::from_millis(1));
    }
    lag.behind(1);
    lag.gap();
    meetings.joined();
    meetings.rejected(Code::BadToken);
    meetings.introduced();
    let unknown = TicketSide::default();
    let relayed = TicketSide { said: Some(TicketOutcome::Relayed), ..unknown };
    meetings.ended(&[unknown, unknown], Some(Duration::from_millis(80)));
    meetings.ended(&[unknown, relayed], None);
    meetings.ended(&[unknown, unknown], None);
    let metrics = Metrics::new((&sqlite, &lag, &meetings), std::env::temp_dir(), 1);
    for status in [200, 404, 500, 507] {
        metrics.requests().note(&axum::http::Method::GET, "/v1/status", status, Duration::from_millis(1));
    }
    let machines = vec![MachineState { counters: Default::default(), allocations: 2 }; 2];
    let snapshot = Snapshot { machines, members: Members::default(), is_draining: false };
    metrics.text(&snapshot).unwrap()
}

/// The values of each label of each series, by the series' name.
type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn known(text: &str) -> Known {
    let mut known = Known::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels = known.entry(name.to_owned()).or_default();
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(inside, _)| inside);
        for pair in inside.into_iter().flat_map(|inside| inside.split("\",")).filter(|pair| !pair.is_empty())
        {
            let (label, value) = pair.split_once("=\"").unwrap();
            let value = value.trim_end_matches('"').to_owned();
            labels.entry(label.to_owned()).or_default().insert(value);
        }
    }
    known
}

/// Names that look like a metric's, each with what stands in braces behind it.
fn selectors(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in query.match_indices(|c: char| c.is_ascii_lowercase()) {
        let starts = at == 0 || !query[..at].ends_with(is_word);
        let word = &query[at..];
        let word = &word[..word.find(|c: char| !is_word(c)).unwrap_or(word.len())];
        if starts && (word.starts_with("meetpoint_") || word.starts_with("process_")) {
            let rest = &query[at + word.len()..];
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            found.push((word, inside.map_or("", |(inside, _)| inside)));
        }
    }
    found
}

/// The labels after each `by`.
fn groups(query: &str) -> impl Iterator<Item = &str> {
    let lists = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    lists.flat_map(|(list, _)| list.split(',')).map(str::trim)
}

fn check(known: &Known, query: &str) {
    let mut labels_of_all = BTreeSet::new();
    let selectors = selectors(query);
    assert!(!selectors.is_empty() || query.starts_with("up{"), "{query}");
    for (name, matchers) in selectors {
        let labels = known.get(name).unwrap_or_else(|| panic!("{name} is not exported: {query}"));
        labels_of_all.extend(labels.keys().cloned());
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, value) = matcher.split_once(['=', '!']).unwrap();
            if SCRAPERS.contains(&label) {
                continue;
            }
            let values = labels.get(label).unwrap_or_else(|| panic!("{name} has no label {label}: {query}"));
            let wanted = value.trim_start_matches(['=', '~']).trim_matches('"');
            for wanted in wanted.split('|') {
                assert!(values.contains(wanted), "{name} has no {label}=\"{wanted}\": {query}");
            }
        }
    }
    for label in groups(query) {
        assert!(SCRAPERS.contains(&label) || labels_of_all.contains(label), "no label {label}: {query}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_is_there() {
    let known = known(&everything());
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20);
    queries.iter().for_each(|query| check(&known, query));
    let alerts: Value = yaml_serde::from_str(ALERTS).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5);
    for rule in rules {
        check(&known, rule["expr"].as_str().unwrap());
        assert!(rule["annotations"]["action"].as_str().is_some_and(|text| !text.is_empty()), "{rule}");
    }
    // And every metric of the server's own is on the dashboard.
    let shown: BTreeSet<&str> =
        queries.iter().flat_map(|query| selectors(query)).map(|(name, _)| name).collect();
    let missing: Vec<&String> = known
        .keys()
        .filter(|name| name.starts_with("meetpoint_") && **name != "meetpoint_draining")
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| !shown.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
#[should_panic(expected = "is not exported")]
fn a_metric_that_is_not_there_is_noticed() {
    check(&known(&everything()), "rate(meetpoint_nonsense_total[5m])");
}
