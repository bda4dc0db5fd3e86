//! The one way out: every datagram, every connection and every look-up of a name of a node passes here.
//!
//! A node whose user insists on a PRIVATE cluster is **sealed**: nothing of it goes to an address that is neither
//! private nor loopback, from its first packet on and whatever a server or a peer says. That the agent does not ask
//! for such a thing is its own invariant; this module is what holds if the agent is wrong. What it stops is counted
//! (`SocketStats::blocked`).
//!
//! An address is judged as it stands on the wire. The dresses in which an IPv4 address travels as an IPv6 one (NAT64,
//! 6to4) are addresses of the public internet, whatever they carry.
//!
//! **Names.** A look-up is a packet to a name server. A sealed node therefore finds a name in the machine's hosts file,
//! or by the system's resolver if all name servers of this machine are at private or loopback addresses. For a stub on
//! this machine the servers behind it count as well, as far as systemd tells them. Where the name servers can't be
//! known no name is looked up. Multicast look-ups (`.local`), if the system does them, stay on the link.
//!
//! Deliberately absent: what to send, and to whom.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use meetpoint_proto::{AddressClass, addr};
use socket2::Socket;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};

/// Names that this machine knows by itself.
const HOSTS_FILE: &str = "/etc/hosts";
/// Whom the system's resolver asks: in the first file; and if that is a stub of systemd, whom the stub asks.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Why a sealed node does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Blocked {
    /// The destination is not private.
    #[error("{0} is not a private address, and this node insists on a PRIVATE cluster")]
    Address(SocketAddr),
    /// A router's port would lead into the node from the outside.
    #[error("no router is asked for a port: this node insists on a PRIVATE cluster")]
    PortMapping,
    /// A name server is not private.
    #[error(
        "this machine asks the name server {0}, which is not at a private address, and this node insists on a PRIVATE \
         cluster: give the server's address, or put its name into {HOSTS_FILE}"
    )]
    NameServer(IpAddr),
    /// It is not known whom a look-up would ask.
    #[error(
        "it is not known which name servers this machine asks, and this node insists on a PRIVATE cluster: give the \
         server's address, or put its name into {HOSTS_FILE}"
    )]
    UnknownNameServers,
}

impl From<Blocked> for io::Error {
    fn from(blocked: Blocked) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, blocked)
    }
}

/// Why a name has no address to go to.
#[derive(Debug, Error)]
pub(crate) enum ResolveError {
    /// The gate is closed for it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// There is none.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The gate. All parts of a node share one.
#[derive(Debug, Default)]
pub(crate) struct Egress {
    sealed: bool,
    blocked: AtomicU64,
}

impl Egress {
    /// A sealed gate lets through what stays private; any other lets all through.
    pub(crate) fn new(sealed: bool) -> Self {
        Self { sealed, blocked: AtomicU64::new(0) }
    }

    /// Sends, connections and look-ups that were stopped so far.
    pub(crate) fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Counts one that is stopped.
    ///
    /// # Errors
    /// [`Blocked`] if nothing may go there.
    pub(crate) fn check(&self, to: SocketAddr) -> Result<(), Blocked> {
        if !self.sealed || stays_private(to.ip()) {
            return Ok(());
        }
        Err(self.block(Blocked::Address(to)))
    }

    /// Counts one that is stopped. Asked before a router is asked for a port, by whatever sockets that is done.
    ///
    /// # Errors
    /// [`Blocked`] if none may be.
    #[cfg_attr(not(feature = "portmap"), allow(dead_code, reason = "no router is asked without it"))]
    pub(crate) fn check_port_mapping(&self) -> Result<(), Blocked> {
        if self.sealed { Err(self.block(Blocked::PortMapping)) } else { Ok(()) }
    }

    fn block(&self, what: Blocked) -> Blocked {
        if self.blocked.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(%what, "stopped; more of the same are only counted");
        }
        what
    }

    /// Sends one datagram without waiting.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` with [`Blocked`] inside if nothing may go there.
    #[allow(clippy::disallowed_methods, reason = "this is the gate")]
    pub(crate) fn send_to(&self, socket: &Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.check(to)?;
        // Past the runtime, which knows of no readiness before its first turn: a node's very first
        // datagram would be lost to that.
        socket.send_to(bytes, &to.into()).map(|_| ())
    }

    /// The same, with a time to live of this datagram's own: an option of the socket would race with QUIC's.
    ///
    /// # Errors
    /// As [`Egress::send_to`]; `Unsupported`, and nothing is sent, where the system has no such thing.
    pub(crate) fn send_with_ttl(
        &self,
        socket: &Socket,
        to: SocketAddr,
        bytes: &[u8],
        ttl: Option<u8>,
    ) -> io::Result<()> {
        let Some(ttl) = ttl else { return self.send_to(socket, to, bytes) };
        self.check(to)?;
        send_with_ttl(socket, to, bytes, ttl)
    }

