//! Whatever arrives, in whatever order: no panic, no datagram without a cause, no endless work.

use std::net::SocketAddr;
use std::time::Duration;

use crate::rig::{Rig, addr};
use meetpoint_agent::{Input, Interface, Socket};
use meetpoint_proto::wire::{Candidate, CandidateKind, Introduction, Refusal, ServerMessage};
use meetpoint_proto::{Code, EffectiveNetwork, Nonce, PublicKey};
use proptest::collection::vec;
use proptest::prelude::*;

/// One thing that happens to a node.
#[derive(Debug, Clone)]
enum Step {
    Wait(u32),
    Open,
    Close,
    Join {
        stun: bool,
    },
    Challenge,
    Refuse(usize, bool),
    Introduce {
        ticket: u8,
        peer: u8,
        candidates: Vec<SocketAddr>,
        start_in_ms: u32,
        expires_in_ms: u32,
    },
    Datagram {
        probe: bool,
        source: SocketAddr,
        payload: Vec<u8>,
    },
    /// One of the node's own datagrams comes back, a bit changed or not.
    Echo {
        which: usize,
        source: SocketAddr,
        flip: Option<usize>,
    },
    /// A check of the peer that shares a ticket with the node.
    PeerSpeaks {
        peer: u8,
        which: usize,
        source: SocketAddr,
    },
    Connect(u32, String),
    Begun(u32, usize),
    HandshakeDone(u8),
    Cancel(u32),
    Release(u8),
    Probe(bool),
    Interfaces(u8),
    PeerLeft(u8),
    ConnectFailed(u32, Option<u64>),
    /// The cluster becomes PUBLIC or PRIVATE, with or without a credential.
    ClusterChanges(bool, bool),
    Leave,
}

fn socket_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        Just(addr("20.0.0.2:4000")),
        Just(addr("20.0.0.3:4000")),
        Just(addr("20.0.1.1:3478")),
        Just(addr("20.0.1.2:3479")),
        Just(addr("10.0.7.9:4000")),
        any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::from((ip.to_be_bytes(), port))),
        any::<(u128, u16)>().prop_map(|(ip, port)| SocketAddr::from((ip.to_be_bytes(), port))),
    ]
}

/// Bytes that look like STUN for as long as luck holds.
fn stun_like() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (any::<u16>(), vec(any::<u8>(), 0..40)).prop_map(|(kind, value)| {
        let known = [0x0001, 0x0006, 0x0008, 0x0009, 0x0014, 0x0015, 0x001C, 0x0020, 0x8002, 0x8028, 0xC0F1];
        let kind: u16 = known[usize::from(kind) % known.len()];
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(&value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    });
    let kind = prop_oneof![Just(0x0001u16), Just(0x0011), Just(0x0101), Just(0x0111), any::<u16>()];
    (kind, any::<[u8; 12]>(), vec(attribute, 0..5), any::<bool>()).prop_map(
        |(kind, id, attributes, exact)| {
            let body = attributes.concat();
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend((body.len() as u16 + u16::from(!exact)).to_be_bytes());
            bytes.extend([0x21, 0x12, 0xA4, 0x42]);
            bytes.extend(id);
            bytes.extend(body);
            bytes
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..20_000).prop_map(Step::Wait),
        2 => Just(Step::Open),
        1 => Just(Step::Close),
        4 => any::<bool>().prop_map(|stun| Step::Join { stun }),
        1 => Just(Step::Challenge),
        1 => (0..Code::ALL.len(), any::<bool>()).prop_map(|(code, closing)| Step::Refuse(code, closing)),
        4 => (0u8..6, 1u8..5, vec(socket_addr(), 0..20), any::<u32>(), any::<u32>()).prop_map(
            |(ticket, peer, candidates, start_in_ms, expires_in_ms)| Step::Introduce {
                ticket, peer, candidates, start_in_ms, expires_in_ms,
            }
        ),
        4 => (any::<bool>(), socket_addr(), prop_oneof![stun_like(), vec(any::<u8>(), 0..80)])
            .prop_map(|(probe, source, payload)| Step::Datagram { probe, source, payload }),
        2 => (any::<usize>(), socket_addr(), proptest::option::of(any::<usize>()))
            .prop_map(|(which, source, flip)| Step::Echo { which, source, flip }),
        4 => (2u8..4, any::<usize>(), socket_addr())
            .prop_map(|(peer, which, source)| Step::PeerSpeaks { peer, which, source }),
        2 => (0u32..4, "node-[1-4]|[a-z2-7]{0,60}").prop_map(|(request, peer)| Step::Connect(request, peer)),
        1 => (0u32..4, 0usize..2_000).prop_map(|(request, len)| Step::Begun(request, len)),
        1 => (1u8..5).prop_map(Step::HandshakeDone),
        1 => (0u32..4).prop_map(Step::Cancel),
        1 => (1u8..5).prop_map(Step::Release),
        1 => any::<bool>().prop_map(Step::Probe),
        1 => any::<u8>().prop_map(Step::Interfaces),
        1 => (1u8..5).prop_map(Step::PeerLeft),
        1 => (any::<u32>(), any::<Option<u64>>()).prop_map(|(n, after)| Step::ConnectFailed(n % 8, after)),
        1 => any::<(bool, bool)>().prop_map(|(public, stun)| Step::ClusterChanges(public, stun)),
        1 => Just(Step::Leave),
    ]
}

