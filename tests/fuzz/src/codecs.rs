//! Three decoders read the same bytes: ours, that of the `stun` crate and that of `stun-types`. Either they agree on
//! class, method, transaction, attributes in their order and addresses, or the difference is one of [`Difference`].

use std::net::SocketAddr;

use meetpoint_turn::message::{Class, Message, TransactionId, message_type};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Writer, attr, read_xor_address};
use stun::fingerprint::FINGERPRINT as STUN_FINGERPRINT;
use stun_types::attribute::{Attribute as _, AttributeStaticType as _};

use crate::input::Input;
use crate::message::is_fingerprint_right;
use crate::wire::{self, HEADER_LEN, INTEGRITY, INTEGRITY_SHA256, Seen, is_ending, u16_at};

/// Attributes that hold an address in the form of XOR-MAPPED-ADDRESS.
const ADDRESSES: [u16; 3] = [attr::XOR_MAPPED_ADDRESS, attr::XOR_PEER_ADDRESS, attr::XOR_RELAYED_ADDRESS];
/// XOR-MAPPED-ADDRESS as a draft of 2005 numbered it. The `stun` crate renames it.
const OLD_XOR_MAPPED_ADDRESS: u16 = 0x8020;
/// The password of messages that are signed here.
const PASSWORD: &str = "three decoders, one password";

/// Why two decoders may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// RFC 8489, section 5: "The most significant 2 bits of every STUN message MUST be zeroes." `stun` ignores them.
    FirstBits,
    /// RFC 8489, section 6.3: the agent "checks ... that the message length is sensible". For a datagram that is all of
    /// it. Both others allow bytes behind the message; `stun-types` takes them for attributes.
    BytesBehind,
    /// RFC 8489, section 14.7: "the FINGERPRINT attribute MUST be the last attribute in the message". `stun` has it
    /// anywhere and compares it only when asked.
    FingerprintNotLast,
    /// RFC 8489, section 6.3: a message whose FINGERPRINT does not match is discarded. `stun` compares only when
    /// asked; `stun-types` stops reading at the first attribute that has no place behind an integrity attribute.
    FingerprintWrong,
    /// RFC 8489, sections 14.5 and 14.6: what follows an integrity attribute is ignored, but for a second integrity
    /// attribute and FINGERPRINT. `stun` gives it all; `stun-types` does not even check its length, nor find these two
    /// behind it.
    BehindIntegrity,
    /// RFC 8489, section 18.3: 0x8020 is not assigned to XOR-MAPPED-ADDRESS. `stun` takes it for that.
    OldNumber,
    /// RFC 8489, section 14.1: the first byte of an address "MUST be set to 0 and MUST be ignored by receivers".
    /// `stun` does not ignore it.
    AddressFirstByte,
    /// RFC 8489, section 14.1: an address "MUST be 32 bits" or "MUST be 128 bits". `stun` takes shorter ones.
    AddressLength,
}

impl Difference {
    /// All of them. A test sees to it that each still happens.
    pub const ALL: [Self; 8] = [
        Self::FirstBits,
        Self::BytesBehind,
        Self::FingerprintNotLast,
        Self::FingerprintWrong,
        Self::BehindIntegrity,
        Self::OldNumber,
        Self::AddressFirstByte,
        Self::AddressLength,
    ];
}

/// Lets all three decoders read the bytes, as they are or as a recipe for a message.
pub fn stun_codecs(bytes: &[u8]) {
    let _ = differences(bytes);
}

/// The same, and what was different.
///
/// # Panics
/// If something differs for no reason in the list.
pub fn differences(bytes: &[u8]) -> Vec<Difference> {
    let mut input = Input::new(bytes);
    let datagram = if input.byte().is_multiple_of(4) { input.rest().to_vec() } else { cook(&mut input) };
    compare(&datagram)
}

