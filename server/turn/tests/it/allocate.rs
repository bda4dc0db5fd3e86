//! Allocate and Refresh (RFC 8656, sections 7 and 8).

use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Message, REFRESH};
use meetpoint_turn::{Input, Output, attr};

use crate::common::{
    CLIENT, CLIENT6, NOW_UNIX_S, PRIMARY_MAIN, Rig, addr, error, kinds, login_as, lone, mapped, raw, secrets,
    unknown,
};
use crate::turn::{A, RELAY_IP, RELAY_IP6, UDP, V4, V6, relayed, turn, with, write};

const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
const RESERVE: A<'_> = A::Raw(attr::EVEN_PORT, &[0x80]);

fn lifetime(answer: &[u8]) -> u32 {
    u32::from_be_bytes(raw(answer, attr::LIFETIME).expect("a lifetime").try_into().expect("4 bytes"))
}

/// Section 7.3: what a success says, and nothing else.
#[test]
fn an_allocation_tells_its_addresses_and_lifetime() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let answer = turn.ask(&client, ALLOCATE, &[TRANSPORT]);
    let expected =
        [attr::XOR_RELAYED_ADDRESS, attr::LIFETIME, attr::XOR_MAPPED_ADDRESS, attr::MESSAGE_INTEGRITY];
    assert_eq!(kinds(&answer), expected);
    assert_eq!((mapped(&answer), lifetime(&answer)), (Some(addr(CLIENT)), 600));
    let relayed = relayed(&answer);
    assert_eq!(relayed, turn.sockets.values().copied().collect::<Vec<_>>());
    assert_eq!(relayed[0].ip().to_string(), RELAY_IP);
    assert!((50_000..=50_099).contains(&relayed[0].port()));
    let sessions: Vec<_> = turn.rig.server.sessions(turn.rig.now).collect();
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].user, sessions[0].client), ("alice", addr(CLIENT)));
    assert_eq!((sessions[0].relayed, sessions[0].listener), ([Some(relayed[0]), None], PRIMARY_MAIN));
    assert_eq!(sessions[0].lifetime_left, Duration::from_secs(600));
}

/// Section 5 and the operator's wish: nobody is served without credentials.
#[test]
fn nobody_is_served_anonymously() {
    let mut turn = turn();
    for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        let id = turn.fresh_id();
        let request = write(meetpoint_turn::message::Class::Request, method, id, &[TRANSPORT]).finish();
        let answer = turn.give(CLIENT, &request).expect("a challenge");
        assert_eq!(error(&answer), Some(401));
        let challenge = [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS];
        assert_eq!(kinds(&answer), challenge);
    }
    assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
}

