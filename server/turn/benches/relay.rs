//! What relaying costs the pure server: a packet each way, and an allocation from its challenge to
//! its end, among few and among many other allocations. `cargo bench -p meetpoint-turn --bench
//! relay`. Budgets are off; rates are too large to matter. An argument is a filter.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate it measures does not")]

mod harness;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{extent, is_wanted, measure};
use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key};
use meetpoint_turn::message::{ALLOCATE, CHANNEL_BIND, Class, Message, REFRESH, SEND, TransactionId};
use meetpoint_turn::{
    ByteRate, Config, Input, IntegrityKey, IntegrityKind, Limits, Listener, ListenerId, ListenerRole, Output,
    Payload, Rate, RelayConfig, RelayId, RelayIp, RelayLimits, Secret, Secrets, StunServer, Writer, attr,
};

const REALM: &str = "meetpoint";
const NOW_UNIX_S: u64 = 1_800_000_000;
const DATA: [u8; 120] = [7; 120];
const PEER: ([u8; 4], u16) = ([30, 0, 0, 1], 7000);

struct Bench {
    server: StunServer,
    now: Instant,
    id: u32,
    opened: Option<RelayId>,
}

/// A client with its key.
struct Client {
    source: SocketAddr,
    username: String,
    key: IntegrityKey,
    nonce: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let ip = [20, 0, 0, 9].into();
        let relay = RelayConfig {
            ipv4: Some(RelayIp { bind: ip, seen: ip }),
            ports: Some(1024..=65535),
            ..RelayConfig::default()
        };
        let rate = ByteRate::new(1 << 40, 1 << 31);
        let limits = Limits {
            source: Rate::unlimited(),
            amplified: Rate::unlimited(),
            relay: RelayLimits { allocations: 60_000, rate, ..RelayLimits::default() },
            ..Limits::default()
        };
        let addr = ([20, 0, 0, 1], 3478).into();
        let listener = Listener { id: ListenerId(0), role: ListenerRole::PrimaryMain, addr };
        let config = Config {
            streams: vec![],
            listeners: vec![listener],
            realm: REALM.to_owned(),
            secrets: secrets(),
            limits,
            relay: Some(relay),
        };
        let server = StunServer::new(config, [7; 32]).expect("a good configuration");
        let mut bench = Self { server, now: Instant::now(), id: 0, opened: None };
        bench.server.handle(bench.now, Input::Wall { unix_ms: NOW_UNIX_S * 1000 });
        bench
    }

    fn writer(&mut self, class: Class, method: u16) -> Writer {
        self.id += 1;
        let mut id = *b"transactions";
        id[..4].copy_from_slice(&self.id.to_be_bytes());
        Writer::new(class, method, TransactionId(id))
    }

    /// Gives one datagram and does what a shell does; sockets are open at once.
    fn give(&mut self, source: SocketAddr, payload: &[u8]) -> Option<Payload> {
        let input = Input::Datagram { listener: ListenerId(0), source, payload };
        self.server.handle(self.now, input);
        let mut answer = None;
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::OpenRelay { id, .. } => {
                    self.opened = Some(id);
                    self.server.handle(self.now, Input::RelayOpened { id });
                }
                Output::Transmit { payload, .. } => answer = Some(payload),
                _ => {}
            }
        }
        answer
    }

    fn unsigned_allocate(&mut self) -> Payload {
        let mut writer = self.writer(Class::Request, ALLOCATE);
        writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.finish()
    }

    fn client(&mut self, number: u32) -> Client {
        let [_, a, b, c] = number.to_be_bytes();
        let source = ([21, a, b, c], 40_000).into();
        let (username, password) = secrets().mint(&format!("{number:052}"), NOW_UNIX_S + 3600);
        let key =
            long_term_key(PasswordAlgorithm::Md5, IntegrityKind::Sha1, &username, REALM, password.as_bytes());
        let request = self.unsigned_allocate();
        let challenge = self.give(source, &request).expect("a challenge");
        let challenge = Message::parse(&challenge).expect("a good answer");
        let nonce = challenge.attribute(attr::NONCE).expect("a nonce").to_vec();
        Client { source, username, key, nonce }
    }

    fn signed(&mut self, client: &Client, method: u16, attributes: &[(u16, &[u8])]) -> Payload {
        let mut writer = self.writer(Class::Request, method);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        if method == CHANNEL_BIND {
            writer.xor_address(attr::XOR_PEER_ADDRESS, PEER.into());
        }
        writer.attribute(attr::USERNAME, client.username.as_bytes());
        writer.attribute(attr::REALM, REALM.as_bytes());
        writer.attribute(attr::NONCE, &client.nonce);
        writer.integrity(&client.key);
        writer.finish()
    }

    fn ask(&mut self, client: &Client, method: u16, attributes: &[(u16, &[u8])]) {
        let request = self.signed(client, method, attributes);
        let answer = self.give(client.source, &request).expect("an answer");
        assert_eq!(Message::parse(&answer).expect("a good one").class(), Class::Success);
    }

    fn allocate(&mut self, client: &Client) {
        self.ask(client, ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])]);
    }

    fn line(&mut self, name: &str, mut run: impl FnMut(&mut Self)) {
        if is_wanted(name) {
            let (rounds, requests) = extent();
            let times = measure(rounds, requests, || {
                self.now += Duration::from_nanos(200);
                run(self);
            });
            println!("{name:<52} {times}");
        }
    }
}

