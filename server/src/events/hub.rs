//! The ring, and the places of those who read it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use meetpoint_proto::ClusterName;
use serde::Serialize;
use tokio::sync::watch;

use super::{Event, GapReason, Kind, Sender};
use crate::metrics::instruments::StreamLag;
use crate::pace::Pace;
use crate::service::UnixMs;

/// Events that are kept: a cluster of some thousand nodes may come back at once, two events a node, and
/// who watches it may meanwhile lose his connection for a moment.
const RING_EVENTS: usize = 16 * 1024;
/// Bytes that are kept. An event has 300 to 500.
const RING_BYTES: usize = 8 * 1024 * 1024;
/// Events that a reader takes in one go.
const BATCH: usize = 64;
/// Events that a reader looks at in one go, so that one with a narrow filter does not hold the ring for long.
const SCAN: usize = 512;
/// `node:status` and `path:change` events of one cluster in one go, and each how long one more. Members cause them at
/// will, with each introduction: they must not push everything else out of the ring.
const STATUS_BURST: u32 = 256;
/// See [`STATUS_BURST`].
const STATUS_EVERY: Duration = Duration::from_millis(10);

/// Takes events and hands them on. Clones are the same hub.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Shared>);

struct Shared {
    /// Another one in each life of the server, so that numbers of different lives are not mixed up.
    epoch: u64,
    ring: Mutex<Ring>,
    /// The number of the last event.
    head: watch::Sender<u64>,
    lag: StreamLag,
}

struct Ring {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// The number of the next event. The first one is 1.
    next: u64,
    /// By cluster.
    statuses: BTreeMap<ClusterName, Pace>,
}

/// An event as text. A clone shares it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    seq: u64,
    kind: Kind,
    cluster: Option<ClusterName>,
    /// As an event of an event stream; the envelope is a part of it.
    text: Bytes,
    envelope: Range<usize>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    seq: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    data: &'a Event,
    timestamp: i64,
    sender: &'a str,
    cluster: Option<&'a str>,
}

impl Frame {
    fn new(
        id: (u64, u64),
        now: UnixMs,
        (cluster, sender): (Option<&ClusterName>, Sender),
        event: &Event,
    ) -> Self {
        let (kind, sender) = (event.kind(), sender.to_string());
        let (epoch, seq) = id;
        let id = format!("{epoch:016x}-{seq}");
        let envelope = Envelope {
            id: &id,
            seq,
            kind: kind.as_str(),
            data: event,
            timestamp: now.0,
            sender: &sender,
            cluster: cluster.map(ClusterName::as_str),
        };
        // Without line breaks: JSON escapes those inside strings, and this form has no others.
        #[allow(clippy::expect_used, reason = "plain fields and no failing serializer")]
        let json = serde_json::to_string(&envelope).expect("events always serialise");
        #[cfg(test)]
        let json = tests::as_it_would_be_written(json);
        let mut text = String::with_capacity(json.len() + 80);
        // Writing to a string can't fail.
        let _ = write!(text, "id: {id}\nevent: {}\ndata: ", kind.as_str());
        let envelope = text.len()..text.len() + json.len();
        text.push_str(&json);
        text.push_str("\n\n");
        Self { seq, kind, cluster: cluster.cloned(), text: text.into(), envelope }
    }

    /// Its type.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The envelope, in JSON.
    pub(crate) fn json(&self) -> Bytes {
        self.text.slice(self.envelope.clone())
    }

    /// An event of an event stream (WHATWG HTML, section 9.2).
    pub(crate) fn sse(&self) -> Bytes {
        self.text.clone()
    }
}

/// A place in the stream: after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// `None`: of this life of the server.
    epoch: Option<u64>,
    seq: u64,
}

/// Not a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    /// An event's `seq`, or its `id`, which also tells whether the server was started since.
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let digits =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (epoch, seq) = match text.split_once('-') {
            Some((epoch, seq)) => {
                let is_hex = epoch.len() == 16 && epoch.bytes().all(|b| b.is_ascii_hexdigit());
                let epoch = is_hex.then(|| u64::from_str_radix(epoch, 16).ok()).flatten();
                (Some(epoch.ok_or(BadCursor)?), seq)
            }
            None => (None, text),
        };
        Ok(Self { epoch, seq: digits(seq).ok_or(BadCursor)? })
    }
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Of these types; of all if empty.
    pub(crate) kinds: BTreeSet<Kind>,
    /// Of this cluster.
    pub(crate) cluster: Option<ClusterName>,
}

impl Filter {
    fn wants(&self, frame: &Frame) -> bool {
        let of_cluster = self.cluster.as_ref().is_none_or(|wanted| frame.cluster.as_ref() == Some(wanted));
        of_cluster && (self.kinds.is_empty() || self.kinds.contains(&frame.kind))
    }
}

