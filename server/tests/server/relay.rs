//! Relaying through the real sockets: two clients and a peer, from the challenge to the bytes.

mod across;
mod over_streams;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key, mint};
use meetpoint_turn::message::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH, SEND, TransactionId,
};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Secret, Writer, attr};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::client::{call, get};
use crate::running::{Running, config};

pub(crate) const FLAGS: [&str; 4] = ["--relay-ip", "127.0.0.1", "--relay-allow-peer", "127.0.0.0/8"];
pub(crate) const CREDENTIALS: &str = "/v1/relay/credentials";
const SESSIONS: &str = "/v1/relay/sessions";
/// Longer than anything on loopback takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A TURN client of a few lines.
pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    username: String,
    key: IntegrityKey,
    realm: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    next_id: u8,
}

impl Client {
    /// Mints for itself, by the secret in the data directory.
    pub(crate) async fn new(server: SocketAddr, data: &Path, user: &str) -> Self {
        let secret = std::fs::read_to_string(data.join("credential-secret")).unwrap();
        let secret = Secret::new(secret.trim().as_bytes()).unwrap();
        let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (username, password) = mint(&secret, user, now_unix_s + 60);
        Self::with(server, &username, &password).await
    }

    /// Asks for the challenge.
    pub(crate) async fn with(server: SocketAddr, username: &str, password: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        let username = username.to_owned();
        let key = IntegrityKey::new(IntegrityKind::Sha1, b"");
        let mut client = Self { socket, username, key, realm: vec![], nonce: vec![], next_id: 0 };
        let mut writer = client.writer(Class::Request, ALLOCATE);
        writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        client.socket.send(&writer.finish()).await.unwrap();
        let challenge = client.receive().await;
        let challenge = Message::parse(&challenge).unwrap();
        client.realm = challenge.attribute(attr::REALM).unwrap().to_vec();
        client.nonce = challenge.attribute(attr::NONCE).unwrap().to_vec();
        client.log_in(password);
        client
    }

    /// Uses this password from now on.
    pub(crate) fn log_in(&mut self, password: &str) {
        let realm = std::str::from_utf8(&self.realm).unwrap();
        let (algorithm, kind) = (PasswordAlgorithm::Md5, IntegrityKind::Sha1);
        self.key = long_term_key(algorithm, kind, &self.username, realm, password.as_bytes());
    }

    fn writer(&mut self, class: Class, method: u16) -> Writer {
        self.next_id += 1;
        Writer::new(class, method, TransactionId([self.next_id; 12]))
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let len = timeout(PATIENCE, self.socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(len);
        buffer
    }

    /// The answer to a signed request.
    async fn signed(
        &mut self,
        method: u16,
        attributes: &[(u16, &[u8])],
        peer: Option<SocketAddr>,
    ) -> Vec<u8> {
        let mut writer = self.writer(Class::Request, method);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        if let Some(peer) = peer {
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        }
        writer.attribute(attr::USERNAME, self.username.as_bytes());
        writer.attribute(attr::REALM, &self.realm);
        writer.attribute(attr::NONCE, &self.nonce);
        writer.integrity(&self.key);
        self.socket.send(&writer.finish()).await.unwrap();
        self.receive().await
    }

    /// Ends its allocation.
    pub(crate) async fn release(&mut self) {
        assert_eq!(self.ask(REFRESH, &[(attr::LIFETIME, &[0; 4])], None).await.0, Class::Success);
    }

    /// The error in the answer to a Refresh, if there is one.
    pub(crate) async fn refresh(&mut self) -> Option<u16> {
        let answer = self.signed(REFRESH, &[], None).await;
        let answer = Message::parse(&answer).unwrap();
        answer.attribute(attr::ERROR_CODE).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    /// The class of the answer, and the relayed address if it has one.
    pub(crate) async fn ask(
        &mut self,
        method: u16,
        attributes: &[(u16, &[u8])],
        peer: Option<SocketAddr>,
    ) -> (Class, Option<SocketAddr>) {
        let answer = self.signed(method, attributes, peer).await;
        let answer = Message::parse(&answer).unwrap();
        assert!(answer.method() == method && answer.verify(&self.key));
        // Port and address are masked with the magic cookie.
        let relayed = answer.attribute(attr::XOR_RELAYED_ADDRESS).map(|value| {
            let ip = [value[4] ^ 0x21, value[5] ^ 0x12, value[6] ^ 0xA4, value[7] ^ 0x42];
            SocketAddr::from((ip, u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12])))
        });
        (answer.class(), relayed)
    }

