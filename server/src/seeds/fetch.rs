//! One HTTP request to another server.
//!
//! TLS is tried first, and plain HTTP if the other side does not speak it. Nobody's certificate is looked
//! at: what is sent is no secret, and what counts is signed with a seed key. Sizes are bounded here, time
//! by the caller.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::anybody;

/// Of an answer: a proof has 250 bytes, a state or a problem some more.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Of an answer's head: a proxy may add to it.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Who speaks no TLS may wait for more of what to him is the beginning of a request.
const TLS_PATIENCE: Duration = Duration::from_secs(2);

/// What is asked.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    /// JSON, if there is any.
    pub(super) body: Vec<u8>,
}

impl Question {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Vec::new() }
    }
}

/// Asks; at most two connections are made, the second one if the first showed that TLS is not spoken.
pub(super) async fn fetch(at: SocketAddr, question: Question) -> io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(at).await?;
    let opening = anybody::connector()?.connect(ServerName::from(at.ip()), stream);
    match timeout(TLS_PATIENCE, opening).await {
        Ok(Ok(stream)) => exchange(stream, at, question).await,
        Ok(Err(_)) | Err(_) => exchange(TcpStream::connect(at).await?, at, question).await,
    }
}

async fn exchange<S>(stream: S, at: SocketAddr, question: Question) -> io::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(HOST, at.to_string())
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(question.body)))
        .map_err(io::Error::other)?;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    // The connection ends before its last answer is read.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
