//! How a node that anybody can reach introduces two of its peers while the server is away.
//!
//! # The dialogue
//!
//! A node that has lost its server opens a QUIC connection of its own protocol ([`ALPN`]) to a peer that it has a
//! direct path to, on that very path, and one stream in it. The peer, here the **introducer**, knows by TLS whose key
//! it talks to. Messages are JSON, each behind its length in four bytes, big endian.
//!
//! ```text
//! A -> C   hello        A's membership certificate
//! B -> C   hello        B's
//! A -> C   connect      "B"
//! C -> A   meeting      ticket, B's certificate, where C sees A
//! C -> B   meeting      ticket, A's certificate, where C sees B
//! A -> C -> B   half    A's part of the ticket, signed by A
//! B -> C -> A   half    B's part, signed by B
//! ```
//!
//! Whoever has given its own half and holds the other's punches, as with a ticket of the server.
//!
//! # Who trusts whom
//!
//! **Nobody trusts the introducer.** A [`Half`] says who asks whom to come where, until when, under which ticket and by
//! whose introduction, and is signed by the one who is to be met there. So an introducer can neither invent an
//! introduction, nor change an address, nor use one again; and unless one of the two has really asked
//! ([`Half::asks`]) nothing is sent. The keys of the checks come from an X25519 agreement of the two, so it can't
//! make or answer a check either. Where it says that it sees a node, the node believes the port and not the IP.
//!
//! **The introducer trusts no guest**: it checks certificates, passes on a half only if every address in it has the IP
//! from which it sees the guest itself, and counts what each of them asks.

use std::net::SocketAddr;

use curve25519_dalek::montgomery::MontgomeryPoint;
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::{AgreementKey, NodeId, PublicKey, Signature, TicketId, TicketKey};
use crate::join::{field, verify_strict};
use crate::name::ClusterName;
use crate::wire::{CertificateText, DecodeError, Refusal};

/// The protocol's name in TLS; the number changes with the messages.
pub const ALPN: &[u8] = b"meetpoint-meet/1";
/// Largest message either side sends or takes. The largest has one certificate, some 2 KiB.
pub const MAX_MEET_BYTES: usize = 8 * 1024;
/// Addresses in one half: where its maker is observed, what its router has mapped, and its own on the link.
pub const MAX_HALF_CANDIDATES: usize = 8;
/// How long a half is to be used: one way through the introducer, and the punch.
pub const HALF_LIFETIME_MS: u64 = 10_000;
/// A half that ends later than this from now is refused: clocks of one server differ by a round trip.
pub const MAX_HALF_LIFETIME_MS: u64 = 20_000;

const DOMAIN: &[u8] = b"meetpoint/v1/half";
const CHECK_DOMAIN: &[u8] = b"meetpoint/v1/half-check";

/// What a guest says to an introducer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The first: that the key on this connection is a member's.
    Hello {
        /// The guest's membership.
        certificate: Box<CertificateText>,
    },
    /// Asks to be introduced, as soon as the peer is there.
    Connect {
        /// Comes back in the answer.
        request: u32,
        /// The peer's name or id.
        peer: String,
    },
    /// No longer interested in [`GuestMessage::Connect`].
    Cancel {
        /// As in connect.
        request: u32,
    },
    /// For the other end of the ticket.
    Half(Box<Half>),
    /// A message of a newer guest. Ignored.
    #[serde(other)]
    Unknown,
}

/// What an introducer says to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum IntroducerMessage {
    /// Sign a half for this peer, and wait for the peer's.
    Meeting(Box<Meeting>),
    /// The other end's.
    Half(Box<Half>),
    /// A connect request is not taken.
    Refused {
        /// As in connect.
        request: u32,
        /// Why.
        refusal: Refusal,
    },
    /// A message of a newer introducer. Ignored.
    #[serde(other)]
    Unknown,
}

/// Two guests are to meet. A proposal: nothing is sent to anybody on its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// For the one that asked: the requests this answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<u32>,
    /// Single use.
    pub ticket: TicketId,
    /// The peer's membership.
    pub certificate: CertificateText,
    /// Where this guest's path comes from, as the introducer sees it.
    pub observed: SocketAddr,
    /// Both come from one public address, so that they may share a link.
    #[serde(default)]
    pub near: bool,
}

