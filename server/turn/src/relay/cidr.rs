//! Blocks of addresses, as an operator writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use meetpoint_proto::addr;
use thiserror::Error;

/// A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix_len: u8,
}

/// Why a text is no block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseCidrError {
    /// Not of the form.
    #[error("expected ADDRESS/BITS, for example 10.0.0.0/8")]
    Form,
    /// More bits than the address has.
    #[error("the prefix is longer than the address")]
    TooLong,
    /// There are bits behind the prefix: a typing error that would silently mean another block.
    #[error("the address has bits behind its prefix")]
    HostBits,
    /// An IPv4 address in IPv6 form. Peers are compared as what they are.
    #[error("write an IPv4 block in IPv4 form")]
    Embedded,
}

impl Cidr {
    /// True if the block has this address. The families never mix.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_len);
                (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_len);
                (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    fn host_bits(&self) -> u128 {
        let prefix_len = u32::from(self.prefix_len);
        let (bits, width) = match self.network {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        bits.checked_shl(128 - width + prefix_len).unwrap_or(0)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let network: IpAddr = ip.parse().map_err(|_| ParseCidrError::Form)?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        let prefix_len = match len {
            Some(len) => len.parse().map_err(|_| ParseCidrError::Form)?,
            None => width,
        };
        if prefix_len > width {
            return Err(ParseCidrError::TooLong);
        }
        let cidr = Self { network, prefix_len };
        if cidr.host_bits() != 0 {
            return Err(ParseCidrError::HostBits);
        }
        // A short prefix such as ::/0 names no address; a long one inside ::ffff:0:0/96 does.
        if prefix_len >= 96 && addr::canonical(network) != network {
            return Err(ParseCidrError::Embedded);
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_addresses() {
        let check = |cidr: &str, ip: &str, is_in: bool| {
            let cidr: Cidr = cidr.parse().unwrap();
            assert_eq!(cidr.contains(ip.parse().unwrap()), is_in, "{cidr} {ip}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("0.0.0.0/0", "255.1.2.3", true);
        check("0.0.0.0/0", "::1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7/32", "192.0.2.6", false);
        check("::/0", "2001:db8::1", true);
        check("2001:db8::/32", "2001:db8:ffff::", true);
        check("2001:db8::/32", "2001:db9::", false);
        check("::1", "::1", true);
        check("::1", "::2", false);
    }

    #[test]
    fn only_blocks_are_read() {
        let check =
            |text: &str, error: ParseCidrError| assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        check("", ParseCidrError::Form);
        check("10.0.0.0/", ParseCidrError::Form);
        check("10.0.0/8", ParseCidrError::Form);
        check("10.0.0.0/8/8", ParseCidrError::Form);
        check("10.0.0.0/-1", ParseCidrError::Form);
        check("10.0.0.0/33", ParseCidrError::TooLong);
        check("::/129", ParseCidrError::TooLong);
        check("10.0.0.1/8", ParseCidrError::HostBits);
        check("2001:db8::1/64", ParseCidrError::HostBits);
        check("::ffff:10.0.0.0/104", ParseCidrError::Embedded);
        assert_eq!("10.0.0.0/8".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
    }
}
