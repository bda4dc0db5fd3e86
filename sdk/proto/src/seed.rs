//! `name@host:port`: where a cluster is met.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::name::{NameError, SeedName};

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_HOST_LEN: usize = 253;

/// A seed's address: its name, and the host and port of its control (HTTP) endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeedAddr {
    /// Unique in the cluster.
    pub name: SeedName,
    /// An IP address or a DNS name.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// An IP address or a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A name to be resolved; lower case.
    Dns(String),
}

/// Which part of `name@host:port` is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseSeedError {
    /// No `name@`.
    #[error("the name is missing: write NAME@{rest}")]
    MissingName {
        /// What was given.
        rest: String,
    },
    /// `name:host:port`: a colon where `@` belongs.
    #[error("'@' is missing between name and host: write {fixed}")]
    MissingAt {
        /// The likely meaning.
        fixed: String,
    },
    /// No `:port`.
    #[error("the port is missing: write {given}:PORT")]
    MissingPort {
        /// What was given.
        given: String,
    },
    /// Nothing between `@` and `:`.
    #[error("the host is missing: write NAME@HOST:PORT")]
    MissingHost,
    /// Not a port.
    #[error("the port '{given}' is not a number from 1 to 65535")]
    BadPort {
        /// What was given.
        given: String,
    },
    /// Not a host.
    #[error(
        "the host '{given}' is neither an IP address nor a DNS name (IPv6 goes in brackets: NAME@[2001:db8::1]:8080)"
    )]
    BadHost {
        /// What was given.
        given: String,
    },
    /// Not a name.
    #[error("the name does not fit: {0}")]
    BadName(#[from] NameError),
}

impl FromStr for SeedAddr {
    type Err = ParseSeedError;

    fn from_str(text: &str) -> Result<Self, ParseSeedError> {
        let Some((name, rest)) = text.split_once('@') else {
            return Err(without_at(text));
        };
        if name.is_empty() {
            return Err(ParseSeedError::MissingName { rest: rest.to_owned() });
        }
        let name = name.parse()?;
        let (host, port) =
            split_port(rest).ok_or_else(|| ParseSeedError::MissingPort { given: text.to_owned() })?;
        let port = match port.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => return Err(ParseSeedError::BadPort { given: port.to_owned() }),
        };
        Ok(Self { name, host: host.parse()?, port })
    }
}

/// Splits `host:port`; colons inside brackets belong to the host.
fn split_port(text: &str) -> Option<(&str, &str)> {
    let after_host = text.rfind(']').map_or(0, |at| at + 1);
    let colon = text[after_host..].rfind(':')? + after_host;
    Some((&text[..colon], &text[colon + 1..]))
}

fn without_at(text: &str) -> ParseSeedError {
    if let Some((name, rest)) = text.split_once(':')
        && split_port(rest).is_some()
        && name.parse::<SeedName>().is_ok()
        && name.parse::<IpAddr>().is_err()
    {
        return ParseSeedError::MissingAt { fixed: format!("{name}@{rest}") };
    }
    ParseSeedError::MissingName { rest: text.to_owned() }
}

impl FromStr for Host {
    type Err = ParseSeedError;

    fn from_str(text: &str) -> Result<Self, ParseSeedError> {
        if text.is_empty() {
            return Err(ParseSeedError::MissingHost);
        }
        let bad = || ParseSeedError::BadHost { given: text.to_owned() };
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return inner.parse::<Ipv6Addr>().map(|v6| Self::Ip(v6.into())).map_err(|_| bad());
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return if ip.is_ipv4() { Ok(Self::Ip(ip)) } else { Err(bad()) };
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // A last label of digits would be a broken IPv4 address, not a name (RFC 1123, section 2.1).
        let numeric_end = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > MAX_HOST_LEN || numeric_end || !name.split('.').all(label) {
            return Err(bad());
        }
        Ok(Self::Dns(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Dns(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for SeedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.name, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        let found = text.parse::<SeedAddr>();
        match expect {
            Ok(shown) => assert_eq!(found.map(|seed| seed.to_string()), Ok(shown.to_owned()), "{text}"),
            Err(part) => {
                let error = found.expect_err(text).to_string();
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn table() {
        check("seed1@192.168.1.10:4369", Ok("seed1@192.168.1.10:4369"));
        check("a@Example.ORG:80", Ok("a@example.org:80"));
        check("a@[2001:db8::1]:80", Ok("a@[2001:db8::1]:80"));
        check("seed1@192.168.1.10", Err("port is missing: write seed1@192.168.1.10:PORT"));
        check("192.168.1.10:4369", Err("name is missing: write NAME@192.168.1.10:4369"));
        check("seed1:192.168.1.10:4369", Err("write seed1@192.168.1.10:4369"));
        check("@h:1", Err("name is missing"));
        check("a@:1", Err("host is missing"));
        check("a@h:0", Err("1 to 65535"));
        check("a@h:x", Err("'x' is not a number"));
        check("a@h:70000", Err("1 to 65535"));
        check("a@2001:db8::1:80", Err("brackets"));
        check("a@[2001:db8::1]", Err("port is missing"));
        check("a@256.1.1.1:80", Err("neither an IP address"));
        check("a@-x:80", Err("neither"));
        check("a b@h:80", Err("name does not fit"));
        check("", Err("name is missing"));
    }
}
