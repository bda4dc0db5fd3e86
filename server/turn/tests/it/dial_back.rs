//! Dial-back probes: from where, to whom, how often.

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_turn::message::{BINDING, Class, Message};
use meetpoint_turn::{Input, Listener, ListenerId, ListenerRole, Output, attr};

use crate::common::{CLIENT, CLIENT6, Rig, addr, kinds, listeners, lone, raw, square};

use ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};

const NONCE: [u8; 16] = *b"sixteen bytes ok";

fn dial_back(rig: &mut Rig, to: SocketAddr) -> Vec<Output> {
    rig.server.handle(rig.now, Input::DialBack { to, nonce: NONCE });
    rig.outputs()
}

/// Runs the machine to its next timer and says when that was, in milliseconds from `start`.
fn next_timer(rig: &mut Rig) -> Option<(Duration, Vec<Output>)> {
    let due = rig.server.poll_timeout()?;
    let waited = due.duration_since(rig.now);
    rig.now = due;
    rig.server.handle_timeout(due);
    Some((waited, rig.outputs()))
}

#[test]
fn a_probe_is_an_indication_with_the_nonce_sent_three_times() {
    let mut rig = Rig::new(square());
    let mut copies = dial_back(&mut rig, addr(CLIENT));
    let mut times_ms = vec![0];
    while let Some((waited, outputs)) = next_timer(&mut rig) {
        times_ms.push(waited.as_millis());
        copies.extend(outputs);
    }
    assert_eq!(times_ms, [0, 200, 400], "at 0, 200 and 600 ms");
    assert_eq!(copies.len(), 3);
    let mut ids = vec![];
    for copy in copies {
        let Output::Transmit { listener, to, payload } = copy else { panic!("{copy:?}") };
        assert_eq!((listener, to), (ListenerId(3), addr(CLIENT)));
        let message = Message::parse(&payload).expect("a good message");
        assert_eq!((message.class(), message.method()), (Class::Indication, BINDING));
        assert_eq!(kinds(&payload), [attr::MEETPOINT_NONCE, attr::FINGERPRINT]);
        assert_eq!(raw(&payload, attr::MEETPOINT_NONCE).as_deref(), Some(&NONCE[..]));
        ids.push(message.transaction_id().0);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let counters = rig.counters().dial_back;
    assert_eq!((counters.started, counters.probes), (1, 3));
}

#[test]
fn a_probe_leaves_from_the_alternate_address_or_not_at_all() {
    let check = |all: Vec<Listener>, to: &str, from: Option<u8>| {
        let mut rig = Rig::new(all.clone());
        let outputs = dial_back(&mut rig, addr(to));
        match (from, &outputs[..]) {
            (Some(from), [Output::Transmit { listener, .. }]) => {
                assert_eq!(*listener, ListenerId(from), "{all:?}");
            }
            (None, [Output::DialBackImpossible { to: target, nonce }]) => {
                assert_eq!((*target, *nonce), (addr(to), NONCE));
                assert_eq!(rig.server.poll_timeout(), None);
                assert_eq!(rig.counters().dial_back.impossible, 1);
            }
            _ => panic!("{all:?} {to}: {outputs:?}"),
        }
    };
    check(square(), CLIENT, Some(3));
    check(square(), CLIENT6, None);
    check(lone(), CLIENT, None);
    let two_ports = listeners(&[(PrimaryMain, "20.0.0.1:3478"), (PrimaryAlt, "20.0.0.1:3479")]);
    check(two_ports, CLIENT, None);
    let two_ips = listeners(&[(PrimaryMain, "20.0.0.1:3478"), (AlternateMain, "20.0.0.2:3478")]);
    check(two_ips, CLIENT, Some(1));
    let ipv6 = listeners(&[
        (PrimaryMain, "20.0.0.1:3478"),
        (PrimaryMain, "[2a00::1]:3478"),
        (AlternateAlt, "[2a00::2]:3479"),
    ]);
    check(ipv6.clone(), CLIENT6, Some(2));
    check(ipv6, CLIENT, None);
}

#[test]
fn the_newest_nonce_takes_over_the_running_probe() {
    let mut rig = Rig::new(square());
    assert_eq!(dial_back(&mut rig, addr(CLIENT)).len(), 1);
    let newest = [9; 16];
    for to in [CLIENT, "[::ffff:20.0.1.1]:40000"] {
        rig.server.handle(rig.now, Input::DialBack { to: addr(to), nonce: newest });
        assert_eq!(rig.outputs().len(), 0, "no more copies than one probe has");
    }
    let mut rest = vec![];
    while let Some((_, outputs)) = next_timer(&mut rig) {
        rest.extend(outputs);
    }
    assert_eq!(rest.len(), 2);
    for copy in rest {
        let Output::Transmit { payload, .. } = copy else { panic!("{copy:?}") };
        assert_eq!(raw(&payload, attr::MEETPOINT_NONCE).as_deref(), Some(&newest[..]));
    }
    assert_eq!(rig.counters().dial_back.probes, 3);
    assert_eq!(dial_back(&mut rig, addr(CLIENT)).len(), 1, "and then another");
}

/// A dial-back is no port scanner and no flood, whoever talks the caller into it.
#[test]
fn probes_are_bounded_per_address_and_in_all() {
    let mut rig = Rig::new(square());
    let scan = (1..=100).map(|port| dial_back(&mut rig, ([20, 0, 1, 1], port).into()).len());
    assert_eq!(scan.sum::<usize>(), 4);

    let mut rig = Rig::new(square());
    let flood = (0..2000_u32).map(|host| {
        let ip = std::net::Ipv4Addr::from_bits(0x1400_0100 + host);
        dial_back(&mut rig, (ip, 9).into()).len()
    });
    assert_eq!(flood.sum::<usize>(), 256);
    while next_timer(&mut rig).is_some() {}
    let counters = rig.counters().dial_back;
    assert_eq!((counters.started, counters.probes, counters.refused), (256, 3 * 256, 2000 - 256));
}

#[test]
fn probes_go_to_hosts() {
    for to in ["20.0.1.1:0", "224.0.0.1:9", "255.255.255.255:9", "0.0.0.0:9", "[ff02::1]:9"] {
        let mut rig = Rig::new(square());
        assert_eq!(dial_back(&mut rig, addr(to)), [], "{to}");
        assert_eq!(rig.counters().dial_back.refused, 1);
    }
}

#[test]
fn a_late_timer_keeps_the_copies_apart() {
    let mut rig = Rig::new(square());
    dial_back(&mut rig, addr(CLIENT));
    rig.pass(Duration::from_secs(60));
    rig.server.handle_timeout(rig.now);
    assert_eq!(rig.outputs().len(), 1);
    let (waited, outputs) = next_timer(&mut rig).expect("the third copy");
    assert_eq!((waited, outputs.len()), (Duration::from_millis(400), 1));
    assert_eq!(rig.server.poll_timeout(), None);
}
