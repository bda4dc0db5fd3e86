//! What strangers may send to a node's sockets. The node is a member, knows its STUN server, meets a peer under a
//! ticket, and hears datagrams of the bytes' choice: made up, or its own and its peer's with a few bytes changed.
//!
//! It sends only to where it was told to go, or where a check under its ticket came from; it takes a way for verified
//! only if its own check was answered from there; and it never storms.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_agent::{Input as Event, Output, Socket};

use crate::input::Input;
use rig::Rig;

#[path = "../../../sdk/agent/tests/it/rig/mod.rs"]
pub(crate) mod rig;

/// Where datagrams come from: the server's addresses, the peer, its NAT, strangers.
const SOURCES: [&str; 8] = [
    "20.0.1.1:3478",
    "20.0.1.2:3479",
    "20.0.1.2:3478",
    "20.0.0.2:4000",
    "20.0.0.2:4001",
    "30.0.0.1:9",
    "[::ffff:20.0.0.2]:4000",
    "[2a00::1]:9",
];
/// The peer's candidate.
const PEER: &str = "20.0.0.2:4000";
/// Datagrams of one play.
const MAX_STEPS: usize = 64;
/// A node that meets one peer and refreshes one mapping says no more than this to that many datagrams in a few
/// minutes.
const MAX_SENT: usize = 2000;

/// Plays with a node as the bytes say.
///
/// # Panics
/// If it does something that nobody gave it cause for.
pub fn agent(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut play = Play::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
        play.judge();
    }
}

struct Play {
    node: Rig,
    peer: Rig,
    /// All the datagrams both have sent, to be sent again with changes.
    own: Vec<Vec<u8>>,
    peers: Vec<Vec<u8>>,
    /// Where the node may send.
    allowed: BTreeSet<SocketAddr>,
    sent: usize,
}

impl Play {
    fn new() -> Self {
        let (mut node, mut peer) = (Rig::new(1), Rig::new(2));
        node.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
        peer.join();
        let half = node.introduction(1, 2, &[PEER]);
        node.introduce(half);
        let half = peer.introduction(1, 1, &["20.0.0.1:4000"]);
        peer.introduce(half);
        let allowed = [SOURCES[0], PEER].map(rig::addr).into();
        Self { node, peer, own: vec![], peers: vec![], allowed, sent: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (what, source) = (input.byte(), rig::addr(input.pick(&SOURCES)));
        let socket = if what & 0x80 == 0 { Socket::Main } else { Socket::Probe };
        match what % 8 {
            0 => {
                let time = Duration::from_millis(u64::from(input.u16()) % 8000);
                self.node.advance(time);
                self.peer.advance(time);
            }
            1 | 2 => {
                let len = usize::from(input.byte());
                let payload = input.take(len);
                self.give(socket, source, payload);
            }
            3 | 4 => self.changed(socket, source, false, input),
            5 | 6 => self.changed(socket, source, true, input),
            _ => self.node.input(Event::ProbeOpened { port: (what & 0x40 == 0).then_some(5000) }),
        }
        self.note();
    }

    /// A datagram of the node or of its peer, with a few bytes changed.
    fn changed(&mut self, socket: Socket, source: SocketAddr, is_peers: bool, input: &mut Input<'_>) {
        let known = if is_peers { &self.peers } else { &self.own };
        let Some(datagram) = known.get(input.below(known.len().max(1))) else { return };
        let mut payload = datagram.clone();
        for _ in 0..input.below(4) {
            let at = usize::from(input.u16()) % payload.len();
            payload[at] = input.byte();
        }
        if is_peers {
            // A check under the ticket shows where the peer is.
            self.allowed.insert(unmapped(source));
        }
        self.give(socket, source, &payload);
        self.peer.datagram(self.node.main(), &payload);
    }

    fn give(&mut self, socket: Socket, source: SocketAddr, payload: &[u8]) {
        self.node.input(Event::Datagram { socket, source, payload });
    }

    /// Keeps what both have said.
    fn note(&mut self) {
        for (socket, to, payload) in std::mem::take(&mut self.node.sent) {
            let is_fine = match socket {
                // No introduction of this target names a window, so nothing is guessed; and nothing is relayed by a
                // stream.
                Socket::Extra(_) | Socket::Stream(_) => false,
                Socket::Main => self.allowed.contains(&unmapped(to)),
                Socket::Probe => SOURCES[..3].iter().any(|server| rig::addr(server).ip() == to.ip()),
            };
            assert!(is_fine, "{socket:?} sends to {to}");
            self.sent += 1;
            self.own.push(payload);
        }
        self.peers.extend(std::mem::take(&mut self.peer.sent).into_iter().map(|(_, _, payload)| payload));
    }

    fn judge(&mut self) {
        assert!(self.sent < MAX_SENT, "a storm");
        for output in self.node.take() {
            match output {
                Output::Path { path: Some(path), .. } => {
                    assert!(self.allowed.contains(&path.way.remote), "a path by {:?}", path.way);
                }
                Output::Hear { way, .. } => assert!(self.allowed.contains(&way.remote), "hears {way:?}"),
                Output::Provisional { way, .. } => {
                    assert!(self.allowed.contains(&way.remote), "a handshake by {way:?}");
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

fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