    pub(crate) async fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask(ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])], None).await;
        assert_eq!(answer.0, Class::Success);
        answer.1.unwrap()
    }

    pub(crate) async fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut writer = self.writer(Class::Indication, SEND);
        writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        writer.attribute(attr::DATA, data);
        self.socket.send(&writer.finish()).await.unwrap();
    }

    pub(crate) async fn data(&self) -> Vec<u8> {
        let datagram = self.receive().await;
        Message::parse(&datagram).unwrap().attribute(attr::DATA).unwrap().to_vec()
    }
}

#[tokio::test]
async fn bytes_are_relayed_both_ways() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let mut client = Client::new(server.info.stun[0].primary, dir.path(), "alice").await;
    // Not on the relay's own address, where a port of the range is another client's or nobody's.
    let peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let peer_addr = peer.local_addr().unwrap();
    let relayed = client.allocate().await;
    assert!(relayed.ip().is_loopback() && relayed.port() >= 49_152);

    assert_eq!(client.ask(CREATE_PERMISSION, &[], Some(peer_addr)).await.0, Class::Success);
    client.send(peer_addr, b"out").await;
    let mut buffer = vec![0; 65_536];
    let (len, from) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..len], from), (&b"out"[..], relayed));
    peer.send_to(b"in", relayed).await.unwrap();
    assert_eq!(client.data().await, b"in");

    let number = (attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0][..]);
    assert_eq!(client.ask(CHANNEL_BIND, &[number], Some(peer_addr)).await.0, Class::Success);
    // The longest a client's own datagram can carry, give or take.
    let data = vec![7; 60_000];
    let len = u16::try_from(data.len()).unwrap();
    let framed = [&[0x40, 0][..], &len.to_be_bytes(), &data].concat();
    client.socket.send(&framed).await.unwrap();
    let (len, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..len], data);
    peer.send_to(&data, relayed).await.unwrap();
    assert_eq!(client.receive().await, framed);

    assert_eq!(client.ask(REFRESH, &[(attr::LIFETIME, &[0; 4])], None).await.0, Class::Success);
    // The port is free again.
    let taken = async {
        while UdpSocket::bind(relayed).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, taken).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn two_clients_meet_inside_and_credentials_outlive_a_restart() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    server.stop().await.unwrap();
    let server = Running::start(config(dir.path(), &FLAGS)).await.unwrap();
    let stun = server.info.stun[0].primary;
    let mut alice = Client::new(stun, dir.path(), "alice").await;
    let mut bob = Client::new(stun, dir.path(), "bob").await;
    let (here, there) = (alice.allocate().await, bob.allocate().await);
    assert_eq!(alice.ask(CREATE_PERMISSION, &[], Some(there)).await.0, Class::Success);
    assert_eq!(bob.ask(CREATE_PERMISSION, &[], Some(here)).await.0, Class::Success);
    alice.send(there, b"hello").await;
    assert_eq!(bob.data().await, b"hello");
    bob.send(here, b"hello yourself").await;
    assert_eq!(alice.data().await, b"hello yourself");
    server.stop().await.unwrap();
}

/// Even where loopback peers are allowed, the server's own ports are none.
#[tokio::test]
async fn the_servers_own_ports_are_no_peers() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let stun = server.info.stun[0].primary;
    let mut client = Client::new(stun, dir.path(), "mallory").await;
    client.allocate().await;
    for own in [server.info.http, stun] {
        assert_eq!(client.ask(CREATE_PERMISSION, &[], Some(own)).await.0, Class::Error);
    }
    server.stop().await.unwrap();
}

/// RFC 8656, section 11.5: the client of a peer that is not there is told.
#[tokio::test]
async fn what_does_not_arrive_is_told() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let mut client = Client::new(server.info.stun[0].primary, dir.path(), "alice").await;
    client.allocate().await;
    let closed = UdpSocket::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
    assert_eq!(client.ask(CREATE_PERMISSION, &[], Some(closed)).await.0, Class::Success);
    client.send(closed, b"knock").await;
    let told = client.receive().await;
    let told = Message::parse(&told).unwrap();
    assert_eq!((told.class(), told.attribute(attr::DATA)), (Class::Indication, None));
    // Port unreachable: type 3 in seven bits, code 3 in nine (section 18.13).
    assert_eq!(told.attribute(attr::ICMP), Some(&[0, 0, 3 << 1, 3, 0, 0, 0, 0][..]));
    server.stop().await.unwrap();
}