    /// Connects by TCP.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` with [`Blocked`] inside if nothing may go there.
    #[allow(clippy::disallowed_methods, reason = "this is the gate")]
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.check(to)?;
        TcpStream::connect(to).await
    }

    /// The addresses of a host, without those that nothing may go to.
    ///
    /// # Errors
    /// [`ResolveError`] if there are none.
    #[allow(clippy::disallowed_methods, reason = "this is the gate")]
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.passing(&[SocketAddr::new(ip, port)]);
        }
        if self.sealed {
            let known = in_hosts_file(&read(HOSTS_FILE).unwrap_or_default(), host);
            if !known.is_empty() {
                let known: Vec<_> = known.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
                return self.passing(&known);
            }
            self.check_look_up()?;
        }
        let found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
        self.passing(&found)
    }

    fn passing(&self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, ResolveError> {
        let mut blocked = None;
        let mut passes = |to: &SocketAddr| match self.check(*to) {
            Ok(()) => true,
            Err(why) => {
                blocked = Some(why);
                false
            }
        };
        let passing: Vec<SocketAddr> = found.iter().copied().filter(|to| passes(to)).collect();
        match blocked {
            _ if !passing.is_empty() => Ok(passing),
            Some(why) => Err(why.into()),
            None => Err(io::Error::from(io::ErrorKind::NotFound).into()),
        }
    }

    /// Whether this machine's resolver may be asked: each time anew, for the machine may have moved networks.
    ///
    /// # Errors
    /// [`Blocked`] if a look-up would leave the private network, as far as that is known.
    pub(crate) fn check_look_up(&self) -> Result<(), Blocked> {
        if !self.sealed {
            return Ok(());
        }
        // Elsewhere the file may be there without being what the resolver goes by.
        let files = if cfg!(target_os = "linux") { RESOLVER_FILES.map(read) } else { [None, None] };
        judge(&files).map_err(|what| self.block(what))
    }
}