/// One end's part of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Half {
    /// Which ticket.
    pub ticket: TicketId,
    /// By whose introduction.
    pub introducer: NodeId,
    /// Who is to be met, and has signed.
    pub from: NodeId,
    /// By whom.
    pub to: NodeId,
    /// This end wants to meet the other; if neither does, nothing happens.
    pub asks: bool,
    /// Its part of the agreement on the keys of the checks; a fresh one for each ticket.
    pub key: AgreementKey,
    /// Where. At most [`MAX_HALF_CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
    /// Milliseconds since 1970, by the server's clock; not to be used from then on.
    pub not_after_unix_ms: u64,
    /// By the node's own key, over all of this and the cluster's name.
    pub signature: Signature,
}

impl Half {
    /// The same, signed by the key of the node that it is from.
    #[must_use]
    pub fn signed(mut self, cluster: &ClusterName, key: &SigningKey) -> Self {
        self.signature = Signature::from_bytes(key.sign(&self.message(cluster)).to_bytes());
        self
    }

    /// True if whoever it is from has signed it, for this cluster.
    #[must_use]
    pub fn is_signed(&self, cluster: &ClusterName) -> bool {
        verify_strict(&PublicKey::from(self.from), &self.message(cluster), &self.signature)
    }

    /// True at a moment when it may be used.
    #[must_use]
    pub fn is_fresh(&self, now_unix_ms: u64) -> bool {
        let latest = now_unix_ms.saturating_add(MAX_HALF_LIFETIME_MS);
        now_unix_ms < self.not_after_unix_ms && self.not_after_unix_ms <= latest
    }

    fn message(&self, cluster: &ClusterName) -> Vec<u8> {
        let mut message = Vec::with_capacity(512);
        field(&mut message, DOMAIN);
        field(&mut message, cluster.as_str().as_bytes());
        field(&mut message, self.ticket.as_bytes());
        field(&mut message, self.introducer.as_bytes());
        field(&mut message, self.from.as_bytes());
        field(&mut message, self.to.as_bytes());
        field(&mut message, &[u8::from(self.asks)]);
        field(&mut message, self.key.as_bytes());
        field(&mut message, &self.not_after_unix_ms.to_be_bytes());
        for candidate in &self.candidates {
            field(&mut message, candidate.to_string().as_bytes());
        }
        message
    }
}

/// One end's secret of the agreement. Never shown, and used once.
#[derive(Clone)]
pub struct AgreementSecret([u8; 32]);

impl std::fmt::Debug for AgreementSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgreementSecret(..)")
    }
}

