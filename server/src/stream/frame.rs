//! Where one message ends and the next begins in a stream (RFC 8489, section 6.2.2; RFC 8656,
//! section 12.5).

use thiserror::Error;

/// The longest frame: a STUN header, and the longest body, which is a multiple of four.
pub(super) const MAX_FRAME_LEN: usize = 20 + (u16::MAX as usize & !3);
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// Why a stream has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither a STUN message nor ChannelData begins here")]
pub(super) struct FrameError;

/// The length of the frame that `buffer` begins with, padding included. Nothing if too few bytes are
/// there to tell.
pub(super) fn frame_len(buffer: &[u8]) -> Result<Option<usize>, FrameError> {
    let cookie = buffer.get(4..).unwrap_or_default();
    let body = buffer.get(2..4).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    match buffer.first().map(|first| first >> 6) {
        None => Ok(None),
        Some(0b01) => Ok(body.map(|len| (4 + len).next_multiple_of(4))),
        Some(0b00) if cookie.iter().zip(MAGIC_COOKIE).all(|(byte, expected)| *byte == expected) => {
            Ok(body.filter(|_| buffer.len() >= 8).map(|len| 20 + len))
        }
        Some(_) => Err(FrameError),
    }
}
