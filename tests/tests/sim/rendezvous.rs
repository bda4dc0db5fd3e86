//! The server is dead, and a node that anybody can reach introduces its peers: in virtual time, honest and not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Defence, Input, PathKind};
use meetpoint_proto::meet::{AgreementSecret, GuestMessage, Half, IntroducerMessage, Meeting};
use meetpoint_proto::wire::CertificateText;
use meetpoint_proto::{Certificate, NetworkClass, NodeId, Signature, TicketId};
use meetpoint_tests::sim::dice::Dice;
use meetpoint_tests::sim::nats::Nat;
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

/// How many seeds are played; a longer run is one variable away.
const CASES_VARIABLE: &str = "MEETPOINT_SIM_CASES";
const DEFAULT_CASES: u64 = 200;
/// Whose mapping is the same towards everybody, so that every pair of them can meet.
const NATS: [Nat; 6] = [
    Nat::FullCone,
    Nat::AddressRestricted,
    Nat::PortRestricted,
    Nat::Remap,
    Nat::EarlyInbound,
    Nat::DoubleNat,
];
const SETTLED: Duration = Duration::from_secs(20);
const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
/// Nobody's here, and certainly not a node's.
const VICTIM: &str = "20.0.99.99:443";

fn weather(one_way_ms: [u64; 2]) -> Weather {
    let one_way = one_way_ms.map(Duration::from_millis);
    Weather { one_way, jitter: Duration::ZERO, loss_permille: 0, json: true }
}

/// Alice and Bob behind their NATs, connected to Carol in the open; the server has just been killed.
fn bereft(seed: u64, nats: [Nat; 2], weather: Weather) -> World {
    let mut world = World::new(seed, ServerPlace::Internet, weather);
    for (at, nat) in nats.into_iter().chain([Nat::Open]).enumerate() {
        let (site, number) = (world.add_site_behind(&nat.gates()), at as u8);
        let ip = if nat == Nat::Open { [20, 0, 10 + number, 7] } else { [10, 0, 1 + number, 2] };
        world.add_node(site, IpAddr::from(ip), 24, SigningKey::from_bytes(&[number + 1; 32]));
    }
    let is_warm =
        |world: &World| world.nodes.iter().all(|node| node.class.is_some() && node.behavior.is_some());
    assert!(world.run_until(SETTLED, is_warm), "the nodes join");
    let class = world.nodes[CAROL].class.map(|(class, _)| class);
    assert!(class.is_some_and(NetworkClass::is_public_and_reachable), "{class:?}");
    for guest in [ALICE, BOB] {
        let peer = world.nodes[CAROL].id.to_string();
        world.input(guest, Input::Connect { request: 1, peer, wait: true });
    }
    let carol = world.nodes[CAROL].id;
    let end = world.now() + SETTLED;
    let are_connected =
        |world: &World| [ALICE, BOB].iter().all(|at| world.nodes[*at].paths.contains_key(&carol));
    assert!(world.run_until(end, are_connected), "both reach the open node");
    world.kill_server();
    world
}

fn run(world: &mut World, seconds: u64) {
    let end = world.now() + Duration::from_secs(seconds);
    world.run_until(end, |_| false);
}

fn have_path(world: &World) -> bool {
    let [alice, bob] = [ALICE, BOB].map(|at| world.nodes[at].id);
    world.nodes[ALICE].paths.contains_key(&bob) && world.nodes[BOB].paths.contains_key(&alice)
}

