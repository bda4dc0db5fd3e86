//! Introductions, checks and paths: two agents, or one and a forger.

use std::time::Duration;

use crate::rig::{MS, Rig, UNIX_S, addr, carry, config};
use ed25519_dalek::SigningKey;
use meetpoint_agent::{Input, Output, Socket, Way};
use meetpoint_proto::wire::{ClientMessage, Introduction, Refusal, ServerMessage, TicketOutcome};
use meetpoint_proto::{Code, EffectiveNetwork, NodeId, TicketId};

const LIFETIME: Duration = Duration::from_secs(10);

fn pair() -> (Rig, Rig) {
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    a.join();
    b.join();
    (a, b)
}

/// Node 1 asks for node 2, and the server introduces them.
fn introduce(a: &mut Rig, b: &mut Rig, ticket: u8) {
    a.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    let number = connect_number(a);
    a.introduce(Introduction { requests: vec![number], ..a.introduction(ticket, 2, &["20.0.0.2:4000"]) });
    b.introduce(b.introduction(ticket, 1, &["20.0.0.1:4000"]));
}

fn connect_number(rig: &mut Rig) -> u32 {
    let messages = rig.messages();
    let number = messages.iter().find_map(|message| match message {
        ClientMessage::Connect { request, .. } => Some(*request),
        _ => None,
    });
    number.unwrap_or_else(|| panic!("no connect in {messages:?}"))
}

fn ended(log: &[Output]) -> Vec<(u32, Result<NodeId, Code>)> {
    let ended = log.iter().filter_map(|output| match output {
        Output::ConnectEnded { request, result } => {
            Some((*request, result.as_ref().map(|id| *id).map_err(|refusal| refusal.code)))
        }
        _ => None,
    });
    ended.collect()
}

fn results(log: &[Output]) -> Vec<TicketOutcome> {
    let results = log.iter().filter_map(|output| match output {
        Output::SendControl(ClientMessage::TicketResult { outcome, .. }) => Some(*outcome),
        _ => None,
    });
    results.collect()
}

#[test]
fn two_nodes_meet() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    carry(&mut a, &mut b);
    let log = a.take();
    let path_at = log.iter().position(|output| matches!(output, Output::Path { path: Some(_), .. }));
    let ended_at = log.iter().position(|output| matches!(output, Output::ConnectEnded { .. }));
    assert!(path_at < ended_at && path_at.is_some(), "the path comes first: {log:?}");
    assert_eq!(ended(&log), [(5, Ok(b.id()))]);
    assert_eq!(results(&log), [TicketOutcome::Direct { elapsed_ms: 0 }]);
    let paths = b.paths();
    assert!(matches!(paths[..], [Some(path)] if path.way == Way::main(a.main())), "{paths:?}");
    // Consent keeps both for as long as both are there.
    for _ in 0..600 {
        a.advance(100 * MS);
        b.advance(100 * MS);
        carry(&mut a, &mut b);
    }
    assert!(a.paths().iter().chain(&b.paths()).all(Option::is_some));
    a.input(Input::Connect { request: 6, peer: b.id().to_string(), wait: false });
    assert_eq!(ended(&a.take()), [(6, Ok(b.id()))], "there is a path already");
}

/// A side may be sure of its way before the other is of its own: what comes from there is accepted
/// from the first valid check on, and no longer than there is a ticket or a path.
#[test]
fn a_peer_is_heard_before_there_is_a_path() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    b.take();
    let check = a.sent.remove(0).2;
    b.datagram(a.main(), &check);
    b.datagram(addr("20.0.0.66:1"), &check);
    let log = b.take();
    assert!(matches!(log[..], [Output::Hear { way, .. }] if way == Way::main(a.main())), "{log:?}");
    b.advance(LIFETIME);
    let log = b.take();
    assert!(log.iter().any(|output| matches!(output, Output::Path { path: None, .. })), "{log:?}");
}

