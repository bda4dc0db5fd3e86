//! A broker, with the test as its shell and registry.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "the rig starts its own clock")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_broker::{
    AdmitRequest, Broker, ClusterConfig, ConnId, Event, Input, Limits, Output, RelayAccess, StunCredential,
};
use meetpoint_proto::id::{DialBackNonce, Nonce, SessionToken};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    ClientMessage, Hello, Introduction, Profile, Proof, ServerMessage, StunServer, decode_server,
};
use meetpoint_proto::{
    ClusterNetwork, Code, EffectiveNetwork, Evidence, JoinToken, NetworkClass, NodeId, SessionId,
};

const ALTERNATE: &str = "20.0.0.2";

/// A broker, its shell and its registry.
pub(crate) struct Rig {
    pub(crate) broker: Broker,
    pub(crate) now: Instant,
    pub(crate) next_conn: u64,
    pub(crate) log: Vec<Output>,
    pub(crate) sessions: Vec<(ConnId, SessionId)>,
    /// It answers the question for a credential.
    pub(crate) mints: bool,
}

pub(crate) fn cluster_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

pub(crate) fn token() -> JoinToken {
    "a-token-long-enough".parse().unwrap()
}

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn config(effective: EffectiveNetwork) -> ClusterConfig {
    ClusterConfig {
        name: "default".parse().unwrap(),
        kind: ClusterNetwork::Dynamic,
        effective,
        key: cluster_key(),
        home: None,
        open_join: false,
        admit_relayed: false,
        stun: vec![StunServer {
            primary: addr("20.0.0.1:3478"),
            alternate: Some(ALTERNATE.parse().unwrap()),
            alternate_port: Some(3479),
        }],
    }
}

pub(crate) fn hello(n: u8, local: &str) -> Hello {
    Hello {
        protocol: 1,
        cluster: "default".into(),
        name: format!("node-{n}"),
        node_id: NodeId::from(&key(n)),
        nonce: Nonce::from_bytes([n; 32]),
        token: Some(token().id()),
        declared: None,
        node_addr: None,
        local_ip: local.parse().unwrap(),
        expect: None,
        ephemeral: true,
        version: "test".into(),
        secrets: Vec::new(),
        resume: None,
        certificate: None,
        profile: Profile::default(),
    }
}

fn holds_token(request: &AdmitRequest) -> bool {
    let claims = request.admission.as_ref().expect("the cluster is closed");
    let token_proof = claims.token.as_ref().expect("the node claims nothing else");
    claims.transcript.verify(Domain::Admission, &token().public_key(), &token_proof.signature)
}

impl Rig {
    pub(crate) fn new(effective: EffectiveNetwork) -> Self {
        Self::with(Limits::default(), config(effective))
    }

    pub(crate) fn with(limits: Limits, config: ClusterConfig) -> Self {
        let now = Instant::now();
        let mut broker = Broker::new(limits, [7; 32]);
        broker.handle(now, Input::Wall { unix_ms: 1_800_000_000_000 });
        let relay = RelayAccess { ips: vec![[20, 0, 0, 1].into()], tcp: Some(3478), tls: Some(5349) };
        broker.handle(now, Input::Relay(relay));
        broker.handle(now, Input::Cluster(config));
        Self { broker, now, next_conn: 0, log: Vec::new(), sessions: Vec::new(), mints: true }
    }

