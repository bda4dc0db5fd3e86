//! A node that speaks the control channel by hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::{SinkExt, StreamExt};
use meetpoint_proto::id::{Nonce, SessionToken};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    CertificateText, ClientMessage, Hello, PROTOCOL_VERSION, Profile, Proof, Refusal, ServerMessage, Welcome,
    decode_server, encode,
};
use meetpoint_proto::{ClusterSecret, Code, JoinToken, NodeId, PublicKey};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Longer than anything a server may take; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A control connection.
pub(crate) struct Control {
    socket: WebSocketStream<TcpStream>,
}

/// A challenge that was received.
pub(crate) struct Challenge {
    pub(crate) nonce: Nonce,
    pub(crate) cluster_key: PublicKey,
    pub(crate) server_key: Option<PublicKey>,
}

impl Challenge {
    /// The join that it is about.
    pub(crate) fn transcript(&self, hello: &Hello) -> Transcript {
        let transcript = Transcript::new(hello, &self.nonce, &self.cluster_key);
        match &self.server_key {
            Some(server_key) => transcript.served_by(server_key),
            None => transcript,
        }
    }
}

impl Control {
    pub(crate) async fn open(server: SocketAddr) -> Self {
        Self::open_with(server, &[]).await
    }

    /// From an address of this machine.
    pub(crate) async fn open_from(source: Ipv4Addr, server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self::open_over(socket.connect(server).await.unwrap(), server, &[]).await
    }

    /// With these headers, as a proxy would add them.
    pub(crate) async fn open_with(server: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        Self::open_over(TcpStream::connect(server).await.unwrap(), server, headers).await
    }

    async fn open_over(stream: TcpStream, server: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        let mut request = format!("ws://{server}/v1/control").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        Self { socket }
    }

    pub(crate) async fn frame(&mut self, frame: Message) {
        // A server that has already said no may close before it has read all.
        let _ = self.socket.send(frame).await;
    }

    /// Bytes that no WebSocket library would send.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: &ClientMessage) {
        self.frame(Message::text(encode(message))).await;
    }

    /// The next message; `None` when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<ServerMessage> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("no frame in time");
            match frame? {
                Ok(Message::Text(text)) => return Some(decode_server(&text).unwrap()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Skips messages until this one fits.
    pub(crate) async fn until<T>(&mut self, fits: impl Fn(ServerMessage) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the server closed");
            if let Some(found) = fits(message) {
                return found;
            }
        }
    }

    /// Expects a refusal, and the end of the connection after it.
    pub(crate) async fn refused(mut self) -> Refusal {
        let refusal = self
            .until(|message| match message {
                ServerMessage::Rejected(refusal) | ServerMessage::Closing(refusal) => Some(refusal),
                _ => None,
            })
            .await;
        assert_eq!(self.next().await, None, "the connection stays open after {refusal:?}");
        assert!(!refusal.hint.is_empty());
        refusal
    }

    pub(crate) async fn challenge(&mut self, hello: &Hello) -> Challenge {
        self.send(&ClientMessage::Hello(Box::new(hello.clone()))).await;
        match self.next().await {
            Some(ServerMessage::Challenge { nonce, cluster_key, server_key }) => {
                Challenge { nonce, cluster_key, server_key }
            }
            other => panic!("expected a challenge, got {other:?}"),
        }
    }

    /// The whole handshake.
    pub(crate) async fn join(&mut self, node: &Node) -> Result<Box<Welcome>, Refusal> {
        let hello = node.hello();
        let challenge = self.challenge(&hello).await;
        self.send(&ClientMessage::Proof(node.proof(&hello, &challenge))).await;
        match self.next().await {
            Some(ServerMessage::Welcome(welcome)) => {
                let signer = challenge.server_key.as_ref().unwrap_or(&challenge.cluster_key);
                assert!(challenge.transcript(&hello).verify(Domain::Welcome, signer, &welcome.signature));
                Ok(welcome)
            }
            Some(ServerMessage::Rejected(refusal)) => Err(refusal),
            other => panic!("expected a welcome or a refusal, got {other:?}"),
        }
    }
}

/// A node's words.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) key: SigningKey,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) token: Option<JoinToken>,
    pub(crate) ephemeral: bool,
    pub(crate) secrets: Vec<ClusterSecret>,
    pub(crate) session: Option<SessionToken>,
    pub(crate) certificate: Option<CertificateText>,
    pub(crate) profile: Profile,
}

impl Node {
    /// Each seed is another key.
    pub(crate) fn new(seed: u8, name: &str, token: &JoinToken) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            name: name.to_owned(),
            cluster: "default".to_owned(),
            token: Some(token.clone()),
            ephemeral: false,
            secrets: Vec::new(),
            session: None,
            certificate: None,
            profile: Profile::default(),
        }
    }

    pub(crate) fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }

    pub(crate) fn id(&self) -> NodeId {
        NodeId::from(&self.key)
    }

    pub(crate) fn hello(&self) -> Hello {
        let cluster = self.cluster.parse().unwrap();
        Hello {
            protocol: PROTOCOL_VERSION,
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            node_id: self.id(),
            nonce: Nonce::from_bytes([5; 32]),
            token: self.token.as_ref().map(JoinToken::id),
            declared: None,
            node_addr: None,
            local_ip: [127, 0, 0, 1].into(),
            expect: None,
            ephemeral: self.ephemeral,
            version: "test".to_owned(),
            secrets: self.secrets.iter().map(|secret| secret.id(&cluster)).collect(),
            resume: self.session,
            certificate: self.certificate.clone().map(Box::new),
            profile: self.profile.clone(),
        }
    }

    pub(crate) fn proof(&self, hello: &Hello, challenge: &Challenge) -> Proof {
        let transcript = challenge.transcript(hello);
        let cluster = self.cluster.parse().unwrap();
        Proof {
            node: transcript.sign(Domain::Node, &self.key),
            admission: self
                .token
                .as_ref()
                .map(|token| transcript.sign(Domain::Admission, &token.signing_key())),
            secrets: self.secrets.iter().map(|secret| transcript.mac(&secret.key(&cluster))).collect(),
        }
    }

    /// Joins on a connection of its own.
    pub(crate) async fn joins(&self, server: SocketAddr) -> Control {
        let mut control = Control::open(server).await;
        if let Err(refusal) = control.join(self).await {
            panic!("{} was refused: {refusal:?}", self.name);
        }
        control
    }

    /// Tries to join, and is refused.
    pub(crate) async fn is_refused(&self, server: SocketAddr) -> Code {
        match Control::open(server).await.join(self).await {
            Err(refusal) => refusal.code,
            Ok(_) => panic!("{} was admitted", self.name),
        }
    }

    /// Tries to join, and is refused before it is challenged.
    pub(crate) async fn is_refused_at_once(&self, server: SocketAddr) -> Code {
        let mut control = Control::open(server).await;
        control.send(&ClientMessage::Hello(Box::new(self.hello()))).await;
        control.refused().await.code
    }
}
