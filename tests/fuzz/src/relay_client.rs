//! A node and its relay. The server is the real one, and what it says gets lost, comes late, twice or changed; beside
//! that somebody speaks in its name. The peer that the node is to meet is silent.
//!
//! The node says nothing to anybody else, believes in no relayed address that the server did not give it, and never
//! storms.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_agent::{Output, Socket};
use meetpoint_proto::SessionId;
use meetpoint_proto::wire::{ClientMessage, StunAccess, StunServer as Named};
use meetpoint_turn::{
    Config, Input as Event, Limits, Listener, ListenerId, ListenerRole, Output as Said, RelayConfig, RelayIp,
    Secret, Secrets, StunServer, node_user,
};

use crate::agent::rig::{self, Rig, UNIX_S};
use crate::input::Input;

const SERVER: &str = "20.0.1.1:3478";
const PEER: &str = "20.0.0.2:4000";
/// Others who send to the node.
const SOURCES: [&str; 4] = [SERVER, SERVER, "20.0.1.1:9", PEER];
const MAX_STEPS: usize = 64;
/// Answers that are under way at once.
const MAX_WAITING: usize = 64;
/// A node that asks for one allocation and checks one peer says no more than this in a few minutes.
const MAX_SENT: usize = 2_000;
const LISTENER: ListenerId = ListenerId(0);

/// Plays with a node and its relay as the bytes say.
///
/// # Panics
/// If the node does something that nobody gave it cause for.
pub fn relay_client(bytes: &[u8]) {
    is_relayed(bytes);
}

/// The same; true if the node came so far as to tell of a relayed address.
///
/// # Panics
/// As [`relay_client`].
pub fn is_relayed(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let mut play = Play::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
        play.judge();
    }
    play.is_relayed
}

struct Play {
    node: Rig,
    server: StunServer,
    /// What the server has said and the node has not heard.
    waiting: Vec<Vec<u8>>,
    /// The addresses that it gave.
    granted: BTreeSet<u16>,
    sent: usize,
    is_relayed: bool,
}

impl Play {
    #[allow(clippy::expect_used, reason = "this configuration is one")]
    fn new() -> Self {
        let secrets = Secrets::new(vec![Secret::new(b"the server's one secret").expect("long enough")]);
        let secrets = secrets.expect("one");
        let user = node_user(&SessionId::from_bytes([1; 16]));
        let (username, password) = secrets.mint(&user, UNIX_S + 3_600);
        let ip = rig::addr(SERVER).ip();
        let config = Config {
            listeners: vec![Listener {
                id: LISTENER,
                role: ListenerRole::PrimaryMain,
                addr: rig::addr(SERVER),
            }],
            streams: Vec::new(),
            realm: meetpoint_proto::stun::REALM.to_owned(),
            secrets,
            limits: Limits { source_slots: 64, ..Limits::default() },
            relay: Some(RelayConfig { ipv4: Some(RelayIp { bind: ip, seen: ip }), ..RelayConfig::default() }),
        };
        let mut server = StunServer::new(config, [7; 32]).expect("a server");
        let mut node = Rig::new(1);
        server.handle(node.now, Event::Wall { unix_ms: UNIX_S * 1_000 });
        let named = Named { primary: rig::addr(SERVER), alternate: None, alternate_port: None };
        let access = StunAccess {
            servers: vec![named],
            username,
            password,
            relay: vec![ip],
            tcp: None,
            tls: None,
            stream_nonce: None,
        };
        node.join_with(|welcome| welcome.stun = Some(access));
        let half = node.introduction(1, 2, &[PEER]);
        node.introduce(half);
        Self { node, server, waiting: Vec::new(), granted: BTreeSet::new(), sent: 0, is_relayed: false }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 => self.pass(Duration::from_millis(u64::from(input.u16()) % 8_000)),
            // The network carries what was sent, to the server and back.
            1..=3 => {
                self.ask();
                for answer in std::mem::take(&mut self.waiting) {
                    self.node.datagram(rig::addr(SERVER), &answer);
                }
            }
            4 => {
                self.ask();
                if !self.waiting.is_empty() {
                    let at = input.below(self.waiting.len());
                    self.waiting.remove(at);
                }
            }
            5 | 6 => self.changed(input),
            _ => {
                let source = rig::addr(input.pick(&SOURCES));
                let len = usize::from(input.byte());
                let payload = input.take(len).to_vec();
                self.node.datagram(source, &payload);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.node.advance(time);
        let passed = (self.node.now - self.node.start).as_millis();
        let unix_ms = UNIX_S * 1_000 + u64::try_from(passed).unwrap_or_default();
        self.server.handle(self.node.now, Event::Wall { unix_ms });
        self.server.handle_timeout(self.node.now);
        self.collect();
    }

    /// Gives the server what the node has said to it.
    fn ask(&mut self) {
        for (socket, to, payload) in std::mem::take(&mut self.node.sent) {
            self.note(socket, to);
            if (socket, to) == (Socket::Main, rig::addr(SERVER)) {
                let source = self.node.main();
                let question = Event::Datagram { listener: LISTENER, source, payload: &payload };
                self.server.handle(self.node.now, question);
                self.collect();
            }
        }
    }

    fn collect(&mut self) {
        while let Some(said) = self.server.poll_output() {
            match said {
                Said::Transmit { payload, .. } => self.waiting.push(payload.to_vec()),
                Said::OpenRelay { id, bind } => {
                    self.granted.insert(bind.port());
                    self.server.handle(self.node.now, Event::RelayOpened { id });
                }
                _ => {}
            }
        }
        let surplus = self.waiting.len().saturating_sub(MAX_WAITING);
        self.waiting.drain(..surplus);
    }

    /// One of the server's answers, with a few bytes changed; the answer itself may come later.
    fn changed(&mut self, input: &mut Input<'_>) {
        self.ask();
        if self.waiting.is_empty() {
            return;
        }
        let mut answer = self.waiting[input.below(self.waiting.len())].clone();
        for _ in 0..=input.below(3) {
            let at = usize::from(input.u16()) % answer.len();
            answer[at] ^= input.byte();
        }
        let source = rig::addr(input.pick(&SOURCES));
        self.node.datagram(source, &answer);
    }

    fn note(&mut self, socket: Socket, to: SocketAddr) {
        let is_fine = socket == Socket::Main && [SERVER, PEER].map(rig::addr).contains(&to);
        // The discovery of the NAT's behaviour asks the same server, from a socket of its own.
        let is_probe = socket == Socket::Probe && to.ip() == rig::addr(SERVER).ip();
        assert!(is_fine || is_probe, "{socket:?} sends to {to}");
        self.sent += 1;
    }

    fn judge(&mut self) {
        let unheard = self.node.sent.iter().map(|(socket, to, _)| (*socket, *to)).collect::<Vec<_>>();
        assert!(self.sent + unheard.len() < MAX_SENT, "a storm");
        for output in self.node.take() {
            match output {
                Output::Path { path: Some(path), .. } => panic!("a path to nobody: {path:?}"),
                Output::SendControl(ClientMessage::Candidates { relay, .. }) => {
                    self.is_relayed |= !relay.is_empty();
                    for addr in relay {
                        assert_eq!(addr.ip(), rig::addr(SERVER).ip(), "nobody gave it {addr}");
                        assert!(self.granted.contains(&addr.port()), "nobody gave it {addr}");
                    }
                }
                Output::Ended(ended) => panic!("{ended:?}"),
                _ => {}
            }
        }
        if let Some(next) = self.node.agent.poll_timeout() {
            assert!(next >= self.node.now, "what is due stays due");
        }
    }
}
