//! Static users and secrets that rotate: who is let in, and how long (RFC 8489, section 9.2.4).

use meetpoint_turn::credentials::PasswordAlgorithm;
use meetpoint_turn::message::{ALLOCATE, Message};
use meetpoint_turn::users::userhash;
use meetpoint_turn::{Input, IntegrityKind, LongTermKeys, Output, Payload, User, Users, attr};

use crate::common::{
    CLIENT, Login, NOW_UNIX_S, PRIMARY_MAIN, REALM, Rig, addr, error, kinds, login, login_of, lone, raw,
    request, request_with, secrets,
};
use crate::turn::{A, Client, TurnRig, UDP, turn};

const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const PASSWORDS: [(&str, &str); 2] = [("alice", "winter garden"), ("bob", "summer house")];
const DAY: u64 = 86_400;

fn users(passwords: &[(&str, &str)]) -> Users {
    let user = |(name, password): &(&str, &str)| {
        User::new(name, REALM, LongTermKeys::derive(name, REALM, password)).expect("a good name")
    };
    Users::new(passwords.iter().map(user).collect()).expect("a few users")
}

/// Makes somebody else of a login.
fn as_user(mut login: Login, name: &str, password: &str) -> Login {
    login.username = name.to_owned();
    login.password = password.to_owned();
    login.rekey(PasswordAlgorithm::Md5, IntegrityKind::Sha1);
    login
}

fn modern(mut login: Login, algorithm: PasswordAlgorithm, kind: IntegrityKind) -> Login {
    let number = match algorithm {
        PasswordAlgorithm::Md5 => 1,
        PasswordAlgorithm::Sha256 => 2,
    };
    login.rekey(algorithm, kind);
    login.algorithms = vec![
        (attr::PASSWORD_ALGORITHM, vec![0, number, 0, 0]),
        (attr::PASSWORD_ALGORITHMS, ALGORITHMS.to_vec()),
    ];
    login
}

/// The same request, with this hash in place of the name.
fn hashed(login: &Login, hash: &[u8]) -> Payload {
    let mut writer = request();
    writer.attribute(attr::USERHASH, hash);
    writer.attribute(attr::REALM, login.realm.as_bytes());
    writer.attribute(attr::NONCE, &login.nonce);
    for (kind, value) in &login.algorithms {
        writer.attribute(*kind, value);
    }
    login.sign(writer)
}

fn rig() -> Rig {
    let mut rig = Rig::new(lone());
    let now = rig.now;
    rig.server.handle(now, Input::Users(users(&PASSWORDS)));
    rig
}

/// The answer's error, and who was observed.
fn tried(rig: &mut Rig, question: &[u8]) -> (Option<u16>, Option<String>) {
    let mut outputs = rig.give(PRIMARY_MAIN, CLIENT, question).into_iter();
    let Some(Output::Transmit { payload, .. }) = outputs.next() else { panic!("an answer") };
    let name = outputs.next().map(|output| match output {
        Output::Observed { username, .. } => username,
        other => panic!("{other:?}"),
    });
    (error(&payload), name)
}

#[test]
fn a_static_user_is_let_in_by_name_and_by_hash() {
    let ways: [fn(Login) -> Login; 4] = [
        |login| login,
        |login| modern(login, PasswordAlgorithm::Md5, IntegrityKind::Sha1),
        |login| modern(login, PasswordAlgorithm::Md5, IntegrityKind::Sha256),
        |login| modern(login, PasswordAlgorithm::Sha256, IntegrityKind::Sha256),
    ];
    for prepare in ways {
        for (name, password) in PASSWORDS {
            let mut rig = rig();
            let login = prepare(as_user(login(&mut rig, CLIENT), name, password));
            let good = (None, Some(name.to_owned()));
            assert_eq!(tried(&mut rig, &login.request()), good);
            assert_eq!(tried(&mut rig, &hashed(&login, &userhash(name, REALM))), good);
            // The answer is protected under the same key, and has no expiry to run into.
            rig.pass(std::time::Duration::from_secs(500));
            let answer = rig.ask(CLIENT, &login.request()).expect("an answer");
            assert!(Message::parse(&answer).expect("a good answer").verify(&login.key));
        }
    }
}

