//! What clients send: requests with credentials of every quality, and what is damaged on the way.

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key, mint};
use meetpoint_turn::message::{Class, TransactionId};
use meetpoint_turn::{IntegrityKind, Secret, Writer, attr};

use crate::input::Input;
use crate::server::setup::{CLIENTS, NOW_UNIX_S, REALM, SECRETS, user};
use crate::wire::{Seen, is_ending};

/// PASSWORD-ALGORITHMS as the server offers it: SHA-256 and MD5 (RFC 8489, section 14.11).
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// A nonce, who learnt it, and the second in which he did.
#[derive(Debug, Clone)]
pub(super) struct Nonce {
    pub(super) of: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) unix_s: u64,
}

/// What a signed request is worth, as its writer knows it.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) user: String,
    pub(super) secret: usize,
    pub(super) expires_unix_s: u64,
    pub(super) nonce: Nonce,
}

/// A datagram to send.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) bytes: Vec<u8>,
    /// Good credentials, if what they protect is unharmed.
    pub(super) grant: Option<Grant>,
}

/// How a request is signed; one byte of the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner(u8);

impl Manner {
    /// Good credentials, the old way: for what has to work before anything interesting can.
    pub(super) const PLAIN: Self = Self(0);

    pub(super) fn read(input: &mut Input<'_>) -> Self {
        Self(input.byte())
    }

    /// One in eight is signed by another user, with a wrong password, with an old credential, or not at all.
    const fn credentials(self) -> u8 {
        self.0 & 7
    }

    pub(super) const fn is_signed(self) -> bool {
        self.credentials() != 7
    }

    const fn has_fingerprint(self) -> bool {
        self.0 & 8 != 0
    }

    const fn is_sha256(self) -> bool {
        self.0 & 16 != 0
    }

    const fn is_damaged(self) -> bool {
        self.0 & 32 != 0
    }

    pub(super) const fn repeats_transaction(self) -> bool {
        self.0 & 64 != 0
    }

    pub(super) const fn keeps_nonce(self) -> bool {
        self.0 & 128 != 0
    }

    /// Starts a request.
    pub(super) fn start(method: u16, id: TransactionId) -> Writer {
        Writer::new(Class::Request, method, id)
    }

    /// Signs a request of the client with this number, and damages it if it is to be.
    pub(super) fn finish(
        self,
        mut writer: Writer,
        client: usize,
        nonce: Option<&Nonce>,
        input: &mut Input<'_>,
    ) -> Question {
        let mut grant = None;
        if let (true, Some(nonce)) = (self.is_signed(), nonce) {
            grant = self.sign(&mut writer, client, nonce);
        }
        if self.has_fingerprint() {
            writer.fingerprint();
        }
        let mut bytes = writer.finish().to_vec();
        if self.is_damaged() {
            let whole = protected(&bytes);
            damage(&mut bytes, input);
            grant = grant.filter(|_| protected(&bytes) == whole);
        }
        Question { bytes, grant }
    }

    fn sign(self, writer: &mut Writer, client: usize, nonce: &Nonce) -> Option<Grant> {
        let secret = usize::from(self.credentials() == 4);
        let user = user(client + usize::from(self.credentials() == 3));
        let expires_unix_s = if self.credentials() == 5 { NOW_UNIX_S } else { NOW_UNIX_S + 86_400 };
        let made_with = Secret::new(SECRETS[secret].as_bytes()).expect("long enough");
        let (username, mut password) = mint(&made_with, &user, expires_unix_s);
        if self.credentials() == 6 {
            password.push('x');
        }
        let (algorithm, kind) = if self.is_sha256() {
            (PasswordAlgorithm::Sha256, IntegrityKind::Sha256)
        } else {
            (PasswordAlgorithm::Md5, IntegrityKind::Sha1)
        };
        writer.attribute(attr::USERNAME, username.as_bytes());
        writer.attribute(attr::REALM, REALM.as_bytes());
        writer.attribute(attr::NONCE, &nonce.bytes);
        if self.is_sha256() {
            writer.attribute(attr::PASSWORD_ALGORITHMS, &ALGORITHMS);
            writer.attribute(attr::PASSWORD_ALGORITHM, &ALGORITHMS[..4]);
        }
        writer.integrity(&long_term_key(algorithm, kind, &username, REALM, password.as_bytes()));
        let grant = Grant { user, secret, expires_unix_s, nonce: nonce.clone() };
        // A nonce is for a source, to whichever listener it speaks.
        let is_own = CLIENTS[nonce.of].1 == CLIENTS[client].1;
        (self.credentials() != 6 && is_own).then_some(grant)
    }
}

/// The part that an integrity attribute protects, with that attribute; without the header's length, which is not part
/// of what it says.
fn protected(bytes: &[u8]) -> Option<Vec<u8>> {
    let seen = Seen::read(bytes)?;
    let first = seen.attributes.iter().find(|attribute| is_ending(attribute.kind))?;
    Some([&bytes[..2], &bytes[4..first.end]].concat())
}

/// Changes a few bytes, cuts, or appends.
pub(super) fn damage(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..=input.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = usize::from(input.u16()) % bytes.len();
        match input.below(4) {
            0 | 1 => bytes[at] = input.byte(),
            2 => bytes.truncate(at),
            _ => bytes.extend(input.take(4)),
        }
    }
}