/// Each row is an Allocate and the error that section 7.2 wants for it.
#[test]
fn what_cannot_be_granted_is_refused() {
    fn check(what: &str, code: u16, attributes: &[A<'_>]) {
        let mut turn = with(|config| {
            config.relay.as_mut().expect("a relay").ipv6 = None;
        });
        let client = turn.client("alice", CLIENT);
        assert_eq!(turn.code(&client, ALLOCATE, attributes), Some(code), "{what}");
        assert_eq!((turn.rig.server.relay_sizes(), turn.sockets.len()), ([0; 4], 0), "{what}");
    }
    let raw = A::Raw;
    let family = |value| raw(attr::REQUESTED_ADDRESS_FAMILY, value);
    let additional = |value| raw(attr::ADDITIONAL_ADDRESS_FAMILY, value);
    let token = raw(attr::RESERVATION_TOKEN, &[7; 8]);
    check("no transport", 400, &[]);
    check("a short transport", 400, &[raw(attr::REQUESTED_TRANSPORT, &[17])]);
    check("TCP", 442, &[raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0])]);
    check("no such family", 440, &[TRANSPORT, family(V6)]);
    check("no family", 440, &[TRANSPORT, family(&[3, 0, 0, 0])]);
    check("a short family", 400, &[TRANSPORT, family(&[1])]);
    check("both kinds of family", 400, &[TRANSPORT, family(V4), additional(V6)]);
    check("IPv4 in addition", 400, &[TRANSPORT, additional(V4)]);
    check("an unknown addition", 400, &[TRANSPORT, additional(&[9, 0, 0, 0])]);
    check("a reservation in addition", 400, &[TRANSPORT, additional(V6), RESERVE]);
    check("a long even port", 400, &[TRANSPORT, raw(attr::EVEN_PORT, &[0, 0])]);
    check("no such token", 508, &[TRANSPORT, token.clone()]);
    check("a short token", 400, &[TRANSPORT, raw(attr::RESERVATION_TOKEN, &[7; 4])]);
    check("a token and a family", 400, &[TRANSPORT, token.clone(), family(V4)]);
    check("a token and an addition", 400, &[TRANSPORT, token.clone(), additional(V6)]);
    check("a token and an even port", 400, &[TRANSPORT, token, raw(attr::EVEN_PORT, &[0])]);
    check("a short lifetime", 400, &[TRANSPORT, raw(attr::LIFETIME, &[0, 1])]);
    check("fragments", 420, &[TRANSPORT, raw(attr::DONT_FRAGMENT, &[])]);
    check("an unknown attribute", 420, &[TRANSPORT, raw(0x4242, &[])]);
}

/// Section 7.2: DONT-FRAGMENT is an unknown attribute where it can't be done.
#[test]
fn fragments_are_refused_where_that_can_be_done() {
    for is_able in [false, true] {
        let mut turn = with(|config| config.relay.as_mut().expect("a relay").dont_fragment = is_able);
        let client = turn.client("alice", CLIENT);
        let answer = turn.ask(&client, ALLOCATE, &[TRANSPORT, A::Raw(attr::DONT_FRAGMENT, &[])]);
        let expected = if is_able { vec![] } else { vec![attr::DONT_FRAGMENT] };
        assert_eq!(unknown(&answer), expected);
    }
}

/// Section 7.2, items 6 and 8, and section 18.12.
#[test]
fn families_are_given_as_far_as_they_are_there() {
    let check = |has: (bool, bool), attribute: A<'_>, ips: &[&str], missing: Option<[u8; 4]>| {
        let mut turn = with(|config| {
            let relay = config.relay.as_mut().expect("a relay");
            relay.ipv4 = relay.ipv4.filter(|_| has.0);
            relay.ipv6 = relay.ipv6.filter(|_| has.1);
        });
        let client = turn.client("alice", CLIENT6);
        let answer = turn.ask(&client, ALLOCATE, &[TRANSPORT, attribute]);
        let given: Vec<_> = relayed(&answer).iter().map(|addr| addr.ip().to_string()).collect();
        assert_eq!(given, ips);
        assert_eq!(raw(&answer, attr::ADDRESS_ERROR_CODE), missing.map(Vec::from));
    };
    let family = |value| A::Raw(attr::REQUESTED_ADDRESS_FAMILY, value);
    let additional = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
    check((true, true), family(V4), &[RELAY_IP], None);
    check((true, true), family(V6), &[RELAY_IP6], None);
    check((true, true), additional.clone(), &[RELAY_IP, RELAY_IP6], None);
    check((true, false), additional.clone(), &[RELAY_IP], Some([2, 0, 4, 40]));
    check((false, true), additional, &[RELAY_IP6], Some([1, 0, 4, 40]));
}

