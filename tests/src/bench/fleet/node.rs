//! One node: the SDK's agent, and a WebSocket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ed25519_dalek::SigningKey;
use futures_util::{SinkExt as _, StreamExt as _};
use meetpoint_agent::{Agent, BackoffConfig, Config, Event, Input, Output};
use meetpoint_proto::JoinToken;
use meetpoint_proto::wire::{CONTROL_PATH, decode_server, encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::board::Board;

/// Ten thousand nodes must not take the memory that the server's are measured in.
const BUFFER_BYTES: usize = 4 * 1024;

/// Where the nodes join.
pub(super) struct Server {
    http: SocketAddr,
    token: JoinToken,
    tls: Option<TlsConnector>,
}

impl Server {
    pub(super) fn new(http: SocketAddr, token: JoinToken, tls: bool) -> Self {
        Self { http, token, tls: tls.then(connector) }
    }

    async fn connect(&self, source: Ipv4Addr) -> Option<(Socket, SocketAddr)> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind((source, 0).into()).ok()?;
        let stream: TcpStream = socket.connect(self.http).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let local = stream.local_addr().ok()?;
        let stream: Box<dyn Bytes> = match &self.tls {
            Some(connector) => {
                let name = ServerName::from(self.http.ip());
                Box::new(connector.connect(name, stream).await.ok()?)
            }
            None => Box::new(stream),
        };
        let url = format!("ws://{}{CONTROL_PATH}", self.http);
        let limits = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(16 * BUFFER_BYTES);
        let (socket, _) = client_async_with_config(url, stream, Some(limits)).await.ok()?;
        Some((socket, local))
    }
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

type Socket = WebSocketStream<Box<dyn Bytes>>;

/// One node.
pub(super) struct Node {
    agent: Agent,
    source: Ipv4Addr,
    server: Arc<Server>,
    socket: Option<Socket>,
    is_member: bool,
}

enum Next {
    Frame(Option<Message>),
    Alarm,
}

impl Node {
    /// The `number`-th.
    pub(super) fn new(number: u32, source: Ipv4Addr, server: Arc<Server>) -> Self {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        seed[31] = 1;
        let config = config(&seed, &server.token, number);
        seed[31] = 2;
        Self { agent: Agent::new(config, seed), source, server, socket: None, is_member: false }
    }

    /// Joins when it is due, and stays until it is dropped or refused for good.
    pub(super) async fn run(mut self, due: Instant, board: Arc<Board>) {
        tokio::time::sleep_until(due.into()).await;
        self.agent.handle_timeout(Instant::now());
        let mut first = Some(due);
        while self.perform(&board, &mut first).await {
            match self.next().await {
                Next::Frame(Some(Message::Text(text))) => match decode_server(&text) {
                    Ok(message) => self.feed(Input::ControlMessage(message)),
                    Err(_) => self.close(),
                },
                Next::Frame(Some(Message::Close(_)) | None) => self.close(),
                Next::Frame(Some(_)) => {}
                Next::Alarm => self.agent.handle_timeout(Instant::now()),
            }
        }
    }

    /// Does what the agent says; false when it has ended.
    async fn perform(&mut self, board: &Board, first: &mut Option<Instant>) -> bool {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::OpenControl { .. } => self.open().await,
                Output::CloseControl => self.socket = None,
                Output::SendControl(message) => {
                    let sent = match &mut self.socket {
                        Some(socket) => socket.send(Message::text(encode(&message))).await.is_ok(),
                        None => true,
                    };
                    if !sent {
                        self.close();
                    }
                }
                Output::Event(Event::Joined { .. }) => {
                    self.is_member = true;
                    board.joined(first.take().map(|due| due.elapsed()));
                }
                Output::Event(Event::Disconnected { refusal, .. }) => {
                    board.refused(refusal.as_ref());
                    if std::mem::take(&mut self.is_member) {
                        board.left();
                    }
                }
                Output::Ended(ended) => {
                    if let meetpoint_agent::Ended::Rejected(refusal) = ended {
                        board.refused(Some(&refusal));
                    }
                    if self.is_member {
                        board.left();
                    }
                    return false;
                }
                // Everything else is about UDP and peers.
                _ => {}
            }
        }
        true
    }

    async fn next(&mut self) -> Next {
        let due = self.agent.poll_timeout();
        let alarm = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let frame = async {
            match &mut self.socket {
                Some(socket) => socket.next().await.and_then(Result::ok),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            frame = frame => Next::Frame(frame),
            () = alarm => Next::Alarm,
        }
    }

    async fn open(&mut self) {
        match self.server.connect(self.source).await {
            Some((socket, local)) => {
                self.socket = Some(socket);
                let remote = self.server.http;
                self.feed(Input::ControlOpened { local, remote });
            }
            None => self.close(),
        }
    }

    fn close(&mut self) {
        self.socket = None;
        self.feed(Input::ControlClosed);
    }

    fn feed(&mut self, input: Input<'_>) {
        self.agent.handle(Instant::now(), input);
    }
}

#[allow(clippy::expect_used, reason = "these names are names")]
fn config(seed: &[u8; 32], token: &JoinToken, number: u32) -> Config {
    Config {
        key: SigningKey::from_bytes(seed),
        cluster: "default".parse().expect("a name"),
        name: format!("node-{number}").parse().expect("a name"),
        token: Some(token.clone()),
        secrets: Vec::new(),
        membership: None,
        profile: Default::default(),
        declared: None,
        node_addr: None,
        expect: None,
        ephemeral: false,
        version: "bench".to_owned(),
        backoff: BackoffConfig::default(),
    }
}

/// TLS without a look at the certificate: nodes would check its fingerprint, and that is their work, not the server's.
fn connector() -> TlsConnector {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
