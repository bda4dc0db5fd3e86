//! Packets in datagrams: whole ones, and those that are too long for one.
//!
//! Behind the flow's number (`crate::datagrams`) stands a byte: how many parts the packet has, less one, and which of
//! them this is. A part of several is followed by the packet's number. Parts that are missing are not asked for again:
//! the packet is lost, as one is whose fragments are (RFC 8200, section 4.5), and makes room for others.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::datagrams::{MARK, MARK_LEN};

/// Longest packet, in bytes: as much as stacks of this family read at once.
pub const MAX_PACKET_LEN: usize = 8_192;
/// Parts of one packet, as four bits count them.
const MAX_PARTS: usize = 16;
/// The byte that says which part it is.
const SHAPE_LEN: usize = 1;
/// The packet's number, where there are several parts.
const NUMBER_LEN: usize = 4;
/// Packets of which parts are missing. Parts of two packets overtake each other by little.
const MAX_PARTIAL: usize = 16;
/// A packet of which parts are missing after so many later ones is lost; long before numbers come again.
const MAX_LAG: u32 = 1_024;

/// The datagrams of a packet, none longer than `room` bytes; `None` if it is too long for that.
pub(crate) fn parts(flow: u8, number: u32, packet: &[u8], room: usize) -> Option<Vec<Bytes>> {
    let whole_room = room.checked_sub(MARK_LEN + SHAPE_LEN)?;
    if packet.len() <= whole_room {
        return Some(vec![datagram(&[MARK, flow, 0], &[], packet)]);
    }
    let part_len = whole_room.checked_sub(NUMBER_LEN).filter(|len| *len > 0)?;
    let count = packet.len().div_ceil(part_len);
    if packet.len() > MAX_PACKET_LEN || count > MAX_PARTS {
        return None;
    }
    let part = |(at, part): (usize, &[u8])| {
        let shape = u8::try_from((count - 1) << 4 | at).ok()?;
        Some(datagram(&[MARK, flow, shape], &number.to_be_bytes(), part))
    };
    packet.chunks(part_len).enumerate().map(part).collect()
}

fn datagram(head: &[u8], number: &[u8], part: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(head.len() + number.len() + part.len());
    [head, number, part].iter().for_each(|piece| bytes.put_slice(piece));
    bytes.freeze()
}

/// Puts a flow's packets together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: VecDeque<Partial>,
}

#[derive(Debug)]
struct Partial {
    number: u32,
    parts: Vec<Option<Bytes>>,
}

impl Assembler {
    /// Takes a part, without mark and flow; gives the packet that it completes. What makes no sense is dropped.
    pub(crate) fn take(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let shape = usize::from(*bytes.first()?);
        let (count, at) = ((shape >> 4) + 1, shape & 0xF);
        if count == 1 {
            return (at == 0).then(|| bytes.split_off(SHAPE_LEN));
        }
        let number = u32::from_be_bytes(*bytes.get(SHAPE_LEN..)?.first_chunk::<NUMBER_LEN>()?);
        let part = bytes.split_off(SHAPE_LEN + NUMBER_LEN);
        let place = self.place(number, count);
        let partial = self.partial.get_mut(place)?;
        // As many parts as the one before said.
        if count != partial.parts.len() {
            return None;
        }
        partial.parts.get_mut(at)?.get_or_insert(part);
        if partial.parts.iter().any(Option::is_none) {
            return None;
        }
        let parts = self.partial.remove(place)?.parts;
        let len = parts.iter().flatten().map(Bytes::len).sum();
        if len > MAX_PACKET_LEN {
            return None;
        }
        let mut packet = BytesMut::with_capacity(len);
        parts.into_iter().flatten().for_each(|part| packet.put(part));
        Some(packet.freeze())
    }

