//! Frames of a relay that somebody has recorded, and sends again: to a node, and to the server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Counters, Defence, Input, PathKind};
use meetpoint_proto::{Filtering, Mapping};
use meetpoint_stun::{CHANNEL_HEADER_LEN, read_channel_data};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

const SYMMETRIC: GateKind =
    GateKind::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Random);
/// Where the server relays.
const SERVER: &str = "20.0.0.1:3478";
/// Somewhere else on the internet.
const MALLORY: &str = "20.0.77.7:3478";
/// The first byte of a Binding request, and of the success response to one, is zero and one (RFC 8489, section 5).
const REQUEST: u8 = 0;
const SUCCESS: u8 = 1;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Two nodes that the relay carries, with a wire tap on the line for a minute.
struct Tapped {
    world: World,
    recorded: Vec<(Option<usize>, SocketAddr, Vec<u8>)>,
}

impl Tapped {
    fn new(off: Option<Defence>) -> Self {
        let weather = Weather {
            one_way: [Duration::from_millis(10); 2],
            jitter: Duration::ZERO,
            loss_permille: 0,
            json: false,
        };
        let mut world = World::with_relay(5, ServerPlace::Internet, weather);
        for site in 0..2_u8 {
            world.add_site(Some(SYMMETRIC));
            let key = SigningKey::from_bytes(&[site + 1; 32]);
            world.add_node(usize::from(site), IpAddr::from([10, 0, 1 + site, 2]), 24, key);
            if let Some(off) = off {
                world.nodes[usize::from(site)].agent.set_defence_off(off);
            }
        }
        run(&mut world, 10);
        let peer = world.nodes[1].name.clone();
        world.input(0, Input::Connect { request: 1, peer, wait: true });
        run(&mut world, 20);
        let kinds = world.nodes.iter().map(|node| node.paths.values().next().map(|path| path.kind));
        assert_eq!(kinds.collect::<Vec<_>>(), [Some(PathKind::Relayed); 2]);
        world.tap = Some(Vec::new());
        run(&mut world, 30);
        let recorded = world.tap.take().expect("a tap");
        Self { world, recorded }
    }

    /// The last Binding message of this class that the relay has passed on: to whom, from where, and the datagram. It
    /// is ChannelData for the one whose allocation it came by, and comes from an allocation's address for the other.
    fn passed_on(&self, class: u8) -> (usize, SocketAddr, Vec<u8>) {
        let is_wanted = |source: SocketAddr, frame: &[u8]| {
            let data = read_channel_data(frame).map(|(_, data)| data);
            let data = if source == addr(SERVER) { data } else { Some(frame) };
            source.ip() == addr(SERVER).ip() && data.and_then(<[u8]>::first) == Some(&class)
        };
        let mut newest = self.recorded.iter().rev();
        let found = newest.find_map(|(to, source, frame)| {
            Some(((*to)?, *source, frame.clone())).filter(|(_, source, frame)| is_wanted(*source, frame))
        });
        found.expect("such a frame")
    }

    /// Gives a node what was recorded, and tells what became of it: its counters before and after, and what it has
    /// sent.
    fn replay(&mut self, to: usize, source: SocketAddr, frame: &[u8]) -> (Counters, Counters, u64) {
        // Consent goes on as it does: nothing of it falls into this moment.
        let (node, sent) = (&self.world.nodes[to], self.world.nodes[to].sent[0]);
        let before = *node.agent.counters();
        self.world.inject(Some(to), source, frame);
        let node = &self.world.nodes[to];
        (before, *node.agent.counters(), node.sent[0] - sent)
    }
}

fn run(world: &mut World, seconds: u64) {
    let end = world.now() + Duration::from_secs(seconds);
    world.run_until(end, |_| false);
}

/// Plays an attack with its defence off, when it must work, and on, when it must not.
fn check(defence: Defence, attack: fn(&mut Tapped) -> bool) {
    assert!(attack(&mut Tapped::new(Some(defence))), "{defence:?}: the attack is none");
    assert!(!attack(&mut Tapped::new(None)), "{defence:?} does not hold");
}

/// A peer's check, in the frame in which the server had passed it on: whoever repeats it would have the node speak.
#[test]
fn a_replayed_check_is_not_answered() {
    check(Defence::NewCheck, |tapped| {
        let (to, source, frame) = tapped.passed_on(REQUEST);
        let (before, after, sent) = tapped.replay(to, source, &frame);
        let answered = after.checks_answered > before.checks_answered;
        assert_eq!((sent > 0, after.checks_repeated > before.checks_repeated), (answered, !answered));
        answered
    });
}

/// The answer to a check of the node: whoever repeats it would make a dead path look alive.
#[test]
fn a_replayed_answer_confirms_nothing() {
    check(Defence::NewAnswer, |tapped| {
        let (to, source, frame) = tapped.passed_on(SUCCESS);
        let (before, after, _) = tapped.replay(to, source, &frame);
        after.unsolicited == before.unsolicited
    });
}

/// The same frame under another source is not the relay's at all.
#[test]
fn a_frame_from_elsewhere_is_not_the_relays() {
    check(Defence::RelaySource, |tapped| {
        let (to, source, frame) = tapped.passed_on(REQUEST);
        assert_eq!(source, addr(SERVER), "it is ChannelData");
        let (before, after, _) = tapped.replay(to, addr(MALLORY), &frame);
        after.checks_repeated > before.checks_repeated
    });
}

/// A node's own frame: under another source it is nobody's, and from where it came the peer has had it already. It is
/// the answer to a check, since of two idle nodes only one checks.
#[test]
fn a_replayed_frame_to_the_server_reaches_nobody() {
    let mut tapped = Tapped::new(None);
    let who_had = |answer: &[u8]| {
        let had = |(to, _, frame): &(Option<usize>, SocketAddr, Vec<u8>)| to.filter(|_| frame == answer);
        tapped.recorded.iter().find_map(had)
    };
    let own_frame = |(to, source, frame): &(Option<usize>, SocketAddr, Vec<u8>)| {
        let is_answer = to.is_none() && frame.get(CHANNEL_HEADER_LEN) == Some(&SUCCESS);
        let (_, answer) = read_channel_data(frame).filter(|_| is_answer)?;
        Some((who_had(answer)?, *source, frame.clone()))
    };
    let (peer, source, frame) =
        tapped.recorded.iter().rev().find_map(own_frame).expect("an answer by a channel");
    let refused = tapped.world.without_allocation();
    let unsolicited = |tapped: &Tapped| tapped.world.nodes[peer].agent.counters().unsolicited;
    let before = unsolicited(&tapped);
    tapped.world.inject(None, addr(MALLORY), &frame);
    let moment = tapped.world.now() + Duration::from_millis(100);
    tapped.world.run_until(moment, |_| false);
    assert_eq!(tapped.world.without_allocation(), refused + 1);
    assert_eq!(unsolicited(&tapped), before);

    tapped.world.inject(None, source, &frame);
    let moment = tapped.world.now() + Duration::from_millis(100);
    tapped.world.run_until(moment, |_| false);
    assert_eq!(unsolicited(&tapped), before + 1, "it was passed on, and told as what it is");
    assert_eq!(tapped.world.without_allocation(), refused + 1);
}
