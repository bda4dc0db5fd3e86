//! The long-term credential mechanism (RFC 8489, section 9.2) with time-limited credentials.

use std::time::Duration;

use meetpoint_turn::credentials::PasswordAlgorithm;
use meetpoint_turn::message::Message;
use meetpoint_turn::{Input, IntegrityKey, IntegrityKind, Output, Payload, attr};

use crate::common::{
    CLIENT, Login, NOW_UNIX_S, PRIMARY_MAIN, REALM, Rig, addr, error, kinds, login, login_with, lone, mapped,
    raw, request, request_with, secrets, square, unknown,
};

const BOTH_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const SHA_256: [u8; 4] = [0, 2, 0, 0];
const MD5: [u8; 4] = [0, 1, 0, 0];
const HOUR: u64 = 3600;

/// What a client makes of it that understood PASSWORD-ALGORITHMS.
fn modern(mut login: Login) -> Login {
    login.rekey(PasswordAlgorithm::Sha256, IntegrityKind::Sha256);
    login.algorithms = vec![
        (attr::PASSWORD_ALGORITHM, SHA_256.to_vec()),
        (attr::PASSWORD_ALGORITHMS, BOTH_ALGORITHMS.to_vec()),
    ];
    login
}

fn observed(rig: &mut Rig, source: &str, question: &[u8]) -> (Payload, Option<Output>) {
    let mut outputs = rig.give(PRIMARY_MAIN, source, question).into_iter();
    let Some(Output::Transmit { payload, .. }) = outputs.next() else {
        panic!("an answer");
    };
    (payload, outputs.next())
}

#[test]
fn good_credentials_are_answered_in_kind_and_observed() {
    let check = |prepare: fn(Login) -> Login, kind: IntegrityKind, number: u16| {
        let mut rig = Rig::new(lone());
        let login = prepare(login(&mut rig, CLIENT));
        let (answer, output) = observed(&mut rig, CLIENT, &login.request());
        assert_eq!(mapped(&answer), Some(addr(CLIENT)));
        assert_eq!(kinds(&answer), [attr::XOR_MAPPED_ADDRESS, number]);
        let message = Message::parse(&answer).expect("a good answer");
        assert_eq!(message.integrity(), Some(kind));
        assert!(message.verify(&login.key));
        let expected =
            Output::Observed { username: login.username, source: addr(CLIENT), listener: PRIMARY_MAIN };
        assert_eq!(output, Some(expected));
        assert_eq!(rig.counters().binding.authenticated, 1);
    };
    check(|login| login, IntegrityKind::Sha1, attr::MESSAGE_INTEGRITY);
    check(modern, IntegrityKind::Sha256, attr::MESSAGE_INTEGRITY_SHA256);
    // The password algorithm and the integrity attribute are chosen apart.
    let md5_named = |mut login: Login| {
        login.algorithms = vec![
            (attr::PASSWORD_ALGORITHM, MD5.to_vec()),
            (attr::PASSWORD_ALGORITHMS, BOTH_ALGORITHMS.to_vec()),
        ];
        login.rekey(PasswordAlgorithm::Md5, IntegrityKind::Sha256);
        login
    };
    check(md5_named, IntegrityKind::Sha256, attr::MESSAGE_INTEGRITY_SHA256);
}

#[test]
fn a_mapped_source_is_observed_as_what_it_is() {
    let mut rig = Rig::new(lone());
    let source = "[::ffff:20.0.1.1]:40000";
    let login = login(&mut rig, source);
    let (_, output) = observed(&mut rig, source, &login.request());
    assert!(matches!(output, Some(Output::Observed { source, .. }) if source == addr(CLIENT)));
}

