//! Cutting a stream into frames: TCP and TLS give bytes in pieces of any size, and where a message ends must not depend
//! on where a piece does.

use meetpoint_turn::frame::{FrameError, MAX_FRAME_LEN, frame_len};
use meetpoint_turn::message::Message;

use crate::input::Input;
use crate::wire::{COOKIE, HEADER_LEN, u16_at};

/// Cuts the bytes into frames, in pieces whose sizes the first four of them choose.
pub fn stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let pieces = input.array::<4>().map(|size| usize::from(size) % 64 + 1);
    let bytes = input.rest();
    let whole = cut(bytes, &[bytes.len().max(1)]);
    assert_eq!(cut(bytes, &pieces), whole, "pieces make a difference");
    assert_eq!(cut(bytes, &[1]), whole, "pieces make a difference");
    let (frames, _) = whole;
    for frame in frames {
        assert!((4..=MAX_FRAME_LEN).contains(&frame.len()) && frame.len().is_multiple_of(4));
        if frame[0] < 0x40 {
            assert_eq!(
                (HEADER_LEN + usize::from(u16_at(frame, 2)), &frame[4..8]),
                (frame.len(), &COOKIE[..])
            );
        } else {
            assert!(frame[0] < 0x80 && (0..4).contains(&(frame.len() - 4 - usize::from(u16_at(frame, 2)))));
        }
    }
    // What is one message as a datagram is one frame.
    if Message::parse(bytes).is_ok() {
        assert_eq!(frame_len(bytes), Ok(Some(bytes.len())));
    }
}

/// The whole frames, and whether the stream was lost behind them.
fn cut<'a>(bytes: &'a [u8], pieces: &[usize]) -> (Vec<&'a [u8]>, bool) {
    let mut frames = vec![];
    let (mut start, mut arrived) = (0, 0);
    for piece in pieces.iter().cycle() {
        arrived = (arrived + piece).min(bytes.len());
        loop {
            match frame_len(&bytes[start..arrived]) {
                Err(FrameError) => return (frames, true),
                Ok(Some(len)) if len <= arrived - start => {
                    frames.push(&bytes[start..start + len]);
                    start += len;
                }
                Ok(_) => break,
            }
        }
        if arrived == bytes.len() {
            break;
        }
    }
    (frames, false)
}
