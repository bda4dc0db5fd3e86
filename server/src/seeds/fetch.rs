//! One HTTP request to another server.
//!
//! TLS is tried first, and plain HTTP if the other side does not speak it. Nobody's certificate is looked
//! at: what is sent is no secret, and what counts is signed with a seed key. Sizes are bounded here, time
//! by the caller.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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
    let opening = connector()?.connect(ServerName::from(at.ip()), stream);
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

fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate whose key its holder has. Nothing secret is sent, and what comes back is
/// signed with another key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
