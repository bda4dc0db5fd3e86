//! The broker from outside: what it is told, what it says.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_broker::{ClusterConfig, ConnId, Event, Input, Limits, Output};
use meetpoint_proto::id::{DialBackNonce, Nonce};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{CandidateKind, ClientMessage, Hello, Proof, ServerMessage, TicketOutcome};
use meetpoint_proto::{
    Certificate, ClusterName, ClusterNetwork, Code, EffectiveNetwork, Evidence, HandshakeStart, JoinToken,
    NetworkClass, NetworkType, NodeId, PublicKey,
};

use crate::rig::{Rig, addr, cluster_key, config, hello, key, token};

fn connect(peer: &str, wait: bool) -> ClientMessage {
    ClientMessage::Connect { request: 1, peer: peer.into(), wait, handshake: None }
}

#[test]
fn a_join_is_welcomed_with_signature_and_certificate() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let welcome = rig.sent(conn).find_map(|m| match m {
        ServerMessage::Welcome(welcome) => Some(welcome.clone()),
        _ => None,
    });
    let welcome = welcome.unwrap();
    assert_eq!(welcome.now_unix_ms, 1_800_000_000_000);
    assert!(welcome.stun.is_some());
    let cluster = PublicKey::from(&cluster_key());
    let certificate = Certificate::verify(&welcome.certificate, &cluster, 1_800_000_000).unwrap();
    assert_eq!(certificate.node, NodeId::from(&key(1)));
    assert_eq!(certificate.name.as_str(), "node-1");
}

#[test]
fn every_bad_hello_is_refused_with_its_code() {
    type Change = fn(&mut Hello);
    let cases: &[(Change, Code)] = &[
        (|h| h.protocol = 9, Code::ProtocolVersion),
        (|h| h.name = "<script>".into(), Code::BadName),
        (|h| h.name = "a\u{7}".into(), Code::BadName),
        (|h| h.name = String::new(), Code::BadName),
        (|h| h.cluster = "other".into(), Code::UnknownCluster),
        (|h| h.cluster = "../x".into(), Code::UnknownCluster),
        (|h| h.token = None, Code::TokenRequired),
        (|h| h.version = "x".repeat(65), Code::BadMessage),
        (|h| h.expect = Some(ClusterNetwork::Private), Code::ClusterTypeMismatch),
        (|h| h.declared = Some(NetworkType::Public), Code::DeclaredPublicButPrivate),
        (|h| h.node_addr = Some(addr("20.9.9.9:1")), Code::NodeAddrMismatch),
    ];
    for (change, expect) in cases {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let mut hello = hello(1, "10.0.1.2");
        change(&mut hello);
        let conn = rig.handshake("20.0.0.11:5000", &hello, &key(1), &token());
        assert_eq!(rig.refusal(conn), Some(*expect), "{hello:?}");
        assert!(rig.closed(conn));
    }
}

#[test]
fn proofs_by_others_are_refused() {
    let other: JoinToken = "another-token-of-mine".parse().unwrap();
    let cases = [(key(2), token(), Code::BadSignature), (key(1), other, Code::BadToken)];
    for (signer, token, expect) in cases {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let conn = rig.handshake("20.0.0.11:5000", &hello(1, "10.0.1.2"), &signer, &token);
        assert_eq!(rig.refusal(conn), Some(expect));
    }
}

#[test]
fn a_proof_of_another_handshake_is_worthless() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let hello = hello(1, "10.0.1.2");
    let stale = Transcript::new(&hello, &Nonce::from_bytes([1; 32]), &PublicKey::from(&cluster_key()));
    let conn = rig.open("20.0.0.11:5000");
    rig.say(conn, ClientMessage::Hello(Box::new(hello)));
    let proof = Proof {
        node: stale.sign(Domain::Node, &key(1)),
        admission: Some(stale.sign(Domain::Admission, &token().signing_key())),
        secrets: Vec::new(),
    };
    rig.say(conn, ClientMessage::Proof(proof));
    assert_eq!(rig.refusal(conn), Some(Code::BadSignature));
}

