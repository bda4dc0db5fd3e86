//! The control channel's shell: frames in, frames out. What they mean is the broker's business.
//!
//! One task a connection reads and writes. A node that does not read is disconnected by the broker's
//! bounded queue or by the write timeout; one that floods is read more slowly, which holds it back
//! by TCP. Whoever is refused gets the refusal and a moment to read it before the connection goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderValue;
use axum::http::header::UPGRADE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use meetpoint_broker::ConnId;
use meetpoint_proto::Code;
use meetpoint_proto::addr;
use meetpoint_proto::wire::{DecodeError, MAX_FRAME_BYTES, Refusal, ServerMessage, decode_client, encode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::App;
use super::gate::Place;
use super::problem::{Problem, ProblemCode};
use crate::rendezvous::{Connection, Handle, Outgoing};

/// Memory a connection takes for reading at first; most messages have a few hundred bytes.
const READ_BUFFER_BYTES: usize = 1024;
/// Written to the socket beyond this; a message is flushed anyway.
const WRITE_BUFFER_BYTES: usize = 2 * 1024;
/// Two of the largest frames.
const MAX_WRITE_BUFFER_BYTES: usize = 2 * MAX_FRAME_BYTES;
/// Messages that are written together.
const AT_ONCE: usize = 16;
/// How long so many messages may take to reach the kernel.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection stays after the last word, so that a reset can't overtake it.
const LINGER: Duration = Duration::from_secs(1);
/// Messages a node may send in one go: the candidates and connects of a node that comes back.
const BURST: u32 = 256;
/// The pace beyond that. A node at work sends a few a second.
const PACE: Duration = Duration::from_millis(10);

/// Opens a control channel.
pub(super) async fn door(
    State(app): State<App>,
    ConnectInfo(source): ConnectInfo<SocketAddr>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, NoUpgrade> {
    let upgrade = upgrade.map_err(|error| NoUpgrade(error.body_text()))?;
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_message_size(MAX_FRAME_BYTES);
    let (tasks, halt) = (app.tasks.clone(), app.halt.clone());
    Ok(upgrade.on_upgrade(move |socket| {
        // Each layer around a future may hold it twice: what lasts is boxed, once.
        let served = Box::pin(serve(socket, app, addr::unmap(source)));
        tasks.track_future(async move {
            halt.run_until_cancelled_owned(served).await;
        })
    }))
}

/// The request does not ask for a WebSocket.
pub(super) struct NoUpgrade(pub(super) String);

impl IntoResponse for NoUpgrade {
    fn into_response(self) -> Response {
        let upgrade = [(UPGRADE, HeaderValue::from_static("websocket"))];
        (upgrade, Problem::new(ProblemCode::UpgradeRequired, self.0)).into_response()
    }
}

async fn serve(socket: WebSocket, app: App, source: SocketAddr) {
    let (sink, stream) = socket.split();
    let place = match enter(&app, source) {
        Ok(place) => place,
        // Boxed, so that those who stay do not hold its room.
        Err(refusal) => return Box::pin(turn_away(sink, stream, refusal)).await,
    };
    let Ok(Connection { id, outbound, too_slow }) = app.rendezvous.open(source).await else { return };
    let mut writer = Writer { sink, place: Some(place) };
    let end = {
        let write = writer.run(outbound);
        let read = Reader { stream, pace: Pace::new() }.run(&app.rendezvous, id);
        tokio::pin!(write, read);
        tokio::select! {
            end = &mut read => {
                if end == ReadEnd::Unreadable {
                    // The refusal is on its way; the rest of the frame can't be read past.
                    let _ = timeout(WRITE_TIMEOUT, &mut write).await;
                    tokio::time::sleep(LINGER).await;
                }
                End::Done
            }
            () = &mut write => {
                let _ = timeout(LINGER, &mut read).await;
                End::Done
            }
            () = too_slow.cancelled() => End::TooSlow,
        }
    };
    if end == End::TooSlow {
        // It did not read what came before, so it may well not read this.
        let message = ServerMessage::Closing(Refusal::new(Code::TooSlow));
        let _ = timeout(LINGER, writer.send(&message)).await;
    }
    // If the broker is gone there is nobody to tell.
    let _ = app.rendezvous.closed(id).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    TooSlow,
}

/// A place at the door, or why there is none. Whose source has failed too often is let in: whether its
/// node is a member is known only when it has signed.
fn enter(app: &App, source: SocketAddr) -> Result<Place, Refusal> {
    if let Some(until) = app.drain.until() {
        let left = until.at.saturating_duration_since(Instant::now());
        let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        return Err(Refusal::new(Code::Shutdown).retry_after_ms(wait_ms).detail("the server is draining"));
    }
    app.gate.enter(Some(source.ip())).ok_or_else(|| {
        let wait_ms = u64::try_from(app.turns.next(Instant::now()).as_millis()).unwrap_or(u64::MAX);
        Refusal::new(Code::ServerFull).retry_after_ms(wait_ms).detail("too many joins at once")
    })
}

async fn turn_away(sink: SplitSink<WebSocket, Message>, stream: SplitStream<WebSocket>, refusal: Refusal) {
    debug!(code = %refusal.code, "turned away");
    let mut writer = Writer { sink, place: None };
    let goodbye = async {
        if writer.send(&ServerMessage::Rejected(refusal)).await.is_ok() {
            writer.close().await;
        }
    };
    if timeout(LINGER, goodbye).await.is_ok() {
        let _ = timeout(LINGER, stream.for_each(|_| std::future::ready(()))).await;
    }
}

/// Nothing more can be written.
struct Broken;

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    /// Given back when the node is a member.
    place: Option<Place>,
}

impl Writer {
    /// Sends until the broker has no more to say, then closes. What waits goes out together.
    async fn run(&mut self, mut outbound: mpsc::Receiver<Outgoing>) {
        let mut waiting = Vec::new();
        while outbound.recv_many(&mut waiting, AT_ONCE).await > 0 {
            match timeout(WRITE_TIMEOUT, self.send_all(&mut waiting)).await {
                Ok(Ok(())) => {}
                Ok(Err(Broken)) | Err(_) => return,
            }
        }
        let _ = timeout(WRITE_TIMEOUT, self.close()).await;
    }

    async fn send_all(&mut self, waiting: &mut Vec<Outgoing>) -> Result<(), Broken> {
        for outgoing in waiting.drain(..) {
            let text = match &outgoing {
                Outgoing::Message(message) => {
                    if matches!(**message, ServerMessage::Welcome(_)) {
                        self.place = None;
                    }
                    Utf8Bytes::from(encode(message))
                }
                Outgoing::Frame(frame) => Utf8Bytes::from(&**frame),
            };
            self.sink.feed(Message::Text(text)).await.map_err(|_| Broken)?;
        }
        self.sink.flush().await.map_err(|_| Broken)
    }

    async fn send(&mut self, message: &ServerMessage) -> Result<(), Broken> {
        self.sink.send(Message::text(encode(message))).await.map_err(|_| Broken)
    }

    async fn close(&mut self) {
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        // The node may have closed first.
        let _ = self.sink.send(Message::Close(Some(frame))).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadEnd {
    /// The node is gone.
    Gone,
    /// What it sent can't be read past.
    Unreadable,
}

struct Reader {
    stream: SplitStream<WebSocket>,
    pace: Pace,
}

impl Reader {
    /// Reads until the node closes.
    async fn run(mut self, rendezvous: &Handle, conn: ConnId) -> ReadEnd {
        loop {
            let told = match self.stream.next().await {
                None | Some(Ok(Message::Close(_))) => return ReadEnd::Gone,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Text(text))) => match decode_client(&text) {
                    Ok(message) => rendezvous.message(conn, message).await,
                    Err(error) => rendezvous.malformed(conn, error).await,
                },
                Some(Ok(Message::Binary(_))) => {
                    let error = DecodeError::Malformed("a binary frame; messages are text".to_owned());
                    rendezvous.malformed(conn, error).await
                }
                Some(Err(error)) => {
                    let Some(error) = as_decode_error(&error) else { return ReadEnd::Gone };
                    // If the broker is gone, so is this connection.
                    let _ = rendezvous.malformed(conn, error).await;
                    return ReadEnd::Unreadable;
                }
            };
            if told.is_err() {
                return ReadEnd::Gone;
            }
            self.pace.wait().await;
        }
    }
}

/// What the node did wrong, if it was the node and not the network.
fn as_decode_error(error: &axum::Error) -> Option<DecodeError> {
    // The WebSocket library's own error type is not part of axum's interface: its words are.
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    if text.contains("too long") || text.contains("Space limit") {
        return Some(DecodeError::TooLarge { len: MAX_FRAME_BYTES + 1 });
    }
    let is_protocol = text.contains("protocol error") || text.contains("UTF-8");
    (is_protocol && !text.contains("closing handshake")).then_some(DecodeError::Malformed(text))
}

/// Lets a burst pass, then one message each [`PACE`].
struct Pace {
    /// When all of the burst is free again.
    full_at: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        self.full_at = self.full_at.max(now) + PACE;
        let debt = self.full_at - now;
        if let Some(excess) = debt.checked_sub(PACE * BURST) {
            tokio::time::sleep(excess).await;
        }
    }
}
