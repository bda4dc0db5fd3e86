//! The STUN and TURN messages that a node writes and reads (RFC 8489, RFC 8656).
//!
//! Stricter than the codec: integrity is MESSAGE-INTEGRITY-SHA256 at full length, and a challenge that does not
//! offer it is none. A node speaks with the servers of its cluster only, all of which do, so whoever strips it
//! from a challenge wants a weaker one. Writing cannot fail, since all our attributes have fixed or bounded
//! lengths.

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_proto::TicketKey;
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::stun::{PASSWORD_ALGORITHMS, REALM, is_stun};
use meetpoint_stun::message::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, DATA, REFRESH, SEND};
use meetpoint_stun::{
    Family, IntegrityKey, IntegrityKind, Message, PasswordAlgorithm, Writer, attr, long_term_key,
    read_address, read_xor_address,
};
use rand_chacha::rand_core::Rng;

/// Nothing that a node is sent and reads comes near it; a longer datagram is no STUN of ours.
const MAX_LEN: usize = 1280;
/// PASSWORD-ALGORITHM naming SHA-256, without parameters (RFC 8489, section 18.5.1.2).
const SHA256_ALGORITHM: [u8; 4] = [0, 2, 0, 0];
/// RFC 8489, section 14: bound on what we echo of a challenge.
pub(crate) const MAX_ECHO_LEN: usize = 763;
/// REQUESTED-TRANSPORT: UDP (RFC 8656, section 18.8).
const UDP: [u8; 4] = [17, 0, 0, 0];

/// Ties an answer to its question. 96 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransactionId(meetpoint_stun::TransactionId);

impl TransactionId {
    pub(crate) fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 12];
        rng.fill_bytes(&mut bytes);
        Self(meetpoint_stun::TransactionId(bytes))
    }
}

/// A key for MESSAGE-INTEGRITY-SHA256.
#[derive(Debug, Clone)]
pub(crate) struct Key(IntegrityKey);

impl Key {
    /// The key of one direction's checks: a short-term credential (RFC 8489, section 9.1) whose
    /// password is the text of the ticket's key.
    pub(crate) fn of_ticket(key: &TicketKey) -> Self {
        Self(IntegrityKey::new(IntegrityKind::Sha256, key.to_string().as_bytes()))
    }
}

/// What the server's challenge (401, 438) says, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    username: String,
    realm: String,
    nonce: Vec<u8>,
    algorithms: Vec<u8>,
    key: Key,
}

impl Credential {
    /// The key that protects requests and their answers.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// What a challenge would have said, with a nonce that came with the username.
    pub(crate) fn unchallenged(username: &str, password: &str, nonce: &str) -> Self {
        Self {
            username: username.to_owned(),
            realm: REALM.to_owned(),
            nonce: nonce.as_bytes().to_vec(),
            algorithms: PASSWORD_ALGORITHMS.to_vec(),
            key: long_term(username, REALM, password),
        }
    }

    /// The same challenge, answered by another user.
    pub(crate) fn of_user(&self, username: &str, password: &str) -> Self {
        let key = long_term(username, &self.realm, password);
        Self { username: username.to_owned(), key, ..self.clone() }
    }
}

fn long_term(username: &str, realm: &str, password: &str) -> Key {
    let (algorithm, kind) = (PasswordAlgorithm::Sha256, IntegrityKind::Sha256);
    Key(long_term_key(algorithm, kind, username, realm, password.as_bytes()))
}

pub(crate) use meetpoint_stun::message::Class;

/// What a message is about, as far as a node speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Binding,
    /// An answer of the relay, to one of the requests in [`Ask`].
    Turn,
    /// Bytes of a peer, by way of the relay.
    Data,
}

/// A whole message.
pub(crate) struct Datagram<'a> {
    message: Message<'a>,
}

impl<'a> Datagram<'a> {
    /// Reads a datagram that is exactly one message.
    pub(crate) fn parse(payload: &'a [u8]) -> Option<Self> {
        if payload.len() > MAX_LEN || !is_stun(payload) {
            return None;
        }
        let message = Message::parse(payload).ok()?;
        Some(Self { message })
    }

