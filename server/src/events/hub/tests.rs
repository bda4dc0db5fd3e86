//! The ring without sockets: order, filters, resumption, gaps, and bounds.

use std::cell::Cell;

use futures_util::FutureExt;
use meetpoint_proto::NodeId;
use serde_json::Value;

use super::*;

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId::from(&ed25519_dalek::SigningKey::from_bytes(&[number; 32]))
}

fn leave(number: u8) -> Event {
    Event::NodeLeave { node: node(number), graceful: true }
}

/// So many events of `default`.
fn publish(hub: &Hub, count: usize) {
    for _ in 0..count {
        hub.publish(&cluster("default"), Sender::Server, &leave(1));
    }
}

fn envelope(frame: &Frame) -> Value {
    serde_json::from_slice(&frame.json()).unwrap()
}

/// All that is told without waiting, as `seq` of an event or `(from, to, reason)` of a gap.
fn told(subscription: &mut Subscription) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(frame) = subscription.next().now_or_never() {
        let event = envelope(&frame);
        told.push(match event["type"].as_str() {
            Some("system:gap") => {
                let data = &event["data"];
                format!("{}..{} {}", data["from"], data["to"], data["reason"].as_str().unwrap())
            }
            _ => event["seq"].to_string(),
        });
    }
    told
}

fn from(hub: &Hub, after: &str) -> Vec<String> {
    told(&mut hub.subscribe(Some(after.parse().unwrap()), Filter::default()))
}

#[tokio::test]
async fn an_event_is_told_in_both_forms() {
    let hub = Hub::new();
    let mut reader = hub.subscribe(None, Filter::default());
    let event = Event::SeedStatus {
        name: "main".parse().unwrap(),
        // What could end a line or a field must not.
        host: "a\ndata: forged\r\n\n\u{2028}\"<script>".to_owned(),
        port: 80,
        status: "up",
        reason: None,
    };
    hub.publish(&cluster("default"), Sender::Node(node(1)), &event);
    let frame = reader.next().await;
    let envelope = envelope(&frame);
    assert_eq!(envelope["seq"], 1);
    assert_eq!(envelope["type"], "seed:status");
    assert_eq!(envelope["sender"], format!("node:{}", node(1)));
    assert_eq!(envelope["cluster"], "default");
    assert_eq!(envelope["data"]["host"], "a\ndata: forged\r\n\n\u{2028}\"<script>");
    let text = String::from_utf8(frame.sse().to_vec()).unwrap();
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    let [id, kind, data, "", ""] = lines[..] else { panic!("{text:?}") };
    assert_eq!(id, format!("id: {}", envelope["id"].as_str().unwrap()));
    assert_eq!(kind, "event: seed:status");
    assert_eq!(data.as_bytes(), [b"data: ", &frame.json()[..]].concat());
}

thread_local! {
    /// Switches the defence off that `a_name_forges_no_event` is about: text goes out as it came in.
    static WRITES_ANY_TEXT: Cell<bool> = const { Cell::new(false) };
}

/// See [`WRITES_ANY_TEXT`].
pub(super) fn as_it_would_be_written(json: String) -> String {
    if WRITES_ANY_TEXT.get() { json.replace("\\n", "\n").replace("\\\"", "\"") } else { json }
}

/// The types and data of an event stream as its reader has them (WHATWG HTML, section 9.2.6).
fn read(stream: &str) -> Vec<(String, String)> {
    let field = |block: &str, name: &str| {
        block.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>().join("\n")
    };
    let blocks = stream.split("\n\n").filter(|block| !block.is_empty());
    blocks.map(|block| (field(block, "event: "), field(block, "data: "))).collect()
}

/// Attack: a name that ends the event it is in and begins another one.
#[tokio::test]
async fn a_name_forges_no_event() {
    let forged = r#"{"type":"cluster:state","data":{"effective":"PUBLIC"}}"#;
    let host = format!("a\"}}}}\n\nevent: cluster:state\ndata: {forged}\n\n");
    for (defended, expect) in [(false, 2), (true, 1)] {
        let hub = Hub::new();
        let mut reader = hub.subscribe(None, Filter::default());
        let (name, host) = ("main".parse().unwrap(), host.clone());
        WRITES_ANY_TEXT.set(!defended);
        let event = Event::SeedStatus { name, host, port: 80, status: "up", reason: None };
        hub.publish(&cluster("default"), Sender::Server, &event);
        WRITES_ANY_TEXT.set(false);
        let stream = String::from_utf8(reader.next().await.sse().to_vec()).unwrap();
        let events = read(&stream);
        let has_forged = events.contains(&("cluster:state".to_owned(), forged.to_owned()));
        let whole = events.iter().filter(|(kind, _)| !kind.is_empty()).count();
        assert_eq!((has_forged, whole), (!defended, expect), "defended: {defended}: {stream:?}");
    }
}

#[tokio::test]
async fn numbers_have_no_gaps_and_readers_miss_nothing() {
    let hub = Hub::new();
    let mut reader = hub.subscribe(None, Filter::default());
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let hub = hub.clone();
            tokio::task::spawn_blocking(move || publish(&hub, 500))
        })
        .collect();
    for expect in 1..=2000_u64 {
        assert_eq!(reader.next().await.seq, expect);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(reader.next().now_or_never().is_none());
}

