//! Every error response there is, each with the clause that asks for it, and what all of them have in
//! common.
//!
//! 405 (RFC 8016) is in `mobility`. Not here because the server does not have what they are about: 446 and 447
//! (RFC 6062, TCP allocations: whoever asks for one gets 442).

use meetpoint_turn::message::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH};
use meetpoint_turn::{Config, IntegrityKey, IntegrityKind, Payload, attr};

use crate::common::{CLIENT, error, kinds, raw, unknown};
use crate::turn::{A, CHANNEL, Client, PEER, TurnRig, UDP, V4, V6, with, write};

const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
const NUMBER: A<'_> = A::Raw(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
const SOFTWARE: u16 = 0x8022;

/// A question, with or without what signs it.
type Ask = fn(&mut TurnRig, &Client) -> Payload;

/// The server that `ask` meets has IPv4 only, two allocations for each user, and two ports.
fn small(config: &mut Config) {
    config.limits.relay.allocations_per_user = 2;
    config.limits.relay.permissions = 2;
    let relay = config.relay.as_mut().expect("a relay");
    relay.ipv6 = None;
    relay.ports = Some(50_000..=50_001);
}

/// Alice asks, before or after she has an allocation.
fn answer(has_allocation: bool, ask: Ask) -> (TurnRig, Client, Payload, Payload) {
    let mut turn = with(small);
    let client = turn.client("alice", CLIENT);
    if has_allocation {
        turn.allocate(&client);
    }
    let question = ask(&mut turn, &client);
    let answer = turn.give(CLIENT, &question).expect("an answer");
    (turn, client, question, answer)
}

#[track_caller]
fn check(code: u16, clause: &str, has_allocation: bool, ask: Ask) {
    let (_, client, question, answer) = answer(has_allocation, ask);
    assert_eq!(error(&answer), Some(code), "{clause}");
    let message = Message::parse(&answer).expect("a good answer");
    assert_eq!(message.class(), Class::Error);
    // RFC 8489, section 9.2.4: signed unless the credentials are what is wrong.
    let is_signed = message.verify(&client.login.key);
    let is_challenge = matches!(code, 401 | 438);
    let is_asked = Message::parse(&question).is_ok_and(|question| question.verify(&client.login.key));
    assert_eq!(is_signed, is_asked && !is_challenge, "{clause}");
    let challenge = [attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS];
    let has = challenge.map(|kind| kinds(&answer).contains(&kind));
    assert_eq!(has, [is_challenge; 3], "{clause}");
    assert_eq!(raw(&answer, SOFTWARE), None);
    assert_eq!(raw(&answer, attr::ERROR_CODE).map(|value| value.len()), Some(4), "no reason phrase");
}

