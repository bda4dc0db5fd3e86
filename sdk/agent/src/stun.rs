//! The STUN messages that a node writes and reads (RFC 8489). The only place that knows the codec.
//!
//! Stricter than the codec: a datagram is exactly one message, integrity is MESSAGE-INTEGRITY-SHA256
//! at full length, and nothing is retried or logged. Writing cannot fail, since all our attributes
//! have fixed or bounded lengths.

use std::net::SocketAddr;

use meetpoint_proto::TicketKey;
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::stun::{MEETPOINT_NONCE, is_stun};
use rand_chacha::rand_core::Rng;
use stun_types::attribute::{
    AttributeStaticType, AttributeType, ErrorCode, MessageIntegritySha256, Nonce, PasswordAlgorithm,
    PasswordAlgorithms, RawAttribute, Realm, Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageClass, MessageType,
    MessageWrite, MessageWriteExt, MessageWriteVec, ShortTermCredentials,
};

/// Nothing that a node is sent comes near it; a longer datagram is no STUN of ours.
const MAX_LEN: usize = 1280;
/// RFC 5780, section 7.2.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
/// RFC 8489, section 14.6: the length without truncation, which no usage of ours allows.
const SHA256_LEN: usize = 32;
/// PASSWORD-ALGORITHM naming SHA-256, without parameters (RFC 8489, section 18.5.1.2).
const SHA256_ALGORITHM: [u8; 4] = [0, 2, 0, 0];
/// RFC 8489, section 14: bound on what we echo of a challenge.
const MAX_ECHO_LEN: usize = 763;

/// Ties an answer to its question. 96 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransactionId(u128);

impl TransactionId {
    pub(crate) fn random(rng: &mut impl Rng) -> Self {
        let (high, low) = (u128::from(rng.next_u32()), u128::from(rng.next_u64()));
        Self(high << 64 | low)
    }
}

/// A key for MESSAGE-INTEGRITY-SHA256.
#[derive(Clone)]
pub(crate) struct Key(IntegrityKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// The key of one direction's checks: a short-term credential (RFC 8489, section 9.1) whose
    /// password is the text of the ticket's key.
    pub(crate) fn of_ticket(key: &TicketKey) -> Self {
        Self(ShortTermCredentials::new(key.to_string()).make_key())
    }
}

/// What the server's challenge (401, 438) says, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    username: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    algorithms: Vec<u8>,
    key: Key,
}

impl Credential {
    /// The key that protects requests and their answers.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// A whole Binding message.
pub(crate) struct Datagram<'a> {
    message: Message<'a>,
}

impl<'a> Datagram<'a> {
    /// Reads a datagram that is exactly one Binding message.
    pub(crate) fn parse(payload: &'a [u8]) -> Option<Self> {
        if payload.len() > MAX_LEN || !is_stun(payload) {
            return None;
        }
        let body_len = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
        if !body_len.is_multiple_of(4) || body_len + 20 != payload.len() {
            return None;
        }
        let message = Message::from_bytes(payload).ok()?;
        message.has_method(BINDING).then_some(Self { message })
    }

    pub(crate) fn class(&self) -> Class {
        match self.message.class() {
            MessageClass::Request => Class::Request,
            MessageClass::Indication => Class::Indication,
            MessageClass::Success => Class::Success,
            MessageClass::Error => Class::Error,
        }
    }

    pub(crate) fn id(&self) -> TransactionId {
        TransactionId(self.message.transaction_id().into())
    }

    /// The name in a check: `to:from`.
    pub(crate) fn username(&self) -> Option<String> {
        String::from_utf8(self.raw(Username::TYPE)?).ok()
    }