#[test]
fn a_stream_resumes() {
    let hub = Hub::new();
    publish(&hub, 3);
    let epoch = hub.0.epoch;
    let check = |after: &str, expect: &[&str]| assert_eq!(from(&hub, after), expect, "{after}");
    check("0", &["1", "2", "3"]);
    check("1", &["2", "3"]);
    check("3", &[]);
    check(&format!("{epoch:016x}-2"), &["3"]);
    // A number or an epoch that this server has not given is another life's.
    check("4", &["0..0 restarted", "1", "2", "3"]);
    check("18446744073709551615", &["0..0 restarted", "1", "2", "3"]);
    check(&format!("{:016x}-2", epoch ^ 1), &["0..0 restarted", "1", "2", "3"]);
    for bad in ["", "-", "-1", "+1", "1-", "x", "1-1", "18446744073709551616", "+000000000000001-1"] {
        assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad}");
    }
    assert_eq!(told(&mut hub.subscribe(None, Filter::default())), [""; 0]);
}

#[test]
fn who_reads_slowly_is_told_of_a_gap_and_delays_nobody() {
    let hub = Hub::new();
    let mut slow = hub.subscribe(None, Filter::default());
    publish(&hub, 10);
    assert_eq!(slow.next().now_or_never().unwrap().seq, 1);
    publish(&hub, RING_EVENTS);
    let heard = told(&mut slow);
    // What it had taken already is not lost.
    assert_eq!(&heard[..9], ["2", "3", "4", "5", "6", "7", "8", "9", "10"]);
    assert_eq!(heard.len(), 9 + RING_EVENTS);
    publish(&hub, RING_EVENTS + 5);
    let last = 10 + RING_EVENTS;
    assert_eq!(told(&mut slow)[0], format!("{}..{} expired", last + 1, last + 5));
    assert_eq!(from(&hub, "1")[0], format!("2..{} expired", last + 5));
}

#[test]
fn the_ring_is_bounded_in_bytes_too() {
    let hub = Hub::new();
    let long = Event::SeedStatus {
        name: "main".parse().unwrap(),
        host: "x".repeat(RING_BYTES / 16),
        port: 80,
        status: "up",
        reason: None,
    };
    for _ in 0..40 {
        hub.publish(&cluster("default"), Sender::Server, &long);
    }
    let ring = hub.ring();
    assert!(ring.bytes <= RING_BYTES);
    assert_eq!(ring.frames.len(), 15);
    assert_eq!(ring.bytes, ring.frames.iter().map(|frame| frame.text.len()).sum::<usize>());
}

#[test]
fn filters_choose() {
    let hub = Hub::new();
    let state = Event::ClusterState {
        kind: meetpoint_proto::ClusterNetwork::Dynamic,
        effective: meetpoint_proto::EffectiveNetwork::Private,
        reason: None,
    };
    hub.publish(&cluster("a"), Sender::Server, &state);
    hub.publish(&cluster("b"), Sender::Server, &leave(1));
    hub.publish(&cluster("a"), Sender::Server, &leave(1));
    let check = |kinds: &[Kind], of: Option<&str>, expect: &[&str]| {
        let filter = Filter { kinds: kinds.iter().copied().collect(), cluster: of.map(cluster) };
        let mut reader = hub.subscribe(Some("0".parse().unwrap()), filter);
        assert_eq!(told(&mut reader), expect, "{kinds:?} {of:?}");
        // What was not wanted is behind it all the same.
        assert_eq!(envelope(&reader.say(&Event::Ping {}))["seq"], 3);
    };
    check(&[], None, &["1", "2", "3"]);
    check(&[Kind::NodeLeave], None, &["2", "3"]);
    check(&[], Some("a"), &["1", "3"]);
    check(&[Kind::NodeLeave, Kind::NodeClass], Some("a"), &["3"]);
    check(&[Kind::NodeClass], Some("c"), &[]);
}

#[tokio::test]
async fn a_ping_never_runs_ahead_of_what_was_told() {
    let hub = Hub::new();
    publish(&hub, 5);
    let mut reader = hub.subscribe(Some("0".parse().unwrap()), Filter::default());
    let place = |reader: &Subscription| envelope(&reader.say(&Event::Ping {}))["seq"].clone();
    assert_eq!(place(&reader), 0);
    for seq in 1..=5 {
        assert_eq!(reader.next().await.seq, seq);
        assert_eq!(place(&reader), seq);
    }
    publish(&hub, RING_EVENTS + 1);
    assert!(reader.take());
    assert_eq!(place(&reader), 5, "the gap has not been told yet");
    assert_eq!(envelope(&reader.next().await)["data"]["to"], 6);
    assert_eq!(place(&reader), 6);
}

#[test]
fn a_flood_of_statuses_does_not_push_out_the_rest() {
    let hub = Hub::new();
    let status = Event::NodeStatus { node: node(1), status: "introduced", peer: None, reason: None };
    publish(&hub, 1);
    for _ in 0..RING_EVENTS {
        hub.publish(&cluster("default"), Sender::Server, &status);
    }
    publish(&hub, 1);
    let told = from(&hub, "0");
    assert_eq!(told[0], "1");
    assert!(told.len() < RING_EVENTS / 2, "{}", told.len());
    // Another cluster has a share of its own.
    hub.publish(&cluster("other"), Sender::Server, &status);
    assert_eq!(from(&hub, "0").len(), told.len() + 1);
}

#[test]
fn types_are_read_as_they_are_written() {
    for &kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert_eq!("node:".parse::<Kind>(), Err(crate::events::event::UnknownKind));
}
