//! Events as they arrive: an event stream and a WebSocket, held against `asyncapi.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use meetpoint_proto::wire::{ClientMessage, ServerMessage, TicketOutcome};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{Call, call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};
use crate::schema::{misfit, resolve};

const EVENTS: &str = "/v1/events";
const TICKETS: &str = "/v1/events/tickets";
/// Longer than anything a server may take; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What both transports have in common.
enum Watch {
    Sse { body: Incoming, text: String },
    Socket(Box<WebSocketStream<TcpStream>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Sse,
    Socket,
}

const BOTH: [Transport; 2] = [Transport::Sse, Transport::Socket];

impl Watch {
    async fn open(server: &Running, transport: Transport, query: &str, last: Option<&str>) -> Self {
        let headers = [("authorization", Some(format!("Bearer {}", server.viewer_token())))];
        let headers = headers.into_iter().chain([("last-event-id", last.map(str::to_owned))]);
        let headers: Vec<(&str, String)> = headers.filter_map(|(name, value)| Some((name, value?))).collect();
        let path = format!("{EVENTS}{query}");
        match transport {
            Transport::Sse => {
                let response = stream(server.info.http, &path, &headers).await;
                assert_eq!(response.status().as_u16(), 200);
                assert_eq!(response.headers()["content-type"], "text/event-stream");
                assert_eq!(response.headers()["cache-control"], "no-store");
                Self::Sse { body: response.into_body(), text: String::new() }
            }
            Transport::Socket => {
                let socket = socket(server.info.http, &path, &headers).await;
                Self::Socket(Box::new(socket.expect("the server upgrades")))
            }
        }
    }

    /// The next envelope; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        let next = async {
            match self {
                Self::Sse { body, text } => loop {
                    if let Some((event, rest)) = text.split_once("\n\n") {
                        let envelope = parsed(event);
                        *text = rest.to_owned();
                        return Some(envelope);
                    }
                    let frame = body.frame().await?.expect("the stream ends cleanly");
                    text.push_str(std::str::from_utf8(&frame.into_data().expect("data")).unwrap());
                },
                Self::Socket(socket) => match socket.next().await?.expect("a frame") {
                    Message::Text(text) => Some(serde_json::from_str(&text).unwrap()),
                    Message::Close(_) => None,
                    other => panic!("{other:?}"),
                },
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no event in time")
    }

    /// The next event that is not a ping.
    async fn event(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event["type"] != "system:ping" {
                return event;
            }
        }
    }

    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["type"] == kind {
                return event;
            }
        }
    }

    async fn say(&mut self, message: Message) {
        let Self::Socket(socket) = self else { panic!("an event stream hears nothing") };
        socket.send(message).await.unwrap();
    }

    /// Reads on to the end, and gives the code that a WebSocket was closed with.
    async fn closed(mut self) -> Option<u16> {
        let Self::Socket(socket) = &mut self else {
            while self.next().await.is_some() {}
            return None;
        };
        loop {
            match tokio::time::timeout(PATIENCE, socket.next()).await.expect("no frame in time") {
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return Some(code.into()),
                Some(Ok(_)) => {}
                other => panic!("it ends without a word: {other:?}"),
            }
        }
    }
}

/// An event of an event stream, whose fields say the same as its envelope.
fn parsed(event: &str) -> Value {
    let lines: Vec<&str> = event.lines().collect();
    let [id, kind, data] = lines[..] else { panic!("{event:?}") };
    let envelope: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(id.strip_prefix("id: "), envelope["id"].as_str());
    assert_eq!(kind.strip_prefix("event: "), envelope["type"].as_str());
    envelope
}

