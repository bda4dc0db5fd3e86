//! How a node tells what happens: a line for people, or an object for programs.

use std::io::Write;
use std::time::Duration;

use meetpoint::{Event, PathInfo, Refusal};
use serde_json::{Value, json};

/// Writes events to stdout, each flushed.
pub(crate) struct Voice {
    json: bool,
    name: String,
}

impl Voice {
    pub(crate) fn new(json: bool, name: String) -> Self {
        Self { json, name }
    }

    /// One event: its fields for programs, a sentence for people.
    pub(crate) fn say(&self, event: &str, mut fields: Value, sentence: impl FnOnce() -> String) {
        let line = if self.json {
            fields["event"] = json!(event);
            fields.to_string()
        } else {
            format!("{}: {}", self.name, sentence())
        };
        let mut out = std::io::stdout().lock();
        // A reader that went away is no reason to end the node.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Joined { id, cluster, effective, again, server, .. } => {
                let fields = json!({ "server": server, "id": id.to_string(), "name": self.name, "cluster": cluster, "effective": effective });
                let verb = if *again { "rejoined" } else { "joined" };
                self.say("joined", fields, || {
                    format!("{verb} cluster {cluster} ({effective}) at {server} as {id}")
                });
            }
            Event::Classified(found) => {
                let fields = json!({
                    "class": found.class,
                    "evidence": found.evidence,
                    "observed": found.observed,
                    "relayed": found.relayed,
                });
                self.say("classified", fields, || match found.observed {
                    Some(addr) => format!("classified {} ({}), seen as {addr}", found.class, found.evidence),
                    None => format!("classified {} ({})", found.class, found.evidence),
                });
            }
            Event::Behavior(found) => {
                let fields = json!({
                    "mapping": found.mapping,
                    "filtering": found.filtering,
                    "lifetime_s": found.lifetime_s,
                    "double_nat": found.double_nat,
                    "depth": found.depth,
                    "udp_blocked": found.udp_blocked,
                });
                self.say("behavior", fields, || {
                    let mapping = found.mapping.map_or("unknown", |mapping| mapping.as_str());
                    let filtering = found.filtering.map_or("unknown", |filtering| filtering.as_str());
                    let more = [
                        found.lifetime_s.map(|s| format!(", remembers silences of {s} s")),
                        found
                            .double_nat
                            .map(|is| if is { ", behind another one" } else { ", the only one" }.to_owned()),
                        found.depth.map(|depth| format!(", {depth}")),
                        found.udp_blocked.then(|| ", passes no UDP".to_owned()),
                    ];
                    let more: String = more.into_iter().flatten().collect();
                    format!("its NAT: mapping {mapping}, filtering {filtering}{more}")
                });
            }
            Event::ClusterChanged { effective } => {
                let fields = json!({ "effective": effective });
                self.say("cluster_changed", fields, || format!("the cluster is effectively {effective} now"));
            }
            Event::Disconnected { refusal, retry_in } => {
                let why = refusal.as_ref().map_or("the connection broke", |refusal| refusal.code.as_str());
                tracing::warn!(why, retry_in_ms = retry_in.as_millis(), "disconnected from the rendezvous");
            }
            other => tracing::debug!(event = ?other),
        }
    }

    pub(crate) fn path(&self, peer: &str, path: &PathInfo) {
        let fields = json!({
            "peer": peer,
            "kind": path.kind.as_str(),
            "remote": path.remote,
            "rtt_ms": millis(path.rtt),
            "elapsed_ms": millis(path.elapsed),
        });
        self.say("path", fields, || {
            let (rtt, elapsed) = (millis(path.rtt), millis(path.elapsed));
            format!(
                "{} path to {peer} by {}, {rtt} ms round trip, after {elapsed} ms",
                path.kind.as_str(),
                path.remote
            )
        });
    }

    pub(crate) fn echo(&self, peer: &str, bytes: usize, rtt: Duration) {
        let fields = json!({ "peer": peer, "bytes": bytes, "rtt_ms": millis(rtt) });
        self.say("echo", fields, || format!("{bytes} bytes echoed by {peer} in {} ms", millis(rtt)));
    }

    pub(crate) fn rejected(&self, refusal: &Refusal) {
        let fields = json!({ "code": refusal.code, "hint": refusal.hint, "detail": refusal.detail });
        self.say("rejected", fields, || format!("rejected: {} ({})", refusal.code, refusal.hint));
    }
}

/// Decimal milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
