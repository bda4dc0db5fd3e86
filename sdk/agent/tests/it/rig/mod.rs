//! An agent and the hands around it: the test plays the server and the network.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_agent::{
    Agent, BackoffConfig, Config, Event, Input, Interface, Output, Path, ServerRank, Socket,
};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    Candidate, CandidateKind, CertificateText, ClientMessage, Hello, Introduction, Profile, Proof,
    ServerMessage, StunAccess, StunServer, Welcome,
};
use meetpoint_proto::{
    Certificate, ClusterNetwork, EffectiveNetwork, NodeId, Nonce, PublicKey, SessionId, TicketId, TicketKey,
};

pub const MS: Duration = Duration::from_millis(1);
pub const UNIX_S: u64 = 1_790_000_000;
pub const IDLE: Duration = Duration::from_secs(45);

/// See the module.
pub struct Rig {
    pub agent: Agent,
    pub key: SigningKey,
    pub now: Instant,
    pub start: Instant,
    pub local: SocketAddr,
    pub server: SocketAddr,
    pub cluster_key: SigningKey,
    /// Everything the agent ever gave out, except datagrams.
    pub log: Vec<Output>,
    /// Datagrams not yet delivered.
    pub sent: Vec<(Socket, SocketAddr, Vec<u8>)>,
    hello: Option<Hello>,
    transcript: Option<Transcript>,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn config(n: u8) -> Config {
    Config {
        key: SigningKey::from_bytes(&[n; 32]),
        cluster: "default".parse().unwrap(),
        name: format!("node-{n}").parse().unwrap(),
        token: Some("correct-horse-battery".parse().unwrap()),
        secrets: Vec::new(),
        membership: None,
        profile: Profile::default(),
        declared: None,
        node_addr: None,
        expect: None,
        ephemeral: true,
        version: "test".to_owned(),
        backoff: BackoffConfig::default(),
    }
}

impl Rig {
    /// A node with the public address 20.0.0.`n`, port 4000, and an address on a LAN.
    pub fn new(n: u8) -> Self {
        Self::with(config(n), IpAddr::from([20, 0, 0, n]))
    }

    pub fn with(config: Config, ip: IpAddr) -> Self {
        Self::with_servers(config, ip, &[])
    }

    #[allow(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
    pub fn with_servers(config: Config, ip: IpAddr, servers: &[ServerRank]) -> Self {
        let start = Instant::now();
        let key = config.key.clone();
        let seed = [key.to_bytes()[0]; 32];
        let mut rig = Self {
            agent: Agent::with_servers(config, servers.to_vec(), seed),
            key,
            now: start,
            start,
            local: SocketAddr::new(ip, 33_333),
            server: addr("20.0.1.1:8080"),
            cluster_key: SigningKey::from_bytes(&[99; 32]),
            log: Vec::new(),
            sent: Vec::new(),
            hello: None,
            transcript: None,
        };
        let list = ["127.0.0.1/8", "10.0.7.2/24"].map(|text| {
            let (ip, len) = text.split_once('/').unwrap();
            Interface { ip: ip.parse().unwrap(), prefix_len: len.parse().unwrap() }
        });
        let mut list = list.to_vec();
        list.push(Interface { ip, prefix_len: 32 });
        rig.input(Input::Interfaces { list, port_v4: Some(4000), port_v6: Some(6000) });
        rig
    }

    pub fn id(&self) -> NodeId {
        NodeId::from(&self.key)
    }

    pub fn main(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip(), 4000)
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.agent.handle(self.now, input);
        self.drain();
    }

    pub fn tell(&mut self, message: ServerMessage) {
        self.input(Input::ControlMessage(message));
    }

    pub fn datagram(&mut self, source: SocketAddr, payload: &[u8]) {
        self.input(Input::Datagram { socket: Socket::Main, source, payload });
    }

