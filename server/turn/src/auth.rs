//! The long-term credential mechanism (RFC 8489, section 9.2.4).
//!
//! One order differs from the RFC's on purpose: the nonce is checked before the credentials, not
//! after. A stranger without a nonce for its source then costs one short HMAC, learns nothing
//! about credentials, and cannot spend what the server grants to sources that proved themselves.
//! A client that is wrong in both sees 438 first and 401 on its next try.
//!
//! There are two kinds of users, told apart by a colon in the name: time-limited ones
//! ([`crate::credentials`]), of whom nothing is stored, and static ones ([`crate::users`]). Only
//! the latter can be named by USERHASH; the hash of a time-limited username is answered like that of
//! nobody, and so username anonymity is announced only if the operator says so
//! ([`Users::announcing_hashes`]).

use std::sync::Arc;

use meetpoint_proto::stun::PASSWORD_ALGORITHMS;
use meetpoint_stun::{IntegrityKey, IntegrityKind, Writer};

use crate::attr;
use crate::credentials::{PasswordAlgorithm, SecretId, Secrets, expiry_unix_s, key_for, user_of};
use crate::message::Message;
use crate::nonce::{Features, NonceKey, Origin};
use crate::users::{LongTermKeys, User, Users};

/// Usernames are shorter than 509 bytes (RFC 8489, section 14.3).
const MAX_USERNAME_LEN: usize = 508;

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

/// How a request names its user.
#[derive(Clone, Copy)]
enum Claimed<'a> {
    Name(&'a [u8]),
    /// SHA-256 of name and realm (RFC 8489, section 14.4).
    Hash(&'a [u8]),
}

/// A request that came from where our nonce went; its credentials are not yet checked.
pub(crate) struct Bearer<'a> {
    claimed: Claimed<'a>,
    realm: &'a [u8],
    algorithm: PasswordAlgorithm,
    kind: IntegrityKind,
    is_handed: bool,
}

/// Whose credentials they are.
enum Username<'a> {
    /// `<expiry>:<user>`, and the secret that vouches for it.
    TimeLimited(&'a str, SecretId),
    Static(Arc<str>),
}

/// A user whose request verified, and the key that protects the answer.
pub(crate) struct Proof<'a> {
    username: Username<'a>,
    algorithm: PasswordAlgorithm,
    pub(crate) key: IntegrityKey,
    /// The nonce came with the credential ([`crate::handed`]), and says nothing of where its bearer receives.
    pub(crate) is_handed: bool,
}

impl Proof<'_> {
    /// The whole username, with an expiry if it has one.
    pub(crate) fn username(&self) -> &str {
        match &self.username {
            Username::TimeLimited(username, _) => username,
            Username::Static(name) => name,
        }
    }

    /// The part of it that names somebody.
    pub(crate) fn user(&self) -> &str {
        match &self.username {
            Username::TimeLimited(username, _) => user_of(username),
            Username::Static(name) => name,
        }
    }
}

/// The key of a user who proved himself before. Of a time-limited one it saves deriving it from
/// each secret for each of his requests.
#[derive(Debug)]
pub(crate) struct KnownKey {
    username: Box<str>,
    algorithm: PasswordAlgorithm,
    key: IntegrityKey,
    /// What it was derived from: dropping a secret drops what was derived from that one. Nothing
    /// for a static user, who is looked up each time, so that a removed one is gone at once.
    secret: Option<SecretId>,
}

impl KnownKey {
    pub(crate) const fn key(&self) -> &IntegrityKey {
        &self.key
    }

    /// The part of the username that names somebody.
    pub(crate) fn user(&self) -> &str {
        if self.secret.is_some() { user_of(&self.username) } else { &self.username }
    }
}

/// Stands in for the keys of a name that nobody has: refusing it takes as long as refusing a
/// wrong password, so that time does not tell which names there are.
static NOBODY: LongTermKeys = LongTermKeys { md5: [0; 16], sha256: [0; 32] };

/// Checks requests and writes challenges.
pub(crate) struct Authenticator {
    realm: String,
    secrets: Secrets,
    users: Users,
    nonces: NonceKey,
}

impl Authenticator {
    pub(crate) fn new(realm: String, secrets: Secrets, nonce_key: &[u8; 32]) -> Self {
        Self { realm, secrets, users: Users::default(), nonces: NonceKey::new(nonce_key) }
    }

    pub(crate) fn set_secrets(&mut self, secrets: Secrets) {
        self.secrets = secrets;
    }

    pub(crate) fn set_users(&mut self, users: Users) {
        self.users = users;
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: crate::defence::Defences) {
        self.nonces.set_defences(defences);
    }

    /// What to remember of a user who proved himself.
    pub(crate) fn remember(&self, proof: &Proof<'_>) -> KnownKey {
        KnownKey {
            username: proof.username().into(),
            algorithm: proof.algorithm,
            key: proof.key.clone(),
            secret: match proof.username {
                Username::TimeLimited(_, secret) => Some(secret),
                Username::Static(_) => None,
            },
        }
    }

