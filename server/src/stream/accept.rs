//! Lets connections in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meetpoint_turn::ListenerId;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, trace, warn};

use super::StreamKind;
use super::connection::{self, Origin};
use super::places::{Bounds, Place, Places};
use crate::udp::Inboxes;

/// TLS handshakes at once: each costs the processor about a millisecond of signing.
const MAX_HANDSHAKES: usize = 256;
/// From accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that is silent is asked for a sign of life this often. One that is gone, because its NAT
/// forgot it or its machine went away, is noticed after some minutes and not at its allocation's end.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// What the connections of all listeners share.
pub(super) struct Shared {
    inboxes: Inboxes,
    tls: TlsAcceptor,
    places: Arc<Places>,
    handshakes: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A socket that accepts.
pub(super) struct Acceptor {
    pub(super) socket: TcpListener,
    pub(super) listener: ListenerId,
    pub(super) kind: StreamKind,
    pub(super) shared: Arc<Shared>,
}

impl Shared {
    pub(super) fn new(
        inboxes: Inboxes,
        tls: Arc<ServerConfig>,
        bounds: Bounds,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            inboxes,
            tls: TlsAcceptor::from(tls),
            places: Places::new(bounds),
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            tasks,
            stop,
        }
    }
}

impl Acceptor {
    /// Accepts until told to stop.
    pub(super) async fn run(self) {
        let mut is_failing = false;
        loop {
            let accepted = tokio::select! {
                () = self.shared.stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, source)) => {
                    is_failing = false;
                    self.admit(stream, source);
                }
                // That one connection's error, which says nothing about the next one.
                Err(error) if is_of_one_connection(&error) => trace!(%error, "a connection broke"),
                Err(error) => {
                    if !is_failing {
                        warn!(%error, "accepting STUN connections fails; it is tried again");
                    }
                    is_failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, source: SocketAddr) {
        let place = match self.shared.places.take(self.listener, source) {
            Ok(place) => place,
            Err(refused) => {
                debug!(%source, reason = %refused, "a connection was closed unheard");
                return;
            }
        };
        let (listener, kind) = (self.listener, self.kind);
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let origin = Origin { listener, source, kind };
            let served = match kind {
                StreamKind::Tcp => shared.serve_plain(stream, origin).await,
                StreamKind::Tls => shared.serve_encrypted(stream, origin, &place).await,
            };
            if let Err(error) = served {
                trace!(%source, %error, "a connection did not begin");
            }
            // Not earlier: until here the shard may hear of it.
            drop(place);
        });
    }
}

impl Shared {
    async fn serve_plain(&self, stream: TcpStream, origin: Origin) -> io::Result<()> {
        prepare(&stream)?;
        self.serve(stream, origin).await;
        Ok(())
    }

    async fn serve_encrypted(&self, stream: TcpStream, origin: Origin, place: &Place) -> io::Result<()> {
        prepare(&stream)?;
        let stream = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            shaken = timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream, place)) => {
                shaken.map_err(io::Error::from)??
            }
        };
        self.serve(stream, origin).await;
        Ok(())
    }

    /// The source's own share comes first: one that stalls its handshakes keeps only itself waiting.
    async fn shake_hands(&self, stream: TcpStream, place: &Place) -> io::Result<Box<TlsStream<TcpStream>>> {
        // Whoever says nothing needs no place.
        if stream.peek(&mut [0]).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let _of_source = place.handshakes.acquire().await.map_err(io::Error::other)?;
        let _of_all = self.handshakes.acquire().await.map_err(io::Error::other)?;
        self.tls.accept(stream).await.map(Box::new)
    }

    async fn serve<S>(&self, stream: S, origin: Origin)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
    {
        // There is no shard: the server is ending.
        let Some(inbox) = self.inboxes.of(origin.source) else { return };
        let end = connection::serve(stream, origin, inbox, &self.tasks, &self.stop).await;
        trace!(source = %origin.source, reason = %end, "a connection ended");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Packets do not wait for each other.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