#[test]
fn nobody_else_is() {
    fn check(what: &str, change: fn(&Login) -> Payload) {
        for prepare in
            [|login| login, |login| modern(login, PasswordAlgorithm::Sha256, IntegrityKind::Sha256)]
        {
            let mut rig = rig();
            let login = prepare(as_user(login(&mut rig, CLIENT), "alice", "winter garden"));
            assert_eq!(tried(&mut rig, &change(&login)), (Some(401), None), "{what}");
        }
    }
    check("another's name", |login| Login { username: "bob".to_owned(), ..login.clone() }.request());
    check("no such name", |login| Login { username: "alicf".to_owned(), ..login.clone() }.request());
    check("another realm", |login| Login { realm: "elsewhere".to_owned(), ..login.clone() }.request());
    check("an expiry before the name", |login| {
        Login { username: format!("{}:alice", NOW_UNIX_S + DAY), ..login.clone() }.request()
    });
    check("another's hash", |login| hashed(login, &userhash("bob", REALM)));
    check("nobody's hash", |login| hashed(login, &[0; 32]));
    check("a hash in another realm", |login| hashed(login, &userhash("alice", "elsewhere")));
    check("a part of the hash", |login| hashed(login, &userhash("alice", REALM)[..31]));
    check("no hash", |login| hashed(login, &[]));
    // What stands in for the key of a name that nobody has is no key.
    check("the stand-in", |login| {
        let key = meetpoint_turn::IntegrityKey::new(login.key.kind(), &[0; 16]);
        Login { username: "carol".to_owned(), key, ..login.clone() }.request()
    });
}

/// Of a time-limited username there is no table of hashes.
#[test]
fn a_time_limited_user_has_no_hash() {
    let mut rig = rig();
    let login = login(&mut rig, CLIENT);
    assert_eq!(tried(&mut rig, &login.request()).0, None);
    let hash = userhash(&login.username, REALM);
    assert_eq!(tried(&mut rig, &hashed(&login, &hash)), (Some(401), None));
}

/// Section 9.2.5: a client that sees the bit must send USERHASH, so it is there only if it was asked
/// for. A nonce from before is as good as one from after.
#[test]
fn username_anonymity_is_announced_if_asked_for() {
    let mut rig = rig();
    let nonce = |rig: &mut Rig| {
        let challenge = rig.ask(CLIENT, &request_with(&[(attr::USERNAME, b"x")])).expect("a challenge");
        let expected = [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS];
        assert_eq!(kinds(&challenge), expected);
        raw(&challenge, attr::NONCE).expect("a nonce")
    };
    let before = nonce(&mut rig);
    assert!(before.starts_with(b"obMatJos2gAAA"));
    let now = rig.now;
    rig.server.handle(now, Input::Users(users(&PASSWORDS).announcing_hashes()));
    let after = nonce(&mut rig);
    assert!(after.starts_with(b"obMatJos2wAAA"));
    let mut login = as_user(login(&mut rig, CLIENT), "alice", "winter garden");
    login = modern(login, PasswordAlgorithm::Sha256, IntegrityKind::Sha256);
    for (nonce, code) in [
        (before.clone(), None),
        (after.clone(), None),
        // Neither can the bit be taken away on the way, nor be put in.
        ([&before[..13], &after[13..]].concat(), Some(438)),
        ([&after[..13], &before[13..]].concat(), Some(438)),
    ] {
        login.nonce = nonce;
        assert_eq!(tried(&mut rig, &login.request()).0, code);
        assert_eq!(tried(&mut rig, &hashed(&login, &userhash("alice", REALM))).0, code);
    }
}

/// An allocation of somebody at a place of his own.
fn allocated(turn: &mut TurnRig, source: &str, prepare: impl Fn(Login) -> Login) -> Client {
    let mut client = turn.client("node", source);
    client.login = prepare(client.login);
    let answer = turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]);
    assert_eq!(error(&answer), None);
    client
}

