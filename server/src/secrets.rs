//! The server's tokens: the one nodes join with, the one the operator administers with, and the one that
//! lets others look on. And the file of the secret that credentials are minted with.

use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::{JoinToken, token};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::config::{MIN_ADMIN_TOKEN_LEN, Secret, ServeConfig};
use crate::data_dir::{DataDir, DataError};

const JOIN_FILE: &str = "join-token";
const CREDENTIAL_FILE: &str = "credential-secret";
/// Random bytes of a token of the REST interface: 160 bits, in as few characters as a person can copy.
const API_SECRET_LEN: usize = 20;

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
    /// The stored credential secret is none.
    #[error("{CREDENTIAL_FILE} in the data directory: {0}; remove the file to have a new one made")]
    Credential(#[from] meetpoint_turn::SecretError),
    /// The system has no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(#[from] getrandom::Error),
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

/// Which token of the REST interface.
struct ApiTokenKind {
    file: &'static str,
    prefix: &'static str,
}

/// It may do everything.
const ADMIN: ApiTokenKind = ApiTokenKind { file: "admin-token", prefix: "mpa1" };
/// It may read.
const VIEWER: ApiTokenKind = ApiTokenKind { file: "viewer-token", prefix: "mpv1" };

/// Checks a token of the REST interface. Only its digest is kept.
pub(crate) struct ApiToken([u8; 32]);

impl ApiToken {
    /// The token given, the one stored, or a new one, which is stored and returned.
    fn establish(
        kind: &ApiTokenKind,
        given: Option<&Secret>,
        data: &DataDir,
    ) -> Result<(Self, Option<Secret>), SecretsError> {
        if let Some(given) = given {
            return Ok((Self::of(given.reveal()), None));
        }
        if let Some(stored) = data.read(kind.file)? {
            if stored.len() < MIN_ADMIN_TOKEN_LEN {
                return Err(SecretsError::ApiToken { file: kind.file });
            }
            return Ok((Self::of(&stored), None));
        }
        let id = Fingerprint::from_bytes(random()?).to_string();
        let text = format!("{}{}", kind.prefix, &id[..API_SECRET_LEN * 8 / 5]);
        data.write_secret(kind.file, &format!("{text}\n"))?;
        let made = text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        Ok((Self::of(&text), Some(made)))
    }

    fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// In constant time: digests have one length, and their comparison does not stop early.
    pub(crate) fn matches(&self, presented: &str) -> bool {
        self.0.ct_eq(&Self::of(presented).0).into()
    }
}

/// The tokens of the REST interface.
pub(crate) struct ApiTokens {
    pub(crate) admin: ApiToken,
    pub(crate) viewer: ApiToken,
}

impl ApiTokens {
    /// Both, and the admin token if it is a new one.
    pub(crate) fn establish(
        config: &ServeConfig,
        data: &DataDir,
    ) -> Result<(Self, Option<Secret>), SecretsError> {
        let (admin, made) = ApiToken::establish(&ADMIN, config.admin_token.as_ref(), data)?;
        let (viewer, _) = ApiToken::establish(&VIEWER, config.viewer_token.as_ref(), data)?;
        if admin.0 == viewer.0 {
            return Err(SecretsError::SameToken);
        }
        Ok((Self { admin, viewer }, made))
    }
}