/// Section 9.2.4, first check: what a client needs to try again, and no more.
#[test]
fn a_challenge_has_realm_nonce_and_algorithms() {
    let mut rig = Rig::new(lone());
    for name in [attr::USERNAME, attr::USERHASH] {
        let question = request_with(&[(name, b"somebody")]);
        let challenge = rig.ask(CLIENT, &question).expect("a challenge");
        assert_eq!(error(&challenge), Some(401));
        let expected = [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS];
        assert_eq!(kinds(&challenge), expected);
        assert_eq!(raw(&challenge, attr::REALM).as_deref(), Some(REALM.as_bytes()));
        assert_eq!(raw(&challenge, attr::PASSWORD_ALGORITHMS), Some(BOTH_ALGORITHMS.to_vec()));
        let nonce = raw(&challenge, attr::NONCE).expect("a nonce");
        assert!(nonce.starts_with(b"obMatJos2gAAA"), "the cookie of section 9.2");
        // Three times the shortest Allocate, which is what the server will see most of.
        assert_eq!(challenge.len(), 3 * 28);
    }
    // A request without either is anybody's.
    let answer = rig.ask(CLIENT, &request_with(&[(attr::REALM, b"x")])).expect("an answer");
    assert_eq!(error(&answer), None);
}

/// Each row changes one thing of a good request; the row says what comes back.
#[test]
fn whatever_is_wrong_is_refused() {
    fn check(what: &str, code: u16, change: fn(&mut Login)) {
        for prepare in [|login: Login| login, modern] {
            let mut rig = Rig::new(lone());
            let mut login = prepare(login(&mut rig, CLIENT));
            change(&mut login);
            let (answer, output) = observed(&mut rig, CLIENT, &login.request());
            assert_eq!((error(&answer), output), (Some(code), None), "{what}");
            // Section 9.2.4: an answer to the unauthenticated is not protected, and 401 and 438
            // bring what the next try needs.
            let retry = [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS];
            let expected = if code == 400 { &retry[..1] } else { &retry };
            assert_eq!(kinds(&answer), expected, "{what}");
        }
    }
    check("another key", 401, |login| {
        login.key = IntegrityKey::new(login.key.kind(), b"another");
    });
    check("another user", 401, |login| login.username.push('x'));
    check("no user", 401, |login| login.username.clear());
    check("a user of another form", 401, |login| login.username = "node".to_owned());
    check("a name without end", 401, |login| login.username.push_str(&"x".repeat(600)));
    check("another realm", 401, |login| login.realm = "elsewhere".to_owned());
    check("another nonce", 438, |login| login.nonce[20] ^= 1);
    check("no nonce of ours", 438, |login| login.nonce = b"f//499k954d6OL34oL9FSTvy64sA".to_vec());
    check("an empty nonce", 438, |login| login.nonce.clear());
    // Bid-down protection: the algorithms come together and ours unchanged.
    check("an algorithm alone", 400, |login| {
        login.algorithms = vec![(attr::PASSWORD_ALGORITHM, SHA_256.to_vec())];
    });
    check("a list alone", 400, |login| {
        login.algorithms = vec![(attr::PASSWORD_ALGORITHMS, BOTH_ALGORITHMS.to_vec())];
    });
    check("a shortened list", 400, |login| {
        login.algorithms =
            vec![(attr::PASSWORD_ALGORITHM, MD5.to_vec()), (attr::PASSWORD_ALGORITHMS, MD5.to_vec())];
    });
    check("an algorithm we do not have", 400, |login| {
        login.algorithms = vec![
            (attr::PASSWORD_ALGORITHM, vec![0, 3, 0, 0]),
            (attr::PASSWORD_ALGORITHMS, BOTH_ALGORITHMS.to_vec()),
        ];
    });
}

/// The value is compared whole: neither a part of it nor none of it will do.
#[test]
fn an_integrity_value_is_compared_whole() {
    let mut rig = Rig::new(lone());
    let login = modern(login(&mut rig, CLIENT));
    let good = login.request();
    let value = good[good.len() - 32..].to_vec();
    for len in [0, 16, 20, 28] {
        let mut writer = login.write();
        writer.attribute(attr::MESSAGE_INTEGRITY_SHA256, &value[..len]);
        let (answer, output) = observed(&mut rig, CLIENT, &writer.finish());
        assert_eq!((error(&answer), output), (Some(401), None), "{len}");
    }
    let mut writer = login.write();
    writer.attribute(attr::MESSAGE_INTEGRITY, b"");
    let (answer, _) = observed(&mut rig, CLIENT, &writer.finish());
    assert_eq!(error(&answer), Some(401));
}

