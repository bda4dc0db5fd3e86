//! TLS of the control channel: how a node knows its server.
//!
//! Two things make a server acceptable, either is enough:
//!
//! * its public key is the one whose **fingerprint** came with the join token. Nothing else of the
//!   certificate matters then: a self-signed server may keep its key and renew its certificate,
//!   and may be reached under any name;
//! * its certificate is valid for the host name under the machine's own roots, as for any web
//!   server. That also holds for a node with a fingerprint, so that an operator may move the
//!   server behind a public certificate without a new token for every node.

use std::fmt;
use std::sync::{Arc, OnceLock};

use meetpoint_proto::id::Fingerprint;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The control channel is a WebSocket, which starts as HTTP/1.1 (RFC 6455, section 1.7). Whoever looks whether a STUN
/// server's port can be reached speaks to one that wants a protocol of its own (RFC 7443), which an HTTP server passes
/// over.
pub(crate) const CONTROL_ALPN: &[&[u8]] = &[b"http/1.1", b"stun.turn"];

/// Where trust in public certificates comes from.
#[derive(Debug, Clone, Default)]
pub(crate) enum Roots {
    /// The machine's own, read when a certificate first needs them: that takes milliseconds and
    /// a file or two, which a node with the right fingerprint never spends.
    #[default]
    Native,
    /// These.
    #[cfg(test)]
    Given(Arc<RootCertStore>),
}

/// Keys by which a server is known, whichever it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(Arc<[Fingerprint]>);

impl Pins {
    /// Nothing is pinned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and one more.
    #[must_use]
    pub(crate) fn with(&self, fingerprint: Fingerprint) -> Self {
        self.0.iter().copied().chain([fingerprint]).collect()
    }
}

impl FromIterator<Fingerprint> for Pins {
    fn from_iter<I: IntoIterator<Item = Fingerprint>>(pins: I) -> Self {
        Self(pins.into_iter().collect())
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pin) in self.0.iter().enumerate() {
            write!(f, "{}{pin}", if at > 0 { " or " } else { "" })?;
        }
        Ok(())
    }
}

/// The server holds another key than the token says, and no public certificate either.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected key {expected}, found {found}")]
pub(crate) struct PinMismatch {
    /// The token's fingerprint, and others that were given.
    pub(crate) expected: Pins,
    /// The server's.
    pub(crate) found: Fingerprint,
}

/// TLS that accepts a server by one of `pins`, or by `roots` and its host name.
pub(crate) fn client_config(pins: Pins, roots: Roots, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = ServerVerifier { pins, roots, public: OnceLock::new(), provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The mismatch behind a failed handshake, if that was why it failed.
pub(crate) fn pin_mismatch(error: &Error) -> Option<&PinMismatch> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

/// SHA-256 over the certificate's SubjectPublicKeyInfo.
fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Fingerprint::from_bytes(Sha256::digest(spki.as_ref()).into()))
}

struct ServerVerifier {
    pins: Pins,
    roots: Roots,
    /// Verifies against the roots; `None` inside if there are none.
    public: OnceLock<Option<Arc<WebPkiServerVerifier>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    fn public(&self) -> Option<&WebPkiServerVerifier> {
        let verifier = self.public.get_or_init(|| {
            let roots = match &self.roots {
                Roots::Native => Arc::new(native_roots()),
                #[cfg(test)]
                Roots::Given(roots) => Arc::clone(roots),
            };
            // An empty store is an error of the builder's, and means that nobody is trusted.
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build().ok()
        });
        verifier.as_deref()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("pins", &self.pins).finish_non_exhaustive()
    }
}

/// Roots that do not parse are skipped: machines carry some, and the rest still serve.
fn native_roots() -> RootCertStore {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(loaded.certs);
    tracing::debug!(added, ignored, errors = ?loaded.errors, "read the machine's root certificates");
    roots
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = fingerprint(end_entity)?;
        if self.pins.0.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let verdict = match self.public() {
            Some(public) => {
                public.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        if self.pins.is_empty() {
            return verdict;
        }
        // With a pin, that it differs is the news; why the roots refuse as well is not.
        verdict.map_err(|_| {
            let mismatch = PinMismatch { expected: self.pins.clone(), found };
            CertificateError::Other(OtherError(Arc::new(mismatch))).into()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