/// Makes a message of the recipe, and spoils it a little.
fn cook(input: &mut Input<'_>) -> Vec<u8> {
    const KINDS: [u16; 16] = [
        attr::XOR_MAPPED_ADDRESS,
        attr::XOR_PEER_ADDRESS,
        attr::XOR_RELAYED_ADDRESS,
        OLD_XOR_MAPPED_ADDRESS,
        attr::MESSAGE_INTEGRITY,
        attr::MESSAGE_INTEGRITY_SHA256,
        attr::FINGERPRINT,
        attr::USERNAME,
        attr::REALM,
        attr::NONCE,
        attr::DATA,
        attr::ERROR_CODE,
        attr::UNKNOWN_ATTRIBUTES,
        attr::LIFETIME,
        attr::CHANNEL_NUMBER,
        0x4242,
    ];
    let class = input.pick(&[Class::Request, Class::Indication, Class::Success, Class::Error]);
    let method = input.pick(&[1, 3, 4, 6, 7, 8, 9, 0x080, 0xFFF]);
    let id = TransactionId(input.array());
    let mut writer = Writer::new(class, method, id);
    let (endings, count) = (input.byte(), input.below(6));
    for _ in 0..count {
        let kind = input.pick(&KINDS);
        match input.below(4) {
            0 => writer.xor_address(kind, SocketAddr::from((input.array::<4>(), input.u16()))),
            1 => writer.xor_address(kind, SocketAddr::from((input.array::<16>(), input.u16()))),
            2 => writer.attribute(kind, input.take(4)),
            _ => {
                let len = usize::from(input.byte() % 40);
                writer.attribute(kind, input.take(len));
            }
        }
    }
    if endings & 1 != 0 {
        writer.integrity(&IntegrityKey::new(IntegrityKind::Sha1, PASSWORD.as_bytes()));
    }
    if endings & 2 != 0 {
        writer.integrity(&IntegrityKey::new(IntegrityKind::Sha256, PASSWORD.as_bytes()));
    }
    if endings & 4 != 0 {
        writer.fingerprint();
    }
    let mut bytes = writer.finish().to_vec();
    if endings & 8 != 0 {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.byte();
    }
    if endings & 16 != 0 {
        bytes.extend(input.take(8));
    }
    bytes
}

fn compare(bytes: &[u8]) -> Vec<Difference> {
    let mut different = vec![];
    let mut theirs = stun::message::Message::new();
    let is_read = theirs.unmarshal_binary(bytes).is_ok();
    let others = stun_types::message::Message::from_bytes(bytes);
    match Message::parse(bytes) {
        Ok(ours) => {
            assert!(is_read, "only the stun crate refuses it");
            let others = others.expect("only stun-types refuses it");
            headers_agree(&ours, &theirs, &others);
            attributes_agree(bytes, &ours, &theirs, &others, &mut different);
            if !different.contains(&Difference::BehindIntegrity) {
                checks_agree(&ours, &mut theirs, &others);
            }
            addresses_agree(&ours, &theirs, &mut different);
        }
        Err(_) => {
            let reason = refused(bytes);
            assert!(reason.is_some() || (!is_read && others.is_err()), "only we refuse it");
            different.extend(reason.filter(|_| is_read || others.is_ok()));
        }
    }
    different
}

/// Why we refuse what others may take.
fn refused(bytes: &[u8]) -> Option<Difference> {
    let mut whole = bytes.to_vec();
    *whole.first_mut()? &= 0x3F;
    let len = HEADER_LEN + usize::from(u16_at(whole.get(..HEADER_LEN)?, 2));
    if len < whole.len() {
        return Some(Difference::BytesBehind);
    }
    match Seen::read(&whole) {
        Some(_) if whole != bytes => Some(Difference::FirstBits),
        Some(seen) => {
            let mut fingerprints =
                seen.attributes.iter().filter(|attribute| attribute.kind == wire::FINGERPRINT);
            if fingerprints.any(|attribute| attribute.end != bytes.len()) {
                return Some(Difference::FingerprintNotLast);
            }
            (!is_fingerprint_right(&seen, bytes)).then_some(Difference::FingerprintWrong)
        }
        None => is_broken_behind_integrity(&whole).then_some(Difference::BehindIntegrity),
    }
}

/// True if the message would be whole if it ended behind an integrity attribute and what may follow that.
fn is_broken_behind_integrity(bytes: &[u8]) -> bool {
    (HEADER_LEN..bytes.len()).step_by(4).any(|end| {
        let mut whole = bytes[..end].to_vec();
        whole[2..4].copy_from_slice(&((end - HEADER_LEN) as u16).to_be_bytes());
        Seen::read(&whole)
            .is_some_and(|seen| seen.attributes.iter().any(|attribute| is_ending(attribute.kind)))
    })
}

fn headers_agree(
    ours: &Message<'_>,
    theirs: &stun::message::Message,
    others: &stun_types::message::Message<'_>,
) {
    assert_eq!(message_type(ours.class(), ours.method()), theirs.typ.value());
    assert_eq!(ours.transaction_id().0, theirs.transaction_id.0);
    assert_eq!(ours.method(), others.method().value());
    let class = match others.class() {
        stun_types::message::MessageClass::Request => Class::Request,
        stun_types::message::MessageClass::Indication => Class::Indication,
        stun_types::message::MessageClass::Success => Class::Success,
        stun_types::message::MessageClass::Error => Class::Error,
    };
    assert_eq!(ours.class(), class);
    let mut id = [0; 16];
    id[4..].copy_from_slice(&ours.transaction_id().0);
    assert_eq!(u128::from_be_bytes(id), u128::from(others.transaction_id()));
}