/// By default nothing on this machine or in its networks is a peer.
#[tokio::test]
async fn private_peers_are_refused_by_default() {
    let (server, dir) = Running::fresh(&FLAGS[..2]).await;
    let mut client = Client::new(server.info.stun[0].primary, dir.path(), "mallory").await;
    client.allocate().await;
    for peer in ["127.0.0.1:9", "10.0.0.1:9", "169.254.169.254:80"] {
        let peer = Some(peer.parse().unwrap());
        assert_eq!(client.ask(CREATE_PERMISSION, &[], peer).await.0, Class::Error);
    }
    server.stop().await.unwrap();
}

/// From minted credentials to the list of what they are used for, and its end.
#[tokio::test]
async fn an_operator_mints_lists_and_ends() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let body = json!({ "user": "carol", "lifetime_s": 60 });
    let minted = call(Method::POST, CREDENTIALS).json(&body).admin(&server).await.json();
    let secret = std::fs::read_to_string(dir.path().join("credential-secret")).unwrap();
    let secret = Secret::new(secret.trim().as_bytes()).unwrap();
    let username = minted["username"].as_str().unwrap();
    let (expiry, user) = username.split_once(':').unwrap();
    let expected = mint(&secret, user, expiry.parse().unwrap());
    assert_eq!((user, minted["password"].as_str().unwrap()), ("carol", &*expected.1));

    let stun = server.info.stun[0].primary;
    let mut ids = vec![];
    for user in ["alice", "bob", "carol"] {
        let mut client = Client::new(stun, dir.path(), user).await;
        let relayed = client.allocate().await.to_string();
        let listed = get(SESSIONS).admin(&server).await.json();
        let items = listed["items"].as_array().unwrap();
        let session = items.iter().find(|item| item["user"] == user).unwrap();
        assert_eq!(session["relayed"], json!([relayed]));
        assert_eq!(session["transport"], "udp");
        assert_eq!(session["client"], client.socket.local_addr().unwrap().to_string());
        assert_eq!(session["to_peer"], json!({ "packets": 0, "bytes": 0 }));
        ids.push(session["id"].as_str().unwrap().to_owned());
    }
    let first = get(&format!("{SESSIONS}?limit=2")).admin(&server).await.json();
    let next = first["next"].as_str().unwrap();
    let second = get(&format!("{SESSIONS}?limit=2&after={next}")).admin(&server).await.json();
    let lens = [&first, &second].map(|page| page["items"].as_array().unwrap().len());
    assert_eq!((lens, second.get("next").and_then(Value::as_str)), ([2, 1], None));

    let path = format!("{SESSIONS}/{}", ids[0]);
    assert_eq!(call(Method::DELETE, &path).admin(&server).await.status.as_u16(), 204);
    call(Method::DELETE, &path).admin(&server).await.assert_problem(404, "unknown_relay_session");
    let left = get(SESSIONS).admin(&server).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 2);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_an_operator_cannot_have_is_said() {
    let (server, _dir) = Running::fresh(&FLAGS).await;
    get(SESSIONS).send(server.info.http).await.assert_problem(401, "unauthorized");
    for body in [
        json!({ "user": "" }),
        json!({ "user": "a b" }),
        json!({ "user": "x".repeat(129) }),
        json!({ "user": "node:aaaaaaaaaaaaaaaaaaaaaaaaaa" }),
        json!({ "user": "a", "lifetime_s": 0 }),
        json!({ "user": "a", "lifetime_s": 604_801 }),
    ] {
        call(Method::POST, CREDENTIALS).json(&body).admin(&server).await.assert_problem(422, "invalid");
    }
    let path = format!("{SESSIONS}/x");
    call(Method::DELETE, &path).admin(&server).await.assert_problem(404, "unknown_relay_session");
    server.stop().await.unwrap();

    let (server, _dir) = Running::fresh(&[]).await;
    get(SESSIONS).admin(&server).await.assert_problem(409, "relay_off");
    server.stop().await.unwrap();
}
