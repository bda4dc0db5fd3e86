//! What the server proves itself by: a certificate of the operator's, or a self-signed one.
//!
//! Nodes that hold a join token don't need anybody's signature on it: they compare the fingerprint
//! of its public key with the one in the token.
//!
//! One [`Identity`] serves all listeners. Each handshake asks it for the certificate of the moment, so
//! reading the files again ([`Identity::reload`]) reaches new connections and disturbs no old one.
//! When that is done is [`reload`]'s matter.

mod reload;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use meetpoint_proto::id::Fingerprint;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config::{ConfigError, TlsFiles, read_file};
use crate::data_dir::{DataDir, DataError};

pub(crate) use reload::{Reloader, repin};

/// Where the self-signed identity is kept.
const DIR: &str = "tls";
const CERT: &str = "tls/cert.pem";
const KEY: &str = "tls/key.pem";
/// Those that a backup holds.
pub(crate) const FILES: [&str; 2] = [CERT, KEY];

/// Certificate and key of the moment, and where they come from.
pub(crate) struct Identity {
    files: TlsFiles,
    current: RwLock<Current>,
    /// The files as they were when they were read last.
    seen: Mutex<[Option<Stamp>; 2]>,
}

/// Certificate and key, ready for use.
struct Current {
    certified: Arc<CertifiedKey>,
    /// SHA-256 over the certificate's SubjectPublicKeyInfo.
    fingerprint: Fingerprint,
}

/// What changes in a file's metadata when it is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified_s: i64,
    modified_ns: i64,
}

/// What came of reading the files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// They hold what is in use already.
    Same,
    /// Another certificate for the same key: who pinned the key notices nothing.
    Renewed,
    /// Another key: who pinned the old one refuses this server.
    Rekeyed {
        /// The fingerprint until now.
        before: Fingerprint,
        /// The fingerprint from now on.
        after: Fingerprint,
    },
}

/// Why the files can't be used. What was in use stays so.
#[derive(Debug, Error)]
#[error("{}: {reason}", path.display())]
pub(crate) struct ReloadError {
    path: PathBuf,
    reason: String,
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
    /// TLS can't be set up.
    #[error("setting up TLS: {0}")]
    Tls(#[from] rustls::Error),
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

impl Identity {
    /// The operator's certificate.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, ConfigError> {
        let seen = stamps(files);
        let cert = read_file("--tls-cert", &files.cert)?;
        let key = read_file("--tls-key", &files.key)?;
        let current = assemble(&cert, &key).map_err(|fault| match fault {
            Fault::Cert(reason) => ConfigError::Tls { flag: "--tls-cert", path: files.cert.clone(), reason },
            Fault::Key(reason) => ConfigError::Tls { flag: "--tls-key", path: files.key.clone(), reason },
        })?;
        Ok(Self { files: files.clone(), current: RwLock::new(current), seen: Mutex::new(seen) })
    }

    /// The self-signed identity of the data directory, made if it is not there.
    pub(crate) fn load_or_make(data: &DataDir) -> Result<Self, IdentityError> {
        match (data.read(CERT)?, data.read(KEY)?) {
            (Some(_), Some(_)) => {}
            // The key is written last, so a certificate alone is a first start that was cut short.
            (_, None) => make(data)?,
            (None, Some(_)) => return Err(stored(data, CERT, "missing, but its key is there".to_owned())),
        }
        let files = TlsFiles { cert: data.file(CERT), key: data.file(KEY) };
        let seen = stamps(&files);
        let (cert, key) = (data.read(CERT)?.unwrap_or_default(), data.read(KEY)?.unwrap_or_default());
        let current = assemble(&cert, &key).map_err(|fault| match fault {
            Fault::Cert(reason) => stored(data, CERT, reason),
            Fault::Key(reason) => stored(data, KEY, reason),
        })?;
        Ok(Self { files, current: RwLock::new(current), seen: Mutex::new(seen) })
    }

    /// TLS 1.2 and 1.3 with whatever certificate is in use when a client comes. A client that offers
    /// protocols and none of these is refused; one that offers none is not (RFC 7301, section 3.2).
    pub(crate) fn server_config(
        self: &Arc<Self>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let resolver = Arc::clone(self);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// SHA-256 over the SubjectPublicKeyInfo of the certificate in use.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.current.read().unwrap_or_else(PoisonError::into_inner).fingerprint
    }

    /// Reads the files again and uses what they hold, if chain and key fit.
    pub(crate) fn reload(&self) -> Result<Reloaded, ReloadError> {
        // Before reading: a file that changes meanwhile has another stamp at the next look.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.files);
        let next = self.read_again()?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = (current.fingerprint, next.fingerprint);
        let reloaded = if before != after {
            Reloaded::Rekeyed { before, after }
        } else if current.certified.cert != next.certified.cert {
            Reloaded::Renewed
        } else {
            Reloaded::Same
        };
        *current = next;
        Ok(reloaded)
    }

    /// Whether [`Self::reload`] would take what the files hold.
    pub(crate) fn check(&self) -> Result<(), ReloadError> {
        self.read_again().map(drop)
    }

    fn read_again(&self) -> Result<Current, ReloadError> {
        let cert = read(&self.files.cert)?;
        let key = read(&self.files.key)?;
        assemble(&cert, &key).map_err(|fault| match fault {
            Fault::Cert(reason) => ReloadError { path: self.files.cert.clone(), reason },
            Fault::Key(reason) => ReloadError { path: self.files.key.clone(), reason },
        })
    }

    /// True if a file is not the one that was read last.
    fn is_outdated(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(&self.files)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.certified))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 2] {
    [&files.cert, &files.key].map(|path| {
        let meta = fs::metadata(path).ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified_s: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
        })
    })
}

fn read(path: &Path) -> Result<String, ReloadError> {
    let failed = |error: std::io::Error| ReloadError { path: path.to_path_buf(), reason: error.to_string() };
    fs::read_to_string(path).map_err(failed)
}

fn stored(data: &DataDir, name: &str, reason: String) -> IdentityError {
    IdentityError::Stored { path: data.file(name), reason }
}

fn make(data: &DataDir) -> Result<(), IdentityError> {
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
    Ok(())
}

/// Makes certificate and key ready, if they fit.
fn assemble(cert: &str, key: &str) -> Result<Current, Fault> {
    let in_cert = |error: &dyn std::fmt::Display| Fault::Cert(format!("not a PEM certificate: {error}"));
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| in_cert(&error))?;
    if chain.is_empty() {
        return Err(in_cert(&"there is none in the file"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| Fault::Key(format!("not a PEM private key: {error}")))?;
    let signer = default_provider().key_provider.load_private_key(key);
    let signer = signer.map_err(|error| Fault::Key(error.to_string()))?;
    let public_key = signer.public_key();
    let public_key =
        public_key.ok_or_else(|| Fault::Key("this kind of key has no public half".to_owned()))?;
    // The certificate holds the very same bytes, which this proves.
    let certified = CertifiedKey::new(chain, Arc::clone(&signer));
    certified.keys_match().map_err(|error| Fault::Cert(format!("does not fit the key: {error}")))?;
    let fingerprint = Fingerprint::from_bytes(Sha256::digest(&public_key).into());
    Ok(Current { certified: Arc::new(certified), fingerprint })
}
