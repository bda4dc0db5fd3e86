//! A node that introduces its peers: whom it hears, what it passes on, and how often.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_broker::{Defence, Introducer, IntroducerConfig, IntroducerInput, IntroducerOutput};
use meetpoint_proto::meet::{AgreementSecret, GuestMessage, Half, IntroducerMessage, Meeting};
use meetpoint_proto::{Certificate, Code, NodeId, PublicKey, Signature};

const NOW_S: u64 = 1_790_000_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn id(number: u8) -> NodeId {
    NodeId::from(&key(number))
}

fn home() -> SigningKey {
    key(200)
}

fn addr(number: u8) -> SocketAddr {
    SocketAddr::from(([20, 0, 1, number], 4000))
}

fn member(number: u8) -> Certificate {
    Certificate {
        cluster: "default".parse().unwrap(),
        node: id(number),
        name: format!("node-{number}").parse().unwrap(),
        not_before_unix_s: NOW_S - 10,
        not_after_unix_s: NOW_S + 3_600,
        capabilities: Vec::new(),
    }
}

struct Rig {
    start: Instant,
    introducer: Introducer,
    said: Vec<(NodeId, IntroducerMessage)>,
    closed: Vec<NodeId>,
}

impl Rig {
    fn new() -> Self {
        let start = Instant::now();
        let config = IntroducerConfig {
            cluster: "default".parse().unwrap(),
            cluster_key: PublicKey::from(&home()),
            revoked: vec![(id(66), NOW_S + 7_200)],
            now_unix_ms: NOW_S * 1000,
        };
        let introducer = Introducer::new(start, config, [1; 32]);
        Self { start, introducer, said: Vec::new(), closed: Vec::new() }
    }

    fn input(&mut self, at_s: u64, input: IntroducerInput) {
        let now = self.start + Duration::from_secs(at_s);
        self.introducer.handle_timeout(now);
        self.introducer.handle(now, input);
        while let Some(output) = self.introducer.poll_output() {
            match output {
                IntroducerOutput::Send { peer, message } => self.said.push((peer, message)),
                IntroducerOutput::Close { peer } => self.closed.push(peer),
            }
        }
    }

    fn say(&mut self, at_s: u64, number: u8, message: GuestMessage) {
        self.input(at_s, IntroducerInput::Message { peer: id(number), message });
    }

    fn open(&mut self, number: u8) {
        self.input(0, IntroducerInput::Opened { peer: id(number), observed: addr(number) });
    }

    fn hello(&mut self, number: u8, certificate: &Certificate, signer: &SigningKey) {
        let certificate = Box::new(certificate.sign(signer));
        self.say(0, number, GuestMessage::Hello { certificate });
    }

    /// Guests in good standing.
    fn with(guests: &[u8]) -> Self {
        let mut rig = Self::new();
        for &number in guests {
            rig.open(number);
            rig.hello(number, &member(number), &home());
        }
        rig
    }

    fn connect(&mut self, at_s: u64, number: u8, request: u32, peer: &str) {
        self.say(at_s, number, GuestMessage::Connect { request, peer: peer.to_owned() });
    }

    fn meeting(&self, number: u8) -> Option<Meeting> {
        let mut said = self.said.iter().rev();
        said.find_map(|(peer, message)| match message {
            IntroducerMessage::Meeting(meeting) if *peer == id(number) => Some((**meeting).clone()),
            _ => None,
        })
    }

    fn halves(&self, number: u8) -> usize {
        let is_half = |(peer, message): &&(NodeId, IntroducerMessage)| {
            *peer == id(number) && matches!(message, IntroducerMessage::Half(_))
        };
        self.said.iter().filter(is_half).count()
    }
}

