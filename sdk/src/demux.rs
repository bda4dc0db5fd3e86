//! Tells apart what arrives on a node's socket, datagram by datagram.
//!
//! The first byte decides what a datagram may be (RFC 7983, RFC 9443) and its source what it is
//! taken for: STUN is for the driver whoever sent it, because checks come from strangers; anything
//! else counts only from a verified source. The system may hand over several datagrams of one
//! sender as one buffer (GRO), STUN between QUIC packets among them, so the buffer is sorted
//! segment by segment and closed up in place.

use meetpoint_proto::stun::is_stun;
use meetpoint_stun::{CHANNEL_HEADER_LEN, read_channel_data};
use quinn::udp::RecvMeta;

use crate::paths::SyntheticAddr;

/// Every QUIC packet of ours has this bit, since neither end greases it (RFC 9287). Of the other
/// protocols of RFC 9443 only TURN's ChannelData has it too, which no verified peer sends: it comes from the relay's
/// server.
const QUIC_FIXED_BIT: u8 = 0x40;

/// No STUN message of ours is larger than an Ethernet frame; what is costs the channel too much.
const MAX_STUN_LEN: usize = 1500;

/// What a buffer held, in datagrams.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Given to QUIC.
    pub(crate) quic: u64,
    /// Given to the driver.
    pub(crate) stun: u64,
    /// Dropped: not STUN, from a source no check has verified.
    pub(crate) unverified: u64,
    /// Dropped: empty, oversized, or nothing this node speaks.
    pub(crate) stray: u64,
}

/// What a buffer holds, one by one.
pub(crate) fn datagrams<'a>(buffer: &'a [u8], meta: &RecvMeta) -> impl Iterator<Item = &'a [u8]> {
    let all = &buffer[..meta.len.min(buffer.len())];
    all.chunks(if meta.stride == 0 { all.len().max(1) } else { meta.stride })
}

/// Leaves in `buffer` only the QUIC packets and describes them in `meta`, from the synthetic
/// address of their sender; hands each STUN message to `on_stun`. With nothing left, `meta.len`
/// is zero.
pub(crate) fn sort(
    buffer: &mut [u8],
    meta: &mut RecvMeta,
    sender: Option<SyntheticAddr>,
    mut on_stun: impl FnMut(&[u8]),
) -> Tally {
    let mut tally = Tally::default();
    let end = meta.len.min(buffer.len());
    let (mut start, mut kept) = (0, 0);
    if end == 0 {
        tally.stray += 1;
    }
    // A stride of zero would never advance, here or in QUIC: the buffer is then one datagram.
    let stride = if meta.stride == 0 { end } else { meta.stride };
    while start < end {
        let next = end.min(start + stride);
        let datagram = &buffer[start..next];
        if is_stun(datagram) && datagram.len() <= MAX_STUN_LEN {
            tally.stun += 1;
            on_stun(datagram);
        } else if is_stun(datagram) || datagram[0] & QUIC_FIXED_BIT == 0 {
            tally.stray += 1;
        } else if sender.is_none() {
            tally.unverified += 1;
        } else {
            tally.quic += 1;
            // Nothing moves until something was taken out, which is almost always.
            if kept != start {
                buffer.copy_within(start..next, kept);
            }
            kept += next - start;
        }
        start = next;
    }
    meta.len = kept;
    meta.stride = stride.min(kept);
    // The real destination would contradict the synthetic local address.
    meta.dst_ip = None;
    if let Some(sender) = sender {
        meta.addr = sender.socket_addr();
    }
    tally
}