#[test]
fn a_signature_of_one_domain_does_not_serve_another() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    // The token's key is the node's key: only the domain tells the two signatures apart.
    let mut hello = hello(1, "10.0.1.2");
    hello.node_id = NodeId::from(&token().signing_key());
    let conn = rig.open("20.0.0.11:5000");
    rig.say(conn, ClientMessage::Hello(Box::new(hello.clone())));
    let (nonce, cluster) = rig
        .sent(conn)
        .find_map(|m| match m {
            ServerMessage::Challenge { nonce, cluster_key, .. } => Some((*nonce, *cluster_key)),
            _ => None,
        })
        .unwrap();
    let signature = Transcript::new(&hello, &nonce, &cluster).sign(Domain::Admission, &token().signing_key());
    rig.say(
        conn,
        ClientMessage::Proof(Proof { node: signature, admission: Some(signature), secrets: Vec::new() }),
    );
    assert_eq!(rig.refusal(conn), Some(Code::BadSignature));
}

#[test]
fn messages_out_of_order_end_the_connection() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let early = rig.open("20.0.0.11:5000");
    rig.say(early, ClientMessage::Leave);
    assert_eq!(rig.refusal(early), Some(Code::OutOfOrder));
    let member = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.say(member, ClientMessage::Hello(Box::new(hello(1, "10.0.1.2"))));
    assert_eq!(rig.refusal(member), Some(Code::OutOfOrder));
    assert_eq!(rig.broker.present(&"default".parse().unwrap()), 0);
}

#[test]
fn a_stalled_handshake_and_a_silent_member_are_dropped() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let stalled = rig.open("20.0.0.11:5000");
    let member = rig.join(1, "20.0.0.11:5001", "10.0.1.2");
    rig.observe(member, "20.0.0.11:7000");
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.refusal(stalled), Some(Code::HandshakeTimeout));
    assert_eq!(rig.refusal(member), None);
    rig.say(member, ClientMessage::Pong { seq: 1 });
    rig.pass(Duration::from_secs(44));
    assert_eq!(rig.refusal(member), None);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.refusal(member), Some(Code::TooSlow));
}

#[test]
fn a_private_cluster_takes_no_public_source_even_through_nat() {
    for (source, local, expect) in [
        ("192.168.1.5:1", "192.168.1.5", None),
        ("127.0.0.1:1", "127.0.0.1", None),
        ("20.0.0.11:1", "20.0.0.11", Some(Code::PublicNodeInPrivateCluster)),
        ("20.0.0.11:1", "10.0.1.2", Some(Code::PublicNodeInPrivateCluster)),
    ] {
        let mut rig = Rig::new(EffectiveNetwork::Private);
        let conn = rig.handshake(source, &hello(1, local), &key(1), &token());
        assert_eq!(rig.refusal(conn), expect, "{source}");
        if expect.is_none() {
            assert!(rig.class(conn).is_some());
            assert!(rig.sent(conn).all(|m| !matches!(m, ServerMessage::Welcome(w) if w.stun.is_some())));
        }
    }
}

#[test]
fn the_class_follows_the_evidence() {
    // Proven by a dial-back.
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "20.0.0.11");
    rig.observe(conn, "20.0.0.11:7000");
    let (to, nonce) = rig.dial_back().unwrap();
    assert_eq!(to, addr("20.0.0.11:7000"));
    rig.say(conn, ClientMessage::DialBackSeen { nonce: DialBackNonce::from_bytes([0; 16]) });
    assert_eq!(rig.class(conn), None, "a guessed nonce proves nothing");
    rig.say(conn, ClientMessage::DialBackSeen { nonce });
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicReachable, Evidence::Proven)));

    // Answered, but the dial-back did not get through.
    for (local, class) in [("10.0.1.2", NetworkClass::Private), ("20.0.0.11", NetworkClass::PublicUndefined)]
    {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let conn = rig.join(1, "20.0.0.11:5000", local);
        rig.observe(conn, "20.0.0.11:7000");
        rig.pass(Duration::from_secs(2));
        assert_eq!(rig.class(conn), Some((class, Evidence::Observed)));
        let (_, late) = rig.dial_back().unwrap();
        rig.say(conn, ClientMessage::DialBackSeen { nonce: late });
        assert_eq!(rig.class(conn), Some((class, Evidence::Observed)), "a late nonce proves nothing");
    }

    // No answer at all.
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.pass(Limits::default().observation_timeout);
    assert_eq!(rig.refusal(conn), Some(Code::Unreachable));
    let mut rig = Rig::with(
        Limits::default(),
        ClusterConfig { admit_relayed: true, ..config(EffectiveNetwork::Public) },
    );
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.pass(Limits::default().observation_timeout);
    assert_eq!(rig.class(conn), Some((NetworkClass::Unreachable, Evidence::Observed)));
}

