//! Tells apart what arrives on a node's socket, datagram by datagram.
//!
//! The first byte decides what a datagram may be (RFC 7983, RFC 9443) and its source what it is
//! taken for: STUN is for the driver whoever sent it, because checks come from strangers; anything
//! else counts only from a verified source. The system may hand over several datagrams of one
//! sender as one buffer (GRO), STUN between QUIC packets among them, so the buffer is sorted
//! segment by segment and closed up in place.

use meetpoint_proto::stun::is_stun;
use quinn::udp::RecvMeta;

use crate::paths::SyntheticAddr;

/// Every QUIC packet of ours has this bit, since neither end greases it (RFC 9287). Of the other
/// protocols of RFC 9443 only TURN's ChannelData has it too, which no verified peer sends.
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
