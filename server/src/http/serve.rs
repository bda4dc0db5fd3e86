//! The listener: one port for TLS and plain HTTP.
//!
//! The first byte tells: 0x16 begins a TLS record of the handshake (RFC 8446, section 5.1), and no
//! HTTP method. All that a stranger can hold open has a bound in number and in time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, trace, warn};

use super::forwarded::TrustedProxies;
use super::gate::Gate;
use super::plain::PlainHttp;
use super::stall::Unstalled;

/// Connections that speak HTTP at once: as many nodes as the broker takes may come back together, and the
/// operator still gets through.
pub(super) const MAX_CONNECTIONS: usize = 22_000;
/// TLS handshakes at once: each costs the processor about a millisecond of signing.
const MAX_TLS_HANDSHAKES: usize = 256;
/// From accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Head of a request. Beyond this the connection ends with a bare 431; what is somewhat smaller and still
/// too long gets a refusal in words.
const MAX_HEAD_BYTES: usize = 48 * 1024;
const MAX_HEADERS: usize = 100;
/// After accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Content type of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// WebSockets start with an HTTP/1.1 request.
pub(crate) const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// The address of this machine that a request came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArrivedAt(pub(super) SocketAddr);

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The listener and what its connections share.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// Who comes without it.
    pub(crate) plain: Arc<PlainHttp>,
    pub(crate) router: Router,
    /// Of all sources' connections that speak HTTP.
    pub(crate) gate: Arc<Gate>,
    /// Those carry the connections of many, and are counted in all only.
    pub(crate) proxies: Arc<TrustedProxies>,
    /// For the head of a request, and so for an idle connection that is kept.
    pub(crate) head_timeout: Duration,
    pub(crate) tasks: TaskTracker,
    /// No new connections; those that are there finish their request.
    pub(crate) stop: CancellationToken,
    /// Those that are there end, whatever they do.
    pub(crate) halt: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    tls: TlsAcceptor,
    plain: Arc<PlainHttp>,
    handshakes: Arc<Semaphore>,
    router: Router,
    head_timeout: Duration,
    stop: CancellationToken,
}

impl Listener {
    /// Accepts until told to stop.
    pub(crate) async fn run(self) {
        let shared = Shared {
            tls: TlsAcceptor::from(self.tls),
            plain: self.plain,
            handshakes: Arc::new(Semaphore::new(MAX_TLS_HANDSHAKES)),
            router: self.router,
            head_timeout: self.head_timeout,
            stop: self.stop.clone(),
        };
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let is_proxy = self.proxies.has(source.ip());
            let Some(place) = self.gate.enter((!is_proxy).then(|| source.ip())) else {
                debug!(%source, "too many connections; one was closed unheard");
                continue;
            };
            let (shared, halt) = (shared.clone(), self.halt.clone());
            self.tasks.spawn(async move {
                let served = halt.run_until_cancelled(shared.serve(stream, source, is_proxy)).await;
                if let Some(Err(error)) = served {
                    trace!(%source, %error, "a connection ended");
                }
                drop(place);
            });
        }
    }
}

impl Shared {
    async fn serve(self, stream: TcpStream, source: SocketAddr, is_proxy: bool) -> io::Result<()> {
        // Control messages are small and must not wait for each other.
        stream.set_nodelay(true)?;
        let arrived_at = ArrivedAt(stream.local_addr()?);
        let stream = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            opened = timeout(HANDSHAKE_TIMEOUT, self.open(stream)) => opened.map_err(io::Error::from)??,
        };
        if !is_proxy && matches!(stream, Either::Left(_)) {
            self.plain.note(Instant::now(), source.ip());
        }
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(source));
            request.extensions_mut().insert(arrived_at);
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(Unstalled::new(stream)), service)
            .with_upgrades();
        tokio::pin!(connection);
        let served = tokio::select! {
            served = &mut connection => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        served.map_err(io::Error::other)
    }

    /// Looks at the first byte, and shakes hands if it asks for TLS.
    async fn open(&self, stream: TcpStream) -> io::Result<Stream> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first != [TLS_HANDSHAKE] {
            return Ok(Either::Left(stream));
        }
        let _place = self.handshakes.acquire().await.map_err(io::Error::other)?;
        let stream = self.tls.accept(stream).await?;
        Ok(Either::Right(Box::new(stream)))
    }
}
