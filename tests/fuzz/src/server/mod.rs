//! The whole STUN and TURN server, played with: the bytes are a list of steps that clients, peers, the shell, an
//! operator and time take in any order. After each of them:
//!
//! * there is at most one answer to a datagram, it goes to where that came from, and is no longer than the budgets for
//!   strangers allow;
//! * nothing is granted but under a good credential and a fresh nonce of that very source;
//! * nothing is relayed but under a permission that the model beside the server knows to be installed and not over;
//!   nothing leaves for a forbidden peer; nothing is relayed faster than the rate; and with unlimited rates whatever is
//!   permitted is relayed;
//! * the sockets that were ordered and not closed are those the server holds, and its tables are within their limits;
//! * what the operator sees is what the model knows;
//! * once the timers ran nothing is due, and at the end all comes to rest with nothing held.
//!
//! `setup` has the players, `question` what clients send, `model` what the outside knows, `judge` the rules above.

mod judge;
mod model;
mod question;
mod setup;
mod steps;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use meetpoint_turn::{Input as Event, ListenerId, Output, Relay, RelayId, StunServer};

use crate::input::Input;
use judge::{Answer, Budgets, Relayed, cargo};
use model::{Client, Model, Socket, source_key};
use question::{Grant, Nonce, Question};
use setup::{CLIENTS, NOW_UNIX_S, PORTS, RELAY_IP4, RELAY_IP6, STREAM, Setup, WITHHELD_PORT, addr};

/// Steps of one play: enough for a life and a half of everything, and still a fraction of a millisecond.
const MAX_STEPS: usize = 256;
/// Timers that may be due one after the other when everything ends: one for each thing that is held, and each
/// permission and channel looks at its allocation again.
const MAX_TIMERS: usize = 256;
/// What one step may put out: both sockets of an allocation and their reserve, closed and ordered again.
const MAX_OUTPUTS: usize = 16;

/// Plays with a server as the bytes say.
pub fn server(bytes: &[u8]) {
    play(bytes, |_| {});
}

/// The same with a server that was changed before; tests take a defence away and see that it is missed.
///
/// # Panics
/// If an invariant does not hold.
pub fn play(bytes: &[u8], change: impl FnOnce(&mut StunServer)) {
    let mut input = Input::new(bytes);
    let mut world = World::new(Setup::read(&mut input));
    change(&mut world.server);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.judge_state();
    }
    world.come_to_rest();
}

/// An Allocate with good credentials.
struct Asked {
    client: Client,
    id: [u8; 12],
    grant: Grant,
}

/// What becomes of a datagram.
enum Outcome {
    Silence,
    Answered(Answer),
    Relayed,
}

/// The server, its shell, and everybody else.
struct World {
    server: StunServer,
    setup: Setup,
    now: Instant,
    /// The wall time and when it was told.
    wall: Option<(Instant, u64)>,
    /// Secrets in force.
    secrets: Vec<usize>,
    nonces: [Option<Nonce>; CLIENTS.len()],
    /// Numbers the transactions.
    transactions: u32,
    /// Sockets the shell was told to open and has not opened yet.
    ordered: VecDeque<RelayId>,
    /// Names that are no longer in use.
    closed: Vec<RelayId>,
    tokens: Vec<Vec<u8>>,
    asked: Vec<Asked>,
    /// Targets of dial-backs, and the probes they may still get.
    dialled: BTreeMap<SocketAddr, u32>,
    model: Model,
    budgets: Budgets,
}

impl World {
    fn new(setup: Setup) -> Self {
        let server = StunServer::new(setup.config(), [7; 32]).expect("a good configuration");
        let now = Instant::now();
        let mut world = Self {
            server,
            setup,
            now,
            wall: None,
            secrets: vec![0, 1],
            nonces: Default::default(),
            transactions: 0,
            ordered: VecDeque::new(),
            closed: vec![],
            tokens: vec![],
            asked: vec![],
            dialled: BTreeMap::new(),
            model: Model::default(),
            budgets: Budgets::new(now),
        };
        world.tell_wall(NOW_UNIX_S * 1000);
        world
    }

    fn tell_wall(&mut self, unix_ms: u64) {
        self.wall = Some((self.now, unix_ms));
        self.server.handle(self.now, Event::Wall { unix_ms });
    }

    fn unix_s(&self) -> Option<u64> {
        let (at, unix_ms) = self.wall?;
        Some(unix_ms.saturating_add((self.now - at).as_millis() as u64) / 1000)
    }

    /// What the shell does with the outputs: sockets by itself, the rest is returned.
    fn outputs(&mut self) -> Vec<Output> {
        let outputs: Vec<_> = std::iter::from_fn(|| self.server.poll_output()).collect();
        assert!(outputs.len() <= MAX_OUTPUTS, "{outputs:?}");
        let mut rest = vec![];
        for output in outputs {
            match output {
                Output::OpenRelay { id, bind } => self.order(id, bind),
                Output::CloseRelay { id } => {
                    self.model.close(id);
                    self.ordered.retain(|ordered| *ordered != id);
                    self.closed.push(id);
                }
                // The broker's news: what a client was lent is judged by its answer.
                Output::Allocated { .. } => {}
                output => rest.push(output),
            }
        }
        rest
    }

