//! Where one message ends and the next begins in a stream (RFC 8489, section 6.2.2; RFC 8656,
//! section 12.5).
//!
//! Over TCP and TLS, STUN messages and ChannelData follow one another without anything between
//! them: the length is in the first bytes of each. A frame is one of them, ChannelData with its
//! padding. A stream that has lost its place cannot find it again, so anything else is the
//! stream's end.

use thiserror::Error;

use crate::channel::{CHANNEL_HEADER_LEN, is_channel_data};
use crate::message::{HEADER_LEN, MAGIC_COOKIE};

/// The longest frame: a STUN message of the longest body, which is a multiple of four. The longest
/// ChannelData is shorter.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + (u16::MAX as usize & !3);
/// The bytes that tell STUN from anything else: type, length and magic cookie.
const STUN_PREFIX_LEN: usize = 8;

/// Why a stream has to be closed. Whoever sends this speaks another protocol, or has miscounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither a STUN message nor ChannelData begins here")]
pub struct FrameError;

/// The length of the frame that `buffer` begins with, padding included, as soon as its first bytes
/// tell: at most [`MAX_FRAME_LEN`], and more than the buffer holds if the rest is still under
/// way. Nothing if not even these bytes are there.
///
/// # Errors
/// [`FrameError`], as early as the bytes show it: nothing behind them can be understood.
pub fn frame_len(buffer: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(first) = buffer.first() else { return Ok(None) };
    if is_channel_data(*first) {
        return Ok(body_len(buffer).map(|len| (CHANNEL_HEADER_LEN + len).next_multiple_of(4)));
    }
    let is_stun = first & 0xC0 == 0;
    let cookie = buffer.get(4..).unwrap_or_default();
    let is_cookie = cookie.iter().zip(MAGIC_COOKIE).all(|(byte, expected)| *byte == expected);
    // Every attribute is padded, so the two low bits of the length are clear.
    let is_aligned = body_len(buffer).is_none_or(|len| len.is_multiple_of(4));
    if !is_stun || !is_cookie || !is_aligned {
        return Err(FrameError);
    }
    let is_sure = buffer.len() >= STUN_PREFIX_LEN;
    Ok(body_len(buffer).filter(|_| is_sure).map(|len| HEADER_LEN + len))
}

/// What the third and fourth byte say, in either kind of frame.
fn body_len(buffer: &[u8]) -> Option<usize> {
    let [_, _, high, low, ..] = buffer else { return None };
    Some(usize::from(u16::from_be_bytes([*high, *low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; 4] = MAGIC_COOKIE;

    #[track_caller]
    fn check(buffer: &[u8], expected: Result<Option<usize>, FrameError>) {
        assert_eq!(frame_len(buffer), expected, "{buffer:?}");
    }

    /// RFC 8489, sections 5 and 6.2.2.
    #[test]
    fn stun_ends_where_its_header_says() {
        let stun = |len: u16| [&[0, 1][..], &len.to_be_bytes(), &COOKIE, &[7; 40]].concat();
        check(&stun(0), Ok(Some(20)));
        check(&stun(8), Ok(Some(28)));
        check(&stun(8)[..8], Ok(Some(28)));
        check(&stun(65_532), Ok(Some(MAX_FRAME_LEN)));
        for len in 0..8 {
            check(&stun(8)[..len], Ok(None));
        }
        check(&stun(7), Err(FrameError));
        check(&stun(7)[..4], Err(FrameError));
        check(&[0, 1, 0, 0, 0x21, 0x13], Err(FrameError));
        check(b"\0\x01\0\0HTTP", Err(FrameError));
    }

    /// RFC 8656, section 12.5: padded to four bytes, which its length does not count.
    #[test]
    fn channel_data_ends_behind_its_padding() {
        check(&[0x40], Ok(None));
        check(&[0x40, 0, 0], Ok(None));
        check(&[0x40, 0, 0, 0], Ok(Some(4)));
        check(&[0x40, 0, 0, 1], Ok(Some(8)));
        check(&[0x40, 0, 0, 4], Ok(Some(8)));
        check(&[0x40, 0, 0, 5], Ok(Some(12)));
        check(&[0x7F, 0xFF, 0xFF, 0xFF, 1, 2], Ok(Some(65_540)));
    }

    #[test]
    fn anything_else_ends_the_stream() {
        check(&[], Ok(None));
        // TLS or DTLS has a valid first byte; its second to eighth show it.
        check(&[0x16], Ok(None));
        check(&[0x16, 3, 1, 2, 0, 1, 0, 1], Err(FrameError));
        check(b"GET / HTTP/1.1", Ok(Some(0x5420 + 4)));
        check(b"\x80", Err(FrameError));
        check(b"\xFF\0\0\0", Err(FrameError));
    }
}