#[test]
fn without_a_second_address_the_verdict_is_immediate() {
    let mut config = config(EffectiveNetwork::Public);
    config.stun[0].alternate = None;
    let mut rig = Rig::with(Limits::default(), config);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(conn, "20.0.0.11:7000");
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)));
    assert!(rig.dial_back().is_none());
}

#[test]
fn dial_backs_are_rare_however_often_the_mapping_changes() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    for port in 7_000..7_200 {
        rig.observe(conn, &format!("20.0.0.11:{port}"));
        rig.pass(Duration::from_millis(100));
        rig.say(conn, ClientMessage::Pong { seq: 0 });
    }
    let count = rig.log.iter().filter(|o| matches!(o, Output::DialBack { .. })).count();
    assert!((2..=3).contains(&count), "{count} dial-backs in 20 s");
}

fn two_behind_nats() -> (Rig, ConnId, ConnId) {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.observe(a, "20.0.0.11:7000");
    rig.observe(b, "20.0.0.12:7000");
    (rig, a, b)
}

#[test]
fn an_introduction_offers_only_what_was_observed() {
    let (mut rig, a, b) = two_behind_nats();
    // A lies: a victim's address, and its own LAN address.
    let host = vec![addr("20.66.66.66:53"), addr("10.0.1.2:7000"), addr("224.0.0.1:1"), addr("10.0.1.2:0")];
    rig.say(a, ClientMessage::Candidates { host, relay: vec![], mapped: vec![] });
    rig.say(a, connect("node-2", false));
    let (for_a, for_b) = (rig.introductions(a)[0], rig.introductions(b)[0]);
    assert_eq!(for_a.ticket, for_b.ticket);
    assert_eq!(for_a.requests, [1]);
    assert!(for_b.requests.is_empty());
    assert_eq!(for_b.candidates.iter().map(|c| c.addr).collect::<Vec<_>>(), [addr("20.0.0.11:7000")]);
    assert!(for_a.candidates.iter().all(|c| c.kind == CandidateKind::Srflx));
    assert_eq!((for_a.send_key, for_a.recv_key), (for_b.recv_key, for_b.send_key));
    assert_ne!(for_a.send_key, for_a.recv_key);
    assert!(for_a.active && for_b.active);
    let cluster = PublicKey::from(&cluster_key());
    let peer = Certificate::verify(&for_a.certificate, &cluster, 1_800_000_000).unwrap();
    assert_eq!(peer.node, NodeId::from(&key(2)));
}

/// The relayed candidates that a node was told, introduction by introduction.
fn relayed(rig: &Rig, to: ConnId) -> Vec<Vec<SocketAddr>> {
    let told = rig.sent(to).filter_map(|message| match message {
        ServerMessage::Candidates { candidates, .. } => Some(candidates),
        _ => None,
    });
    let addrs = told.map(|candidates| {
        assert!(candidates.iter().all(|candidate| candidate.kind == CandidateKind::Relay));
        candidates.iter().map(|candidate| candidate.addr).collect()
    });
    addrs.collect()
}

