//! The control channel's task: frames to messages and back. It knows nothing of what they mean.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use meetpoint_proto::wire::{self, ClientMessage, ServerMessage};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::ws::{self, Control, OpenError, OpenOptions};

/// Messages waiting to be sent. The agent sends a handful at a time; if so many wait the channel is stuck.
const OUTGOING_QUEUE: usize = 256;

/// How long one frame may take to leave. Longer, and the server does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver hears of a channel.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// It is open.
    Opened { local: SocketAddr, remote: SocketAddr },
    /// The server said something.
    Message(ServerMessage),
    /// It has ended, or never opened.
    Closed(Option<OpenError>),
}

/// The driver's end of one channel. Dropping it closes the channel, after what was sent before has gone.
#[derive(Debug)]
pub(crate) struct Channel {
    outgoing: mpsc::Sender<ClientMessage>,
}

impl Channel {
    /// Starts opening a channel; what happens to it comes by `events`, marked with `number`, because an older
    /// channel may still speak when a newer one is there.
    pub(crate) fn open(
        options: OpenOptions,
        number: u64,
        events: mpsc::Sender<(u64, ControlEvent)>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (outgoing, messages) = mpsc::channel(OUTGOING_QUEUE);
        let task = async move {
            let end = match ws::open(&options).await {
                Ok(control) => {
                    converse(control, messages, number, &events).await;
                    None
                }
                Err(error) => Some(error),
            };
            // The driver may be gone before its channels.
            let _ = events.send((number, ControlEvent::Closed(end))).await;
        };
        (Self { outgoing }, task)
    }

    /// Queues a message; false if the channel is stuck or gone.
    #[must_use]
    pub(crate) fn send(&self, message: ClientMessage) -> bool {
        self.outgoing.try_send(message).is_ok()
    }
}

/// Whether a server would open a channel.
pub(crate) async fn knock(options: OpenOptions) -> bool {
    match ws::open(&options).await {
        Ok(mut control) => {
            // It is open, whatever becomes of the goodbye.
            let _ = timeout(SEND_TIMEOUT, control.socket.close(None)).await;
            true
        }
        Err(error) => {
            tracing::debug!(%error, "nobody opens");
            false
        }
    }
}

/// Carries messages until either side ends it.
async fn converse(
    control: Control,
    mut messages: mpsc::Receiver<ClientMessage>,
    number: u64,
    events: &mpsc::Sender<(u64, ControlEvent)>,
) {
    let Control { mut socket, local, remote, secure } = control;
    tracing::debug!(%local, %remote, secure, "control channel open");
    if events.send((number, ControlEvent::Opened { local, remote })).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            message = messages.recv() => {
                let frame = match &message {
                    Some(message) => Message::text(wire::encode(message)),
                    None => Message::Close(None),
                };
                let sent = timeout(SEND_TIMEOUT, socket.send(frame)).await;
                if message.is_none() || !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => match wire::decode_server(&text) {
                    Ok(message) => {
                        if events.send((number, ControlEvent::Message(message))).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the server does not speak this protocol");
                        return;
                    }
                },
                // Pings are answered by the library; anything else but text has no meaning here.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_)) | None => return,
                Some(Err(error)) => {
                    tracing::debug!(%error, "control channel broke");
                    return;
                }
            }
        }
    }
}