/// Section 7.2: a reserved port is the next one, waits 30 seconds, and is its user's.
#[test]
fn a_port_can_be_reserved() {
    let check = |user: &str, pass_s: u64, code: Option<u16>| {
        let mut turn = turn();
        let first = turn.client("alice", CLIENT);
        let answer = turn.ask(&first, ALLOCATE, &[TRANSPORT, RESERVE]);
        let port = relayed(&answer)[0].port();
        let token = raw(&answer, attr::RESERVATION_TOKEN).expect("a token");
        assert!(port.is_multiple_of(2) && turn.sockets.len() == 2);

        let second = turn.client(user, "20.0.1.2:9");
        turn.rig.pass(Duration::from_secs(pass_s));
        turn.rig.server.handle_timeout(turn.rig.now);
        let attributes = [TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, &token)];
        let answer = turn.ask(&second, ALLOCATE, &attributes);
        assert_eq!(error(&answer), code, "{user} {pass_s}");
        if code.is_none() {
            assert_eq!(relayed(&answer)[0].port(), port + 1);
            let third = turn.client(user, "20.0.1.3:9");
            assert_eq!(turn.code(&third, ALLOCATE, &attributes), Some(508), "once");
        } else if pass_s > 0 {
            assert_eq!(turn.sockets.len(), 1);
        }
    };
    check("alice", 0, None);
    check("alice", 29, None);
    check("alice", 30, Some(508));
    check("mallory", 0, Some(508));
}

/// Sections 7.2 and 7.4: a retransmission is answered alike; anything else is a mismatch.
#[test]
fn a_retransmission_is_answered_alike() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let request = turn.request(&client, ALLOCATE, &[TRANSPORT, RESERVE]);
    let first = turn.give(CLIENT, &request).expect("an answer");
    turn.rig.pass(Duration::from_secs(2));
    let second = turn.give(CLIENT, &request).expect("an answer");
    assert_eq!((error(&first), first.to_vec()), (None, second.to_vec()));
    assert_eq!(turn.code(&client, ALLOCATE, &[TRANSPORT]), Some(437));
    let other = turn.client("bob", CLIENT);
    assert_eq!(turn.code(&other, ALLOCATE, &[TRANSPORT]), Some(437));
    assert_eq!(turn.rig.counters().errors.allocation_mismatch, 2);
}

/// While sockets are being opened there is nothing to tell yet, and no second allocation.
#[test]
fn the_answer_waits_for_the_socket() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let request = turn.request(&client, ALLOCATE, &[TRANSPORT]);
    let input = Input::Datagram { listener: PRIMARY_MAIN, source: addr(CLIENT), payload: &request };
    turn.rig.server.handle(turn.rig.now, input);
    let opens = turn.rig.outputs();
    let [Output::OpenRelay { id, .. }] = opens[..] else { panic!("{opens:?}") };
    assert!(turn.give(CLIENT, &request).is_none());
    assert_eq!(turn.rig.server.sessions(turn.rig.now).count(), 0);
    turn.rig.server.handle(turn.rig.now, Input::RelayOpened { id });
    assert!(matches!(&turn.run()[..], [Output::Transmit { payload, .. }] if error(payload).is_none()));
    // Said twice it means nothing.
    turn.rig.server.handle(turn.rig.now, Input::RelayOpened { id });
    assert_eq!(turn.run(), []);
}

#[test]
fn a_shell_that_never_answers_costs_nothing() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let request = turn.request(&client, ALLOCATE, &[TRANSPORT]);
    let input = Input::Datagram { listener: PRIMARY_MAIN, source: addr(CLIENT), payload: &request };
    turn.rig.server.handle(turn.rig.now, input);
    turn.rig.now = turn.rig.server.poll_timeout().expect("a timer");
    turn.rig.server.handle_timeout(turn.rig.now);
    let outputs = turn.rig.outputs();
    assert!(
        matches!(outputs[..], [Output::OpenRelay { id, .. }, Output::CloseRelay { id: closed }] if id == closed)
    );
    assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
}