/// A relayed address is one of this server's, and is shown to peers that the node is just meeting.
#[test]
fn only_the_servers_own_relay_is_shown() {
    let (mut rig, a, b) = two_behind_nats();
    let c = rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    rig.observe(c, "20.0.0.13:7000");
    let tell = |rig: &mut Rig, relay: &[&str]| {
        let relay = relay.iter().map(|text| addr(text)).collect();
        rig.say(a, ClientMessage::Candidates { host: vec![], relay, mapped: vec![] });
    };
    tell(&mut rig, &["20.66.66.66:53", "20.0.0.1:0"]);
    rig.say(a, connect("node-2", false));
    assert!(relayed(&rig, b).is_empty());
    tell(&mut rig, &["20.66.66.66:53", "20.0.0.1:50000", "[::ffff:20.0.0.1]:50001"]);
    let expect = [vec![addr("20.0.0.1:50000"), addr("20.0.0.1:50001")]];
    assert_eq!(relayed(&rig, b), expect);
    tell(&mut rig, &["20.0.0.1:50000", "20.0.0.1:50001"]);
    assert_eq!(relayed(&rig, b).len(), 1, "it is no news");
    assert!(relayed(&rig, c).is_empty(), "whoever does not meet it is told nothing");
    rig.say(c, connect("node-1", false));
    assert_eq!(relayed(&rig, c), expect);
    assert!(relayed(&rig, a).is_empty());
}

/// A node that UDP does not reach has no mapping, and is met where it is relayed.
#[test]
fn a_relayed_address_is_enough_to_be_met() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.observe(a, "20.0.0.11:7000");
    rig.say(a, connect("node-2", false));
    assert!(rig.introductions(a).is_empty());
    rig.say(
        b,
        ClientMessage::Candidates { host: vec![], relay: vec![addr("20.0.0.1:50000")], mapped: vec![] },
    );
    assert_eq!((rig.introductions(a).len(), rig.introductions(b).len()), (1, 1));
    assert_eq!(relayed(&rig, a), [vec![addr("20.0.0.1:50000")]]);
}

fn is_wanted(rig: &Rig, conn: ConnId) -> usize {
    rig.sent(conn).filter(|message| matches!(message, ServerMessage::Wanted)).count()
}

/// Who is asked for and can't be met anywhere yet hears of it, now and then: not who can be met, and not whoever asks.
#[test]
fn who_is_nowhere_hears_that_it_is_wanted() {
    let config = ClusterConfig { admit_relayed: true, ..config(EffectiveNetwork::Public) };
    let mut rig = Rig::with(Limits::default(), config);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.say(a, connect("node-2", false));
    assert_eq!((is_wanted(&rig, a), is_wanted(&rig, b)), (0, 1));
    rig.observe(a, "20.0.0.11:7000");
    assert_eq!(is_wanted(&rig, b), 1, "it knows");
    rig.pass(Duration::from_secs(5));
    rig.say(a, connect("node-2", false));
    assert_eq!(is_wanted(&rig, b), 2);
    rig.pass(Duration::from_secs(5));
    rig.observe(b, "20.0.0.12:7000");
    rig.say(a, connect("node-2", false));
    assert_eq!((is_wanted(&rig, a), is_wanted(&rig, b)), (0, 2));
    assert_eq!(rig.introductions(b).len(), 1);

    // In a PRIVATE cluster there is no relay to be met at.
    let mut rig = Rig::new(EffectiveNetwork::Private);
    let a = rig.join(1, "10.0.1.2:5000", "10.0.1.2");
    let b = rig.join(2, "10.0.1.3:5001", "10.0.1.3");
    rig.say(a, connect("node-2", false));
    assert_eq!(is_wanted(&rig, b), 0);
}

