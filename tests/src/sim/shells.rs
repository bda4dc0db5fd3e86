//! What the machines' outputs mean: the part of the real shells, and of the registry, that matters
//! here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Event, Output};
use meetpoint_broker::{AdmitRequest, ClusterConfig, ConnId, StunCredential, TokenProof};
use meetpoint_proto::join::Domain;
use meetpoint_proto::wire::{self, ClientMessage, ServerMessage, StunServer};
use meetpoint_proto::{ClusterNetwork, Code, EffectiveNetwork, JoinToken, PublicKey, SessionId};
use meetpoint_turn::{Secrets, StunServer as StunMachine};

use super::relays::{relay_config, stream_listeners};
use super::wires::{SERVER, STUN_PORTS, listeners};
use super::world::{Arrival, BIRTH_UNIX_S, Connection, FIRST_PROBE_PORT, ServerPlace, World};

pub(super) const CERTIFICATE_LIFE_S: u64 = 30 * 86_400;
/// A relay's credential holds for so long at most.
const CREDENTIAL_LIFE_S: u64 = 86_400;

/// What the registry keeps of the join tokens, which come one after the other. Keys are made once:
/// deriving them anew for each case would take a tenth of its time.
static TOKEN_KEYS: LazyLock<Vec<PublicKey>> =
    LazyLock::new(|| (0..MAX_TOKENS).map(|number| join_token(number).public_key()).collect());
/// Join tokens of one world.
pub(super) const MAX_TOKENS: usize = 4;
static CLUSTER_KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[9; 32]));

pub(super) fn join_token(number: usize) -> JoinToken {
    format!("the-simulators-token-{number}").parse().expect("a token")
}