    /// The proof of a bearer who is the one whose key is known, and whose message is his. The
    /// credentials must not have expired at `valid_at`, if that is asked.
    pub(crate) fn recognise<'a>(
        &self,
        message: &Message<'a>,
        bearer: &Bearer<'a>,
        known: &KnownKey,
        valid_at: Option<u64>,
    ) -> Option<Proof<'a>> {
        let secret = known.secret.filter(|secret| self.secrets.holds(*secret))?;
        let Claimed::Name(name) = bearer.claimed else { return None };
        let is_known = name == known.username.as_bytes()
            && bearer.realm == self.realm.as_bytes()
            && bearer.algorithm == known.algorithm
            && is_in_time(&known.username, valid_at)
            && message.verify(&known.key);
        let username = std::str::from_utf8(name).ok().filter(|_| is_known)?;
        Some(Proof {
            username: Username::TimeLimited(username, secret),
            algorithm: known.algorithm,
            key: known.key.clone(),
            is_handed: bearer.is_handed,
        })
    }

    /// Checks everything up to the credentials themselves, for a request that is not anonymous.
    pub(crate) fn claim<'a>(
        &self,
        message: &Message<'a>,
        origin: Origin,
        unix_s: u64,
    ) -> Result<Bearer<'a>, Refusal> {
        let kind = message.integrity().ok_or(Refusal::Unauthenticated)?;
        let name = message.attribute(attr::USERNAME).map(Claimed::Name);
        let claimed = name.or_else(|| message.attribute(attr::USERHASH).map(Claimed::Hash));
        let (Some(claimed), Some(realm), Some(nonce)) =
            (claimed, message.attribute(attr::REALM), message.attribute(attr::NONCE))
        else {
            return Err(Refusal::BadRequest);
        };
        let is_handed = !self.nonces.is_valid(nonce, origin, unix_s);
        if is_handed && !self.was_handed_out(nonce, claimed, origin, unix_s) {
            return Err(Refusal::StaleNonce);
        }
        let algorithm = password_algorithm(message).ok_or(Refusal::BadRequest)?;
        Ok(Bearer { claimed, realm, algorithm, kind, is_handed })
    }

    fn was_handed_out(&self, nonce: &[u8], claimed: Claimed<'_>, origin: Origin, unix_s: u64) -> bool {
        match claimed {
            Claimed::Name(name) => origin.is_stream && self.secrets.handed_out(nonce, name, unix_s),
            Claimed::Hash(_) => false,
        }
    }

    /// Checks integrity, and that the credentials have not expired at `valid_at`, if that is asked.
    pub(crate) fn prove<'a>(
        &self,
        message: &Message<'a>,
        bearer: &Bearer<'a>,
        valid_at: Option<u64>,
    ) -> Result<Proof<'a>, Refusal> {
        if bearer.realm != self.realm.as_bytes() {
            return Err(Refusal::Unauthenticated);
        }
        let proof = match bearer.claimed {
            Claimed::Hash(hash) => self.prove_static(message, bearer, self.users.by_hash(hash)),
            Claimed::Name(name) if name.contains(&b':') => {
                self.prove_time_limited(message, bearer, name, valid_at)
            }
            Claimed::Name(name) => {
                let name = std::str::from_utf8(name).unwrap_or_default();
                self.prove_static(message, bearer, self.users.by_name(name))
            }
        };
        proof.ok_or(Refusal::Unauthenticated)
    }

    /// Under each accepted secret.
    fn prove_time_limited<'a>(
        &self,
        message: &Message<'a>,
        bearer: &Bearer<'a>,
        name: &'a [u8],
        valid_at: Option<u64>,
    ) -> Option<Proof<'a>> {
        let username = Some(name)
            .filter(|name| name.len() <= MAX_USERNAME_LEN)
            .and_then(|name| std::str::from_utf8(name).ok())
            .filter(|name| is_in_time(name, valid_at))?;
        let algorithm = bearer.algorithm;
        self.secrets
            .iter()
            .map(|secret| (secret.id(), key_for(secret, algorithm, bearer.kind, username, &self.realm)))
            .find(|(_, key)| message.verify(key))
            .map(|(secret, key)| {
                let username = Username::TimeLimited(username, secret);
                Proof { username, algorithm, key, is_handed: bearer.is_handed }
            })
    }

    fn prove_static<'a>(
        &self,
        message: &Message<'a>,
        bearer: &Bearer<'a>,
        user: Option<&User>,
    ) -> Option<Proof<'a>> {
        let algorithm = bearer.algorithm;
        let key = user.map_or(&NOBODY, User::keys).key(algorithm, bearer.kind);
        let is_genuine = message.verify(&key);
        let name = user.filter(|_| is_genuine)?.name();
        let username = Username::Static(Arc::clone(name));
        Some(Proof { username, algorithm, key, is_handed: bearer.is_handed })
    }

    /// Adds what a client needs to try again (RFC 8489, section 9.2.4).
    pub(crate) fn write_challenge(&self, writer: &mut Writer, origin: Origin, unix_s: u64) {
        writer.attribute(attr::REALM, self.realm.as_bytes());
        let features = if self.users.announces_hashes() {
            Features::UsernameAnonymity
        } else {
            Features::PasswordAlgorithms
        };
        writer.attribute(attr::NONCE, &self.nonces.issue(features, origin, unix_s));
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
