//! What the operator is told at the start, and how it is found out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{AddressClass, ClusterNetwork, EffectiveNetwork, JoinToken, SeedName, addr};
use meetpoint_turn::ListenerRole;

use crate::config::{Secret, ServeConfig};
use crate::http::status::StunPorts;
use crate::listen::{Sockets, listening_ips, machine_ips};
use crate::seeds::Verdict;
use crate::warning::Warning;

/// What the operator is told at the start. Secrets are in here: show them on a terminal only.
#[derive(Debug, Clone)]
pub struct Info {
    /// The bound control and REST address.
    pub http: SocketAddr,
    /// The addresses under which this machine answers there, the most public first.
    pub http_ips: Vec<IpAddr>,
    /// By which URL nodes best reach it.
    pub url: String,
    /// The STUN servers, as nodes are told.
    pub stun: Vec<StunServer>,
    /// The bound address of the listener for metrics, if there is one.
    pub metrics: Option<SocketAddr>,
    /// Where STUN and TURN are answered over TCP.
    pub stun_tcp: Vec<SocketAddr>,
    /// Where they are answered over TLS.
    pub stun_tls: Vec<SocketAddr>,
    /// What the cluster amounts to.
    pub effective: EffectiveNetwork,
    /// The cluster's type.
    pub kind: ClusterNetwork,
    /// The TLS identity.
    pub fingerprint: Fingerprint,
    /// The token nodes join with. `None` if it is revoked.
    pub join_token: Option<JoinToken>,
    /// The admin token, if this start has made it.
    pub new_admin_token: Option<Secret>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

pub(super) fn warnings(
    config: &ServeConfig,
    sockets: &Sockets,
    (verdict, effective, returned): (&Verdict, EffectiveNetwork, Vec<SeedName>),
    token_usable: bool,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    warnings.extend(sockets.streams.missing.iter().cloned());
    let is_public = effective == EffectiveNetwork::Public;
    if !is_public {
        warnings.push(Warning::PrivateOnly { no_seed: config.seeds.is_empty() });
    }
    if config.open_join {
        warnings.push(Warning::OpenJoin);
    }
    warnings.extend(verdict.unresolved.iter().cloned().map(Warning::UnresolvedSeed));
    warnings.extend(returned.into_iter().map(Warning::SeedReturned));
    if verdict.own.is_none() {
        warnings.push(Warning::NotASeed);
    }
    if !token_usable && !config.open_join {
        warnings.push(Warning::JoinTokenRevoked);
    }
    let has_alternate = sockets.stun.iter().any(|socket| socket.role == ListenerRole::AlternateMain);
    if is_public && !has_alternate {
        warnings.push(Warning::NoAlternateStun);
    }
    warnings
}

/// The addresses under which this machine answers, the most public first.
pub(super) fn reachable_ips(sockets: &Sockets) -> Vec<IpAddr> {
    let mut ips = listening_ips(sockets.http_addr, &machine_ips());
    ips.sort_by_key(|ip| match addr::classify(*ip) {
        AddressClass::Public => 0,
        // A link-local IPv6 address is of no use without its zone.
        AddressClass::Private => 1 + u8::from(ip.is_ipv6()),
        AddressClass::Loopback | AddressClass::Special => 3,
    });
    ips
}

/// By which URL nodes best reach the server: its own seed, its external address, or the most public
/// of its addresses.
pub(super) fn url(config: &ServeConfig, sockets: &Sockets, verdict: &Verdict) -> String {
    let own = config.seeds.iter().find(|seed| Some(&seed.name) == verdict.own.as_ref());
    if let Some(seed) = own {
        return format!("https://{}:{}", seed.host, seed.port);
    }
    let ip = config.external_ip.or_else(|| reachable_ips(sockets).first().copied());
    let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    format!("https://{}", SocketAddr::new(ip, sockets.http_addr.port()))
}

/// The primary STUN socket as the server itself reaches it.
pub(super) fn probe_address(sockets: &Sockets) -> SocketAddr {
    let primary = sockets.stun.iter().find(|socket| socket.role == ListenerRole::PrimaryMain);
    let addr = primary.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), |socket| socket.addr);
    match addr.ip() {
        ip if !ip.is_unspecified() => addr,
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port())),
    }
}

/// On which ports STUN is answered; the first of each kind.
pub(super) fn stun_ports(info: &Info) -> StunPorts {
    let first = |addrs: &[SocketAddr]| addrs.first().map(SocketAddr::port);
    let udp = info.stun.first().map_or(0, |stun| stun.primary.port());
    StunPorts { udp, tcp: first(&info.stun_tcp), tls: first(&info.stun_tls) }
}
