//! What a spoofer can make the server send, and that others do not suffer for it.

use std::net::Ipv4Addr;
use std::time::Duration;

use meetpoint_turn::{
    Config, Input, IntegrityKey, IntegrityKind, Limits, ListenerId, ListenerRole, Output, Rate, attr,
};

use crate::common::{
    CLIENT, PRIMARY_MAIN, Rig, config, error, kinds, listeners, login, lone, plain, request_with, square,
};

/// How many of `count` questions are answered at once.
fn answered(rig: &mut Rig, source: &str, question: &[u8], count: usize) -> usize {
    (0..count).map(|_| rig.give(PRIMARY_MAIN, source, question).len()).sum()
}

fn with_limits(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = config(square());
    change(&mut config.limits);
    config
}

#[test]
fn a_source_gets_its_burst_and_then_its_rate() {
    let mut rig = Rig::with(with_limits(|l| l.source = Rate::new(10, 25)));
    assert_eq!(answered(&mut rig, CLIENT, &plain(), 100), 25);
    assert_eq!(rig.counters().dropped.source_budget, 75);
    rig.pass(Duration::from_millis(99));
    assert_eq!(answered(&mut rig, CLIENT, &plain(), 10), 0);
    rig.pass(Duration::from_millis(1));
    assert_eq!(answered(&mut rig, CLIENT, &plain(), 10), 1);
    rig.pass(Duration::from_secs(1));
    assert_eq!(answered(&mut rig, CLIENT, &plain(), 100), 10);
    rig.pass(Duration::from_secs(3600));
    assert_eq!(answered(&mut rig, CLIENT, &plain(), 100), 25, "no more than the burst");
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
    let check = |first: &str, second: &str, is_same: bool| {
        let mut rig = Rig::with(with_limits(|l| l.source = Rate::new(1, 5)));
        assert_eq!(answered(&mut rig, first, &plain(), 10), 5);
        let left = answered(&mut rig, second, &plain(), 10);
        assert_eq!(left, if is_same { 0 } else { 5 }, "{first} {second}");
    };
    check("20.0.1.1:1", "20.0.1.1:2", true);
    check("20.0.1.1:1", "[::ffff:20.0.1.1]:1", true);
    check("20.0.1.1:1", "20.0.1.2:1", false);
    check("[2a00:1:2:3::1]:1", "[2a00:1:2:3:ffff::9]:1", true);
    check("[2a00:1:2:3::1]:1", "[2a00:1:2:4::1]:1", false);
}

/// Spoofing somebody's address spends what that address gets unproven. What it gets with a nonce
/// that was delivered to it is apart, and bounded too.
#[test]
fn a_proven_source_has_a_budget_of_its_own() {
    let mut rig = Rig::with(with_limits(|l| l.source = Rate::new(1, 5)));
    let mut login = login(&mut rig, CLIENT);
    let good = login.request();
    login.key = IntegrityKey::new(IntegrityKind::Sha1, b"guessed");
    let forged = login.request();
    let observed = |rig: &mut Rig, count: usize| {
        let outputs = (0..count).flat_map(|_| rig.give(PRIMARY_MAIN, CLIENT, &good));
        outputs.filter(|output| matches!(output, Output::Observed { .. })).count()
    };

    assert_eq!(answered(&mut rig, CLIENT, &plain(), 100), 4, "the challenge was the fifth");
    assert_eq!(observed(&mut rig, 100), 5);
    assert_eq!(answered(&mut rig, CLIENT, &forged, 100), 0, "guessing is paid from the same");
    rig.pass(Duration::from_secs(1));
    assert_eq!(observed(&mut rig, 100), 1);

    // Another source's nonce proves nothing, and all ports of an address are one source then.
    let asked = (1..=100).map(|port| rig.ask(&format!("20.0.1.2:{port}"), &good));
    let codes: Vec<_> = asked.flatten().map(|answer| error(&answer)).collect();
    assert_eq!(codes, [Some(438); 5]);
}

#[test]
fn loopback_is_free_only_among_itself() {
    let check = |listener: &str, source: &str, is_free: bool| {
        let all = listeners(&[(ListenerRole::PrimaryMain, listener)]);
        let limits = Limits { source: Rate::new(1, 5), ..Limits::default() };
        let mut rig = Rig::with(Config { limits, ..config(all) });
        let count = answered(&mut rig, source, &plain(), 100);
        assert_eq!(count, if is_free { 100 } else { 5 }, "{listener} {source}");
    };
    check("127.0.0.1:3478", "127.0.0.1:9", true);
    check("127.0.0.1:3478", "[::ffff:127.0.0.1]:9", true);
    check("[::1]:3478", "[::1]:9", true);
    check("127.0.0.1:3478", "20.0.1.1:9", false);
    check("20.0.0.1:3478", "127.0.0.1:9", false);
    check("0.0.0.0:3478", "127.0.0.1:9", false);
}

