//! A TURN client of a few lines, by datagrams or over TLS, and what it has relayed without a pause.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key, mint};
use meetpoint_turn::frame::frame_len;
use meetpoint_turn::message::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH, TransactionId,
};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Secret, Writer, attr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{PATIENCE, Server};

/// Longer than anything on loopback takes, and short enough for a lost datagram to be noticed.
const ROUND_TRIP: Duration = Duration::from_secs(10);
/// Between two datagrams that are relayed.
const BEAT: Duration = Duration::from_millis(5);
/// By which it is relayed.
const CHANNEL: [u8; 2] = [0x40, 0];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects by TLS, whatever the certificate, which comes with it.
pub(crate) async fn tls(to: SocketAddr) -> (Box<dyn Stream>, Vec<u8>) {
    let stream = TcpStream::connect(to).await.expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let connector = meetpoint_server::tls_with_anybody().expect("a client");
    let stream = connector.connect(name, stream).await.expect("TLS");
    let certificate = stream.get_ref().1.peer_certificates().expect("a chain")[0].to_vec();
    (Box::new(stream), certificate)
}

enum Wire {
    Udp(UdpSocket),
    Tls(Box<dyn Stream>, Vec<u8>),
}

impl Wire {
    async fn send(&mut self, message: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(message).await.expect("sent"), message.len()),
            Self::Tls(stream, _) => {
                stream.write_all(message).await.expect("written");
                stream.flush().await.expect("written");
            }
        }
    }

    async fn receive(&mut self) -> Vec<u8> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; 2048];
                let len =
                    timeout(ROUND_TRIP, socket.recv(&mut buffer)).await.expect("lost").expect("received");
                buffer.truncate(len);
                buffer
            }
            Self::Tls(stream, read) => loop {
                if let Some(len) = frame_len(read).expect("frames").filter(|len| *len <= read.len()) {
                    return read.drain(..len).collect();
                }
                let read = timeout(ROUND_TRIP, stream.read_buf(read)).await.expect("lost").expect("read");
                assert!(read > 0, "the server has closed the stream");
            },
        }
    }
}

/// A client.
pub(crate) struct Turn {
    wire: Wire,
    username: String,
    key: IntegrityKey,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    next_id: u32,
}

impl Turn {
    pub(crate) async fn udp(server: &Server, user: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(server.stun).await.expect("a way");
        Self::new(Wire::Udp(socket), &server.data, user).await
    }

    /// With the certificate that it was shown.
    pub(crate) async fn tls(server: &Server, user: &str) -> (Self, Vec<u8>) {
        let (stream, certificate) = tls(server.stun_tls).await;
        (Self::new(Wire::Tls(stream, Vec::new()), &server.data, user).await, certificate)
    }

    /// Mints for itself, by the secret in the data directory, and asks for the challenge.
    async fn new(mut wire: Wire, data: &Path, user: &str) -> Self {
        let secret = std::fs::read_to_string(data.join("credential-secret")).expect("a secret");
        let secret = Secret::new(secret.trim().as_bytes()).expect("a secret");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let (username, password) = mint(&secret, user, now.as_secs() + 600);
        let mut writer = Writer::new(Class::Request, ALLOCATE, TransactionId([0; 12]));
        writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        wire.send(&writer.finish()).await;
        let challenge = wire.receive().await;
        let challenge = Message::parse(&challenge).expect("STUN");
        let [realm, nonce] =
            [attr::REALM, attr::NONCE].map(|kind| challenge.attribute(kind).expect("a challenge").to_vec());
        let of = std::str::from_utf8(&realm).expect("UTF-8");
        let (algorithm, kind) = (PasswordAlgorithm::Md5, IntegrityKind::Sha1);
        let key = long_term_key(algorithm, kind, &username, of, password.as_bytes());
        Self { wire, username, key, realm, nonce, next_id: 0 }
    }

