//! The relay's sockets: one for each relayed address, opened and closed as the machine orders.
//!
//! Each open socket has one waiter in a set, so that a packet at one of thousands of sockets costs
//! the same as at one of two.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use meetpoint_proto::{AddressClass, addr};
use meetpoint_turn::{RelayConfig, RelayId, RelayIp};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::RelaySettings;
use crate::listen::{as_seen, bind_relay, machine_ips};

/// A relay socket, and what ends the wait for it.
struct RelaySocket {
    socket: Arc<UdpSocket>,
    closed: CancellationToken,
}

/// All open relay sockets.
#[derive(Default)]
pub(super) struct RelaySockets {
    open: HashMap<RelayId, RelaySocket>,
    /// Each ends with the id of a socket that may be read, or with nothing when it is closed.
    waiting: FuturesUnordered<BoxFuture<'static, Option<RelayId>>>,
}

impl RelaySockets {
    /// Opens a socket. It may fail because somebody else has the port.
    pub(super) fn open(&mut self, id: RelayId, bind: SocketAddr) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::from_std(bind_relay(bind)?)?);
        self.open.insert(id, RelaySocket { socket, closed: CancellationToken::new() });
        self.wait(id);
        Ok(())
    }

    pub(super) fn close(&mut self, id: RelayId) {
        if let Some(relay) = self.open.remove(&id) {
            relay.closed.cancel();
        }
    }

    pub(super) fn get(&self, id: RelayId) -> Option<&Arc<UdpSocket>> {
        self.open.get(&id).map(|relay| &relay.socket)
    }

    /// Waits for this socket from now on.
    pub(super) fn wait(&mut self, id: RelayId) {
        let Some(relay) = self.open.get(&id) else { return };
        let (socket, closed) = (Arc::clone(&relay.socket), relay.closed.clone());
        self.waiting.push(Box::pin(async move {
            tokio::select! {
                () = closed.cancelled() => None,
                // An error shows when the socket is read.
                _ = socket.readable() => Some(id),
            }
        }));
    }

    /// A socket that may be read. To be waited for again by [`Self::wait`].
    pub(super) async fn readable(&mut self) -> RelayId {
        loop {
            match self.waiting.next().await {
                Some(Some(id)) => return id,
                Some(None) => {}
                // There is no socket.
                None => std::future::pending().await,
            }
        }
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
        dont_fragment: false,
    }
}