/// What the relay has lent a node is shown before the node has said so, for as long as its word may take; and is no
/// news when it comes.
#[test]
fn what_is_lent_is_shown_at_once() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.observe(a, "20.0.0.11:7000");
    rig.say(a, connect("node-2", false));
    let say = |rig: &mut Rig, conn: ConnId, relay: &[&str]| {
        let relay = relay.iter().map(|text| addr(text)).collect();
        rig.say(conn, ClientMessage::Candidates { host: vec![], relay, mapped: vec![] });
    };
    rig.lend(b, "20.66.66.66:50000");
    assert!(rig.introductions(a).is_empty(), "that is not this server's");
    rig.lend(b, "20.0.0.1:50000");
    assert_eq!(rig.introductions(a).len(), 1);
    // What it said before it knew takes nothing back; what it says then is known; what is never said is forgotten.
    say(&mut rig, b, &[]);
    say(&mut rig, b, &["20.0.0.1:50000"]);
    rig.lend(b, "20.0.0.1:50001");
    let first = vec![addr("20.0.0.1:50000")];
    let both = vec![addr("20.0.0.1:50000"), addr("20.0.0.1:50001")];
    assert_eq!(relayed(&rig, a), [first.clone(), both.clone()]);
    rig.pass(Duration::from_secs(4));
    rig.say(a, connect("node-2", false));
    assert_eq!(relayed(&rig, a), [first.clone(), both, first]);
}

#[test]
fn hosts_are_offered_behind_one_public_address_and_in_private_clusters() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.11:5001", "10.0.1.3");
    rig.say(
        a,
        ClientMessage::Candidates { host: vec![addr("10.0.1.2:7000")], relay: vec![], mapped: vec![] },
    );
    rig.observe(a, "20.0.0.11:7000");
    rig.observe(b, "20.0.0.11:7001");
    rig.say(b, connect("node-1", false));
    let addrs: Vec<_> = rig.introductions(b)[0].candidates.iter().map(|c| c.addr).collect();
    assert_eq!(addrs, [addr("20.0.0.11:7000"), addr("10.0.1.2:7000")]);

    let mut rig = Rig::new(EffectiveNetwork::Private);
    let a = rig.join(1, "10.0.1.2:5000", "10.0.1.2");
    let b = rig.join(2, "10.0.1.3:5001", "10.0.1.3");
    rig.say(b, connect("node-1", false));
    assert!(rig.introductions(b).is_empty());
    rig.say(
        a,
        ClientMessage::Candidates {
            host: vec![addr("10.0.1.2:7000"), addr("20.1.1.1:1")],
            relay: vec![],
            mapped: vec![],
        },
    );
    rig.say(
        b,
        ClientMessage::Candidates { host: vec![addr("10.0.1.3:7000")], relay: vec![], mapped: vec![] },
    );
    let addrs: Vec<_> = rig.introductions(b)[0].candidates.iter().map(|c| c.addr).collect();
    assert_eq!(addrs, [addr("10.0.1.2:7000")]);
}

#[test]
fn requests_wait_or_fail_with_a_reason() {
    let (mut rig, a, _) = two_behind_nats();
    rig.say(a, connect("nobody", false));
    assert_eq!(rig.connect_failure(a), Some(Code::PeerOffline));
    let (mut rig, a, _) = two_behind_nats();
    rig.say(a, connect("node-1", false));
    assert_eq!(rig.connect_failure(a), Some(Code::SelfConnect));

    // Waits for the peer to join and to be observed.
    let (mut rig, a, _) = two_behind_nats();
    rig.say(a, connect("node-3", true));
    rig.pass(Duration::from_secs(30));
    let c = rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    assert!(rig.introductions(a).is_empty());
    rig.observe(c, "20.0.0.13:7000");
    assert_eq!(rig.introductions(a).len(), 1);
    assert_eq!(rig.introductions(c).len(), 1);

    // The peer is there but never observed.
    let (mut rig, a, _) = two_behind_nats();
    rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    rig.say(a, connect("node-3", false));
    rig.pass(Limits::default().candidate_timeout);
    assert_eq!(rig.connect_failure(a), Some(Code::NoCandidates));

    // Cancelled: nothing comes any more.
    let (mut rig, a, _) = two_behind_nats();
    rig.say(a, connect("node-3", true));
    rig.say(a, ClientMessage::CancelConnect { request: 1 });
    let c = rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    rig.observe(c, "20.0.0.13:7000");
    assert!(rig.introductions(c).is_empty());
}

