//! Whatever arrives: no panic, no answer without a question, no more than allowed.

use std::time::Duration;

use meetpoint_turn::message::{Class, HEADER_LEN, Message};
use meetpoint_turn::{Input, ListenerId, Output, Payload, attr};
use proptest::prelude::*;

use crate::common::{Rig, addr, login, raw, request, square};

/// Attributes that mean something to the server, and one that does not.
const KINDS: [u16; 16] = [
    attr::CHANGE_REQUEST,
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::REALM,
    attr::NONCE,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::XOR_MAPPED_ADDRESS,
    attr::PADDING,
    attr::RESPONSE_PORT,
    attr::PASSWORD_ALGORITHMS,
    attr::FINGERPRINT,
    attr::MEETPOINT_NONCE,
    0x4242,
    0x8022,
];

/// What may come out when `question` comes in from `source` at listener 0.
fn check_outputs(source: &str, question: &[u8], outputs: &[Output]) {
    let Some((first, rest)) = outputs.split_first() else { return };
    let Output::Transmit { to, payload, .. } = first else { panic!("{first:?}") };
    assert_eq!(to.ip(), addr(source).ip(), "an answer goes to who asked");
    let parsed = Message::parse(question).expect("only good messages are answered");
    let answer = Message::parse(payload).expect("answers are good messages");
    assert!(matches!(answer.class(), Class::Success | Class::Error));
    assert_eq!((parsed.class(), parsed.method()), (Class::Request, answer.method()));
    assert_eq!(parsed.transaction_id(), answer.transaction_id());
    assert_eq!(parsed.has_fingerprint(), answer.has_fingerprint());
    assert_eq!(raw(payload, 0x8022), None, "no SOFTWARE");
    // XOR-MAPPED-ADDRESS and the three addresses of RFC 5780, all IPv6: the longest answer to a
    // short question. Longer ones are no longer than their question.
    let tail = answer.integrity().map_or(0, |kind| 4 + kind.value_len())
        + if answer.has_fingerprint() { 8 } else { 0 };
    let limit = question.len().max(HEADER_LEN + 4 * 24 + tail);
    assert!(payload.len() <= limit, "{} bytes for {}", payload.len(), question.len());
    match rest {
        [] => {}
        [Output::Observed { source: observed, .. }] => {
            assert_eq!(*observed, addr(source));
            assert!(parsed.integrity().is_some() && answer.integrity().is_some());
        }
        more => panic!("{more:?}"),
    }
}

fn attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let kind = prop_oneof![
        8 => proptest::sample::select(&KINDS[..]),
        1 => any::<u16>(),
    ];
    let len = prop_oneof![Just(0), Just(4), Just(8), Just(20), Just(32), 0..80_usize];
    (kind, len).prop_flat_map(|(kind, len)| (Just(kind), proptest::collection::vec(any::<u8>(), len)))
}

/// One way to spoil a message.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Cut(usize),
    Append(Vec<u8>),
    Swap(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Append),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

fn spoil(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match damage {
        Damage::Set(at, byte) => bytes[at % len] = *byte,
        Damage::Cut(at) => bytes.truncate(at % len),
        Damage::Append(more) => bytes.extend(more),
        Damage::Swap(a, b) => bytes.swap(a % len, b % len),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<u8>()) {
        let mut rig = Rig::new(square());
        let outputs = rig.give(ListenerId(at), "20.0.1.1:9", &bytes);
        check_outputs("20.0.1.1:9", &bytes, &outputs);
    }

    #[test]
    fn any_attributes_are_survived(
        attributes in proptest::collection::vec(attribute(), 0..8),
        fingerprint in any::<bool>(),
        at in 0..4_u8,
    ) {
        let mut rig = Rig::new(square());
        let mut writer = request();
        for (kind, value) in &attributes {
            writer.attribute(*kind, value);
        }
        if fingerprint {
            writer.fingerprint();
        }
        let question = writer.finish();
        let outputs = rig.give(ListenerId(at), "[2a00::1]:9", &question);
        check_outputs("[2a00::1]:9", &question, &outputs);
    }

    /// A good login with any damage is observed only if the damage did not reach what is
    /// protected: never with another username or from another source.
    #[test]
    fn damaged_logins_prove_nothing(damages in proptest::collection::vec(damage(), 1..4)) {
        let mut rig = Rig::new(square());
        let login = login(&mut rig, "20.0.1.1:9");
        let good = login.request();
        let mut bytes = good.to_vec();
        for damage in &damages {
            spoil(&mut bytes, damage);
        }
        let outputs = rig.give(ListenerId(0), "20.0.1.1:9", &bytes);
        check_outputs("20.0.1.1:9", &bytes, &outputs);
        for output in outputs {
            if let Output::Observed { username, .. } = output {
                prop_assert_eq!(&username, &login.username);
                prop_assert_eq!(&bytes, &good.to_vec());
            }
        }
    }

    /// Times and inputs in any order: queues and timers stay bounded and come to an end.
    #[test]
    fn any_sequence_comes_to_rest(steps in proptest::collection::vec((0..4_u8, any::<u32>(), 0..700_u64), 0..80)) {
        let mut rig = Rig::new(square());
        let question: Payload = request().finish();
        for (what, which, pass_ms) in steps {
            let host: std::net::SocketAddr = ([20, 0, 1, (which % 7) as u8], (which % 11) as u16).into();
            let input = match what {
                0 => Input::Datagram { listener: ListenerId((which % 5) as u8), source: host, payload: &question },
                1 => Input::DialBack { to: host, nonce: [0; 16] },
                2 => Input::Wall { unix_ms: u64::from(which) * u64::from(which) },
                _ => Input::Wall { unix_ms: u64::MAX },
            };
            rig.server.handle(rig.now, input);
            rig.pass(Duration::from_millis(pass_ms));
            rig.server.handle_timeout(rig.now);
        }
        let mut timers = 0;
        while let Some(due) = rig.server.poll_timeout() {
            rig.now = rig.now.max(due);
            rig.server.handle_timeout(rig.now);
            timers += 1;
        }
        prop_assert!(timers <= 2 * 7 * 4);
        let counters = rig.counters();
        prop_assert!(counters.dial_back.probes <= 3 * counters.dial_back.started);
    }
}