/// One seed: two NATs, some weather, and one of the two asks by name or id, before or after it has an introducer.
fn play(seed: u64) -> Result<Duration, String> {
    let mut dice = Dice::new(seed ^ 0x5EED);
    let nats = [dice.pick(&NATS), dice.pick(&NATS)];
    let ways = [1 + dice.below(100), 1 + dice.below(100)];
    let mut world = bereft(seed, nats, weather(ways));
    if dice.chance(500) {
        run(&mut world, 5);
        assert_eq!(world.guests_of(CAROL), [ALICE, BOB], "seed {seed}: both are guests");
    }
    let asker = dice.pick(&[ALICE, BOB]);
    let peer = &world.nodes[1 - asker];
    let peer = if dice.chance(500) { peer.id.to_string() } else { peer.name.clone() };
    let asked = world.now();
    world.input(asker, Input::Connect { request: 2, peer, wait: dice.chance(500) });
    let have_met = world.run_until(asked + Duration::from_secs(20), have_path);
    let (took, ended) = (world.now() - asked, world.nodes[asker].ended.get(&2).cloned());
    let kind = world.nodes[asker].paths.get(&world.nodes[1 - asker].id).map(|path| path.kind);
    if !have_met || kind != Some(PathKind::Direct) || !matches!(ended, Some(Ok(_))) {
        return Err(format!("seed {seed}: {nats:?} {ways:?}: {kind:?} {ended:?} after {took:?}"));
    }
    if !world.violations.is_empty() {
        return Err(format!("seed {seed}: {nats:?}: {:?}", world.violations));
    }
    Ok(took)
}

