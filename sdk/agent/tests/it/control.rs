//! Join, stay, come back, leave: the test plays the server.

use std::net::IpAddr;
use std::time::Duration;

use crate::rig::{IDLE, MS, Rig, UNIX_S, addr, config};
use ed25519_dalek::SigningKey;
use meetpoint_agent::{Ended, Event, Input, Output, Socket};
use meetpoint_proto::join::Domain;
use meetpoint_proto::wire::{ClientMessage, Refusal, ServerMessage, Welcome};
use meetpoint_proto::{
    Certificate, ClusterNetwork, Code, EffectiveNetwork, JoinToken, NatBehavior, NodeId, PublicKey,
};

fn ended(log: &[Output]) -> Option<Ended> {
    log.iter().find_map(|output| match output {
        Output::Ended(ended) => Some(ended.clone()),
        _ => None,
    })
}

fn disconnected(log: &[Output]) -> Option<(Option<Code>, Duration)> {
    log.iter().find_map(|output| match output {
        Output::Event(Event::Disconnected { refusal, retry_in }) => {
            Some((refusal.as_ref().map(|refusal| refusal.code), *retry_in))
        }
        _ => None,
    })
}

fn count(log: &[Output], fits: impl Fn(&Output) -> bool) -> usize {
    log.iter().filter(|output| fits(output)).count()
}

#[test]
fn joining_proves_both_rights() {
    let mut rig = Rig::new(1);
    assert!(matches!(rig.take()[..], [Output::OpenControl { .. }]));
    let hello = rig.open();
    assert_eq!((hello.node_id, hello.local_ip), (rig.id(), rig.local.ip()));
    let proof = rig.challenge().expect("a proof");
    let token: JoinToken = "correct-horse-battery".parse().unwrap();
    let transcript = rig.transcript();
    assert!(transcript.verify(Domain::Node, &PublicKey::from(rig.id()), &proof.node));
    assert!(transcript.verify(Domain::Admission, &token.public_key(), &proof.admission.unwrap()));
    rig.take();
    let welcome = rig.welcome();
    rig.tell(ServerMessage::Welcome(Box::new(welcome)));
    let log = rig.take();
    let joined = |output: &Output| matches!(output, Output::Event(Event::Joined { again: false, .. }));
    assert_eq!(count(&log, joined), 1);
    let host = log.iter().find_map(|output| match output {
        Output::SendControl(ClientMessage::Candidates { host, .. }) => Some(host.clone()),
        _ => None,
    });
    assert_eq!(host, Some(vec![addr("20.0.0.1:4000"), addr("10.0.7.2:4000")]));
}

/// The refusals after which a node tries again; all others are final.
const RETRIED: &[Code] = &[
    Code::HandshakeTimeout,
    Code::TooSlow,
    Code::RateLimited,
    Code::ServerFull,
    Code::Storage,
    Code::ClusterChanged,
    Code::Shutdown,
    Code::SourceFull,
    Code::SessionRevoked,
    Code::CertificateExpired,
    // Not a verdict on this node's membership: a server that sends one is confused.
    Code::PublicSeedInPrivateCluster,
    Code::BadSeedInPublicCluster,
    Code::NoSeedInPublicCluster,
    Code::SeedUnresolved,
    Code::SeedAddressRefused,
    Code::SeedUnreachable,
    Code::SeedWrongKey,
    Code::SeedNotHere,
    Code::SeedNotApproved,
    Code::UnknownPeer,
    Code::SelfConnect,
    Code::PeerOffline,
    Code::NoCandidates,
    Code::TooManyIntroductions,
    Code::BadCertificate,
    Code::NoPath,
    Code::Unknown,
];