    fn writer(&mut self, class: Class, method: u16) -> Writer {
        self.next_id += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.next_id.to_be_bytes());
        Writer::new(class, method, TransactionId(id))
    }

    /// The error in the answer to a signed request, if there is one.
    async fn ask(
        &mut self,
        method: u16,
        attribute: Option<(u16, &[u8])>,
        peer: Option<SocketAddr>,
    ) -> Option<u16> {
        let mut writer = self.writer(Class::Request, method);
        if let Some((kind, value)) = attribute {
            writer.attribute(kind, value);
        }
        if let Some(peer) = peer {
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        }
        writer.attribute(attr::USERNAME, self.username.as_bytes());
        writer.attribute(attr::REALM, &self.realm);
        writer.attribute(attr::NONCE, &self.nonce);
        writer.integrity(&self.key);
        self.wire.send(&writer.finish()).await;
        let answer = self.wire.receive().await;
        let answer = Message::parse(&answer).expect("STUN");
        assert!(answer.method() == method && answer.verify(&self.key));
        answer.attribute(attr::ERROR_CODE).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    pub(crate) async fn allocate(&mut self) -> Option<u16> {
        self.ask(ALLOCATE, Some((attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])), None).await
    }

    pub(crate) async fn permit(&mut self, peer: SocketAddr) -> Option<u16> {
        self.ask(CREATE_PERMISSION, None, Some(peer)).await
    }

    pub(crate) async fn refresh(&mut self) -> Option<u16> {
        self.ask(REFRESH, None, None).await
    }

    pub(crate) async fn release(&mut self) -> Option<u16> {
        self.ask(REFRESH, Some((attr::LIFETIME, &[0; 4])), None).await
    }

    async fn bind(&mut self, peer: SocketAddr) -> Option<u16> {
        let number = [CHANNEL[0], CHANNEL[1], 0, 0];
        self.ask(CHANNEL_BIND, Some((attr::CHANNEL_NUMBER, &number)), Some(peer)).await
    }

    /// Through the relay to a peer that echoes.
    async fn beat(&mut self, peer: &UdpSocket, number: u32) {
        let framed = [&CHANNEL[..], &[0, 4], &number.to_be_bytes()].concat();
        self.wire.send(&framed).await;
        let mut buffer = [0; 8];
        let received = timeout(ROUND_TRIP, peer.recv_from(&mut buffer)).await.expect("lost");
        let (len, relayed) = received.expect("received");
        assert_eq!(buffer[..len], number.to_be_bytes());
        peer.send_to(&buffer[..len], relayed).await.expect("sent");
        assert_eq!(self.wire.receive().await, framed);
    }
}

/// An allocation that is in use all the time. Not one datagram may be lost, for none is sent twice.
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU32>,
    task: JoinHandle<Turn>,
}

impl Pulse {
    /// Allocates, and begins.
    pub(crate) async fn start(client: Turn) -> Self {
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let task = tokio::spawn(pulsate(client, Arc::clone(&stop), Arc::clone(&beats)));
        let pulse = Self { stop, beats, task };
        pulse.goes_on().await;
        pulse
    }

    /// Waits until it has beaten a few times more.
    pub(crate) async fn goes_on(&self) {
        let (begun, deadline) = (self.beats.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.beats.load(Ordering::Relaxed) < begun + 3 {
            assert!(!self.task.is_finished() && Instant::now() < deadline, "nothing is relayed any more");
            tokio::time::sleep(BEAT).await;
        }
    }

    /// The client, whose allocation is still there.
    pub(crate) async fn stop(self) -> Turn {
        self.goes_on().await;
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("each datagram came back")
    }
}

async fn pulsate(mut client: Turn, stop: Arc<AtomicBool>, beats: Arc<AtomicU32>) -> Turn {
    // Not on the relay's own address, where ports of the range are other clients'.
    let peer = UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    assert_eq!(client.allocate().await, None);
    assert_eq!(client.bind(peer.local_addr().expect("an address")).await, None);
    while !stop.load(Ordering::Relaxed) {
        client.beat(&peer, beats.load(Ordering::Relaxed)).await;
        beats.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(BEAT).await;
    }
    client
}