impl World {
    pub(super) fn drain_node(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].agent.poll_output() {
            if self.nodes[index].over.is_some() {
                self.violations.push("an output after the end".to_owned());
            }
            match output {
                Output::OpenControl { .. } => self.open_control(index),
                // Each node knows one server.
                Output::Knock { .. } => self.violations.push("a knock at no other server".to_owned()),
                Output::CloseControl => self.close_control(index),
                Output::SendControl(message) => self.send_to_server(index, message),
                output
                @ (Output::OpenStream { .. } | Output::CloseStream { .. } | Output::Channel { .. }) => {
                    self.relay_command(index, output);
                }
                output @ (Output::OpenIntroducer { .. }
                | Output::CloseIntroducer { .. }
                | Output::ToIntroducer { .. }) => self.meet_command(index, output),
                Output::Transmit { socket, to, payload, ttl } => {
                    self.transmit(index, socket, to, payload, ttl);
                }
                Output::OpenSockets { first, count, .. } => {
                    let node = &mut self.nodes[index];
                    for number in 0..count {
                        node.extras.insert(first.wrapping_add(number), node.next_probe);
                        node.next_probe = node.next_probe.checked_add(1).unwrap_or(FIRST_PROBE_PORT);
                    }
                    self.push(Duration::ZERO, Arrival::SocketsOpened { node: index, first, count });
                }
                Output::CloseSockets { keep } => {
                    self.nodes[index].extras.retain(|number, _| keep.contains(number));
                }
                Output::OpenProbe { .. } => {
                    let node = &mut self.nodes[index];
                    node.probe = Some(node.next_probe);
                    node.next_probe += 1;
                    self.push(Duration::ZERO, Arrival::ProbeOpened { node: index });
                }
                Output::CloseProbe => self.nodes[index].probe = None,
                Output::Path { peer, path } => {
                    let paths = &mut self.nodes[index].paths;
                    match path {
                        Some(path) => paths.insert(peer, path),
                        None => paths.remove(&peer),
                    };
                    if path.is_none() {
                        self.nodes[index].heard.retain(|(heard, _)| *heard != peer);
                    }
                    self.handshake_has_path(index);
                }
                Output::Hear { peer, way } => {
                    self.nodes[index].heard.insert((peer, way));
                    self.handshake_heard(index, way);
                }
                Output::Provisional { peer, way, request, .. } => {
                    self.handshake_may_go(index, peer, way, request);
                }
                Output::Begin { request, peer, .. } => self.handshake_begins(index, request, peer),
                Output::Handshake { datagram, .. } => self.handshake_came(index, &datagram),
                Output::ConnectEnded { request, result } => {
                    self.nodes[index].ended.insert(request, result);
                    self.handshake_has_path(index);
                }
                Output::TraceRoute { number, to, .. } => self.trace_route(index, number, to),
                // The model's routers map no ports.
                Output::Membership(_) | Output::MapPort { .. } => {}
                Output::Event(event) => self.event(index, &event),
                Output::Ended(ended) => self.nodes[index].over = Some(ended),
            }
        }
    }

    fn event(&mut self, index: usize, event: &Event) {
        let node = &mut self.nodes[index];
        match event {
            Event::Classified { class, evidence, relayed, .. } => {
                node.class = Some((*class, *evidence));
                node.relayed = *relayed;
                node.classes.push(*class);
            }
            Event::Joined { effective, .. } | Event::ClusterChanged { effective } => {
                node.effective = Some(*effective);
            }
            Event::Behavior(behavior) => node.behavior = Some(*behavior),
            Event::Peer(_) | Event::PeerLeft(_) | Event::Disconnected { .. } => {}
        }
    }

    fn open_control(&mut self, index: usize) {
        self.close_control(index);
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let node = &mut self.nodes[index];
        node.conn = Some(conn);
        let seen = self.control_source(index);
        // SYN, SYN-ACK, and the request behind the ACK.
        let one_way = self.control_one_way(index);
        let source = SocketAddr::new(seen, 33_333);
        if self.meets.is_server_dead {
            self.conns.insert(conn, Connection { node: index, to_server: self.now, to_node: self.now });
            return self.push(one_way * 2, Arrival::ClosedAtNode { conn });
        }
        self.push(one_way, Arrival::ControlAccepted { conn, source });
        self.push(one_way * 2, Arrival::ControlOpened { node: index, conn });
        let open = self.now + one_way * 2;
        self.conns.insert(conn, Connection { node: index, to_server: open, to_node: open });
    }

    fn close_control(&mut self, index: usize) {
        let Some(conn) = self.nodes[index].conn.take() else { return };
        let delay = self.control_delay(index);
        self.push(delay, Arrival::ClosedAtServer { conn });
    }

    fn send_to_server(&mut self, index: usize, mut message: ClientMessage) {
        let Some(conn) = self.nodes[index].conn else {
            return self.violations.push(format!("a message without a connection: {message:?}"));
        };
        if self.weather.json {
            let text = wire::encode(&message);
            self.nodes[index].traffic.note_tcp(0, text.len());
            message = wire::decode_client(&text).expect("our own message");
        }
        let delay = self.control_delay(index);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.to_server = connection.to_server.max(self.now + delay);
        let at = connection.to_server;
        self.push_at(at, Arrival::ToServer { conn, message });
    }

    pub(super) fn drain_broker(&mut self) {
        use meetpoint_broker::Output as Out;
        while let Some(output) = self.broker.poll_output() {
            match output {
                Out::Send { conn, message } => self.send_to_node(conn, message),
                Out::SendFrame { conn, frame } => {
                    let message = wire::decode_server(&frame).expect("the broker's own frame");
                    self.send_to_node(conn, message);
                }
                Out::Close { conn } => {
                    if let Some(at) = self.arrival_at_node(conn) {
                        self.push_at(at, Arrival::ClosedAtNode { conn });
                    }
                }
                Out::Admit(request) => self.admit(*request),
                Out::Mint { conn, session } => {
                    let credential = Some(self.credential(&session));
                    let input = meetpoint_broker::Input::Credential { conn, credential };
                    self.broker.handle(self.start + self.now, input);
                }
                Out::DialBack { to, nonce } => {
                    let input = meetpoint_turn::Input::DialBack { to, nonce: *nonce.as_bytes() };
                    self.stun.handle(self.start + self.now, input);
                    self.drain_stun();
                }
                Out::Renew { conn, session, .. } => {
                    let not_after_unix_s = BIRTH_UNIX_S + self.now.as_secs() + self.membership_s;
                    let credential = Some(self.credential(&session));
                    let input = meetpoint_broker::Input::Renewed { conn, not_after_unix_s, credential };
                    self.broker.handle(self.start + self.now, input);
                }
                Out::Event(meetpoint_broker::Event::Introduced { sessions: [a, b], .. }) => {
                    let now = self.start + self.now;
                    let until = now + Duration::from_secs(CERTIFICATE_LIFE_S);
                    self.stun.handle(now, meetpoint_turn::Input::Introduced { a, b, until });
                }
                Out::Event(meetpoint_broker::Event::Left { session, .. }) => {
                    let input = meetpoint_turn::Input::Parted { node: session };
                    self.stun.handle(self.start + self.now, input);
                }
                Out::Forget { .. } | Out::Event(_) => {}
            }
        }
    }

    fn send_to_node(&mut self, conn: ConnId, mut message: ServerMessage) {
        if self.weather.json {
            let text = wire::encode(&message);
            if let Some(connection) = self.conns.get(&conn) {
                self.nodes[connection.node].traffic.note_tcp(1, text.len());
            }
            message = wire::decode_server(&text).expect("our own message");
        }
        if let Some(at) = self.arrival_at_node(conn) {
            self.push_at(at, Arrival::ToNode { conn, message });
        }
    }

    /// When the next thing on a control connection arrives: not before what was sent earlier.
    fn arrival_at_node(&mut self, conn: ConnId) -> Option<Duration> {
        let node = self.conns.get(&conn)?.node;
        let at = self.now + self.control_delay(node);
        let connection = self.conns.get_mut(&conn)?;
        connection.to_node = connection.to_node.max(at);
        Some(connection.to_node)
    }

    /// The registry: one token, and whoever holds it is in.
    fn admit(&mut self, request: AdmitRequest) {
        let AdmitRequest { conn, session, admission, .. } = request;
        let key = &TOKEN_KEYS[self.token_number];
        let is_good = admission.is_some_and(|claims| {
            let holds = |proof: TokenProof| {
                proof.token == self.token.id()
                    && claims.transcript.verify(Domain::Admission, key, &proof.signature)
            };
            claims.token.is_some_and(holds)
        });
        let unix_s = BIRTH_UNIX_S + self.now.as_secs();
        let input = if is_good {
            meetpoint_broker::Input::Admitted {
                conn,
                not_after_unix_s: unix_s + self.membership_s,
                credential: Some(self.credential(&session)),
                session_token: None,
            }
        } else {
            meetpoint_broker::Input::Refused { conn, code: Code::BadToken, detail: None }
        };
        self.broker.handle(self.start + self.now, input);
    }

    fn credential(&self, session: &SessionId) -> StunCredential {
        let expires_unix_s = BIRTH_UNIX_S + self.now.as_secs() + CREDENTIAL_LIFE_S.min(self.membership_s);
        let (username, password) = self.secrets.mint(&meetpoint_turn::node_user(session), expires_unix_s);
        let unix_s = BIRTH_UNIX_S + self.now.as_secs();
        let stream_nonce = Some(self.secrets.stream_nonce(&username, unix_s));
        StunCredential { username, password, stream_nonce }
    }

    pub(super) fn drain_stun(&mut self) {
        use meetpoint_turn::Output as Out;
        while let Some(output) = self.stun.poll_output() {
            match output {
                Out::Transmit { listener, to, payload } => {
                    if self.frame_to_node(listener, to, &payload) {
                        continue;
                    }
                    let from = listeners()[usize::from(listener.0)].addr;
                    self.cross(self.server_one_way, from, to, payload.to_vec());
                }
                Out::Observed { username, source, .. } => {
                    if let Some(session) = meetpoint_turn::node_session(&username) {
                        self.observed(session, source);
                    }
                }
                Out::Allocated { session, relayed } => {
                    let relayed = relayed.into_iter().flatten().collect();
                    let input = meetpoint_broker::Input::Allocated { session, relayed };
                    self.broker.handle(self.start + self.now, input);
                    self.drain_broker();
                }
                Out::DialBackImpossible { to, .. } => {
                    self.violations.push(format!("no alternate address for {to}"));
                }
                other => self.relay_output(other),
            }
        }
    }

    fn observed(&mut self, session: SessionId, source: SocketAddr) {
        let input = meetpoint_broker::Input::Observed { session, source };
        self.broker.handle(self.start + self.now, input);
        self.drain_broker();
    }
}

