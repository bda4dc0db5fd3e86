//! Members are judged again where they are, and nobody gains by a lie.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use meetpoint_broker::{ClusterConfig, ConnId, Defence, Input, Limits, Output};
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::wire::{ClientMessage, Hello, ServerMessage, TicketOutcome};
use meetpoint_proto::{
    ClusterNetwork, Code, EffectiveNetwork, Evidence, Filtering, Mapping, NatBehavior, NetworkClass,
    NetworkType, NodeId, TicketId,
};

use crate::rig::{Rig, addr, config, hello, key, token};

const S: Duration = Duration::from_secs(1);

fn id(n: u8) -> NodeId {
    NodeId::from(&key(n))
}

fn become_(rig: &mut Rig, effective: EffectiveNetwork) {
    rig.feed(Input::Cluster(config(effective)));
}

fn of_kind(kind: ClusterNetwork, effective: EffectiveNetwork) -> ClusterConfig {
    ClusterConfig { kind, ..config(effective) }
}

fn join_as(rig: &mut Rig, n: u8, source: &str, local: &str, change: impl FnOnce(&mut Hello)) -> ConnId {
    let mut hello = hello(n, local);
    change(&mut hello);
    rig.handshake(source, &hello, &key(n), &token())
}

fn prove(rig: &mut Rig, conn: ConnId) {
    let (_, nonce) = rig.dial_back().unwrap();
    rig.say(conn, ClientMessage::DialBackSeen { nonce });
}

#[test]
fn a_lifted_cluster_checks_its_members_where_they_are() {
    let mut rig = Rig::new(EffectiveNetwork::Private);
    let conn = rig.join(1, "10.0.1.2:5000", "10.0.1.2");
    become_(&mut rig, EffectiveNetwork::Private);
    assert!(rig.clusters(conn).is_empty(), "nothing has changed");
    become_(&mut rig, EffectiveNetwork::Public);
    assert_eq!(rig.clusters(conn), [(EffectiveNetwork::Public, true)]);
    assert_eq!(rig.refusal(conn), None);
    rig.observe(conn, "20.0.0.11:7000");
    rig.live(2 * S);
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)));
    assert_eq!(rig.rows(id(1)), ["private/private", "stun/answered"]);
    rig.live(120 * S);
    assert_eq!(rig.refusal(conn), None, "it fits, so its probation is over");
}

#[test]
fn who_fails_has_a_minute_to_pass() {
    type Case = (&'static str, &'static str, EffectiveNetwork, Code, &'static str);
    let cases: [Case; 3] = [
        (
            "127.0.0.1:5000",
            "127.0.0.1",
            EffectiveNetwork::Public,
            Code::LoopbackInPublicCluster,
            "dynamic/loopback",
        ),
        ("10.0.1.2:5000", "10.0.1.2", EffectiveNetwork::Public, Code::Unreachable, "stun/no-answer"),
        (
            "20.0.0.11:5000",
            "10.0.1.2",
            EffectiveNetwork::Private,
            Code::PublicNodeInPrivateCluster,
            "private/public-source",
        ),
    ];
    for (source, local, becomes, code, row) in cases {
        let starts = match becomes {
            EffectiveNetwork::Public => EffectiveNetwork::Private,
            EffectiveNetwork::Private => EffectiveNetwork::Public,
        };
        let mut rig = Rig::new(starts);
        let conn = rig.join(1, source, local);
        if starts == EffectiveNetwork::Public {
            rig.observe(conn, "20.0.0.11:7000");
        }
        rig.live(3 * S);
        become_(&mut rig, becomes);
        rig.live(59 * S);
        assert_eq!(rig.refusal(conn), None, "{row}");
        assert_eq!(rig.rows(id(1)).last(), Some(&row));
        rig.live(2 * S);
        assert_eq!(rig.refusal(conn), Some(code));
        assert!(rig.closed(conn));

        // The same, but the cluster changes back in time.
        let mut rig = Rig::new(starts);
        let conn = rig.join(1, source, local);
        rig.live(S / 2);
        become_(&mut rig, becomes);
        rig.live(50 * S);
        become_(&mut rig, starts);
        if starts == EffectiveNetwork::Public {
            rig.observe(conn, "20.0.0.11:7000");
        }
        rig.live(100 * S);
        assert_eq!(rig.refusal(conn), None, "{row}");
    }
}

#[test]
fn without_a_credential_the_node_joins_anew() {
    let mut rig = Rig::new(EffectiveNetwork::Private);
    let conn = rig.join(1, "10.0.1.2:5000", "10.0.1.2");
    rig.mints = false;
    become_(&mut rig, EffectiveNetwork::Public);
    assert!(rig.clusters(conn).is_empty());
    rig.feed(Input::Credential { conn, credential: None });
    assert_eq!(rig.refusal(conn), Some(Code::ClusterChanged));
}

#[test]
fn a_credential_that_comes_too_late_is_not_handed_out() {
    let mut rig = Rig::new(EffectiveNetwork::Private);
    let conn = rig.join(1, "10.0.1.2:5000", "10.0.1.2");
    rig.mints = false;
    become_(&mut rig, EffectiveNetwork::Public);
    become_(&mut rig, EffectiveNetwork::Private);
    rig.feed(Input::Credential { conn, credential: None });
    assert_eq!(rig.clusters(conn), [(EffectiveNetwork::Private, false)]);
    assert_eq!(rig.refusal(conn), None);
    // An old credential is no way into the picture either.
    rig.observe(conn, "20.0.0.11:7000");
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)));
    assert!(rig.dial_back().is_none());
}

