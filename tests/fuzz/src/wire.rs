//! STUN as this crate reads it: slowly, by the letter of RFC 8489, and without a line of the server's code, so that
//! reader and server cannot err together.

use std::net::{IpAddr, SocketAddr};

pub(crate) const HEADER_LEN: usize = 20;
pub(crate) const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
pub(crate) const INTEGRITY: u16 = 0x0008;
pub(crate) const INTEGRITY_SHA256: u16 = 0x001C;
pub(crate) const FINGERPRINT: u16 = 0x8028;

/// One attribute and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) at: usize,
    /// Where the next one stands.
    pub(crate) end: usize,
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// A message whose lengths add up.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) kind: u16,
    pub(crate) id: [u8; 12],
    /// All of them, also those that mean nothing where they stand.
    pub(crate) attributes: Vec<Attribute<'a>>,
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1])
}

pub(crate) fn is_ending(kind: u16) -> bool {
    [INTEGRITY, INTEGRITY_SHA256, FINGERPRINT].contains(&kind)
}

impl<'a> Seen<'a> {
    /// Reads header and attributes (RFC 8489, sections 5 and 14). FINGERPRINT is not looked at.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER_LEN || bytes[0] >= 0x40 || bytes[4..8] != COOKIE {
            return None;
        }
        if usize::from(u16_at(bytes, 2)) + HEADER_LEN != bytes.len() || !bytes.len().is_multiple_of(4) {
            return None;
        }
        let mut attributes = vec![];
        let mut at = HEADER_LEN;
        while at != bytes.len() {
            let len = usize::from(u16_at(bytes, at + 2));
            let end = at + 4 + len.div_ceil(4) * 4;
            if end > bytes.len() {
                return None;
            }
            let value = &bytes[at + 4..at + 4 + len];
            attributes.push(Attribute { at, end, kind: u16_at(bytes, at), value });
            at = end;
        }
        let mut id = [0; 12];
        id.copy_from_slice(&bytes[8..20]);
        Some(Self { kind: u16_at(bytes, 0), id, attributes })
    }

    /// Bits 4 and 8 of the type (RFC 8489, section 5, figure 3).
    pub(crate) fn class(&self) -> u8 {
        (self.kind >> 4 & 1 | self.kind >> 7 & 2) as u8
    }

    /// The twelve other bits of the type.
    pub(crate) fn method(&self) -> u16 {
        self.kind & 0xF | self.kind >> 1 & 0x70 | self.kind >> 2 & 0xF80
    }

    /// Those that stand before what protects them.
    pub(crate) fn meant(&self) -> impl Iterator<Item = &Attribute<'a>> {
        self.attributes.iter().take_while(|attribute| !is_ending(attribute.kind))
    }

    /// The first of its kind.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.meant().find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
    }

    pub(crate) fn has(&self, kind: u16) -> bool {
        self.attributes.iter().any(|attribute| attribute.kind == kind)
    }

    pub(crate) fn addresses(&self, kind: u16) -> Vec<Option<SocketAddr>> {
        let values = self.meant().filter(|attribute| attribute.kind == kind);
        values.map(|attribute| xor_address(attribute.value, &self.id)).collect()
    }
}

/// Reads an address in the form of XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
pub(crate) fn xor_address(value: &[u8], id: &[u8; 12]) -> Option<SocketAddr> {
    let mask = [&COOKIE[..], id].concat();
    let unmasked =
        |bytes: &[u8]| bytes.iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<u8>>();
    let ip: IpAddr = match (value.get(1)?, value.len()) {
        (1, 8) => <[u8; 4]>::try_from(unmasked(&value[4..])).ok()?.into(),
        (2, 20) => <[u8; 16]>::try_from(unmasked(&value[4..])).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16_at(&unmasked(&value[2..4]), 0)))
}

/// The value that FINGERPRINT has behind these bytes (RFC 8489, section 14.7), bit by bit.
pub(crate) fn fingerprint(before: &[u8]) -> [u8; 4] {
    let len = (before.len() + 8 - HEADER_LEN) as u16;
    let mut bytes = before.to_vec();
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    (!crc ^ 0x5354_554E).to_be_bytes()
}
