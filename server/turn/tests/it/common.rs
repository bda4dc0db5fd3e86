//! A server on a clock of its own, and a client that writes questions and reads answers.
//! Answers are read with an independent decoder, so that codec and server cannot err together.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key, mint};
use meetpoint_turn::message::{BINDING, Class, TransactionId};
use meetpoint_turn::{
    Config, Counters, Input, IntegrityKey, IntegrityKind, Limits, Listener, ListenerId, ListenerRole, Output,
    Payload, Secret, Secrets, StunServer, Writer, attr,
};
use stun_types::attribute::{
    AttributeFromRaw, AttributeStaticType, ErrorCode, UnknownAttributes, XorMappedAddress,
};
use stun_types::message::Message;

pub(crate) const REALM: &str = "meetpoint";
pub(crate) const ID: TransactionId = TransactionId(*b"transactions");
/// A whole second, at the start of a nonce epoch.
pub(crate) const NOW_UNIX_S: u64 = 1_800_000_000;
pub(crate) const CLIENT: &str = "20.0.1.1:40000";
pub(crate) const CLIENT6: &str = "[2a00:1:2:3::4]:40000";

pub(crate) const PRIMARY_MAIN: ListenerId = ListenerId(0);

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes()).expect("long enough")
}

pub(crate) fn secrets(texts: &[&str]) -> Secrets {
    Secrets::new(texts.iter().map(|text| secret(text)).collect()).expect("a few")
}

/// One address, one port.
pub(crate) fn lone() -> Vec<Listener> {
    listeners(&[(ListenerRole::PrimaryMain, "20.0.0.1:3478")])
}

/// The whole square of RFC 5780.
pub(crate) fn square() -> Vec<Listener> {
    listeners(&[
        (ListenerRole::PrimaryMain, "20.0.0.1:3478"),
        (ListenerRole::PrimaryAlt, "20.0.0.1:3479"),
        (ListenerRole::AlternateMain, "20.0.0.2:3478"),
        (ListenerRole::AlternateAlt, "20.0.0.2:3479"),
    ])
}

pub(crate) fn listeners(places: &[(ListenerRole, &str)]) -> Vec<Listener> {
    let listener = |(index, (role, text)): (usize, &(ListenerRole, &str))| Listener {
        id: ListenerId(u8::try_from(index).expect("few listeners")),
        role: *role,
        addr: addr(text),
    };
    places.iter().enumerate().map(listener).collect()
}

pub(crate) fn config(listeners: Vec<Listener>) -> Config {
    Config {
        listeners,
        realm: REALM.to_owned(),
        secrets: secrets(&["the first secret", "the other secret"]),
        limits: Limits::default(),
        relay: None,
        streams: vec![],
    }
}

/// The machine and its time.
pub(crate) struct Rig {
    pub(crate) server: StunServer,
    /// Where its clients ask.
    pub(crate) at: ListenerId,
    pub(crate) now: Instant,
}

impl Rig {
    pub(crate) fn new(listeners: Vec<Listener>) -> Self {
        Self::with(config(listeners))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make an Instant; all further time is added to it"
    )]
    pub(crate) fn with(config: Config) -> Self {
        let server = StunServer::new(config, [7; 32]).expect("a good configuration");
        let now = Instant::now();
        let mut rig = Self { server, at: PRIMARY_MAIN, now };
        let unix_ms = NOW_UNIX_S * 1000;
        rig.server.handle(now, Input::Wall { unix_ms });
        rig
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn counters(&self) -> Counters {
        *self.server.counters()
    }

    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.server.poll_output()).collect()
    }

    /// Everything the server does about a datagram.
    pub(crate) fn give(&mut self, listener: ListenerId, source: &str, payload: &[u8]) -> Vec<Output> {
        let input = Input::Datagram { listener, source: addr(source), payload };
        self.server.handle(self.now, input);
        self.outputs()
    }

    /// The answer to a datagram, which has to come back from where it was asked for.
    pub(crate) fn ask(&mut self, source: &str, payload: &[u8]) -> Option<Payload> {
        let mut answers = self.give(self.at, source, payload).into_iter();
        let first = answers.next()?;
        let Output::Transmit { listener, to, payload } = first else {
            panic!("the answer is the first output, not {first:?}");
        };
        assert_eq!((listener, to), (self.at, addr(source)));
        Some(payload)
    }
}

/// A Binding request in the making.
pub(crate) fn request() -> Writer {
    Writer::new(Class::Request, BINDING, ID)
}

pub(crate) fn plain() -> Payload {
    request().finish()
}

pub(crate) fn request_with(attributes: &[(u16, &[u8])]) -> Payload {
    let mut writer = request();
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    writer.finish()
}

/// What a client knows when it signs.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) realm: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) key: IntegrityKey,
    /// PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS.
    pub(crate) algorithms: Vec<(u16, Vec<u8>)>,
}