    /// The reflexive address.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        let attribute = self.message.attribute::<XorMappedAddress>().ok()?;
        Some(attribute.addr(self.message.transaction_id()))
    }

    pub(crate) fn error_code(&self) -> Option<u16> {
        self.message.attribute::<ErrorCode>().ok().map(|error| error.code())
    }

    /// What a dial-back carries.
    pub(crate) fn dial_back_nonce(&self) -> Option<DialBackNonce> {
        let bytes = self.raw(AttributeType::new(MEETPOINT_NONCE))?;
        bytes.try_into().ok().map(DialBackNonce::from_bytes)
    }

    /// True if the message was protected with this key. Compared in constant time.
    pub(crate) fn verify(&self, key: &Key) -> bool {
        let is_whole = self.raw(MessageIntegritySha256::TYPE).is_some_and(|tag| tag.len() == SHA256_LEN);
        is_whole
            && self
                .message
                .validate_integrity_with_key(&key.0)
                .is_ok_and(|kind| kind == IntegrityAlgorithm::Sha256)
    }

    /// The answer to a challenge, if this is one that offers SHA-256 (RFC 8489, section 9.2.5).
    pub(crate) fn challenge(&self, username: &str, password: &str) -> Option<Credential> {
        let offered = self.message.attribute::<PasswordAlgorithms>().ok()?;
        let wanted = stun_types::attribute::PasswordAlgorithmValue::SHA256;
        if !offered.algorithms().contains(&wanted) {
            return None;
        }
        let realm = self.raw(Realm::TYPE)?;
        let realm_text = String::from_utf8(realm.clone()).ok()?;
        let credentials = LongTermKeyCredentials::new(username.to_owned(), password.to_owned(), realm_text);
        Some(Credential {
            username: username.to_owned(),
            realm,
            nonce: self.raw(Nonce::TYPE)?,
            algorithms: self.raw(PasswordAlgorithms::TYPE)?,
            key: Key(credentials.make_key(IntegrityAlgorithm::Sha256)),
        })
    }

    fn raw(&self, kind: AttributeType) -> Option<Vec<u8>> {
        let attribute = self.message.raw_attribute(kind)?;
        (attribute.value.len() <= MAX_ECHO_LEN).then(|| attribute.value.to_vec())
    }
}

/// A plain Binding request.
pub(crate) fn binding(id: TransactionId) -> Vec<u8> {
    start(MessageClass::Request, id).finish()
}

/// A Binding request whose answer is to come from elsewhere (RFC 5780, section 7.2).
pub(crate) fn binding_changed(id: TransactionId, ip: bool, port: bool) -> Vec<u8> {
    let mut message = start(MessageClass::Request, id);
    let flags = u8::from(ip) << 2 | u8::from(port) << 1;
    add(&mut message, CHANGE_REQUEST, &[0, 0, 0, flags]);
    message.finish()
}

/// A Binding request that names a user but proves nothing, to be challenged.
pub(crate) fn binding_named(id: TransactionId, username: &str) -> Vec<u8> {
    let mut message = start(MessageClass::Request, id);
    add(&mut message, Username::TYPE, username.as_bytes());
    message.finish()
}

/// A Binding request under a long-term credential (RFC 8489, section 9.2.3).
pub(crate) fn binding_authenticated(id: TransactionId, credential: &Credential) -> Vec<u8> {
    let mut message = start(MessageClass::Request, id);
    add(&mut message, Username::TYPE, credential.username.as_bytes());
    add(&mut message, Realm::TYPE, &credential.realm);
    add(&mut message, Nonce::TYPE, &credential.nonce);
    add(&mut message, PasswordAlgorithms::TYPE, &credential.algorithms);
    add(&mut message, PasswordAlgorithm::TYPE, &SHA256_ALGORITHM);
    protect(&mut message, &credential.key);
    message.finish()
}

/// A punch or consent check.
pub(crate) fn check(id: TransactionId, username: &str, key: &Key) -> Vec<u8> {
    let mut message = start(MessageClass::Request, id);
    add(&mut message, Username::TYPE, username.as_bytes());
    protect(&mut message, key);
    fingerprint(message)
}

/// The answer to a check.
pub(crate) fn check_answer(id: TransactionId, mapped: SocketAddr, key: &Key) -> Vec<u8> {
    let mut message = start(MessageClass::Success, id);
    message.push_attribute_unchecked(&XorMappedAddress::new(mapped, id.0.into()));
    protect(&mut message, key);
    fingerprint(message)
}

fn start(class: MessageClass, id: TransactionId) -> MessageWriteVec {
    let kind = MessageType::from_class_method(class, BINDING);
    Message::builder(kind, id.0.into(), MessageWriteVec::with_capacity(256))
}

fn add(message: &mut MessageWriteVec, kind: AttributeType, value: &[u8]) {
    message.push_attribute_unchecked(&RawAttribute::new(kind, value));
}

