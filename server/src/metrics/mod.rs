//! What operators watch, in the OpenMetrics text format.
//!
//! Two sources. What happens now and then is counted where it happens ([`instruments`]); what the packet path counts
//! are plain numbers of each shard's machine, for which the shards are asked when somebody looks ([`machines`]), so
//! that no packet waits for an observer. The names and labels are part of the server's interface: the dashboard and the
//! alert rules in `docker/` are held against them by a test.

pub(crate) mod instruments;
mod machines;
mod nat;
pub(crate) mod process;

use std::path::PathBuf;

use meetpoint_broker::Broker;
use meetpoint_proto::NetworkClass;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::udp::MachineState;
use instruments::{Meetings, Requests, SqliteTimes, StreamLag, Words};

/// The media type of what [`Metrics::text`] gives.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before all names that are not those of any process.
const PREFIX: &str = "meetpoint";

/// The instruments, and what else is needed for an answer.
pub(crate) struct Metrics {
    standing: Registry,
    requests: Requests,
    data: PathBuf,
    started_unix_s: u64,
}

/// What is asked for when somebody looks.
pub(crate) struct Snapshot {
    pub(crate) machines: Vec<MachineState>,
    pub(crate) members: Members,
    /// Nobody new is taken any more.
    pub(crate) is_draining: bool,
}

/// Members that are present, by class.
#[derive(Debug, Default)]
pub(crate) struct Members {
    by_class: [i64; NetworkClass::ALL.len()],
    unjudged: i64,
    relayed: i64,
}

impl Members {
    /// Counts them.
    pub(crate) fn of(broker: &Broker) -> Self {
        let mut members = Self::default();
        for (class, is_relayed) in broker.classes() {
            let place = class.and_then(|class| NetworkClass::ALL.iter().position(|known| *known == class));
            *place.and_then(|place| members.by_class.get_mut(place)).unwrap_or(&mut members.unjudged) += 1;
            members.relayed += i64::from(is_relayed);
        }
        members
    }

    fn register(&self, registry: &mut Registry) {
        let sessions = Family::<Words<1>, Gauge>::default();
        for (class, count) in NetworkClass::ALL.iter().zip(self.by_class) {
            sessions.get_or_create(&[("class", class.as_str())]).set(count);
        }
        sessions.get_or_create(&[("class", "judging")]).set(self.unjudged);
        registry.register("sessions", "Nodes that are present, by what they were found to be", sessions);
        let relayed = Gauge::<i64>::default();
        relayed.set(self.relayed);
        registry.register("sessions_relayed", "Of these: can only be relayed", relayed);
    }
}

impl Metrics {
    /// Takes the instruments of all parts.
    pub(crate) fn new(
        (sqlite, lag, meetings): (&SqliteTimes, &StreamLag, &Meetings),
        data: PathBuf,
        started_unix_s: u64,
    ) -> Self {
        let mut standing = Registry::with_prefix(PREFIX);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        standing.register("build", "This program", build);
        sqlite.register(&mut standing);
        lag.register(&mut standing);
        meetings.register(&mut standing);
        let requests = Requests::default();
        requests.register(&mut standing);
        Self { standing, requests, data, started_unix_s }
    }

    /// Where requests are counted.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &std::path::Path {
        &self.data
    }

    /// All of it as text.
    ///
    /// # Errors
    /// Writing to a string does not fail.
    pub(crate) fn text(&self, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
        let mut passing = Registry::with_prefix(PREFIX);
        snapshot.members.register(&mut passing);
        machines::register(&mut passing, &snapshot.machines);
        process::register_disk(&mut passing, &self.data);
        let draining = Gauge::<i64>::default();
        draining.set(i64::from(snapshot.is_draining));
        passing.register("draining", "1 while the server takes nobody new and waits for its end", draining);
        let mut common = Registry::default();
        process::register(&mut common, self.started_unix_s);
        let mut text = String::new();
        for registry in [&self.standing, &passing, &common] {
            encode_registry(&mut text, registry)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