    /// `None`: nothing that a node is told.
    pub(crate) fn method(&self) -> Option<Method> {
        match (self.message.method(), self.class()) {
            (BINDING, _) => Some(Method::Binding),
            (ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND, Class::Success | Class::Error) => {
                Some(Method::Turn)
            }
            (DATA, Class::Indication) => Some(Method::Data),
            _ => None,
        }
    }

    pub(crate) fn class(&self) -> Class {
        self.message.class()
    }

    pub(crate) fn id(&self) -> TransactionId {
        TransactionId(self.message.transaction_id())
    }

    /// The name in a check: `to:from`, or the short form of `from`.
    pub(crate) fn username(&self) -> Option<&'a str> {
        std::str::from_utf8(self.echo(attr::USERNAME)?).ok()
    }

    /// Its sender knows peers by short names.
    pub(crate) fn takes_short_names(&self) -> bool {
        self.message.attribute(attr::MEETPOINT_SHORT_NAMES).is_some()
    }

    /// The reflexive address.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        self.address(attr::XOR_MAPPED_ADDRESS)
    }

    pub(crate) fn error_code(&self) -> Option<u16> {
        let [_, _, hundreds, rest, ..] = self.message.attribute(attr::ERROR_CODE)? else { return None };
        Some(u16::from(hundreds & 7) * 100 + u16::from(*rest))
    }

    /// Where a server sends its client on to (RFC 8489, section 14.15).
    pub(crate) fn alternate_server(&self) -> Option<SocketAddr> {
        read_address(self.message.attribute(attr::ALTERNATE_SERVER)?)
    }

    /// What a dial-back carries.
    pub(crate) fn dial_back_nonce(&self) -> Option<DialBackNonce> {
        let bytes = self.message.attribute(attr::MEETPOINT_NONCE)?;
        bytes.try_into().ok().map(DialBackNonce::from_bytes)
    }

    /// True if the message was protected with this key. Compared in constant time.
    pub(crate) fn verify(&self, key: &Key) -> bool {
        self.message.verify(&key.0)
    }

    /// The answer to a challenge, if this is one that offers SHA-256 (RFC 8489, section 9.2.5).
    pub(crate) fn challenge(&self, username: &str, password: &str) -> Option<Credential> {
        let algorithms = self.echo(attr::PASSWORD_ALGORITHMS)?;
        if !offers_sha256(algorithms) {
            return None;
        }
        let realm = std::str::from_utf8(self.echo(attr::REALM)?).ok()?;
        Some(Credential {
            username: username.to_owned(),
            realm: realm.to_owned(),
            nonce: self.echo(attr::NONCE)?.to_vec(),
            algorithms: algorithms.to_vec(),
            key: long_term(username, realm, password),
        })
    }

    /// The addresses that were allocated, one a family.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let all = self.message.attributes().filter(|each| each.kind == attr::XOR_RELAYED_ADDRESS);
        all.filter_map(|each| read_xor_address(each.value, self.message.transaction_id()))
    }

    /// How long what was asked for holds.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        let seconds = self.message.attribute(attr::LIFETIME)?.try_into().ok()?;
        Some(Duration::from_secs(u32::from_be_bytes(seconds).into()))
    }

    /// By what an allocation can be taken along to another address.
    pub(crate) fn mobility_ticket(&self) -> Option<&'a [u8]> {
        self.echo(attr::MOBILITY_TICKET).filter(|ticket| !ticket.is_empty())
    }

    /// What a Data indication brings, and from whom.
    pub(crate) fn data(&self) -> Option<(SocketAddr, &'a [u8])> {
        Some((self.address(attr::XOR_PEER_ADDRESS)?, self.message.attribute(attr::DATA)?))
    }

    fn address(&self, kind: u16) -> Option<SocketAddr> {
        read_xor_address(self.message.attribute(kind)?, self.message.transaction_id())
    }

    fn echo(&self, kind: u16) -> Option<&'a [u8]> {
        self.message.attribute(kind).filter(|value| value.len() <= MAX_ECHO_LEN)
    }
}

