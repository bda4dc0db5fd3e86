//! How a membership is bounded, goes on, and is taken away.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_broker::{ClusterConfig, ConnId, Defence, Input, Limits, Output, StunCredential};
use meetpoint_proto::wire::{ClientMessage, Hello, ServerMessage};
use meetpoint_proto::{Certificate, Code, EffectiveNetwork, NodeId, PublicKey};

use crate::rig::{Rig, cluster_key, config, hello, key, token};

/// Attack: one machine as a thousand nodes.
#[test]
fn one_source_has_so_many_members() {
    for (off, expect) in [(true, 8), (false, 3)] {
        let limits = Limits { members_per_source: 3, ..Limits::default() };
        let mut rig = Rig::with(limits, config(EffectiveNetwork::Public));
        if off {
            rig.broker.set_defence_off(Defence::SourceCap);
        }
        let conns: Vec<ConnId> = (1..=8)
            .map(|n| rig.handshake("20.0.0.11:5000", &hello(n, "10.0.1.2"), &key(n), &token()))
            .collect();
        let welcomed = conns.iter().filter(|conn| rig.refusal(**conn).is_none()).count();
        assert_eq!(welcomed, expect);
        if off {
            continue;
        }
        assert_eq!(rig.refusal(conns[7]), Some(Code::SourceFull));
        // Others are not affected, a member may come back, and a place that is left is free again.
        rig.join(20, "20.0.0.12:5000", "10.0.1.2");
        rig.join(1, "20.0.0.11:6000", "10.0.1.2");
        rig.say(conns[1], ClientMessage::Leave);
        rig.join(21, "20.0.0.11:7000", "10.0.1.2");
    }
}

#[test]
fn a_cluster_that_is_gone_has_nobody_left() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let member = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let [coming, stranger] = ["20.0.0.12:5000", "20.0.0.13:5000"].map(|source| rig.open(source));
    rig.say(coming, ClientMessage::Hello(Box::new(hello(2, "10.0.1.2"))));
    let cluster = config(EffectiveNetwork::Public).name;
    rig.feed(Input::ClusterGone { cluster: cluster.clone() });
    for (conn, expect) in
        [(member, Some(Code::UnknownCluster)), (coming, Some(Code::UnknownCluster)), (stranger, None)]
    {
        assert_eq!(rig.refusal(conn), expect);
    }
    assert_eq!(rig.broker.present(&cluster), 0);
    rig.say(stranger, ClientMessage::Hello(Box::new(hello(3, "10.0.1.2"))));
    assert_eq!(rig.refusal(stranger), Some(Code::UnknownCluster));
    // One that comes back is a new one.
    rig.feed(Input::Cluster(config(EffectiveNetwork::Public)));
    rig.join(1, "20.0.0.11:6000", "10.0.1.2");
}

/// Attack: a stranger says goodbye in a member's name.
#[test]
fn nobody_leaves_for_another() {
    for (off, expect) in [(true, Some(Code::SessionRevoked)), (false, None)] {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        if off {
            rig.broker.set_defence_off(Defence::OwnLeave);
        }
        let victim = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
        // It can say hello as anybody, but prove nothing.
        let stranger = rig.open("20.0.0.66:5000");
        rig.say(stranger, ClientMessage::Hello(Box::new(hello(1, "10.0.1.2"))));
        rig.say(stranger, ClientMessage::Leave);
        assert_eq!(rig.refusal(victim), expect);
        if !off {
            assert_eq!(rig.refusal(stranger), Some(Code::OutOfOrder));
            // Nor does a member leave for another.
            let other = rig.join(2, "20.0.0.12:5000", "10.0.1.2");
            rig.say(other, ClientMessage::Leave);
            assert!(rig.closed(other) && !rig.closed(victim));
        }
    }
}

#[test]
fn a_member_is_one_as_long_as_its_certificate_holds() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(conn, "20.0.0.11:7000");
    // The rig's clock stands at 1,800,000,000 s and its first certificate ends at 1,900,000,000 s.
    rig.say(conn, ClientMessage::Renew);
    rig.say(conn, ClientMessage::Renew);
    let asked = rig.log.iter().filter(|output| matches!(output, Output::Renew { .. })).count();
    assert_eq!(asked, 1, "one question at a time");
    let credential = StunCredential { username: "u2".into(), password: "p2".into(), stream_nonce: None };
    rig.feed(Input::Renewed { conn, not_after_unix_s: 1_800_000_100, credential: Some(credential) });
    let renewal = rig.sent(conn).find_map(|message| match message {
        ServerMessage::Certificate(renewal) => Some((**renewal).clone()),
        _ => None,
    });
    let renewal = renewal.unwrap();
    assert_eq!(renewal.stun.unwrap().username, "u2");
    let key = PublicKey::from(&cluster_key());
    assert!(Certificate::verify(&renewal.certificate, &key, 1_800_000_099).is_ok());
    for _ in 0..9 {
        rig.pass(Duration::from_secs(11));
        rig.say(conn, ClientMessage::Ping { seq: 1 });
    }
    assert_eq!(rig.refusal(conn), None);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.refusal(conn), Some(Code::CertificateExpired));
}