/// Each row is an introduction that is refused: nothing is sent, and the request ends.
#[test]
fn refused_introductions_table() {
    type Change = fn(&Rig, &mut Introduction);
    let cases: &[(&str, Code, Change)] = &[
        ("expired", Code::BadCertificate, |rig, introduction| {
            let mut certificate = rig.certificate(2);
            certificate.not_after_unix_s = UNIX_S;
            introduction.certificate = rig.resign(&certificate);
        }),
        ("signed by another key", Code::BadCertificate, |rig, introduction| {
            introduction.certificate = rig.certificate(2).sign(&SigningKey::from_bytes(&[98; 32]));
        }),
        ("another cluster", Code::BadCertificate, |rig, introduction| {
            let mut certificate = rig.certificate(2);
            certificate.cluster = "other".parse().unwrap();
            introduction.certificate = rig.resign(&certificate);
        }),
        ("the node itself", Code::SelfConnect, |rig, introduction| {
            introduction.certificate = rig.resign(&rig.certificate(1));
        }),
        ("somebody else's words under the signature", Code::BadCertificate, |rig, introduction| {
            introduction.certificate = rig.resign(&rig.certificate(2));
            introduction.certificate.node_id = NodeId::from(&config(3).key);
        }),
    ];
    for (name, code, change) in cases {
        let mut rig = Rig::new(1);
        rig.join();
        rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
        let requests = vec![connect_number(&mut rig)];
        let mut introduction = Introduction { requests, ..rig.introduction(1, 2, &["20.0.0.2:4000"]) };
        change(&rig, &mut introduction);
        rig.introduce(introduction);
        rig.advance(LIFETIME);
        assert!(rig.sent.is_empty(), "{name}");
        assert_eq!(ended(&rig.take()), [(5, Err(*code))], "{name}");
        assert_eq!(rig.agent.counters().tickets_refused, 1, "{name}");
    }
}

#[test]
fn a_request_is_not_answered_with_somebody_else() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    let requests = vec![connect_number(&mut rig)];
    rig.introduce(Introduction { requests, ..rig.introduction(1, 3, &["20.0.0.3:4000"]) });
    assert_eq!(ended(&rig.take()), [(5, Err(Code::BadCertificate))]);
}

#[test]
fn a_ticket_is_used_once() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    carry(&mut a, &mut b);
    a.advance(LIFETIME);
    b.advance(LIFETIME);
    carry(&mut a, &mut b);
    let before = a.agent.counters().checks_sent;
    a.introduce(a.introduction(1, 2, &["20.0.0.2:4000", "20.0.0.77:1"]));
    assert_eq!(a.agent.counters().checks_sent, before);
    assert_eq!(a.agent.counters().tickets_refused, 1);
}

#[test]
fn a_ticket_runs_out_in_time_and_bounds_its_checks() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    let requests = vec![connect_number(&mut rig)];
    let candidates: Vec<String> = (0..40).map(|n| format!("20.0.3.{n}:4000")).collect();
    let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
    rig.introduce(Introduction { requests, ..rig.introduction(1, 2, &candidates) });
    rig.advance(LIFETIME - MS);
    assert!(rig.take().is_empty(), "not before its time");
    rig.advance(MS);
    let log = rig.take();
    assert_eq!(ended(&log), [(5, Err(Code::NoPath))]);
    assert_eq!(results(&log), [TicketOutcome::Failed]);
    assert!(rig.sent.len() <= 128 + 16, "{}", rig.sent.len());
    let mut targets: Vec<_> = rig.sent.iter().map(|(_, to, _)| *to).collect();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), 16);
}

#[test]
fn an_endless_ticket_is_cut_short() {
    let mut rig = Rig::new(1);
    rig.join();
    let endless = Introduction { expires_in_ms: u32::MAX, ..rig.introduction(1, 2, &["20.0.0.2:4000"]) };
    rig.introduce(endless);
    rig.advance(Duration::from_secs(30));
    assert_eq!(results(&rig.take()), [TicketOutcome::Failed]);
    let sent = rig.sent.len();
    rig.advance(Duration::from_secs(3600));
    assert_eq!(rig.sent.len(), sent);
}

/// A server that mints many tickets with one candidate does not make its nodes flood it.
#[test]
fn many_tickets_do_not_flood_one_address() {
    let mut rig = Rig::new(1);
    rig.join();
    for ticket in 0..200 {
        rig.introduce(rig.introduction(ticket, 2 + ticket % 50, &["20.0.0.66:53"]));
    }
    rig.advance(LIFETIME);
    assert!(rig.sent.len() <= 2 * 48, "{}", rig.sent.len());
    assert!(rig.agent.counters().checks_paced > 0);
}

