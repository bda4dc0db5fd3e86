//! `docs/vectors.md` is what another implementation has to come to as well. Each message is put together here from the
//! words of `docs/protocol.md` and not by the library, which then has to make or take the same: so page, test and
//! library agree, and no change of the wire goes unnoticed.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::{Display, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer, SigningKey};
use meetpoint_proto::id::{Fingerprint, TicketId};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::meet::{AgreementSecret, Half};
use meetpoint_proto::vouch::SeedProof;
use meetpoint_proto::wire::{Hello, Profile};
use meetpoint_proto::{
    Certificate, ClusterSecret, JoinToken, NodeId, Nonce, PublicKey, Revocation, Signature,
};
use sha2::{Digest, Sha256};

/// Refreshes the document instead of comparing it.
const UPDATE: &str = "MEETPOINT_UPDATE";

const INTRODUCTION: &str = "# Test vectors

For a second implementation of the [protocol](protocol.md). Secrets are one byte, repeated; `01 x 32` is 32 bytes of 1. Ed25519
signs deterministically, so every value is the only right one. Values are base32 unless they are said to be hex.
`MEETPOINT_UPDATE=1 cargo test -p meetpoint-proto --test it vectors` prints this page; without the variable it is compared.
";

/// A page of names and values.
struct Page(String);

