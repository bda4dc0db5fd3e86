//! TLS between nodes with raw public keys (RFC 7250): a node's key is its whole certificate.

use std::fmt;
use std::sync::Arc;

use meetpoint_proto::NodeId;
use quinn::Connection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::key::NodeKey;
use crate::quic::Admitted;

/// What precedes the 32 key bytes in the SubjectPublicKeyInfo of every Ed25519 key (RFC 8410,
/// section 4): the structure has no options, so comparing bytes is parsing it.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The node's key in the form in which TLS presents it.
pub(crate) fn certified_key(key: &NodeKey) -> Result<Arc<CertifiedKey>, Error> {
    let signer = ring::sign::any_eddsa_type(&key.pkcs8())?;
    let spki = [&SPKI_PREFIX[..], key.id().as_bytes()].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer)))
}

/// TLS of the connecting side: proves `identity`, accepts only `peer`.
pub(crate) fn client_config(identity: &Arc<CertifiedKey>, peer: NodeId) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeyVerifier::new(Accepts::Only(peer))))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(identity))));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// TLS of the accepting side: proves `identity`, accepts whoever is in `admitted`.
pub(crate) fn server_config(
    identity: &Arc<CertifiedKey>,
    admitted: Arc<Admitted>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RawKeyVerifier::new(Accepts::Admitted(admitted))))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(identity))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whose key the other end of an established connection has proved.
pub(crate) fn peer_of(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(identity.first()?)
}

fn node_of(spki: &CertificateDer<'_>) -> Option<NodeId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

#[derive(Debug)]
enum Accepts {
    Only(NodeId),
    Admitted(Arc<Admitted>),
}

/// Accepts raw keys by comparing them; what a signature proves is left to the provider.
struct RawKeyVerifier {
    accepts: Accepts,
    provider: CryptoProvider,
}

impl RawKeyVerifier {
    fn new(accepts: Accepts) -> Self {
        Self { accepts, provider: ring::default_provider() }
    }

    fn verify_key(&self, spki: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let peer = node_of(spki).filter(|_| others.is_empty()).ok_or(CertificateError::BadEncoding)?;
        let accepted = match &self.accepts {
            Accepts::Only(expected) => *expected == peer,
            Accepts::Admitted(admitted) => admitted.contains(&peer),
        };
        if accepted { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
    }
}

impl fmt::Debug for RawKeyVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawKeyVerifier").field("accepts", &self.accepts).finish_non_exhaustive()
    }
}

/// Neither configuration offers TLS 1.2, so this refuses what cannot be asked.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_key(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_key(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spki(secret: u8) -> CertificateDer<'static> {
        certified_key(&NodeKey::from_secret(&[secret; 32])).unwrap().cert[0].clone()
    }

    #[test]
    fn keys_are_accepted_by_comparison() {
        const DENIED: Option<CertificateError> = Some(CertificateError::ApplicationVerificationFailure);
        const MALFORMED: Option<CertificateError> = Some(CertificateError::BadEncoding);
        let id = |secret| NodeKey::from_secret(&[secret; 32]).id();
        let admitted = Arc::<Admitted>::default();
        assert!(admitted.admit(id(1)) && admitted.admit(id(2)));
        let only = RawKeyVerifier::new(Accepts::Only(id(1)));
        let any_of = RawKeyVerifier::new(Accepts::Admitted(admitted));
        let short = CertificateDer::from(spki(1)[..43].to_vec());
        let long = CertificateDer::from([&spki(1)[..], &[0]].concat());
        let mut other_curve = spki(1).to_vec();
        other_curve[8] = 0x71;

        let cases = [
            ("the key", &only, vec![spki(1)], None),
            ("another", &only, vec![spki(2)], DENIED),
            ("an admitted key", &any_of, vec![spki(2)], None),
            ("one not admitted", &any_of, vec![spki(3)], DENIED),
            ("a chain", &only, vec![spki(1), spki(1)], MALFORMED),
            ("a byte short", &only, vec![short], MALFORMED),
            ("a byte long", &only, vec![long], MALFORMED),
            ("an algorithm that is not Ed25519", &only, vec![other_curve.into()], MALFORMED),
            ("nothing", &any_of, vec![Vec::new().into()], MALFORMED),
        ];
        for (name, verifier, chain, expect) in cases {
            let expect = expect.map_or(Ok(()), |error| Err(Error::from(error)));
            assert_eq!(verifier.verify_key(&chain[0], &chain[1..]), expect, "{name}");
        }
    }
}