    fn order(&mut self, id: RelayId, bind: SocketAddr) {
        let seen = match bind {
            SocketAddr::V4(bind) => {
                assert_eq!(*bind.ip(), self.setup.bind_ip4());
                SocketAddr::new(RELAY_IP4.into(), bind.port())
            }
            SocketAddr::V6(bind) => {
                assert_eq!(*bind.ip(), RELAY_IP6);
                bind.into()
            }
        };
        assert!(PORTS.contains(&bind.port()) && bind.port() != WITHHELD_PORT, "{bind}");
        assert!(self.model.sockets.values().all(|socket| socket.seen != seen), "{bind} is in use");
        let is_new = self.model.sockets.insert(id, Socket { seen, is_open: false }).is_none();
        assert!(is_new && !self.closed.contains(&id), "{id:?} is used again");
        assert!(id.index() < 4 * PORTS.len(), "{id:?} is no small number");
        self.ordered.push_back(id);
    }

    /// Sends a client's datagram and judges what becomes of it.
    fn ask(&mut self, client: Client, question: &Question) -> Outcome {
        let (listener, source) = client;
        let bytes = &question.bytes[..];
        if let (Some(grant), Some(id)) = (&question.grant, bytes.get(8..20)) {
            let id = id.try_into().expect("12 bytes");
            self.asked.push(Asked { client, id, grant: grant.clone() });
        }
        let relayed = if self.setup.is_copying {
            self.server.handle(self.now, Event::Datagram { listener, source, payload: bytes });
            None
        } else {
            self.server.datagram(self.now, listener, source, bytes).map(|relay| owned(&relay))
        };
        let mut outputs = self.outputs();
        let is_cargo = cargo(bytes).is_some();
        let relayed = relayed.or_else(|| is_cargo.then(|| copied(&mut outputs)).flatten());
        if let Some(relayed) = relayed {
            assert_eq!(outputs, [], "relaying answers nothing");
            self.judge_relayed(client, bytes, &relayed);
            return Outcome::Relayed;
        }
        self.answered(client, question, outputs)
    }

    fn answered(&mut self, client: Client, question: &Question, outputs: Vec<Output>) -> Outcome {
        let mut outputs = outputs.into_iter();
        let answer = match outputs.next() {
            None => return Outcome::Silence,
            Some(Output::Transmit { listener, to, payload }) => {
                Answer { listener, to, bytes: payload.to_vec() }
            }
            Some(other) => panic!("{other:?}"),
        };
        self.judge_answer(client, &question.bytes, question.grant.as_ref(), &answer);
        match outputs.next() {
            None => {}
            Some(Output::Observed { username, source, listener }) => {
                assert_ne!(client.0, STREAM, "a connection's mapping is observed");
                let grant = question.grant.as_ref().expect("nobody is observed without credentials");
                let name = format!("{}:{}", grant.expires_unix_s, grant.user);
                let seen = SocketAddr::new(client.1.ip().to_canonical(), client.1.port());
                assert_eq!((username, source, listener), (name, seen, client.0));
            }
            Some(other) => panic!("{other:?}"),
        }
        assert_eq!(outputs.next(), None, "one answer");
        Outcome::Answered(answer)
    }

    /// A peer's datagram arrives at a relay socket.
    fn arrive(&mut self, at: RelayId, peer: SocketAddr, data: &[u8]) {
        let relayed = if self.setup.is_copying {
            self.server.handle(self.now, Event::Relayed { at, peer, payload: data });
            copied(&mut self.outputs())
        } else {
            self.server.relayed(self.now, at, peer, data).map(|relay| owned(&relay))
        };
        assert_eq!(self.outputs(), [], "relaying answers nothing");
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let owner = self.model.sockets.get(&at).and_then(|socket| self.model.owner(socket.seen));
        match (relayed, owner) {
            (Some(Relayed::ToClient(answer)), Some(owner)) => {
                assert!(!setup::is_inside(peer), "what is inside does not come from outside");
                self.judge_delivered(owner, peer, data, &answer);
            }
            (None, Some(owner)) => {
                let is_wanted = self.model.permits(self.now, owner, peer) && !setup::is_inside(peer);
                assert!(!is_wanted || !self.setup.is_generous, "{peer} is not let in");
            }
            (None, None) => {}
            other => panic!("{other:?}"),
        }
    }

    /// The network says that something did not arrive.
    fn icmp(&mut self, at: RelayId, peer: SocketAddr, kind: u8, code: u8) {
        self.server.handle(self.now, Event::Icmp { at, peer, kind, code, data: [0, 0, 5, 220] });
        let mut outputs = self.outputs();
        let Some(Relayed::ToClient(answer)) = copied(&mut outputs) else { return };
        assert_eq!(outputs, [], "one indication");
        let owner = self.model.sockets.get(&at).and_then(|socket| self.model.owner(socket.seen));
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.judge_icmp(owner.expect("somebody's socket"), peer, &answer);
    }

