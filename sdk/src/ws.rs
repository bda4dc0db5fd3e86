//! Opens the control channel: a WebSocket to the rendezvous server.
//!
//! The server answers TLS and plain HTTP on one port, so a pin alone is reason enough for TLS,
//! whatever the URL says; without either, plain HTTP is for the same machine only, unless the user
//! insists. An attempt ends within [`OPEN_TIMEOUT`], by an error that says what to do; trying
//! again is the caller's.
//!
//! Deliberately absent: what is said on the channel.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meetpoint_proto::SeedAddr;
use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::seed::Host;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::dial;
use crate::egress::{Blocked, Egress, ResolveError};
use crate::tls::{self, Pins, Roots};

/// Where the server's control channel is.
const CONTROL_PATH: &str = "/v1/control";

/// Largest message either side may send; the largest of the protocol is a tenth of it.
pub(crate) const MAX_MESSAGE_LEN: usize = 64 << 10;

/// Bytes of messages waiting for a slow network; beyond it the channel is given up.
const MAX_UNSENT_LEN: usize = 8 * MAX_MESSAGE_LEN;

/// From the name's look-up to the upgraded channel. Two lost packets on a slow link fit in it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// What to open, and what to insist on.
#[derive(Debug, Clone)]
pub(crate) struct OpenOptions {
    /// The server.
    pub(crate) server: ServerUrl,
    /// Whom its certificate has to be for, if not for the host in the URL: DNS may have said which host that is, and
    /// DNS proves nothing.
    pub(crate) tls_name: Option<String>,
    /// Fingerprints of the server's key: the join token's, and others.
    pub(crate) pins: Pins,
    /// Whether plain HTTP may leave this machine.
    pub(crate) insecure_http: bool,
    /// Who vouches for a public certificate.
    pub(crate) roots: Roots,
    /// The way out.
    pub(crate) egress: Arc<Egress>,
}

/// An open control channel.
pub(crate) struct Control {
    /// The channel.
    pub(crate) socket: WebSocketStream<Box<dyn ByteStream>>,
    /// The node's address towards the server.
    pub(crate) local: SocketAddr,
    /// The server's address.
    pub(crate) remote: SocketAddr,
    /// Whether TLS protects it.
    pub(crate) secure: bool,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({} -> {}, secure: {})", self.local, self.remote, self.secure)
    }
}

/// A byte stream, plain or TLS.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Address of a rendezvous server, checked: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    tls: bool,
    host: String,
    port: u16,
}

/// Why a text is not a server's address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}; expected http://HOST:PORT or https://HOST:PORT")]
pub struct UrlError(&'static str);

impl UrlError {
    pub(crate) fn new(what: &'static str) -> Self {
        Self(what)
    }
}

impl std::str::FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: http::Uri = text.parse().map_err(|_| UrlError("not a URL"))?;
        // The parser passes it over.
        if text.contains('#') {
            return Err(UrlError("a fragment does not belong here"));
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(UrlError("the scheme is neither http nor https")),
            None => return Err(UrlError("the scheme is missing")),
        };
        let authority = uri.authority().ok_or(UrlError("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(UrlError("a URL carries no user or password here"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(UrlError("a path or query does not belong here"));
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0),
            None => Some(if tls { 443 } else { 80 }),
        };
        let port = port.ok_or(UrlError("the port is not a number from 1 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(UrlError("the host is missing"));
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl ServerUrl {
    /// Where a seed is met. In the open only on this machine, unless the user insists.
    pub(crate) fn of_seed(seed: &SeedAddr, insecure_http: bool) -> Self {
        let (host, is_here) = match &seed.host {
            Host::Ip(ip) => (ip.to_string(), ip.to_canonical().is_loopback()),
            Host::Dns(name) => (name.clone(), name == "localhost"),
        };
        Self::of_host(!is_here && !insecure_http, host, seed.port)
    }

    /// From its parts, which are what they should be.
    pub(crate) fn of_host(tls: bool, host: String, port: u16) -> Self {
        Self { tls, host, port }
    }

    /// `HOST:PORT`, as a Host header wants it.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What an attempt was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenStage {
    /// Looking the host name up.
    Resolve,
    /// Connecting by TCP.
    Connect,
    /// Shaking hands in TLS.
    Tls,
    /// Upgrading to a WebSocket.
    Upgrade,
}

impl std::fmt::Display for OpenStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the name server did not answer; check the host name and this machine's DNS",
            Self::Connect => "the server did not answer; check address, port and firewall",
            Self::Tls => "it accepted the connection but not TLS; check the port",
            Self::Upgrade => "it accepted the connection but no WebSocket; check the port, and any proxy",
        })
    }
}

