//! Who may be a peer.
//!
//! A relay is a hole in every filter that trusts the server's address, so the rules deny by
//! default: whatever is not globally routable, and this machine itself. They look at an address
//! after [`addr::canonical`], since each bypass in this field was a denied address in another form.

use std::net::{IpAddr, SocketAddr};

use meetpoint_proto::addr::{self, AddressClass};

use crate::behaviour::Listeners;
use crate::defence::{Defence, Defences};
use crate::relay::{Cidr, Family, RelayConfig, RelayIp};

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Somebody outside.
    Outside,
    /// Another client's relayed address, if it is one: only what is inside may be sent there.
    Inside,
    /// Nobody a client may send to.
    Forbidden,
}

/// The rules.
#[derive(Clone)]
pub(crate) struct PeerRules {
    relays: [Option<RelayIp>; 2],
    first_port: u16,
    last_port: u16,
    own_ips: Vec<IpAddr>,
    own_listeners: Vec<SocketAddr>,
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
}

impl PeerRules {
    pub(crate) fn new(config: &RelayConfig, ports: (u16, u16), listeners: &Listeners) -> Self {
        let relays = [config.ipv4, config.ipv6];
        let listening = listeners.iter().map(|listener| listener.addr);
        let own_listeners: Vec<_> = listening.chain(config.own_listeners.iter().copied()).collect();
        let relay_ips = relays.iter().flatten().flat_map(|ip| [ip.bind, ip.seen]);
        let listener_ips = own_listeners.iter().map(SocketAddr::ip);
        let mut own_ips: Vec<_> = relay_ips
            .chain(listener_ips)
            .chain(config.own_ips.iter().copied())
            .map(addr::canonical)
            .collect();
        own_ips.sort_unstable();
        own_ips.dedup();
        Self {
            relays,
            first_port: ports.0,
            last_port: ports.1,
            own_ips,
            own_listeners,
            allow: config.allow.clone(),
            deny: config.deny.clone(),
        }
    }

    /// Takes other lists.
    pub(crate) fn set_lists(&mut self, allow: Vec<Cidr>, deny: Vec<Cidr>) {
        (self.allow, self.deny) = (allow, deny);
    }

    /// What a permission for this peer is for: his address, or, at this server's own, the one
    /// relayed address.
    #[inline]
    pub(crate) fn permission(&self, peer: SocketAddr) -> SocketAddr {
        let port = if self.is_relay_ip(peer.ip()) { peer.port() } else { 0 };
        SocketAddr::new(peer.ip(), port)
    }

    /// True if this may be another client's relayed address.
    #[inline]
    pub(crate) fn is_inside(&self, peer: SocketAddr) -> bool {
        self.is_relay_ip(peer.ip()) && (self.first_port..=self.last_port).contains(&peer.port())
    }

    /// True for the addresses of this machine, in any form.
    pub(crate) fn is_here(&self, ip: IpAddr) -> bool {
        let ip = addr::canonical(ip);
        ip.is_loopback() || self.own_ips.binary_search(&ip).is_ok()
    }

    /// True if the address is, as it stands, one that relayed addresses have, outside or inside
    /// of a 1:1 NAT. Under the inner one nobody is found, which keeps packets from taking the way
    /// through the kernel back to a relay socket.
    #[inline]
    fn is_relay_ip(&self, ip: IpAddr) -> bool {
        let relay = self.relays[Family::of(ip).index()];
        relay.is_some_and(|relay| relay.seen == ip || (relay.bind == ip && !ip.is_unspecified()))
    }

    /// Judges a peer.
    pub(crate) fn judge(&self, peer: SocketAddr, defences: Defences) -> Peer {
        let ip = if defences.stand(Defence::Canonical) { addr::canonical(peer.ip()) } else { peer.ip() };
        if self.deny.iter().any(|block| block.contains(ip)) {
            return Peer::Forbidden;
        }
        let is_own = self.own_ips.binary_search(&ip).is_ok();
        if defences.stand(Defence::OwnPorts) && self.is_own_listener(ip, peer.port(), is_own) {
            return Peer::Forbidden;
        }
        // Compared as it stands: in another form it would leave the machine and come back.
        if self.is_inside(peer) {
            return Peer::Inside;
        }
        if self.allow.iter().any(|block| block.contains(ip)) {
            return Peer::Outside;
        }
        if is_own && defences.stand(Defence::OwnPorts) {
            return Peer::Forbidden;
        }
        let is_special = match self.class(ip, defences) {
            AddressClass::Public => false,
            AddressClass::Loopback | AddressClass::Private | AddressClass::Special => true,
        };
        if is_special && defences.stand(Defence::PeerRules) { Peer::Forbidden } else { Peer::Outside }
    }

    fn class(&self, ip: IpAddr, defences: Defences) -> AddressClass {
        // `classify` canonicalises by itself; to show what that prevents, other forms pass here.
        if addr::canonical(ip) != ip && !defences.stand(Defence::Canonical) {
            return AddressClass::Public;
        }
        addr::classify(ip)
    }

    /// The ports that are no relayed addresses because something of this server listens there.
    pub(crate) fn listening_ports(&self) -> impl Iterator<Item = u16> {
        self.own_listeners.iter().map(SocketAddr::port)
    }

    /// A listener on no particular address is at each of this machine's.
    fn is_own_listener(&self, ip: IpAddr, port: u16, is_own: bool) -> bool {
        let is_here = is_own || ip.is_loopback();
        self.own_listeners.iter().any(|listener| {
            let listening = addr::canonical(listener.ip());
            listener.port() == port && (listening == ip || (listening.is_unspecified() && is_here))
        })
    }
}