#[test]
fn the_silent_side_answers_and_probes_back() {
    let (mut a, mut b) = pair();
    a.introduce(a.introduction(1, 2, &["20.0.0.2:4000"]));
    b.introduce(Introduction { active: false, ..b.introduction(1, 1, &["20.0.0.1:4000"]) });
    b.advance(5_000 * MS);
    assert!(b.sent.is_empty(), "nothing unasked");
    a.advance(5_000 * MS);
    carry(&mut a, &mut b);
    assert!(matches!(a.paths()[..], [Some(_), ..]) && matches!(b.paths()[..], [Some(_), ..]));
}

/// Where the server only wanted to see whether there is a way, it goes with the ticket; unless somebody wants it by
/// then.
#[test]
fn a_probed_way_is_not_kept_for_nothing() {
    for wanted in [false, true] {
        let (mut a, mut b) = pair();
        a.introduce(Introduction { probe: true, ..a.introduction(1, 2, &["20.0.0.2:4000"]) });
        b.introduce(Introduction { probe: true, active: false, ..b.introduction(1, 1, &["20.0.0.1:4000"]) });
        a.advance(10 * MS);
        carry(&mut a, &mut b);
        assert!(matches!(a.paths().last(), Some(Some(_))) && matches!(b.paths().last(), Some(Some(_))));
        if wanted {
            a.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
        }
        for side in [&mut a, &mut b] {
            side.sent.clear();
            side.advance(1_000 * MS);
        }
        assert_eq!(a.paths().last().is_some_and(Option::is_none), !wanted);
        assert!(b.paths().last().is_some_and(Option::is_none), "nobody has asked there");
        b.advance(60_000 * MS);
        assert!(b.sent.is_empty(), "nothing is left that costs a packet");
    }
}

/// A datagram without its FINGERPRINT, which needs no key and would give a clumsy forger away.
fn bare(datagram: &[u8]) -> Vec<u8> {
    let mut bare = datagram[..datagram.len() - 8].to_vec();
    let len = (bare.len() - 20) as u16;
    bare[2..4].copy_from_slice(&len.to_be_bytes());
    bare
}

/// Everything a stranger can do with what he has seen on the wire.
#[test]
fn forged_checks_table() {
    type Forge = fn(&[u8]) -> Vec<u8>;
    let forgeries: &[(&str, &str, Forge)] = &[
        ("replayed from elsewhere", "20.0.0.66:1", <[u8]>::to_vec),
        ("one bit of the transaction id", "20.0.0.1:4000", |check| {
            let mut check = bare(check);
            check[9] ^= 1;
            check
        }),
        ("integrity cut off", "20.0.0.66:1", |check| {
            // Ends behind USERNAME, with the length to match.
            let mut check = check[..check.len() - 44].to_vec();
            let len = (check.len() - 20) as u16;
            check[2..4].copy_from_slice(&len.to_be_bytes());
            check
        }),
        ("a plain question", "20.0.0.66:1", |check| {
            let mut question = check[..20].to_vec();
            question[2..4].copy_from_slice(&[0, 0]);
            question
        }),
    ];
    for (name, source, forge) in forgeries {
        let (mut a, mut b) = pair();
        introduce(&mut a, &mut b, 1);
        let check = a.sent[0].2.clone();
        b.sent.clear();
        b.datagram(a.main(), &check);
        let answered = b.agent.counters().checks_answered;
        assert_eq!(answered, 1);
        b.sent.clear();
        b.datagram(addr(source), &forge(&check));
        assert!(b.sent.is_empty(), "{name}: {:?}", b.sent);
        assert_eq!(b.agent.counters().checks_answered, 1, "{name}");
    }
}

/// A node's own checks, sent back to it, are worth nothing: each direction has its own key.
#[test]
fn reflected_checks_are_refused() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    let check = a.sent[0].2.clone();
    a.sent.clear();
    a.datagram(b.main(), &check);
    assert!(a.sent.is_empty());
    assert_eq!(a.agent.counters().checks_refused, 1);
}

