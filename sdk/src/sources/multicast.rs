//! Servers that announce themselves on the LAN, by datagrams to a multicast group.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use super::announce::{self, Announcement};
use super::{Search, SeedSource, Seeds, SourceError};

/// The usual group, of the range that does not leave a site (RFC 2365), and port.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, 80), 27_480);
/// After so long without any announcement it is said that there are none.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How often the machine's links are looked at, for one that has come up since.
const LINKS_INTERVAL: Duration = Duration::from_secs(5);

/// A multicast group and port of IPv4, `GROUP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MulticastGroup(pub(super) SocketAddrV4);

impl Default for MulticastGroup {
    fn default() -> Self {
        Self(GROUP)
    }
}

/// Why a text is no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected GROUP:PORT with an IPv4 multicast address, as in {GROUP}")]
pub struct ParseGroupError;

impl FromStr for MulticastGroup {
    type Err = ParseGroupError;

    fn from_str(text: &str) -> Result<Self, ParseGroupError> {
        let group: SocketAddrV4 = text.parse().map_err(|_| ParseGroupError)?;
        let is_one = group.ip().is_multicast() && group.port() != 0;
        is_one.then_some(Self(group)).ok_or(ParseGroupError)
    }
}

impl fmt::Display for MulticastGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Servers that announce themselves to a multicast group ([`super::Announcer`]). Listens on interfaces with private
/// addresses only, and sends nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Multicast {
    group: MulticastGroup,
    timeout: Option<Duration>,
}

impl Multicast {
    /// Of this group.
    #[must_use]
    pub fn new(group: MulticastGroup) -> Self {
        Self { group, timeout: None }
    }

    /// How long nothing may be heard until that is said to be so; 15 s if not set. It is listened on all the same.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn listen(self) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Others on this machine listen too.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Bound to the group, the socket gets what was sent to the group and nothing else; not every system can.
        let (ip, port) = if cfg!(unix) {
            (*self.group.0.ip(), self.group.0.port())
        } else {
            (Ipv4Addr::UNSPECIFIED, self.group.0.port())
        };
        socket.bind(&SocketAddr::from((ip, port)).into())?;
        // Else it would also get what other programs joined, on links that are none of ours.
        #[cfg(target_os = "linux")]
        socket.set_multicast_all_v4(false)?;
        UdpSocket::from_std(socket.into())
    }

    async fn hear(self, seeds: &Seeds) -> Result<(), SourceError> {
        let socket = self.listen()?;
        let mut joined = BTreeSet::new();
        let mut look = Instant::now();
        let mut patience = Some(Instant::now() + self.timeout.unwrap_or(TIMEOUT));
        let mut buffer = [0; announce::MAX_LEN];
        loop {
            if look <= Instant::now() {
                join(&socket, *self.group.0.ip(), &mut joined)?;
                look = Instant::now() + LINKS_INTERVAL;
            }
            let received = tokio::select! {
                received = timeout(LINKS_INTERVAL, socket.recv_from(&mut buffer)) => received,
                () = until(patience) => {
                    return Err(SourceError::new(format!("no server announces itself to {}", self.group)));
                }
            };
            let Ok(Ok((len, source))) = received else { continue };
            if let Some(seed) = Announcement::parse(&buffer[..len]).and_then(|told| told.seed(source.ip())) {
                patience = None;
                seeds.tell(seed).await;
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Joins the group on links that have come up.
fn join(socket: &UdpSocket, group: Ipv4Addr, joined: &mut BTreeSet<Ipv4Addr>) -> io::Result<()> {
    let now: BTreeSet<Ipv4Addr> = announce::local_addrs()?.into_iter().collect();
    for ip in now.difference(joined) {
        // A second address of a link that was joined by its first one is an error.
        if let Err(error) = socket.join_multicast_v4(group, *ip) {
            tracing::trace!(%ip, %error, "not joined");
        }
    }
    *joined = now;
    Ok(())
}

impl SeedSource for Multicast {
    fn label(&self) -> String {
        format!("multicast {}", self.group)
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(self.hear(seeds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        for (text, good) in [
            ("239.255.77.80:27480", true),
            ("224.0.0.251:5353", true),
            ("10.0.0.1:1", false),
            ("239.1.1.1", false),
            ("239.1.1.1:0", false),
            ("[ff02::1]:1", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<MulticastGroup>().is_ok(), good, "{text}");
        }
    }
}
