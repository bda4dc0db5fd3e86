//! Questions whose answers can be checked to the last byte.
//!
//! Each question carries a number, and bytes that follow from that number. So an answer tells what it answers, and that
//! nothing in it was changed.

use std::net::{Ipv4Addr, SocketAddrV4};

use meetpoint_turn::message::{BINDING, Class, DATA, MAGIC_COOKIE, Message, SEND, TransactionId};
use meetpoint_turn::{Writer, attr};

/// Length of a [`payload`] that holds only its number.
pub const MIN_PAYLOAD_LEN: usize = 8;
/// The channel each client binds to its peer (RFC 8656, section 12: the first there is).
pub const CHANNEL: u16 = 0x4000;
/// Channel number and length (RFC 8656, section 12.4).
const CHANNEL_HEADER_LEN: usize = 4;

/// What a datagram turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The whole answer to the question of this number.
    Right(u64),
    /// Something else than was asked for; with the question's number, if that can still be told.
    Wrong(Option<u64>),
}

/// One kind of question. A lane is a client with a socket of its own.
pub trait Exchange {
    /// Appends the question of this number to the bytes.
    fn ask(&mut self, lane: usize, number: u64, bytes: &mut Vec<u8>);
    /// Reads and checks what came back.
    fn answer(&self, lane: usize, datagram: &[u8]) -> Answer;
}

/// Bytes that follow from a number: SplitMix64's output function, so that every byte changes with it.
fn word(number: u64, index: u64) -> u64 {
    let mut z = number.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Appends a payload of `len` bytes, at least [`MIN_PAYLOAD_LEN`].
pub fn payload(number: u64, len: usize, bytes: &mut Vec<u8>) {
    let end = bytes.len() + len;
    bytes.extend_from_slice(&number.to_be_bytes());
    for index in 1..len.div_ceil(8) as u64 {
        bytes.extend_from_slice(&word(number, index).to_be_bytes());
    }
    bytes.truncate(end);
}

/// Checks a payload against the number it begins with.
#[must_use]
pub fn check(payload: &[u8], len: usize) -> Answer {
    let Some((number, rest)) = payload.split_first_chunk().filter(|_| payload.len() == len) else {
        return Answer::Wrong(None);
    };
    let number = u64::from_be_bytes(*number);
    let is_right = rest.chunks(8).zip(1..).all(|(chunk, index)| {
        let expected = word(number, index).to_be_bytes();
        *chunk == expected[..chunk.len()]
    });
    if is_right { Answer::Right(number) } else { Answer::Wrong(Some(number)) }
}

/// A Binding request; the answer must name the socket it was sent from.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The sockets' addresses, as the server sees them.
    pub own: Vec<SocketAddrV4>,
}

impl Exchange for Binding {
    fn ask(&mut self, _lane: usize, number: u64, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&Writer::new(Class::Request, BINDING, transaction(number)).finish());
    }

    fn answer(&self, lane: usize, datagram: &[u8]) -> Answer {
        let Ok(message) = Message::parse(datagram) else { return Answer::Wrong(None) };
        let id = message.transaction_id();
        let (number, _) = id.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let number = u64::from_be_bytes(*number);
        if transaction(number) != id {
            return Answer::Wrong(None);
        }
        let is_right = message.class() == Class::Success
            && message.method() == BINDING
            && xor_address(&message, attr::XOR_MAPPED_ADDRESS) == Some(self.own[lane]);
        if is_right { Answer::Right(number) } else { Answer::Wrong(Some(number)) }
    }
}

/// The number, and four bytes that follow from it.
#[must_use]
pub fn transaction(number: u64) -> TransactionId {
    let mut id = [0; 12];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8..].copy_from_slice(&word(number, 1).to_be_bytes()[..4]);
    TransactionId(id)
}

/// The IPv4 address in an attribute of the form of XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
#[must_use]
pub fn xor_address(message: &Message<'_>, kind: u16) -> Option<SocketAddrV4> {
    let &[_, 1, p0, p1, a, b, c, d] = message.attribute(kind)? else { return None };
    let [m0, m1, m2, m3] = MAGIC_COOKIE;
    let ip = Ipv4Addr::new(a ^ m0, b ^ m1, c ^ m2, d ^ m3);
    Some(SocketAddrV4::new(ip, u16::from_be_bytes([p0 ^ m0, p1 ^ m1])))
}