/// The same for what a relay's server sent: leaves in `buffer` the QUIC packets of one peer, whoever comes first,
/// without the headers of ChannelData; hands those of other peers to `on_other`, and STUN, in ChannelData or not, to
/// `on_stun` as it came. `peer` tells who a channel's number stands for.
pub(crate) fn sort_relayed(
    buffer: &mut [u8],
    meta: &mut RecvMeta,
    peer: impl Fn(u16) -> Option<SyntheticAddr>,
    mut on_stun: impl FnMut(&[u8]),
    mut on_other: impl FnMut(SyntheticAddr, &[u8]),
) -> Tally {
    let mut tally = Tally::default();
    let end = meta.len.min(buffer.len());
    let stride = if meta.stride == 0 { end } else { meta.stride };
    let (mut start, mut kept) = (0, 0);
    // The peer whose packets stay, and their length: all of a batch but its last have one.
    let mut chosen: Option<(SyntheticAddr, usize)> = None;
    let mut is_complete = false;
    while start < end {
        let next = end.min(start + stride);
        let Some((number, data)) = read_channel_data(&buffer[start..next]) else {
            let is_message = is_stun(&buffer[start..next]);
            tally.stun += u64::from(is_message);
            tally.stray += u64::from(!is_message);
            if is_message {
                on_stun(&buffer[start..next]);
            }
            start = next;
            continue;
        };
        let (at, len) = (start + CHANNEL_HEADER_LEN, data.len());
        if is_stun(data) {
            tally.stun += 1;
            on_stun(&buffer[start..next]);
        } else if data.first().is_none_or(|first| first & QUIC_FIXED_BIT == 0) {
            tally.stray += 1;
        } else if let Some(sender) = peer(number) {
            tally.quic += 1;
            let (first, packet_len) = *chosen.get_or_insert((sender, len));
            if first == sender && len <= packet_len && !is_complete {
                is_complete = len < packet_len;
                buffer.copy_within(at..at + len, kept);
                kept += len;
            } else {
                on_other(sender, &buffer[at..at + len]);
            }
        } else {
            tally.unverified += 1;
        }
        start = next;
    }
    meta.len = kept;
    meta.dst_ip = None;
    meta.stride = 0;
    if let Some((sender, packet_len)) = chosen {
        meta.addr = sender.socket_addr();
        meta.stride = packet_len;
    }
    tally
}

#[cfg(test)]
mod tests {
    use meetpoint_proto::NodeId;

    use super::*;