    /// Lets time pass, waking the agent whenever it wants.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(next) = self.agent.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Transmit { socket, to, payload, .. } => self.sent.push((socket, to, payload)),
                output => self.log.push(output),
            }
        }
    }

    /// What the agent gave out since the last call, except datagrams.
    pub fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.log)
    }

    /// Its control messages since the last call; all else is forgotten.
    pub fn messages(&mut self) -> Vec<ClientMessage> {
        let said = self.take().into_iter();
        said.filter_map(|output| match output {
            Output::SendControl(message) => Some(message),
            _ => None,
        })
        .collect()
    }

    /// Its events since the last call; all else is forgotten.
    pub fn events(&mut self) -> Vec<Event> {
        let said = self.take().into_iter();
        said.filter_map(|output| match output {
            Output::Event(event) => Some(event),
            _ => None,
        })
        .collect()
    }

    /// Its paths since the last call; all else is forgotten.
    pub fn paths(&mut self) -> Vec<Option<Path>> {
        let said = self.take().into_iter();
        said.filter_map(|output| match output {
            Output::Path { path, .. } => Some(path),
            _ => None,
        })
        .collect()
    }

    pub fn open(&mut self) -> Hello {
        self.take();
        self.input(Input::ControlOpened { local: self.local, remote: self.server });
        assert!(self.has_said_hello());
        self.hello.clone().unwrap()
    }

    /// True if the node has just opened the dialogue; what it said is remembered.
    pub fn has_said_hello(&mut self) -> bool {
        let hello = self.messages().into_iter().find_map(|message| match message {
            ClientMessage::Hello(hello) => Some(*hello),
            _ => None,
        });
        self.hello.clone_from(&hello);
        hello.is_some()
    }

    /// Challenges; gives the proof, if the node answers.
    pub fn challenge(&mut self) -> Option<Proof> {
        let nonce = Nonce::from_bytes([5; 32]);
        let cluster_key = PublicKey::from(&self.cluster_key);
        self.transcript = Some(Transcript::new(self.hello.as_ref().unwrap(), &nonce, &cluster_key));
        self.take();
        self.tell(ServerMessage::Challenge { nonce, cluster_key, server_key: None });
        let proof = |output: &Output| match output {
            Output::SendControl(ClientMessage::Proof(proof)) => Some(proof.clone()),
            _ => None,
        };
        self.log.iter().find_map(proof)
    }

    pub fn transcript(&self) -> &Transcript {
        self.transcript.as_ref().unwrap()
    }

    pub fn certificate(&self, n: u8) -> Certificate {
        let Config { key, cluster, name, .. } = config(n);
        Certificate {
            cluster,
            node: NodeId::from(&key),
            name,
            not_before_unix_s: UNIX_S,
            not_after_unix_s: UNIX_S + 3600,
            capabilities: Vec::new(),
        }
    }

    pub fn own_certificate(&self) -> Certificate {
        let hello = self.hello.as_ref().unwrap();
        Certificate {
            cluster: hello.cluster.parse().unwrap(),
            node: hello.node_id,
            name: hello.name.parse().unwrap(),
            not_before_unix_s: UNIX_S,
            not_after_unix_s: UNIX_S + 3600,
            capabilities: Vec::new(),
        }
    }

    pub fn welcome(&self) -> Welcome {
        Welcome {
            signature: self.transcript().sign(Domain::Welcome, &self.cluster_key),
            session: SessionId::from_bytes([1; 16]),
            kind: ClusterNetwork::Dynamic,
            effective: EffectiveNetwork::Public,
            observed: self.local,
            now_unix_ms: UNIX_S * 1000,
            certificate: self.own_certificate().sign(&self.cluster_key),
            stun: None,
            idle_timeout_ms: IDLE.as_millis() as u32,
            session_token: None,
            revoked: Vec::new(),
            hint: None,
        }
    }

    pub fn stun_access() -> StunAccess {
        let server = StunServer {
            primary: addr("0.0.0.0:3478"),
            alternate: Some([20, 0, 1, 2].into()),
            alternate_port: Some(3479),
        };
        StunAccess {
            servers: vec![server],
            username: "1:user".to_owned(),
            password: "secret".to_owned(),
            relay: Vec::new(),
            tcp: None,
            tls: None,
            stream_nonce: None,
        }
    }

    /// Joins, with whatever the change makes of the welcome.
    pub fn join_with(&mut self, change: impl FnOnce(&mut Welcome)) {
        self.open();
        self.challenge().expect("a proof");
        let mut welcome = self.welcome();
        change(&mut welcome);
        self.tell(ServerMessage::Welcome(Box::new(welcome)));
    }

    pub fn join(&mut self) {
        self.join_with(|_| {});
        self.take();
    }

    /// The half of a ticket that shows node `peer` to this one.
    pub fn introduction(&self, ticket: u8, peer: u8, candidates: &[&str]) -> Introduction {
        let key = |from: NodeId, to: NodeId| {
            let mut key = [ticket; 32];
            for (byte, (a, b)) in key.iter_mut().zip(from.as_bytes().iter().zip(to.as_bytes())) {
                *byte ^= a.wrapping_mul(3) ^ b;
            }
            TicketKey::from_bytes(key)
        };
        let certificate = self.certificate(peer);
        let candidate = |text: &&str| Candidate { kind: CandidateKind::Srflx, addr: addr(text) };
        Introduction {
            requests: Vec::new(),
            ticket: TicketId::from_bytes([ticket; 16]),
            candidates: candidates.iter().map(candidate).collect(),
            send_key: key(self.id(), certificate.node),
            recv_key: key(certificate.node, self.id()),
            certificate: certificate.sign(&self.cluster_key),
            start_in_ms: 0,
            expires_in_ms: 10_000,
            active: true,
            own: None,
            peer: None,
            window: None,
            peer_rtt_ms: None,
            probe: false,
            handshake: None,
        }
    }

    pub fn introduce(&mut self, introduction: Introduction) {
        self.tell(ServerMessage::Introduction(Box::new(introduction)));
    }

    pub fn resign(&self, certificate: &Certificate) -> CertificateText {
        certificate.sign(&self.cluster_key)
    }
}

/// Carries datagrams between two nodes without a NAT until both are quiet; gives how many.
pub fn carry(a: &mut Rig, b: &mut Rig) -> usize {
    let mut carried = 0;
    loop {
        let (from_a, from_b) = (std::mem::take(&mut a.sent), std::mem::take(&mut b.sent));
        if from_a.is_empty() && from_b.is_empty() {
            return carried;
        }
        carried += from_a.len() + from_b.len();
        for (_, to, payload) in from_a {
            if to == b.main() {
                b.datagram(a.main(), &payload);
            }
        }
        for (_, to, payload) in from_b {
            if to == a.main() {
                a.datagram(b.main(), &payload);
            }
        }
    }
}
