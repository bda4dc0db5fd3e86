//! Telling a LAN of a server: what the sources on the LAN listen for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use meetpoint_proto::addr::{AddressClass, classify};
use meetpoint_proto::{SeedAddr, seed::Host};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};

use super::{FoundSeed, MulticastGroup};
use crate::interfaces;

/// Longest announcement, in bytes: it fits into one datagram on any link.
pub(super) const MAX_LEN: usize = 1_200;
/// Between two announcements. A node that has just come waits half as long on average.
const INTERVAL: Duration = Duration::from_secs(5);
/// A shorter one would be noise.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// An announcement stays on its link.
const TTL: u32 = 1;
/// Capabilities that are told.
const MAX_CAPABILITIES: usize = 16;
/// The form of what follows.
const FORM: u32 = 1;

/// What a server says of itself on a LAN. Nobody need believe it: whoever follows has the server prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The form, so that others can follow.
    meetpoint: u32,
    /// Who: a server's fingerprint or a node's id.
    pub id: String,
    /// Its name as a seed.
    pub name: String,
    /// Its address; if there is none, that which the announcement comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port of its control channel.
    pub port: u16,
    /// What it offers.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Its software.
    #[serde(default)]
    pub version: String,
}

impl Announcement {
    /// A server at the address that the announcement comes from.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, port: u16) -> Self {
        Self {
            meetpoint: FORM,
            id: id.into(),
            name: name.into(),
            address: None,
            port,
            capabilities: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What one offers; at most 16 are told.
    #[must_use]
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = String>) -> Self {
        self.capabilities = capabilities.into_iter().take(MAX_CAPABILITIES).collect();
        self
    }

    /// Its address, if that is not the one that it announces itself from.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|told: &Self| told.meetpoint == FORM)
    }

    /// Where that is, if it came from this address. Another one that it names counts only if it is private: whoever
    /// can speak on a LAN must not send its nodes out into the world.
    pub(super) fn seed(&self, source: IpAddr) -> Option<FoundSeed> {
        let named = self.address.filter(|ip| classify(*ip) == AddressClass::Private);
        hint(&self.name, named.unwrap_or(source), self.port)
    }
}

/// Servers on the LAN are tried after those that the user named.
const LAN_PRIORITY: u16 = 10;

/// A server that somebody on the LAN names.
pub(super) fn hint(name: &str, ip: IpAddr, port: u16) -> Option<FoundSeed> {
    let seed = SeedAddr { name: name.parse().ok()?, host: Host::Ip(ip.to_canonical()), port };
    (port != 0).then(|| FoundSeed { priority: LAN_PRIORITY, ..FoundSeed::new(seed.to_string()) })
}

/// Interfaces that a LAN is heard and spoken to by: never one with a public address.
pub(super) fn is_local(ip: IpAddr) -> bool {
    matches!(classify(ip), AddressClass::Private | AddressClass::Loopback)
}

/// The addresses of those interfaces.
pub(super) fn local_addrs() -> io::Result<Vec<Ipv4Addr>> {
    let v4 = |ip| match ip {
        IpAddr::V4(v4) if is_local(ip) => Some(v4),
        _ => None,
    };
    Ok(interfaces::list()?.into_iter().filter_map(|interface| v4(interface.ip)).collect())
}

