//! The control channel: frames of JSON in both directions, what is signed of them, and certificates.

use std::fmt::Debug;

use ed25519_dalek::SigningKey;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    CertificateText, ClientMessage, DecodeError, Hello, ServerMessage, decode_client, decode_server, encode,
};
use meetpoint_proto::{Certificate, NodeId, Nonce, PublicKey, Signature};
use serde::Serialize;

use crate::input::Input;

/// A refusal's particulars are shown to people: so much and no more.
const MAX_DETAIL_CHARS: usize = 256;

/// Reads the bytes as a frame of either side.
pub fn frames(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(message) = frame(text, decode_client) {
        match message {
            ClientMessage::Hello(hello) => transcript(&hello),
            ClientMessage::Connect { peer, .. } => crate::text::words(peer.as_bytes()),
            _ => {}
        }
    }
    match frame(text, decode_server) {
        Some(ServerMessage::Introduction(introduction)) => unsigned(&introduction.certificate),
        Some(ServerMessage::Welcome(welcome)) => unsigned(&welcome.certificate),
        _ => {}
    }
}

fn frame<T>(text: &str, decode: fn(&str) -> Result<T, DecodeError>) -> Option<T>
where
    T: Serialize + PartialEq + Debug,
{
    match decode(text) {
        Ok(message) => {
            let again = decode(&encode(&message));
            assert_eq!(again.as_ref(), Ok(&message), "written, it is another message");
            Some(message)
        }
        Err(error) => {
            let detail = error.refusal().detail.unwrap_or_default();
            assert!(detail.chars().count() <= MAX_DETAIL_CHARS && !detail.contains(char::is_control));
            None
        }
    }
}

/// Each word of a hello is in what is signed, and each domain signs something else.
fn transcript(hello: &Hello) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let (nonce, cluster) = (Nonce::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
    let signed = Transcript::new(hello, &nonce, &cluster);
    let signature = signed.sign(Domain::Node, &key);
    assert!(signed.verify(Domain::Node, &PublicKey::from(&key), &signature));
    assert!(!signed.verify(Domain::Admission, &PublicKey::from(&key), &signature));
    // A part of the name moves to its neighbour: lengths are signed as well.
    let mut other = hello.clone();
    other.cluster.push_str(&other.name.split_off(other.name.floor_char_boundary(other.name.len() / 2)));
    let changed = Transcript::new(&other, &nonce, &cluster);
    let is_same = changed.verify(Domain::Node, &PublicKey::from(&key), &signature);
    assert_eq!(is_same, other == *hello);
}

fn cluster_key() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}

/// Nobody who does not have the cluster's key makes a certificate.
fn unsigned(text: &CertificateText) {
    let verified = Certificate::verify(text, &PublicKey::from(&cluster_key()), 0);
    assert!(verified.is_err(), "a certificate out of nothing");
}

/// Signs a certificate of the bytes' choice, and changes one thing of it.
pub fn certificate(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.byte() % 6;
    let now_unix_s = input.u64();
    let not_after_unix_s = input.u64();
    let node = NodeId::from_bytes(input.array());
    let cluster_len = usize::from(input.byte() % 64);
    let cluster = String::from_utf8_lossy(input.take(cluster_len)).into_owned();
    let name = String::from_utf8_lossy(input.rest()).into_owned();
    let (Ok(cluster), Ok(name)) = (cluster.parse(), name.parse()) else { return };
    let (not_before_unix_s, capabilities) = (now_unix_s, Vec::new());
    let certificate = Certificate { cluster, node, name, not_before_unix_s, not_after_unix_s, capabilities };
    let good = certificate.sign(&cluster_key());
    let key = PublicKey::from(&cluster_key());
    let verified = Certificate::verify(&good, &key, now_unix_s);
    assert_eq!(verified.is_ok(), now_unix_s < not_after_unix_s);
    assert!(verified.is_err() || verified == Ok(certificate));

    let mut text = good.clone();
    match what {
        0 => text.not_after_unix_s = text.not_after_unix_s.wrapping_add(1),
        1 => text.name.push('a'),
        2 => {
            text.name = [&text.cluster[text.cluster.len() - 1..], &text.name].concat();
            text.cluster.pop();
        }
        3 => std::mem::swap(&mut text.name, &mut text.cluster),
        4 => text.node_id = NodeId::from_bytes(text.node_id.as_bytes().map(|byte| byte ^ 1)),
        _ => {
            let mut signature = *text.signature.as_bytes();
            signature[text.name.len() % 64] ^= 1;
            text.signature = Signature::from_bytes(signature);
        }
    }
    assert!(text == good || Certificate::verify(&text, &key, 0).is_err(), "{text:?}");
}
