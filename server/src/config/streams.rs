//! Where STUN and TURN are answered over TCP and TLS.

use std::net::{IpAddr, SocketAddr};

use super::{ConfigError, MAX_STUN_PER_FAMILY};

/// The port of STUN and TURN over TLS (RFC 8489, section 8).
const TLS_PORT: u16 = 5349;

/// The value of `--stun-tcp` and `--stun-tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamAddr {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl std::str::FromStr for StreamAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| {
                "expected IP:PORT, for example 0.0.0.0:5349 or [::]:5349, or the word off".to_owned()
            }),
        }
    }
}

/// Where to listen for one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAddrs {
    /// At most two of each family. Empty if it is switched off.
    pub addrs: Vec<SocketAddr>,
    /// The operator named them. One that can't be had then ends the start; of the others it is told
    /// by a warning, since nobody asked for them.
    pub is_given: bool,
}

impl StreamAddrs {
    /// `--stun-tcp`; without it, where `--stun` is.
    pub(super) fn tcp(given: &[StreamAddr], stun: &[SocketAddr]) -> Result<Self, ConfigError> {
        Self::new("--stun-tcp", given, || stun.to_vec())
    }

    /// `--stun-tls`; without it, on the addresses of `--stun`. Who takes any free port there wants
    /// one here too.
    pub(super) fn tls(given: &[StreamAddr], stun: &[SocketAddr]) -> Result<Self, ConfigError> {
        let port = |stun: &SocketAddr| if stun.port() == 0 { 0 } else { TLS_PORT };
        Self::new("--stun-tls", given, || {
            stun.iter().map(|stun| SocketAddr::new(stun.ip(), port(stun))).collect()
        })
    }

    fn new(
        flag: &'static str,
        given: &[StreamAddr],
        default: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Result<Self, ConfigError> {
        let addrs: Vec<SocketAddr> = given.iter().filter_map(|given| given.addr()).collect();
        if !addrs.is_empty() && addrs.len() < given.len() {
            return Err(ConfigError::StreamOff { flag });
        }
        for is_ipv4 in [true, false] {
            let mut family = addrs.iter().filter(|addr| addr.is_ipv4() == is_ipv4);
            if let Some(&addr) = family.nth(MAX_STUN_PER_FAMILY) {
                return Err(ConfigError::TooManyStreams { flag, addr });
            }
        }
        let is_group = |ip: &IpAddr| ip.is_multicast() || *ip == IpAddr::from([255; 4]);
        if let Some(addr) = addrs.iter().map(SocketAddr::ip).find(is_group) {
            return Err(ConfigError::NotAHost { flag, addr });
        }
        let is_given = !given.is_empty();
        Ok(Self { addrs: if is_given { addrs } else { default() }, is_given })
    }
}

impl StreamAddr {
    fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn where_nothing_is_said_the_addresses_of_stun_are_taken() {
        let check = |stun: &[&str], given: &[&str], tcp: &[&str], tls: &[&str]| {
            let given: Vec<StreamAddr> = given.iter().map(|text| text.parse().unwrap()).collect();
            let stun = addrs(stun);
            let is_given = !given.is_empty();
            let expected = |texts| StreamAddrs { addrs: addrs(texts), is_given };
            assert_eq!(StreamAddrs::tcp(&given, &stun).unwrap(), expected(tcp), "{stun:?} {given:?}");
            assert_eq!(StreamAddrs::tls(&given, &stun).unwrap(), expected(tls), "{stun:?} {given:?}");
        };
        check(&["0.0.0.0:3478"], &[], &["0.0.0.0:3478"], &["0.0.0.0:5349"]);
        let (two, tls) = (["20.0.0.1:80", "[2a00::1]:80"], ["20.0.0.1:5349", "[2a00::1]:5349"]);
        check(&two, &[], &two, &tls);
        check(&["127.0.0.1:0"], &[], &["127.0.0.1:0"], &["127.0.0.1:0"]);
        check(&["0.0.0.0:3478"], &["off"], &[], &[]);
        check(&["0.0.0.0:3478"], &["20.0.0.1:443"], &["20.0.0.1:443"], &["20.0.0.1:443"]);
    }
}