#[test]
fn a_public_cluster_wants_proof_within_a_minute() {
    let public = of_kind(ClusterNetwork::Public, EffectiveNetwork::Public);
    let mut rig = Rig::with(Limits::default(), public.clone());
    let conn = rig.join(1, "20.0.0.11:5000", "20.0.0.11");
    let undefined = Some((NetworkClass::PublicUndefined, Evidence::Observed));
    assert_eq!(rig.class(conn), undefined);
    rig.observe(conn, "20.0.0.11:7000");
    rig.live(58 * S);
    assert_eq!((rig.class(conn), rig.refusal(conn)), (undefined, None));
    let tries = rig.log.iter().filter(|output| matches!(output, Output::DialBack { .. })).count();
    assert!((4..=6).contains(&tries), "{tries} dial-backs");
    rig.live(3 * S);
    assert_eq!(rig.refusal(conn), Some(Code::Unreachable));

    let mut rig = Rig::with(Limits::default(), public);
    let conn = rig.join(1, "20.0.0.11:5000", "20.0.0.11");
    rig.live(40 * S);
    assert_eq!(rig.refusal(conn), None, "not even a Binding yet, but there is time");
    rig.observe(conn, "20.0.0.11:7000");
    prove(&mut rig, conn);
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicReachable, Evidence::Proven)));
    rig.live(100 * S);
    assert_eq!(rig.refusal(conn), None);
    // It moves to a port that nobody has proven: the clock runs again.
    rig.observe(conn, "20.0.0.11:7001");
    assert_eq!(rig.class(conn), undefined);
    rig.live(61 * S);
    assert_eq!(rig.refusal(conn), Some(Code::Unreachable));
}

#[test]
fn a_proof_is_good_for_its_mapping_alone() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(conn, "20.0.0.11:7000");
    let (_, stale) = rig.dial_back().unwrap();
    rig.observe(conn, "20.0.0.11:7001");
    rig.say(conn, ClientMessage::DialBackSeen { nonce: stale });
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)), "it is elsewhere by now");
    rig.live(11 * S);
    let (to, nonce) = rig.dial_back().unwrap();
    assert_eq!(to, addr("20.0.0.11:7001"));
    rig.say(conn, ClientMessage::DialBackSeen { nonce });
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicReachable, Evidence::Proven)));
    // Another family beside it takes nothing away; another mapping of its own does.
    rig.live(11 * S);
    rig.observe(conn, "[2606:4700::9]:7000");
    rig.live(15 * S);
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicReachable, Evidence::Proven)));
    rig.observe(conn, "20.0.0.12:7001");
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)));
}

#[test]
fn a_node_that_moves_is_judged_where_it_is() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    // Its own address is public; then packets come from elsewhere: there is a NAT by now.
    let conn = rig.join(1, "20.0.0.11:5000", "20.0.0.11");
    rig.observe(conn, "20.0.0.11:7000");
    rig.live(2 * S);
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicUndefined, Evidence::Observed)));
    rig.observe(conn, "20.0.0.77:7000");
    rig.live(12 * S);
    assert_eq!(rig.class(conn), Some((NetworkClass::Private, Evidence::Observed)));
    // A named address counts only while the server sees it.
    let named = |hello: &mut Hello| {
        hello.node_addr = Some(addr("20.0.0.12:7000"));
        hello.declared = Some(NetworkType::Public);
    };
    let conn = join_as(&mut rig, 2, "20.0.0.12:5000", "10.0.1.2", named);
    assert_eq!(rig.class(conn), Some((NetworkClass::PublicReachable, Evidence::Declared)));
    rig.observe(conn, "20.0.0.12:7000");
    rig.observe(conn, "20.0.0.78:7000");
    assert_eq!(rig.rows(id(2)).last(), Some(&"address/named-elsewhere"));
    rig.live(30 * S);
    // Moving on prolongs nothing.
    rig.observe(conn, "20.0.0.79:7000");
    rig.live(29 * S);
    assert_eq!(rig.refusal(conn), None);
    rig.live(2 * S);
    assert_eq!(rig.refusal(conn), Some(Code::NodeAddrMismatch));
}