/// Why nothing is announced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnnouncerError {
    /// The system refuses a socket.
    #[error("no multicast on this machine: {0}")]
    Io(#[from] io::Error),
    /// It does not fit into a datagram.
    #[error("the announcement has more than {MAX_LEN} bytes")]
    TooLong,
    /// By mDNS.
    #[cfg(feature = "mdns")]
    #[error("mDNS: {0}")]
    Mdns(#[from] mdns_sd::Error),
}

/// Announces a server on this machine's private links for as long as it runs.
#[derive(Debug, Clone)]
pub struct Announcer {
    announcement: Announcement,
    group: MulticastGroup,
    interval: Duration,
    only: Option<IpAddr>,
}

impl Announcer {
    /// To the usual group, every five seconds.
    #[must_use]
    pub fn new(announcement: Announcement) -> Self {
        Self { announcement, group: MulticastGroup::default(), interval: INTERVAL, only: None }
    }

    /// To another group.
    #[must_use]
    pub fn group(mut self, group: MulticastGroup) -> Self {
        self.group = group;
        self
    }

    /// As often as this, and no more often than ten times a second.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(MIN_INTERVAL);
        self
    }

    /// On the link of this address only: the server does not answer at others.
    #[must_use]
    pub fn only(mut self, ip: IpAddr) -> Self {
        self.only = Some(ip.to_canonical());
        self
    }

    /// Announces by datagrams to the group, until it is dropped. A link that can't be spoken to is tried again.
    ///
    /// # Errors
    /// [`AnnouncerError`], at its start only.
    pub async fn multicast(&self) -> Result<std::convert::Infallible, AnnouncerError> {
        let message = serde_json::to_vec(&self.announcement).map_err(|_| AnnouncerError::TooLong)?;
        if message.len() > MAX_LEN {
            return Err(AnnouncerError::TooLong);
        }
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_multicast_ttl_v4(TTL)?;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let local = local_addrs()?.into_iter();
            for ip in local.filter(|ip| self.only.is_none_or(|only| only == *ip)) {
                if let Err(error) = send(&socket, ip, self.group.0, &message) {
                    tracing::debug!(%ip, %error, "not announced on this link");
                }
            }
        }
    }

    /// Announces by mDNS, as a service `_meetpoint._tcp`, until it is dropped.
    ///
    /// # Errors
    /// [`AnnouncerError`], at its start only.
    #[cfg(feature = "mdns")]
    pub async fn mdns(&self) -> Result<std::convert::Infallible, AnnouncerError> {
        let _daemon = super::mdns::announce(&self.announcement, self.only)?;
        std::future::pending().await
    }
}

/// One datagram by the link of this address. It does not leave the link, so it is none of the gate's.
#[allow(clippy::disallowed_methods, reason = "a server's announcement, which no router passes on")]
fn send(socket: &Socket, by: Ipv4Addr, group: SocketAddrV4, message: &[u8]) -> io::Result<()> {
    socket.set_multicast_if_v4(&by)?;
    socket.send_to(message, &SocketAddr::V4(group).into()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_announcement_leads_to() {
        let source: IpAddr = "10.0.1.7".parse().unwrap();
        let told = Announcement::new("id", "main", 8080);
        let at = |ip: &str| Announcement { address: Some(ip.parse().unwrap()), ..told.clone() };
        for (announcement, expect) in [
            (told.clone(), Some("main@10.0.1.7:8080")),
            (at("10.0.2.9"), Some("main@10.0.2.9:8080")),
            (at("fd00::9"), Some("main@[fd00::9]:8080")),
            // Others' machines, and nobody's.
            (at("20.0.0.1"), Some("main@10.0.1.7:8080")),
            (at("127.0.0.1"), Some("main@10.0.1.7:8080")),
            (at("224.0.0.1"), Some("main@10.0.1.7:8080")),
            (Announcement { port: 0, ..told.clone() }, None),
            (Announcement { name: "<b>".to_owned(), ..told.clone() }, None),
        ] {
            let found = announcement.seed(source);
            assert_eq!(found.as_ref().map(|seed| seed.address.as_str()), expect, "{announcement:?}");
            assert!(found.is_none_or(|seed| seed.fingerprint.is_none()));
        }
    }

    #[test]
    fn what_is_no_announcement() {
        let told = serde_json::to_string(&Announcement::new("id", "main", 8080)).unwrap();
        assert!(Announcement::parse(told.as_bytes()).is_some());
        let other = told.replace("\"meetpoint\":1", "\"meetpoint\":2");
        for bytes in
            [b"".as_slice(), b"{}", b"[]", b"\xff\xff", other.as_bytes(), br#"{"meetpoint":1,"id":1}"#]
        {
            assert_eq!(Announcement::parse(bytes), None, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
