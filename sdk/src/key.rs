//! A node's identity: one Ed25519 key, from a file or made for this run only.
//!
//! The file is PEM of PKCS#8 version 1 (RFC 5958, RFC 8410), what `openssl genpkey -algorithm
//! ed25519` writes, so an operator can make, inspect and keep it with the usual tools.
//! A file is created when it is absent, never overwritten, and refused when anyone but its
//! owner may read it: whoever reads it is this node.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use meetpoint_proto::{NodeId, Signature};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

/// Everything of the DER form that precedes the 32 secret bytes: version 1, `id-Ed25519`, and
/// the two nested octet strings (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key file is about 120 bytes; more than this is some other file named by mistake.
const MAX_KEY_FILE_LEN: u64 = 4096;

/// Permission bits that let somebody other than the owner in.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Why a node key could not be had. No error leaves a half-written file behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no randomness.
    #[error("no randomness for a new key: {0}")]
    Random(getrandom::Error),
    /// The file could not be read or made.
    #[error("cannot {action} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "the key file {} can be read by others (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is something else.
    #[error(
        "{} is not an Ed25519 private key in PEM (PKCS#8); name a file that does not exist yet to have \
         one made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The secret half of a node's identity. It neither prints nor serialises.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// A new key that lives as long as this value.
    ///
    /// # Errors
    /// [`KeyError::Random`] if the operating system gives no randomness.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(Self::from_secret(&secret))
    }

    /// The key of 32 secret bytes (the seed of RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The key in `path`; a new one is written there, with mode 0600, if nothing is.
    ///
    /// Several processes may do so at once: all of them get the key of the one that was first.
    ///
    /// # Errors
    /// See [`KeyError`]; an existing file is never changed.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::ephemeral()?.create(path)?;
                Self::load(path)
            }
            outcome => outcome,
        }
    }

    /// The public half, which names the node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId::from(&self.0)
    }

    /// Signs `message`; domain separation is the caller's.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(self.0.sign(message).to_bytes())
    }

    /// The signing key, for the functions of the protocol crate that take one.
    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    /// The key as PKCS#8 DER, as TLS wants it.
    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        let mut der = PKCS8_PREFIX.to_vec();
        der.extend_from_slice(self.0.as_bytes());
        der.into()
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
        // A pipe or a device would block or never end, so the kind is looked at before the open.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(KeyError::Malformed { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        check_private(path, &file)?;
        let mut pem = Vec::new();
        file.take(MAX_KEY_FILE_LEN).read_to_end(&mut pem).map_err(io)?;
        Self::from_pem(&pem).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let secret = der.secret_pkcs8_der().strip_prefix(&PKCS8_PREFIX)?;
        Some(Self::from_secret(secret.try_into().ok()?))
    }

    fn to_pem(&self) -> String {
        let body = BASE64.encode(self.pkcs8().secret_pkcs8_der());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// Writes a temporary file beside `path` and links it there: a link, unlike a rename, fails
    /// if the name is taken, so that a key is either complete or absent and is never replaced.
    fn create(&self, path: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io { action: "create", path: path.to_owned(), source };
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(KeyError::Random)?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}.new", u64::from_be_bytes(suffix)));
        let temporary = PathBuf::from(name);

        let mut file = private_options().open(&temporary).map_err(io)?;
        let written =
            file.write_all(self.to_pem().as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
                match fs::hard_link(&temporary, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    outcome => outcome,
                }
            });
        let removed = fs::remove_file(&temporary);
        written.and(removed).and_then(|()| sync_folder(path)).map_err(io)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.id())
    }
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the new name survive a loss of power: a node that lost its key would be somebody else.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Elsewhere a folder is not a file.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Asks the open file, not its name, which could point elsewhere by now.
#[cfg(unix)]
fn check_private(path: &Path, file: &File) -> Result<(), KeyError> {
    use std::os::unix::fs::MetadataExt;

    let metadata = file.metadata();
    let mode =
        metadata.map_err(|source| KeyError::Io { action: "inspect", path: path.to_owned(), source })?.mode();
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// Elsewhere access lists decide, and the default of a user's own folder is private.
#[cfg(not(unix))]
fn check_private(_path: &Path, _file: &File) -> Result<(), KeyError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder of its own for each case, removed afterwards.
    struct Folder(PathBuf);

    #[allow(clippy::unwrap_used, reason = "tests")]
    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("meetpoint-key-{}-{count}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, content: &str, mode: u32) -> PathBuf {
            let path = self.0.join("key");
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The example of RFC 8410, section 10.3; `openssl pkey` writes it the same.
    const RFC_8410: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn an_absent_file_is_made_private_and_read_again() {
        let folder = Folder::new();
        let path = folder.0.join("key");
        let made = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(NodeKey::load_or_create(&path).unwrap().id(), made.id());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn the_first_of_many_creators_wins() {
        let folder = Folder::new();
        let path = folder.0.join("key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let creators: Vec<_> =
                (0..8).map(|_| scope.spawn(|| NodeKey::load_or_create(&path).unwrap().id())).collect();
            creators.into_iter().map(|creator| creator.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn existing_files() {
        let rsa = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIA==\n-----END PRIVATE KEY-----\n";
        let cases: [(&str, u32, &str); 9] = [
            (RFC_8410, 0o600, ""),
            (RFC_8410, 0o400, ""),
            (RFC_8410, 0o644, "chmod 600"),
            (RFC_8410, 0o640, "mode 0640"),
            (RFC_8410, 0o602, "chmod 600"),
            ("", 0o600, "not an Ed25519 private key"),
            ("garbage", 0o600, "not an Ed25519 private key"),
            (&RFC_8410[..70], 0o600, "not an Ed25519 private key"),
            (rsa, 0o600, "not an Ed25519 private key"),
        ];
        for (content, mode, expect) in cases {
            let folder = Folder::new();
            let path = folder.file(content, mode);
            match NodeKey::load_or_create(&path) {
                Ok(key) => {
                    assert_eq!(expect, "", "mode {mode:o}: accepted {content:?}");
                    assert_eq!(key.to_pem(), RFC_8410);
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(!expect.is_empty() && text.contains(expect), "mode {mode:o}: {text}");
                }
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "never overwritten");
        }
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let folder = Folder::new();
        assert!(matches!(NodeKey::load_or_create(&folder.0), Err(KeyError::Malformed { .. })));
        let missing = folder.0.join("no/such/folder/key");
        assert!(matches!(NodeKey::load_or_create(&missing), Err(KeyError::Io { action: "create", .. })));
    }

    #[test]
    fn a_key_does_not_print() {
        let key = NodeKey::from_secret(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("NodeKey(of {})", key.id()));
    }
}
