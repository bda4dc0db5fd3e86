//! ChannelData, TURN's four-byte alternative to the indications (RFC 8656, section 12).

/// The length of a ChannelData header (RFC 8656, section 12.4).
pub const CHANNEL_HEADER_LEN: usize = 4;
/// More than this behind ChannelData is no padding (RFC 8656, section 12.5).
const MAX_CHANNEL_PADDING: usize = 3;

/// True for the first byte of ChannelData (RFC 8656, section 12; RFC 5766, section 11 for the upper part).
#[must_use]
#[inline]
pub const fn is_channel_data(first: u8) -> bool {
    first & 0xC0 == 0x40
}

/// A datagram that is ChannelData: the channel's number, and what it carries without the padding.
#[must_use]
#[inline]
pub fn read_channel_data(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (header, rest) = datagram.split_first_chunk::<CHANNEL_HEADER_LEN>()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = rest.get(..len)?;
    let is_whole = rest.len() - len <= MAX_CHANNEL_PADDING;
    is_whole.then_some((u16::from_be_bytes([header[0], header[1]]), payload))
}

/// The header to put before `len` bytes on this channel.
#[must_use]
#[inline]
pub const fn channel_header(number: u16, len: u16) -> [u8; CHANNEL_HEADER_LEN] {
    let ([a, b], [c, d]) = (number.to_be_bytes(), len.to_be_bytes());
    [a, b, c, d]
}
