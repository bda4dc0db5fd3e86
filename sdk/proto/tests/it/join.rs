//! Signatures: each binds what it says, stands for one thing only, and has one form only.
#![allow(clippy::unwrap_used, reason = "tests")]

use ed25519_dalek::{Signer, SigningKey, Verifier};
use meetpoint_proto::certificate::{CertificateError, MAX_SKEW_S};
use meetpoint_proto::id::{NodeId, Nonce, PublicKey, SecretId, SessionToken, Signature};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{CertificateText, Hello, Profile};
use meetpoint_proto::{Certificate, ClusterSecret, JoinToken, Membership, Revocation};

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn hello() -> Hello {
    Hello {
        protocol: 1,
        cluster: "default".into(),
        name: "alice".into(),
        node_id: NodeId::from(&key(1)),
        nonce: Nonce::from_bytes([1; 32]),
        token: None,
        declared: None,
        node_addr: None,
        local_ip: "10.0.0.1".parse().unwrap(),
        expect: None,
        ephemeral: false,
        version: "1".into(),
        secrets: Vec::new(),
        resume: None,
        certificate: None,
        profile: Profile::default(),
    }
}

fn transcript(hello: &Hello) -> Transcript {
    Transcript::new(hello, &Nonce::from_bytes([2; 32]), &PublicKey::from(&key(9)))
}

#[test]
fn a_signature_binds_every_word_and_both_nonces_and_keys() {
    type Change = fn(&mut Hello);
    let original = transcript(&hello()).sign(Domain::Node, &key(1));
    let signer = PublicKey::from(&key(1));
    assert!(transcript(&hello()).verify(Domain::Node, &signer, &original));
    let token: JoinToken = "a-token-long-enough".parse().unwrap();
    assert_ne!(token.id(), "other-token-long-enough".parse::<JoinToken>().unwrap().id());
    let changes: &[Change] = &[
        |h| h.cluster = "other".into(),
        |h| h.name = "mallory".into(),
        |h| h.nonce = Nonce::from_bytes([7; 32]),
        |h| h.node_id = NodeId::from(&key(2)),
        |h| h.token = Some("a-token-long-enough".parse::<JoinToken>().unwrap().id()),
        |h| h.node_addr = Some("20.0.0.1:1".parse().unwrap()),
        |h| h.local_ip = "10.0.0.2".parse().unwrap(),
        |h| h.ephemeral = true,
        |h| h.version = "2".into(),
        |h| h.secrets = vec![SecretId::from_bytes([1; 10])],
        |h| h.resume = Some(SessionToken::from_bytes([1; 32])),
        |h| h.certificate = Some(Box::new(member().sign(&key(9)))),
        |h| h.profile.rack = Some("r1".into()),
    ];
    for change in changes {
        let mut changed = hello();
        change(&mut changed);
        assert!(!transcript(&changed).verify(Domain::Node, &signer, &original), "{changed:?}");
    }
    let other_nonce = Transcript::new(&hello(), &Nonce::from_bytes([3; 32]), &PublicKey::from(&key(9)));
    let other_cluster = Transcript::new(&hello(), &Nonce::from_bytes([2; 32]), &PublicKey::from(&key(8)));
    let elsewhere = transcript(&hello()).served_by(&PublicKey::from(&key(7)));
    assert!(!elsewhere.verify(Domain::Node, &signer, &original));
    assert!(!other_nonce.verify(Domain::Node, &signer, &original));
    assert!(!other_cluster.verify(Domain::Node, &signer, &original));
}

#[test]
fn a_signature_stands_for_one_domain() {
    let transcript = transcript(&hello());
    for made in [Domain::Node, Domain::Admission, Domain::Welcome] {
        let signature = transcript.sign(made, &key(1));
        for used in [Domain::Node, Domain::Admission, Domain::Welcome] {
            let good = transcript.verify(used, &PublicKey::from(&key(1)), &signature);
            assert_eq!(good, made == used, "{made:?} as {used:?}");
        }
    }
}

/// The group order, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn a_malleated_signature_is_refused() {
    let transcript = transcript(&hello());
    let mut bytes = *transcript.sign(Domain::Node, &key(1)).as_bytes();
    let mut carry = 0;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert!(!transcript.verify(Domain::Node, &PublicKey::from(&key(1)), &Signature::from_bytes(bytes)));
}

#[test]
fn a_small_order_key_signs_nothing() {
    // Under the identity as key, R = identity and S = 0 "sign" every message: plain Ed25519
    // verification takes it, so that anybody could claim that key.
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    let lax = ed25519_dalek::VerifyingKey::from_bytes(&identity).unwrap();
    assert!(lax.verify(b"anything", &ed25519_dalek::Signature::from_bytes(&forged)).is_ok());
    let transcript = transcript(&hello());
    let verdict =
        transcript.verify(Domain::Node, &PublicKey::from_bytes(identity), &Signature::from_bytes(forged));
    assert!(!verdict);
}

