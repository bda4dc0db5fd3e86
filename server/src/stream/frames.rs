//! Cuts frames out of what a connection sends.

use meetpoint_turn::frame::{FrameError, MAX_FRAME_LEN, frame_len};

/// What is read at once: several packets. A buffer of this size stays with an idle connection.
const READ_BYTES: usize = 4096;

/// What has been read and not been cut yet: at most a frame that is under way, and what one read adds.
pub(super) struct Frames {
    buffer: Vec<u8>,
    /// Where the first frame that is not cut begins.
    start: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::with_capacity(READ_BYTES), start: 0 }
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some(len) = frame_len(rest)? else { return Ok(None) };
        let frame = rest.get(..len);
        self.start += frame.map_or(0, <[u8]>::len);
        Ok(frame)
    }

    /// True if a frame has begun that is not whole.
    pub(super) fn is_in_frame(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Where to read to, once [`Self::next`] has no more. It has room for something.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(READ_BYTES);
        }
        // A frame that is under way is shorter than the longest one, or it would have been cut.
        debug_assert!(self.buffer.len() < MAX_FRAME_LEN);
        let len = self.buffer.len();
        if self.buffer.capacity() - len < READ_BYTES / 2 {
            self.buffer.reserve_exact(len.clamp(READ_BYTES, MAX_FRAME_LEN - len + READ_BYTES));
        }
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Binding request with this many bytes of an attribute nobody knows.
    fn stun(filler: u16) -> Vec<u8> {
        let mut frame = vec![0, 1];
        frame.extend(filler.to_be_bytes());
        frame.extend([0x21, 0x12, 0xA4, 0x42]);
        frame.resize(20 + usize::from(filler), 7);
        frame
    }

    /// Feeds the bytes in pieces of one size and says which frames came out.
    fn cut(bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut frames = Frames::new();
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = frames.space();
            let spare = space.capacity() - space.len();
            let (read, later) = rest.split_at(piece.min(spare).min(rest.len()));
            space.extend_from_slice(read);
            rest = later;
            while let Some(frame) = frames.next()? {
                found.push(frame.to_vec());
            }
            assert!(frames.buffer.capacity() <= MAX_FRAME_LEN + READ_BYTES);
        }
        assert!(!frames.is_in_frame());
        Ok(found)
    }

    #[test]
    fn pieces_do_not_matter() {
        let channel_data = vec![0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        let whole = vec![stun(0), channel_data, stun(8), stun(65_532), stun(0)];
        let bytes = whole.concat();
        for piece in [1, 3, 20, 21, 1200, bytes.len()] {
            assert_eq!(cut(&bytes, piece).as_ref(), Ok(&whole), "{piece}");
        }
    }

    #[test]
    fn the_buffer_shrinks_when_a_long_frame_is_through() {
        let mut frames = Frames::new();
        frames.space().extend(stun(60_000));
        assert!(frames.next().unwrap().is_some());
        assert!(frames.space().capacity() < 2 * READ_BYTES);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert_eq!(cut(b"\x16\x03\x01\x02\x00\x01\x00\x01", 1), Err(FrameError));
        assert_eq!(cut(b"\xFF", 1), Err(FrameError));
    }
}
