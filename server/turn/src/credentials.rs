//! Time-limited credentials in the widely used REST form: the username is
//! `<unix seconds of expiry>:<user>`, the password `base64(HMAC-SHA1(secret, username))`.
//!
//! Whoever holds a secret can mint and check them, so the server stores nothing about these users;
//! those it does store are in [`crate::users`]. Secrets rotate with overlap: new credentials are
//! made with the first of [`Secrets`], old ones are accepted until their secret is dropped from the
//! list.

use std::sync::Arc;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use meetpoint_stun::crypto::keyed;
use meetpoint_stun::{IntegrityKey, IntegrityKind};
pub use meetpoint_stun::{PasswordAlgorithm, long_term_key};
use sha1::Sha1;
use thiserror::Error;

/// Shorter secrets can be guessed offline from one observed request.
pub const MIN_SECRET_LEN: usize = 16;
/// Each further secret costs one more HMAC chain for every forged request.
pub const MAX_SECRETS: usize = 4;
/// Base64 of the 20 bytes of HMAC-SHA1.
const PASSWORD_LEN: usize = 28;

/// Why a secret, or a list of them, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Shorter than [`MIN_SECRET_LEN`].
    #[error("a credential secret has at least {MIN_SECRET_LEN} bytes")]
    TooShort,
    /// No secret, or more than [`MAX_SECRETS`].
    #[error("give between 1 and {MAX_SECRETS} credential secrets, the current one first")]
    Count,
}

/// Tells secrets apart, so that a list can change without what was derived from the secrets that
/// stay in it. It is a MAC over the empty username, which nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecretId(u64);

/// A credential secret, kept as a prepared HMAC; the bytes themselves are forgotten.
#[derive(Clone)]
pub struct Secret {
    mac: Hmac<Sha1>,
    id: SecretId,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Takes the secret's bytes.
    ///
    /// # Errors
    /// [`SecretError::TooShort`].
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if bytes.len() < MIN_SECRET_LEN {
            return Err(SecretError::TooShort);
        }
        let mac: Hmac<Sha1> = keyed(bytes);
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 20]>::from(mac.clone().finalize().into_bytes());
        Ok(Self { mac, id: SecretId(u64::from_be_bytes([a, b, c, d, e, f, g, h])) })
    }

    pub(crate) const fn id(&self) -> SecretId {
        self.id
    }

    /// To make a MAC of something that is no username.
    pub(crate) fn mac(&self) -> Hmac<Sha1> {
        self.mac.clone()
    }

    fn password(&self, username: &str) -> [u8; PASSWORD_LEN] {
        let mac = self.mac.clone().chain_update(username).finalize();
        let mut password = [0; PASSWORD_LEN];
        BASE64.encode_mut(&mac.into_bytes(), &mut password);
        password
    }
}

/// The secrets in force: the first one mints, all of them are accepted. Clones share one list.
#[derive(Debug, Clone)]
pub struct Secrets(Arc<[Secret]>);

impl Secrets {
    /// Takes the secrets, the current one first.
    ///
    /// # Errors
    /// [`SecretError::Count`].
    pub fn new(secrets: Vec<Secret>) -> Result<Self, SecretError> {
        if secrets.is_empty() || secrets.len() > MAX_SECRETS {
            return Err(SecretError::Count);
        }
        Ok(Self(secrets.into()))
    }

    /// Mints with the current secret, see [`mint`].
    #[must_use]
    pub fn mint(&self, user: &str, expires_unix_s: u64) -> (String, String) {
        mint(self.current(), user, expires_unix_s)
    }

    pub(crate) fn current(&self) -> &Secret {
        &self.0[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    pub(crate) fn holds(&self, id: SecretId) -> bool {
        self.0.iter().any(|secret| secret.id == id)
    }
}

/// Username and password for `user`, valid until `expires_unix_s`.
#[must_use]
pub fn mint(secret: &Secret, user: &str, expires_unix_s: u64) -> (String, String) {
    let username = format!("{expires_unix_s}:{user}");
    let password = secret.password(&username);
    (username, password.iter().copied().map(char::from).collect())
}

/// The key that `username` has under `secret`.
pub(crate) fn key_for(
    secret: &Secret,
    algorithm: PasswordAlgorithm,
    kind: IntegrityKind,
    username: &str,
    realm: &str,
) -> IntegrityKey {
    let password = secret.password(username);
    long_term_key(algorithm, kind, username, realm, &password)
}

/// The second until which a username is valid, or nothing if it is not of our form.
pub(crate) fn expiry_unix_s(username: &str) -> Option<u64> {
    let (expiry, user) = username.split_once(':')?;
    // `parse` alone would take a leading plus sign, a second spelling of the same user.
    let is_number = expiry.bytes().all(|b| b.is_ascii_digit());
    (is_number && !user.is_empty()).then(|| expiry.parse().ok())?
}

/// The part of a username that names somebody: what is behind its expiry. A newer timestamp is
/// the same user.
pub(crate) fn user_of(username: &str) -> &str {
    username.split_once(':').map_or("", |(_, user)| user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_other_implementations_compute() {
        // Made with: printf %s 1700000000:alice | openssl dgst -sha1 -hmac 'north wind and sun' -binary | base64
        let secret = Secret::new(b"north wind and sun").unwrap();
        let (username, password) = mint(&secret, "alice", 1_700_000_000);
        assert_eq!(username, "1700000000:alice");
        assert_eq!(password, "8W833WSWio6ab44YAmBMNLrxutY=");
    }

    #[test]
    fn only_our_form_has_an_expiry() {
        let check = |username: &str, expiry: Option<u64>| {
            assert_eq!(expiry_unix_s(username), expiry, "{username:?}");
        };
        check("1700000000:alice", Some(1_700_000_000));
        check("0:a:b", Some(0));
        check("18446744073709551615:a", Some(u64::MAX));
        check("18446744073709551616:a", None);
        check("+1:a", None);
        check("-1:a", None);
        check(" 1:a", None);
        check(":a", None);
        check("1:", None);
        check("1", None);
        check("", None);
        check("alice", None);
        check("alice:1", None);
    }

    #[test]
    fn secrets_are_long_and_few_and_silent() {
        assert_eq!(Secret::new(&[7; 15]).unwrap_err(), SecretError::TooShort);
        let secret = Secret::new(&[7; 16]).unwrap();
        let [same, other] = [[7; 16], [8; 16]].map(|bytes| Secret::new(&bytes).unwrap());
        assert_eq!(secret.id(), same.id());
        assert_ne!(secret.id(), other.id());
        assert_eq!(Secrets::new(vec![]).unwrap_err(), SecretError::Count);
        assert_eq!(Secrets::new(vec![secret.clone(); MAX_SECRETS + 1]).unwrap_err(), SecretError::Count);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