/// Whoever speaks is there; once in a while its round trip is measured all the same.
#[test]
fn who_was_just_heard_is_not_pinged() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(conn, "20.0.0.11:7000");
    let pings =
        |rig: &Rig| rig.sent(conn).filter(|message| matches!(message, ServerMessage::Ping { .. })).count();
    assert_eq!(pings(&rig), 1, "with the welcome");
    rig.say(conn, ClientMessage::Pong { seq: 1 });
    for (steps, expect) in [(10, 1), (10, 2)] {
        for _ in 0..steps {
            rig.pass(Duration::from_secs(10));
            rig.say(conn, ClientMessage::Ping { seq: 1 });
        }
        assert_eq!(pings(&rig), expect);
    }
    rig.say(conn, ClientMessage::Pong { seq: 2 });
    rig.pass(Duration::from_secs(20));
    assert_eq!(pings(&rig), 3, "who was silent for an interval");
    assert_eq!(rig.refusal(conn), None);
}

#[test]
fn a_renewal_that_is_refused() {
    for (code, expect) in [(Code::Storage, None), (Code::Removed, Some(Code::Removed))] {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
        rig.say(conn, ClientMessage::Renew);
        rig.feed(Input::NotRenewed { conn, code });
        assert_eq!(rig.refusal(conn), expect, "{code}");
        rig.say(conn, ClientMessage::Renew);
        let asked = rig.log.iter().filter(|output| matches!(output, Output::Renew { .. })).count();
        assert_eq!(asked, if expect.is_none() { 2 } else { 1 }, "{code}");
    }
}

#[test]
fn removed_nodes_are_refused_and_told_of_while_it_matters() {
    let limits = Limits { revocations: 3, ..Limits::default() };
    let mut rig = Rig::with(limits, config(EffectiveNetwork::Public));
    let cluster = || "default".parse().unwrap();
    let witness = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    for n in 10..15_u8 {
        let until_unix_s = 1_800_000_000 + 10 * u64::from(n);
        rig.feed(Input::Revoke { cluster: cluster(), node: NodeId::from(&key(n)), until_unix_s });
    }
    let told = rig.sent(witness).filter(|message| matches!(message, ServerMessage::Revoked(_))).count();
    assert_eq!(told, 5);
    // A bounded list, the last to end kept; a newcomer is told of those that are in force.
    let mut newcomer = 100;
    let mut known = |rig: &mut Rig| {
        newcomer += 1;
        let conn = rig.join(newcomer, &format!("20.0.1.{newcomer}:1"), "10.0.1.2");
        let welcome = rig.sent(conn).find_map(|message| match message {
            ServerMessage::Welcome(welcome) => Some(welcome.revoked.clone()),
            _ => None,
        });
        let ids = welcome.unwrap().into_iter().map(|text| text.until_unix_s - 1_800_000_000);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(known(&mut rig), [140, 130, 120]);
    let back = |rig: &mut Rig, n: u8| {
        let conn = rig.handshake("20.0.0.14:5000", &hello(n, "10.0.1.2"), &key(n), &token());
        rig.refusal(conn)
    };
    assert_eq!(back(&mut rig, 14), Some(Code::Removed));
    rig.feed(Input::Restore { cluster: cluster(), node: NodeId::from(&key(14)) });
    assert_eq!(back(&mut rig, 14), None);
    rig.pass(Duration::from_secs(125));
    assert_eq!(known(&mut rig), [130]);
}

#[test]
fn visitors_bring_their_membership() {
    let home = SigningKey::from_bytes(&[77; 32]);
    let away = ClusterConfig { home: Some(PublicKey::from(&home)), ..config(EffectiveNetwork::Public) };
    let mut rig = Rig::with(Limits::default(), away);
    let certificate = Certificate {
        cluster: "default".parse().unwrap(),
        node: NodeId::from(&key(1)),
        name: "node-1".parse().unwrap(),
        not_before_unix_s: 1_800_000_000,
        not_after_unix_s: 1_800_000_030,
        capabilities: Vec::new(),
    };
    let visits = |rig: &mut Rig, signer: &SigningKey| {
        let certificate = Some(Box::new(certificate.sign(signer)));
        let hello = Hello { certificate, token: None, ..hello(1, "10.0.1.2") };
        rig.handshake("20.0.0.11:5000", &hello, &key(1), &token())
    };
    let conn = visits(&mut rig, &cluster_key());
    assert_eq!(rig.refusal(conn), Some(Code::BadCertificate), "this server is not the cluster");
    let conn = visits(&mut rig, &home);
    assert_eq!(rig.refusal(conn), None);
    let asked = rig.log.iter().rev().find_map(|output| match output {
        Output::Admit(request) => Some((request.visitor_until_unix_s, request.admission.is_none())),
        _ => None,
    });
    assert_eq!(asked, Some((Some(1_800_000_030), true)), "nothing is to be stored");
    rig.observe(conn, "20.0.0.11:7000");
    rig.say(conn, ClientMessage::Renew);
    assert!(!rig.log.iter().any(|output| matches!(output, Output::Renew { .. })));
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.refusal(conn), Some(Code::CertificateExpired));
    let late = visits(&mut rig, &home);
    assert_eq!(rig.refusal(late), Some(Code::CertificateExpired));
}