#[test]
fn an_answer_counts_only_from_where_it_was_asked() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    let check = a.sent.remove(0).2;
    b.sent.clear();
    b.datagram(a.main(), &check);
    let answer =
        b.sent.iter().map(|(_, _, payload)| payload.clone()).find(|payload| payload[0] == 1).unwrap();
    a.datagram(addr("20.0.0.2:4001"), &answer);
    assert!(a.paths().is_empty());
    assert_eq!(a.agent.counters().unsolicited, 1);
    let mut forged = bare(&answer);
    forged[30] ^= 1;
    a.datagram(b.main(), &forged);
    assert!(a.paths().is_empty());
    assert_eq!(a.agent.counters().unsolicited, 2);
    a.datagram(b.main(), &bare(&answer));
    assert!(matches!(a.paths()[..], [Some(_)]));
    a.datagram(b.main(), &answer);
    assert!(a.paths().is_empty(), "an answer counts once");
}

#[test]
fn without_a_ticket_nothing_is_answered() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    let mut stranger = Rig::new(2);
    stranger.join();
    for (_, _, payload) in std::mem::take(&mut a.sent) {
        stranger.datagram(a.main(), &payload);
    }
    assert!(stranger.sent.is_empty());
    assert_eq!(stranger.agent.counters().checks_refused, 1);
}

#[test]
fn candidates_that_are_not_probed() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
    rig.sent.clear();
    let refused = [
        "127.0.0.1:1",
        "10.9.9.9:1",
        "224.0.0.1:1",
        "0.0.0.0:1",
        "20.0.0.1:4000",
        "20.0.1.2:9",
        "[fe80::1]:1",
    ];
    rig.introduce(rig.introduction(1, 2, &refused));
    rig.advance(100 * MS);
    assert!(rig.sent.iter().all(|(_, to, _)| *to == addr("20.0.1.1:3478")), "{:?}", rig.sent);
    assert_eq!(rig.agent.counters().candidates_refused, refused.len() as u64);
}

/// A lost path is told, and asked for anew as long as the application holds the peer.
#[test]
fn lost_paths_are_repaired_while_held() {
    for held in [true, false] {
        let (mut a, mut b) = pair();
        introduce(&mut a, &mut b, 1);
        carry(&mut a, &mut b);
        a.take();
        if !held {
            a.input(Input::Release { peer: b.id() });
            assert!(matches!(a.paths()[..], [None]));
        }
        a.input(Input::Busy { peer: b.id() });
        a.advance(Duration::from_secs(11));
        if held {
            let is_lost = |output: &Output| matches!(output, Output::Path { path: None, .. });
            assert!(a.log.iter().any(is_lost), "{:?}", a.log);
        }
        let asked = a.messages();
        let wants = |message: &ClientMessage| matches!(message, ClientMessage::Connect { peer, wait: true, .. } if *peer == b.id().to_string());
        assert_eq!(asked.iter().any(wants), held, "{asked:?}");
        if held {
            b.advance(Duration::from_secs(11));
            a.introduce(a.introduction(2, 2, &["20.0.0.2:4000"]));
            b.introduce(b.introduction(2, 1, &["20.0.0.1:4000"]));
            carry(&mut a, &mut b);
            let log = a.take();
            assert!(log.iter().any(|output| matches!(output, Output::Path { path: Some(_), .. })));
            assert_eq!(ended(&log), [], "the application never asked twice");
        }
    }
}

#[test]
fn the_other_side_notices_a_release() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    carry(&mut a, &mut b);
    b.take();
    a.advance(1_000 * MS);
    b.advance(1_000 * MS);
    b.input(Input::Busy { peer: a.id() });
    a.input(Input::Release { peer: b.id() });
    for _ in 0..110 {
        a.advance(100 * MS);
        b.advance(100 * MS);
        carry(&mut a, &mut b);
    }
    assert!(matches!(b.paths()[..], [None]));
}

#[test]
fn requests_survive_the_control_connection() {
    let mut rig = Rig::new(1);
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    rig.input(Input::Connect { request: 6, peer: "node-3".to_owned(), wait: false });
    assert!(rig.messages().is_empty(), "nobody to ask yet");
    for _ in 0..2 {
        rig.join_with(|_| {});
        let asked = rig.messages();
        assert_eq!(
            asked.iter().filter(|message| matches!(message, ClientMessage::Connect { .. })).count(),
            2
        );
        rig.input(Input::ControlClosed);
        rig.advance(Duration::from_secs(3));
    }
    rig.input(Input::CancelConnect { request: 5 });
    rig.join_with(|_| {});
    let asked = rig.messages();
    assert!(asked.iter().any(
        |message| matches!(message, ClientMessage::Connect { peer, wait: false, .. } if peer == "node-3")
    ));
    assert_eq!(asked.iter().filter(|message| matches!(message, ClientMessage::Connect { .. })).count(), 1);
    rig.input(Input::CancelConnect { request: 6 });
    assert!(matches!(rig.messages()[..], [ClientMessage::CancelConnect { .. }]));
}