/// An Allocate of Alice's with these attributes besides REQUESTED-TRANSPORT.
fn allocate(turn: &mut TurnRig, client: &Client, more: &[A<'_>]) -> Payload {
    let attributes: Vec<_> = std::iter::once(TRANSPORT).chain(more.iter().cloned()).collect();
    turn.request(client, ALLOCATE, &attributes)
}

/// RFC 8489, section 9.2.4.
#[test]
fn errors_of_the_credentials() {
    check(401, "no integrity", false, |turn, _| {
        let id = turn.fresh_id();
        write(Class::Request, ALLOCATE, id, &[TRANSPORT]).finish()
    });
    check(401, "wrong integrity", false, |turn, client| {
        let mut forger = client.clone();
        forger.login.key = IntegrityKey::new(IntegrityKind::Sha1, b"guessed");
        allocate(turn, &forger, &[])
    });
    check(401, "expired credentials", false, |turn, client| {
        let mut late = client.clone();
        late.login = crate::common::login_as(&mut turn.rig, CLIENT, "alice", 1);
        allocate(turn, &late, &[])
    });
    check(400, "integrity without realm and nonce", false, |turn, client| {
        let id = turn.fresh_id();
        let name = A::Raw(attr::USERNAME, client.login.username.as_bytes());
        let mut writer = write(Class::Request, ALLOCATE, id, &[TRANSPORT, name]);
        writer.attribute(attr::MESSAGE_INTEGRITY, &[7; 20]);
        writer.finish()
    });
    check(400, "a request too short to ask for anything", false, |turn, _| {
        let id = turn.fresh_id();
        write(Class::Request, ALLOCATE, id, &[]).finish()
    });
    check(438, "another source's nonce", false, |turn, client| {
        let mut mover = client.clone();
        mover.login.nonce = turn.client("alice", "20.0.9.9:9").login.nonce;
        allocate(turn, &mover, &[])
    });
    check(438, "no nonce of ours", false, |turn, client| {
        let mut forger = client.clone();
        forger.login.nonce = b"obMatJos2gAAAxxxxxxxxxxx".to_vec();
        allocate(turn, &forger, &[])
    });
}

/// RFC 8656, section 7.2, in its order.
#[test]
fn errors_of_allocate() {
    check(437, "7.2, item 2: the 5-tuple is in use", true, |turn, client| allocate(turn, client, &[]));
    check(400, "7.2, item 3: no REQUESTED-TRANSPORT", false, |turn, client| {
        turn.request(client, ALLOCATE, &[])
    });
    check(400, "7.2, item 3: a malformed one", false, |turn, client| {
        turn.request(client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, &[17])])
    });
    check(442, "7.2, item 3: TCP, which RFC 6062 would be", false, |turn, client| {
        turn.request(client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0])])
    });
    check(420, "7.2, item 4: DONT-FRAGMENT where that can't be done", false, |turn, client| {
        allocate(turn, client, &[A::Raw(attr::DONT_FRAGMENT, &[])])
    });
    check(400, "7.2, item 5: a token and more", false, |turn, client| {
        let token = A::Raw(attr::RESERVATION_TOKEN, &[7; 8]);
        allocate(turn, client, &[token, A::Raw(attr::EVEN_PORT, &[0])])
    });
    check(508, "7.2, item 5: a token that is not valid", false, |turn, client| {
        allocate(turn, client, &[A::Raw(attr::RESERVATION_TOKEN, &[7; 8])])
    });
    check(400, "7.2, item 6: both attributes of a family", false, |turn, client| {
        let requested = A::Raw(attr::REQUESTED_ADDRESS_FAMILY, V4);
        allocate(turn, client, &[requested, A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6)])
    });
    check(440, "7.2, item 7: a family that is not there", false, |turn, client| {
        allocate(turn, client, &[A::Raw(attr::REQUESTED_ADDRESS_FAMILY, V6)])
    });
    check(400, "7.2, item 8: a reserved port and an additional family", false, |turn, client| {
        let reserve = A::Raw(attr::EVEN_PORT, &[0x80]);
        allocate(turn, client, &[reserve, A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6)])
    });
    check(508, "7.2, item 8: no pair of ports", false, |turn, _| {
        let other = turn.client("bob", "20.0.1.2:9");
        turn.allocate(&other);
        let client = turn.client("alice", CLIENT);
        allocate(turn, &client, &[A::Raw(attr::EVEN_PORT, &[0x80])])
    });
    check(400, "7.2, item 9: IPv4 in addition", false, |turn, client| {
        allocate(turn, client, &[A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V4)])
    });
    check(486, "7.2, item 10: the user has enough", false, |turn, client| {
        for source in ["20.0.1.2:9", "20.0.1.3:9"] {
            let more = turn.client("alice", source);
            turn.allocate(&more);
        }
        allocate(turn, client, &[])
    });
    check(508, "19: no port is left", false, |turn, client| {
        for (user, source) in [("bob", "20.0.1.2:9"), ("carol", "20.0.1.3:9")] {
            let other = turn.client(user, source);
            turn.allocate(&other);
        }
        allocate(turn, client, &[])
    });
}

/// RFC 8656, sections 5, 8.2, 10.2 and 12.2.
#[test]
fn errors_of_what_needs_an_allocation() {
    check(437, "5: Refresh without one", false, |turn, client| turn.request(client, REFRESH, &[]));
    check(437, "5: CreatePermission without one", false, |turn, client| {
        turn.request(client, CREATE_PERMISSION, &[A::Peer(PEER)])
    });
    check(437, "5: ChannelBind without one", false, |turn, client| {
        turn.request(client, CHANNEL_BIND, &[NUMBER, A::Peer(PEER)])
    });
    check(443, "8.2: a family that it has not", true, |turn, client| {
        turn.request(client, REFRESH, &[A::Raw(attr::REQUESTED_ADDRESS_FAMILY, V6)])
    });
    check(400, "10.2: no peer", true, |turn, client| turn.request(client, CREATE_PERMISSION, &[]));
    check(443, "10.2: a peer of another family", true, |turn, client| {
        turn.request(client, CREATE_PERMISSION, &[A::Peer("[2a00::1]:1")])
    });
    check(403, "10.2: a peer the server does not allow", true, |turn, client| {
        turn.request(client, CREATE_PERMISSION, &[A::Peer("10.0.0.1:1")])
    });
    check(508, "10.2: too many peers", true, |turn, client| {
        let peers = ["30.0.0.1:1", "30.0.0.2:1", "30.0.0.3:1"].map(A::Peer);
        turn.request(client, CREATE_PERMISSION, &peers)
    });
    check(400, "12.2: no number", true, |turn, client| turn.request(client, CHANNEL_BIND, &[A::Peer(PEER)]));
    check(400, "12.2: no peer", true, |turn, client| turn.request(client, CHANNEL_BIND, &[NUMBER]));
    // The section ends its range at 0x4FFF; up to 0x7FFF clients of RFC 5766 are served as well.
    check(400, "12.2: a number out of range", true, |turn, client| {
        let number = A::Raw(attr::CHANNEL_NUMBER, &[0x80, 0, 0, 0]);
        turn.request(client, CHANNEL_BIND, &[number, A::Peer(PEER)])
    });
    check(400, "12.2: a number that is another peer's", true, |turn, client| {
        assert_eq!(turn.bind(client, CHANNEL, "30.0.0.2:1"), None);
        turn.request(client, CHANNEL_BIND, &[NUMBER, A::Peer(PEER)])
    });
    check(400, "12.2: a peer that has another number", true, |turn, client| {
        assert_eq!(turn.bind(client, CHANNEL + 1, PEER), None);
        turn.request(client, CHANNEL_BIND, &[NUMBER, A::Peer(PEER)])
    });
    check(443, "12.2: a peer of another family", true, |turn, client| {
        turn.request(client, CHANNEL_BIND, &[NUMBER, A::Peer("[2a00::1]:1")])
    });
    check(403, "12.2: a peer the server does not allow", true, |turn, client| {
        turn.request(client, CHANNEL_BIND, &[NUMBER, A::Peer("10.0.0.1:1")])
    });
}

