//! A rendezvous server that lies. It knows the protocol and holds the cluster's key, as a server that was taken over
//! does, and offers its node everything public that there is to offer.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use meetpoint_cli::lab::Host;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    Candidate, CandidateKind, CertificateText, ClientMessage, Hello, Introduction, Renewal, ServerMessage,
    StunAccess, StunServer, Welcome, decode_client, encode,
};
use meetpoint_proto::{
    Certificate, ClusterNetwork, EffectiveNetwork, NodeId, Nonce, PublicKey, SessionId, TicketId, TicketKey,
};
use meetpoint_tests::binary::PATIENCE;
use stun_types::attribute::Username;
use stun_types::message::{
    BINDING, IntegrityAlgorithm, Message, MessageClass, MessageType, MessageWrite as _, MessageWriteExt as _,
    MessageWriteVec, ShortTermCredentials,
};
use tokio_tungstenite::tungstenite::{self, WebSocket};

/// From where the liar's machine sends checks besides its own address: any public address will do.
pub(crate) const PUBLIC_SOURCE: Ipv4Addr = Ipv4Addr::new(20, 66, 66, 66);

/// Where the offered STUN server is, in each family.
const STUN: [&str; 2] = ["20.77.0.1:3478", "[2600:77::1]:3478"];

/// Where the offered peer is said to be.
const CANDIDATES: [(CandidateKind, &str); 5] = [
    (CandidateKind::Host, "20.88.0.1:4000"),
    (CandidateKind::Srflx, "20.88.0.2:4000"),
    (CandidateKind::Mapped, "20.88.0.3:4000"),
    (CandidateKind::Srflx, "[::ffff:20.88.0.4]:4000"),
    (CandidateKind::Srflx, "[2600:88::1]:4000"),
];

/// What a node that believes the liar's introductions sends to.
pub(crate) fn baits_of_introductions() -> Vec<IpAddr> {
    let candidates = CANDIDATES.iter().map(|(_, addr)| parse(addr).ip().to_canonical());
    candidates.chain([PUBLIC_SOURCE.into()]).collect()
}

/// What a node that believes in the liar's STUN servers sends to.
pub(crate) fn baits_of_stun() -> Vec<IpAddr> {
    STUN.iter().map(|addr| parse(addr).ip()).collect()
}

fn parse(addr: &str) -> SocketAddr {
    addr.parse().expect("an address")
}

/// A credential for servers on public addresses.
pub(crate) fn stun_access() -> StunAccess {
    let server = |primary: &str| StunServer {
        primary: parse(primary),
        alternate: Some(parse("20.77.0.2:1").ip()),
        alternate_port: Some(3479),
    };
    StunAccess {
        servers: STUN.map(server).into(),
        username: "1:node".into(),
        password: "word".into(),
        relay: Vec::new(),
        tcp: None,
        tls: None,
        stream_nonce: None,
    }
}

/// What the welcome claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) kind: ClusterNetwork,
    pub(crate) effective: EffectiveNetwork,
}

/// The server, with the peer that it introduces.
pub(crate) struct Liar {
    listener: TcpListener,
    key: SigningKey,
    /// The peer, at the machine's own address.
    peer: UdpSocket,
    /// The same peer, at a public one.
    public_peer: UdpSocket,
}

impl Liar {
    /// On a machine that [`PUBLIC_SOURCE`] is an address of.
    pub(crate) fn new(host: &Host) -> Self {
        let own = host.addr();
        let bind = || -> std::io::Result<_> {
            let peer = UdpSocket::bind((own, 0))?;
            peer.set_read_timeout(Some(PATIENCE))?;
            Ok((TcpListener::bind((own, 0))?, peer, UdpSocket::bind((PUBLIC_SOURCE, 0))?))
        };
        let (listener, peer, public_peer) = host.run_in(bind).expect("the machine").expect("sockets");
        Self { listener, key: SigningKey::from_bytes(&[7; 32]), peer, public_peer }
    }

    /// Where nodes find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("an address"))
    }

    fn certificate(&self, hello: &Hello, node: NodeId, name: &str) -> CertificateText {
        let now = unix_ms() / 1000;
        let certificate = Certificate {
            cluster: hello.cluster.parse().expect("a cluster"),
            node,
            name: name.parse().expect("a name"),
            not_before_unix_s: now - 60,
            not_after_unix_s: now + 3600,
            capabilities: Vec::new(),
        };
        certificate.sign(&self.key)
    }

    /// Lets the next node in, with a lie.
    pub(crate) fn welcome(&self, claim: Claim) -> Session<'_> {
        let (stream, node_addr) = self.listener.accept().expect("a node");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut socket = tungstenite::accept(stream).expect("a WebSocket");
        let ClientMessage::Hello(hello) = receive(&mut socket).expect("a hello") else { panic!("no hello") };
        let (nonce, cluster_key) = (Nonce::from_bytes([3; 32]), PublicKey::from(&self.key));
        send(&mut socket, &ServerMessage::Challenge { nonce, cluster_key, server_key: None });
        let Some(ClientMessage::Proof(_)) = receive(&mut socket) else { panic!("no proof") };
        let transcript = Transcript::new(&hello, &nonce, &cluster_key);
        let welcome = Welcome {
            signature: transcript.sign(Domain::Welcome, &self.key),
            session: SessionId::from_bytes([4; 16]),
            kind: claim.kind,
            effective: claim.effective,
            observed: node_addr,
            now_unix_ms: unix_ms(),
            certificate: self.certificate(&hello, hello.node_id, &hello.name),
            stun: Some(stun_access()),
            idle_timeout_ms: 60_000,
            session_token: None,
            revoked: Vec::new(),
            hint: None,
        };
        send(&mut socket, &ServerMessage::Welcome(Box::new(welcome)));
        Session { liar: self, socket, hello: *hello, tickets: 0 }
    }
}