    /// Where the packet of this number is; room is made for a new one.
    fn place(&mut self, number: u32, count: usize) -> usize {
        if let Some(place) = self.partial.iter().position(|partial| partial.number == number) {
            return place;
        }
        // Far from this one, as the crow flies round the numbers: its own parts will not come any more.
        let is_near = |other: u32| number.wrapping_sub(other).wrapping_add(MAX_LAG) <= 2 * MAX_LAG;
        self.partial.retain(|partial| is_near(partial.number));
        if self.partial.len() >= MAX_PARTIAL {
            self.partial.pop_front();
        }
        self.partial.push_back(Partial { number, parts: vec![None; count] });
        self.partial.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: u8 = 3;
    const ROOM: usize = 100;

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|at| at.to_le_bytes()[0]).collect()
    }

    /// What is behind mark and flow.
    fn sent(number: u32, packet: &[u8]) -> Vec<Bytes> {
        let parts = parts(FLOW, number, packet, ROOM).unwrap();
        assert!(parts.iter().all(|part| part.len() <= ROOM && part[..2] == [MARK, FLOW]));
        parts.into_iter().map(|part| part.slice(MARK_LEN..)).collect()
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        let part_len = ROOM - MARK_LEN - SHAPE_LEN - NUMBER_LEN;
        for (len, count) in
            [(0, 1), (1, 1), (97, 1), (98, 2), (2 * part_len, 2), (2 * part_len + 1, 3), (16 * part_len, 16)]
        {
            let packet = packet(len);
            let mut parts = sent(7, &packet);
            assert_eq!(parts.len(), count, "{len}");
            for backwards in [false, true] {
                let mut assembler = Assembler::default();
                let (last, first) = parts.split_last().unwrap();
                for part in first {
                    // Twice: a repeated part changes nothing.
                    assert_eq!(assembler.take(part.clone()), None);
                    assert_eq!(assembler.take(part.clone()), None);
                }
                assert_eq!(assembler.take(last.clone()).as_deref(), Some(&packet[..]), "{len} {backwards}");
                assert!(assembler.partial.is_empty());
                parts.reverse();
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        for (len, room, fits) in [
            (16 * 93, ROOM, true),
            (16 * 93 + 1, ROOM, false),
            (MAX_PACKET_LEN, 1_162, true),
            (MAX_PACKET_LEN + 1, 1_162, false),
            (1, 7, true),
            (5, 7, false),
            (0, 3, true),
            (0, 2, false),
            (1, 0, false),
        ] {
            assert_eq!(parts(FLOW, 1, &packet(len), room).is_some(), fits, "{len} in {room}");
        }
    }

    #[test]
    fn lost_parts_take_no_room_for_ever() {
        let mut assembler = Assembler::default();
        for number in 0..1_000 {
            assert_eq!(assembler.take(sent(number, &packet(200))[0].clone()), None);
            assert!(assembler.partial.len() <= MAX_PARTIAL);
        }
        // The newest are still waited for, the oldest not.
        let late = |assembler: &mut Assembler, number| {
            let rest = sent(number, &packet(200)).split_off(1);
            rest.into_iter().filter_map(|part| assembler.take(part)).next()
        };
        assert_eq!(late(&mut assembler, 999).map(|packet| packet.len()), Some(200));
        assert_eq!(late(&mut assembler, 3), None);

        // Numbers that come again, thousands of packets later, meet no old part.
        let mut assembler = Assembler::default();
        assembler.take(sent(5, &[1; 200])[0].clone());
        assembler.take(sent(5_000, &[2; 200])[0].clone());
        assert_eq!(late(&mut assembler, 5), None);
    }

    #[test]
    fn nonsense_is_dropped() {
        let mut assembler = Assembler::default();
        for bytes in [
            &[][..],
            // The second part of one.
            &[0x01, 1],
            // No number, or not all of it.
            &[0x10],
            &[0x10, 0, 0, 0],
            // The third part of two, then another idea of how many there are.
            &[0x12, 0, 0, 0, 1, 9],
            &[0x10, 0, 0, 0, 1, 9],
            &[0x21, 0, 0, 0, 1, 9],
        ] {
            assert_eq!(assembler.take(Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
        assert_eq!(assembler.take(Bytes::from_static(&[0x11, 0, 0, 0, 1, 8])).as_deref(), Some(&[9, 8][..]));

        // More than anybody may send, in parts.
        let mut part = vec![0xF0, 0, 0, 0, 2];
        part.resize(1_000, 0);
        for at in 0..16 {
            part[0] = 0xF0 | at;
            assert_eq!(assembler.take(part.clone().into()), None);
        }
        assert!(assembler.partial.is_empty());
    }
}