#[test]
fn refusals_table() {
    let codes = Code::ALL.iter().copied().chain([Code::Unknown]);
    for code in codes {
        for (joined, closing) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rig = Rig::new(1);
            if joined {
                rig.join();
            } else {
                rig.open();
            }
            let refusal = Refusal::new(code).retry_after_ms(7_000);
            let message = if closing {
                ServerMessage::Closing(refusal.clone())
            } else {
                ServerMessage::Rejected(refusal.clone())
            };
            rig.tell(message);
            let log = rig.take();
            if RETRIED.contains(&code) {
                let (told, retry_in) = disconnected(&log).unwrap_or_else(|| panic!("{code}"));
                assert_eq!(told, Some(code));
                assert!(retry_in >= 7_000 * MS && retry_in <= 8_000 * MS, "{code} {retry_in:?}");
                rig.advance(retry_in - MS);
                assert_eq!(
                    count(&rig.take(), |output| matches!(output, Output::OpenControl { .. })),
                    0,
                    "{code}"
                );
                rig.advance(MS);
                assert_eq!(
                    count(&rig.take(), |output| matches!(output, Output::OpenControl { .. })),
                    1,
                    "{code}"
                );
            } else {
                assert_eq!(ended(&log), Some(Ended::Rejected(refusal)), "{code}");
                rig.advance(Duration::from_secs(3600));
                assert!(rig.take().is_empty() && rig.agent.poll_timeout().is_none(), "{code}");
            }
        }
    }
}

/// What a welcome must not be. None of them ends the node but a verdict about itself.
#[test]
fn forged_welcomes_table() {
    type Change = fn(&Rig, &mut Welcome);
    fn certify(rig: &Rig, welcome: &mut Welcome, change: impl FnOnce(&mut Certificate)) {
        let mut certificate = rig.own_certificate();
        change(&mut certificate);
        welcome.certificate = rig.resign(&certificate);
    }
    let cases: &[(&str, Code, Change)] = &[
        ("signed by another key", Code::BadSignature, |rig, welcome| {
            welcome.signature = rig.transcript().sign(Domain::Welcome, &SigningKey::from_bytes(&[98; 32]));
        }),
        ("signed for another purpose", Code::BadSignature, |rig, welcome| {
            welcome.signature = rig.transcript().sign(Domain::Admission, &rig.cluster_key);
        }),
        ("another node's certificate", Code::BadSignature, |rig, welcome| {
            certify(rig, welcome, |certificate| certificate.node = NodeId::from_bytes([1; 32]));
        }),
        ("another name", Code::BadSignature, |rig, welcome| {
            certify(rig, welcome, |certificate| certificate.name = "mallory".parse().unwrap());
        }),
        ("another cluster", Code::BadSignature, |rig, welcome| {
            certify(rig, welcome, |certificate| certificate.cluster = "other".parse().unwrap());
        }),
        ("expired", Code::BadSignature, |rig, welcome| {
            certify(rig, welcome, |certificate| certificate.not_after_unix_s = UNIX_S);
        }),
        ("certificate by another key", Code::BadSignature, |rig, welcome| {
            welcome.certificate = rig.own_certificate().sign(&SigningKey::from_bytes(&[98; 32]));
        }),
    ];
    for (name, code, change) in cases {
        let mut rig = Rig::new(1);
        rig.open();
        rig.challenge().expect("a proof");
        let mut welcome = rig.welcome();
        change(&rig, &mut welcome);
        rig.take();
        rig.tell(ServerMessage::Welcome(Box::new(welcome)));
        let log = rig.take();
        assert_eq!(disconnected(&log).map(|(code, _)| code), Some(Some(*code)), "{name}");
        assert_eq!(count(&log, |output| matches!(output, Output::CloseControl)), 1, "{name}");
        assert_eq!(ended(&log), None, "{name}");
    }
}

#[test]
fn out_of_order_messages_close_the_connection() {
    let mut rig = Rig::new(1);
    rig.open();
    let wrong = ServerMessage::Peers { peers: Vec::new() };
    rig.tell(wrong);
    assert_eq!(disconnected(&rig.take()).map(|(code, _)| code), Some(Some(Code::OutOfOrder)));

    let mut rig = Rig::new(1);
    rig.open();
    rig.challenge().expect("a proof");
    assert!(rig.challenge().is_none(), "one challenge, one proof");
}

#[test]
fn another_cluster_key_is_not_joined_but_the_node_keeps_trying() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::ControlClosed);
    rig.advance(Duration::from_secs(2));
    rig.open();
    let pinned = std::mem::replace(&mut rig.cluster_key, SigningKey::from_bytes(&[98; 32]));
    assert!(rig.challenge().is_none(), "no proof for a stranger");
    assert_eq!(disconnected(&rig.take()).map(|(code, _)| code), Some(Some(Code::BadSignature)));
    rig.advance(Duration::from_secs(5));
    rig.cluster_key = pinned;
    rig.join_with(|_| {});
    assert_eq!(
        count(&rig.take(), |output| matches!(output, Output::Event(Event::Joined { again: true, .. }))),
        1
    );
}