/// A port another program uses is passed over; without any the answer is 508.
#[test]
fn ports_in_use_are_passed_over() {
    let check = |broken: Vec<u16>, attributes: &[A<'_>], code: Option<u16>| {
        let mut turn = with(|config| {
            config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_003);
        });
        turn.broken = broken;
        let client = turn.client("alice", CLIENT);
        let got: Vec<_> = (0..16)
            .map(|_| {
                let code = turn.code(&client, ALLOCATE, attributes);
                turn.refresh(&client, 0);
                code
            })
            .collect();
        assert!(got.contains(&code) && (code.is_none() || got == [code; 16]), "{got:?}");
    };
    check(vec![50_000, 50_001], &[TRANSPORT], None);
    check(vec![50_001], &[TRANSPORT, RESERVE], None);
    check(vec![50_000, 50_001, 50_002, 50_003], &[TRANSPORT], Some(508));
    check(vec![50_001, 50_003], &[TRANSPORT, RESERVE], Some(508));
}

#[test]
fn each_allocation_has_a_port_of_its_own_until_there_is_none() {
    let mut turn = with(|config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_007);
    });
    let mut ports: Vec<_> = (1..=8)
        .map(|host| {
            let client = turn.client(&format!("user{host}"), &format!("20.0.1.{host}:9"));
            turn.allocate(&client).port()
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (50_000..=50_007).collect::<Vec<_>>());
    let late = turn.client("late", "20.0.1.9:9");
    assert_eq!(turn.code(&late, ALLOCATE, &[TRANSPORT]), Some(508));
}

/// Sections 7.2 and 8.2: never shorter than 10 minutes, never longer than an hour.
#[test]
fn lifetimes_are_bounded() {
    let check = |asked: Option<u32>, granted: u32| {
        let mut turn = turn();
        let client = turn.client("alice", CLIENT);
        let value = asked.unwrap_or_default().to_be_bytes();
        let mut attributes = vec![TRANSPORT];
        attributes.extend(asked.map(|_| A::Raw(attr::LIFETIME, &value)));
        let answer = turn.ask(&client, ALLOCATE, &attributes);
        assert_eq!(lifetime(&answer), granted);
        if asked != Some(0) {
            let answer = turn.ask(&client, REFRESH, &attributes[1..]);
            assert_eq!(lifetime(&answer), granted);
        }
        turn.rig.pass(Duration::from_secs(u64::from(granted) - 1));
        turn.rig.server.handle_timeout(turn.rig.now);
        assert_eq!((turn.run().len(), turn.sockets.len()), (0, 1));
        turn.rig.pass(Duration::from_secs(1));
        turn.rig.server.handle_timeout(turn.rig.now);
        assert_eq!((turn.run().len(), turn.sockets.len()), (0, 0));
        assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
        assert_eq!(turn.rig.counters().relay.ended, 1);
    };
    check(None, 600);
    check(Some(0), 600);
    check(Some(1), 600);
    check(Some(700), 700);
    check(Some(u32::MAX), 3600);
}

/// Section 8.2.
#[test]
fn a_refresh_is_for_what_is_there() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let family = |value| [A::Raw(attr::REQUESTED_ADDRESS_FAMILY, value), A::Raw(attr::LIFETIME, &[0; 4])];
    assert_eq!(turn.refresh(&client, 600), Some(437));
    assert_eq!(turn.refresh(&client, 0), Some(437));
    turn.ask(&client, ALLOCATE, &[TRANSPORT, A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6)]);
    assert_eq!(turn.code(&client, REFRESH, &family(&[7, 0, 0, 0])), Some(443));
    assert_eq!(turn.code(&client, REFRESH, &family(V6)), None);
    assert_eq!(turn.sockets.len(), 1, "one of two");
    assert_eq!(turn.code(&client, REFRESH, &family(V6)), Some(443));
    assert_eq!(turn.refresh(&client, 600), None);
    assert_eq!(turn.code(&client, REFRESH, &family(V4)), None);
    assert_eq!((turn.sockets.len(), turn.rig.server.relay_sizes()), (0, [0; 4]));
    assert_eq!(turn.refresh(&client, 0), Some(437));
}