impl Page {
    fn section(&mut self, title: &str, lines: &[(&str, &dyn Display)]) {
        let _ = write!(self.0, "\n## {title}\n\n```text\n");
        for (name, value) in lines {
            let _ = writeln!(self.0, "{name} = {value}");
        }
        self.0.push_str("```\n");
    }
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn joined(fields: &[&[u8]]) -> Vec<u8> {
    let field = |bytes: &&[u8]| [&(bytes.len() as u64).to_be_bytes()[..], bytes].concat();
    fields.iter().flat_map(field).collect()
}

fn signed(key: &SigningKey, message: &[u8]) -> Signature {
    Signature::from_bytes(key.sign(message).to_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn rights(page: &mut Page) {
    let token = JoinToken::mint([2; 16], Fingerprint::from_bytes([3; 32]));
    page.section(
        "A join token",
        &[
            ("secret", &"02 x 16"),
            ("fingerprint", &"03 x 32"),
            ("text", &token.reveal()),
            ("id", &token.id()),
            ("public key", &token.public_key()),
        ],
    );
    let (secret, cluster) = (ClusterSecret::from_bytes([4; 32]), "default".parse().unwrap());
    page.section(
        "A cluster secret",
        &[
            ("secret", &"04 x 32"),
            ("cluster", &cluster),
            ("text", &secret.reveal()),
            ("id", &secret.id(&cluster)),
            ("key, hex", &HEXLOWER.encode(secret.key(&cluster).as_bytes())),
        ],
    );
}

fn join(page: &mut Page) {
    let token = JoinToken::mint([2; 16], Fingerprint::from_bytes([3; 32]));
    let (secret, cluster) = (ClusterSecret::from_bytes([4; 32]), "default".parse().unwrap());
    let hello = Hello {
        protocol: 1,
        cluster: "default".to_owned(),
        name: "alice".to_owned(),
        node_id: NodeId::from(&key(1)),
        nonce: Nonce::from_bytes([5; 32]),
        token: Some(token.id()),
        declared: None,
        node_addr: None,
        local_ip: "192.168.1.5".parse().unwrap(),
        expect: None,
        ephemeral: true,
        version: "0.1.0".to_owned(),
        secrets: vec![secret.id(&cluster)],
        resume: None,
        certificate: None,
        profile: Profile::default(),
    };
    let (cluster_key, nonce) = (key(7), Nonce::from_bytes([6; 32]));
    let json = format!(
        r#"{{"protocol":1,"cluster":"default","name":"alice","node_id":"{}","nonce":"{}","token":"{}","declared":null,"node_addr":null,"local_ip":"192.168.1.5","expect":null,"ephemeral":true,"version":"0.1.0","secrets":["{}"]}}"#,
        hello.node_id,
        hello.nonce,
        token.id(),
        secret.id(&cluster),
    );
    let message = |domain: &str| {
        let public = PublicKey::from(&cluster_key);
        let (id, own) = (hello.node_id.as_bytes(), hello.nonce.as_bytes());
        joined(&[domain.as_bytes(), id, public.as_bytes(), own, nonce.as_bytes(), json.as_bytes()])
    };
    let transcript = Transcript::new(&hello, &nonce, &PublicKey::from(&cluster_key));
    let by = |domain, words: &str, key: &SigningKey| {
        let signature = signed(key, &message(words));
        assert_eq!(transcript.sign(domain, key), signature, "{words}");
        signature
    };
    let node = message("meetpoint/v1/join/node");
    page.section(
        "A join",
        &[
            ("node's key", &"01 x 32"),
            ("node id", &hello.node_id),
            ("cluster's key", &"07 x 32"),
            ("cluster's public key", &PublicKey::from(&cluster_key)),
            ("nonce of hello", &"05 x 32"),
            ("nonce of challenge", &"06 x 32"),
            ("hello as JSON", &json),
            ("bytes that the node signs", &node.len()),
            ("their SHA-256, hex", &sha256(&node)),
            ("node's signature", &by(Domain::Node, "meetpoint/v1/join/node", &key(1))),
            (
                "token's signature",
                &by(Domain::Admission, "meetpoint/v1/join/admission", &token.signing_key()),
            ),
            ("secret's MAC", &transcript.mac(&secret.key(&cluster))),
            ("welcome's signature", &by(Domain::Welcome, "meetpoint/v1/join/welcome", &cluster_key)),
        ],
    );
}

fn memberships(page: &mut Page) {
    let (cluster_key, node) = (key(7), NodeId::from(&key(1)));
    let certificate = Certificate {
        cluster: "default".parse().unwrap(),
        node,
        name: "alice".parse().unwrap(),
        not_before_unix_s: 1_800_000_000,
        not_after_unix_s: 1_800_086_400,
        capabilities: vec!["print".parse().unwrap()],
    };
    let (from, to) = (1_800_000_000_u64.to_be_bytes(), 1_800_086_400_u64.to_be_bytes());
    let words: [&[u8]; 7] =
        [b"meetpoint/v1/membership", b"default", node.as_bytes(), b"alice", &from, &to, b"print"];
    let signature = signed(&cluster_key, &joined(&words));
    assert_eq!(certificate.sign(&cluster_key).signature, signature);
    page.section(
        "A membership certificate",
        &[
            ("cluster, name, capability", &"default, alice, print"),
            ("not before, not after", &"1800000000, 1800086400"),
            ("signature", &signature),
        ],
    );
    let words: [&[u8]; 4] = [b"meetpoint/v1/revocation", b"default", node.as_bytes(), &to];
    let signature = signed(&cluster_key, &joined(&words));
    let revocation = Revocation { node, until_unix_s: 1_800_086_400 };
    assert_eq!(revocation.sign(&certificate.cluster, &cluster_key).signature, signature);
    page.section("A revocation of it", &[("until", &1_800_086_400), ("signature", &signature)]);
}

fn halves(page: &mut Page) {
    let (cluster, ticket) = ("default".parse().unwrap(), TicketId::from_bytes([8; 16]));
    let introducer = NodeId::from(&key(13));
    let secrets = [AgreementSecret::from_random([9; 32]), AgreementSecret::from_random([10; 32])];
    let ends = [key(1), key(11)];
    let half = |own: usize, asks: bool, place: &str| {
        let (from, to) = (NodeId::from(&ends[own]), NodeId::from(&ends[1 - own]));
        let (agreement, until) = (secrets[own].key(), 1_800_000_010_000_u64.to_be_bytes());
        let unsigned = Half {
            ticket,
            introducer,
            from,
            to,
            asks,
            key: agreement,
            candidates: vec![place.parse().unwrap()],
            not_after_unix_ms: u64::from_be_bytes(until),
            signature: Signature::from_bytes([0; 64]),
        };
        let words: [&[u8]; 9] = [
            b"meetpoint/v1/half",
            b"default",
            ticket.as_bytes(),
            introducer.as_bytes(),
            from.as_bytes(),
            to.as_bytes(),
            &[u8::from(asks)],
            agreement.as_bytes(),
            &until,
        ];
        let message = [joined(&words), joined(&[place.as_bytes()])].concat();
        let half = unsigned.signed(&cluster, &ends[own]);
        assert_eq!(half.signature, signed(&ends[own], &message));
        half
    };
    let (alice, bob) = (half(0, true, "198.51.100.7:40123"), half(1, false, "[2001:db8::7]:40124"));
    let (to_bob, to_alice) = secrets[0].agree(&alice, &bob).unwrap();
    assert_eq!(secrets[1].agree(&bob, &alice).unwrap(), (to_alice, to_bob));
    page.section(
        "Two halves of a ticket",
        &[
            ("ticket", &"08 x 16"),
            ("introducer's key", &"0d x 32"),
            ("not after, ms", &1_800_000_010_000_u64),
            ("alice's key, secret of the agreement", &"01 x 32, 09 x 32"),
            ("alice's half", &"asks, to be met at 198.51.100.7:40123"),
            ("its X25519 key", &alice.key),
            ("its signature", &alice.signature),
            ("bob's key, secret of the agreement", &"0b x 32, 0a x 32"),
            ("bob's half", &"does not ask, to be met at [2001:db8::7]:40124"),
            ("its X25519 key", &bob.key),
            ("its signature", &bob.signature),
            ("key of alice's checks", &to_bob),
            ("key of bob's checks", &to_alice),
        ],
    );
}

fn seed(page: &mut Page) {
    let (seed, nonce, at) = (key(14), Nonce::from_bytes([5; 32]), "203.0.113.10:8080");
    let public = PublicKey::from(&seed);
    let words: [&[u8]; 4] = [b"meetpoint/v1/seed/proof", public.as_bytes(), nonce.as_bytes(), at.as_bytes()];
    let proof = SeedProof::sign(&seed, &nonce, at);
    assert_eq!(proof.signature, signed(&seed, &joined(&words)));
    page.section(
        "A seed's proof",
        &[
            ("seed's key", &"0e x 32"),
            ("its public key", &public),
            ("nonce", &"05 x 32"),
            ("at", &at),
            ("signature", &proof.signature),
        ],
    );
}

fn page() -> String {
    let mut page = Page(INTRODUCTION.to_owned());
    for part in [rights, join, memberships, halves, seed] {
        part(&mut page);
    }
    page.0
}

#[test]
fn the_vectors_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors.md");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page(),
        "the wire is another one than docs/vectors.md says: that is no compatible change. If it is meant, run this test \
         with {UPDATE}=1"
    );
}