fn attributes_agree(
    bytes: &[u8],
    ours: &Message<'_>,
    theirs: &stun::message::Message,
    others: &stun_types::message::Message<'_>,
    different: &mut Vec<Difference>,
) {
    let read: Vec<(u16, &[u8])> = ours.attributes().map(|a| (a.kind, a.value)).collect();
    let number = |kind| if kind == OLD_XOR_MAPPED_ADDRESS { attr::XOR_MAPPED_ADDRESS } else { kind };
    let renamed: Vec<_> = read.iter().map(|(kind, value)| (number(*kind), *value)).collect();
    let all = theirs.attributes.0.iter().map(|a| (a.typ.value(), &a.value[..]));
    let meant: Vec<_> = all.take_while(|(kind, _)| !is_ending(*kind)).collect();
    assert_eq!(renamed, meant);
    let others: Vec<_> =
        others.iter_attributes().map(|(_, a)| (a.get_type().value(), a.value.to_vec())).collect();
    let others = others.iter().filter(|(kind, _)| !is_ending(*kind)).map(|(kind, value)| (*kind, &value[..]));
    assert_eq!(read, others.collect::<Vec<_>>());
    if renamed != read {
        different.push(Difference::OldNumber);
    }
    let seen = Seen::read(bytes).expect("all three have read it");
    let endings: Vec<u16> = seen.attributes.iter().skip(read.len()).map(|attribute| attribute.kind).collect();
    let place =
        |kind| [INTEGRITY, INTEGRITY_SHA256, wire::FINGERPRINT].iter().position(|ending| *ending == kind);
    if endings.iter().any(|kind| !is_ending(*kind)) || !endings.is_sorted_by(|a, b| place(*a) < place(*b)) {
        different.push(Difference::BehindIntegrity);
    }
}

/// FINGERPRINT and MESSAGE-INTEGRITY mean the same to all.
fn checks_agree(
    ours: &Message<'_>,
    theirs: &mut stun::message::Message,
    others: &stun_types::message::Message<'_>,
) {
    if ours.has_fingerprint() {
        STUN_FINGERPRINT.check(theirs).expect("the stun crate has another CRC");
    }
    let Some(kind) = ours.integrity() else { return };
    let verified = ours.verify(&IntegrityKey::new(kind, PASSWORD.as_bytes()));
    let password = stun_types::message::ShortTermCredentials::new(PASSWORD.to_owned());
    let theirs_verified = others.validate_integrity(&password.into()).is_ok();
    assert_eq!(verified, theirs_verified);
    if kind == IntegrityKind::Sha1
        && theirs.attributes.0.iter().filter(|a| a.typ.value() == INTEGRITY).count() == 1
    {
        let key = stun::integrity::MessageIntegrity::new_short_term_integrity(PASSWORD.to_owned());
        assert_eq!(verified, key.check(theirs).is_ok());
    }
}

fn addresses_agree(ours: &Message<'_>, theirs: &stun::message::Message, different: &mut Vec<Difference>) {
    for kind in ADDRESSES {
        let Some(value) = ours.attribute(kind) else { continue };
        let read = read_xor_address(value, ours.transaction_id());
        let raw =
            stun_types::attribute::RawAttribute::new(stun_types::attribute::XorMappedAddress::TYPE, value);
        let other = stun_types::attribute::XorMappedAddress::try_from(&raw).ok();
        let mut id = [0; 16];
        id[4..].copy_from_slice(&ours.transaction_id().0);
        assert_eq!(read, other.map(|other| other.addr(u128::from_be_bytes(id).into())));
        if theirs.get(stun::attributes::AttrType(kind)).ok().as_deref() != Some(value) {
            // Behind one with the old number, which is not ours to read.
            continue;
        }
        let mut their = stun::xoraddr::XorMappedAddress::default();
        let their = their
            .get_from_as(theirs, stun::attributes::AttrType(kind))
            .ok()
            .map(|()| SocketAddr::new(their.ip, their.port));
        if read == their {
            continue;
        }
        different.push(match read {
            Some(_) if value[0] != 0 => Difference::AddressFirstByte,
            None if their.is_some_and(|their| value.len() < if their.is_ipv4() { 8 } else { 20 }) => {
                Difference::AddressLength
            }
            _ => panic!("{read:?} or {their:?}"),
        });
    }
}
