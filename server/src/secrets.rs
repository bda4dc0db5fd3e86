//! The server's secrets that have a file: the token nodes join with, its key as a seed, and the secret that
//! credentials are minted with. The tokens of the REST interface are in `api_tokens`.

use ed25519_dalek::SigningKey;
use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::{JoinToken, token};
use thiserror::Error;

use crate::config::{MIN_ADMIN_TOKEN_LEN, ServeConfig};
use crate::data_dir::{DataDir, DataError};

const JOIN_FILE: &str = "join-token";
const CREDENTIAL_FILE: &str = "credential-secret";
const SEED_KEY_FILE: &str = "seed-key";
/// Those that a backup holds.
pub(crate) const FILES: [&str; 3] = [JOIN_FILE, CREDENTIAL_FILE, SEED_KEY_FILE];

/// Why a token can't be made or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The data directory's fault.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The stored join token is none.
    #[error("{JOIN_FILE} in the data directory: {0}; remove the file to have a new one made")]
    JoinToken(#[from] token::ParseTokenError),
    /// The stored admin or viewer token is none.
    #[error(
        "{file} in the data directory has fewer than {MIN_ADMIN_TOKEN_LEN} characters; remove the file to have a new one made"
    )]
    ApiToken {
        /// The file.
        file: &'static str,
    },
    /// Whoever may only look on could do everything.
    #[error("the viewer token is the admin token; give another one")]
    SameToken,
    /// What is kept of a replaced token can't be read.
    #[error("{file} in the data directory is damaged; remove the file, and with it the token before")]
    TokenBefore {
        /// The file.
        file: &'static str,
    },
    /// The stored credential secret is none.
    #[error("{CREDENTIAL_FILE} in the data directory: {0}; remove the file to have a new one made")]
    Credential(#[from] meetpoint_turn::SecretError),
    /// The stored seed key is none.
    #[error(
        "{SEED_KEY_FILE} in the data directory is damaged; restore the file, or remove it to have a new key made (whoever pinned the old one then refuses this server)"
    )]
    SeedKey,
    /// The system has no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

impl SecretsError {
    /// The disk is full.
    pub(crate) fn is_for_space(&self) -> bool {
        match self {
            Self::Data(DataError::Io { source, .. }) => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The token nodes join with: the one given, the one stored, or a new one, which is stored. A stored
/// one is rewritten if the server's fingerprint has changed.
pub(crate) fn join_token(
    config: &ServeConfig,
    data: &DataDir,
    fingerprint: Fingerprint,
) -> Result<JoinToken, SecretsError> {
    if let Some(given) = &config.join_token {
        return Ok(given.clone());
    }
    let stored = data.read(JOIN_FILE)?.map(|text| text.parse::<JoinToken>()).transpose()?;
    let token = match &stored {
        Some(stored) => stored.with_fingerprint(fingerprint),
        None => JoinToken::mint(random()?, fingerprint),
    };
    if stored.is_none_or(|stored| stored.reveal() != token.reveal()) {
        data.write_secret(JOIN_FILE, &format!("{}\n", token.reveal()))?;
    }
    Ok(token)
}

/// Puts another fingerprint into the stored join token, if there is one.
pub(crate) fn repin_join_token(data: &DataDir, fingerprint: Fingerprint) -> Result<(), SecretsError> {
    let Some(stored) = data.read(JOIN_FILE)? else { return Ok(()) };
    let token = stored.parse::<JoinToken>()?.with_fingerprint(fingerprint);
    Ok(data.write_secret(JOIN_FILE, &format!("{}\n", token.reveal()))?)
}

/// The key this server shows wherever it is a seed: the one stored, or a new one, which is stored.
pub(crate) fn seed_key(data: &DataDir) -> Result<SigningKey, SecretsError> {
    if let Some(text) = data.read(SEED_KEY_FILE)? {
        // 32 bytes have one text form, whatever they are.
        let bytes: Fingerprint = text.parse().map_err(|_| SecretsError::SeedKey)?;
        return Ok(SigningKey::from_bytes(bytes.as_bytes()));
    }
    let bytes = random()?;
    data.write_secret(SEED_KEY_FILE, &format!("{}\n", Fingerprint::from_bytes(bytes)))?;
    Ok(SigningKey::from_bytes(&bytes))
}

/// A text that nobody can guess: 256 bits in 52 characters of base32.
pub(crate) fn long_text() -> Result<String, getrandom::Error> {
    Ok(Fingerprint::from_bytes(random()?).to_string())
}

/// The secret of STUN and relay credentials that lies in the data directory, if there is one.
pub(crate) fn credential_secret(data: &DataDir) -> Result<Option<String>, SecretsError> {
    let Some(text) = data.read(CREDENTIAL_FILE)? else { return Ok(None) };
    meetpoint_turn::Secret::new(text.as_bytes())?;
    Ok(Some(text))
}

/// Puts the current secret there, for programs that mint by themselves, unless it is there.
pub(crate) fn write_credential_secret(data: &DataDir, secret: &str) -> Result<(), SecretsError> {
    if data.read(CREDENTIAL_FILE)?.as_deref() != Some(secret) {
        data.write_secret(CREDENTIAL_FILE, &format!("{secret}\n"))?;
    }
    Ok(())
}