/// A list of PASSWORD-ALGORITHMS: number and length of the parameters, then these, padded.
fn offers_sha256(mut list: &[u8]) -> bool {
    while let Some(([number_high, number, len_high, len], rest)) = list.split_first_chunk::<4>() {
        if [*number_high, *number, *len_high, *len] == SHA256_ALGORITHM {
            return true;
        }
        let len = usize::from(u16::from_be_bytes([*len_high, *len])).next_multiple_of(4);
        list = rest.get(len..).unwrap_or_default();
    }
    false
}

/// A plain Binding request.
pub(crate) fn binding(id: TransactionId) -> Vec<u8> {
    start(Class::Request, id).finish().into()
}

/// A Binding request whose answer is to come from elsewhere (RFC 5780, section 7.2).
pub(crate) fn binding_changed(id: TransactionId, ip: bool, port: bool) -> Vec<u8> {
    let mut writer = start(Class::Request, id);
    let flags = u8::from(ip) << 2 | u8::from(port) << 1;
    writer.attribute(attr::CHANGE_REQUEST, &[0, 0, 0, flags]);
    writer.finish().into()
}

/// A Binding request whose answer is to go to this port of its source (RFC 5780, section 7.5).
pub(crate) fn binding_answered_at(id: TransactionId, port: u16) -> Vec<u8> {
    let mut writer = start(Class::Request, id);
    let [high, low] = port.to_be_bytes();
    writer.attribute(attr::RESPONSE_PORT, &[high, low, 0, 0]);
    writer.finish().into()
}

/// A Binding request that names a user but proves nothing, to be challenged.
pub(crate) fn binding_named(id: TransactionId, username: &str) -> Vec<u8> {
    let mut writer = start(Class::Request, id);
    writer.attribute(attr::USERNAME, username.as_bytes());
    writer.finish().into()
}

/// A Binding request under a long-term credential (RFC 8489, section 9.2.3).
pub(crate) fn binding_authenticated(id: TransactionId, credential: &Credential) -> Vec<u8> {
    authenticated(start(Class::Request, id), credential)
}

/// How a check says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckName<'a> {
    /// `to:from`, which every peer reads; it is told besides that shorter ones would do.
    Long(&'a str),
    /// The beginning of `from`, for a peer that has said that it reads that.
    Short(&'a str),
}

/// A punch or consent check.
pub(crate) fn check(id: TransactionId, name: CheckName<'_>, key: &Key) -> Vec<u8> {
    let mut writer = start(Class::Request, id);
    match name {
        CheckName::Long(name) => {
            writer.attribute(attr::USERNAME, name.as_bytes());
            writer.attribute(attr::MEETPOINT_SHORT_NAMES, &[]);
        }
        CheckName::Short(name) => writer.attribute(attr::USERNAME, name.as_bytes()),
    }
    writer.integrity(&key.0);
    writer.fingerprint();
    writer.finish().into()
}

/// The answer to a check; one that asks is told that short names would do.
pub(crate) fn check_answer(check: &Datagram<'_>, mapped: SocketAddr, key: &Key) -> Vec<u8> {
    let mut writer = start(Class::Success, check.id());
    writer.xor_address(attr::XOR_MAPPED_ADDRESS, mapped);
    if check.takes_short_names() {
        writer.attribute(attr::MEETPOINT_SHORT_NAMES, &[]);
    }
    writer.integrity(&key.0);
    writer.fingerprint();
    writer.finish().into()
}

/// What a client of a relay asks for (RFC 8656).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Relayed addresses: an IPv4 one, and an IPv6 one if the server has any. A mobile allocation comes with a ticket.
    Allocate { is_mobile: bool },
    /// To keep the allocation for so long; nothing: to end it.
    Refresh(Duration),
    /// To keep it for so long, wherever it was asked for: this is its ticket (RFC 8016).
    Follow { lifetime: Duration, ticket: Vec<u8> },
    /// To let these addresses in.
    Permit(Vec<SocketAddr>),
    /// To have this number stand for a peer.
    Bind { number: u16, peer: SocketAddr },
}