#[cfg(target_os = "linux")]
fn send_with_ttl(socket: &Socket, to: SocketAddr, bytes: &[u8], ttl: u8) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
    use std::os::fd::AsRawFd;

    let (fd, parts, ttl) = (socket.as_raw_fd(), [io::IoSlice::new(bytes)], i32::from(ttl));
    let sent = match to {
        SocketAddr::V4(to) => {
            let control = [ControlMessage::Ipv4Ttl(&ttl)];
            sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)))
        }
        SocketAddr::V6(to) => {
            let control = [ControlMessage::Ipv6HopLimit(&ttl)];
            sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&SockaddrIn6::from(to)))
        }
    };
    sent.map(|_| ()).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn send_with_ttl(_: &Socket, _: SocketAddr, _: &[u8], _: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A short file of the system; `None` if there is none to be read.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn stays_private(ip: IpAddr) -> bool {
    let on_the_wire = ip.to_canonical();
    let is_translated = addr::canonical(on_the_wire) != on_the_wire;
    let class = addr::classify(on_the_wire);
    !is_translated && matches!(class, AddressClass::Loopback | AddressClass::Private)
}

/// Of the files that name the name servers: the system's own, and that of a stub's upstream.
fn judge(files: &[Option<String>; 2]) -> Result<(), Blocked> {
    let [Some(system), upstream] = files else { return Err(Blocked::UnknownNameServers) };
    let upstream = upstream.as_deref().unwrap_or_default();
    for line in system.lines().chain(upstream.lines()) {
        let Some(server) = name_server(line) else { continue };
        let server = server.map_err(|()| Blocked::UnknownNameServers)?;
        if !stays_private(server) {
            return Err(Blocked::NameServer(server));
        }
    }
    Ok(())
}

/// The address in a line `nameserver ADDRESS`; `None` for a line that says something else.
fn name_server(line: &str) -> Option<Result<IpAddr, ()>> {
    let mut words = line.split_whitespace();
    words.next().filter(|word| *word == "nameserver")?;
    let address = words.next().unwrap_or_default();
    // A link-local server is written with its interface.
    let address = address.split_once('%').map_or(address, |(address, _interface)| address);
    Some(address.parse().map_err(|_| ()))
}

/// What a hosts file says of a name; RFC 6761, section 6.3, says what `localhost` is.
fn in_hosts_file(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split_once('#').map_or(line, |(line, _comment)| line);
        let mut words = line.split_whitespace();
        let Some(ip) = words.next().and_then(|ip| ip.parse().ok()) else { continue };
        if words.any(|known| known.eq_ignore_ascii_case(name)) {
            found.push(ip);
        }
    }
    if found.is_empty() && name.eq_ignore_ascii_case("localhost") {
        found.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_private() {
        let sealed = Egress::new(true);
        let cases = [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("100.64.0.1", true),
            ("169.254.1.1", true),
            ("::ffff:10.0.0.1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::1", true),
            ("20.0.0.1", false),
            ("::ffff:20.0.0.1", false),
            ("2606:4700::1111", false),
            // Private inside, public outside.
            ("64:ff9b::a00:1", false),
            ("2002:a00:1::1", false),
            ("::10.0.0.1", false),
            // Nobody's address.
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.251", false),
            ("192.0.2.1", false),
        ];
        let mut blocked = 0;
        for (ip, passes) in cases {
            let to = SocketAddr::new(ip.parse().unwrap(), 9);
            assert_eq!(sealed.check(to).is_ok(), passes, "{ip}");
            blocked += u64::from(!passes);
            assert_eq!(sealed.blocked(), blocked, "{ip}");
            assert_eq!(Egress::new(false).check(to), Ok(()), "{ip}");
        }
    }

    #[test]
    fn whom_a_look_up_would_ask() {
        let public = |ip: &str| Err(Blocked::NameServer(ip.parse().unwrap()));
        let unknown = Err(Blocked::UnknownNameServers);
        for (system, upstream, expect) in [
            (Some("nameserver 10.0.0.1\nsearch lan"), None, Ok(())),
            (Some("# nameserver 8.8.8.8\noptions edns0"), None, Ok(())),
            (Some("nameserver 10.0.0.1\n nameserver\t8.8.8.8 # dns"), None, public("8.8.8.8")),
            (Some("nameserver 2001:4860:4860::8888"), None, public("2001:4860:4860::8888")),
            (Some("nameserver fe80::1%eth0"), None, Ok(())),
            (Some("nameserver what"), None, unknown),
            (Some("nameserver"), None, unknown),
            // The stub is on this machine, but whom does it ask?
            (Some("nameserver 127.0.0.53"), Some("nameserver 1.1.1.1"), public("1.1.1.1")),
            (Some("nameserver 127.0.0.53"), Some("nameserver 192.168.1.1"), Ok(())),
            (None, None, unknown),
            (None, Some("nameserver 10.0.0.1"), unknown),
        ] {
            let files = [system.map(str::to_owned), upstream.map(str::to_owned)];
            assert_eq!(judge(&files), expect, "{files:?}");
        }
    }

    #[test]
    fn the_hosts_file() {
        let text = "127.0.0.1 localhost\n10.0.0.5\tseed.lan Seed # not 10.0.0.6 other\n\nfd00::5 seed.lan\nbad seed.lan";
        for (name, expect) in [
            ("seed.lan", "10.0.0.5 fd00::5"),
            ("SEED.lan.", "10.0.0.5 fd00::5"),
            ("seed", "10.0.0.5"),
            ("other", ""),
            ("localhost", "127.0.0.1"),
        ] {
            let found: Vec<_> = in_hosts_file(text, name).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expect, "{name}");
        }
        assert_eq!(in_hosts_file("", "localhost").len(), 2);
    }

    #[tokio::test]
    async fn a_sealed_gate_stops_each_way_out() {
        let sealed = Egress::new(true);
        let public: SocketAddr = "20.0.0.1:9".parse().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = sealed.send_to(&socket2::SockRef::from(&socket), public, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(sealed.connect(public).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let error = sealed.resolve("20.0.0.1", 9).await.unwrap_err();
        assert!(matches!(error, ResolveError::Blocked(Blocked::Address(to)) if to == public), "{error}");
        assert_eq!(sealed.check_port_mapping(), Err(Blocked::PortMapping));
        assert_eq!(Egress::new(false).check_port_mapping(), Ok(()));
        assert_eq!(sealed.blocked(), 4);

        let own = socket.local_addr().unwrap();
        sealed.send_to(&socket2::SockRef::from(&socket), own, b"x").unwrap();
        assert!(!sealed.resolve("localhost", 9).await.unwrap().is_empty());
        // What stays is used, whatever else a name stands for.
        let passing = sealed.passing(&[public, own]).unwrap();
        assert_eq!(passing, [own]);
        assert_eq!(sealed.blocked(), 5);
    }

    /// What is to die on the way arrives where there is no way, and passes the gate like all else.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_datagram_with_a_short_life() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = socket2::SockRef::from(&sender);
        let sealed = Egress::new(true);
        sealed.send_with_ttl(&sender, receiver.local_addr().unwrap(), b"opener", Some(2)).unwrap();
        let mut bytes = [0; 16];
        let (len, _) = receiver.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"opener");
        let error = sealed.send_with_ttl(&sender, "20.0.0.1:9".parse().unwrap(), b"x", Some(2)).unwrap_err();
        assert_eq!((error.kind(), sealed.blocked()), (io::ErrorKind::PermissionDenied, 1));
    }
}
