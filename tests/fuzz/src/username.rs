//! The username of a credential, `<unix seconds of expiry>:<user>`: whoever knows the secret may sign any text with it,
//! and only texts of that form that have not expired let him in.

use std::time::Instant;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key};
use meetpoint_turn::message::{BINDING, Class, TransactionId};
use meetpoint_turn::{
    Config, Input, IntegrityKey, IntegrityKind, Limits, Listener, ListenerId, ListenerRole, Output, Payload,
    Secret, Secrets, StunServer, Writer, attr,
};
use sha1::Sha1;

use crate::wire::Seen;

const SECRET: &[u8] = b"north wind and sun";
const REALM: &str = "meetpoint";
const NOW_UNIX_S: u64 = 1_800_000_000;
/// USERNAME has fewer than 509 bytes (RFC 8489, section 14.3).
const MAX_LEN: usize = 508;
const SERVER: ([u8; 4], u16) = ([20, 0, 0, 1], 3478);
const CLIENT: ([u8; 4], u16) = ([20, 0, 1, 1], 40_000);

/// Asks a server with the bytes as username and the password that belongs to it.
pub fn username(bytes: &[u8]) {
    if bytes.len() > usize::from(u16::MAX) / 2 {
        return;
    }
    let mut server = server();
    let now = Instant::now();
    server.handle(now, Input::Wall { unix_ms: NOW_UNIX_S * 1000 });
    let (challenge, _) = ask(&mut server, now, &request(b"1:anybody", None).finish());
    let nonce = Seen::read(&challenge).and_then(|seen| seen.get(attr::NONCE).map(<[u8]>::to_vec));

    let mut writer = request(bytes, nonce.as_deref());
    writer.integrity(&key(bytes));
    let (answer, observed) = ask(&mut server, now, &writer.finish());
    let answer = Seen::read(&answer).expect("answers are messages");
    let is_in = answer.class() == 2;
    assert_eq!(is_in, is_valid(bytes), "{}", bytes.escape_ascii());
    assert_eq!(observed.as_deref().map(str::as_bytes), is_in.then_some(bytes));
    let code = answer.get(attr::ERROR_CODE).map(|value| (value[2], value[3]));
    assert_eq!(code, (!is_in).then_some((4, 1)));
}

/// The form, letter by letter.
fn is_valid(bytes: &[u8]) -> bool {
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return false };
    let (digits, user) = (&bytes[..colon], &bytes[colon + 1..]);
    let value = digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    });
    !digits.is_empty()
        && !user.is_empty()
        && bytes.len() <= MAX_LEN
        && str::from_utf8(bytes).is_ok()
        && value.is_some_and(|expiry_unix_s| expiry_unix_s > NOW_UNIX_S)
}

fn key(username: &[u8]) -> IntegrityKey {
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET).expect("any length");
    mac.update(username);
    let password = BASE64.encode(&mac.finalize().into_bytes());
    // A name that is no text has no key; any other will do.
    let name = str::from_utf8(username).unwrap_or_default();
    long_term_key(PasswordAlgorithm::Md5, IntegrityKind::Sha1, name, REALM, password.as_bytes())
}

fn server() -> StunServer {
    let role = ListenerRole::PrimaryMain;
    let config = Config {
        listeners: vec![Listener { id: ListenerId(0), role, addr: SERVER.into() }],
        realm: REALM.to_owned(),
        secrets: Secrets::new(vec![Secret::new(SECRET).expect("long enough")]).expect("one"),
        limits: Limits { source_slots: 1, ..Limits::default() },
        relay: None,
        streams: vec![],
    };
    StunServer::new(config, [7; 32]).expect("a good configuration")
}

fn request(username: &[u8], nonce: Option<&[u8]>) -> Writer {
    let mut writer = Writer::new(Class::Request, BINDING, TransactionId([7; 12]));
    writer.attribute(attr::USERNAME, username);
    if let Some(nonce) = nonce {
        writer.attribute(attr::REALM, REALM.as_bytes());
        writer.attribute(attr::NONCE, nonce);
    }
    writer
}

/// The answer, and the name under which the client was observed.
fn ask(server: &mut StunServer, now: Instant, question: &[u8]) -> (Payload, Option<String>) {
    let input = Input::Datagram { listener: ListenerId(0), source: CLIENT.into(), payload: question };
    server.handle(now, input);
    let Some(Output::Transmit { payload, .. }) = server.poll_output() else { panic!("no answer") };
    let observed = server.poll_output().map(|output| match output {
        Output::Observed { username, .. } => username,
        other => panic!("{other:?}"),
    });
    (payload, observed)
}