/// Why the control channel did not open. Nothing stays open.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The host name has no address.
    #[error("cannot resolve {host}: {source}; check the host name and this machine's DNS")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The node insists on a PRIVATE cluster, and the server, or the name server that would have to be asked for it,
    /// is not in the private network. Nothing was sent.
    #[error("refusing to connect to {server}: {source}")]
    Sealed {
        /// The server.
        server: ServerUrl,
        /// What is not private.
        source: Blocked,
    },
    /// Unprotected traffic to another machine.
    #[error(
        "refusing plain HTTP to {remote}, which is not this machine: use an https URL or a join token with \
         the server's fingerprint, or allow it by --insecure-http"
    )]
    PlainRefused {
        /// The address.
        remote: SocketAddr,
    },
    /// No address accepted a connection.
    #[error("cannot connect to {server}: {source}; check that the server runs there, and any firewall")]
    Connect {
        /// The server.
        server: ServerUrl,
        /// The last address's error.
        source: io::Error,
    },
    /// Nothing happened for too long.
    #[error("{server} took longer than {} s: {stage}", OPEN_TIMEOUT.as_secs())]
    TimedOut {
        /// The server.
        server: ServerUrl,
        /// What was awaited.
        stage: OpenStage,
    },
    /// The server is not the one that the token is for.
    #[error(
        "the server's certificate does not match the token's fingerprint (expected {expected}, found \
         {found}): the token is for another server or an older key, or someone is in between; get a new \
         token from the operator"
    )]
    PinMismatch {
        /// The token's fingerprint, and others that were given.
        expected: Pins,
        /// The server's.
        found: Fingerprint,
    },
    /// Nobody this machine trusts vouches for the server.
    #[error(
        "the certificate of {server} is not trusted: {source}; use a join token that carries the server's \
         fingerprint, or give the server a certificate for that name"
    )]
    Untrusted {
        /// The server.
        server: ServerUrl,
        /// What is wrong with the certificate.
        source: rustls::Error,
    },
    /// TLS failed in another way.
    #[error("no TLS with {server}: {source}; check that this port answers TLS")]
    Tls {
        /// The server.
        server: ServerUrl,
        /// What failed.
        source: io::Error,
    },
    /// An HTTP server that opens no control channel.
    #[error("{server} answered HTTP {status} instead of opening {CONTROL_PATH}: {}", status_hint(*status))]
    Status {
        /// The server.
        server: ServerUrl,
        /// Its answer.
        status: u16,
    },
    /// Not HTTP, or not a WebSocket.
    #[error("{server} did not open a WebSocket: {source}; check that a Meetpoint server runs there")]
    Upgrade {
        /// The server.
        server: ServerUrl,
        /// What failed.
        source: Box<tungstenite::Error>,
    },
}

impl OpenError {
    /// Waiting does not help: the user has to do something.
    pub(crate) fn is_hopeless(&self) -> bool {
        matches!(
            self,
            Self::Sealed { .. }
                | Self::PlainRefused { .. }
                | Self::PinMismatch { .. }
                | Self::Untrusted { .. }
        )
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        429 | 503 => "it is busy; try again later",
        500.. => "it, or a proxy before it, failed; see its log",
        _ => "check that a Meetpoint server runs there",
    }
}

/// Opens the control channel.
///
/// # Errors
/// See [`OpenError`].
pub(crate) async fn open(options: &OpenOptions) -> Result<Control, OpenError> {
    open_by(options, Instant::now() + OPEN_TIMEOUT).await
}

async fn open_by(options: &OpenOptions, deadline: Instant) -> Result<Control, OpenError> {
    let server = &options.server;
    let Link { stream, local, remote, secure } = connect_by(options, deadline).await?;
    let late = |_elapsed| OpenError::TimedOut { server: server.clone(), stage: OpenStage::Upgrade };
    let socket = timeout_at(deadline, upgrade(server, stream)).await.map_err(late)??;
    Ok(Control { socket, local, remote, secure })
}

/// A byte stream to a server, before anything is said on it.
struct Link {
    stream: Box<dyn ByteStream>,
    local: SocketAddr,
    remote: SocketAddr,
    secure: bool,
}

/// A byte stream to a rendezvous server, for programs that speak its REST interface themselves.
///
/// It follows the rules of the control channel: TLS if the URL is https or there is a `pin` (the
/// fingerprint of the server's key), which then must match unless the machine's own roots vouch for
/// the server; and no plain HTTP to another machine unless `insecure_http`.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_stream(
    server: &ServerUrl,
    pin: Option<Fingerprint>,
    insecure_http: bool,
) -> Result<ServerStream, OpenError> {
    let options = OpenOptions {
        server: server.clone(),
        tls_name: None,
        pins: pin.into_iter().collect(),
        insecure_http,
        roots: Roots::Native,
        egress: Arc::default(),
    };
    let link = connect_by(&options, Instant::now() + OPEN_TIMEOUT).await?;
    Ok(ServerStream(link.stream))
}

/// The same by a node's own gate, with whatever else it insists on; and whether TLS protects it.
///
/// # Errors
/// See [`OpenError`].
pub(crate) async fn stream(options: &OpenOptions) -> Result<(ServerStream, bool), OpenError> {
    let link = connect_by(options, Instant::now() + OPEN_TIMEOUT).await?;
    Ok((ServerStream(link.stream), link.secure))
}