    /// What follows from anything but a datagram: at most the answer to an Allocate that waited.
    fn settle(&mut self, may_answer: bool) {
        let mut count = 0;
        for output in self.outputs() {
            match output {
                Output::Transmit { listener, to, payload } if may_answer => {
                    count += 1;
                    self.judge_allocate(&Answer { listener, to, bytes: payload.to_vec() });
                }
                Output::Transmit { listener, to, payload } => self.judge_probe(listener, to, &payload),
                Output::DialBackImpossible { to, .. } => assert!(to.is_ipv6(), "{to}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(count <= 1, "one answer");
    }

    /// A probe leaves the alternate address, for a target that was named, three times at most.
    fn judge_probe(&mut self, from: ListenerId, to: SocketAddr, probe: &[u8]) {
        assert_eq!((from, &probe[..2]), (ListenerId(3), &[0x00, 0x11][..]));
        let left = self.dialled.get_mut(&to).expect("a target that was named");
        *left = left.checked_sub(1).expect("a probe too many");
    }

    fn shell_opened(&mut self, id: RelayId) {
        if let Some(socket) = self.model.sockets.get_mut(&id) {
            socket.is_open = true;
        }
        self.ordered.retain(|ordered| *ordered != id);
        self.server.handle(self.now, Event::RelayOpened { id });
        self.settle(true);
    }

    fn shell_failed(&mut self, id: RelayId) {
        self.server.handle(self.now, Event::RelayFailed { id });
        self.settle(true);
    }

    /// Does what is due, as a shell does.
    fn run_timers(&mut self) {
        let mut count = 0;
        while self.server.poll_timeout().is_some_and(|due| due <= self.now) {
            self.server.handle_timeout(self.now);
            self.settle(false);
            count += 1;
            assert!(count < 8, "what is due stays due");
        }
        assert!(self.model.is_current(self.now), "something outlives its time");
    }

    /// What holds whatever happened.
    fn judge_state(&mut self) {
        let limits = self.setup.limits().relay;
        let [allocations, sockets, reservations, timers] = self.server.relay_sizes();
        assert!(allocations <= limits.allocations as usize, "{allocations} allocations");
        assert_eq!(timers, allocations + reservations);
        assert_eq!(sockets, self.model.sockets.len(), "what is open is what is held");
        assert!(reservations <= sockets && allocations >= self.model.granted.len());
        let (mut users, mut sources) = (BTreeMap::<&str, u32>::new(), BTreeMap::<IpAddr, u32>::new());
        let mut count = 0;
        for session in self.server.sessions(self.now) {
            let granted =
                self.model.granted.get(&(session.listener, session.client)).expect("an unknown session");
            assert_eq!(session.user, granted.user);
            assert!(session.relayed.iter().flatten().eq(&granted.relayed));
            assert_eq!(session.lifetime_left, granted.expires.saturating_duration_since(self.now));
            *users.entry(session.user).or_default() += 1;
            *sources.entry(source_key(session.client)).or_default() += 1;
            count += 1;
        }
        assert_eq!(count, self.model.granted.len());
        assert!(users.values().all(|count| *count <= limits.allocations_per_user), "{users:?}");
        assert!(sources.values().all(|count| *count <= limits.allocations_per_source), "{sources:?}");
    }

    /// With everybody silent all ends.
    fn come_to_rest(&mut self) {
        self.run_timers();
        let mut count = 0;
        while let Some(due) = self.server.poll_timeout() {
            assert!(due > self.now);
            self.now = due;
            self.run_timers();
            count += 1;
            assert!(count <= MAX_TIMERS, "no end");
        }
        assert_eq!((self.server.relay_sizes(), self.model.sockets.len()), ([0; 4], 0));
    }

    fn client(&self, index: usize) -> Client {
        let (listener, source) = CLIENTS[index];
        (ListenerId(listener), addr(source))
    }
}

/// The first output, if it is a relayed datagram.
fn copied(outputs: &mut Vec<Output>) -> Option<Relayed> {
    match outputs.pop()? {
        Output::TransmitRelayed { from, to, payload, .. } => {
            Some(Relayed::ToPeer { from, to, payload: payload.to_vec() })
        }
        Output::Transmit { listener, to, payload } => {
            Some(Relayed::ToClient(Answer { listener, to, bytes: payload.to_vec() }))
        }
        other => panic!("{other:?}"),
    }
}

fn owned(relay: &Relay<'_>) -> Relayed {
    match relay {
        Relay::ToPeer { from, to, payload, .. } => {
            Relayed::ToPeer { from: *from, to: *to, payload: payload.to_vec() }
        }
        Relay::ToClient { listener, to, head, payload, tail } => {
            let bytes = [head, *payload, *tail].concat();
            Relayed::ToClient(Answer { listener: *listener, to: *to, bytes })
        }
        Relay::ToShard { .. } => panic!("there is one shard"),
    }
}
