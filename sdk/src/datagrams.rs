//! Unreliable messages of a connection, and whose they are.
//!
//! A message of the application goes as it is. What belongs to a flow begins with [`MARK`] and the flow's number, and
//! so that nothing is confused with it, a message that happens to begin with the mark goes behind a mark and a zero.
//! Nobody pays for flows but who uses them, and a node that knows none drops what is not the application's.
//!
//! With the feature `webrtc` one task reads a connection's datagrams, from the first reader on, and deals them to their
//! queues. Queues are bounded and lose the oldest first, as a socket's does not: a late packet is worth less than a new
//! one.

use bytes::{BufMut, Bytes, BytesMut};
use quinn::ConnectionError;

#[cfg(feature = "webrtc")]
pub use flows::OpenError;
#[cfg(feature = "webrtc")]
pub(crate) use flows::{Flows, Queue};

#[cfg(feature = "webrtc")]
#[path = "datagrams/flows.rs"]
mod flows;

/// First byte of what is not an application's message as it is. No protocol that is used over datagrams begins with
/// it: STUN, DTLS, RTP and QUIC are below 0xC0 or not sent inside of connections (RFC 7983).
pub(crate) const MARK: u8 = 0xF7;
/// Stands behind the mark where a flow's number would.
pub(crate) const APPLICATION: u8 = 0;
/// Mark and number.
pub(crate) const MARK_LEN: usize = 2;

/// Whose a datagram is that has arrived, and what it says: [`APPLICATION`], or the number of a flow.
pub(crate) fn read(mut datagram: Bytes) -> (u8, Bytes) {
    match datagram.first_chunk() {
        Some(&[MARK, number]) => {
            let rest = datagram.split_off(MARK_LEN);
            (number, rest)
        }
        _ => (APPLICATION, datagram),
    }
}

/// An application's message as it is sent.
pub(crate) fn plain(message: Bytes) -> Bytes {
    if message.first() != Some(&MARK) {
        return message;
    }
    let mut marked = BytesMut::with_capacity(MARK_LEN + message.len());
    marked.put_slice(&[MARK, APPLICATION]);
    marked.put(message);
    marked.freeze()
}

/// A connection's datagrams, read by whom they are for.
#[derive(Debug)]
pub(crate) struct Datagrams {
    quic: quinn::Connection,
    #[cfg(feature = "webrtc")]
    flows: Flows,
}

impl Datagrams {
    pub(crate) fn new(quic: quinn::Connection) -> Self {
        Self {
            #[cfg(feature = "webrtc")]
            flows: Flows::default(),
            quic,
        }
    }

    /// The application's next message.
    ///
    /// # Errors
    /// If the connection has ended.
    #[cfg(not(feature = "webrtc"))]
    pub(crate) async fn read(&self) -> Result<Bytes, ConnectionError> {
        loop {
            if let (APPLICATION, message) = read(self.quic.read_datagram().await?) {
                return Ok(message);
            }
        }
    }

    /// The application's next message.
    ///
    /// # Errors
    /// If the connection has ended.
    #[cfg(feature = "webrtc")]
    pub(crate) async fn read(&self) -> Result<Bytes, ConnectionError> {
        let Ok(queue) = self.flows.plain(&self.quic) else {
            // Outside of a runtime there is no connection either.
            return Err(ConnectionError::LocallyClosed);
        };
        let ended = || self.quic.close_reason().unwrap_or(ConnectionError::LocallyClosed);
        queue.next().await.ok_or_else(ended)
    }

    /// Opens a flow.
    ///
    /// # Errors
    /// [`OpenError`]
    #[cfg(feature = "webrtc")]
    pub(crate) fn open(&self, number: u8) -> Result<std::sync::Arc<Queue>, OpenError> {
        self.flows.open(&self.quic, number)
    }

    /// Ends a flow at this side: what comes for it is dropped, and its reader told.
    #[cfg(feature = "webrtc")]
    pub(crate) fn close(&self, number: u8) {
        self.flows.close(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_may_say_anything() {
        for (message, on_the_wire) in [
            (&b""[..], &b""[..]),
            (b"hello", b"hello"),
            (b"\xF6\xF7\x01", b"\xF6\xF7\x01"),
            (b"\xF7", b"\xF7\0\xF7"),
            (b"\xF7\x01packet", b"\xF7\0\xF7\x01packet"),
            (b"\xF7\0", b"\xF7\0\xF7\0"),
        ] {
            let sent = plain(Bytes::from_static(message));
            assert_eq!(sent, on_the_wire, "{message:?}");
            assert_eq!(read(sent), (APPLICATION, Bytes::from_static(message)));
        }
    }

    #[test]
    fn what_arrives_is_somebodys() {
        for (datagram, owner, rest) in [
            (&b"\xF7\x01packet"[..], 1, &b"packet"[..]),
            (b"\xF7\xFF", 255, b""),
            (b"\xF7\0", APPLICATION, b""),
            // Nobody sends it so; it is harmless.
            (b"\xF7", APPLICATION, b"\xF7"),
        ] {
            assert_eq!(read(Bytes::from_static(datagram)), (owner, Bytes::from_static(rest)), "{datagram:?}");
        }
    }
}