    /// A datagram of ten or, if it is STUN, twenty bytes, told apart by its last byte.
    fn datagram(kind: char, number: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match kind {
            'q' => bytes[0] = 0x40,
            'l' => bytes[0] = 0xC3,
            's' => bytes[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]),
            'd' => bytes[0] = 22,
            other => panic!("no kind {other}"),
        }
        bytes[len - 1] = number;
        bytes
    }

    /// `segments`: one letter per datagram; `short`: bytes missing from the last.
    fn check(segments: &str, short: usize, verified: bool, expect: Tally) {
        const STRIDE: usize = 32;
        let mut datagrams: Vec<_> =
            segments.chars().zip(0..).map(|(kind, n)| datagram(kind, n, STRIDE)).collect();
        if let Some(last) = datagrams.last_mut() {
            *last = datagram(segments.chars().last().unwrap(), 99, STRIDE - short);
        }
        let mut buffer = datagrams.concat();
        let mut meta = RecvMeta { len: buffer.len(), stride: STRIDE, ..RecvMeta::default() };
        let sender = verified.then(|| SyntheticAddr::of(&NodeId::from_bytes([5; 32])));
        let mut stun = Vec::new();
        let tally = sort(&mut buffer, &mut meta, sender, |bytes| stun.push(bytes.to_vec()));

        let of = |kinds: &str| {
            let chosen = segments.chars().zip(&datagrams).filter(|(kind, _)| kinds.contains(*kind));
            chosen.map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>()
        };
        assert_eq!(tally, expect, "{segments}");
        assert_eq!(stun, of("s"), "{segments}");
        let quic = if verified { of("ql").concat() } else { Vec::new() };
        assert_eq!(&buffer[..meta.len], quic, "{segments}");
        assert!(meta.len == 0 || meta.stride > 0, "{segments}: QUIC would loop for ever");
        if verified {
            assert_eq!(meta.addr, SyntheticAddr::of(&NodeId::from_bytes([5; 32])).socket_addr());
        }
    }

    #[test]
    fn segments_are_sorted_one_by_one() {
        let tally = |quic, stun, unverified, stray| Tally { quic, stun, unverified, stray };
        check("", 0, true, tally(0, 0, 0, 1));
        check("", 0, false, tally(0, 0, 0, 1));
        check("q", 0, true, tally(1, 0, 0, 0));
        check("q", 31, true, tally(1, 0, 0, 0));
        check("s", 0, false, tally(0, 1, 0, 0));
        check("s", 12, true, tally(0, 1, 0, 0));
        check("qsq", 0, true, tally(2, 1, 0, 0));
        check("sql", 7, true, tally(2, 1, 0, 0));
        check("qqs", 12, true, tally(2, 1, 0, 0));
        check("qsdl", 3, false, tally(0, 1, 2, 1));
        check("dd", 30, true, tally(0, 0, 0, 2));
        check("sss", 0, true, tally(0, 3, 0, 0));
    }

    /// Each letter is a datagram of the relay's server: `a` and `b` are QUIC of two peers, `c` a check in a channel,
    /// `s` STUN outside of one, `x` a channel of nobody, `d` something else in a channel; digits shorten the one
    /// before.
    #[test]
    fn relayed_segments_are_unwrapped_one_by_one() {
        let of = |number: u8| SyntheticAddr::of(&NodeId::from_bytes([number; 32]));
        let peer = |number: u16| {
            [(1, of(1)), (2, of(2)), (3, of(1))].iter().find(|(n, _)| *n == number).map(|(_, a)| *a)
        };
        let wrap = |number: u16, data: Vec<u8>| {
            [&meetpoint_stun::channel_header(number, data.len() as u16)[..], &data].concat()
        };
        let make = |kind: char, n: u8| match kind {
            'a' => wrap(1, datagram('q', n, 28)),
            'b' => wrap(2, datagram('q', n, 28)),
            'c' => wrap(3, datagram('s', n, 28)),
            'x' => wrap(9, datagram('q', n, 28)),
            'd' => wrap(1, datagram('d', n, 28)),
            _ => datagram('s', n, 32),
        };
        for (segments, kept, others, stun) in [
            ("", "", "", ""),
            ("aaa", "aaa", "", ""),
            ("abab", "aa", "bb", ""),
            ("scaxdb", "a", "b", "sc"),
            ("xxs", "", "", "s"),
        ] {
            // The number that the fixture checks in a channel come by is not one of ours on purpose.
            let all: Vec<(char, Vec<u8>)> =
                segments.chars().zip(0..).map(|(kind, n)| (kind, make(kind, n))).collect();
            let pick = |kinds: &str, skip: usize| -> Vec<u8> {
                let chosen = all.iter().filter(|(kind, _)| kinds.contains(*kind));
                chosen.flat_map(|(_, bytes)| bytes[skip..].to_vec()).collect()
            };
            let mut buffer: Vec<u8> = all.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let mut meta = RecvMeta { len: buffer.len(), stride: 32, ..RecvMeta::default() };
            let (mut to_driver, mut to_others) = (Vec::new(), Vec::new());
            sort_relayed(
                &mut buffer,
                &mut meta,
                peer,
                |bytes| to_driver.extend_from_slice(bytes),
                |_, bytes| to_others.extend_from_slice(bytes),
            );
            assert_eq!(buffer[..meta.len], pick(kept, 4), "{segments}");
            assert_eq!(to_others, pick(others, 4), "{segments}");
            assert_eq!(to_driver, pick(stun, 0), "{segments}");
            assert!(meta.len == 0 || meta.stride == 28, "{segments}");
        }
    }

    #[test]
    fn near_stun_is_not_stun() {
        let whole = datagram('s', 0, 20);
        let cases: [(&str, Vec<u8>, bool); 5] = [
            ("a whole header", whole.clone(), true),
            ("a byte short", whole[..19].to_vec(), false),
            ("another cookie", [&whole[..4], &[0x21, 0x12, 0xA4, 0x43], &whole[8..]].concat(), false),
            ("a first byte of four", [&[4], &whole[1..]].concat(), false),
            ("larger than a frame", datagram('s', 0, MAX_STUN_LEN + 1), false),
        ];
        for (name, mut bytes, expect) in cases {
            let mut meta = RecvMeta { len: bytes.len(), stride: bytes.len(), ..RecvMeta::default() };
            let tally = sort(&mut bytes, &mut meta, None, |_| {});
            assert_eq!((tally.stun, tally.stray), if expect { (1, 0) } else { (0, 1) }, "{name}");
        }
    }

    #[test]
    fn a_lying_description_is_survived() {
        for (len, stride) in [(10, 0), (1000, 4), (10, 1000), (0, 0)] {
            let mut buffer = [0x40; 10];
            let mut meta = RecvMeta { len, stride, ..RecvMeta::default() };
            let sender = Some(SyntheticAddr::of(&NodeId::from_bytes([5; 32])));
            sort(&mut buffer, &mut meta, sender, |_| {});
            assert!(meta.len <= 10 && (meta.len == 0 || meta.stride > 0), "{len} {stride}");
        }
    }
}