#[test]
fn a_removed_user_refreshes_nothing() {
    let mut turn = turn();
    let change = |turn: &mut TurnRig, passwords| {
        turn.rig.server.handle(turn.rig.now, Input::Users(users(passwords)));
    };
    change(&mut turn, &PASSWORDS);
    let [alice, bob] = [0, 1].map(|at| {
        let (name, password) = PASSWORDS[at];
        allocated(&mut turn, ["20.0.1.1:1", "20.0.1.2:1"][at], |login| as_user(login, name, password))
    });
    let names: Vec<_> =
        turn.rig.server.sessions(turn.rig.now).map(|session| session.user.to_owned()).collect();
    assert_eq!(names, ["alice", "bob"]);
    // 441 is for whoever is somebody else.
    let guest = Client { login: as_user(bob.login.clone(), "alice", "winter garden"), ..bob.clone() };
    assert_eq!(turn.refresh(&guest, 600), Some(441));
    assert_eq!(turn.permit(&guest, "30.0.0.1:1"), Some(441));

    change(&mut turn, &[PASSWORDS[1]]);
    assert_eq!(turn.refresh(&alice, 600), Some(401));
    assert_eq!(turn.permit(&alice, "30.0.0.1:1"), Some(401));
    assert_eq!((turn.refresh(&bob, 600), turn.permit(&bob, "30.0.0.1:1")), (None, None));

    // A new password is the same user.
    change(&mut turn, &[("bob", "autumn barn")]);
    assert_eq!(turn.refresh(&bob, 600), Some(401));
    let changed = Client { login: as_user(bob.login.clone(), "bob", "autumn barn"), ..bob };
    assert_eq!(turn.refresh(&changed, 600), None);
}

/// A secret that goes takes with it what was granted under it, and nothing else.
#[test]
fn rotation_cuts_nobody_else() {
    let mut turn = turn();
    let hold = |turn: &mut TurnRig, texts: &[&str]| {
        turn.rig.server.handle(turn.rig.now, Input::Secrets(secrets(texts)));
    };
    let (one, two, three) = ("the first secret", "the other secret", "the third secret");
    let under = |turn: &mut TurnRig, source: &str, secret: &str| {
        let login = login_of(&mut turn.rig, source, secret, "node", NOW_UNIX_S + DAY);
        allocated(turn, source, |old| Login { nonce: old.nonce, ..login.clone() })
    };
    let first = under(&mut turn, "20.0.1.1:1", one);
    let second = under(&mut turn, "20.0.1.2:1", two);
    hold(&mut turn, &[three, one, two]);
    let third = under(&mut turn, "20.0.1.3:1", three);
    let refreshed = |turn: &mut TurnRig| [&first, &second, &third].map(|client| turn.refresh(client, 600));
    assert_eq!(refreshed(&mut turn), [None; 3]);
    hold(&mut turn, &[three, two]);
    assert_eq!(refreshed(&mut turn), [Some(401), None, None]);
    hold(&mut turn, &[three]);
    assert_eq!(refreshed(&mut turn), [Some(401), Some(401), None]);
    assert_eq!(turn.rig.server.sessions(turn.rig.now).count(), 3, "they last until they run out");
}

/// A client that shares no code with us, down to the hash.
#[test]
fn an_independent_client_is_understood_by_its_hash() {
    use stun_types::attribute::{
        Nonce, PasswordAlgorithm, PasswordAlgorithmValue, PasswordAlgorithms, Realm, Userhash,
    };
    use stun_types::message::{
        BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageIntegrityCredentials,
        MessageWrite, MessageWriteExt, MessageWriteVec,
    };

    let mut rig = rig();
    let nonce = String::from_utf8(login(&mut rig, CLIENT).nonce).expect("text");
    let mut message = Message::builder_request(BINDING, MessageWriteVec::new());
    let offered = [PasswordAlgorithmValue::SHA256, PasswordAlgorithmValue::MD5];
    let text = "an attribute";
    message.add_attribute(&Userhash::new(Userhash::compute("alice", REALM))).expect(text);
    message.add_attribute(&Realm::new(REALM).expect(text)).expect(text);
    message.add_attribute(&Nonce::new(&nonce).expect(text)).expect(text);
    message.add_attribute(&PasswordAlgorithms::new(&offered)).expect(text);
    message.add_attribute(&PasswordAlgorithm::new(offered[0])).expect(text);
    let (name, password) = (PASSWORDS[0].0.to_owned(), PASSWORDS[0].1.to_owned());
    let credentials = LongTermKeyCredentials::new(name, password, REALM.to_owned());
    let credentials = MessageIntegrityCredentials::from(credentials);
    message.add_message_integrity(&credentials, IntegrityAlgorithm::Sha256).expect(text);
    let question = message.finish();
    let answer = rig.ask(CLIENT, &question).expect("an answer");
    assert_eq!(crate::common::mapped(&answer), Some(addr(CLIENT)));
    let answer = Message::from_bytes(&answer).expect("a good answer");
    assert!(answer.validate_integrity(&credentials).is_ok());
}