fn secrets() -> Secrets {
    let secret = Secret::new(b"a secret of the benchmark").expect("long enough");
    Secrets::new(vec![secret]).expect("one")
}

fn packets(bench: &mut Bench, others: u32) {
    let client = bench.client(0);
    bench.allocate(&client);
    let relay = bench.opened.expect("a socket");
    bench.ask(&client, CHANNEL_BIND, &[(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])]);
    let channel_data = [&[0x40, 0, 0, 120][..], &DATA].concat();
    let mut writer = bench.writer(Class::Indication, SEND);
    writer.xor_address(attr::XOR_PEER_ADDRESS, PEER.into());
    writer.attribute(attr::DATA, &DATA);
    let send = writer.finish();
    let stranger = ([30, 0, 0, 1], 7001);
    bench.line(&format!("ChannelData to a peer, among {others}"), |bench| {
        let relay = bench.server.datagram(bench.now, ListenerId(0), client.source, black_box(&channel_data));
        assert!(black_box(relay).is_some());
    });
    bench.line(&format!("a peer's packet to ChannelData, among {others}"), |bench| {
        let relay = bench.server.relayed(bench.now, relay, PEER.into(), black_box(&DATA));
        assert!(black_box(relay).is_some());
    });
    bench.line(&format!("Send indication to a peer, among {others}"), |bench| {
        let relay = bench.server.datagram(bench.now, ListenerId(0), client.source, black_box(&send));
        assert!(black_box(relay).is_some());
    });
    bench.line(&format!("a peer's packet to a Data indication, among {others}"), |bench| {
        let relay = bench.server.relayed(bench.now, relay, stranger.into(), black_box(&DATA));
        assert!(black_box(relay).is_some());
    });
}

/// The server's part only: the three requests are made beforehand.
fn cycles(bench: &mut Bench, others: u32) {
    let client = bench.client(1);
    let first = bench.unsigned_allocate();
    let allocate = bench.signed(&client, ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])]);
    let release = bench.signed(&client, REFRESH, &[(attr::LIFETIME, &[0; 4])]);
    bench.line(&format!("allocation cycle (401, success, refresh 0), among {others}"), |bench| {
        for request in [&first, &allocate, &release] {
            assert!(black_box(bench.give(client.source, request)).is_some());
        }
    });
}

fn main() {
    for others in [0, 10_000] {
        let mut bench = Bench::new();
        for number in 0..others {
            let client = bench.client(100 + number);
            bench.allocate(&client);
        }
        packets(&mut bench, others);
        cycles(&mut bench, others);
    }
}
