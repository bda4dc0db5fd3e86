//! The test vectors of RFC 5769 and of RFC 8489, appendix B.

use std::net::SocketAddr;

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key};
use meetpoint_turn::message::{BINDING, Class, Message};
use meetpoint_turn::users::userhash;
use meetpoint_turn::{IntegrityKey, IntegrityKind, LongTermKeys, Writer, attr};

use crate::common::{addr, mapped};

/// RFC 5769, section 2.1: request; HMAC-SHA1 with a short-term key, FINGERPRINT, padding of blanks.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74 \
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a6836765920202000080014 \
    9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
/// RFC 5769, section 2.2: IPv4 response.
const RESPONSE_IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200008 \
    0001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// RFC 5769, section 2.3: IPv6 response.
const RESPONSE_IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200014 \
    0002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275 \
    bfe3ed4180280004c8fb0b4c";
/// RFC 5769, section 2.4: request with long-term credentials.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe3 \
    82b900000015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b \
    6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";
/// RFC 8489, appendix B.1: request with MESSAGE-INTEGRITY-SHA256 and USERHASH.
const LONG_TERM_SHA256: &str = "000100902112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bda952c6780417da0f \
    24819415569e60b205c46e41407f1704001500296f624d61744a6f733241414143662f2f3439396b \
    39353464364f4c33346f4c394653547679363473410000000014000b6578616d706c652e6f726700 \
    001d000400020000001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278c \
    c6518e65";

const JAPANESE_USER: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).expect("hex")
}

fn short_term_key() -> IntegrityKey {
    IntegrityKey::new(IntegrityKind::Sha1, b"VOkJxbRl1RmTxUk/WvJxBt")
}

#[test]
fn rfc_5769_request() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).expect("a good message");
    assert_eq!((message.class(), message.method()), (Class::Request, BINDING));
    assert!(message.has_fingerprint());
    assert_eq!(message.attribute(attr::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.integrity(), Some(IntegrityKind::Sha1));
    assert!(message.verify(&short_term_key()));
    assert!(!message.verify(&IntegrityKey::new(IntegrityKind::Sha1, b"")));
    let other_kind = IntegrityKey::new(IntegrityKind::Sha256, b"VOkJxbRl1RmTxUk/WvJxBt");
    assert!(!message.verify(&other_kind));
}

#[test]
fn rfc_5769_responses() {
    let check = |hex: &str, expected: &str| {
        let bytes = bytes(hex);
        let message = Message::parse(&bytes).expect("a good message");
        assert_eq!(message.class(), Class::Success);
        assert!(message.has_fingerprint());
        assert!(message.verify(&short_term_key()));

        let expected: SocketAddr = addr(expected);
        assert_eq!(mapped(&bytes), Some(expected));

        // The same response, written by us; the vector pads SOFTWARE with a blank, as we do not.
        let mut writer = Writer::new(Class::Success, BINDING, message.transaction_id());
        writer.attribute(0x8022, b"test vector ");
        writer.xor_address(attr::XOR_MAPPED_ADDRESS, expected);
        let ours = writer.clone().finish();
        assert_eq!(ours[24..], [&bytes[24..ours.len()]].concat());
        writer.integrity(&short_term_key());
        writer.fingerprint();
        let ours = writer.finish();
        assert_eq!(ours.len(), bytes.len());
        assert!(Message::parse(&ours).expect("ours").verify(&short_term_key()));
    };
    check(RESPONSE_IPV4, "192.0.2.1:32853");
    check(RESPONSE_IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
}

#[test]
fn rfc_5769_long_term_credentials() {
    let bytes = bytes(LONG_TERM);
    let message = Message::parse(&bytes).expect("a good message");
    assert_eq!(message.attribute(attr::USERNAME), Some(JAPANESE_USER.as_bytes()));
    // "TheMatrIX" is what SASLprep makes of the vector's password.
    let key = |realm| {
        long_term_key(PasswordAlgorithm::Md5, IntegrityKind::Sha1, JAPANESE_USER, realm, b"TheMatrIX")
    };
    assert!(message.verify(&key("example.org")));
    assert!(!message.verify(&key("example.net")));
    let stored = LongTermKeys::derive(JAPANESE_USER, "example.org", "TheMatrIX");
    assert!(message.verify(&IntegrityKey::new(IntegrityKind::Sha1, &stored.md5)));

    // Without padding of its own and without SOFTWARE, our bytes are the vector's bytes.
    let mut writer = Writer::new(Class::Request, BINDING, message.transaction_id());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    writer.integrity(&key("example.org"));
    assert_eq!(*writer.finish(), *bytes);
}

#[test]
fn rfc_8489_long_term_credentials_with_sha_256() {
    let bytes = bytes(LONG_TERM_SHA256);
    let message = Message::parse(&bytes).expect("a good message");
    assert_eq!(message.integrity(), Some(IntegrityKind::Sha256));
    assert_eq!(message.attribute(attr::USERHASH), Some(&userhash(JAPANESE_USER, "example.org")[..]));
    // What is stored of a static user is that key.
    let stored = LongTermKeys::derive(JAPANESE_USER, "example.org", "TheMatrIX");
    assert!(message.verify(&IntegrityKey::new(IntegrityKind::Sha256, &stored.sha256)));
    let key = long_term_key(
        PasswordAlgorithm::Sha256,
        IntegrityKind::Sha256,
        JAPANESE_USER,
        "example.org",
        b"TheMatrIX",
    );
    assert!(message.verify(&key));
    let mut writer = Writer::new(Class::Request, BINDING, message.transaction_id());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    writer.integrity(&key);
    assert_eq!(*writer.finish(), *bytes);
}