impl Ask {
    /// The request, under the credential; without one, to be challenged.
    pub(crate) fn write(&self, id: TransactionId, credential: Option<&Credential>) -> Vec<u8> {
        let method = match self {
            Self::Allocate { .. } => ALLOCATE,
            Self::Refresh(_) | Self::Follow { .. } => REFRESH,
            Self::Permit(_) => CREATE_PERMISSION,
            Self::Bind { .. } => CHANNEL_BIND,
        };
        let mut writer = Writer::new(Class::Request, method, id.0);
        match self {
            Self::Allocate { is_mobile } => {
                writer.attribute(attr::REQUESTED_TRANSPORT, &UDP);
                writer.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[Family::V6.number(), 0, 0, 0]);
                if *is_mobile {
                    writer.attribute(attr::MOBILITY_TICKET, &[]);
                }
            }
            Self::Refresh(lifetime) => write_lifetime(&mut writer, *lifetime),
            Self::Follow { lifetime, ticket } => {
                write_lifetime(&mut writer, *lifetime);
                writer.attribute(attr::MOBILITY_TICKET, ticket);
            }
            Self::Permit(peers) => {
                peers.iter().for_each(|peer| writer.xor_address(attr::XOR_PEER_ADDRESS, *peer));
            }
            Self::Bind { number, peer } => {
                let [high, low] = number.to_be_bytes();
                writer.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0]);
                writer.xor_address(attr::XOR_PEER_ADDRESS, *peer);
            }
        }
        match credential {
            Some(credential) => authenticated(writer, credential),
            None => writer.finish().into(),
        }
    }
}

fn write_lifetime(writer: &mut Writer, lifetime: Duration) {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    writer.attribute(attr::LIFETIME, &seconds.to_be_bytes());
}

/// Bytes for a peer of a relay's client that has no channel yet.
pub(crate) fn send(id: TransactionId, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Class::Indication, SEND, id.0);
    writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
    writer.attribute(attr::DATA, data);
    writer.finish().into()
}

fn start(class: Class, id: TransactionId) -> Writer {
    Writer::new(class, BINDING, id.0)
}

