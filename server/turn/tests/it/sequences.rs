//! Whatever clients, peers, sockets and time do in whatever order: what is held stays bounded,
//! nothing is relayed without a permission, and everything comes to rest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, REFRESH};
use meetpoint_turn::{Input, Output, attr};
use proptest::prelude::*;

use crate::common::{PRIMARY_MAIN, error};
use crate::turn::{A, Client, Relayed, TurnRig, UDP, channel_data, with};

const CLIENTS: usize = 6;
/// Some good, one forbidden, and (from 4 on) the relayed address of a client.
const PEERS: [&str; 4] = ["30.0.0.1:1", "30.0.0.1:2", "30.0.0.2:1", "10.0.0.1:1"];

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize, u8),
    Refresh(usize, u32),
    Permit(usize, usize),
    Bind(usize, u16, usize),
    Send(usize, usize),
    Channel(usize, u16),
    Arrive(usize, usize),
    Icmp(usize, usize, u8),
    Disconnect(usize),
    Raw(usize, Vec<u8>),
    Fail(u16),
    End(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let peer = 0..PEERS.len() + CLIENTS;
    let number = prop_oneof![0x4000..0x4004_u16, any::<u16>()];
    prop_oneof![
        3 => (client.clone(), 0..6_u8).prop_map(|(c, kind)| Step::Allocate(c, kind)),
        1 => (client.clone(), prop_oneof![Just(0), Just(600), any::<u32>()]).prop_map(|(c, s)| Step::Refresh(c, s)),
        3 => (client.clone(), peer.clone()).prop_map(|(c, p)| Step::Permit(c, p)),
        3 => (client.clone(), number.clone(), peer.clone()).prop_map(|(c, n, p)| Step::Bind(c, n, p)),
        3 => (client.clone(), peer.clone()).prop_map(|(c, p)| Step::Send(c, p)),
        3 => (client.clone(), number).prop_map(|(c, n)| Step::Channel(c, n)),
        3 => (client.clone(), peer.clone()).prop_map(|(c, p)| Step::Arrive(c, p)),
        1 => (client.clone(), peer, 0..16_u8).prop_map(|(c, p, kind)| Step::Icmp(c, p, kind)),
        1 => client.clone().prop_map(Step::Disconnect),
        1 => (client, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(c, bytes)| Step::Raw(c, bytes)),
        1 => (50_000..50_008_u16).prop_map(Step::Fail),
        1 => any::<u64>().prop_map(Step::End),
        3 => prop_oneof![0..400_u64, 0..4000_u64].prop_map(Step::Pass),
    ]
}

/// What the test knows: for whom a permission was answered well, and until when at most.
struct World {
    turn: TurnRig,
    relayed: BTreeMap<usize, SocketAddr>,
    permitted: BTreeMap<(usize, std::net::IpAddr), Instant>,
}

impl World {
    fn client(&mut self, index: usize) -> Client {
        self.turn.client(&format!("user{}", index % 3), &source(index))
    }

    fn peer(&self, index: usize) -> String {
        match PEERS.get(index) {
            Some(peer) => (*peer).to_owned(),
            None => {
                self.relayed.get(&(index - PEERS.len())).map_or("30.0.0.3:1".to_owned(), ToString::to_string)
            }
        }
    }

    fn permit(&mut self, client: usize, peer: &str, code: Option<u16>) {
        if code.is_none() {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_ne!(peer.ip().to_string(), "10.0.0.1", "forbidden");
            let until = self.turn.rig.now + Duration::from_secs(300);
            self.permitted.insert((client, peer.ip()), until);
        }
    }

    fn has_permission(&self, client: usize, peer: SocketAddr) -> bool {
        self.permitted.get(&(client, peer.ip())).is_some_and(|until| self.turn.rig.now < *until)
    }

