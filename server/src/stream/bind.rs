//! Takes the TCP sockets, before anything is stored.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::StreamKind;
use crate::config::{ConfigError, StreamAddrs};
use crate::warning::Warning;

/// Connections that wait for accept; the kernel caps it at its own bound.
const BACKLOG: i32 = 1024;

/// A bound socket.
pub(crate) struct StreamSocket {
    pub(crate) socket: TcpListener,
    pub(crate) kind: StreamKind,
    /// The bound address.
    pub(crate) addr: SocketAddr,
}

/// The bound sockets, and those that could not be bound.
#[derive(Default)]
pub(crate) struct StreamSockets {
    pub(crate) bound: Vec<StreamSocket>,
    pub(crate) missing: Vec<Warning>,
}

impl StreamSockets {
    /// Binds what the operator named, or fails. Addresses that nobody named may be missing: another
    /// program that has port 5349 must not keep a rendezvous server from starting whose operator
    /// has never heard of it.
    pub(crate) fn bind(tcp: &StreamAddrs, tls: &StreamAddrs) -> Result<Self, ConfigError> {
        let mut sockets = Self::default();
        sockets.bind_all("--stun-tcp", StreamKind::Tcp, tcp)?;
        sockets.bind_all("--stun-tls", StreamKind::Tls, tls)?;
        Ok(sockets)
    }

    /// The bound addresses of one kind.
    pub(crate) fn addrs(&self, kind: StreamKind) -> Vec<SocketAddr> {
        let of_it = self.bound.iter().filter(|socket| socket.kind == kind);
        of_it.map(|socket| socket.addr).collect()
    }

    fn bind_all(
        &mut self,
        flag: &'static str,
        kind: StreamKind,
        wanted: &StreamAddrs,
    ) -> Result<(), ConfigError> {
        for &addr in &wanted.addrs {
            match bind(addr) {
                Ok((socket, addr)) => self.bound.push(StreamSocket { socket, kind, addr }),
                Err(source) if wanted.is_given => return Err(ConfigError::Bind { flag, addr, source }),
                Err(error) => {
                    self.missing.push(Warning::NoStream { flag, addr, reason: error.to_string() });
                }
            }
        }
        Ok(())
    }
}

fn bind(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // As the UDP sockets: each family has its own.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old connections' TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(socket);
    let bound = socket.local_addr()?;
    Ok((socket, bound))
}
