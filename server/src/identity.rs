//! What the server proves itself by: a certificate of the operator's, or a self-signed one.
//!
//! Nodes that hold a join token don't need anybody's signature on it: they compare the fingerprint
//! of its public key with the one in the token.

use std::path::PathBuf;
use std::sync::Arc;

use meetpoint_proto::id::Fingerprint;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config::{ConfigError, TlsFiles, read_file};
use crate::data_dir::{DataDir, DataError};

/// Where the self-signed identity is kept.
const DIR: &str = "tls";
const CERT: &str = "tls/cert.pem";
const KEY: &str = "tls/key.pem";
/// WebSockets start with an HTTP/1.1 request.
const ALPN: &[u8] = b"http/1.1";

/// Certificate and key, ready for use.
pub(crate) struct Identity {
    pub(crate) tls: Arc<ServerConfig>,
    /// SHA-256 over the certificate's SubjectPublicKeyInfo.
    pub(crate) fingerprint: Fingerprint,
}

/// Why the self-signed identity can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The data directory's fault.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It could not be made.
    #[error("making the server's identity: {0}")]
    Make(#[from] rcgen::Error),
    /// What is stored does not work.
    #[error(
        "{}: {reason}; restore the file, or remove the directory to get a new identity (nodes then need new join tokens)",
        path.display()
    )]
    Stored {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Which of the two files is at fault, and why.
enum Fault {
    Cert(String),
    Key(String),
}

/// The operator's certificate.
pub(crate) fn load(files: &TlsFiles) -> Result<Identity, ConfigError> {
    let cert = read_file("--tls-cert", &files.cert)?;
    let key = read_file("--tls-key", &files.key)?;
    assemble(&cert, &key).map_err(|fault| match fault {
        Fault::Cert(reason) => ConfigError::Tls { flag: "--tls-cert", path: files.cert.clone(), reason },
        Fault::Key(reason) => ConfigError::Tls { flag: "--tls-key", path: files.key.clone(), reason },
    })
}

/// The self-signed identity of the data directory, made if it is not there.
pub(crate) fn load_or_make(data: &DataDir) -> Result<Identity, IdentityError> {
    let (cert, key) = match (data.read(CERT)?, data.read(KEY)?) {
        (Some(cert), Some(key)) => (cert, key),
        // The key is written last, so a certificate alone is a first start that was cut short.
        (_, None) => make(data)?,
        (None, Some(_)) => return Err(stored(data, CERT, "missing, but its key is there".to_owned())),
    };
    assemble(&cert, &key).map_err(|fault| match fault {
        Fault::Cert(reason) => stored(data, CERT, reason),
        Fault::Key(reason) => stored(data, KEY, reason),
    })
}

fn stored(data: &DataDir, name: &str, reason: String) -> IdentityError {
    IdentityError::Stored { path: data.file(name), reason }
}

fn make(data: &DataDir) -> Result<(String, String), IdentityError> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Meetpoint rendezvous");
    // ECDSA over P-256: every TLS client has it.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let cert = params.self_signed(&key)?;
    data.make_dir(DIR)?;
    data.write_secret(CERT, &cert.pem())?;
    data.write_secret(KEY, &key.serialize_pem())?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn assemble(cert: &str, key: &str) -> Result<Identity, Fault> {
    let in_cert = |error: &dyn std::fmt::Display| Fault::Cert(format!("not a PEM certificate: {error}"));
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| in_cert(&error))?;
    if chain.is_empty() {
        return Err(in_cert(&"there is none in the file"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| Fault::Key(format!("not a PEM private key: {error}")))?;
    let provider = default_provider();
    let signer = provider.key_provider.load_private_key(key.clone_key());
    let signer = signer.map_err(|error| Fault::Key(error.to_string()))?;
    let public_key = signer.public_key();
    let public_key =
        public_key.ok_or_else(|| Fault::Key("this kind of key has no public half".to_owned()))?;
    // The certificate holds the very same bytes, which this proves.
    let certified = CertifiedKey::new(chain.clone(), signer.clone());
    certified.keys_match().map_err(|error| Fault::Cert(format!("does not fit the key: {error}")))?;
    let fingerprint = Fingerprint::from_bytes(Sha256::digest(&public_key).into());
    let builder =
        ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Fault::Key(error.to_string()))?;
    let tls = builder.with_no_client_auth().with_single_cert(chain, key);
    let mut tls = tls.map_err(|error| Fault::Cert(error.to_string()))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Identity { tls: Arc::new(tls), fingerprint })
}