pub(super) fn stun_machine(secrets: Secrets, seed: [u8; 32], relays: bool) -> StunMachine {
    let config = meetpoint_turn::Config {
        listeners: listeners().to_vec(),
        streams: if relays { stream_listeners() } else { Vec::new() },
        realm: meetpoint_proto::stun::REALM.to_owned(),
        secrets,
        // The table of sources is half a megabyte by default, and here two nodes ask.
        limits: meetpoint_turn::Limits { source_slots: 64, ..Default::default() },
        relay: relays.then(relay_config),
    };
    StunMachine::new(config, seed).expect("a good configuration")
}

pub(super) fn cluster(place: ServerPlace) -> ClusterConfig {
    let is_public = place == ServerPlace::Internet;
    // From inside, the server's public address is not the one by which it is found.
    let ip = if matches!(place, ServerPlace::Both(_)) { SERVER[0] } else { Ipv4Addr::UNSPECIFIED };
    let server = StunServer {
        primary: SocketAddr::new(IpAddr::V4(ip), STUN_PORTS[0]),
        alternate: Some(IpAddr::V4(SERVER[1])),
        alternate_port: Some(STUN_PORTS[1]),
    };
    ClusterConfig {
        name: "default".parse().expect("a name"),
        kind: ClusterNetwork::Dynamic,
        effective: if is_public { EffectiveNetwork::Public } else { EffectiveNetwork::Private },
        key: CLUSTER_KEY.clone(),
        home: None,
        open_join: false,
        admit_relayed: false,
        stun: vec![server],
    }
}