#[test]
fn relayed_nodes_are_kept_where_the_operator_says_so() {
    let relaying = |admit_relayed| ClusterConfig { admit_relayed, ..config(EffectiveNetwork::Public) };
    let mut rig = Rig::with(Limits::default(), relaying(true));
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.join(2, "20.0.0.12:5000", "10.0.1.2");
    rig.live(11 * S);
    let relayed = |rig: &Rig, to: ConnId| {
        rig.sent(to).any(|message| match message {
            ServerMessage::Classified { class, relayed, .. } => {
                *class == NetworkClass::Unreachable && *relayed
            }
            ServerMessage::Peers { peers } => peers.iter().any(|peer| peer.id == id(1) && peer.relayed),
            _ => false,
        })
    };
    assert!(relayed(&rig, conn) && relayed(&rig, ConnId(2)));
    rig.feed(Input::Cluster(relaying(false)));
    rig.live(59 * S);
    assert_eq!(rig.refusal(conn), None);
    rig.live(2 * S);
    assert_eq!(rig.refusal(conn), Some(Code::Unreachable));
    // In a PUBLIC cluster every member proves itself, whatever the option says.
    let public =
        ClusterConfig { admit_relayed: true, ..of_kind(ClusterNetwork::Public, EffectiveNetwork::Public) };
    let mut rig = Rig::with(Limits::default(), public);
    let conn = rig.join(1, "20.0.0.11:5000", "20.0.0.11");
    rig.live(61 * S);
    assert_eq!(rig.refusal(conn), Some(Code::Unreachable));
}

/// A proven target at 20.0.0.2, and members at as many other addresses, the first of them its accomplice.
fn towards_a_proven_node(others: u8) -> (Rig, ConnId, Vec<ConnId>) {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let target = rig.join(2, "20.0.1.2:5000", "20.0.1.2");
    rig.observe(target, "20.0.1.2:7000");
    prove(&mut rig, target);
    let others = (3..3 + others).map(|n| {
        let conn = rig.join(n, &format!("20.0.1.{n}:5000"), "10.0.1.2");
        rig.observe(conn, &format!("20.0.1.{n}:7000"));
        conn
    });
    let others = others.collect();
    (rig, target, others)
}

/// The newest member that the broker drew for a target that waits, and their ticket.
fn drawn(rig: &Rig, target: ConnId) -> Option<(ConnId, TicketId)> {
    let last =
        rig.introductions(target).into_iter().rfind(|half| !half.active && half.requests.is_empty())?;
    let has_other_half = |conn: &ConnId| {
        let halves = rig.introductions(*conn);
        halves.iter().any(|half| half.ticket == last.ticket && half.active && half.requests.is_empty())
    };
    let mut others = rig.sessions.iter().map(|(conn, _)| *conn).filter(|conn| *conn != target);
    Some((others.find(has_other_half)?, last.ticket))
}

fn met(
    rig: &mut Rig,
    (target, target_says): (ConnId, bool),
    (witness, says): (ConnId, bool),
    ticket: TicketId,
) {
    // Nobody else, and not the witness, speaks for the target.
    rig.say(witness, ClientMessage::Unsolicited { ticket });
    if target_says {
        rig.say(target, ClientMessage::Unsolicited { ticket });
    }
    if says {
        let outcome = TicketOutcome::Direct { elapsed_ms: 7 };
        rig.say(witness, ClientMessage::TicketResult { ticket, outcome, rtt_us: None });
    }
    rig.drain();
}

/// The next witness, asked for until then.
fn next_drawn(rig: &mut Rig, target: ConnId, patience: Duration) -> Option<(ConnId, TicketId)> {
    let (before, end) = (drawn(rig, target), rig.now + patience);
    while rig.now < end && drawn(rig, target) == before {
        rig.live(5 * S);
        let chatter =
            |message: &_| matches!(message, ServerMessage::Ping { .. } | ServerMessage::Pong { .. });
        rig.log.retain(|output| !matches!(output, Output::Send { message, .. } if chatter(message)));
    }
    drawn(rig, target).filter(|_| drawn(rig, target) != before)
}

