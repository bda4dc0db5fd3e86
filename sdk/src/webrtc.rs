//! A connection as `webrtc_util::Conn`: WebRTC stacks of that family (`webrtc-sctp`, `webrtc-data`, `dtls` and what is
//! built of them) run over the paths that Meetpoint finds.
//!
//! ```no_run
//! # async fn example(connection: meetpoint::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use meetpoint::webrtc::{Conn, FlowId};
//!
//! // Both sides open the same flow; one of them is the stack's client and the other its server.
//! let conn: Arc<dyn Conn + Send + Sync> = Arc::new(connection.webrtc(FlowId::FIRST)?);
//! conn.send(b"a packet").await?;
//! let mut packet = vec![0; meetpoint::webrtc::MAX_PACKET_LEN];
//! let len = conn.recv(&mut packet).await?;
//! println!("{len} bytes of {:?}", conn.remote_addr());
//! # Ok(())
//! # }
//! ```
//!
//! **What travels how.** Packets go in QUIC datagrams: encrypted and authenticated by the peers' keys, and as
//! unreliable and unordered as UDP's. (DTLS on top encrypts a second time; SCTP needs none of it here.) A packet that
//! is too long for one datagram goes in several, up to [`MAX_PACKET_LEN`]; if one of these is lost, so is the packet. A
//! longer packet is refused with `ErrPacketTooBig`. Sending waits while QUIC's congestion control has no room.
//!
//! **Whose packet it is.** Each [`FlowId`] is a channel of its own. The application's messages
//! ([`Connection::send_datagram`](crate::Connection::send_datagram)) and other flows are not mixed with it. What
//! arrives before the flow is open at this side is lost, as packets are that arrive before a socket is bound.
//!
//! **Addresses.** A path may change below a connection at any time, and nothing above notices. So the addresses of a
//! flow are names: an address of the unique local range (RFC 4193) for each node's key. No packet travels under them.
//!
//! ICE and TURN of such a stack have nothing to do here: Meetpoint's own paths are below.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use quinn::SendDatagramError;
use webrtc_util::Error;

use crate::connection::Connection;
use crate::datagrams::Queue;
use crate::paths::SyntheticAddr;

pub(crate) mod packets;

pub use crate::datagrams::OpenError;
pub use packets::MAX_PACKET_LEN;
pub use webrtc_util::Conn;

/// One of a connection's flows, which both sides call by the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(NonZeroU8);

impl FlowId {
    /// For whoever needs only one.
    pub const FIRST: Self = Self(NonZeroU8::MIN);

    /// Of a number from 1 to 255.
    #[must_use]
    pub const fn new(number: NonZeroU8) -> Self {
        Self(number)
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Connection {
    /// Opens a flow of packets as a `webrtc_util::Conn`. To be called within a tokio runtime. The flow is closed by
    /// [`Conn::close`], or when the value is dropped, and can be opened again then.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left behind.
    pub fn webrtc(&self, flow: FlowId) -> Result<WebRtcConn, OpenError> {
        let (_, datagrams) = self.parts();
        let queue = datagrams.open(flow.0.get())?;
        Ok(WebRtcConn { flow, connection: self.clone(), queue, sent: AtomicU32::new(0) })
    }
}

/// A flow of packets to the peer of a connection. See the module.
#[derive(Debug)]
pub struct WebRtcConn {
    flow: FlowId,
    connection: Connection,
    queue: Arc<Queue>,
    /// Numbers the packets that are sent in parts.
    sent: AtomicU32,
}

impl WebRtcConn {
    /// The connection below.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn remote(&self) -> SocketAddr {
        SyntheticAddr::of(&self.connection.peer()).socket_addr()
    }

    fn check(&self, target: SocketAddr) -> Result<(), Error> {
        if target == self.remote() {
            return Ok(());
        }
        let text = format!("a flow leads to its peer alone, which is {}, and not to {target}", self.remote());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text).into())
    }

    /// Closes the flow at this side; the connection stays.
    fn end(&self) {
        // A closed one's number may be another's by now.
        if !self.queue.is_closed() {
            self.connection.parts().1.close(self.flow.0.get());
        }
    }

    /// Why nothing comes any more.
    fn ended(&self) -> Error {
        match self.connection.parts().0.close_reason() {
            Some(reason) => io::Error::new(io::ErrorKind::ConnectionAborted, reason).into(),
            None => Error::ErrUseClosedNetworkConn,
        }
    }
}

impl Drop for WebRtcConn {
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl Conn for WebRtcConn {
    /// A flow is connected; another address than the peer's is refused.
    async fn connect(&self, addr: SocketAddr) -> Result<(), Error> {
        self.check(addr)
    }

    /// The next packet. One that `buf` is too short for is lost (`ErrBufferShort`). Cancelling loses nothing.
    async fn recv(&self, buf: &mut [u8]) -> Result<usize, Error> {
        let packet = self.queue.next().await.ok_or_else(|| self.ended())?;
        buf.get_mut(..packet.len()).ok_or(Error::ErrBufferShort)?.copy_from_slice(&packet);
        Ok(packet.len())
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        Ok((self.recv(buf).await?, self.remote()))
    }

    /// Sends one packet, and waits until QUIC has taken it.
    async fn send(&self, buf: &[u8]) -> Result<usize, Error> {
        if self.queue.is_closed() {
            return Err(self.ended());
        }
        let (quic, _) = self.connection.parts();
        let room = quic.max_datagram_size().ok_or(Error::ErrPacketTooBig)?;
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let parts = packets::parts(self.flow.0.get(), number, buf, room).ok_or(Error::ErrPacketTooBig)?;
        for part in parts {
            quic.send_datagram_wait(part).await.map_err(|error| match error {
                SendDatagramError::TooLarge => Error::ErrPacketTooBig,
                error => io::Error::new(io::ErrorKind::ConnectionAborted, error).into(),
            })?;
        }
        Ok(buf.len())
    }

    async fn send_to(&self, buf: &[u8], target: SocketAddr) -> Result<usize, Error> {
        self.check(target)?;
        self.send(buf).await
    }

    /// The name of this node as an address.
    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(SyntheticAddr::of(&self.connection.local()).socket_addr())
    }

    /// The name of the peer as an address.
    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(self.remote())
    }

    async fn close(&self) -> Result<(), Error> {
        self.end();
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