/// Section 5: an allocation is its user's; a newer timestamp is the same user.
#[test]
fn an_allocation_is_its_users() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    let other = turn.client("bob", CLIENT);
    assert_eq!(turn.refresh(&other, 600), Some(441));
    assert_eq!(turn.permit(&other, "30.0.0.1:1"), Some(441));
    assert_eq!(turn.bind(&other, 0x4000, "30.0.0.1:1"), Some(441));
    let mut newer = client.clone();
    newer.login = login_as(&mut turn.rig, CLIENT, "alice", NOW_UNIX_S + 90_000);
    assert_ne!(newer.login.username, client.login.username);
    assert_eq!(turn.permit(&newer, "30.0.0.1:1"), None);
    assert_eq!(turn.refresh(&newer, 600), None);
    assert_eq!(turn.rig.server.sessions(turn.rig.now).count(), 1);
}

/// Expiry is asked of who wants something granted, not of who uses it.
#[test]
fn expired_credentials_are_good_for_what_was_granted() {
    let mut turn = turn();
    let mut client = turn.client("alice", CLIENT);
    client.login = login_as(&mut turn.rig, CLIENT, "alice", NOW_UNIX_S + 60);
    turn.allocate(&client);
    turn.rig.pass(Duration::from_secs(60));
    assert_eq!(turn.refresh(&client, 600), Some(401));
    assert_eq!(turn.permit(&client, "30.0.0.1:1"), None);
    let elsewhere = crate::turn::Client { source: "20.0.1.2:9".to_owned(), ..client.clone() };
    let challenge = turn.ask(&elsewhere, ALLOCATE, &[TRANSPORT]);
    assert_eq!(error(&challenge), Some(438), "its nonce is another's");
}

/// A secret that is dropped takes with it what was derived from it.
#[test]
fn a_dropped_secret_ends_what_it_granted() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    turn.rig
        .server
        .handle(turn.rig.now, Input::Secrets(secrets(&["the first secret", "one more secret of ours"])));
    assert_eq!(turn.refresh(&client, 600), None);
    turn.rig.server.handle(turn.rig.now, Input::Secrets(secrets(&["one more secret of ours"])));
    assert_eq!(turn.refresh(&client, 600), Some(401));
    assert_eq!(turn.permit(&client, "30.0.0.1:1"), Some(401));
}

#[test]
fn an_operator_can_end_a_session() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    let id = turn.rig.server.sessions(turn.rig.now).next().expect("one").id;
    let id = meetpoint_turn::SessionId::from_number(id.number());
    for _ in 0..2 {
        turn.rig.server.handle(turn.rig.now, Input::EndSession(id));
        assert_eq!((turn.run().len(), turn.sockets.len()), (0, 0));
    }
    assert_eq!(turn.rig.counters().relay.ended, 1);
    assert_eq!(turn.refresh(&client, 600), Some(437));
}

#[test]
fn without_a_relay_its_methods_are_not_there() {
    let mut rig = Rig::new(lone());
    for method in [ALLOCATE, REFRESH] {
        let writer =
            meetpoint_turn::Writer::new(meetpoint_turn::message::Class::Request, method, crate::common::ID);
        assert!(rig.ask(CLIENT, &writer.finish()).is_none());
    }
    assert_eq!(rig.counters().dropped.unsupported_method, 2);
}

/// Bindings are answered next to relaying as before.
#[test]
fn a_client_with_an_allocation_may_ask_for_bindings() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    let request = turn.request(&client, BINDING, &[]);
    let outputs = turn.rig.give(PRIMARY_MAIN, CLIENT, &request);
    assert!(matches!(outputs[..], [Output::Transmit { .. }, Output::Observed { .. }]));
    let Output::Transmit { payload, .. } = &outputs[0] else { unreachable!() };
    assert!(Message::parse(payload).is_ok_and(|message| message.verify(&client.login.key)));
}