/// The wait, and by how much it may be prolonged.
fn patience() -> Duration {
    Limits::default().unsolicited_after * 3 / 2 + 2 * S
}

#[test]
fn an_open_node_is_met_by_strangers_that_the_broker_draws() {
    // Other members, the target says so, the witnesses do, open.
    let cases = [
        (2, true, true, true),
        (5, true, true, true),
        (2, false, true, false),
        (2, true, false, false),
        (1, true, true, false),
        (0, true, true, false),
    ];
    for case in cases {
        let (others, target_says, witnesses_say, open) = case;
        let (mut rig, target, _) = towards_a_proven_node(others);
        rig.live(Limits::default().unsolicited_after - 5 * S);
        assert_eq!(drawn(&rig, target), None, "too early: {case:?}");
        let mut wait = patience();
        while let Some((witness, ticket)) = next_drawn(&mut rig, target, wait) {
            met(&mut rig, (target, target_says), (witness, witnesses_say), ticket);
            wait = 6 * S;
        }
        let class = if open { NetworkClass::PublicOpen } else { NetworkClass::PublicReachable };
        assert_eq!(rig.class(target), Some((class, Evidence::Proven)), "{case:?}");
        rig.observe(target, "20.0.1.2:7001");
        assert_eq!(rig.class(target), Some((NetworkClass::PublicUndefined, Evidence::Observed)));
    }
}

/// Attack: a node and its accomplice say of each other what makes a node open.
#[test]
fn two_colluders_do_not_earn_the_word() {
    for (defended, class) in [(false, NetworkClass::PublicOpen), (true, NetworkClass::PublicReachable)] {
        let (mut rig, target, others) = towards_a_proven_node(3);
        let accomplice = others[0];
        if !defended {
            rig.broker.set_defence_off(Defence::DrawnWitness);
        }
        rig.live(Limits::default().unsolicited_after);
        rig.say(
            accomplice,
            ClientMessage::Connect { request: 1, peer: "node-2".into(), wait: false, handshake: None },
        );
        let ticket = rig.introductions(target).last().unwrap().ticket;
        met(&mut rig, (target, true), (accomplice, true), ticket);
        assert_eq!(rig.class(target), Some((class, Evidence::Proven)), "defended: {defended}");
        // They go on for hours, and say yes whenever they are asked; strangers do not find a way in.
        let (mut asked, end) = (0, rig.now + 14_400 * S);
        while rig.now < end {
            let Some((witness, ticket)) = next_drawn(&mut rig, target, 3_600 * S) else { continue };
            asked += u32::from(witness == accomplice);
            met(&mut rig, (target, true), (witness, witness == accomplice), ticket);
        }
        assert_eq!(asked > 0, defended, "the accomplice was drawn too");
        assert_eq!(rig.class(target), Some((class, Evidence::Proven)), "defended: {defended}");
    }
}

/// A witness is somebody whom the node has not been shown, and who is elsewhere by all its addresses.
#[test]
fn a_witness_is_a_stranger_from_elsewhere() {
    let (mut rig, target, others) = towards_a_proven_node(1);
    // The same site, by its mapping or by its control connection.
    for (n, source, mapping) in
        [(20, "20.0.1.2:5001", "20.0.9.1:7000"), (21, "20.0.9.2:5000", "20.0.1.2:7001")]
    {
        let conn = rig.join(n, source, "10.0.1.2");
        rig.observe(conn, mapping);
    }
    rig.live(Limits::default().unsolicited_after - 20 * S);
    rig.say(
        target,
        ClientMessage::Connect { request: 1, peer: "node-3".into(), wait: false, handshake: None },
    );
    assert_eq!(rig.introductions(others[0]).len(), 1);
    rig.live(Limits::default().unsolicited_after - 20 * S);
    assert_eq!(drawn(&rig, target), None);
    let (witness, _) = next_drawn(&mut rig, target, patience()).expect("long forgotten");
    assert_eq!(witness, others[0]);
}

/// The ten minutes go on for a node that comes back at once, and where it was shown to send is remembered.
#[test]
fn a_short_absence_begins_nothing_anew() {
    let memory = Limits::default().unsolicited_after;
    let (mut rig, target, _) = towards_a_proven_node(1);
    rig.live(memory - 20 * S);
    rig.say(target, ClientMessage::Leave);
    rig.live(10 * S);
    let back = rig.join(2, "20.0.1.2:5000", "20.0.1.2");
    rig.observe(back, "20.0.1.2:7000");
    prove(&mut rig, back);
    rig.live(memory / 2 + 12 * S);
    assert!(drawn(&rig, back).is_some());
    // Longer than it is remembered.
    rig.say(back, ClientMessage::Leave);
    rig.live(memory + S);
    let again = rig.join(2, "20.0.1.2:5000", "20.0.1.2");
    rig.observe(again, "20.0.1.2:7000");
    prove(&mut rig, again);
    rig.live(memory - 5 * S);
    assert_eq!(drawn(&rig, again), None);
}