/// The node under test, its peers, and where it may send.
struct Play {
    rig: Rig,
    peers: [Rig; 2],
    allowed: Vec<SocketAddr>,
}

impl Play {
    fn new() -> Self {
        let mut peers = [Rig::new(2), Rig::new(3)];
        peers.iter_mut().for_each(Rig::join);
        Self { rig: Rig::new(1), peers, allowed: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let rig = &mut self.rig;
        match step {
            Step::Wait(ms) => rig.advance(Duration::from_millis(ms.into())),
            Step::Open => rig.input(Input::ControlOpened { local: rig.local, remote: rig.server }),
            Step::Close => rig.input(Input::ControlClosed),
            Step::Join { stun } => join(rig, stun, &mut self.allowed),
            Step::Challenge => {
                let cluster_key = PublicKey::from(&rig.cluster_key);
                rig.tell(ServerMessage::Challenge {
                    nonce: Nonce::from_bytes([9; 32]),
                    cluster_key,
                    server_key: None,
                });
            }
            Step::Refuse(code, closing) => {
                let refusal = Refusal::new(Code::ALL[code]);
                rig.tell(if closing {
                    ServerMessage::Closing(refusal)
                } else {
                    ServerMessage::Rejected(refusal)
                });
            }
            Step::Introduce { ticket, peer, candidates, start_in_ms, expires_in_ms } => {
                self.introduce(ticket, peer, &candidates, start_in_ms, expires_in_ms);
            }
            Step::Datagram { probe, source, payload } => {
                let socket = if probe { Socket::Probe } else { Socket::Main };
                rig.input(Input::Datagram { socket, source, payload: &payload });
            }
            Step::Echo { which, source, flip } => {
                let Some(mut payload) = nth(rig, which) else { return };
                if let Some(flip) = flip {
                    let bits = payload.len() * 8;
                    payload[flip % bits / 8] ^= 1 << (flip % 8);
                }
                rig.datagram(source, &payload);
            }
            Step::PeerSpeaks { peer, which, source } => {
                let Some(payload) = nth(&self.peers[usize::from(peer) - 2], which) else { return };
                // A check of the peer allows the node to send to where it came from.
                self.allowed.push(source);
                rig.datagram(source, &payload);
            }
            Step::Connect(request, peer) => rig.input(Input::Connect { request, peer, wait: true }),
            Step::Begun(request, len) => {
                rig.input(Input::Begun { request, datagram: Some(vec![0xC0; len]) });
            }
            Step::HandshakeDone(peer) => {
                rig.input(Input::HandshakeDone { peer: rig.certificate(peer).node });
            }
            Step::Cancel(request) => rig.input(Input::CancelConnect { request }),
            Step::Release(peer) => rig.input(Input::Release { peer: rig.certificate(peer).node }),
            Step::Probe(ok) => rig.input(Input::ProbeOpened { port: ok.then_some(5000) }),
            Step::Interfaces(n) => {
                let list = vec![Interface { ip: [10, 0, 7, n].into(), prefix_len: n }];
                rig.input(Input::Interfaces { list, port_v4: (n > 9).then_some(4000), port_v6: None });
            }
            Step::PeerLeft(peer) => rig.tell(ServerMessage::PeerLeft { id: rig.certificate(peer).node }),
            Step::ConnectFailed(request, retry_after_ms) => {
                let refusal = Refusal { retry_after_ms, ..Refusal::new(Code::NoPath) };
                rig.tell(ServerMessage::ConnectFailed { request, refusal });
            }
            Step::ClusterChanges(public, stun) => {
                let effective = if public { EffectiveNetwork::Public } else { EffectiveNetwork::Private };
                self.allowed.extend((public && stun).then_some(addr("20.0.1.1:3478")));
                rig.tell(ServerMessage::Cluster { effective, stun: stun.then(Rig::stun_access) });
            }
            Step::Leave => rig.input(Input::Leave),
        }
    }

    fn introduce(&mut self, ticket: u8, peer: u8, list: &[SocketAddr], start_in_ms: u32, expires_in_ms: u32) {
        let candidates = list.iter().map(|addr| Candidate { kind: CandidateKind::Host, addr: *addr });
        let introduction = Introduction {
            candidates: candidates.collect(),
            requests: vec![0, 1, 2],
            start_in_ms,
            expires_in_ms,
            ..self.rig.introduction(ticket, peer, &[])
        };
        self.allowed.extend(list);
        self.rig.introduce(introduction);
        if let Some(other) = self.peers.get_mut(usize::from(peer).wrapping_sub(2)) {
            let half = other.introduction(ticket, 1, &["20.0.0.1:4000"]);
            other.introduce(half);
            other.advance(Duration::from_millis(500));
        }
    }

    /// The invariants that hold after every step.
    fn judge(&self) {
        let primary = addr("20.0.1.1:3478");
        for (socket, to, _) in &self.rig.sent {
            let is_fine = match socket {
                Socket::Probe => [addr("20.0.1.1:0").ip(), addr("20.0.1.2:0").ip()].contains(&to.ip()),
                Socket::Extra(_) | Socket::Stream(_) => false,
                Socket::Main => {
                    let unmapped =
                        |known: &SocketAddr| SocketAddr::new(known.ip().to_canonical(), known.port());
                    *to == primary || self.allowed.iter().any(|known| unmapped(known) == *to)
                }
            };
            assert!(is_fine, "{socket:?} sent to {to}");
        }
        assert!(self.rig.sent.len() < 5_000, "a storm");
        if let Some(next) = self.rig.agent.poll_timeout() {
            assert!(next > self.rig.now || self.rig.now == self.rig.start, "nothing due is left undone");
        }
    }
}

fn nth(rig: &Rig, which: usize) -> Option<Vec<u8>> {
    let count = rig.sent.len().max(1);
    rig.sent.get(which % count).map(|(_, _, payload)| payload.clone())
}

/// A whole join, if the node is in the mood for one.
fn join(rig: &mut Rig, stun: bool, allowed: &mut Vec<SocketAddr>) {
    rig.take();
    rig.input(Input::ControlOpened { local: rig.local, remote: rig.server });
    if !rig.has_said_hello() || rig.challenge().is_none() {
        return;
    }
    let mut welcome = rig.welcome();
    welcome.stun = stun.then(Rig::stun_access);
    allowed.extend(stun.then_some(addr("20.0.1.1:3478")));
    rig.tell(ServerMessage::Welcome(Box::new(welcome)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn anything_may_happen(steps in vec(step(), 1..60)) {
        let mut play = Play::new();
        for step in steps {
            play.take(step);
            // What is due now is due whatever the order of things.
            play.rig.advance(Duration::ZERO);
            play.judge();
        }
    }

    #[test]
    fn any_datagram_is_harmless_to_a_member(payload in stun_like(), source in socket_addr(), probe: bool) {
        let mut rig = Rig::new(1);
        rig.join();
        let socket = if probe { Socket::Probe } else { Socket::Main };
        rig.input(Input::Datagram { socket, source, payload: &payload });
        prop_assert!(rig.sent.is_empty() && rig.take().is_empty());
    }

    #[test]
    fn ids_in_checks_are_parsed_carefully(name in "\\PC{0,120}") {
        let mut rig = Rig::new(1);
        rig.join();
        rig.introduce(rig.introduction(1, 2, &[]));
        let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        bytes.extend([7; 12]);
        bytes.extend([0, 6]);
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        rig.datagram(addr("20.0.0.2:4000"), &bytes);
        prop_assert!(rig.sent.is_empty());
        prop_assert_eq!(rig.agent.counters().checks_refused, 1);
    }
}