#[test]
fn a_mac_binds_the_join_and_the_secret() {
    let cluster = "default".parse().unwrap();
    let [secret, other] = [1, 2].map(|n| ClusterSecret::from_bytes([n; 32]).key(&cluster));
    let mac = transcript(&hello()).mac(&secret);
    assert!(transcript(&hello()).verify_mac(&secret, &mac));
    assert!(!transcript(&hello()).verify_mac(&other, &mac));
    let changed = Hello { name: "mallory".into(), ..hello() };
    assert!(!transcript(&changed).verify_mac(&secret, &mac));
    let elsewhere = "other".parse().unwrap();
    assert!(!transcript(&hello()).verify_mac(&ClusterSecret::from_bytes([1; 32]).key(&elsewhere), &mac));
}

fn member() -> Certificate {
    Certificate {
        cluster: "default".parse().unwrap(),
        node: NodeId::from(&key(1)),
        name: "alice".parse().unwrap(),
        not_before_unix_s: 0,
        not_after_unix_s: 100,
        capabilities: vec!["gateway".parse().unwrap()],
    }
}

#[test]
fn a_skewed_clock_is_told_by_how_much() {
    let begins = Certificate { not_before_unix_s: 10_000, not_after_unix_s: 20_000, ..member() };
    let (text, cluster) = (begins.sign(&key(9)), PublicKey::from(&key(9)));
    let early = 10_000 - MAX_SKEW_S;
    assert_eq!(Certificate::verify(&text, &cluster, early), Ok(begins));
    let not_yet = CertificateError::NotYetValid { ahead_s: MAX_SKEW_S + 1 };
    assert_eq!(Certificate::verify(&text, &cluster, early - 1), Err(not_yet));
    let expired = Certificate::verify(&text, &cluster, 23_600).unwrap_err();
    assert_eq!(expired, CertificateError::Expired { ago_s: 3_600 });
    assert!(expired.to_string().contains("3600 s ago"));
}

#[test]
fn a_revocation_is_the_clusters_word_about_one_node() {
    let (name, cluster) = ("default".parse().unwrap(), PublicKey::from(&key(9)));
    let revocation = Revocation { node: NodeId::from(&key(1)), until_unix_s: 100 };
    let text = revocation.sign(&name, &key(9));
    assert_eq!(Revocation::verify(&text, &name, &cluster), Some(revocation));
    assert_eq!(Revocation::verify(&text, &"other".parse().unwrap(), &cluster), None);
    assert_eq!(Revocation::verify(&text, &name, &PublicKey::from(&key(8))), None);
    let mut changed = text.clone();
    changed.until_unix_s += 1;
    assert_eq!(Revocation::verify(&changed, &name, &cluster), None);
    changed = text;
    changed.id = NodeId::from(&key(2));
    assert_eq!(Revocation::verify(&changed, &name, &cluster), None);
}

#[test]
fn a_membership_travels_as_one_line() {
    let membership =
        Membership { cluster_key: PublicKey::from(&key(9)), certificate: member().sign(&key(9)) };
    let text = membership.to_string();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(text.parse(), Ok(membership));
    for bad in ["", "x {}", "x", &text[1..]] {
        assert!(bad.parse::<Membership>().is_err(), "{bad}");
    }
}

#[test]
fn certificates_bind_their_fields_and_end() {
    type Change = fn(&mut CertificateText);
    let certificate = member();
    let text = certificate.sign(&key(9));
    let cluster = PublicKey::from(&key(9));
    assert_eq!(Certificate::verify(&text, &cluster, 99), Ok(certificate));
    assert_eq!(Certificate::verify(&text, &cluster, 100), Err(CertificateError::Expired { ago_s: 0 }));
    let stranger = PublicKey::from(&key(8));
    assert_eq!(Certificate::verify(&text, &stranger, 0), Err(CertificateError::BadSignature));
    let cases: &[(Change, CertificateError)] = &[
        (|c| c.name = "mallory".into(), CertificateError::BadSignature),
        (|c| c.cluster = "other".into(), CertificateError::BadSignature),
        (|c| c.node_id = NodeId::from(&key(2)), CertificateError::BadSignature),
        (|c| c.not_after_unix_s = 1_000, CertificateError::BadSignature),
        (|c| c.not_before_unix_s = 1, CertificateError::BadSignature),
        (|c| c.capabilities = Vec::new(), CertificateError::BadSignature),
        (|c| c.capabilities.push("relay".into()), CertificateError::BadSignature),
        (|c| c.capabilities = vec!["a b".into()], CertificateError::BadField("capabilities")),
        (|c| c.capabilities = vec!["a".into(); 17], CertificateError::BadField("capabilities")),
        (|c| c.name = "<b>".into(), CertificateError::BadField("name")),
        (|c| c.cluster = String::new(), CertificateError::BadField("cluster")),
    ];
    for (change, expect) in cases {
        let mut changed = text.clone();
        change(&mut changed);
        assert_eq!(Certificate::verify(&changed, &cluster, 0).as_ref(), Err(expect), "{changed:?}");
    }
    // A signature of the same key for another purpose is no certificate.
    let mut reused = text;
    reused.signature = Signature::from_bytes(key(9).sign(b"something else").to_bytes());
    assert_eq!(Certificate::verify(&reused, &cluster, 0), Err(CertificateError::BadSignature));
}