fn half(from: u8, to: u8, meeting: &Meeting, candidates: Vec<SocketAddr>) -> GuestMessage {
    let half = Half {
        ticket: meeting.ticket,
        introducer: id(100),
        from: id(from),
        to: id(to),
        asks: true,
        key: AgreementSecret::from_random([from; 32]).key(),
        candidates,
        not_after_unix_ms: NOW_S * 1000 + 10_000,
        signature: Signature::from_bytes([0; 64]),
    };
    GuestMessage::Half(Box::new(half.signed(&"default".parse().unwrap(), &key(from))))
}

#[test]
fn two_guests_are_told_of_each_other_and_not_where() {
    for wanted in ["node-2".to_owned(), id(2).to_string()] {
        let mut rig = Rig::with(&[1, 2]);
        rig.connect(0, 1, 7, &wanted);
        let (first, second) = (rig.meeting(1).unwrap(), rig.meeting(2).unwrap());
        assert_eq!((first.requests.as_slice(), second.requests.len()), ([7].as_slice(), 0));
        assert_eq!((first.ticket, first.certificate.node_id), (second.ticket, id(2)));
        assert_eq!((first.observed, second.observed, first.near), (addr(1), addr(2), false));
        rig.say(0, 1, half(1, 2, &first, vec![addr(1)]));
        rig.say(0, 2, half(2, 1, &second, vec![addr(2)]));
        assert_eq!((rig.halves(1), rig.halves(2)), (1, 1));
        rig.say(0, 1, half(1, 2, &first, vec![addr(1)]));
        assert_eq!((rig.halves(2), rig.introducer.counters().halves_refused), (1, 1), "once for each end");
    }
}

#[test]
fn whoever_is_not_there_is_waited_for() {
    let mut rig = Rig::with(&[1]);
    rig.connect(0, 1, 7, "node-2");
    rig.connect(0, 1, 8, "node-3");
    rig.say(0, 1, GuestMessage::Cancel { request: 8 });
    for number in [2, 3] {
        rig.open(number);
        rig.hello(number, &member(number), &home());
    }
    assert_eq!(rig.meeting(1).map(|meeting| meeting.requests), Some(vec![7]));
    assert!(rig.meeting(2).is_some() && rig.meeting(3).is_none());
}

/// Who is not a member is closed and counted. Each would be heard if certificates were not looked at.
#[test]
fn strangers_table() {
    type Spoil = fn(&mut Certificate) -> SigningKey;
    let cases: [(&str, u8, Spoil); 6] = [
        ("of another cluster's key", 1, |_| key(201)),
        ("of another cluster", 1, |certificate| {
            certificate.cluster = "other".parse().unwrap();
            home()
        }),
        ("over", 1, |certificate| {
            (certificate.not_before_unix_s, certificate.not_after_unix_s) = (NOW_S - 20, NOW_S - 10);
            home()
        }),
        ("not begun", 1, |certificate| {
            certificate.not_before_unix_s = NOW_S + 1_000;
            home()
        }),
        ("somebody else's", 1, |certificate| {
            certificate.node = id(5);
            home()
        }),
        ("of a removed member", 66, |_| home()),
    ];
    for (what, number, spoil) in cases {
        for is_off in [true, false] {
            let mut rig = Rig::with(&[2]);
            if is_off {
                rig.introducer.set_defence_off(Defence::GuestCertificate);
            }
            let mut certificate = member(number);
            let signer = spoil(&mut certificate);
            rig.open(number);
            rig.hello(number, &certificate, &signer);
            rig.connect(0, number, 7, "node-2");
            assert_eq!(rig.meeting(number).is_some(), is_off, "{what}");
            assert_eq!(rig.closed.contains(&id(number)), !is_off, "{what}");
            assert_eq!(rig.introducer.counters().guests_refused, u64::from(!is_off), "{what}");
        }
    }
    let mut silent = Rig::with(&[2]);
    silent.open(1);
    silent.connect(0, 1, 7, "node-2");
    assert!(silent.meeting(2).is_none(), "without a certificate nobody is heard");
}

