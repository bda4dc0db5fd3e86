//! The connections of introductions by peers: messages on one stream, in the words of [`meetpoint_proto::meet`]. What
//! they mean is the agent's business, and on the other side the introducer's.

use std::time::Duration;

use meetpoint_proto::NodeId;
use meetpoint_proto::meet::{self, GuestMessage, IntroducerMessage, MAX_MEET_BYTES};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::quic::Quic;

/// Messages waiting to be sent to one peer. More, and it does not read.
pub(crate) const LINE_QUEUE: usize = 64;
/// How long one message may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// What both sides close with when they are done.
const DONE: VarInt = VarInt::from_u32(0);

/// What a guest's driver hears of its connection to an introducer.
#[derive(Debug)]
pub(crate) enum GuestEvent {
    Opened,
    Said(IntroducerMessage),
    Closed,
}

/// One connection to a peer that may introduce this node, which ends when `messages` does. What happens on it comes by
/// `events`, marked with `number`, because an older one may still speak when a newer one is there.
pub(crate) async fn guest(
    quic: Quic,
    (peer, number, rtt): (NodeId, u64, Duration),
    messages: mpsc::Receiver<GuestMessage>,
    events: mpsc::Sender<(NodeId, u64, GuestEvent)>,
) {
    match quic.connect_to_introducer(&peer, rtt).await {
        Ok(connection) => {
            if let Ok((send, recv)) = connection.open_bi().await
                && events.send((peer, number, GuestEvent::Opened)).await.is_ok()
            {
                let said = |message| (peer, number, GuestEvent::Said(message));
                converse((send, recv), messages, &events, said).await;
            }
            connection.close(DONE, b"");
        }
        // Most peers introduce nobody.
        Err(error) => tracing::debug!(%peer, %error, "no introducer"),
    }
    // The driver may be gone.
    let _ = events.send((peer, number, GuestEvent::Closed)).await;
}

/// One guest's connection, on the introducer's side.
#[cfg(feature = "rendezvous")]
pub(crate) async fn host<Event>(
    connection: Connection,
    messages: mpsc::Receiver<IntroducerMessage>,
    events: &mpsc::Sender<Event>,
    said: impl Fn(GuestMessage) -> Event,
) {
    // One stream is all there is to it.
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
    if let Ok(Ok(stream)) = timeout(SEND_TIMEOUT, connection.accept_bi()).await {
        converse(stream, messages, events, said).await;
    }
    connection.close(DONE, b"");
}

/// Refuses a guest.
pub(crate) fn turn_away(connection: &Connection) {
    connection.close(DONE, b"this node introduces nobody");
}

/// Carries messages until either side ends it.
async fn converse<Said: DeserializeOwned, Event>(
    (mut send, mut recv): (SendStream, RecvStream),
    mut messages: mpsc::Receiver<impl Serialize>,
    events: &mpsc::Sender<Event>,
    said: impl Fn(Said) -> Event,
) {
    let write = async {
        while let Some(message) = messages.recv().await {
            let sent = timeout(SEND_TIMEOUT, send.write_all(&meet::encode(&message))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    };
    let read = async {
        while let Some(message) = read(&mut recv).await {
            if events.send(said(message)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

/// The next message; `None` at the stream's end, and after anything that is none.
async fn read<Said: DeserializeOwned>(recv: &mut RecvStream) -> Option<Said> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.ok()?;
    let len = usize::try_from(u32::from_be_bytes(len)).ok().filter(|len| *len <= MAX_MEET_BYTES)?;
    let mut bytes = vec![0; len];
    recv.read_exact(&mut bytes).await.ok()?;
    meet::decode(&bytes).ok()
}