#[test]
fn a_deferred_request_is_asked_again_a_few_times() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    for round in 0..=3 {
        let request = connect_number(&mut rig);
        let refusal = Refusal::new(Code::TooManyIntroductions).retry_after_ms(1_000);
        rig.tell(ServerMessage::ConnectFailed { request, refusal });
        if round < 3 {
            assert_eq!(ended(&rig.take()), [], "round {round}");
        }
        rig.advance(1_000 * MS);
    }
    assert_eq!(ended(&rig.take()), [(5, Err(Code::TooManyIntroductions))]);
}

#[test]
fn a_failed_request_ends() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: false });
    let request = connect_number(&mut rig);
    rig.tell(ServerMessage::ConnectFailed { request: request + 1, refusal: Refusal::new(Code::NoPath) });
    assert_eq!(ended(&rig.take()), [], "not ours");
    rig.tell(ServerMessage::ConnectFailed { request, refusal: Refusal::new(Code::PeerOffline) });
    assert_eq!(ended(&rig.take()), [(5, Err(Code::PeerOffline))]);
}

/// A DYNAMIC cluster that becomes effectively PRIVATE takes its public paths with it.
#[test]
fn a_cluster_that_turns_private_ends_public_paths() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    carry(&mut a, &mut b);
    a.introduce(a.introduction(2, 3, &["20.0.0.3:4000"]));
    a.input(Input::ControlClosed);
    a.advance(Duration::from_secs(2));
    a.sent.clear();
    a.join_with(|welcome| welcome.effective = EffectiveNetwork::Private);
    assert!(a.paths().contains(&None));
    a.advance(Duration::from_secs(60));
    assert!(a.sent.is_empty(), "{:?}", a.sent);
}

/// Another node may take the name of one that left; the name then means that one.
#[test]
fn a_name_that_was_left_is_asked_for_anew() {
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    carry(&mut a, &mut b);
    a.tell(ServerMessage::PeerLeft { id: b.id() });
    a.take();
    a.input(Input::Connect { request: 7, peer: "node-2".to_owned(), wait: true });
    connect_number(&mut a);
    a.input(Input::Connect { request: 8, peer: b.id().to_string(), wait: true });
    assert_eq!(ended(&a.take()), [(8, Ok(b.id()))], "by its id it is still reached");
}

#[test]
fn dial_backs_are_passed_on_once_and_not_without_bound() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
    rig.take();
    let indication = |n: u8| {
        let mut datagram = vec![0x00, 0x11, 0x00, 0x14, 0x21, 0x12, 0xA4, 0x42];
        datagram.extend([0; 12]);
        datagram.extend([0xC0, 0xF1, 0x00, 0x10]);
        datagram.extend([n; 16]);
        datagram
    };
    for _ in 0..3 {
        rig.datagram(addr("20.0.1.2:3479"), &indication(1));
    }
    assert!(matches!(rig.messages()[..], [ClientMessage::DialBackSeen { .. }]), "three copies, one message");
    for n in 0..100 {
        rig.datagram(addr("20.0.0.66:1"), &indication(n));
    }
    assert!(rig.messages().len() <= 8);
    let mut private = Rig::new(1);
    private.join();
    private.datagram(addr("20.0.1.2:3479"), &indication(1));
    assert!(private.messages().is_empty(), "nobody asked for one");
}

#[test]
fn the_shape_of_a_check() {
    // The forged checks above cut integrity and fingerprint off by their lengths.
    let (mut a, mut b) = pair();
    introduce(&mut a, &mut b, 1);
    let (socket, to, check) = &a.sent[0];
    assert_eq!((*socket, *to), (Socket::Main, b.main()));
    // The long form, with the offer of the short one.
    assert_eq!(check.len(), 20 + 4 + 108 + 4 + 36 + 8);
    assert_eq!(TicketId::from_bytes([0; 16]).to_string().len(), 26);
}
