//! How a membership goes on, is taken elsewhere, and ends.

use std::time::Duration;

use crate::rig::{IDLE, Rig, UNIX_S, addr, carry, config};
use ed25519_dalek::SigningKey;
use meetpoint_agent::{Event, Input, Output};
use meetpoint_proto::id::SessionToken;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{ClientMessage, Refusal, Renewal, ServerMessage, Welcome};
use meetpoint_proto::{Certificate, ClusterSecret, Code, Membership, NodeId, Nonce, PublicKey, Revocation};

fn opens_control(output: &Output) -> bool {
    matches!(output, Output::OpenControl { .. })
}

/// Lets the node stay until it says or does something else than to keep the connection.
fn stay_until(rig: &mut Rig, wanted: impl Fn(&Output) -> bool) -> (Duration, Vec<Output>) {
    let mut stayed = Duration::ZERO;
    loop {
        rig.advance(IDLE / 4);
        stayed += IDLE / 4;
        rig.tell(ServerMessage::Ping { seq: 1 });
        let log = rig.take();
        if log.iter().any(&wanted) {
            return (stayed, log);
        }
        assert!(stayed < Duration::from_secs(3600), "the certificate has ended");
    }
}

fn asks_to_renew(output: &Output) -> bool {
    matches!(output, Output::SendControl(ClientMessage::Renew))
}