    /// Feeds one input, answers what the registry is asked, keeps the rest.
    pub(crate) fn feed(&mut self, input: Input) {
        self.broker.handle(self.now, input);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            if let Output::Admit(request) = &output {
                let good = request.visitor_until_unix_s.is_some() || holds_token(request);
                let conn = request.conn;
                self.sessions.push((conn, request.session));
                let answer = if good {
                    let credential =
                        StunCredential { username: "u".into(), password: "p".into(), stream_nonce: None };
                    Input::Admitted {
                        conn,
                        not_after_unix_s: 1_900_000_000,
                        credential: Some(credential),
                        session_token: Some(SessionToken::from_bytes([8; 32])),
                    }
                } else {
                    Input::Refused { conn, code: Code::BadToken, detail: None }
                };
                self.broker.handle(self.now, answer);
            }
            if let (Output::Mint { conn, session }, true) = (&output, self.mints) {
                let conn = *conn;
                let credential = StunCredential {
                    username: session.to_string(),
                    password: "p".into(),
                    stream_nonce: None,
                };
                self.broker.handle(self.now, Input::Credential { conn, credential: Some(credential) });
            }
            self.log.push(match output {
                Output::SendFrame { conn, frame } => {
                    Output::Send { conn, message: decode_server(&frame).expect("a message") }
                }
                output => output,
            });
        }
    }

    pub(crate) fn open(&mut self, source: &str) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.feed(Input::Opened { conn, source: addr(source) });
        conn
    }

    pub(crate) fn say(&mut self, conn: ConnId, message: ClientMessage) {
        self.feed(Input::Message { conn, message });
    }

    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.broker.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    /// Runs hello and proof; the key and token that sign may be others than those announced.
    pub(crate) fn handshake(
        &mut self,
        source: &str,
        hello: &Hello,
        signer: &SigningKey,
        token: &JoinToken,
    ) -> ConnId {
        let conn = self.open(source);
        self.say(conn, ClientMessage::Hello(Box::new(hello.clone())));
        let Some((nonce, cluster_key, server_key)) = self.sent(conn).find_map(|message| match message {
            ServerMessage::Challenge { nonce, cluster_key, server_key } => {
                Some((*nonce, *cluster_key, *server_key))
            }
            _ => None,
        }) else {
            return conn;
        };
        let mut transcript = Transcript::new(hello, &nonce, &cluster_key);
        if let Some(server_key) = server_key {
            transcript = transcript.served_by(&server_key);
        }
        let proof = Proof {
            node: transcript.sign(Domain::Node, signer),
            admission: Some(transcript.sign(Domain::Admission, &token.signing_key())),
            secrets: Vec::new(),
        };
        self.say(conn, ClientMessage::Proof(proof));
        conn
    }

    pub(crate) fn join(&mut self, n: u8, source: &str, local: &str) -> ConnId {
        let conn = self.handshake(source, &hello(n, local), &key(n), &token());
        assert!(self.sent(conn).any(|m| matches!(m, ServerMessage::Welcome(_))), "{:?}", self.log);
        conn
    }

    /// The relay lends a member an address.
    pub(crate) fn lend(&mut self, conn: ConnId, relayed: &str) {
        let session = self.sessions.iter().find(|(c, _)| *c == conn).unwrap().1;
        self.feed(Input::Allocated { session, relayed: vec![addr(relayed)] });
    }

    pub(crate) fn observe(&mut self, conn: ConnId, source: &str) {
        let session = self.sessions.iter().find(|(c, _)| *c == conn).unwrap().1;
        self.feed(Input::Observed { session, source: addr(source) });
    }

    pub(crate) fn sent(&self, to: ConnId) -> impl Iterator<Item = &ServerMessage> {
        self.log.iter().filter_map(move |output| match output {
            Output::Send { conn, message } if *conn == to => Some(message),
            _ => None,
        })
    }

    pub(crate) fn refusal(&self, to: ConnId) -> Option<Code> {
        self.sent(to).find_map(|message| match message {
            ServerMessage::Rejected(refusal) | ServerMessage::Closing(refusal) => Some(refusal.code),
            _ => None,
        })
    }

    pub(crate) fn closed(&self, which: ConnId) -> bool {
        self.log.iter().any(|output| matches!(output, Output::Close { conn } if *conn == which))
    }

    pub(crate) fn class(&self, conn: ConnId) -> Option<(NetworkClass, Evidence)> {
        self.sent(conn)
            .filter_map(|message| match message {
                ServerMessage::Classified { class, evidence, .. } => Some((*class, *evidence)),
                _ => None,
            })
            .last()
    }

    /// What the member was told its cluster has become, each time, and whether with a credential.
    pub(crate) fn clusters(&self, conn: ConnId) -> Vec<(EffectiveNetwork, bool)> {
        self.sent(conn)
            .filter_map(|message| match message {
                ServerMessage::Cluster { effective, stun } => Some((*effective, stun.is_some())),
                _ => None,
            })
            .collect()
    }

    /// The rows by which this node was judged, or put on probation.
    pub(crate) fn rows(&self, of: NodeId) -> Vec<&'static str> {
        self.log
            .iter()
            .filter_map(|output| match output {
                Output::Event(Event::Classified { node, row, .. } | Event::OnProbation { node, row, .. }) => {
                    (*node == of).then_some(*row)
                }
                _ => None,
            })
            .collect()
    }

    /// Time, in which all members give signs of life.
    pub(crate) fn live(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.pass(Duration::from_secs(1).min(end - self.now));
            let members: Vec<ConnId> = self.sessions.iter().map(|(conn, _)| *conn).collect();
            for conn in members {
                self.say(conn, ClientMessage::Ping { seq: 0 });
            }
        }
    }

    pub(crate) fn dial_back(&self) -> Option<(SocketAddr, DialBackNonce)> {
        self.log.iter().rev().find_map(|output| match output {
            Output::DialBack { to, nonce } => Some((*to, *nonce)),
            _ => None,
        })
    }

    pub(crate) fn introductions(&self, to: ConnId) -> Vec<&Introduction> {
        self.sent(to)
            .filter_map(|message| match message {
                ServerMessage::Introduction(introduction) => Some(&**introduction),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn connect_failure(&self, to: ConnId) -> Option<Code> {
        self.sent(to).find_map(|message| match message {
            ServerMessage::ConnectFailed { refusal, .. } => Some(refusal.code),
            _ => None,
        })
    }
}