#[test]
fn the_expected_cluster_type_is_insisted_on() {
    use ClusterNetwork::{Dynamic, Private, Public};
    let cases = [
        (None, Dynamic, EffectiveNetwork::Public, true),
        (Some(Dynamic), Dynamic, EffectiveNetwork::Public, true),
        (Some(Public), Dynamic, EffectiveNetwork::Public, false),
        (Some(Private), Private, EffectiveNetwork::Private, true),
        (Some(Private), Dynamic, EffectiveNetwork::Private, false),
        // Whatever the node expects, such a cluster can't be.
        (None, Private, EffectiveNetwork::Public, false),
        (Some(Private), Private, EffectiveNetwork::Public, false),
    ];
    for (expect, kind, effective, good) in cases {
        let mut rig = Rig::with(rig_config(expect), IpAddr::from([10, 0, 0, 1]));
        rig.join_with(|welcome| (welcome.kind, welcome.effective) = (kind, effective));
        let log = rig.take();
        match ended(&log) {
            None => assert!(good, "{expect:?} {kind} {effective}"),
            Some(Ended::Rejected(refusal)) => {
                assert!(!good && refusal.code == Code::ClusterTypeMismatch, "{expect:?} {kind} {effective}");
            }
            Some(Ended::Left | Ended::NoServer) => panic!("nobody left"),
        }
    }
}

fn rig_config(expect: Option<ClusterNetwork>) -> meetpoint_agent::Config {
    meetpoint_agent::Config { expect, ..config(1) }
}

/// Whatever the server says, a sealed node and a node of an effectively PRIVATE cluster ask no STUN
/// server and offer no public address.
#[test]
fn private_nodes_stay_inside() {
    let cases = [
        (Some(ClusterNetwork::Private), ClusterNetwork::Private),
        (None, ClusterNetwork::Private),
        (None, ClusterNetwork::Dynamic),
    ];
    for (expect, kind) in cases {
        let mut rig = Rig::with(rig_config(expect), IpAddr::from([20, 0, 0, 1]));
        rig.local = addr("10.0.7.2:33333");
        rig.join_with(|welcome| {
            (welcome.kind, welcome.effective) = (kind, EffectiveNetwork::Private);
            welcome.stun = Some(Rig::stun_access());
        });
        rig.advance(Duration::from_secs(60));
        assert!(rig.sent.is_empty(), "{expect:?} {kind}");
        let log = rig.take();
        assert_eq!(count(&log, |output| matches!(output, Output::OpenProbe { .. })), 0);
        let public = |output: &Output| match output {
            Output::SendControl(ClientMessage::Candidates { host, .. }) => *host != [addr("10.0.7.2:4000")],
            _ => false,
        };
        assert_eq!(count(&log, public), 0, "{log:?}");
    }
}

/// The main socket asks the primary address only; the probe socket both.
#[test]
fn stun_goes_where_it_may() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
    rig.input(Input::ProbeOpened { port: Some(5000) });
    rig.advance(Duration::from_secs(10));
    let primary = addr("20.0.1.1:3478");
    assert!(!rig.sent.is_empty());
    for (socket, to, _) in &rig.sent {
        // Nothing answers, so no mapping test is ever started.
        assert_eq!(*to, primary, "{socket:?}");
    }
    let per_socket = |wanted| rig.sent.iter().filter(|(socket, ..)| *socket == wanted).count();
    assert!(per_socket(Socket::Main) <= 20, "{}", per_socket(Socket::Main));
    assert_eq!(per_socket(Socket::Probe), 15, "five copies of three tests");
    let log = rig.take();
    assert_eq!(count(&log, |output| matches!(output, Output::CloseProbe)), 1);
    let blocked = NatBehavior { udp_blocked: true, ..NatBehavior::default() };
    let told = |output: &Output| matches!(output, Output::Event(Event::Behavior(nat)) if *nat == blocked);
    assert_eq!(count(&log, told), 1, "silence of UDP is all that is told");
    assert_eq!(count(&log, |output| matches!(output, Output::Event(Event::Behavior(_)))), 1);
}