/// A lie, told by a pair that helps each other; what it must not bring.
#[test]
fn a_colluding_pair_proves_nothing() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let node = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(node, "20.0.0.11:7000");
    let (to, nonce) = rig.dial_back().unwrap();
    let colluder = rig.join(2, "20.0.0.12:5000", "20.0.0.12");
    rig.observe(colluder, "20.0.0.12:7000");
    let (own, _) = rig.dial_back().unwrap();
    assert_eq!((to, own), (addr("20.0.0.11:7000"), addr("20.0.0.12:7000")));
    // The nonce went to one node's mapping: it says nothing of whoever else reports it.
    rig.say(colluder, ClientMessage::DialBackSeen { nonce });
    rig.live(2 * S);
    assert_eq!(rig.class(colluder), Some((NetworkClass::PublicUndefined, Evidence::Observed)));
    assert_eq!(rig.class(node), Some((NetworkClass::Private, Evidence::Observed)));
    // A guess, a repetition and a late word are worth nothing either.
    for nonce in [DialBackNonce::from_bytes([0; 16]), nonce] {
        rig.say(node, ClientMessage::DialBackSeen { nonce });
        assert_eq!(rig.class(node), Some((NetworkClass::Private, Evidence::Observed)));
    }
    assert!(rig.dial_back().is_some_and(|(to, _)| to == own), "dial-backs go to observed mappings only");
}

#[test]
fn what_a_node_says_of_itself_gains_nothing() {
    type Change = fn(&mut Hello);
    let nat = |h: &mut Hello| h.local_ip = "20.0.0.11".parse().unwrap();
    let cases: &[(Change, Result<NetworkClass, Code>)] = &[
        // Somebody else's address, even with a declaration on top.
        (|h| h.node_addr = Some(addr("20.66.66.66:53")), Err(Code::NodeAddrMismatch)),
        (
            |h| {
                h.node_addr = Some(addr("20.66.66.66:53"));
                h.declared = Some(NetworkType::Public);
            },
            Err(Code::NodeAddrMismatch),
        ),
        (|h| h.declared = Some(NetworkType::Public), Err(Code::DeclaredPublicButPrivate)),
        // The source it is seen at as its own address: it counts as public and undefined, not as reachable.
        (nat, Ok(NetworkClass::PublicUndefined)),
        (|h| h.node_addr = Some(addr("20.0.0.11:9")), Ok(NetworkClass::PublicUndefined)),
    ];
    for (change, expect) in cases {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let conn = join_as(&mut rig, 1, "20.0.0.11:5000", "10.0.1.2", change);
        if let Ok(class) = expect {
            let open = NatBehavior {
                mapping: Some(Mapping::None),
                filtering: Some(Filtering::EndpointIndependent),
                ..NatBehavior::default()
            };
            rig.say(conn, ClientMessage::Behavior { behavior: open });
            rig.say(
                conn,
                ClientMessage::Candidates {
                    host: vec![addr("20.66.66.66:53")],
                    relay: vec![],
                    mapped: vec![],
                },
            );
            rig.observe(conn, "20.0.0.11:7000");
            rig.live(2 * S);
            assert_eq!(rig.class(conn), Some((*class, Evidence::Observed)));
            let peer = rig.join(2, "20.0.0.12:5000", "10.0.1.2");
            rig.observe(peer, "20.0.0.12:7000");
            rig.say(
                peer,
                ClientMessage::Connect { request: 1, peer: "node-1".into(), wait: false, handshake: None },
            );
            let half = rig.introductions(peer)[0];
            assert!(half.candidates.iter().all(|c| c.addr.ip().to_string() == "20.0.0.11"), "{half:?}");
            assert!(rig.introductions(conn)[0].active, "a claim spares it no work");
        } else {
            assert_eq!(rig.refusal(conn), expect.err());
        }
        // A PRIVATE cluster takes no public source, whatever it says.
        let mut rig = Rig::new(EffectiveNetwork::Private);
        let conn = join_as(&mut rig, 1, "20.0.0.11:5000", "10.0.1.2", change);
        assert!(rig.refusal(conn).is_some());
    }
}