/// Section 9.2.4, second check.
#[test]
fn an_integrity_attribute_needs_its_companions() {
    let mut rig = Rig::new(lone());
    let login = login(&mut rig, CLIENT);
    let all = [
        (attr::USERNAME, login.username.as_bytes()),
        (attr::REALM, REALM.as_bytes()),
        (attr::NONCE, &login.nonce),
    ];
    for missing in 0..all.len() {
        let mut writer = request();
        for (at, (kind, value)) in all.iter().enumerate() {
            if at != missing {
                writer.attribute(*kind, value);
            }
        }
        let (answer, output) = observed(&mut rig, CLIENT, &login.sign(writer));
        assert_eq!((error(&answer), output), (Some(400), None));
        assert_eq!(kinds(&answer), [attr::ERROR_CODE]);
    }
}

#[test]
fn one_changed_byte_is_noticed() {
    let mut rig = Rig::new(lone());
    let good = modern(login(&mut rig, CLIENT)).request();
    for at in 8..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x01;
        let outputs = rig.give(PRIMARY_MAIN, CLIENT, &bytes);
        let is_observed = outputs.iter().any(|o| matches!(o, Output::Observed { .. }));
        assert!(!is_observed, "byte {at}");
        rig.pass(Duration::from_millis(10));
    }
    assert!(observed(&mut rig, CLIENT, &good).1.is_some());
}

/// A nonce that was delivered to one source is worth nothing at another: this is what makes
/// an observation mean that its source receives.
#[test]
fn a_nonce_is_bound_to_its_source() {
    let mut rig = Rig::new(square());
    let login = login(&mut rig, CLIENT);
    for source in ["20.0.1.1:40001", "20.0.1.2:40000", "[2a00::1]:40000"] {
        let (answer, output) = observed(&mut rig, source, &login.request());
        assert_eq!((error(&answer), output), (Some(438), None), "{source}");
    }
    assert!(observed(&mut rig, CLIENT, &login.request()).1.is_some());
}

#[test]
fn a_stale_nonce_is_replaced_by_a_good_one() {
    let mut rig = Rig::new(lone());
    let mut login = login(&mut rig, CLIENT);
    let mut check = |pass_s: u64, code: Option<u16>| {
        rig.pass(Duration::from_secs(pass_s));
        let (answer, output) = observed(&mut rig, CLIENT, &login.request());
        assert_eq!((error(&answer), output.is_some()), (code, code.is_none()), "{pass_s} s");
        if let Some(nonce) = raw(&answer, attr::NONCE) {
            login.nonce = nonce;
        }
    };
    check(0, None);
    check(599, None);
    check(1, Some(438));
    check(0, None);
    check(3599 - 600, Some(438));
    check(0, None);
    check(1, Some(401)); // Now it is the credentials that are too old.
}

#[test]
fn secrets_rotate_with_overlap() {
    let mut rig = Rig::new(lone());
    let mut check = |of: &str, is_good: bool| {
        let login = login_with(&mut rig, CLIENT, of, NOW_UNIX_S + HOUR);
        let (answer, output) = observed(&mut rig, CLIENT, &login.request());
        assert_eq!((error(&answer).is_none(), output.is_some()), (is_good, is_good), "{of}");
    };
    check("the first secret", true);
    check("the other secret", true);
    check("the third secret", false);

    let now = rig.now;
    let held = secrets(&["the third secret", "the first secret"]);
    rig.server.handle(now, Input::Secrets(held));
    let mut check = |of: &str, is_good: bool| {
        let login = login_with(&mut rig, CLIENT, of, NOW_UNIX_S + HOUR);
        let (answer, _) = observed(&mut rig, CLIENT, &login.request());
        assert_eq!(error(&answer).is_none(), is_good, "{of}");
    };
    check("the third secret", true);
    check("the first secret", true);
    check("the other secret", false);
}

#[test]
fn an_expired_username_is_refused_to_the_second() {
    let mut rig = Rig::new(lone());
    let mut check = |expires_unix_s: u64, is_good: bool| {
        let login = login_with(&mut rig, CLIENT, "the first secret", expires_unix_s);
        let (answer, _) = observed(&mut rig, CLIENT, &login.request());
        assert_eq!(error(&answer).is_none(), is_good, "{expires_unix_s}");
    };
    check(NOW_UNIX_S + 1, true);
    check(u64::MAX, true);
    check(NOW_UNIX_S, false);
    check(0, false);
}