#[test]
fn silence_is_asked_about_then_given_up() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.advance(IDLE / 2 - MS);
    assert!(rig.messages().is_empty());
    rig.advance(MS);
    assert!(matches!(rig.messages()[..], [ClientMessage::Ping { .. }]));
    rig.tell(ServerMessage::Ping { seq: 7 });
    assert!(matches!(rig.messages()[..], [ClientMessage::Pong { seq: 7 }]));
    rig.advance(IDLE - MS);
    assert!(matches!(rig.messages()[..], [ClientMessage::Ping { .. }]), "one more ping");
    rig.advance(MS);
    assert_eq!(disconnected(&rig.take()).map(|(code, _)| code), Some(Some(Code::TooSlow)));
}

#[test]
fn a_stalled_server_is_given_up() {
    let mut rig = Rig::new(1);
    rig.take();
    rig.advance(Duration::from_secs(15));
    assert!(disconnected(&rig.take()).is_some(), "not opened");
    let mut rig = Rig::new(1);
    rig.open();
    rig.advance(Duration::from_secs(12));
    assert!(disconnected(&rig.take()).is_some(), "not welcomed");
}

#[test]
fn delays_grow_until_a_stay_was_stable() {
    let mut rig = Rig::new(1);
    rig.take();
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        rig.input(Input::ControlClosed);
        let (_, retry_in) = disconnected(&rig.take()).unwrap();
        longest = longest.max(retry_in);
        rig.advance(retry_in);
    }
    assert!(longest > Duration::from_secs(8) && longest <= Duration::from_secs(30), "{longest:?}");
    rig.join();
    rig.advance(Duration::from_secs(30));
    rig.take();
    rig.input(Input::ControlClosed);
    let (_, retry_in) = disconnected(&rig.take()).unwrap();
    assert!(retry_in <= Duration::from_secs(1), "{retry_in:?}");
}

#[test]
fn leaving() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Leave);
    assert!(matches!(rig.messages()[..], [ClientMessage::Leave]));
    rig.tell(ServerMessage::Left);
    assert_eq!(ended(&rig.take()), Some(Ended::Left));

    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Leave);
    rig.advance(Duration::from_secs(2));
    assert_eq!(ended(&rig.take()), Some(Ended::Left), "a silent server is not waited for");

    let mut rig = Rig::new(1);
    rig.input(Input::Leave);
    assert_eq!(ended(&rig.take()), Some(Ended::Left), "nobody to say goodbye to");
    rig.input(Input::ControlOpened { local: rig.local, remote: rig.server });
    assert!(rig.take().is_empty(), "nothing follows the end");
}

#[test]
fn hostile_names_are_not_passed_on() {
    use meetpoint_proto::wire::PeerInfo;
    let mut rig = Rig::new(1);
    rig.join();
    let names = ["bob", "<b>", "a\u{1b}[2J", "", "../x"];
    let peer = |(n, name): (usize, &&str)| PeerInfo {
        id: NodeId::from_bytes([n as u8; 32]),
        name: (*name).to_owned(),
        class: None,
        relayed: false,
    };
    rig.tell(ServerMessage::Peers { peers: names.iter().enumerate().map(peer).collect() });
    let events = rig.events();
    assert!(matches!(&events[..], [Event::Peer(peer)] if peer.name == "bob"), "{events:?}");
}

/// A discovery that nobody answers is made again, a few times, after ever longer.
#[test]
fn a_discovery_that_is_lost_is_made_again() {
    const STEP: Duration = Duration::from_millis(500);
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
    let (mut elapsed, mut begun) = (Duration::ZERO, Vec::new());
    while elapsed < Duration::from_secs(300) {
        if rig.take().iter().any(|output| matches!(output, Output::OpenProbe { .. })) {
            begun.push(elapsed);
            rig.input(Input::ProbeOpened { port: Some(5000) });
        }
        // The server is there, by TCP.
        rig.tell(ServerMessage::Ping { seq: 1 });
        rig.advance(STEP);
        elapsed += STEP;
    }
    let pauses: Vec<u64> = begun.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses.len(), 3, "{pauses:?}");
    // With what it takes to find out that nobody answers.
    for (pause, least) in pauses.iter().zip([10, 20, 40]) {
        assert!((least..least + 10).contains(pause), "{pauses:?}");
    }
}
