//! RFC 8489: Binding without credentials.

use meetpoint_turn::message::{BINDING, Class};
use meetpoint_turn::{Counters, ListenerId, Writer, attr};

use crate::common::{
    CLIENT, CLIENT6, ID, Rig, error, kinds, listeners, lone, mapped, plain, request, request_with, unknown,
};

#[test]
fn an_answer_is_the_mapped_address_and_nothing_else() {
    let check = |source: &str, seen: &str, len: usize| {
        let mut rig = Rig::new(lone());
        let answer = rig.ask(source, &plain()).expect("an answer");
        assert_eq!(mapped(&answer), Some(seen.parse().expect("an address")));
        assert_eq!(kinds(&answer), [attr::XOR_MAPPED_ADDRESS]);
        assert_eq!(answer.len(), len);
        assert_eq!(rig.counters().binding.anonymous, 1);
    };
    check(CLIENT, CLIENT, 32);
    check(CLIENT6, CLIENT6, 44);
    // What a dual-stack socket says of an IPv4 client.
    check("[::ffff:20.0.1.1]:40000", CLIENT, 32);
}

/// RFC 8489, section 6.3.1.1 leaves FINGERPRINT to the client, and a longer answer costs.
#[test]
fn fingerprint_only_if_the_question_had_one() {
    let mut writer = request();
    writer.fingerprint();
    let answer = Rig::new(lone()).ask(CLIENT, &writer.finish()).expect("an answer");
    assert_eq!(kinds(&answer), [attr::XOR_MAPPED_ADDRESS, attr::FINGERPRINT]);
    assert_eq!(answer.len(), 40);

    let mut writer = request();
    writer.attribute(0x4242, b"");
    writer.fingerprint();
    let answer = Rig::new(lone()).ask(CLIENT, &writer.finish()).expect("an answer");
    assert_eq!(kinds(&answer).last(), Some(&attr::FINGERPRINT));
}

/// RFC 8489, section 6.3.1 and 14: 420 lists what is unknown and required; optional attributes
/// are ignored whether known or not, and so are known ones that make no sense here.
#[test]
fn unknown_required_attributes_are_listed() {
    let check = |question: &[u16], listed: &[u16]| {
        let attributes: Vec<(u16, &[u8])> = question.iter().map(|kind| (*kind, &b"x"[..])).collect();
        let mut rig = Rig::new(lone());
        let answer = rig.ask(CLIENT, &request_with(&attributes)).expect("an answer");
        let expected = if listed.is_empty() { None } else { Some(420) };
        assert_eq!((error(&answer), unknown(&answer)), (expected, listed.to_vec()), "{question:x?}");
        assert_eq!(rig.counters().errors.unknown_attribute, u64::from(expected.is_some()));
    };
    check(&[0x4242], &[0x4242]);
    check(&[0x0002, 0x7FFF, 0x0002], &[0x0002, 0x7FFF]);
    // ICE's PRIORITY and USE-CANDIDATE, TURN's LIFETIME.
    check(&[0x0024, 0x0025, 0x000D], &[0x000D, 0x0024, 0x0025]);
    check(&[0x8000, 0xC0F1, 0xFFFF], &[]);
    check(&[attr::XOR_MAPPED_ADDRESS, attr::REALM, attr::NONCE, attr::ERROR_CODE], &[]);
    // A list is bounded, whatever the question's length.
    let many: Vec<u16> = (0x4000..0x4100).collect();
    check(&many, &many[..32]);
}

/// RFC 8489, section 14.5: what follows MESSAGE-INTEGRITY is ignored. Here the integrity names
/// nobody, so the answer is 400 (section 9.2.4) and not 420.
#[test]
fn attributes_behind_an_integrity_attribute_do_not_count() {
    let mut rig = Rig::new(lone());
    let question = request_with(&[(attr::MESSAGE_INTEGRITY, &[0; 20]), (0x4242, b"")]);
    assert_eq!(error(&rig.ask(CLIENT, &question).expect("an answer")), Some(400));
    // A USERNAME there names nobody either.
    let question = request_with(&[(attr::MESSAGE_INTEGRITY_SHA256, &[0; 32]), (attr::USERNAME, b"x")]);
    assert_eq!(error(&rig.ask(CLIENT, &question).expect("an answer")), Some(400));
}

