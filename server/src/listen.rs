//! Binds the sockets, before anything is stored: a bad address must not leave a data directory.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;

use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{AddressClass, addr};
use meetpoint_turn::ListenerRole;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{ConfigError, ServeConfig};
use crate::stream::StreamSockets;

/// Connections that wait for accept; the kernel caps it at its own bound.
const BACKLOG: i32 = 1024;
/// Rounds to find free ports that suit several sockets at once.
const PORT_ATTEMPTS: usize = 16;
/// A burst of Bindings from many nodes waits in the kernel instead of being lost.
const STUN_BUFFER_BYTES: usize = 1 << 20;

/// The bound sockets.
pub(crate) struct Sockets {
    pub(crate) http: TcpListener,
    pub(crate) http_addr: SocketAddr,
    pub(crate) metrics: Option<TcpListener>,
    pub(crate) stun: Vec<StunSocket>,
    pub(crate) streams: StreamSockets,
}

/// A STUN listener and its place.
pub(crate) struct StunSocket {
    /// One for each shard, all bound to the same address.
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) role: ListenerRole,
    /// The bound address.
    pub(crate) addr: SocketAddr,
}

impl Sockets {
    pub(crate) fn bind(config: &ServeConfig) -> Result<Self, ConfigError> {
        let wrong = |source| ConfigError::Bind { flag: "--http", addr: config.http, source };
        let http = bind_http(config.http).map_err(wrong)?;
        let http_addr = http.local_addr().map_err(wrong)?;
        let metrics = config.metrics.map(|addr| {
            bind_http(addr).map_err(|source| ConfigError::Bind { flag: "--metrics", addr, source })
        });
        let metrics = metrics.transpose()?;
        let mut stun = Vec::new();
        for family in config.stun.chunk_by(|a, b| a.is_ipv4() == b.is_ipv4()) {
            stun.extend(bind_family(family, config.stun_alt_port, config.stun_threads)?);
        }
        for &ip in config.relay.iter().flat_map(|relay| &relay.ips) {
            // Shows now that the address is this machine's; allocations open their own.
            let addr = SocketAddr::new(ip, 0);
            UdpSocket::bind(addr).map_err(|source| ConfigError::Bind { flag: "--relay-ip", addr, source })?;
        }
        let streams = StreamSockets::bind(&config.stun_tcp, &config.stun_tls)?;
        Ok(Self { http, http_addr, metrics, stun, streams })
    }

    /// The STUN servers as nodes are told about them: one entry a family.
    pub(crate) fn stun_servers(&self, external: Option<IpAddr>) -> Vec<StunServer> {
        let place = |role: ListenerRole, ipv4: bool| {
            let mut sockets = self.stun.iter();
            sockets.find(move |socket| socket.role == role && socket.addr.is_ipv4() == ipv4)
        };
        let server = |ipv4| {
            let primary = place(ListenerRole::PrimaryMain, ipv4)?.addr;
            Some(StunServer {
                primary: as_seen(primary, external),
                alternate: place(ListenerRole::AlternateMain, ipv4).map(|socket| socket.addr.ip()),
                alternate_port: place(ListenerRole::PrimaryAlt, ipv4).map(|socket| socket.addr.port()),
            })
        };
        [server(true), server(false)].into_iter().flatten().collect()
    }
}

/// A bound address as the world sees it: behind a 1:1 NAT that is the external one. An unspecified
/// address stays; nodes then use the address by which they reached the control channel.
pub(crate) fn as_seen(bound: SocketAddr, external: Option<IpAddr>) -> SocketAddr {
    match external {
        Some(ip) if ip.is_ipv4() == bound.is_ipv4() && addr::classify(bound.ip()) != AddressClass::Public => {
            SocketAddr::new(ip, bound.port())
        }
        _ => bound,
    }
}

/// The addresses of this machine that a listener answers on.
pub(crate) fn listening_ips(listener: SocketAddr, machine: &[IpAddr]) -> Vec<IpAddr> {
    match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => machine.iter().copied().filter(IpAddr::is_ipv4).collect(),
        // Linux's default: an unspecified IPv6 TCP listener takes IPv4 too.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => machine.to_vec(),
        ip => vec![ip],
    }
}

/// The addresses of this machine. Empty if the system does not tell.
pub(crate) fn machine_ips() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().map(if_addrs::Interface::ip).collect()
}