/// RFC 8656, section 5: an allocation is its user's. Allocate itself is a mismatch, not a wrong
/// user's (section 7.4).
#[test]
fn errors_of_another_user() {
    let ask = |code: u16, method: u16, attributes: &[A<'_>]| {
        let mut turn = with(small);
        let client = turn.client("alice", CLIENT);
        turn.allocate(&client);
        let other = turn.client("bob", CLIENT);
        assert_eq!(turn.code(&other, method, attributes), Some(code), "{method}");
    };
    ask(437, ALLOCATE, &[TRANSPORT]);
    ask(441, REFRESH, &[]);
    ask(441, CREATE_PERMISSION, &[A::Peer(PEER)]);
    ask(441, CHANNEL_BIND, &[NUMBER, A::Peer(PEER)]);
}

/// RFC 8489, section 6.3.1: what has to be understood and is not is listed, for each method; what need not
/// be is ignored.
#[test]
fn unknown_attributes_are_listed() {
    for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND, BINDING] {
        let check = |kinds: &[u16], listed: &[u16]| {
            let mut turn = with(small);
            let client = turn.client("alice", CLIENT);
            let attributes: Vec<_> = kinds.iter().map(|kind| A::Raw(*kind, &[1, 2, 3])).collect();
            let question = turn.request(&client, method, &attributes);
            let outputs = turn.rig.give(turn.rig.at, CLIENT, &question);
            let Some(meetpoint_turn::Output::Transmit { payload, .. }) = outputs.first() else {
                panic!("{outputs:?}");
            };
            assert_eq!(unknown(payload), listed, "{method}");
            assert_eq!(error(payload) == Some(420), !listed.is_empty(), "{method}");
        };
        check(&[0x4242], &[0x4242]);
        check(&[0x4242, 0x4243, 0x4242], &[0x4242, 0x4243]);
        check(&[0x8042, 0xC042, SOFTWARE], &[]);
        // RFC 8656, section 7.2: known where it can be done.
        if method != BINDING {
            check(&[attr::DONT_FRAGMENT], &[attr::DONT_FRAGMENT]);
        }
    }
}

/// RFC 8489, section 14.7: FINGERPRINT if the question had it; and never SOFTWARE, which section 14.14
/// only recommends and which would tell strangers what to attack.
#[test]
fn a_fingerprint_is_answered_with_one() {
    for (method, has_allocation) in [(ALLOCATE, false), (REFRESH, true), (REFRESH, false), (BINDING, false)] {
        for has_fingerprint in [false, true] {
            let mut turn = with(small);
            let client = turn.client("alice", CLIENT);
            if has_allocation {
                turn.allocate(&client);
            }
            let id = turn.fresh_id();
            let software = A::Raw(SOFTWARE, b"some client");
            let mut writer = write(Class::Request, method, id, &[TRANSPORT, software]);
            writer.attribute(attr::USERNAME, client.login.username.as_bytes());
            writer.attribute(attr::REALM, client.login.realm.as_bytes());
            writer.attribute(attr::NONCE, &client.login.nonce);
            writer.integrity(&client.login.key);
            if has_fingerprint {
                writer.fingerprint();
            }
            let input = meetpoint_turn::Input::Datagram {
                listener: turn.rig.at,
                source: crate::common::addr(CLIENT),
                payload: &writer.finish(),
            };
            turn.rig.server.handle(turn.rig.now, input);
            let outputs = turn.run();
            let Some(meetpoint_turn::Output::Transmit { payload, .. }) = outputs.first() else {
                panic!("{outputs:?}");
            };
            let kinds = kinds(payload);
            assert_eq!(kinds.last() == Some(&attr::FINGERPRINT), has_fingerprint, "{method}");
            assert!(!kinds.contains(&SOFTWARE));
        }
    }
}