/// RFC 8489, section 6.3: whatever is not right or not for us is discarded in silence.
#[test]
fn what_is_no_question_gets_no_answer() {
    let check = |what: &str, source: &str, question: &[u8], counted: fn(&Counters) -> u64| {
        let mut rig = Rig::new(lone());
        assert_eq!(rig.ask(source, question), None, "{what}");
        let counters = rig.counters();
        assert_eq!(counted(&counters), 1, "{what}: {counters:?}");
        assert_eq!((counters.datagrams_in, counters.datagrams_out), (1, 0), "{what}");
    };
    let edit = |at: usize, byte: u8| {
        let mut bytes = plain().to_vec();
        bytes[at] = byte;
        bytes
    };
    let of = |class, method| Writer::new(class, method, ID).finish();

    check("nothing", CLIENT, &[], |c| c.dropped.not_stun);
    check("a short header", CLIENT, &plain()[..19], |c| c.dropped.not_stun);
    check("no cookie", CLIENT, &edit(4, 0), |c| c.dropped.not_stun);
    check("channel data", CLIENT, &edit(0, 0x40), |c| c.dropped.not_stun);
    check("QUIC", CLIENT, &edit(0, 0xC0), |c| c.dropped.not_stun);
    check("length of three", CLIENT, &edit(3, 3), |c| c.dropped.malformed);
    check("too short", CLIENT, &edit(3, 4), |c| c.dropped.malformed);
    check("too long", CLIENT, &[&plain()[..], &[0; 4]].concat(), |c| c.dropped.malformed);
    let long = [&edit(3, 4)[..], &[0x80, 0, 0, 1]].concat();
    check("an attribute over the end", CLIENT, &long, |c| c.dropped.malformed);

    let mut writer = request();
    writer.fingerprint();
    let mut wrong = writer.finish().to_vec();
    wrong[27] ^= 1;
    check("a wrong fingerprint", CLIENT, &wrong, |c| c.dropped.fingerprint);
    let mut writer = request();
    writer.fingerprint();
    writer.attribute(0x8022, b"more");
    check("more behind it", CLIENT, &writer.finish(), |c| c.dropped.malformed);

    check("an indication", CLIENT, &of(Class::Indication, BINDING), |c| c.dropped.indication);
    check("a response", CLIENT, &of(Class::Success, BINDING), |c| c.dropped.response);
    check("an error", CLIENT, &of(Class::Error, BINDING), |c| c.dropped.response);
    for method in [0x000, 0x002, 0x003, 0x080, 0xFFF] {
        check("a method", CLIENT, &of(Class::Request, method), |c| c.dropped.unsupported_method);
    }
    check("port 0", "20.0.1.1:0", &plain(), |c| c.dropped.unusable_source);
    check("multicast", "224.0.0.1:9", &plain(), |c| c.dropped.unusable_source);
    check("broadcast", "255.255.255.255:9", &plain(), |c| c.dropped.unusable_source);
    check("nobody", "[::]:9", &plain(), |c| c.dropped.unusable_source);
}

#[test]
fn an_unknown_listener_is_counted() {
    let mut rig = Rig::new(lone());
    assert!(rig.give(ListenerId(1), CLIENT, &plain()).is_empty());
    assert_eq!(rig.counters().dropped.unknown_listener, 1);
}

#[test]
fn a_shell_that_takes_nothing_away_stops_the_server_and_not_its_memory() {
    let mut rig = Rig::new(listeners(&[(meetpoint_turn::ListenerRole::PrimaryMain, "127.0.0.1:3478")]));
    let source = "127.0.0.1:9".parse().expect("an address");
    for _ in 0..2 * meetpoint_turn::MAX_OUTPUTS {
        let input = meetpoint_turn::Input::Datagram { listener: ListenerId(0), source, payload: &plain() };
        rig.server.handle(rig.now, input);
    }
    let counters = rig.counters();
    assert!(counters.dropped.outputs_full > 0);
    assert!(rig.outputs().len() <= meetpoint_turn::MAX_OUTPUTS);
    assert!(rig.ask("127.0.0.1:9", &plain()).is_some(), "and it goes on");
}