/// Section 9.2.4 ends where section 6.3.1 begins: errors behind a good login are protected too.
#[test]
fn later_errors_are_protected() {
    let mut rig = Rig::new(lone());
    let login = modern(login(&mut rig, CLIENT));
    let mut writer = login.write();
    writer.attribute(0x4242, b"");
    let (answer, output) = observed(&mut rig, CLIENT, &login.sign(writer));
    assert_eq!((error(&answer), unknown(&answer), output), (Some(420), vec![0x4242], None));
    assert!(Message::parse(&answer).expect("a good answer").verify(&login.key));
}

/// Section 14.5: a client may send both, and SHA-256 decides.
#[test]
fn the_stronger_integrity_decides() {
    let mut rig = Rig::new(lone());
    let login = modern(login(&mut rig, CLIENT));
    let mut weaker = login.clone();
    weaker.rekey(PasswordAlgorithm::Sha256, IntegrityKind::Sha1);
    let sha1 = weaker.key;
    let mut writer = login.write();
    writer.integrity(&sha1);
    writer.integrity(&login.key);
    writer.fingerprint();
    let (answer, output) = observed(&mut rig, CLIENT, &writer.finish());
    assert_eq!(error(&answer), None);
    assert!(output.is_some());

    let mut writer = login.write();
    writer.integrity(&sha1);
    writer.attribute(attr::MESSAGE_INTEGRITY_SHA256, &[0; 32]);
    let (answer, output) = observed(&mut rig, CLIENT, &writer.finish());
    assert_eq!((error(&answer), output), (Some(401), None));
}

#[test]
fn before_the_wall_time_is_known_only_anybody_is_answered() {
    use crate::common::{config, plain};
    let server = meetpoint_turn::StunServer::new(config(lone()), [1; 32]).expect("a server");
    let mut rig = Rig { server, ..Rig::new(lone()) };
    assert!(rig.ask(CLIENT, &plain()).is_some());
    assert!(rig.ask(CLIENT, &request_with(&[(attr::USERNAME, b"x")])).is_none());
    assert_eq!(rig.counters().dropped.no_wall_time, 1);
}

/// A client that shares no code with us, down to key and signature.
#[test]
fn an_independent_client_is_understood() {
    use stun_types::attribute::{Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm, Username};
    use stun_types::message::{
        BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageIntegrityCredentials,
        MessageWrite, MessageWriteExt, MessageWriteVec,
    };

    for algorithm in [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256] {
        let mut rig = Rig::new(lone());
        let ours = login(&mut rig, CLIENT);
        let mut message = Message::builder_request(BINDING, MessageWriteVec::new());
        let text = "what the challenge said";
        let nonce = String::from_utf8(ours.nonce).expect(text);
        message.add_attribute(&Username::new(&ours.username).expect(text)).expect(text);
        message.add_attribute(&Realm::new(REALM).expect(text)).expect(text);
        message.add_attribute(&Nonce::new(&nonce).expect(text)).expect(text);
        if algorithm == IntegrityAlgorithm::Sha256 {
            let offered = [PasswordAlgorithmValue::SHA256, PasswordAlgorithmValue::MD5];
            let chosen = stun_types::attribute::PasswordAlgorithm::new(offered[0]);
            message.add_attribute(&PasswordAlgorithms::new(&offered)).expect(text);
            message.add_attribute(&chosen).expect(text);
        }
        let credentials = LongTermKeyCredentials::new(ours.username, ours.password, REALM.to_owned());
        let credentials = MessageIntegrityCredentials::from(credentials);
        message.add_message_integrity(&credentials, algorithm).expect(text);
        message.add_fingerprint().expect(text);

        let (answer, output) = observed(&mut rig, CLIENT, &message.finish());
        assert!(matches!(output, Some(Output::Observed { .. })), "{algorithm:?}");
        let answer = Message::from_bytes(&answer).expect("a good answer");
        let validated = answer.validate_integrity(&credentials).expect("a good answer");
        assert_eq!(validated, algorithm);
    }
}