/// The relay lets the two meet by this, and parts them by that.
#[test]
fn introductions_and_ends_name_the_sessions() {
    let (mut rig, a, b) = two_behind_nats();
    let of = |rig: &Rig, conn| rig.sessions.iter().find(|(c, _)| *c == conn).unwrap().1;
    let expected = [of(&rig, a), of(&rig, b)];
    rig.say(a, connect("node-2", false));
    rig.feed(Input::Closed { conn: b });
    let said: Vec<_> = rig
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Event(Event::Introduced { sessions, .. }) => Some(sessions.to_vec()),
            Output::Event(Event::Left { session, .. }) => Some(vec![*session]),
            _ => None,
        })
        .collect();
    assert_eq!(said, [expected.to_vec(), vec![expected[1]]]);
}

#[test]
fn tickets_and_requests_are_capped() {
    let (mut rig, a, b) = two_behind_nats();
    for request in 0..100 {
        rig.say(a, ClientMessage::Connect { request, peer: "node-2".into(), wait: false, handshake: None });
    }
    assert_eq!(rig.introductions(b).len(), Limits::default().tickets_per_asker);
    assert_eq!(rig.connect_failure(a), Some(Code::TooManyIntroductions));
    rig.pass(Limits::default().ticket_lifetime);
    let ended = rig.log.iter().filter(|o| matches!(o, Output::Event(Event::TicketEnded { .. }))).count();
    assert_eq!(ended, Limits::default().tickets_per_asker);

    let (mut rig, a, _) = two_behind_nats();
    for request in 0..100 {
        rig.say(a, ClientMessage::Connect { request, peer: "nobody".into(), wait: true, handshake: None });
    }
    assert_eq!(rig.connect_failure(a), Some(Code::TooManyIntroductions));
}

/// What a handshake begins with goes to the peer with its half of the ticket, as it is and once, and who asked is told
/// first. A request that waits for the peer loses it, so nobody's lies here.
#[test]
fn a_handshake_goes_to_the_peer_and_is_not_kept() {
    let start = HandshakeStart::new(vec![0xC7; 1_200]).unwrap();
    let with_start = |peer: &str, wait| {
        let handshake = Some(start.clone());
        ClientMessage::Connect { request: 1, peer: peer.into(), wait, handshake }
    };
    let brought = |rig: &Rig, conn| -> Vec<Option<HandshakeStart>> {
        rig.introductions(conn).into_iter().map(|half| half.handshake.clone()).collect()
    };
    let (mut rig, a, b) = two_behind_nats();
    rig.say(a, with_start("node-2", false));
    assert_eq!((brought(&rig, a), brought(&rig, b)), (vec![None], vec![Some(start.clone())]));

    let (mut rig, a, _) = two_behind_nats();
    rig.say(a, with_start("node-3", true));
    let late = rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    rig.observe(late, "20.0.0.13:7000");
    assert_eq!((brought(&rig, a), brought(&rig, late)), (vec![None], vec![None]));
}

#[test]
fn only_the_two_sides_end_a_ticket() {
    let (mut rig, a, b) = two_behind_nats();
    let stranger = rig.join(3, "20.0.0.13:5000", "10.0.3.2");
    rig.say(a, connect("node-2", false));
    let ticket = rig.introductions(a)[0].ticket;
    let direct = || ClientMessage::TicketResult {
        ticket,
        outcome: TicketOutcome::Direct { elapsed_ms: 7 },
        rtt_us: None,
    };
    let ended = |rig: &Rig| rig.log.iter().any(|o| matches!(o, Output::Event(Event::TicketEnded { .. })));
    rig.say(stranger, direct());
    assert!(!ended(&rig));
    rig.say(b, direct());
    assert!(ended(&rig));
}

#[test]
fn towards_a_proven_node_only_the_other_side_sends() {
    let (mut rig, a, b) = two_behind_nats();
    let (_, nonce) = rig.dial_back().unwrap();
    rig.say(b, ClientMessage::DialBackSeen { nonce });
    rig.say(a, connect("node-2", false));
    assert!(rig.introductions(a)[0].active);
    assert!(!rig.introductions(b)[0].active);
}

