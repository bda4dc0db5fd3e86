//! What one request costs the pure server, and what parsing and checking cost next to the
//! `stun-types` library on the same bytes. `cargo bench -p meetpoint-turn` prints the median and
//! the best of many short rounds; on a busy machine the best is the one to compare. Budgets are
//! off, all of them are `Rate::unlimited`. An argument is a filter: `-- plain`.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate it measures does not")]

mod harness;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key};
use meetpoint_turn::message::{BINDING, Class, Message, TransactionId};
use meetpoint_turn::{
    Config, Input, IntegrityKey, IntegrityKind, Limits, Listener, ListenerId, ListenerRole, Output, Payload,
    Rate, Secret, Secrets, StunServer, Writer, attr,
};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message as TheirMessage, MessageIntegrityCredentials,
};

use harness::{extent, is_wanted, measure};

const REALM: &str = "meetpoint";
const NOW_UNIX_S: u64 = 1_800_000_000;
struct Bench {
    server: StunServer,
    now: Instant,
    source: SocketAddr,
    rounds: usize,
    requests: u32,
}

impl Bench {
    fn new(is_square: bool) -> Self {
        let place = |(id, role, addr): (u8, ListenerRole, [u8; 4])| Listener {
            id: ListenerId(id),
            role,
            addr: (addr, 3478 + u16::from(id % 2)).into(),
        };
        let all = [
            (0, ListenerRole::PrimaryMain, [20, 0, 0, 1]),
            (1, ListenerRole::PrimaryAlt, [20, 0, 0, 1]),
            (2, ListenerRole::AlternateMain, [20, 0, 0, 2]),
            (3, ListenerRole::AlternateAlt, [20, 0, 0, 2]),
        ];
        let count = if is_square { all.len() } else { 1 };
        let limits = Limits {
            source: Rate::unlimited(),
            amplified: Rate::unlimited(),
            redirected: Rate::unlimited(),
            ..Limits::default()
        };
        let config = Config {
            listeners: all.into_iter().take(count).map(place).collect(),
            realm: REALM.to_owned(),
            secrets: secrets(),
            limits,
            relay: None,
            streams: vec![],
        };
        let server = StunServer::new(config, [7; 32]).expect("a good configuration");
        let (rounds, requests) = extent();
        let mut bench =
            Self { server, now: Instant::now(), source: ([20, 0, 1, 1], 40000).into(), rounds, requests };
        let unix_ms = NOW_UNIX_S * 1000;
        bench.server.handle(bench.now, Input::Wall { unix_ms });
        bench
    }

    /// Gives one datagram and takes away all outputs, as the shell does.
    fn give(&mut self, payload: &[u8]) -> Option<Output> {
        let input = Input::Datagram { listener: ListenerId(0), source: self.source, payload };
        self.server.handle(self.now, input);
        let first = self.server.poll_output();
        while let Some(more) = self.server.poll_output() {
            black_box(more);
        }
        first
    }

    fn serve(&mut self, name: &str, payload: &[u8]) {
        if !is_wanted(name) {
            return;
        }
        let answered = self.give(payload).is_some();
        let (rounds, requests) = (self.rounds, self.requests);
        let times = measure(rounds, requests, || {
            self.now += Duration::from_micros(1);
            black_box(self.give(black_box(payload)));
        });
        let outcome = if answered { "answered" } else { "dropped" };
        println!("{name:<44} {times}  {outcome}");
    }
}

fn secrets() -> Secrets {
    let secret = Secret::new(b"a secret of the benchmark").expect("long enough");
    Secrets::new(vec![secret]).expect("one")
}

fn request() -> Writer {
    Writer::new(Class::Request, BINDING, TransactionId(*b"transactions"))
}

/// What a node sends to keep its session observed.
fn authenticated(bench: &mut Bench, modern: bool) -> (Payload, Login) {
    let (username, password) = secrets().mint("nodeidnodeidnodeidnodeid", NOW_UNIX_S + 3600);
    let mut writer = request();
    writer.attribute(attr::USERNAME, username.as_bytes());
    let Some(Output::Transmit { payload, .. }) = bench.give(&writer.finish()) else {
        panic!("a challenge");
    };
    let challenge = Message::parse(&payload).expect("a good answer");
    let nonce = challenge.attribute(attr::NONCE).expect("a nonce");
    let (algorithm, kind) = if modern {
        (PasswordAlgorithm::Sha256, IntegrityKind::Sha256)
    } else {
        (PasswordAlgorithm::Md5, IntegrityKind::Sha1)
    };
    let key = long_term_key(algorithm, kind, &username, REALM, password.as_bytes());
    let mut writer = request();
    writer.attribute(attr::USERNAME, username.as_bytes());
    writer.attribute(attr::REALM, REALM.as_bytes());
    writer.attribute(attr::NONCE, nonce);
    if modern {
        writer.attribute(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
        writer.attribute(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
    }
    writer.integrity(&key);
    writer.fingerprint();
    let login = Login { username, password, key };
    (writer.finish(), login)
}

struct Login {
    username: String,
    password: String,
    key: IntegrityKey,
}

fn compare(bench: &Bench, question: &[u8], login: &Login) {
    let line = |name: &str, run: &mut dyn FnMut()| {
        if is_wanted(name) {
            let times = measure(bench.rounds, bench.requests, run);
            println!("{name:<44} {times}");
        }
    };
    line("parse, ours", &mut || {
        black_box(Message::parse(black_box(question)).is_ok());
    });
    line("parse, stun-types", &mut || {
        black_box(TheirMessage::from_bytes(black_box(question)).is_ok());
    });
    line("parse and check SHA-1, ours", &mut || {
        let message = Message::parse(black_box(question)).expect("good");
        assert!(message.verify(&login.key));
    });
    let credentials =
        LongTermKeyCredentials::new(login.username.clone(), login.password.clone(), REALM.to_owned());
    let key = MessageIntegrityCredentials::from(credentials).make_key(IntegrityAlgorithm::Sha1);
    line("parse and check SHA-1, stun-types", &mut || {
        let message = TheirMessage::from_bytes(black_box(question)).expect("good");
        assert!(message.validate_integrity_with_key(&key).is_ok());
    });
}

fn main() {
    let mut lone = Bench::new(false);
    let plain = request().finish();
    let mut with_fingerprint = request();
    with_fingerprint.fingerprint();
    let with_fingerprint = with_fingerprint.finish();
    lone.serve("plain Binding, one listener", &plain);
    lone.serve("plain Binding with FINGERPRINT", &with_fingerprint);
    Bench::new(true).serve("plain Binding, four listeners (RFC 5780)", &plain);

    let mut challenged = request();
    challenged.attribute(attr::USERNAME, b"1800003600:nodeidnodeidnodeidnodeid");
    lone.serve("Binding with a username: 401", &challenged.finish());
    let (old, login) = authenticated(&mut lone, false);
    lone.serve("authenticated Binding, MD5 and SHA-1", &old);
    let (modern, _) = authenticated(&mut lone, true);
    lone.serve("authenticated Binding, SHA-256 and SHA-256", &modern);
    let mut forged = old.to_vec();
    forged.truncate(forged.len() - 8);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    forged[3] -= 8;
    lone.serve("forged integrity, good nonce: 401", &forged);
    lone.source.set_port(1);
    lone.serve("another source's nonce: 438", &old);
    lone.serve("garbage", &[0xFF; 64]);
    compare(&lone, &old, &login);
}
