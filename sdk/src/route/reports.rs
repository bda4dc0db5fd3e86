//! A socket whose errors tell who has caused them: Linux queues ICMP's reports about what a socket has sent for whoever
//! asks for them by `IP_RECVERR`, which needs no privilege (ip(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{SO_EE_ORIGIN_ICMP, sock_extended_err, sockaddr_in};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The type of ICMP's report that a time to live was over (RFC 792).
const TIME_EXCEEDED: u8 = 11;
/// Of a STUN message: its header ends with the transaction's id (RFC 8489, section 5).
const HEADER_LEN: usize = 20;
const ID_AT: usize = 8;
/// The beginning of an answer is enough.
const BUFFER_LEN: usize = 512;

/// A fresh socket towards a server.
#[derive(Debug)]
pub(super) struct Reports {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Reports {
    /// Of IPv4 alone: there are no translators to be found elsewhere.
    pub(super) fn open(server: SocketAddr) -> io::Result<Self> {
        if server.is_ipv6() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, server })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// The router that reports next, or the server if it answers this request. `None` if the socket fails.
    pub(super) async fn next(&self, request: &[u8]) -> Option<IpAddr> {
        loop {
            // The kernel shows a report as an error, and an answer as something to be read.
            let interest = Interest::READABLE | Interest::ERROR;
            match self.socket.async_io(interest, || self.read(request)).await {
                Ok(Some(hop)) => return Some(hop),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no reports");
                    return None;
                }
            }
        }
    }

    /// What is there to be read; `None` if it is something else.
    fn read(&self, request: &[u8]) -> io::Result<Option<IpAddr>> {
        match self.report() {
            Err(Errno::EAGAIN) => {}
            other => return Ok(other?),
        }
        let mut buffer = [0; BUFFER_LEN];
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT);
        let (len, source) = match received {
            Ok(received) => (received.bytes, received.address),
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
            // The error of which the queue has just told, or tells next.
            Err(_) => return Ok(None),
        };
        let is_from_there = source.is_some_and(|source| SocketAddr::V4(source.into()) == self.server);
        Ok((is_from_there && answers(request, &buffer[..len])).then(|| self.server.ip()))
    }

    /// Who tells the next report of the queue, if it is about a time to live.
    fn report(&self) -> Result<Option<IpAddr>, Errno> {
        let mut control = cmsg_space!(sock_extended_err, sockaddr_in);
        let mut buffer = [0; BUFFER_LEN];
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let report = recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        for message in report.cmsgs()? {
            if let ControlMessageOwned::Ipv4RecvErr(error, Some(from)) = message
                && (error.ee_origin, error.ee_type) == (SO_EE_ORIGIN_ICMP, TIME_EXCEEDED)
            {
                return Ok(Some(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into()));
            }
        }
        Ok(None)
    }
}

/// These bytes are of the transaction that the request has begun.
fn answers(request: &[u8], bytes: &[u8]) -> bool {
    transaction(request).is_some_and(|asked| transaction(bytes) == Some(asked))
}

fn transaction(message: &[u8]) -> Option<&[u8]> {
    message.get(ID_AT..HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Egress;

    /// An answer of the server itself is an answer, whatever the time to live; of another transaction, or of somebody
    /// else, it is not.
    #[tokio::test]
    async fn the_server_answers_for_itself() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let reports = Reports::open(server.local_addr().unwrap()).unwrap();
        let (request, mut other) = ([7; HEADER_LEN], [7; HEADER_LEN]);
        other[ID_AT] = 8;
        let egress = Egress::new(false);
        let socket = socket2::SockRef::from(reports.socket());
        egress.send_with_ttl(&socket, reports.server(), &request, Some(1)).unwrap();
        let (_, from) = server.recv_from(&mut [0; HEADER_LEN]).unwrap();
        for (sender, bytes) in [(&server, &other[..]), (&stranger, &request[..]), (&server, &request[..4])] {
            sender.send_to(bytes, from).unwrap();
            assert_eq!(reports.read(&request).unwrap(), None, "{bytes:?}");
        }
        assert_eq!(reports.read(&request).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        server.send_to(&request, from).unwrap();
        assert_eq!(reports.next(&request).await, Some(reports.server().ip()));
    }

    /// A report of another kind (here: nobody listens there) is no router's.
    #[tokio::test]
    async fn other_reports_tell_nothing() {
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let reports = Reports::open(nobody).unwrap();
        let socket = socket2::SockRef::from(reports.socket());
        Egress::new(false).send_with_ttl(&socket, nobody, &[7; HEADER_LEN], Some(1)).unwrap();
        let told =
            tokio::time::timeout(std::time::Duration::from_millis(200), reports.next(&[7; HEADER_LEN]));
        assert!(told.await.is_err(), "it goes on waiting");
    }
}
