//! Writes a STUN message into a [`Payload`], attribute by attribute.

use std::net::{IpAddr, SocketAddr};

use crate::attr;
use crate::crypto::{IntegrityKey, IntegrityKind, fingerprint};
use crate::family::Family;
use crate::message::{Class, HEADER_LEN, MAGIC_COOKIE, TransactionId, message_type};
use crate::payload::Payload;

/// A message being written. [`Writer::finish`] sets the length.
#[derive(Clone)]
pub struct Writer {
    payload: Payload,
    transaction_id: TransactionId,
}

impl Writer {
    /// Starts a message.
    #[must_use]
    #[inline]
    pub fn new(class: Class, method: u16, transaction_id: TransactionId) -> Self {
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
        header[4..8].copy_from_slice(&MAGIC_COOKIE);
        header[8..].copy_from_slice(&transaction_id.0);
        let mut payload = Payload::new();
        payload.push(&header);
        Self { payload, transaction_id }
    }

    /// The length of the message so far.
    #[must_use]
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.payload.len()
    }

    /// Adds an attribute and pads it with zeros to a multiple of four.
    #[inline]
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(u16::try_from(value.len()).is_ok(), "an attribute is shorter than 64 KiB");
        let [kind_high, kind_low] = kind.to_be_bytes();
        let [len_high, len_low] = (value.len() as u16).to_be_bytes();
        self.payload.push(&[kind_high, kind_low, len_high, len_low]);
        self.payload.push(value);
        if !value.len().is_multiple_of(4) {
            self.payload.push(&[0; 3][value.len() % 4 - 1..]);
        }
    }

    /// Adds an address as MAPPED-ADDRESS has it (RFC 8489, section 14.1).
    #[inline]
    pub fn address(&mut self, kind: u16, addr: SocketAddr) {
        self.masked_address(kind, addr, &[0; 16]);
    }

    /// Adds an address as XOR-MAPPED-ADDRESS has it (RFC 8489, section 14.2).
    #[inline]
    pub fn xor_address(&mut self, kind: u16, addr: SocketAddr) {
        let mut mask = [0; 16];
        mask[..4].copy_from_slice(&MAGIC_COOKIE);
        mask[4..].copy_from_slice(&self.transaction_id.0);
        self.masked_address(kind, addr, &mask);
    }

    #[inline]
    fn masked_address(&mut self, kind: u16, addr: SocketAddr, mask: &[u8; 16]) {
        let [port_high, port_low] = addr.port().to_be_bytes();
        let port = [port_high ^ mask[0], port_low ^ mask[1]];
        match addr.ip() {
            IpAddr::V4(ip) => {
                let mut value = [0, Family::V4.number(), port[0], port[1], 0, 0, 0, 0];
                xor(&mut value[4..], &ip.octets(), mask);
                self.attribute(kind, &value);
            }
            IpAddr::V6(ip) => {
                let mut value = [0; 20];
                value[..4].copy_from_slice(&[0, Family::V6.number(), port[0], port[1]]);
                xor(&mut value[4..], &ip.octets(), mask);
                self.attribute(kind, &value);
            }
        }
    }

    /// Adds ERROR-CODE without a reason phrase: it is for diagnosis only (RFC 8489,
    /// section 14.8), and every byte of it could be sent to somebody who did not ask.
    #[inline]
    pub fn error_code(&mut self, code: u16) {
        self.attribute(attr::ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
    }

    /// Adds ADDRESS-ERROR-CODE: why a relayed address of this family was not given (RFC 8656,
    /// section 18.12).
    pub fn address_error_code(&mut self, family: Family, code: u16) {
        let value = [family.number(), 0, (code / 100) as u8, (code % 100) as u8];
        self.attribute(attr::ADDRESS_ERROR_CODE, &value);
    }

    /// Adds ICMP: a type of 7 bits and a code of 9 (RFC 8656, section 18.13).
    pub fn icmp(&mut self, kind: u8, code: u8, error_data: [u8; 4]) {
        let [high, low] = (u16::from(kind) << 9 | u16::from(code)).to_be_bytes();
        let [a, b, c, d] = error_data;
        self.attribute(attr::ICMP, &[0, 0, high, low, a, b, c, d]);
    }

    /// Adds UNKNOWN-ATTRIBUTES (RFC 8489, section 14.13).
    pub fn unknown_attributes(&mut self, kinds: &[u16]) {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        self.attribute(attr::UNKNOWN_ATTRIBUTES, &value);
    }

    /// Adds the integrity attribute of the key's kind.
    #[inline]
    pub fn integrity(&mut self, key: &IntegrityKey) {
        let tag = key.compute(&self.payload);
        let number = match key.kind() {
            IntegrityKind::Sha1 => attr::MESSAGE_INTEGRITY,
            IntegrityKind::Sha256 => attr::MESSAGE_INTEGRITY_SHA256,
        };
        self.attribute(number, tag.as_ref());
    }

    /// Adds FINGERPRINT; nothing may follow.
    #[inline]
    pub fn fingerprint(&mut self) {
        let value = fingerprint(&self.payload);
        self.attribute(attr::FINGERPRINT, &value);
    }

    /// Sets the header's length and gives the message away.
    #[must_use]
    #[inline]
    pub fn finish(mut self) -> Payload {
        let body_len = self.payload.len() - HEADER_LEN;
        self.payload.bytes_mut()[2..4].copy_from_slice(&(body_len as u16).to_be_bytes());
        self.payload
    }
}

#[inline]
fn xor(to: &mut [u8], from: &[u8], mask: &[u8]) {
    for ((to, from), mask) in to.iter_mut().zip(from).zip(mask) {
        *to = from ^ mask;
    }
}
