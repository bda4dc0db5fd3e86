//! Asks a seed for a proof.
//!
//! One connection, or a second one if the first showed that TLS is not spoken there; one short request;
//! an answer of bounded size. The signature over our nonce is what counts, so nobody's certificate is
//! looked at. Time is bounded by the caller.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use meetpoint_proto::PublicKey;
use meetpoint_proto::id::Nonce;
use meetpoint_proto::vouch::{PROOF_PATH, SeedProof};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::secrets;

/// A proof has some 250 bytes.
const MAX_BODY_BYTES: usize = 4096;
/// The head of its response: a proxy may add to it.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Why there is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unproven {
    /// Nobody answered, or not as a Meetpoint server does. What happened instead is not told: it would
    /// say which ports are open.
    Silent,
    /// A Meetpoint server answered, which does not know the address as its own.
    NotHere,
}

impl From<io::Error> for Unproven {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

/// Whose key is shown at this address.
pub(super) async fn ask(at: SocketAddr) -> Result<PublicKey, Unproven> {
    let stream = TcpStream::connect(at).await?;
    match connector()?.connect(ServerName::from(at.ip()), stream).await {
        Ok(stream) => exchange(stream, at).await,
        Err(_) => exchange(TcpStream::connect(at).await?, at).await,
    }
}

async fn exchange<S>(stream: S, at: SocketAddr) -> Result<PublicKey, Unproven>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let nonce = Nonce::from_bytes(secrets::random().map_err(io::Error::other)?);
    let at = at.to_string();
    let query = at.replace('[', "%5B").replace(']', "%5D");
    let request = Request::get(format!("{PROOF_PATH}?nonce={nonce}&at={query}"))
        .header(HOST, &at)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        Ok::<_, io::Error>((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    // The connection ends before its last answer is read.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let (status, body) = tokio::select! {
        answer = answer => answer?,
        () = connection => return Err(Unproven::Silent),
    };
    match status {
        StatusCode::OK => {
            let proof: SeedProof = serde_json::from_slice(&body).map_err(io::Error::from)?;
            if proof.answers(&nonce, &at) { Ok(proof.public_key) } else { Err(Unproven::Silent) }
        }
        StatusCode::MISDIRECTED_REQUEST => Err(Unproven::NotHere),
        _ => Err(Unproven::Silent),
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