    fn check_sent(&self, client: usize, relayed: Option<&Relayed>) {
        match relayed {
            None => {}
            Some(Relayed::ToPeer { from, to, .. }) => {
                assert_eq!(self.relayed.get(&client), Some(from));
                assert!(self.has_permission(client, *to), "{to}");
            }
            Some(Relayed::ToClient { to, .. }) => {
                let other = (0..CLIENTS).find(|other| source(*other) == to.to_string()).expect("a client");
                assert!(self.has_permission(client, self.relayed[&other]));
                assert!(self.has_permission(other, self.relayed[&client]));
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Allocate(index, kind) => {
                let client = self.client(index);
                let more = match kind {
                    0 => A::Raw(attr::EVEN_PORT, &[0x80]),
                    1 => A::Raw(attr::EVEN_PORT, &[0]),
                    2 => A::Raw(attr::RESERVATION_TOKEN, &[0; 8]),
                    _ => A::Raw(attr::LIFETIME, &[0, 0, 9, 9]),
                };
                let answer =
                    self.turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), more]);
                if error(&answer).is_none() {
                    self.permitted.retain(|(of, _), _| *of != index);
                    self.relayed.insert(index, crate::turn::relayed(&answer)[0]);
                }
            }
            Step::Refresh(index, lifetime_s) => {
                let client = self.client(index);
                let lifetime = lifetime_s.to_be_bytes();
                self.turn.ask(&client, REFRESH, &[A::Raw(attr::LIFETIME, &lifetime)]);
            }
            Step::Permit(index, peer) => {
                let (client, peer) = (self.client(index), self.peer(peer));
                let code = self.turn.code(&client, CREATE_PERMISSION, &[A::Peer(&peer)]);
                self.permit(index, &peer, code);
            }
            Step::Bind(index, number, peer) => {
                let (client, peer) = (self.client(index), self.peer(peer));
                let code = self.turn.bind(&client, number, &peer);
                self.permit(index, &peer, code);
            }
            Step::Send(index, peer) => {
                let (client, peer) = (self.client(index), self.peer(peer));
                let sent = self.turn.send(&client, &peer, b"data");
                self.check_sent(index, sent.as_ref());
            }
            Step::Channel(index, number) => {
                let sent = self.turn.relay(&source(index), &channel_data(number, b"data"));
                self.check_sent(index, sent.as_ref());
            }
            Step::Arrive(index, peer) => self.arrive(index, peer),
            Step::Icmp(index, peer, kind) => self.icmp(index, peer, kind),
            Step::Disconnect(index) => {
                let source = source(index).parse().expect("an address");
                let input = Input::Disconnected { listener: PRIMARY_MAIN, source };
                self.turn.rig.server.handle(self.turn.rig.now, input);
                assert_eq!(self.turn.run(), []);
            }
            Step::Raw(index, bytes) => {
                let relay = self.turn.relay(&source(index), &bytes);
                self.check_sent(index, relay.as_ref());
            }
            Step::Fail(port) => self.turn.broken = vec![port],
            Step::End(number) => {
                let sessions: Vec<_> =
                    self.turn.rig.server.sessions(self.turn.rig.now).map(|s| s.id).collect();
                let known = sessions.get(number as usize % 9).copied();
                let id = known.unwrap_or(meetpoint_turn::SessionId::from_number(number));
                self.turn.rig.server.handle(self.turn.rig.now, Input::EndSession(id));
                self.turn.run();
            }
            Step::Pass(s) => {
                self.turn.rig.pass(Duration::from_secs(s));
                self.turn.rig.server.handle_timeout(self.turn.rig.now);
                self.turn.run();
            }
        }
    }

    fn arrive(&mut self, index: usize, peer: usize) {
        let peer = self.peer(peer);
        let Some(at) = self.relayed.get(&index).copied() else { return };
        if self.turn.sockets.values().any(|open| *open == at)
            && let Some(Relayed::ToClient { to, .. }) = self.turn.arrive(at, &peer, b"data")
        {
            let owner = (0..CLIENTS).find(|other| source(*other) == to.to_string()).expect("a client");
            assert!(self.has_permission(owner, peer.parse().expect("an address")), "{peer}");
        }
    }

    fn icmp(&mut self, index: usize, peer: usize, kind: u8) {
        let peer: SocketAddr = self.peer(peer).parse().expect("an address");
        let relayed = self.relayed.get(&index);
        let Some((at, _)) = self.turn.sockets.iter().find(|(_, open)| Some(*open) == relayed) else {
            return;
        };
        let input = Input::Icmp { at: *at, peer, kind, code: 1, data: [0; 4] };
        self.turn.rig.server.handle(self.turn.rig.now, input);
        for output in self.turn.run() {
            let Output::Transmit { to, .. } = output else { panic!("{output:?}") };
            let told = (0..CLIENTS).find(|other| source(*other) == to.to_string());
            assert!(told.is_some_and(|told| self.has_permission(told, peer)), "{peer}");
        }
    }
}

fn source(index: usize) -> String {
    format!("20.0.1.{}:40000", index + 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_is_bounded(steps in proptest::collection::vec(step(), 0..120)) {
        let turn = with(|config| {
            config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_007);
            config.limits.source = meetpoint_turn::Rate::unlimited();
            config.limits.relay.permissions = 3;
            config.limits.relay.channels = 3;
        });
        let mut world = World { turn, relayed: BTreeMap::new(), permitted: BTreeMap::new() };
        for step in steps {
            world.take(step);
            let [allocations, ports, reservations, timers] = world.turn.rig.server.relay_sizes();
            prop_assert!(allocations <= CLIENTS && ports <= 8 && timers == allocations + reservations);
            prop_assert_eq!(ports, world.turn.sockets.len(), "what is open is what is held");
        }
        let mut timeouts = 0;
        while let Some(due) = world.turn.rig.server.poll_timeout() {
            world.turn.rig.now = world.turn.rig.now.max(due);
            world.turn.rig.server.handle_timeout(world.turn.rig.now);
            timeouts += 1;
        }
        prop_assert!(timeouts <= 8 * 8, "{}", timeouts);
        prop_assert_eq!(world.turn.run(), vec![]);
        prop_assert_eq!((world.turn.rig.server.relay_sizes(), world.turn.sockets.len()), ([0; 4], 0));
    }
}