/// See [`open_stream`].
pub struct ServerStream(Box<dyn ByteStream>);

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerStream")
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn connect_by(options: &OpenOptions, deadline: Instant) -> Result<Link, OpenError> {
    let server = &options.server;
    let late = |stage| move |_elapsed| OpenError::TimedOut { server: server.clone(), stage };

    let secure = server.tls || !options.pins.is_empty();
    let addresses =
        timeout_at(deadline, resolve(&options.egress, server)).await.map_err(late(OpenStage::Resolve))??;
    if !secure && !options.insecure_http {
        refuse_remote(&addresses)?;
    }
    let tcp = timeout_at(deadline, dial::first(&options.egress, &addresses))
        .await
        .map_err(late(OpenStage::Connect))?
        .map_err(|source| OpenError::Connect { server: server.clone(), source })?;
    let (local, remote) =
        endpoints(&tcp).map_err(|source| OpenError::Connect { server: server.clone(), source })?;

    let stream: Box<dyn ByteStream> = if secure {
        let tls = timeout_at(deadline, secured(options, tcp)).await.map_err(late(OpenStage::Tls))??;
        Box::new(tls)
    } else {
        Box::new(tcp)
    };
    Ok(Link { stream, local, remote, secure })
}

async fn resolve(egress: &Egress, server: &ServerUrl) -> Result<Vec<SocketAddr>, OpenError> {
    let found = egress.resolve(&server.host, server.port).await.map_err(|error| match error {
        ResolveError::Blocked(source) => OpenError::Sealed { server: server.clone(), source },
        ResolveError::Failed(source) => OpenError::Resolve { host: server.host.clone(), source },
    })?;
    let mut addresses = dial::interleave(found);
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// One address elsewhere is enough to refuse: which of them answers first is chance.
fn refuse_remote(addresses: &[SocketAddr]) -> Result<(), OpenError> {
    match addresses.iter().find(|addr| !addr.ip().to_canonical().is_loopback()) {
        Some(&remote) => Err(OpenError::PlainRefused { remote }),
        None => Ok(()),
    }
}

fn endpoints(tcp: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    // Messages are small and awaited, so they are not held back to be merged.
    tcp.set_nodelay(true)?;
    Ok((tcp.local_addr()?, tcp.peer_addr()?))
}

/// Connects to another port of a server, with the same trust in it: by TLS, or in the open where what goes there
/// protects itself.
///
/// # Errors
/// [`OpenError`]; nothing stays open.
pub(crate) async fn connect_beside(
    options: &OpenOptions,
    to: SocketAddr,
    tls: bool,
) -> Result<Box<dyn ByteStream>, OpenError> {
    let server = &options.server;
    let failed = |source| OpenError::Connect { server: server.clone(), source };
    let tcp = options.egress.connect(to).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if tls { Ok(Box::new(secured_as(options, tcp, &[]).await?)) } else { Ok(Box::new(tcp)) }
}

async fn secured(options: &OpenOptions, tcp: TcpStream) -> Result<impl ByteStream + 'static, OpenError> {
    secured_as(options, tcp, tls::CONTROL_ALPN).await
}

async fn secured_as(
    options: &OpenOptions,
    tcp: TcpStream,
    protocols: &[&[u8]],
) -> Result<impl ByteStream + 'static, OpenError> {
    let server = &options.server;
    let failed = |source: io::Error| OpenError::Tls { server: server.clone(), source };
    let config = tls::client_config(options.pins.clone(), options.roots.clone(), protocols)
        .map_err(|error| failed(io::Error::other(error)))?;
    let name = options.tls_name.clone().unwrap_or_else(|| server.host.clone());
    let name = ServerName::try_from(name).map_err(|error| failed(io::Error::other(error)))?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| tls_error(server, error))
}

fn tls_error(server: &ServerUrl, error: io::Error) -> OpenError {
    let server = server.clone();
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return OpenError::Tls { server, source: error };
    };
    if let Some(mismatch) = tls::pin_mismatch(cause) {
        return OpenError::PinMismatch { expected: mismatch.expected.clone(), found: mismatch.found };
    }
    match cause {
        rustls::Error::InvalidCertificate(_) => OpenError::Untrusted { server, source: cause.clone() },
        _ => OpenError::Tls { server, source: error },
    }
}

async fn upgrade(
    server: &ServerUrl,
    stream: Box<dyn ByteStream>,
) -> Result<WebSocketStream<Box<dyn ByteStream>>, OpenError> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_LEN))
        .max_frame_size(Some(MAX_MESSAGE_LEN))
        .read_buffer_size(MAX_MESSAGE_LEN / 8)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNSENT_LEN);
    // The scheme is for the library's own dialling, which is not used.
    let request = format!("ws://{}{CONTROL_PATH}", server.authority());
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _response)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            Err(OpenError::Status { server: server.clone(), status: response.status().as_u16() })
        }
        Err(source) => Err(OpenError::Upgrade { server: server.clone(), source: Box::new(source) }),
    }
}

#[cfg(test)]
mod tests;