#[test]
fn pairs_meet_while_the_server_is_dead() {
    let cases = std::env::var(CASES_VARIABLE).map_or(DEFAULT_CASES, |n| n.parse().expect("a number"));
    let outcomes: Vec<_> = (0..cases).map(play).collect();
    let faults: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(faults.is_empty(), "{} of {cases}: {faults:#?}", faults.len());
    let mut times: Vec<Duration> = outcomes.into_iter().flatten().collect();
    times.sort();
    println!(
        "{cases} cases, all direct; median {:?}, longest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

/// With guests at their introducer, and all round trips R: two R until both ends have both halves, two more to punch.
#[test]
fn warm_guests_meet_within_five_round_trips() {
    let mut world = bereft(1, [Nat::PortRestricted; 2], weather([25, 25]));
    run(&mut world, 5);
    let (asked, peer) = (world.now(), world.nodes[BOB].name.clone());
    world.input(ALICE, Input::Connect { request: 2, peer, wait: false });
    assert!(world.run_until(asked + SETTLED, have_path));
    let took = world.now() - asked;
    println!("R = 100 ms: {took:?}");
    assert!(took <= Duration::from_millis(500), "{took:?}");
}

/// When the server is back, its word counts again, and guests are guests no more.
#[test]
fn a_server_that_comes_back_takes_over() {
    let mut world = bereft(2, [Nat::PortRestricted, Nat::Remap], weather([10, 20]));
    run(&mut world, 5);
    assert_eq!(world.guests_of(CAROL), [ALICE, BOB]);
    world.revive_server();
    run(&mut world, 90);
    assert_eq!(world.guests_of(CAROL), [0; 0]);
    let before = world.nodes[ALICE].agent.counters().meetings;
    let peer = world.nodes[BOB].name.clone();
    world.input(ALICE, Input::Connect { request: 2, peer, wait: false });
    let end = world.now() + SETTLED;
    assert!(world.run_until(end, have_path));
    assert_eq!(world.nodes[ALICE].agent.counters().meetings, before, "the server has introduced them");
    assert_eq!(world.violations, [""; 0]);
}

/// A node that was not proven to be reachable introduces nobody: its peers are refused, and ask others.
#[test]
fn whoever_is_not_proven_introduces_nobody() {
    let world = bereft(3, [Nat::PortRestricted, Nat::FullCone], weather([10, 10]));
    let now = std::time::Instant::now();
    let serves = world.nodes.iter().map(|node| node.agent.serving(now).is_some());
    assert_eq!(serves.collect::<Vec<bool>>(), [false, true, true], "port-restricted, full cone, open");
}

/// In an effectively PRIVATE cluster nobody looks for one, whatever its peers are.
#[test]
fn private_nodes_ask_nobody() {
    let mut world = World::new(4, ServerPlace::Inside([10, 0, 0, 1].into()), weather([1, 1]));
    world.add_site(None);
    for number in 0..3_u8 {
        world.add_node(0, [10, 0, 0, 2 + number].into(), 24, SigningKey::from_bytes(&[number + 1; 32]));
    }
    assert!(world.run_until(SETTLED, |world| world.nodes.iter().all(|node| node.class.is_some())));
    for guest in [ALICE, BOB] {
        let peer = world.nodes[CAROL].id.to_string();
        world.input(guest, Input::Connect { request: 1, peer, wait: true });
    }
    let end = world.now() + SETTLED;
    assert!(world.run_until(end, |world| world.nodes[..2].iter().all(|node| !node.paths.is_empty())));
    world.kill_server();
    let peer = world.nodes[BOB].id.to_string();
    world.input(ALICE, Input::Connect { request: 2, peer, wait: true });
    run(&mut world, 60);
    assert_eq!((world.meets.looked, have_path(&world)), (0, false));
    assert!(world.nodes.iter().all(|node| node.agent.serving(std::time::Instant::now()).is_none()));
}

/// A world whose Carol says what the test says. Both are her guests, and one has asked for the other.
struct Liar {
    world: World,
    taken: usize,
}

impl Liar {
    fn new(off: Option<Defence>, asks: bool) -> Self {
        let mut world = bereft(7, [Nat::PortRestricted, Nat::PortRestricted], weather([10, 10]));
        world.meets.liar = Some(CAROL);
        for node in [ALICE, BOB] {
            if let Some(off) = off {
                world.nodes[node].agent.set_defence_off(off);
            }
        }
        run(&mut world, 5);
        if asks {
            let peer = world.nodes[BOB].name.clone();
            world.input(ALICE, Input::Connect { request: 2, peer, wait: true });
        }
        run(&mut world, 1);
        let mut liar = Self { world, taken: 0 };
        liar.heard();
        liar
    }

    /// What guests have said since it was last asked.
    fn heard(&mut self) -> Vec<(usize, GuestMessage)> {
        let new = self.world.meets.heard[self.taken..].to_vec();
        self.taken = self.world.meets.heard.len();
        new
    }

    fn certificate(&self, node: usize) -> CertificateText {
        let heard = &self.world.meets.heard;
        let hello = heard.iter().find_map(|(guest, message)| match message {
            GuestMessage::Hello { certificate } if *guest == node => Some((**certificate).clone()),
            _ => None,
        });
        hello.expect("guests say who they are")
    }

    /// The number of the request that a guest has open.
    fn request(&self, node: usize) -> Vec<u32> {
        let heard = self.world.meets.heard.iter();
        let connects = heard.filter_map(|(guest, message)| match message {
            GuestMessage::Connect { request, .. } if *guest == node => Some(*request),
            _ => None,
        });
        connects.collect()
    }

    fn meeting(&self, guest: usize, peer: CertificateText, ticket: u8) -> Meeting {
        Meeting {
            requests: self.request(guest),
            ticket: TicketId::from_bytes([ticket; 16]),
            certificate: peer,
            observed: self.world.seen(CAROL, guest).expect("a path"),
            near: false,
        }
    }

    /// Proposes a ticket to one guest, and gives the half that it signs.
    fn propose(&mut self, guest: usize, meeting: Meeting) -> Option<Half> {
        self.world.lie(guest, IntroducerMessage::Meeting(Box::new(meeting)));
        run(&mut self.world, 1);
        let mut halves = self.heard().into_iter().filter_map(|(from, message)| match message {
            GuestMessage::Half(half) if from == guest => Some(*half),
            _ => None,
        });
        halves.next_back()
    }

    fn propose_each_other(&mut self, ticket: u8) -> [Option<Half>; 2] {
        [(ALICE, BOB), (BOB, ALICE)].map(|(guest, peer)| {
            let meeting = self.meeting(guest, self.certificate(peer), ticket);
            self.propose(guest, meeting)
        })
    }

    fn pass(&mut self, guest: usize, half: Half) {
        self.world.lie(guest, IntroducerMessage::Half(Box::new(half)));
        run(&mut self.world, 2);
    }

    /// Bob has sent where nobody has asked him to.
    fn has_hit_somebody(&self) -> bool {
        self.world.violations.iter().any(|violation| violation.contains(VICTIM))
    }

    fn halves_refused(&self, node: usize) -> u64 {
        self.world.nodes[node].agent.counters().halves_refused
    }

    fn meetings(&self, node: usize) -> u64 {
        self.world.nodes[node].agent.counters().meetings
    }
}

fn victim() -> SocketAddr {
    VICTIM.parse().expect("an address")
}

/// Plays an attack with its defence off, when it must work, and on, when it must not.
fn check(defence: Defence, attack: fn(&mut Liar) -> bool, asks: bool) {
    assert!(attack(&mut Liar::new(Some(defence), asks)), "{defence:?}: the attack is none");
    assert!(!attack(&mut Liar::new(None, asks)), "{defence:?} does not hold");
}

/// Carol writes Alice's half herself.
#[test]
fn a_forged_half_is_refused() {
    check(
        Defence::SignedHalf,
        |liar| {
            let meeting = liar.meeting(BOB, liar.certificate(ALICE), 1);
            let given = liar.propose(BOB, meeting).expect("a half");
            let forged = Half {
                from: given.to,
                to: given.from,
                asks: true,
                key: AgreementSecret::from_random([9; 32]).key(),
                candidates: vec![victim()],
                ..given
            };
            liar.pass(
                BOB,
                forged.signed(&"default".parse().expect("a name"), &SigningKey::from_bytes(&[3; 32])),
            );
            assert_eq!(liar.halves_refused(BOB), u64::from(!liar.has_hit_somebody()));
            liar.has_hit_somebody()
        },
        false,
    );
}

/// Alice has signed, and Carol puts another address in.
#[test]
fn a_changed_address_is_refused() {
    check(
        Defence::SignedHalf,
        |liar| {
            let [of_alice, of_bob] = liar.propose_each_other(1);
            assert!(of_bob.is_some());
            liar.pass(BOB, Half { candidates: vec![victim()], ..of_alice.expect("a half") });
            assert_eq!(liar.halves_refused(BOB), u64::from(!liar.has_hit_somebody()));
            liar.has_hit_somebody()
        },
        true,
    );
}

/// Carol has seen Alice's half once, and shows it to Bob again: under the same ticket, after its time.
#[test]
fn an_old_half_is_refused() {
    check(
        Defence::FreshHalf,
        |liar| {
            let [of_alice, _] = liar.propose_each_other(1);
            let of_alice = of_alice.expect("a half");
            liar.pass(BOB, of_alice.clone());
            assert_eq!(liar.meetings(BOB), 1, "the first time it is good");
            run(&mut liar.world, 20);
            let refused = liar.world.nodes[BOB].agent.counters().meetings_refused;
            let meeting = liar.meeting(BOB, liar.certificate(ALICE), 1);
            let given = liar.propose(BOB, meeting);
            liar.pass(BOB, of_alice);
            let again = liar.meetings(BOB) == 2;
            let counted = liar.world.nodes[BOB].agent.counters().meetings_refused - refused;
            assert_eq!((given.is_none(), counted), (!again, u64::from(!again)));
            again
        },
        true,
    );
}

/// The same within another ticket, which Bob has just agreed to.
#[test]
fn a_half_of_another_ticket_is_refused() {
    let mut liar = Liar::new(None, true);
    let [of_alice, _] = liar.propose_each_other(1);
    let meeting = liar.meeting(BOB, liar.certificate(ALICE), 2);
    liar.propose(BOB, meeting).expect("a half");
    let old = of_alice.expect("a half");
    liar.pass(BOB, Half { ticket: TicketId::from_bytes([2; 16]), ..old.clone() });
    assert_eq!((liar.halves_refused(BOB), liar.meetings(BOB)), (1, 0));
    // And a half that has outlived its time, of a ticket that is still open.
    let late = Half { not_after_unix_ms: old.not_after_unix_ms - 60_000, ..old };
    let alice = SigningKey::from_bytes(&[1; 32]);
    liar.pass(BOB, late.signed(&"default".parse().expect("a name"), &alice));
    assert_eq!((liar.halves_refused(BOB), liar.meetings(BOB)), (2, 0));
}

/// Nobody has asked for anybody, and Carol passes on what both sign.
#[test]
fn an_introduction_that_nobody_asked_for_is_refused() {
    check(
        Defence::Asked,
        |liar| {
            let [of_alice, of_bob] = liar.propose_each_other(1);
            liar.pass(BOB, of_alice.expect("a half"));
            liar.pass(ALICE, of_bob.expect("a half"));
            assert_eq!(liar.halves_refused(BOB), u64::from(liar.meetings(BOB) == 0));
            liar.meetings(BOB) == 1
        },
        false,
    );
}

/// Carol tells Alice that she sees her at the victim's address.
#[test]
fn an_address_that_the_server_never_saw_is_not_signed() {
    check(
        Defence::KnownAddress,
        |liar| {
            let observed = victim();
            let meeting = Meeting { observed, ..liar.meeting(ALICE, liar.certificate(BOB), 1) };
            let of_alice = liar.propose(ALICE, meeting);
            assert_eq!(of_alice.is_none(), liar.world.nodes[ALICE].agent.counters().meetings_refused == 1);
            let Some(half) = of_alice else { return false };
            half.candidates.contains(&observed)
        },
        true,
    );
}

/// Carol has Bob sign one half after the other.
#[test]
fn one_peer_is_met_only_so_often() {
    check(
        Defence::MeetingBudget,
        |liar| {
            let halves = (1..=20).filter(|number| {
                let meeting = liar.meeting(BOB, liar.certificate(ALICE), *number);
                liar.propose(BOB, meeting).is_some()
            });
            halves.count() > 8
        },
        false,
    );
}

/// Carol introduces somebody whose certificate is of another cluster, or over.
#[test]
fn nobody_signs_for_a_stranger() {
    let foreign: fn(&mut Certificate) -> SigningKey = |_| SigningKey::from_bytes(&[77; 32]);
    let expired: fn(&mut Certificate) -> SigningKey = |certificate| {
        (certificate.not_before_unix_s, certificate.not_after_unix_s) = (1, 2);
        SigningKey::from_bytes(&[9; 32])
    };
    let elsewhere: fn(&mut Certificate) -> SigningKey = |certificate| {
        certificate.cluster = "other".parse().expect("a name");
        SigningKey::from_bytes(&[9; 32])
    };
    for (what, spoil) in [("foreign", foreign), ("expired", expired), ("elsewhere", elsewhere)] {
        for off in [Some(Defence::PeerCertificate), None] {
            let mut liar = Liar::new(off, false);
            let mut certificate = Certificate {
                cluster: "default".parse().expect("a name"),
                node: NodeId::from(&SigningKey::from_bytes(&[50; 32])),
                name: "mallory".parse().expect("a name"),
                not_before_unix_s: 1_790_000_000,
                not_after_unix_s: 1_790_100_000,
                capabilities: Vec::new(),
            };
            let key = spoil(&mut certificate);
            let meeting = liar.meeting(BOB, certificate.sign(&key), 1);
            let given = liar.propose(BOB, meeting);
            let refused = liar.world.nodes[BOB].agent.counters().meetings_refused;
            assert_eq!((given.is_some(), refused == 0), (off.is_some(), off.is_some()), "{what} {off:?}");
        }
    }
}

/// Only with nobody's signature is a half refused whatever else is right with it.
#[test]
fn an_empty_signature_is_none() {
    let mut liar = Liar::new(None, true);
    let [of_alice, _] = liar.propose_each_other(1);
    let half = of_alice.expect("a half");
    liar.pass(BOB, Half { signature: Signature::from_bytes([0; 64]), ..half });
    assert_eq!((liar.halves_refused(BOB), liar.meetings(BOB)), (1, 0));
}