fn bind_http(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds one family's two addresses by two ports.
fn bind_family(
    addrs: &[SocketAddr],
    alt_port: u16,
    shards: NonZeroU8,
) -> Result<Vec<StunSocket>, ConfigError> {
    let any_free_port = alt_port == 0 || addrs.iter().any(|addr| addr.port() == 0);
    let mut attempt = 1;
    loop {
        match try_bind_family(addrs, alt_port, shards) {
            // The kernel picks a port that is free on the first address; the second may have it in use.
            Err((_, error))
                if any_free_port && attempt < PORT_ATTEMPTS && error.kind() == io::ErrorKind::AddrInUse =>
            {
                attempt += 1;
            }
            Err((addr, source)) => return Err(ConfigError::Bind { flag: "--stun", addr, source }),
            Ok(sockets) => return Ok(sockets),
        }
    }
}

fn try_bind_family(
    addrs: &[SocketAddr],
    alt_port: u16,
    shards: NonZeroU8,
) -> Result<Vec<StunSocket>, (SocketAddr, io::Error)> {
    use ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};
    let mut sockets: Vec<StunSocket> = Vec::with_capacity(4);
    let roles = [(PrimaryMain, PrimaryAlt), (AlternateMain, AlternateAlt)];
    let (mut main_port, mut second_port) = (addrs.first().map_or(0, SocketAddr::port), alt_port);
    for (addr, (main, second)) in addrs.iter().zip(roles) {
        let bound = bind_stun(SocketAddr::new(addr.ip(), main_port), main, shards)?;
        main_port = bound.addr.port();
        sockets.push(bound);
        let bound = bind_stun(SocketAddr::new(addr.ip(), second_port), second, shards)?;
        second_port = bound.addr.port();
        sockets.push(bound);
    }
    Ok(sockets)
}

fn bind_stun(
    addr: SocketAddr,
    role: ListenerRole,
    shards: NonZeroU8,
) -> Result<StunSocket, (SocketAddr, io::Error)> {
    let bind = || -> io::Result<(Vec<UdpSocket>, SocketAddr)> {
        // The first one is bound alone, which fails if anybody else has the port. Only then it is
        // opened to the others, among which the kernel deals the clients.
        let first = stun_socket(addr)?;
        first.bind(&addr.into())?;
        let mut sockets = vec![UdpSocket::from(first)];
        let bound = sockets[0].local_addr()?;
        if shards.get() > 1 {
            SockRef::from(&sockets[0]).set_reuse_port(true)?;
        }
        for _ in 1..shards.get() {
            let next = stun_socket(bound)?;
            next.set_reuse_port(true)?;
            next.bind(&bound.into())?;
            sockets.push(next.into());
        }
        Ok((sockets, bound))
    };
    match bind() {
        Ok((sockets, bound)) => Ok(StunSocket { sockets, role, addr: bound }),
        Err(error) => Err((addr, error)),
    }
}

fn stun_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // Each family has its own sockets; a dual-stack one would take the other's port.
        socket.set_only_v6(true)?;
    }
    // The kernel may grant less; that costs bursts, nothing else.
    let _ = socket.set_recv_buffer_size(STUN_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(STUN_BUFFER_BYTES);
    Ok(socket)
}

/// Opens a relay socket on exactly this address.
pub(crate) fn bind_relay(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_table() {
        let check = |bound: &str, external: Option<&str>, expect: &str| {
            let external = external.map(|text| text.parse().unwrap());
            assert_eq!(as_seen(bound.parse().unwrap(), external), expect.parse().unwrap(), "{bound}");
        };
        check("0.0.0.0:3478", None, "0.0.0.0:3478");
        check("0.0.0.0:3478", Some("20.0.0.1"), "20.0.0.1:3478");
        check("10.0.0.5:3478", Some("20.0.0.1"), "20.0.0.1:3478");
        check("20.0.0.9:3478", Some("20.0.0.1"), "20.0.0.9:3478");
        check("[::]:3478", Some("20.0.0.1"), "[::]:3478");
        check("[::]:3478", Some("2a00::1"), "[2a00::1]:3478");
    }

    #[test]
    fn two_addresses_get_a_square_of_free_ports() {
        let addrs = ["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
        let sockets = bind_family(&addrs, 0, NonZeroU8::MIN).unwrap();
        let ports: Vec<u16> = sockets.iter().map(|socket| socket.addr.port()).collect();
        assert_eq!(sockets.len(), 4);
        assert_eq!((ports[0], ports[1]), (ports[2], ports[3]));
        assert_ne!(ports[0], ports[1]);
    }
}