/// A node that was let in.
pub(crate) struct Session<'a> {
    liar: &'a Liar,
    socket: WebSocket<TcpStream>,
    hello: Hello,
    tickets: u8,
}

impl Session<'_> {
    pub(crate) fn send(&mut self, message: &ServerMessage) {
        send(&mut self.socket, message);
    }

    /// A fresh certificate, with another public STUN credential.
    pub(crate) fn renew(&mut self) {
        let certificate = self.liar.certificate(&self.hello, self.hello.node_id, &self.hello.name);
        let renewal = Renewal { certificate, stun: Some(stun_access()) };
        self.send(&ServerMessage::Certificate(Box::new(renewal)));
    }

    /// Introduces the peer, at public addresses and at its real one, where it waits for the node and then comes to it,
    /// from the real address and from a public one. Returns when the node has answered the real one.
    pub(crate) fn introduce(&mut self) {
        self.tickets += 1;
        let peer_key = SigningKey::from_bytes(&[5; 32]);
        let peer_id = NodeId::from(&peer_key);
        let key = TicketKey::from_bytes([self.tickets; 32]);
        let real = (CandidateKind::Host, self.liar.peer.local_addr().expect("an address"));
        let public = CANDIDATES.iter().map(|(kind, addr)| (*kind, parse(addr)));
        let introduction = Introduction {
            requests: Vec::new(),
            ticket: TicketId::from_bytes([self.tickets; 16]),
            certificate: self.liar.certificate(&self.hello, peer_id, "peer"),
            candidates: public.chain([real]).map(|(kind, addr)| Candidate { kind, addr }).collect(),
            send_key: key,
            recv_key: key,
            start_in_ms: 0,
            expires_in_ms: 10_000,
            active: true,
            own: None,
            peer: None,
            window: None,
            peer_rtt_ms: None,
            probe: false,
            handshake: None,
        };
        self.send(&ServerMessage::Introduction(Box::new(introduction)));
        self.come(&format!("{}:{peer_id}", self.hello.node_id), &key);
    }

    /// Checks whatever address the node checks from, until it answers.
    fn come(&self, username: &str, key: &TicketKey) {
        let mut bytes = [0; 1500];
        let deadline = Instant::now() + PATIENCE;
        let mut transaction = u128::from(self.tickets) << 64;
        let first = transaction;
        while Instant::now() < deadline {
            let (len, node) = self.liar.peer.recv_from(&mut bytes).expect("a datagram");
            let Ok(message) = Message::from_bytes(&bytes[..len]) else { continue };
            if message.class() == MessageClass::Success && u128::from(message.transaction_id()) > first {
                return;
            }
            // What comes from afar goes first: when the other is answered, so would this have been.
            for socket in [&self.liar.public_peer, &self.liar.peer] {
                // A node answers no transaction twice.
                transaction += 1;
                socket.send_to(&check(transaction, username, key), node).expect("a check");
            }
        }
        panic!("the node answers no check");
    }

    /// Reads on until the node has closed the connection.
    pub(crate) fn await_close(&mut self) {
        while receive(&mut self.socket).is_some() {}
    }
}

/// An authenticated check, as a peer sends it.
fn check(transaction: u128, username: &str, key: &TicketKey) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    let mut message = Message::builder(kind, transaction.into(), MessageWriteVec::new());
    message.add_attribute(&Username::new(username).expect("short")).expect("room");
    let key = ShortTermCredentials::new(key.to_string()).make_key();
    message.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha256).expect("room");
    message.add_fingerprint().expect("room");
    message.finish()
}

fn send(socket: &mut WebSocket<TcpStream>, message: &ServerMessage) {
    socket.send(tungstenite::Message::text(encode(message))).expect("the node reads");
}

/// The node's next message; none if it has gone.
fn receive(socket: &mut WebSocket<TcpStream>) -> Option<ClientMessage> {
    loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => return Some(decode_client(&text).expect("a message")),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                panic!("the node is silent");
            }
            Err(_) => return None,
        }
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).expect("a date")
}