/// A guest asks to be met somewhere else than it is.
#[test]
fn addresses_table() {
    let victim: SocketAddr = "20.0.99.99:443".parse().unwrap();
    let own_other_port = SocketAddr::new(addr(1).ip(), 9);
    let cases = [
        (vec![addr(1)], true),
        (vec![addr(1), own_other_port], true),
        (vec![victim], false),
        (vec![addr(1), victim], false),
        (vec!["10.0.0.1:4000".parse().unwrap()], false),
        (vec!["[::ffff:20.0.99.99]:443".parse().unwrap()], false),
        (vec![SocketAddr::new(addr(1).ip(), 0)], false),
    ];
    for (candidates, expect) in cases {
        for is_off in [true, false] {
            let mut rig = Rig::with(&[1, 2]);
            if is_off {
                rig.introducer.set_defence_off(Defence::OwnAddresses);
            }
            rig.connect(0, 1, 7, "node-2");
            let meeting = rig.meeting(1).unwrap();
            rig.say(0, 1, half(1, 2, &meeting, candidates.clone()));
            assert_eq!(rig.halves(2) == 1, expect || is_off, "{candidates:?}");
            let refused = rig.introducer.counters().halves_refused;
            assert_eq!(refused, u64::from(!(expect || is_off)), "{candidates:?}");
        }
    }
    let mut rig = Rig::with(&[1, 2]);
    rig.connect(0, 1, 7, "node-2");
    let meeting = rig.meeting(1).unwrap();
    rig.say(0, 1, half(1, 2, &meeting, vec![addr(1); 9]));
    assert_eq!(rig.halves(2), 0, "too many");
}

#[test]
fn halves_belong_to_the_ends_of_their_ticket() {
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.connect(0, 1, 7, "node-2");
    let meeting = rig.meeting(1).unwrap();
    // Of a third, towards a third, in another's name, and to itself.
    for (sender, from, to) in [(3, 3, 2), (1, 1, 3), (3, 1, 2), (1, 1, 1)] {
        rig.say(0, sender, half(from, to, &meeting, vec![addr(from)]));
    }
    assert_eq!((rig.halves(2), rig.halves(3), rig.introducer.counters().halves_refused), (0, 0, 4));
    rig.say(11, 1, half(1, 2, &meeting, vec![addr(1)]));
    assert_eq!((rig.halves(2), rig.introducer.counters().halves_refused), (0, 5), "the ticket is over");
}

#[test]
fn a_guest_asks_only_so_often() {
    let mut rig = Rig::with(&[1, 2]);
    for request in 0..16 {
        rig.connect(0, 1, request, "node-9");
    }
    assert_eq!(rig.said, []);
    rig.connect(0, 1, 16, "node-9");
    let refused = rig.said.iter().any(|(peer, message)| match message {
        IntroducerMessage::Refused { request, refusal } => {
            (*peer, *request, refusal.code) == (id(1), 16, Code::TooManyIntroductions)
        }
        _ => false,
    });
    assert!(refused && rig.introducer.counters().limited == 1, "{:?}", rig.said);
    // A new connection is no new budget.
    rig.input(1, IntroducerInput::Closed { peer: id(1) });
    rig.open(1);
    rig.hello(1, &member(1), &home());
    rig.connect(1, 1, 17, "node-2");
    assert!(rig.meeting(2).is_none());
    rig.connect(61, 1, 18, "node-2");
    assert!(rig.meeting(2).is_some(), "in the next minute it may");
    for request in 0..100 {
        rig.say(61, 1, GuestMessage::Cancel { request });
    }
    assert_eq!(rig.closed, [id(1)], "whoever is loud is closed");
}

#[test]
fn guests_are_bounded() {
    let mut rig = Rig::new();
    for number in 0..300_u16 {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        let peer = NodeId::from_bytes(bytes);
        rig.input(0, IntroducerInput::Opened { peer, observed: addr(1) });
    }
    assert_eq!((rig.closed.len(), rig.introducer.counters().limited), (44, 44));
    assert!(!rig.introducer.is_idle());
}