fn memberships(log: &[Output]) -> Vec<Membership> {
    let told = log.iter().filter_map(|output| match output {
        Output::Membership(membership) => Some((**membership).clone()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_membership_is_renewed_well_before_it_ends() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(Rig::stun_access()));
    assert_eq!(memberships(&rig.take()).len(), 1);
    // The rig's certificates hold an hour.
    let (stayed, log) = stay_until(&mut rig, asks_to_renew);
    assert!((2160..=2550).contains(&stayed.as_secs()), "{stayed:?}");
    assert!(!log.iter().any(opens_control), "without joining anew");
    // What is not this node's certificate is not taken.
    let renewed = |rig: &mut Rig, change: &dyn Fn(&mut Certificate), key: &SigningKey| {
        let mut certificate = rig.own_certificate();
        certificate.not_before_unix_s = UNIX_S + 2400;
        certificate.not_after_unix_s = UNIX_S + 6000;
        change(&mut certificate);
        let stun =
            Some(meetpoint_proto::wire::StunAccess { username: "2:user".into(), ..Rig::stun_access() });
        let renewal = Renewal { certificate: certificate.sign(key), stun };
        rig.tell(ServerMessage::Certificate(Box::new(renewal)));
        memberships(&rig.take()).len()
    };
    let key = rig.cluster_key.clone();
    assert_eq!(renewed(&mut rig, &|_| {}, &SigningKey::from_bytes(&[98; 32])), 0);
    assert_eq!(renewed(&mut rig, &|c| c.name = "mallory".parse().unwrap(), &key), 0);
    assert_eq!(renewed(&mut rig, &|c| c.node = NodeId::from_bytes([1; 32]), &key), 0);
    rig.sent.clear();
    assert_eq!(renewed(&mut rig, &|_| {}, &key), 1);
    rig.advance(Duration::from_millis(1));
    assert!(!rig.sent.is_empty(), "the mapping is observed under the fresh credential");
    let (stayed, log) = stay_until(&mut rig, asks_to_renew);
    assert!((2150..=2550).contains(&stayed.as_secs()), "{stayed:?}");
    assert!(!log.iter().any(opens_control));
}

#[test]
fn a_server_that_does_not_renew_is_joined_anew() {
    let mut rig = Rig::new(1);
    rig.join();
    let (first, _) = stay_until(&mut rig, asks_to_renew);
    let (second, _) = stay_until(&mut rig, asks_to_renew);
    assert!((150..=220).contains(&second.as_secs()), "asked again after {second:?}");
    let (rest, log) = stay_until(&mut rig, opens_control);
    let stayed = (first + second + rest).as_secs();
    assert!((3240..=3300).contains(&stayed), "{stayed}");
    let lost = |output: &Output| matches!(output, Output::Event(Event::Disconnected { .. }));
    assert!(!log.iter().any(lost), "nothing was lost");
    assert_eq!(rig.open().node_id, rig.id());
}

#[test]
fn a_session_is_come_back_to_until_it_is_revoked() {
    let token = |n| SessionToken::from_bytes([n; 32]);
    let mut rig = Rig::new(1);
    assert_eq!(rig.open().resume, None);
    let steps = [
        (Some(1), Code::TooSlow, Some(1)),
        // The server said nothing of another one: this one goes on.
        (None, Code::Shutdown, Some(1)),
        (Some(2), Code::ClusterChanged, Some(2)),
        (None, Code::SessionRevoked, None),
    ];
    for (given, closing, expect) in steps {
        rig.challenge().expect("a proof");
        let mut welcome = rig.welcome();
        welcome.session_token = given.map(token);
        rig.tell(ServerMessage::Welcome(Box::new(welcome)));
        rig.tell(ServerMessage::Closing(Refusal::new(closing)));
        rig.advance(Duration::from_secs(10));
        assert_eq!(rig.open().resume, expect.map(token));
    }
}

#[test]
fn secrets_are_proven_in_the_order_they_are_named() {
    let [old, new] = [1, 2].map(|n| ClusterSecret::from_bytes([n; 32]));
    let mut given = config(1);
    (given.token, given.secrets) = (None, vec![old.clone()]);
    let cluster = given.cluster.clone();
    let mut rig = Rig::with(given, [20, 0, 0, 1].into());
    let hello = rig.open();
    assert_eq!((hello.token, &hello.secrets[..]), (None, &[old.id(&cluster)][..]));
    // New ones arrive in the middle of the handshake: this one goes on with those it has named.
    rig.input(Input::Secrets(vec![new.clone(), old.clone()]));
    let proof = rig.challenge().unwrap();
    assert_eq!((proof.admission, proof.secrets.len()), (None, 1));
    assert!(rig.transcript().verify_mac(&old.key(&cluster), &proof.secrets[0]));
    rig.input(Input::ControlClosed);
    rig.advance(Duration::from_secs(10));
    assert_eq!(rig.open().secrets, [new.id(&cluster), old.id(&cluster)]);
    let proof = rig.challenge().unwrap();
    assert!(rig.transcript().verify_mac(&new.key(&cluster), &proof.secrets[0]));
    assert!(rig.transcript().verify_mac(&old.key(&cluster), &proof.secrets[1]));
    // More than a server takes are not shown.
    rig.input(Input::ControlClosed);
    rig.input(Input::Secrets((0..20).map(|n| ClusterSecret::from_bytes([n; 32])).collect()));
    rig.advance(Duration::from_secs(10));
    assert_eq!(rig.open().secrets.len(), meetpoint_proto::wire::MAX_SECRETS);
}

/// A node with a membership of the rig's cluster, at a server with this key of its own.
fn visitor(cluster_key: &SigningKey) -> Rig {
    let mut given = config(1);
    let certificate = Rig::new(1).certificate(1).sign(cluster_key);
    given.membership = Some(Membership { cluster_key: PublicKey::from(cluster_key), certificate });
    Rig::with(given, [20, 0, 0, 1].into())
}

#[test]
fn a_visitor_shows_its_certificate_and_no_right_to_join() {
    let (home, server) = (SigningKey::from_bytes(&[99; 32]), SigningKey::from_bytes(&[55; 32]));
    let nonce = Nonce::from_bytes([5; 32]);
    let challenge = |cluster: &SigningKey, server: &SigningKey| ServerMessage::Challenge {
        nonce,
        cluster_key: PublicKey::from(cluster),
        server_key: Some(PublicKey::from(server)),
    };
    let proof = |rig: &mut Rig| {
        rig.messages().into_iter().find_map(|message| match message {
            ClientMessage::Proof(proof) => Some(proof),
            _ => None,
        })
    };
    let mut rig = visitor(&home);
    let hello = rig.open();
    assert!(hello.certificate.is_some());
    rig.tell(challenge(&home, &server));
    let shown = proof(&mut rig).expect("a proof");
    assert_eq!((shown.admission, shown.secrets.len()), (None, 0));
    let transcript =
        Transcript::new(&hello, &nonce, &PublicKey::from(&home)).served_by(&PublicKey::from(&server));
    assert!(transcript.verify(Domain::Node, &PublicKey::from(rig.id()), &shown.node));
    let welcome = |signer: &SigningKey| {
        let certificate = hello.certificate.as_deref().unwrap().clone();
        let signature = transcript.sign(Domain::Welcome, signer);
        let mut rig = Rig::new(1);
        rig.open();
        rig.challenge();
        Welcome { signature, certificate, ..rig.welcome() }
    };
    // The welcome is the server's word, and only its.
    rig.tell(ServerMessage::Welcome(Box::new(welcome(&home))));
    assert!(rig.take().iter().any(|output| matches!(output, Output::Event(Event::Disconnected { .. }))));

    let mut rig = visitor(&home);
    let hello_again = rig.open();
    assert_eq!(hello_again, hello, "the rig's nodes are all alike");
    rig.tell(challenge(&home, &server));
    rig.tell(ServerMessage::Welcome(Box::new(welcome(&server))));
    assert!(rig.take().iter().any(|output| matches!(output, Output::Event(Event::Joined { .. }))));
    // It asks for no renewal, up to the end of its certificate.
    for _ in 0..(3500 / (IDLE / 4).as_secs()) {
        rig.advance(IDLE / 4);
        rig.tell(ServerMessage::Ping { seq: 1 });
        assert!(!rig.take().iter().any(|output| asks_to_renew(output) || opens_control(output)));
    }

    // Another cluster's server, or one that a node without a membership comes to.
    let mut rig = visitor(&home);
    rig.open();
    rig.tell(challenge(&SigningKey::from_bytes(&[98; 32]), &server));
    assert!(proof(&mut rig).is_none());
    let mut rig = Rig::new(1);
    rig.open();
    rig.tell(challenge(&home, &server));
    assert!(proof(&mut rig).is_none());
}

#[test]
fn a_removed_peer_is_dropped_and_refused() {
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    for rig in [&mut a, &mut b] {
        rig.join();
    }
    let meet = |a: &mut Rig, b: &mut Rig, ticket: u8| {
        let (to_a, to_b) =
            (a.introduction(ticket, 2, &["20.0.0.2:4000"]), b.introduction(ticket, 1, &["20.0.0.1:4000"]));
        a.introduce(to_a);
        b.introduce(to_b);
        carry(a, b);
        a.paths()
    };
    assert!(meet(&mut a, &mut b, 1).iter().any(Option::is_some));
    let cluster = "default".parse().unwrap();
    let told = |a: &mut Rig, node, until_unix_s, key: &SigningKey| {
        let text = Revocation { node, until_unix_s }.sign(&cluster, key);
        a.tell(ServerMessage::Revoked(text));
        a.paths()
    };
    let key = a.cluster_key.clone();
    let (own, peer, until) = (a.id(), b.id(), UNIX_S + 3600);
    // Not the cluster's word; about this node; older than the peer's certificate.
    assert_eq!(told(&mut a, peer, until, &SigningKey::from_bytes(&[98; 32])), []);
    assert_eq!(told(&mut a, own, until, &key), []);
    assert_eq!(told(&mut a, peer, until - 1, &key), []);
    assert_eq!(told(&mut a, peer, until, &key), [None]);
    assert_eq!(meet(&mut a, &mut b, 2), [], "no ticket helps");
    // A newcomer learns it with the welcome.
    let text = Revocation { node: peer, until_unix_s: until }.sign(&cluster, &key);
    let mut late = Rig::new(1);
    late.join_with(|welcome| welcome.revoked = vec![text]);
    assert_eq!(meet(&mut late, &mut b, 3), []);
    // It was taken back: its newer certificate says so.
    let mut introduction = a.introduction(4, 2, &["20.0.0.2:4000"]);
    let newer = Certificate { not_after_unix_s: until + 1, ..a.certificate(2) };
    introduction.certificate = a.resign(&newer);
    a.introduce(introduction);
    a.advance(Duration::from_millis(200));
    assert!(a.sent.iter().any(|(_, to, _)| *to == addr("20.0.0.2:4000")));
}
