//! The long-term credential mechanism (RFC 8489, section 9.2.4).
//!
//! One order differs from the RFC's on purpose: the nonce is checked before the credentials, not
//! after. A stranger without a nonce for its source then costs one short HMAC, learns nothing
//! about credentials, and cannot spend what the server grants to sources that proved themselves.
//! A client that is wrong in both sees 438 first and 401 on its next try.
//!
//! Not here: usernames by hash. The server stores no users, so it cannot look one up, does not
//! announce the feature, and answers USERHASH as an unknown user.

use crate::attr;
use crate::credentials::{PasswordAlgorithm, Secrets, expiry_unix_s, key_for, user_of};
use crate::crypto::{IntegrityKey, IntegrityKind};
use crate::message::Message;
use crate::nonce::{NonceKey, Origin};
use crate::write::Writer;

/// Usernames are shorter than 509 bytes (RFC 8489, section 14.3).
const MAX_USERNAME_LEN: usize = 508;

/// PASSWORD-ALGORITHMS as we send it, in order of preference: SHA-256 (2), then MD5 (1), both
/// without parameters (RFC 8489, sections 14.11 and 18.5).
const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// An error answer of the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: attributes are missing, or the password algorithm was tampered with.
    BadRequest,
    /// 401: no credentials, or wrong or expired ones.
    Unauthenticated,
    /// 438: not a nonce for this source at this time.
    StaleNonce,
}

/// A request that came from where our nonce went; its credentials are not yet checked.
pub(crate) struct Bearer<'a> {
    username: &'a [u8],
    realm: &'a [u8],
    algorithm: PasswordAlgorithm,
    kind: IntegrityKind,
}

/// A user whose request verified, and the key that protects the answer.
pub(crate) struct Proof<'a> {
    pub(crate) username: &'a str,
    pub(crate) algorithm: PasswordAlgorithm,
    pub(crate) key: IntegrityKey,
}

impl<'a> Bearer<'a> {
    /// The proof of a bearer whose key was known ([`Authenticator::is_known`]).
    pub(crate) fn proof(&self, known: &KnownKey) -> Proof<'a> {
        let username = std::str::from_utf8(self.username).unwrap_or_default();
        Proof { username, algorithm: self.algorithm, key: known.key.clone() }
    }
}

/// The key of a user who proved himself before: it saves deriving it from each secret for each of
/// his requests.
#[derive(Debug)]
pub(crate) struct KnownKey {
    username: Box<str>,
    algorithm: PasswordAlgorithm,
    key: IntegrityKey,
    /// Which secrets it was derived from: dropping a secret drops what was derived from it.
    generation: u32,
}

impl KnownKey {
    pub(crate) const fn key(&self) -> &IntegrityKey {
        &self.key
    }

    /// The part of the username that names somebody.
    pub(crate) fn user(&self) -> &str {
        user_of(&self.username)
    }
}

/// Checks requests and writes challenges.
pub(crate) struct Authenticator {
    realm: String,
    secrets: Secrets,
    generation: u32,
    nonces: NonceKey,
}

impl Authenticator {
    pub(crate) fn new(realm: String, secrets: Secrets, nonce_key: &[u8; 32]) -> Self {
        Self { realm, secrets, generation: 0, nonces: NonceKey::new(nonce_key) }
    }

    pub(crate) fn set_secrets(&mut self, secrets: Secrets) {
        self.secrets = secrets;
        self.generation = self.generation.wrapping_add(1);
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: crate::defence::Defences) {
        self.nonces.set_defences(defences);
    }

    /// What to remember of a user who proved himself.
    pub(crate) fn remember(&self, proof: &Proof<'_>) -> KnownKey {
        KnownKey {
            username: proof.username.into(),
            algorithm: proof.algorithm,
            key: proof.key.clone(),
            generation: self.generation,
        }
    }

    /// True if the bearer is the one whose key is known, and the message is his. The credentials
    /// must not have expired at `valid_at`, if that is asked.
    pub(crate) fn is_known(
        &self,
        message: &Message<'_>,
        bearer: &Bearer<'_>,
        known: &KnownKey,
        valid_at: Option<u64>,
    ) -> bool {
        known.generation == self.generation
            && bearer.username == known.username.as_bytes()
            && bearer.realm == self.realm.as_bytes()
            && bearer.algorithm == known.algorithm
            && is_in_time(&known.username, valid_at)
            && message.verify(&known.key)
    }