async fn stream(server: SocketAddr, path: &str, headers: &[(&str, String)]) -> Response<Incoming> {
    let stream = TcpStream::connect(server).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    // Ends with the body.
    tokio::spawn(connection);
    let mut request = Request::get(path).header("host", "localhost").header("accept", "text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

async fn socket(
    server: SocketAddr,
    path: &str,
    headers: &[(&'static str, String)],
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let mut request = format!("ws://{server}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(server).await.unwrap();
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

/// The status that a WebSocket is refused with.
async fn refused(server: SocketAddr, path: &str) -> u16 {
    match socket(server, path, &[]).await {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(drop)),
    }
}

/// Two nodes of which one asks for the other, and both leave.
async fn meet(server: &Running) {
    let token = server.join_token();
    let mut nodes: Vec<Control> = Vec::new();
    for (seed, name, port) in [(1, "alice", 5001), (2, "bob", 5002)] {
        let mut node = Node::new(seed, name, &token).joins(server.info.http).await;
        node.until(|message| matches!(message, ServerMessage::Classified { .. }).then_some(())).await;
        let host = vec![SocketAddr::from(([127, 0, 0, 1], port))];
        node.send(&ClientMessage::Candidates { host, relay: Vec::new(), mapped: Vec::new() }).await;
        nodes.push(node);
    }
    let connect = ClientMessage::Connect { request: 1, peer: "bob".to_owned(), wait: false, handshake: None };
    nodes[0].send(&connect).await;
    let introduced = |message| match message {
        ServerMessage::Introduction(introduction) => Some(introduction.ticket),
        _ => None,
    };
    let ticket = nodes[0].until(introduced).await;
    let outcome = TicketOutcome::Direct { elapsed_ms: 3 };
    nodes[0].send(&ClientMessage::TicketResult { ticket, outcome, rtt_us: Some(900) }).await;
    for node in &mut nodes {
        node.send(&ClientMessage::Leave).await;
        node.until(|message| matches!(message, ServerMessage::Left).then_some(())).await;
    }
}

#[tokio::test]
async fn every_event_is_what_the_contract_says() {
    let (server, _dir) = Running::fresh(&[]).await;
    let served = get("/asyncapi.yaml").send(server.info.http).await;
    assert_eq!(served.header("content-type"), "application/yaml");
    let contract: Value = yaml_serde::from_str(&served.text).unwrap();
    let told = messages(&contract, "tell");
    let seed = "/v1/clusters/default/seeds/passing";
    let private = json!({ "host": "10.0.0.9", "port": 80 });
    assert_eq!(call(Method::PUT, seed).json(&private).admin(&server).await.status.as_u16(), 201);
    assert_eq!(call(Method::DELETE, seed).admin(&server).await.status.as_u16(), 200);
    meet(&server).await;
    for transport in BOTH {
        let mut seen = BTreeSet::new();
        // A place of another life of the server, so that there is a gap.
        let mut watch = Watch::open(&server, transport, "?after=0123456789abcdef-7", None).await;
        if transport == Transport::Socket {
            watch.say(Message::text(json!({ "type": "system:ping" }).to_string())).await;
        }
        let mut left = 0;
        while left < 2 || (transport == Transport::Socket && !seen.contains("system:pong")) {
            let event = watch.next().await.unwrap();
            let kind = event["type"].as_str().unwrap();
            let schema = told.get(kind).unwrap_or_else(|| panic!("no message has this type: {event}"));
            if let Some(misfit) = misfit(&contract, schema, &event) {
                panic!("{event}\n{misfit}");
            }
            let envelope = &contract["components"]["schemas"]["Envelope"]["properties"];
            let fields =
                |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
            assert_eq!(fields(&event), fields(envelope), "{event}");
            left += usize::from(kind == "node:leave");
            seen.insert(kind.to_owned());
        }
        let mut all: BTreeSet<String> = told.keys().cloned().collect();
        if transport == Transport::Sse {
            all.remove("system:pong");
        }
        assert_eq!(seen, all, "{transport:?}");
    }
    server.stop().await.unwrap();
}

/// The payloads' schemas of an operation's messages, by the messages' names.
fn messages(contract: &Value, operation: &str) -> BTreeMap<String, Value> {
    let list = contract["operations"][operation]["messages"].as_array().unwrap();
    let messages = list.iter().map(|message| {
        let in_channel = resolve(contract, &message["$ref"]);
        let message = resolve(contract, &in_channel["$ref"]);
        (message["name"].as_str().unwrap().to_owned(), message["payload"].clone())
    });
    messages.collect()
}

#[tokio::test]
async fn a_client_of_a_socket_pings_and_pongs_and_nothing_else() {
    let (server, _dir) = Running::fresh(&[]).await;
    let contract = yaml_serde::from_str(&get("/asyncapi.yaml").send(server.info.http).await.text).unwrap();
    let heard: Vec<String> = messages(&contract, "hear").into_keys().collect();
    assert_eq!(heard, ["system:ping", "system:pong"]);
    let mut watch = Watch::open(&server, Transport::Socket, "", None).await;
    for kind in ["system:pong", "system:ping"] {
        let word = json!({ "type": kind, "more": [1] });
        assert_eq!(misfit(&contract, &messages(&contract, "hear")[kind], &word), None);
        watch.say(Message::text(word.to_string())).await;
    }
    watch.until("system:pong").await;
    let check = async |message: Message, times: usize, code: u16| {
        let mut watch = Watch::open(&server, Transport::Socket, "", None).await;
        for _ in 0..times {
            watch.say(message.clone()).await;
        }
        assert_eq!(watch.closed().await, Some(code), "{message:?}");
    };
    check(Message::text("{}"), 1, 1008).await;
    check(Message::text("ping"), 1, 1008).await;
    check(Message::text("{\"type\":\"node:leave\"}"), 1, 1008).await;
    check(Message::binary(vec![1, 2, 3]), 1, 1003).await;
    check(Message::text("{\"type\":\"system:pong\"}"), 40, 1008).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_resumes_where_it_ended() {
    let (server, _dir) = Running::fresh(&[]).await;
    meet(&server).await;
    let mut whole = Watch::open(&server, Transport::Sse, "?after=0", None).await;
    let mut all = Vec::new();
    while all.iter().filter(|event: &&Value| event["type"] == "node:leave").count() < 2 {
        all.push(whole.event().await);
    }
    let numbers: Vec<u64> = all.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
    for transport in BOTH {
        for index in 0..all.len() - 1 {
            let (id, rest) = (all[index]["id"].as_str().unwrap(), &all[index + 1..]);
            let by_id = format!("?after={id}");
            let by_number = format!("?after={}", index + 1);
            // The header wins: a client that reconnects by itself repeats its URL.
            for (query, last) in
                [(&*by_id, None), (&*by_number, None), ("?after=0", Some(id)), ("", Some(id))]
            {
                let mut watch = Watch::open(&server, transport, query, last).await;
                assert_eq!(watch.event().await, rest[0], "{transport:?} {query} {last:?}");
            }
        }
    }
    // A ping is a place too: behind the last event there is nothing yet.
    let last = all.last().unwrap();
    let mut watch = Watch::open(&server, Transport::Sse, "", last["id"].as_str()).await;
    let ping = watch.next().await.unwrap();
    assert_eq!((&ping["type"], &ping["id"]), (&json!("system:ping"), &last["id"]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_it_was_asked_to() {
    let (server, _dir) = Running::fresh(&[]).await;
    for (transport, code) in [(Transport::Sse, None), (Transport::Socket, Some(1000))] {
        let watch = Watch::open(&server, transport, "?for_s=1", None).await;
        assert_eq!(watch.closed().await, code, "{transport:?}");
    }
    for bad in ["0", "3601", "-1", "x"] {
        get(&format!("{EVENTS}?for_s={bad}")).admin(&server).await.assert_problem(400, "bad_query");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_is_a_gap() {
    let (server, dir) = Running::fresh(&[]).await;
    let id = Watch::open(&server, Transport::Sse, "?after=0", None).await.event().await["id"].clone();
    server.stop().await.unwrap();
    let again = Running::start(config(dir.path(), &[])).await.unwrap();
    for transport in BOTH {
        let mut watch = Watch::open(&again, transport, "", id.as_str()).await;
        let gap = watch.event().await;
        assert_eq!(gap["type"], "system:gap");
        assert_eq!(gap["data"], json!({ "from": 0, "to": 0, "reason": "restarted" }));
        assert_eq!(watch.event().await["seq"], 1);
    }
    again.stop().await.unwrap();
}

#[tokio::test]
async fn filters_choose_types_and_clusters() {
    let (server, _dir) = Running::fresh(&[]).await;
    meet(&server).await;
    for transport in BOTH {
        let query = "?after=0&types=node:announce,node:leave&cluster=default";
        let mut watch = Watch::open(&server, transport, query, None).await;
        let mut kinds = Vec::new();
        for _ in 0..4 {
            kinds.push(watch.event().await["type"].as_str().unwrap().to_owned());
        }
        assert_eq!(kinds, ["node:announce", "node:announce", "node:leave", "node:leave"]);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_ticket_opens_one_socket_and_a_token_in_a_url_none() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, viewer) = (server.info.http, server.viewer_token());
    let ticket = async |call: Call| {
        let reply = call.send(addr).await;
        assert_eq!(reply.status.as_u16(), 201);
        reply.json()["ticket"].as_str().unwrap().to_owned()
    };
    for token in [&viewer, &server.admin_token()] {
        let path = format!("{EVENTS}?ticket={}", ticket(call(Method::POST, TICKETS).bearer(token)).await);
        // Not for an event stream, whose client can set a header.
        get(&path).send(addr).await.assert_problem(401, "unauthorized");
        let mut watch = Watch::Socket(Box::new(socket(addr, &path, &[]).await.unwrap()));
        assert_eq!(watch.next().await.unwrap()["type"], "system:ping");
        assert_eq!(refused(addr, &path).await, 401, "it is used up");
    }
    for path in [
        format!("{EVENTS}?ticket={viewer}"),
        format!("{EVENTS}?token={viewer}"),
        format!("{EVENTS}?ticket="),
        EVENTS.to_owned(),
    ] {
        assert_eq!(refused(addr, &path).await, 401, "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn streams_have_bounds_of_their_own() {
    const MAX_STREAMS: usize = 256;
    let (server, _dir) = Running::fresh(&[]).await;
    let mut streams = Vec::new();
    for index in 0..MAX_STREAMS {
        let mut watch = Watch::open(&server, BOTH[index % 2], "", None).await;
        watch.next().await.unwrap();
        streams.push(watch);
    }
    get(EVENTS).viewer(&server).await.assert_problem(503, "overloaded");
    assert_eq!(get("/v1/clusters").viewer(&server).await.status.as_u16(), 200, "others do not notice");
    streams.truncate(MAX_STREAMS - 2);
    // Both kinds give their places back.
    for transport in BOTH {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let headers = [("authorization", format!("Bearer {}", server.viewer_token()))];
        loop {
            let is_open = match transport {
                Transport::Sse => stream(server.info.http, EVENTS, &headers).await.status().is_success(),
                Transport::Socket => socket(server.info.http, EVENTS, &headers).await.is_ok(),
            };
            if is_open {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "no place came free");
            tokio::task::yield_now().await;
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let (server, _dir) = Running::fresh(&[]).await;
    let mut streams = Vec::new();
    for transport in BOTH {
        let mut watch = Watch::open(&server, transport, "", None).await;
        watch.next().await.unwrap();
        streams.push(watch);
    }
    let ends = async {
        let mut codes = Vec::new();
        for watch in streams {
            codes.push(watch.closed().await);
        }
        codes
    };
    let (codes, stopped) = tokio::join!(ends, server.stop());
    stopped.unwrap();
    assert_eq!(codes, [None, Some(1001)]);
}

/// Whoever names himself after an attack is refused before anybody hears of him, and who passes is told of
/// as data.
#[tokio::test]
async fn hostile_names_reach_no_watcher() {
    let (server, _dir) = Running::fresh(&[]).await;
    let mut watch = Watch::open(&server, Transport::Sse, "", None).await;
    for name in ["x\n\ndata: forged", "\u{1b}[2J", "<script>", "\"},{\"", "\u{202e}evil", "a\u{2028}b"] {
        let mallory = Node::new(9, name, &server.join_token());
        assert_eq!(
            mallory.is_refused_at_once(server.info.http).await,
            meetpoint_proto::Code::BadName,
            "{name:?}"
        );
    }
    drop(Node::new(1, "alice", &server.join_token()).joins(server.info.http).await);
    let event = watch.event().await;
    assert_eq!((&event["type"], &event["data"]["name"]), (&json!("node:announce"), &json!("alice")));
    server.stop().await.unwrap();
}