impl Hub {
    /// An empty ring with an epoch of its own.
    pub(crate) fn new() -> Self {
        // The standard library keys each of these from the system's randomness.
        let epoch = RandomState::new().build_hasher().finish();
        let ring = Ring { frames: VecDeque::new(), bytes: 0, next: 1, statuses: BTreeMap::new() };
        Self(Arc::new(Shared {
            epoch,
            ring: Mutex::new(ring),
            head: watch::Sender::new(0),
            lag: StreamLag::default(),
        }))
    }

    /// Tells everybody. Never waits for a reader.
    pub(crate) fn publish(&self, cluster: &ClusterName, sender: Sender, event: &Event) {
        let mut ring = self.ring();
        if matches!(event.kind(), Kind::NodeStatus | Kind::PathChange) && !ring.takes_status(cluster) {
            return;
        }
        let seq = ring.next;
        ring.next += 1;
        let frame = Frame::new((self.0.epoch, seq), UnixMs::now(), (Some(cluster), sender), event);
        ring.push(frame);
        drop(ring);
        self.0.head.send_modify(|head| *head = seq.max(*head));
    }

    /// Begins to read: after a place, or with what comes from now on.
    pub(crate) fn subscribe(&self, after: Option<Cursor>, filter: Filter) -> Subscription {
        let ring = self.ring();
        let (first, last) = (ring.first(), ring.next - 1);
        let is_foreign =
            |cursor: &Cursor| cursor.epoch.is_some_and(|epoch| epoch != self.0.epoch) || cursor.seq > last;
        let (next, gap) = match after {
            None => (ring.next, None),
            Some(cursor) if is_foreign(&cursor) => (first, Some((0, first - 1, GapReason::Restarted))),
            Some(cursor) => (cursor.seq + 1, None),
        };
        drop(ring);
        let head = self.0.head.subscribe();
        Subscription { hub: self.clone(), head, filter, next, gap, taken: VecDeque::new() }
    }

    /// How far readers are behind.
    pub(crate) fn lag(&self) -> &StreamLag {
        &self.0.lag
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// The number of the oldest event that is kept, or of the next one if none is.
    fn first(&self) -> u64 {
        self.next - self.frames.len() as u64
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.text.len();
        self.frames.push_back(frame);
        while self.frames.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
    }

    fn takes_status(&mut self, cluster: &ClusterName) -> bool {
        if !self.statuses.contains_key(cluster) {
            self.statuses.insert(cluster.clone(), Pace::new(STATUS_BURST, STATUS_EVERY));
        }
        self.statuses.get_mut(cluster).is_some_and(|pace| pace.pass(Instant::now()).is_some())
    }
}

/// A reader and its place.
pub(crate) struct Subscription {
    hub: Hub,
    head: watch::Receiver<u64>,
    filter: Filter,
    /// The number of the event that is to be looked at next.
    next: u64,
    gap: Option<(u64, u64, GapReason)>,
    /// Wanted events that are to be told.
    taken: VecDeque<Frame>,
}

impl Subscription {
    /// The next event, or the gap that is before it. Waits for one; nothing is lost if the waiting is
    /// given up.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            if let Some((from, to, reason)) = self.gap.take() {
                return self.say(&Event::Gap { from, to, reason });
            }
            if let Some(frame) = self.taken.pop_front() {
                return frame;
            }
            if !self.take() && self.head.changed().await.is_err() {
                // The hub lives as long as this reader, which holds it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A word of the stream itself, in its place. It has the number of the event before it, from which
    /// the stream can be resumed.
    pub(crate) fn say(&self, event: &Event) -> Frame {
        let seq = match self.gap {
            Some((from, ..)) => from.saturating_sub(1),
            None => self.taken.front().map_or(self.next, |frame| frame.seq) - 1,
        };
        Frame::new((self.hub.0.epoch, seq), UnixMs::now(), (None, Sender::Server), event)
    }

    /// Looks at some events. False if there are none yet.
    fn take(&mut self) -> bool {
        self.head.mark_unchanged();
        let ring = self.hub.ring();
        let first = ring.first();
        if self.next < first {
            self.gap = Some((self.next, first - 1, GapReason::Expired));
            self.hub.0.lag.gap();
            self.next = first;
            return true;
        }
        let begin = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let before = self.next;
        if ring.next > before {
            self.hub.0.lag.behind(ring.next - before);
        }
        for frame in ring.frames.iter().skip(begin).take(SCAN) {
            self.next += 1;
            if self.filter.wants(frame) {
                self.taken.push_back(frame.clone());
                if self.taken.len() >= BATCH {
                    break;
                }
            }
        }
        self.next > before
    }
}

#[cfg(test)]
mod tests;