/// Adds MESSAGE-INTEGRITY-SHA256. Not by the codec's own method, which records the key in a
/// trace span.
fn protect(message: &mut MessageWriteVec, key: &Key) {
    add(message, MessageIntegritySha256::TYPE, &[0; SHA256_LEN]);
    let tag_at = message.len() - SHA256_LEN;
    // The header's length already counts the attribute (RFC 8489, section 14.6).
    let protected = &message.data()[..tag_at - 4];
    if let Ok(tag) = MessageIntegritySha256::compute(&[protected], &key.0) {
        message.mut_data()[tag_at..].copy_from_slice(&tag);
    }
}

fn fingerprint(mut message: MessageWriteVec) -> Vec<u8> {
    // Fails only on a second fingerprint; a check without one would still be valid.
    let _ = message.add_fingerprint();
    message.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TransactionId {
        TransactionId(0x0102_0304_0506_0708_090a_0b0c)
    }

    fn key(byte: u8) -> Key {
        Key::of_ticket(&TicketKey::from_bytes([byte; 32]))
    }

    #[test]
    fn a_check_reads_back_and_verifies_with_its_key_only() {
        let bytes = check(id(), "to:from", &key(1));
        let datagram = Datagram::parse(&bytes).unwrap();
        assert_eq!((datagram.class(), datagram.id()), (Class::Request, id()));
        assert_eq!(datagram.username().as_deref(), Some("to:from"));
        assert!(datagram.verify(&key(1)));
        assert!(!datagram.verify(&key(2)));
    }

    #[test]
    fn an_answer_carries_the_reflexive_address() {
        for text in ["20.0.0.9:4711", "[2606:4700::1]:9"] {
            let mapped = text.parse().unwrap();
            let bytes = check_answer(id(), mapped, &key(1));
            let datagram = Datagram::parse(&bytes).unwrap();
            assert_eq!(datagram.class(), Class::Success);
            assert_eq!(datagram.mapped(), Some(mapped));
            assert!(datagram.verify(&key(1)));
        }
    }

    #[test]
    fn one_changed_bit_is_noticed() {
        let bytes = check(id(), "to:from", &key(1));
        // FINGERPRINT stands behind the integrity, which does not cover it.
        let protected = bytes.len() - 8;
        for at in 0..protected * 8 {
            let mut forged = bytes.clone();
            forged[at / 8] ^= 1 << (at % 8);
            let accepted = Datagram::parse(&forged).is_some_and(|datagram| datagram.verify(&key(1)));
            assert!(!accepted, "bit {at}");
        }
    }

    #[test]
    fn integrity_must_be_whole() {
        let mut message = start(MessageClass::Request, id());
        add(&mut message, Username::TYPE, b"to:from");
        add(&mut message, MessageIntegritySha256::TYPE, &[0; 16]);
        let tag =
            MessageIntegritySha256::compute(&[&message.data()[..message.len() - 20]], &key(1).0).unwrap();
        let at = message.len() - 16;
        message.mut_data()[at..].copy_from_slice(&tag[..16]);
        let bytes = message.finish();
        let datagram = Datagram::parse(&bytes).unwrap();
        assert!(datagram.message.validate_integrity_with_key(&key(1).0).is_ok(), "the codec takes it");
        assert!(!datagram.verify(&key(1)), "we do not");
    }

    #[test]
    fn a_datagram_is_one_whole_message() {
        let bytes = check(id(), "to:from", &key(1));
        let cases: [(&str, Vec<u8>); 5] = [
            ("empty", vec![]),
            ("cut short", bytes[..bytes.len() - 4].to_vec()),
            ("something behind", [&bytes[..], &[0; 4]].concat()),
            ("another method", [&[0x00, 0x03], &binding(id())[2..]].concat()),
            ("too long", vec![0; MAX_LEN + 1]),
        ];
        for (name, bytes) in cases {
            assert!(Datagram::parse(&bytes).is_none(), "{name}");
        }
    }

    #[test]
    fn change_request_flags() {
        for (ip, port, flags) in [(true, true, 6), (true, false, 4), (false, true, 2)] {
            let bytes = binding_changed(id(), ip, port);
            assert_eq!(bytes[20..], [0, 3, 0, 4, 0, 0, 0, flags]);
        }
    }
}
