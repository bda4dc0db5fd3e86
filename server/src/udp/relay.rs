//! The relay's sockets: one for each relayed address, opened and closed as the machine orders.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use meetpoint_proto::{AddressClass, addr};
use meetpoint_turn::{RelayConfig, RelayId, RelayIp};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use tracing::debug;

use crate::config::RelaySettings;
use crate::listen::{as_seen, machine_ips};

/// A relay socket.
pub(super) struct RelaySocket {
    id: RelayId,
    socket: UdpSocket,
    is_ipv6: bool,
    /// How the socket is set now. Linux knows it for a socket and not for a datagram.
    dont_fragment: bool,
}

impl RelaySocket {
    pub(super) const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Has the kernel keep what the network says of datagrams sent (RFC 8656, section 11.5).
    fn ask_for_errors(&self) {
        let set = if self.is_ipv6 {
            setsockopt(&self.socket, Ipv6RecvErr, &true)
        } else {
            setsockopt(&self.socket, Ipv4RecvErr, &true)
        };
        if let Err(error) = set {
            debug!(%error, "a relay socket does not report errors");
        }
    }

    /// Sets whether datagrams may be fragmented on their way (RFC 8656, sections 12 and 15).
    fn set_dont_fragment(&mut self, dont_fragment: bool) {
        if self.dont_fragment == dont_fragment {
            return;
        }
        let set = if self.is_ipv6 {
            let mode = if dont_fragment { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT };
            sockopt::set_ipv6_mtu_discover(&self.socket, mode)
        } else {
            let mode = if dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
            sockopt::set_ip_mtu_discover(&self.socket, mode)
        };
        match set {
            Ok(()) => self.dont_fragment = dont_fragment,
            Err(error) => debug!(%error, "a relay socket does not take how to fragment"),
        }
    }
}

impl AsFd for RelaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All open relay sockets of a shard, each at its id's index.
#[derive(Default)]
pub(super) struct RelaySockets(Vec<Option<RelaySocket>>);

impl RelaySockets {
    /// Keeps a socket under this id.
    pub(super) fn insert(&mut self, id: RelayId, socket: UdpSocket) {
        let is_ipv6 = socket.local_addr().is_ok_and(|addr| addr.is_ipv6());
        // Linux begins with path MTU discovery, which would set DF on small datagrams only.
        let mut relay = RelaySocket { id, socket, is_ipv6, dont_fragment: true };
        relay.set_dont_fragment(false);
        relay.ask_for_errors();
        let index = id.index();
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(relay);
    }

    pub(super) fn take(&mut self, id: RelayId) -> Option<UdpSocket> {
        let place = self.0.get_mut(id.index())?;
        let relay = place.take_if(|relay| relay.id == id)?;
        Some(relay.socket)
    }

    pub(super) fn at(&self, index: usize) -> Option<(RelayId, &RelaySocket)> {
        let relay = self.0.get(index)?.as_ref()?;
        Some((relay.id, relay))
    }

    /// The socket, set to send so.
    pub(super) fn ready_to_send(&mut self, index: u32, dont_fragment: bool) -> Option<RawFd> {
        let relay = self.0.get_mut(index as usize)?.as_mut()?;
        relay.set_dont_fragment(dont_fragment);
        Some(relay.socket.as_raw_fd())
    }
}

/// What the machine has to know about relaying on this machine.
pub(crate) fn relay_config(
    settings: &RelaySettings,
    external: Option<IpAddr>,
    http: SocketAddr,
) -> RelayConfig {
    let relay_ip = |is_ipv4: bool| {
        let bind = *settings.ips.iter().find(|ip| ip.is_ipv4() == is_ipv4)?;
        let seen = as_seen(SocketAddr::new(bind, 0), external).ip();
        if addr::classify(seen) != AddressClass::Public {
            debug!(%seen, "relayed addresses are not public");
        }
        Some(RelayIp { bind, seen })
    };
    RelayConfig {
        ipv4: relay_ip(true),
        ipv6: relay_ip(false),
        ports: Some(settings.ports.first..=settings.ports.last),
        own_ips: machine_ips().into_iter().chain(external).collect(),
        own_listeners: vec![http],
        allow: settings.allow.clone(),
        deny: settings.deny.clone(),
        dont_fragment: true,
    }
}