impl Login {
    /// Makes the key anew, for this way of making one and this integrity attribute.
    pub(crate) fn rekey(&mut self, algorithm: PasswordAlgorithm, kind: IntegrityKind) {
        let password = self.password.as_bytes();
        self.key = long_term_key(algorithm, kind, &self.username, REALM, password);
    }

    pub(crate) fn write(&self) -> Writer {
        let mut writer = request();
        writer.attribute(attr::USERNAME, self.username.as_bytes());
        writer.attribute(attr::REALM, self.realm.as_bytes());
        writer.attribute(attr::NONCE, &self.nonce);
        for (kind, value) in &self.algorithms {
            writer.attribute(*kind, value);
        }
        writer
    }

    pub(crate) fn sign(&self, mut writer: Writer) -> Payload {
        writer.integrity(&self.key);
        writer.finish()
    }

    pub(crate) fn request(&self) -> Payload {
        self.sign(self.write())
    }
}

/// Asks for a nonce as `source` and makes good credentials for it, the old way: MD5 and SHA-1.
pub(crate) fn login(rig: &mut Rig, source: &str) -> Login {
    login_with(rig, source, "the first secret", NOW_UNIX_S + 3600)
}

pub(crate) fn login_with(rig: &mut Rig, source: &str, of: &str, expires_unix_s: u64) -> Login {
    login_of(rig, source, of, "node", expires_unix_s)
}

pub(crate) fn login_as(rig: &mut Rig, source: &str, user: &str, expires_unix_s: u64) -> Login {
    login_of(rig, source, "the first secret", user, expires_unix_s)
}

pub(crate) fn login_of(rig: &mut Rig, source: &str, of: &str, user: &str, expires_unix_s: u64) -> Login {
    let question = request_with(&[(attr::USERNAME, b"1:somebody")]);
    let challenge = rig.ask(source, &question).expect("a challenge");
    assert_eq!(error(&challenge), Some(401));
    let (username, password) = mint(&secret(of), user, expires_unix_s);
    let mut login = Login {
        username,
        password,
        realm: REALM.to_owned(),
        nonce: raw(&challenge, attr::NONCE).expect("a nonce"),
        key: IntegrityKey::new(IntegrityKind::Sha1, b""),
        algorithms: vec![],
    };
    login.rekey(PasswordAlgorithm::Md5, IntegrityKind::Sha1);
    login
}

/// The attribute of an answer.
pub(crate) fn find<A: AttributeStaticType + for<'a> AttributeFromRaw<'a>>(answer: &[u8]) -> Option<A> {
    Message::from_bytes(answer).expect("a good answer").attribute::<A>().ok()
}

/// The bytes of an attribute of an answer.
pub(crate) fn raw(answer: &[u8], kind: u16) -> Option<Vec<u8>> {
    let message = Message::from_bytes(answer).expect("a good answer");
    let attribute = message.raw_attribute(kind.into())?;
    Some(attribute.value.to_vec())
}

/// The numbers of an answer's attributes, in order.
pub(crate) fn kinds(answer: &[u8]) -> Vec<u16> {
    let message = meetpoint_turn::message::Message::parse(answer).expect("a good answer");
    let mut kinds: Vec<u16> = message.attributes().map(|a| a.kind).collect();
    match message.integrity() {
        Some(IntegrityKind::Sha1) => kinds.push(attr::MESSAGE_INTEGRITY),
        Some(IntegrityKind::Sha256) => kinds.push(attr::MESSAGE_INTEGRITY_SHA256),
        None => {}
    }
    if message.has_fingerprint() {
        kinds.push(attr::FINGERPRINT);
    }
    kinds
}

pub(crate) fn error(answer: &[u8]) -> Option<u16> {
    find::<ErrorCode>(answer).map(|code| code.code())
}

pub(crate) fn unknown(answer: &[u8]) -> Vec<u16> {
    let count = raw(answer, attr::UNKNOWN_ATTRIBUTES).map_or(0, |value| value.len() / 2);
    let attribute = find::<UnknownAttributes>(answer);
    // The decoder answers membership only; ask it about everything.
    let listed = attribute
        .map_or(vec![], |list| (0..=u16::MAX).filter(|kind| list.has_attribute((*kind).into())).collect());
    assert_eq!(listed.len(), count, "each is listed once");
    listed
}

pub(crate) fn mapped(answer: &[u8]) -> Option<SocketAddr> {
    let id = Message::from_bytes(answer).expect("a good answer").transaction_id();
    find::<XorMappedAddress>(answer).map(|attribute| attribute.addr(id))
}

/// Reads an attribute in the form of MAPPED-ADDRESS.
pub(crate) fn address(answer: &[u8], kind: u16) -> Option<SocketAddr> {
    let value = raw(answer, kind)?;
    let port = u16::from_be_bytes([value[2], value[3]]);
    let ip = match value[1] {
        1 => <[u8; 4]>::try_from(&value[4..]).expect("4 bytes").into(),
        2 => <[u8; 16]>::try_from(&value[4..]).expect("16 bytes").into(),
        family => panic!("address family {family}"),
    };
    Some(SocketAddr::new(ip, port))
}