impl AgreementSecret {
    /// From 32 unpredictable bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the other end is told.
    #[must_use]
    pub fn key(&self) -> AgreementKey {
        AgreementKey::from_bytes(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    /// The keys of the checks that this end sends, and of those that it receives: one a direction, so that nobody's own
    /// checks can be reflected to him. `None` if the other end's part decides the outcome alone (RFC 7748, section
    /// 6.1).
    #[must_use]
    pub fn agree(&self, own: &Half, peer: &Half) -> Option<(TicketKey, TicketKey)> {
        let shared = MontgomeryPoint(*peer.key.as_bytes()).mul_clamped(self.0).to_bytes();
        if shared == [0; 32] {
            return None;
        }
        Some((check_key(&shared, own, peer), check_key(&shared, peer, own)))
    }
}

/// Keys the checks from the maker of one half to the maker of the other.
fn check_key(shared: &[u8; 32], from: &Half, to: &Half) -> TicketKey {
    let mut key = [0; 32];
    let parts: [&[u8]; 5] =
        [CHECK_DOMAIN, from.from.as_bytes(), to.from.as_bytes(), from.key.as_bytes(), to.key.as_bytes()];
    #[allow(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
    Hkdf::<Sha256>::new(Some(from.ticket.as_bytes()), shared)
        .expand_multi_info(&parts, &mut key)
        .expect("32 bytes are few");
    TicketKey::from_bytes(key)
}

/// Reads a message of either side.
///
/// # Errors
/// [`DecodeError`]; the connection is to be closed.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    if bytes.len() > MAX_MEET_BYTES {
        return Err(DecodeError::TooLarge { len: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// Writes a message with its length before it, as it goes on the stream.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let text = crate::wire::encode(message);
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut frame = len.to_be_bytes().to_vec();
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> (SigningKey, NodeId) {
        let key = SigningKey::from_bytes(&[number; 32]);
        let id = NodeId::from(&key);
        (key, id)
    }

    fn half(from: u8, to: u8, secret: &AgreementSecret) -> Half {
        let (key, id) = node(from);
        let half = Half {
            ticket: TicketId::from_bytes([7; 16]),
            introducer: node(9).1,
            from: id,
            to: node(to).1,
            asks: true,
            key: secret.key(),
            candidates: vec!["20.0.0.1:4000".parse().unwrap()],
            not_after_unix_ms: 10_000,
            signature: Signature::from_bytes([0; 64]),
        };
        half.signed(&"default".parse().unwrap(), &key)
    }

    #[test]
    fn each_field_is_signed() {
        let cluster: ClusterName = "default".parse().unwrap();
        let good = half(1, 2, &AgreementSecret::from_random([3; 32]));
        assert!(good.is_signed(&cluster));
        assert!(!good.is_signed(&"other".parse().unwrap()));
        let changes: [fn(&mut Half); 9] = [
            |half| half.ticket = TicketId::from_bytes([8; 16]),
            |half| half.introducer = node(8).1,
            |half| half.from = node(3).1,
            |half| half.to = node(3).1,
            |half| half.asks = false,
            |half| half.key = AgreementKey::from_bytes([1; 32]),
            |half| half.candidates[0].set_port(4001),
            |half| half.candidates.push("20.0.0.1:4001".parse().unwrap()),
            |half| half.not_after_unix_ms += 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(!changed.is_signed(&cluster), "change {number}");
        }
    }

    #[test]
    fn freshness_table() {
        let half = half(1, 2, &AgreementSecret::from_random([3; 32]));
        let cases = [(0, true), (9_999, true), (10_000, false), (20_000, false)];
        for (now, expect) in cases {
            assert_eq!(half.is_fresh(now), expect, "{now}");
        }
        let far = Half { not_after_unix_ms: MAX_HALF_LIFETIME_MS + 1, ..half };
        assert!(!far.is_fresh(0) && far.is_fresh(1));
    }

    #[test]
    fn both_ends_agree_and_each_direction_has_its_key() {
        let (a, b) = (AgreementSecret::from_random([3; 32]), AgreementSecret::from_random([4; 32]));
        let (of_a, of_b) = (half(1, 2, &a), half(2, 1, &b));
        let (a_sends, a_receives) = a.agree(&of_a, &of_b).unwrap();
        let (b_sends, b_receives) = b.agree(&of_b, &of_a).unwrap();
        assert!(a_sends == b_receives && b_sends == a_receives && a_sends != b_sends);
        let stranger = AgreementSecret::from_random([5; 32]).agree(&of_a, &of_b).unwrap();
        assert!(stranger.0 != a_sends && stranger.1 != a_receives);
    }

    /// Points of small order give the same secret whatever the other end's is.
    #[test]
    fn nobody_decides_alone() {
        let a = AgreementSecret::from_random([3; 32]);
        let own = half(1, 2, &a);
        for small in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
            let peer = Half { key: AgreementKey::from_bytes(small), ..half(2, 1, &a) };
            assert!(a.agree(&own, &peer).is_none(), "{small:?}");
        }
    }

    #[test]
    fn messages_come_back() {
        let half = Box::new(half(1, 2, &AgreementSecret::from_random([3; 32])));
        let message = GuestMessage::Half(half);
        let frame = encode(&message);
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
        assert_eq!(decode::<GuestMessage>(&frame[4..]), Ok(message));
        assert_eq!(decode(br#"{"type":"of_tomorrow","more":1}"#), Ok(IntroducerMessage::Unknown));
        assert!(decode::<GuestMessage>(&[b' '; MAX_MEET_BYTES + 1]).is_err());
        assert!(decode::<GuestMessage>(b"\xff").is_err());
    }
}