/// Plain bytes, sent to something that sends them back.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    /// Length of a datagram's payload, bytes.
    pub len: usize,
}

impl Exchange for Plain {
    fn ask(&mut self, _lane: usize, number: u64, bytes: &mut Vec<u8>) {
        payload(number, self.len, bytes);
    }

    fn answer(&self, _lane: usize, datagram: &[u8]) -> Answer {
        check(datagram, self.len)
    }
}

/// Bytes to a peer through a channel, and back.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// Length of what the peer gets, bytes.
    pub len: usize,
}

impl Exchange for Channel {
    fn ask(&mut self, _lane: usize, number: u64, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&CHANNEL.to_be_bytes());
        bytes.extend_from_slice(&(self.len as u16).to_be_bytes());
        payload(number, self.len, bytes);
    }

    fn answer(&self, _lane: usize, datagram: &[u8]) -> Answer {
        let header = [CHANNEL.to_be_bytes(), (self.len as u16).to_be_bytes()].concat();
        match datagram.split_at_checked(CHANNEL_HEADER_LEN) {
            // Padding may follow (RFC 8656, section 12.5).
            Some((head, data)) if head == header && data.len() >= self.len => {
                check(&data[..self.len], self.len)
            }
            _ => Answer::Wrong(None),
        }
    }
}

/// The same by Send and Data indications.
#[derive(Debug, Clone)]
pub struct Indication {
    /// Length of what the peer gets, bytes.
    pub len: usize,
    /// The peer of each client.
    pub peers: Vec<SocketAddrV4>,
}

impl Exchange for Indication {
    fn ask(&mut self, lane: usize, number: u64, bytes: &mut Vec<u8>) {
        let mut writer = Writer::new(Class::Indication, SEND, transaction(number));
        writer.xor_address(attr::XOR_PEER_ADDRESS, self.peers[lane].into());
        let mut data = Vec::with_capacity(self.len + MIN_PAYLOAD_LEN);
        payload(number, self.len, &mut data);
        writer.attribute(attr::DATA, &data);
        bytes.extend_from_slice(&writer.finish());
    }

    fn answer(&self, lane: usize, datagram: &[u8]) -> Answer {
        let Ok(message) = Message::parse(datagram) else { return Answer::Wrong(None) };
        let is_from_peer = message.class() == Class::Indication
            && message.method() == DATA
            && xor_address(&message, attr::XOR_PEER_ADDRESS) == Some(self.peers[lane]);
        match message.attribute(attr::DATA) {
            Some(data) if is_from_peer => check(data, self.len),
            _ => Answer::Wrong(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen() {
        for len in [8, 20, 120, 121] {
            let mut bytes = vec![];
            payload(0x0102_0304_0506_0708, len, &mut bytes);
            assert_eq!(bytes.len(), len);
            assert_eq!(check(&bytes, len), Answer::Right(0x0102_0304_0506_0708));
            assert_eq!(check(&bytes[1..], len), Answer::Wrong(None));
            for at in MIN_PAYLOAD_LEN..len {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(check(&changed, len), Answer::Wrong(Some(0x0102_0304_0506_0708)), "byte {at}");
            }
        }
    }

    #[test]
    fn an_answer_belongs_to_its_question() {
        let own = "20.0.0.1:5000".parse().expect("an address");
        let binding = Binding { own: vec![own] };
        let answer = |mapped: &str, id: TransactionId| {
            let mut writer = Writer::new(Class::Success, BINDING, id);
            writer.xor_address(attr::XOR_MAPPED_ADDRESS, mapped.parse().expect("an address"));
            binding.answer(0, &writer.finish())
        };
        assert_eq!(answer("20.0.0.1:5000", transaction(7)), Answer::Right(7));
        assert_eq!(answer("20.0.0.1:5001", transaction(7)), Answer::Wrong(Some(7)));
        assert_eq!(answer("20.0.0.1:5000", TransactionId([7; 12])), Answer::Wrong(None));
        assert_eq!(binding.answer(0, b"garbage"), Answer::Wrong(None));
    }
}