fn authenticated(mut writer: Writer, credential: &Credential) -> Vec<u8> {
    writer.attribute(attr::USERNAME, credential.username.as_bytes());
    writer.attribute(attr::REALM, credential.realm.as_bytes());
    writer.attribute(attr::NONCE, &credential.nonce);
    writer.attribute(attr::PASSWORD_ALGORITHMS, &credential.algorithms);
    writer.attribute(attr::PASSWORD_ALGORITHM, &SHA256_ALGORITHM);
    writer.integrity(&credential.key.0);
    writer.finish().into()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl Datagram<'_> {
        /// The peer that a request is about.
        pub(crate) fn peer(&self) -> Option<SocketAddr> {
            self.address(attr::XOR_PEER_ADDRESS)
        }

        /// An Allocate of a client that would move.
        pub(crate) fn asks_for_ticket(&self) -> bool {
            self.message.attribute(attr::MOBILITY_TICKET).is_some_and(<[u8]>::is_empty)
        }
    }

    /// What sends a client on, under a key or under none.
    pub(crate) fn redirection(id: TransactionId, to: Option<SocketAddr>, key: Option<&Key>) -> Vec<u8> {
        let mut writer = Writer::new(Class::Error, ALLOCATE, id.0);
        writer.error_code(300);
        if let Some(to) = to {
            writer.address(attr::ALTERNATE_SERVER, to);
        }
        if let Some(key) = key {
            writer.integrity(&key.0);
        }
        writer.finish().into()
    }

    /// An answer that nothing protects.
    pub(crate) fn answer(id: TransactionId, method: u16, error: Option<u16>) -> Vec<u8> {
        let class = if error.is_some() { Class::Error } else { Class::Success };
        let mut writer = Writer::new(class, method, id.0);
        if let Some(code) = error {
            writer.error_code(code);
        }
        writer.finish().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TransactionId {
        TransactionId(meetpoint_stun::TransactionId([7; 12]))
    }

    fn key(byte: u8) -> Key {
        Key::of_ticket(&TicketKey::from_bytes([byte; 32]))
    }

    #[test]
    fn a_check_reads_back_and_verifies_with_its_key_only() {
        let bytes = check(id(), CheckName::Long("to:from"), &key(1));
        let datagram = Datagram::parse(&bytes).unwrap();
        assert_eq!((datagram.class(), datagram.id()), (Class::Request, id()));
        assert_eq!(datagram.username(), Some("to:from"));
        assert!(datagram.verify(&key(1)));
        assert!(!datagram.verify(&key(2)));
    }

    #[test]
    fn an_answer_carries_the_reflexive_address() {
        for text in ["20.0.0.9:4711", "[2606:4700::1]:9"] {
            let mapped = text.parse().unwrap();
            // Who does not ask for short names is not told of them.
            for (name, asks) in [(CheckName::Long("to:from"), true), (CheckName::Short("fromfrom"), false)] {
                let question = check(id(), name, &key(1));
                let question = Datagram::parse(&question).unwrap();
                let bytes = check_answer(&question, mapped, &key(1));
                let datagram = Datagram::parse(&bytes).unwrap();
                assert_eq!((datagram.class(), datagram.id()), (Class::Success, id()));
                assert_eq!(datagram.mapped(), Some(mapped));
                assert!(datagram.verify(&key(1)));
                assert_eq!((question.takes_short_names(), datagram.takes_short_names()), (asks, asks));
            }
        }
    }

    #[test]
    fn one_changed_bit_is_noticed() {
        let bytes = check(id(), CheckName::Long("to:from"), &key(1));
        // FINGERPRINT stands behind the integrity, which does not cover it.
        let protected = bytes.len() - 8;
        for at in 0..protected * 8 {
            let mut forged = bytes.clone();
            forged[at / 8] ^= 1 << (at % 8);
            let accepted = Datagram::parse(&forged).is_some_and(|datagram| datagram.verify(&key(1)));
            assert!(!accepted, "bit {at}");
        }
    }

    /// RFC 8489, section 14.6: a truncated tag is for usages that allow it.
    #[test]
    fn integrity_must_be_whole() {
        let whole = check(id(), CheckName::Long("to:from"), &key(1));
        // Header, USERNAME, the offer of short names, the integrity attribute with half its tag.
        let integrity = 20 + 12 + 4;
        let mut bytes = whole[..integrity + 4 + 16].to_vec();
        let body_len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&body_len.to_be_bytes());
        bytes[integrity + 2..integrity + 4].copy_from_slice(&[0, 16]);
        assert!(!Datagram::parse(&bytes).unwrap().verify(&key(1)));
    }

    #[test]
    fn sha256_is_found_among_the_offered() {
        let cases: [(&[u8], bool); 6] = [
            (&[0, 2, 0, 0], true),
            (&[0, 1, 0, 0, 0, 2, 0, 0], true),
            (&[0, 1, 0, 0], false),
            (&[0, 9, 0, 2, 7, 7, 0, 0, 0, 2, 0, 0], true),
            (&[0, 9, 0, 4, 0, 2, 0, 0], false),
            (&[0, 9, 255, 255, 0, 2], false),
        ];
        for (list, expect) in cases {
            assert_eq!(offers_sha256(list), expect, "{list:?}");
        }
    }

    #[test]
    fn a_datagram_is_one_whole_message() {
        let bytes = check(id(), CheckName::Long("to:from"), &key(1));
        let cases: [(&str, Vec<u8>); 4] = [
            ("empty", vec![]),
            ("cut short", bytes[..bytes.len() - 4].to_vec()),
            ("something behind", [&bytes[..], &[0; 4]].concat()),
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