/// Beyond its budget a Binding answer loses what RFC 5780 adds, and nothing else happens.
#[test]
fn answers_longer_than_their_question_are_trimmed() {
    let mut rig = Rig::with(with_limits(|l| l.amplified = Rate::new(1, 3)));
    let mut lens = vec![];
    for _ in 0..5 {
        lens.push(rig.ask(CLIENT, &plain()).expect("an answer").len());
    }
    assert_eq!(lens, [68, 68, 68, 32, 32]);
    assert_eq!(rig.counters().binding.trimmed, 2);

    // A question as long as the answer costs nothing of it.
    let long = request_with(&[(0xC000, &[0; 44])]);
    let answer = rig.ask(CLIENT, &long).expect("an answer");
    assert_eq!((answer.len(), long.len()), (68, 68));
    rig.pass(Duration::from_secs(1));
    assert_eq!(kinds(&rig.ask(CLIENT, &plain()).expect("an answer")).len(), 4);
}

#[test]
fn challenges_longer_than_their_question_are_not_sent_beyond_their_budget() {
    let mut rig = Rig::with(with_limits(|l| l.amplified = Rate::new(1, 3)));
    let short = request_with(&[(attr::USERNAME, b"1:a")]);
    assert_eq!(answered(&mut rig, CLIENT, &short, 10), 3);
    assert_eq!(rig.counters().dropped.amplified_budget, 7);
    // A username as nodes have it makes the question as long as the challenge.
    let long = request_with(&[(attr::USERNAME, &[b'n'; 60])]);
    assert_eq!(answered(&mut rig, CLIENT, &long, 10), 10);
}

#[test]
fn answers_that_go_elsewhere_have_a_budget_for_all() {
    let mut rig = Rig::with(with_limits(|l| l.redirected = Rate::new(1, 4)));
    let change = request_with(&[(attr::CHANGE_REQUEST, &[0, 0, 0, 6])]);
    let port = request_with(&[(attr::RESPONSE_PORT, &[9, 9, 0, 0])]);
    assert_eq!(answered(&mut rig, "20.0.1.1:1", &change, 3), 3);
    assert_eq!(answered(&mut rig, "20.0.1.2:1", &port, 3), 1);
    // Never from the wrong place instead.
    assert_eq!(answered(&mut rig, "20.0.1.3:1", &change, 1), 0);
    assert_eq!(rig.counters().dropped.redirected_budget, 3);
    assert_eq!(answered(&mut rig, "20.0.1.3:1", &plain(), 1), 1);
}

/// A million sources that do not exist: the machine is as large as before, what it sends is
/// bounded in size, and a good client is answered each time it asks.
#[test]
fn a_flood_of_spoofed_sources_costs_nobody_anything() {
    const PACKETS: u32 = 1_000_000;
    const PER_S: u32 = 30_000;
    let mut rig = Rig::new(lone());
    let garbage = [0xFF; 64];
    let forged = request_with(&[
        (attr::USERNAME, b"1800003600:somebody"),
        (attr::REALM, b"meetpoint"),
        (attr::NONCE, b"obMatJos2gAAAaaaaaaaaaaa"),
        (attr::MESSAGE_INTEGRITY, &[0; 20]),
    ]);
    let questions: [&[u8]; 3] = [&plain(), &forged, &garbage];
    let mut asked = 0;
    let grown = allocation_counter::measure(|| {
        for packet in 0..PACKETS {
            let source = Ipv4Addr::from_bits(0x3000_0000 + packet.wrapping_mul(0x9E37_79B1) % 0x1000_0000);
            let input = Input::Datagram {
                listener: ListenerId(0),
                source: (source, 9).into(),
                payload: questions[packet as usize % 3],
            };
            rig.server.handle(rig.now, input);
            while rig.server.poll_output().is_some() {}
            rig.now += Duration::from_secs(1) / PER_S;
            if packet.is_multiple_of(PER_S / 20) {
                asked += 1;
                let input = Input::Datagram {
                    listener: ListenerId(0),
                    source: ([20, 0, 1, 1], 40000).into(),
                    payload: &plain(),
                };
                rig.server.handle(rig.now, input);
                assert!(rig.server.poll_output().is_some(), "packet {packet}");
            }
        }
    });
    assert!(asked > 600);
    assert_eq!((grown.bytes_current, grown.bytes_max), (0, 0), "nothing was allocated");
    let counters = rig.counters();
    assert_eq!(counters.dropped.not_stun, u64::from(PACKETS / 3));
    assert_eq!(counters.dropped.source_budget, 0, "each source is below its budget");
    assert!(counters.bytes_out < counters.bytes_in, "{counters:?}");
}

/// The victim of a spoofer is sent no more than its budget, and its neighbours lose nothing.
#[test]
fn a_flood_in_one_name_is_bounded() {
    let mut rig = Rig::new(lone());
    let mut sent = 0;
    let mut neighbours = 0;
    for packet in 0..100_000_u32 {
        sent += rig.give(PRIMARY_MAIN, "20.0.1.1:9", &plain()).len();
        if packet.is_multiple_of(1000) {
            neighbours += rig.give(PRIMARY_MAIN, "20.0.1.2:9", &plain()).len();
        }
        rig.pass(Duration::from_micros(100));
    }
    // Ten seconds at 200, and the burst of 400.
    assert!((2390..=2400).contains(&sent), "{sent}");
    assert_eq!(neighbours, 100);
}
