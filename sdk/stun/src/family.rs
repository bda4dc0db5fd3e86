//! Address families, and the addresses that messages carry in disguise.

use std::net::{IpAddr, SocketAddr};

use crate::message::{MAGIC_COOKIE, TransactionId};

/// An address family (RFC 8656, section 18.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// All there are.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Its number on the wire (RFC 8489, section 14.1).
    #[must_use]
    #[inline]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 0x01,
            Self::V6 => 0x02,
        }
    }

    /// The family of this number.
    #[must_use]
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x01 => Some(Self::V4),
            0x02 => Some(Self::V6),
            _ => None,
        }
    }

    /// The family of an address.
    #[must_use]
    #[inline]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its place in [`Family::BOTH`].
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Reads the value of an XOR-PEER-ADDRESS (RFC 8656, section 18.3) or of any other attribute in the form of
/// XOR-MAPPED-ADDRESS (RFC 8489, section 14.2) in a message with this transaction id; nothing if it is no address.
#[must_use]
#[inline]
pub fn read_xor_address(value: &[u8], id: TransactionId) -> Option<SocketAddr> {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(&id.0);
    read_masked(value, mask)
}

/// Reads the value of an attribute in the form of MAPPED-ADDRESS (RFC 8489, section 14.1), such as ALTERNATE-SERVER;
/// nothing if it is no address.
#[must_use]
pub fn read_address(value: &[u8]) -> Option<SocketAddr> {
    read_masked(value, [0; 16])
}

#[inline]
fn read_masked(value: &[u8], mask: [u8; 16]) -> Option<SocketAddr> {
    let ([_, number, high, low], ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    match Family::from_number(*number)? {
        Family::V4 => {
            let mut ip: [u8; 4] = ip.try_into().ok()?;
            ip.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            Some(SocketAddr::from((ip, port)))
        }
        Family::V6 => {
            let mut ip: [u8; 16] = ip.try_into().ok()?;
            ip.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            Some(SocketAddr::from((ip, port)))
        }
    }
}