#[test]
fn the_side_with_the_shorter_way_waits() {
    let (mut rig, a, b) = two_behind_nats();
    rig.pass(Duration::from_millis(20));
    rig.say(a, ClientMessage::Pong { seq: 1 });
    rig.pass(Duration::from_millis(80));
    rig.say(b, ClientMessage::Pong { seq: 1 });
    rig.say(a, connect("node-2", false));
    assert_eq!(rig.introductions(a)[0].start_in_ms, 40);
    assert_eq!(rig.introductions(b)[0].start_in_ms, 0);
}

#[test]
fn the_newer_connection_takes_over() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let old = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let new = rig.join(1, "20.0.0.11:6000", "10.0.1.2");
    assert_eq!(rig.refusal(old), Some(Code::Replaced));
    assert_eq!(rig.refusal(new), None);
    assert_eq!(rig.broker.present(&"default".parse().unwrap()), 1);
    rig.observe(new, "20.0.0.11:7000");
    rig.say(new, ClientMessage::Pong { seq: 1 });
    // The old connection's end forgets nothing of the new one.
    rig.feed(Input::Closed { conn: old });
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.broker.present(&"default".parse().unwrap()), 1);
}

#[test]
fn members_hear_of_each_other_and_of_farewells() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    let id = |n| NodeId::from(&key(n));
    let told = |rig: &Rig, to: ConnId, who: NodeId| {
        rig.sent(to).any(|m| matches!(m, ServerMessage::Peers { peers } if peers.iter().any(|p| p.id == who)))
    };
    assert!(told(&rig, a, id(2)) && told(&rig, b, id(1)));
    rig.say(b, ClientMessage::Leave);
    assert!(rig.sent(b).any(|m| matches!(m, ServerMessage::Left)));
    assert!(rig.sent(a).any(|m| matches!(m, ServerMessage::PeerLeft { id: gone } if *gone == id(2))));
    assert!(rig.log.iter().any(|o| matches!(o, Output::Forget { node, .. } if *node == id(2))));
    // A connection that breaks is forgiven for a while.
    rig.feed(Input::Closed { conn: a });
    let forgotten =
        |rig: &Rig| rig.log.iter().any(|o| matches!(o, Output::Forget { node, .. } if *node == id(1)));
    rig.pass(Limits::default().ephemeral_grace - Duration::from_secs(1));
    assert!(!forgotten(&rig));
    rig.pass(Duration::from_secs(2));
    assert!(forgotten(&rig));
}

#[test]
fn the_directory_is_bounded_but_everybody_can_be_found() {
    let limits = Limits { announced_peers: 2, ..Limits::default() };
    let mut rig = Rig::with(limits, config(EffectiveNetwork::Public));
    for n in 1..=5 {
        let conn = rig.join(n, &format!("20.0.0.{n}:5000"), "10.0.1.2");
        rig.observe(conn, &format!("20.0.0.{n}:7000"));
    }
    let last = ConnId(5);
    let known = rig.sent(last).filter_map(|m| match m {
        ServerMessage::Peers { peers } => Some(peers.len()),
        _ => None,
    });
    assert_eq!(known.sum::<usize>(), 2);
    rig.say(last, connect("node-4", false));
    assert_eq!(rig.introductions(last).len(), 1);
}

#[test]
fn connections_are_capped() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let mut rig = Rig::with(limits, config(EffectiveNetwork::Public));
    for _ in 0..3 {
        rig.open("20.0.0.9:1");
    }
    let conn = rig.open("20.0.0.9:1");
    assert_eq!(rig.refusal(conn), Some(Code::ServerFull));
}

#[test]
fn a_removed_node_is_told_so_and_shutdown_tells_all() {
    let (mut rig, a, b) = two_behind_nats();
    let cluster: ClusterName = "default".parse().unwrap();
    rig.feed(Input::Revoke { cluster, node: NodeId::from(&key(1)), until_unix_s: 1_900_000_000 });
    assert_eq!(rig.refusal(a), Some(Code::Removed));
    rig.feed(Input::Shutdown);
    assert_eq!(rig.refusal(b), Some(Code::Shutdown));
}
