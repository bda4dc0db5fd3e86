//! Events over a WebSocket: one envelope a text frame.
//!
//! The client may ping, and may answer the server's pings; it has nothing else to say.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::debug;

use super::Stream;
use crate::events::{Event, Frame, Kind};
use crate::http::App;

/// Memory a connection takes for reading: a client's words are short.
const READ_BUFFER_BYTES: usize = 1024;
/// The longest word of a client: a whole envelope, should it send a ping back as it came.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// How long one event may take to reach the kernel. Who does not read loses his place to others.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Words of a client between two pings of the server.
const MAX_WORDS: u32 = 16;

/// What a client may say.
#[derive(Deserialize)]
struct Word {
    #[serde(rename = "type")]
    kind: String,
}

/// Why a stream ends before the server does.
enum End {
    /// The client is gone.
    Gone,
    /// It says what it must not, and is told so: a status code (RFC 6455, section 7.4.1) and its reason.
    Refused(u16, &'static str),
}

pub(super) fn upgrade(upgrade: WebSocketUpgrade, app: &App, stream: Stream) -> Response {
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .max_message_size(MAX_MESSAGE_BYTES);
    let (tasks, halt) = (app.tasks.clone(), app.halt.clone());
    upgrade.on_upgrade(move |socket| {
        let served = halt.run_until_cancelled_owned(serve(socket, stream));
        tasks.track_future(async move {
            served.await;
        })
    })
}

async fn serve(mut socket: WebSocket, mut stream: Stream) {
    let (code, reason) = match tell(&mut socket, &mut stream).await {
        Ok(()) if !stream.shutdown.is_cancelled() => (close_code::NORMAL, "the time is over"),
        Ok(()) => (close_code::AWAY, "the server is going away"),
        Err(End::Refused(code, reason)) => (code, reason),
        Err(End::Gone) => return,
    };
    debug!(code, reason, "an event stream ends");
    let frame = CloseFrame { code, reason: reason.into() };
    let goodbye = async {
        // The client may have closed first.
        let _ = socket.send(Message::Close(Some(frame))).await;
        // Its own goodbye, so that no reset overtakes ours.
        while let Some(Ok(_)) = socket.recv().await {}
    };
    let _ = timeout(WRITE_TIMEOUT, goodbye).await;
}

/// Tells events until the server ends.
async fn tell(socket: &mut WebSocket, stream: &mut Stream) -> Result<(), End> {
    let mut words = 0;
    loop {
        tokio::select! {
            frame = stream.next() => {
                let Some(frame) = frame else { return Ok(()) };
                if frame.kind() == Kind::Ping {
                    words = 0;
                }
                send(socket, &frame).await?;
            }
            message = socket.recv() => {
                words += 1;
                if words > MAX_WORDS {
                    return Err(End::Refused(close_code::POLICY, "too many messages"));
                }
                if hear(message)? == Some(Kind::Ping) {
                    send(socket, &stream.events.say(&Event::Pong {})).await?;
                }
            }
        }
    }
}

/// What the client says, if it is something.
fn hear(message: Option<Result<Message, axum::Error>>) -> Result<Option<Kind>, End> {
    match message {
        Some(Ok(Message::Text(text))) => {
            let word = serde_json::from_str::<Word>(&text).ok();
            match word.and_then(|word| word.kind.parse().ok()) {
                Some(kind @ (Kind::Ping | Kind::Pong)) => Ok(Some(kind)),
                _ => Err(End::Refused(close_code::POLICY, "a client says system:ping or system:pong")),
            }
        }
        Some(Ok(Message::Binary(_))) => Err(End::Refused(close_code::UNSUPPORTED, "messages are text")),
        // Answered by the library.
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
    }
}

async fn send(socket: &mut WebSocket, frame: &Frame) -> Result<(), End> {
    // JSON is UTF-8.
    let text = Utf8Bytes::try_from(frame.json()).map_err(|_| End::Gone)?;
    match timeout(WRITE_TIMEOUT, socket.send(Message::Text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}
