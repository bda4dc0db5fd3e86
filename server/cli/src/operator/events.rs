//! `meetpoint events`: what happens, as it happens.

use std::io::Write;
use std::time::Duration;

use hyper::header::{ACCEPT, HeaderName};
use hyper::{Method, body::Bytes};
use serde_json::Value;

use super::client::{Access, Answer, Client, segment};
use super::text;
use crate::args::EventsArgs;
use crate::exit::Failure;
use crate::signals::Stop;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// For the head of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The server says something every 15 s; who has heard nothing for three times as long has no connection.
const SILENCE: Duration = Duration::from_secs(45);
/// What the past has to tell comes at once: whoever hears nothing for so long has heard all.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts to come back: the first one, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Longest event. The server's have some hundred bytes.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// `meetpoint events`.
pub(crate) async fn events(args: EventsArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let client = Client::new(&args.server, Access::Read)?;
    let watch = async { if args.follow { follow(&args, &client).await } else { past(&args, &client).await } };
    tokio::select! {
        outcome = watch => outcome,
        _ = stop.wait() => Ok(()),
    }
}

/// Tells what the server keeps.
async fn past(args: &EventsArgs, client: &Client) -> Result<(), Failure> {
    let told = told_already(open(&query(args), client, Some("0")).await?).await?;
    told.iter().try_for_each(|event| say(args.server.json, event))
}

/// All that the server keeps.
pub(super) async fn kept(client: &Client) -> Result<Vec<Value>, Failure> {
    told_already(open("", client, Some("0")).await?).await
}

async fn told_already(mut stream: Stream) -> Result<Vec<Value>, Failure> {
    let mut events = Vec::new();
    while let Ok(event) = tokio::time::timeout(PAUSE, stream.next()).await {
        let event = event.map_err(Failure::failed)?;
        if event["type"] != "system:ping" {
            events.push(event);
        }
    }
    Ok(events)
}

/// Without end. What it can't begin with is an error; what breaks later is made anew.
async fn follow(args: &EventsArgs, client: &Client) -> Result<(), Failure> {
    let mut place = args.after.clone();
    let query = query(args);
    let mut stream = open(&query, client, place.as_deref()).await?;
    loop {
        let broken = loop {
            let event = match tokio::time::timeout(SILENCE, stream.next()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => break error,
                Err(_) => break "nothing was heard for too long".to_owned(),
            };
            if let Some(id) = event["id"].as_str() {
                place = Some(id.to_owned());
            }
            if event["type"] != "system:ping" {
                say(args.server.json, &event)?;
            }
        };
        eprintln!("meetpoint: the stream broke off ({broken}); connecting again");
        stream = come_back(&query, client, place.as_deref()).await?;
    }
}

/// Where the last event was, as soon as the server answers again. A refusal ends it: a token may have been replaced.
async fn come_back(query: &str, client: &Client, place: Option<&str>) -> Result<Stream, Failure> {
    let (mut delay, longest) = RETRY;
    loop {
        tokio::time::sleep(delay).await;
        match open(query, client, place).await {
            Err(failure) if failure.is_temporary() => delay = (delay * 2).min(longest),
            outcome => return outcome,
        }
    }
}

fn query(args: &EventsArgs) -> String {
    let mut query = Vec::new();
    if !args.types.is_empty() {
        query.push(format!("types={}", segment(&args.types.join(","))));
    }
    if let Some(cluster) = &args.cluster {
        query.push(format!("cluster={}", segment(cluster)));
    }
    query.join("&")
}

async fn open(query: &str, client: &Client, place: Option<&str>) -> Result<Stream, Failure> {
    let path = format!("/v1/events?{query}");
    let mut headers = vec![(ACCEPT, "text/event-stream")];
    headers.extend(place.map(|place| (LAST_EVENT_ID, place)));
    let answer = client.open(Method::GET, &path, &headers, PATIENCE).await?;
    Ok(Stream { answer, buffer: Vec::new() })
}

/// An event stream (WHATWG HTML, section 9.2), of which the server uses one line of data an event.
struct Stream {
    answer: Answer,
    buffer: Vec<u8>,
}

impl Stream {
    /// Waits for the next event. Nothing is lost if the waiting is given up.
    async fn next(&mut self) -> Result<Value, String> {
        loop {
            if let Some(event) = take(&mut self.buffer) {
                return event;
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err("an event is too long".to_owned());
            }
            let piece: Option<Bytes> = self.answer.next().await.map_err(|error| error.to_string())?;
            self.buffer.extend_from_slice(&piece.ok_or("the server has ended it")?);
        }
    }
}

/// Takes the first whole event out of what has come. Comments are passed over.
fn take(buffer: &mut Vec<u8>) -> Option<Result<Value, String>> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let block = String::from_utf8_lossy(&block);
        if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
            return Some(serde_json::from_str(data).map_err(|error| format!("not an event: {error}")));
        }
    }
}

fn say(as_json: bool, event: &Value) -> Result<(), Failure> {
    let line = if as_json { event.to_string() } else { sentence(event) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::failed(format!("stdout: {error}")))
}

fn sentence(event: &Value) -> String {
    let [seq, kind, cluster] = ["seq", "type", "cluster"].map(|field| text(event, field));
    let line = if kind == "system:gap" {
        let [from, to, reason] = ["from", "to", "reason"].map(|field| text(&event["data"], field));
        format!("{seq} {kind} missing {from} to {to}: {reason}")
    } else {
        format!("{seq} {kind} {cluster} {}", event["data"])
    };
    // It goes to a terminal: no control characters.
    line.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_pieces() {
        let whole = b": hello\n\nid: a-1\nevent: x\ndata: {\"seq\":1}\n\nid: a-2\ndata: {\"seq\":2}\n\n";
        for cut in 0..whole.len() {
            let (mut buffer, mut found) = (Vec::new(), Vec::new());
            for piece in [&whole[..cut], &whole[cut..]] {
                buffer.extend_from_slice(piece);
                while let Some(event) = take(&mut buffer) {
                    found.push(event.expect("an event")["seq"].clone());
                }
            }
            assert_eq!((found, buffer.len()), (vec![1.into(), 2.into()], 0), "{cut}");
        }
        assert!(take(&mut b"data: {\n\n".to_vec()).expect("a block").is_err());
    }

    #[test]
    fn a_gap_is_told() {
        let gap = serde_json::json!({
            "seq": 9, "type": "system:gap", "cluster": null, "data": { "from": 3, "to": 8, "reason": "expired" }
        });
        assert_eq!(sentence(&gap), "9 system:gap missing 3 to 8: expired");
    }
}
