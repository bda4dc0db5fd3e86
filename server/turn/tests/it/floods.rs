//! What strangers can make a server with a relay send, and keep.
//!
//! Two bounds hold for whoever writes other people's addresses on packets. One victim gets no more
//! than its source's budget. And in all, answers longer than their question come out of one
//! budget, so that beyond it nobody gets more bytes than were sent in his name.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use meetpoint_turn::message::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, REFRESH, SEND, TransactionId,
};
use meetpoint_turn::{Input, Output, Payload, attr};

use crate::common::{CLIENT, CLIENT6, ID, PRIMARY_MAIN, Rig, addr, error, plain, request_with, square};
use crate::turn::{A, CHANNEL, PEER, TurnRig, UDP, channel_data, relay_config, turn, with, write};

/// IPv4 and UDP, IPv6 and UDP.
const HEADER_LENS: [usize; 2] = [28, 48];
const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);

fn question(method: u16, attributes: &[A<'_>]) -> Payload {
    write(Class::Request, method, ID, attributes).finish()
}

/// As long as a client's, and wrong.
fn forged(method: u16) -> Payload {
    let mut writer = write(Class::Request, method, ID, &[TRANSPORT]);
    writer.attribute(attr::USERNAME, b"1800003600:somebody");
    writer.attribute(attr::REALM, b"meetpoint");
    writer.attribute(attr::NONCE, b"obMatJos2gAAAaaaaaaaaaaa");
    writer.attribute(attr::MESSAGE_INTEGRITY, &[0; 20]);
    writer.finish()
}

/// Everything a stranger can say that is answered, and some that is not.
fn questions() -> Vec<Payload> {
    let mut all =
        vec![plain(), request_with(&[(attr::USERNAME, b"")]), request_with(&[(attr::USERNAME, b"a")])];
    for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        all.push(question(method, &[]));
        all.push(question(method, &[A::Raw(attr::DONT_FRAGMENT, b"")]));
        all.push(question(method, &[TRANSPORT]));
        all.push(forged(method));
    }
    all.push(forged(BINDING));
    all.push(request_with(&[(0x4242, b"")]));
    all.push(request_with(&[(attr::MESSAGE_INTEGRITY, &[0; 20])]));
    let fingerprinted = all.clone().into_iter().map(|payload| {
        let message = meetpoint_turn::message::Message::parse(&payload).expect("our own");
        let mut writer = meetpoint_turn::Writer::new(Class::Request, message.method(), ID);
        for attribute in message.attributes() {
            writer.attribute(attribute.kind, attribute.value);
        }
        writer.fingerprint();
        writer.finish()
    });
    let fingerprinted: Vec<_> = fingerprinted.collect();
    all.extend(fingerprinted);
    all
}

/// A plain Binding answer is at most 1.6 times its question, 2.2 times over IPv6; a challenge 3.0
/// times, and 2.0 times with the headers of IP and UDP; whatever else is no longer than these.
#[test]
fn no_answer_is_much_longer_than_its_question() {
    for (source, header_len, binding_tenths) in [(CLIENT, HEADER_LENS[0], 16), (CLIENT6, HEADER_LENS[1], 22)]
    {
        for question in questions() {
            let answer = turn().give(source, &question);
            let Some(answer) = answer else { continue };
            let (asked, sent) = (question.len(), answer.len());
            let code = error(&answer);
            let tenths = if code.is_none() { binding_tenths } else { 30 };
            assert!(10 * sent <= tenths * asked, "{code:?}: {sent} bytes for {asked}");
            let (asked, sent) = (asked + header_len, sent + header_len);
            assert!(sent <= 2 * asked, "{code:?}: {sent} bytes for {asked} on the wire");
        }
    }
}

/// The addresses of RFC 5780 are told beyond that, and then out of the budget of all.
#[test]
fn the_addresses_of_discovery_are_told_within_a_budget() {
    let mut rig = Rig::new(square());
    let mut lens = [0; 2];
    for n in 0..10_000_u32 {
        let source = SocketAddr::from((Ipv4Addr::from_bits(0x3000_0000 + n), 9));
        let sent = given(&mut rig, source, &plain());
        lens[usize::from(sent == 32)] += 1;
    }
    assert_eq!(lens, [2000, 8000], "the burst is spent, and all others are answered plainly");
}

/// What one datagram makes a machine send, in bytes.
fn given(rig: &mut Rig, source: SocketAddr, payload: &[u8]) -> usize {
    rig.server.handle(rig.now, Input::Datagram { listener: PRIMARY_MAIN, source, payload });
    let mut sent = 0;
    while let Some(output) = rig.server.poll_output() {
        let Output::Transmit { to, payload, .. } = output else { panic!("{output:?}") };
        assert_eq!(to, source);
        sent += payload.len();
    }
    sent
}

