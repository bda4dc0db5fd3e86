//! The bytes of one datagram to send.

use std::fmt;
use std::ops::Deref;

/// Enough for the largest ordinary answer: Binding over IPv6 with all addresses of RFC 5780 and
/// MESSAGE-INTEGRITY-SHA256. Only long realms, long lists and PADDING need more.
const INLINE_LEN: usize = 160;

/// A datagram's bytes; ordinary answers are held inline, so that they cost no allocation.
#[derive(Clone)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_LEN] },
    Heap(Vec<u8>),
}

impl Payload {
    /// No bytes.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self(Repr::Inline { len: 0, bytes: [0; INLINE_LEN] })
    }

    /// Adds bytes. Inlined, so that a caller's constant length becomes a plain store.
    #[inline]
    pub fn push(&mut self, more: &[u8]) {
        if let Repr::Inline { len, bytes } = &mut self.0 {
            let used = usize::from(*len);
            if let Some(free) = bytes.get_mut(used..used + more.len()) {
                free.copy_from_slice(more);
                *len += more.len() as u8;
                return;
            }
        }
        self.push_to_heap(more);
    }

    #[cold]
    fn push_to_heap(&mut self, more: &[u8]) {
        match &mut self.0 {
            Repr::Inline { len, bytes } => {
                self.0 = Repr::Heap([&bytes[..usize::from(*len)], more].concat());
            }
            Repr::Heap(bytes) => bytes.extend_from_slice(more),
        }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Repr::Inline { len, bytes } => &mut bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// True if the bytes did not fit inline.
    #[must_use]
    pub fn is_heap(&self) -> bool {
        matches!(self.0, Repr::Heap(_))
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Payload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Payload> for Vec<u8> {
    fn from(payload: Payload) -> Self {
        match payload.0 {
            Repr::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}
