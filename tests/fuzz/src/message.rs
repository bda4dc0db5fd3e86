//! The STUN parser: what is a message, which attributes count, and that what is written is read.

use meetpoint_turn::message::{Class, Message, TransactionId, message_type};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Writer, attr, read_xor_address};

use crate::wire::{self, FINGERPRINT, INTEGRITY, INTEGRITY_SHA256, Seen};

const CLASSES: [Class; 4] = [Class::Request, Class::Indication, Class::Success, Class::Error];

/// Reads the bytes as a datagram.
pub fn stun_message(bytes: &[u8]) {
    let expected = Seen::read(bytes).filter(|seen| is_fingerprint_right(seen, bytes));
    let Ok(message) = Message::parse(bytes) else {
        assert!(expected.is_none(), "a good message is refused");
        return;
    };
    let seen = expected.expect("a bad message is taken");
    assert_eq!(CLASSES[usize::from(seen.class())], message.class());
    assert_eq!((seen.method(), seen.id), (message.method(), message.transaction_id().0));
    assert_eq!(message_type(message.class(), message.method()), seen.kind);
    assert_eq!((message.wire_len(), message.has_fingerprint()), (bytes.len(), seen.has(FINGERPRINT)));
    let integrity = match (seen.has(INTEGRITY_SHA256), seen.has(INTEGRITY)) {
        (true, _) => Some(IntegrityKind::Sha256),
        (false, true) => Some(IntegrityKind::Sha1),
        (false, false) => None,
    };
    assert_eq!(message.integrity(), integrity);
    let ours: Vec<_> = message.attributes().map(|a| (a.kind, a.value)).collect();
    let theirs: Vec<_> = seen.meant().map(|a| (a.kind, a.value)).collect();
    assert_eq!(ours, theirs);
    for (kind, value) in ours {
        assert_eq!(message.attribute(kind), seen.get(kind));
        assert_eq!(read_xor_address(value, message.transaction_id()), wire::xor_address(value, &seen.id));
    }
    rewrite(&message, bytes);
}

/// FINGERPRINT is right, and the last of all, wherever it stands (RFC 8489, section 14.7).
pub(crate) fn is_fingerprint_right(seen: &Seen<'_>, bytes: &[u8]) -> bool {
    let mut fingerprints = seen.attributes.iter().filter(|attribute| attribute.kind == FINGERPRINT);
    fingerprints.all(|last| last.end == bytes.len() && last.value == wire::fingerprint(&bytes[..last.at]))
}

/// Writes the message anew under a key: it reads the same and verifies, and with one other bit it does not.
fn rewrite(message: &Message<'_>, bytes: &[u8]) {
    let sum = bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let kind = if sum.is_multiple_of(2) { IntegrityKind::Sha1 } else { IntegrityKind::Sha256 };
    let key = IntegrityKey::new(kind, b"a key that no input knows");
    assert!(!message.verify(&key));
    let mut writer = Writer::new(message.class(), message.method(), message.transaction_id());
    message.attributes().for_each(|attribute| writer.attribute(attribute.kind, attribute.value));
    if writer.wire_len() + 4 + kind.value_len() + 8 > wire::HEADER_LEN + usize::from(u16::MAX) {
        return;
    }
    writer.integrity(&key);
    let protected_len = writer.wire_len();
    if message.has_fingerprint() {
        writer.fingerprint();
    }
    let mut written = writer.finish().to_vec();
    let read = Message::parse(&written).expect("what is written is read");
    assert!(read.verify(&key));
    assert!(read.attributes().eq(message.attributes()));
    written[sum / 8 % protected_len] ^= 1 << (sum % 8);
    assert!(
        !Message::parse(&written).is_ok_and(|message| message.verify(&key)),
        "a changed bit goes unnoticed"
    );
}

/// Reads the bytes as the value of an address attribute, behind a transaction id.
pub fn stun_address(bytes: &[u8]) {
    let Some((id, value)) = bytes.split_first_chunk::<12>() else { return };
    let read = read_xor_address(value, TransactionId(*id));
    assert_eq!(read, wire::xor_address(value, id));
    let Some(addr) = read else { return };
    let mut writer = Writer::new(Class::Request, 1, TransactionId(*id));
    writer.xor_address(attr::XOR_PEER_ADDRESS, addr);
    writer.address(attr::MAPPED_ADDRESS, addr);
    let written = writer.finish();
    let message = Message::parse(&written).expect("what is written is read");
    let back = message.attribute(attr::XOR_PEER_ADDRESS).expect("it is there");
    assert_eq!(read_xor_address(back, TransactionId(*id)), Some(addr));
    // The first byte of an address is ignored (RFC 8489, section 14.1) and written as zero.
    assert_eq!((back[0], &back[1..]), (0, &value[1..]));
}