/// Challenges in one name, whatever they answer: 200 a second and a burst of 400.
#[test]
fn a_victim_is_sent_a_bounded_number_of_challenges() {
    for payload in [question(ALLOCATE, &[TRANSPORT]), forged(ALLOCATE), forged(BINDING), forged(REFRESH)] {
        let mut turn = turn();
        let mut sent = 0;
        for _ in 0..100_000 {
            sent += usize::from(given(&mut turn.rig, addr(CLIENT), &payload) > 0);
            turn.rig.pass(Duration::from_micros(100));
        }
        assert!((2000..=2400).contains(&sent), "{sent} in ten seconds");
        let errors = turn.rig.counters().errors;
        assert_eq!(errors.unauthenticated + errors.stale_nonce, sent as u64);
    }
}

/// Challenges in all names together: 1000 a second and a burst of 2000 of those that are longer than
/// their question; of the others as many as are asked for, since they make nothing longer.
#[test]
fn challenges_that_amplify_are_bounded_in_all() {
    let check = |payload: &[u8], is_bounded: bool| {
        let mut turn = turn();
        let (mut answered, mut sent) = (0, 0);
        for n in 0..100_000_u32 {
            let source = SocketAddr::from((Ipv4Addr::from_bits(0x3000_0000 + n), 9));
            let len = given(&mut turn.rig, source, payload);
            answered += usize::from(len > 0);
            sent += len;
            turn.rig.pass(Duration::from_micros(33));
        }
        // 3.3 seconds.
        let expected = if is_bounded { 4_500..=5_400 } else { 100_000..=100_000 };
        assert!(expected.contains(&answered), "{answered}");
        assert!(is_bounded || sent <= 100_000 * payload.len());
    };
    check(&question(ALLOCATE, &[TRANSPORT]), true);
    check(&question(REFRESH, &[]), true);
    check(&forged(ALLOCATE), false);
    check(&forged(BINDING), false);
}

/// Nothing that is not a good question is answered.
#[test]
fn garbage_is_not_answered() {
    let id = TransactionId([3; 12]);
    let data = A::Raw(attr::DATA, b"x");
    let mut wrong_fingerprint = question(ALLOCATE, &[TRANSPORT]).to_vec();
    wrong_fingerprint.extend([0x80, 0x28, 0, 4, 0, 0, 0, 0]);
    wrong_fingerprint[3] += 8;
    let mut check = {
        let mut turn = turn();
        move |payload: &[u8]| assert_eq!(given(&mut turn.rig, addr(CLIENT), payload), 0, "{payload:?}")
    };
    check(b"");
    check(&[0; 20]);
    check(&[0xFF; 64]);
    check(&plain()[..19]);
    check(&[&plain()[..], &[0; 4]].concat());
    check(&wrong_fingerprint);
    check(&channel_data(CHANNEL, b"x"));
    check(&write(Class::Indication, SEND, id, &[A::Peer(PEER), data]).finish());
    check(&write(Class::Indication, BINDING, id, &[]).finish());
    check(&write(Class::Success, ALLOCATE, id, &[]).finish());
    check(&write(Class::Error, ALLOCATE, id, &[]).finish());
    check(&write(Class::Request, 0x00C, id, &[]).finish());
}

/// A million packets from sources that do not exist, of each kind: the machine holds what it held, and a
/// good client relays as before.
#[test]
fn a_flood_leaves_nothing_behind() {
    const PACKETS: usize = 1_000_000;
    let mut turn = with(|config| config.relay = Some(relay_config()));
    let client = turn.client("alice", "20.0.1.7:7");
    turn.allocate(&client);
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
    let garbage: Vec<u8> = vec![0xFF; 64];
    let mut all: Vec<Vec<u8>> = questions().into_iter().map(Vec::from).collect();
    all.extend([garbage, channel_data(CHANNEL, b"x")]);
    let before = turn.rig.server.relay_sizes();
    let mut relayed = 0;
    let grown = allocation_counter::measure(|| relayed = flood(&mut turn, &all, PACKETS));
    assert_eq!(grown.bytes_current, 0, "nothing is kept");
    assert!(grown.bytes_max < 4096, "and little is held at once: {} bytes", grown.bytes_max);
    assert_eq!((turn.rig.server.relay_sizes(), relayed), (before, PACKETS / 1000));
    assert!(turn.rig.counters().bytes_out < turn.rig.counters().bytes_in);
}

/// Gives so many packets, 30,000 a second, and returns how often the good client relayed in between.
fn flood(turn: &mut TurnRig, all: &[Vec<u8>], packets: usize) -> usize {
    let framed = channel_data(CHANNEL, b"still here");
    let mut relayed = 0;
    for (n, payload) in all.iter().cycle().take(packets).enumerate() {
        let spoofed = 0x3000_0000 + (n as u32).wrapping_mul(0x9E37_79B1) % 0x1000_0000;
        given(&mut turn.rig, (Ipv4Addr::from_bits(spoofed), 9).into(), payload);
        turn.rig.now += Duration::from_secs(1) / 30_000;
        if n.is_multiple_of(1000) {
            let source = addr("20.0.1.7:7");
            let relay = turn.rig.server.datagram(turn.rig.now, PRIMARY_MAIN, source, &framed);
            relayed += usize::from(relay.is_some());
        }
    }
    relayed
}