    /// Checks everything up to the credentials themselves, for a request that is not anonymous.
    pub(crate) fn claim<'a>(
        &self,
        message: &Message<'a>,
        origin: Origin,
        unix_s: u64,
    ) -> Result<Bearer<'a>, Refusal> {
        let kind = message.integrity().ok_or(Refusal::Unauthenticated)?;
        let username = message.attribute(attr::USERNAME);
        let is_named = username.is_some() || message.attribute(attr::USERHASH).is_some();
        let (true, Some(realm), Some(nonce)) =
            (is_named, message.attribute(attr::REALM), message.attribute(attr::NONCE))
        else {
            return Err(Refusal::BadRequest);
        };
        if !self.nonces.is_valid(nonce, origin, unix_s) {
            return Err(Refusal::StaleNonce);
        }
        let algorithm = password_algorithm(message).ok_or(Refusal::BadRequest)?;
        Ok(Bearer {
            // With USERHASH alone this is the empty name, which is nobody's.
            username: username.unwrap_or_default(),
            realm,
            algorithm,
            kind,
        })
    }

    /// Checks integrity, under each accepted secret, and that the credentials have not expired at
    /// `valid_at`, if that is asked.
    pub(crate) fn prove<'a>(
        &self,
        message: &Message<'a>,
        bearer: &Bearer<'a>,
        valid_at: Option<u64>,
    ) -> Result<Proof<'a>, Refusal> {
        let username = Some(bearer.username)
            .filter(|name| name.len() <= MAX_USERNAME_LEN)
            .and_then(|name| std::str::from_utf8(name).ok())
            .filter(|name| is_in_time(name, valid_at))
            .filter(|_| bearer.realm == self.realm.as_bytes())
            .ok_or(Refusal::Unauthenticated)?;
        let algorithm = bearer.algorithm;
        self.secrets
            .iter()
            .map(|secret| key_for(secret, algorithm, bearer.kind, username, &self.realm))
            .find(|key| message.verify(key))
            .map(|key| Proof { username, algorithm, key })
            .ok_or(Refusal::Unauthenticated)
    }

    /// Adds what a client needs to try again (RFC 8489, section 9.2.4).
    pub(crate) fn write_challenge(&self, writer: &mut Writer, origin: Origin, unix_s: u64) {
        writer.attribute(attr::REALM, self.realm.as_bytes());
        writer.attribute(attr::NONCE, &self.nonces.issue(origin, unix_s));
        writer.attribute(attr::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
    }
}

/// True if a username is of our form and, if that is asked, has not expired at `valid_at`.
fn is_in_time(username: &str, valid_at: Option<u64>) -> bool {
    let Some(expiry) = expiry_unix_s(username) else { return false };
    valid_at.is_none_or(|unix_s| unix_s < expiry)
}

/// True for a request that names nobody and proves nothing: it is answered like anybody's.
pub(crate) fn is_anonymous(message: &Message<'_>) -> bool {
    message.integrity().is_none()
        && message.attribute(attr::USERNAME).is_none()
        && message.attribute(attr::USERHASH).is_none()
}

/// The password algorithm of a request whose nonce, and so our announcement, is genuine: MD5 if it
/// names none, otherwise one of ours next to our own unchanged list (RFC 8489, section 9.2.4).
fn password_algorithm(message: &Message<'_>) -> Option<PasswordAlgorithm> {
    let algorithm = message.attribute(attr::PASSWORD_ALGORITHM);
    let algorithms = message.attribute(attr::PASSWORD_ALGORITHMS);
    match (algorithm, algorithms) {
        (None, None) => Some(PasswordAlgorithm::Md5),
        (Some(algorithm), Some(algorithms)) if algorithms == PASSWORD_ALGORITHMS => match algorithm {
            [0, 1, 0, 0] => Some(PasswordAlgorithm::Md5),
            [0, 2, 0, 0] => Some(PasswordAlgorithm::Sha256),
            _ => None,
        },
        _ => None,
    }
}
