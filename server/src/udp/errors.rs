//! What the network says of datagrams that did not get to their peer, from a socket's error queue.
//! The kernel has checked that each message quotes a datagram that this socket sent.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::batch::socket_addr;

/// Where an entry of the queue comes from (linux/errqueue.h).
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
/// What a router would have said of a datagram that is too long already for our own interface:
/// fragmentation needed (RFC 792), packet too big (RFC 4443).
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
const PACKET_TOO_BIG: (u8, u8) = (2, 0);
/// Room for the error and the address of who reports it.
const CONTROL_BYTES: usize = 64;

/// A datagram that did not arrive, by ICMP's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undelivered {
    /// Where it was sent.
    pub(super) peer: SocketAddr,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// The next hop's MTU, in network order.
    pub(super) data: [u8; 4],
}

/// Takes one entry from a socket's error queue. Nothing if it is about something else.
///
/// # Errors
/// `EAGAIN` if there is none, or what else the socket says.
pub(super) fn next(socket: BorrowedFd<'_>) -> Result<Option<Undelivered>, Errno> {
    let mut control = nix::cmsg_space!([u8; CONTROL_BYTES]);
    // The datagram itself is of no interest.
    let mut none: [u8; 0] = [];
    let mut slices = [IoSliceMut::new(&mut none)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let Some(peer) = message.address.as_ref().and_then(socket_addr) else { return Ok(None) };
    let error = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            Some(error)
        }
        _ => None,
    });
    Ok(error.and_then(|error| {
        let told = match error.ee_origin {
            ORIGIN_ICMP | ORIGIN_ICMP6 => Some((error.ee_type, error.ee_code)),
            ORIGIN_LOCAL if error.ee_errno == Errno::EMSGSIZE as u32 && peer.is_ipv4() => {
                Some(FRAGMENTATION_NEEDED)
            }
            ORIGIN_LOCAL if error.ee_errno == Errno::EMSGSIZE as u32 => Some(PACKET_TOO_BIG),
            _ => None,
        };
        let data = error.ee_info.to_be_bytes();
        told.map(|(kind, code)| Undelivered { peer, kind, code, data })
    }))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};

    use super::*;

    /// The answer of a port at which nobody listens.
    fn check(local: &str, kind: u8, code: u8) {
        let closed = UdpSocket::bind(local).unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind(local).unwrap();
        setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
        if closed.is_ipv6() {
            setsockopt(&socket, Ipv6RecvErr, &true).unwrap();
        }
        assert_eq!(next(socket.as_fd()), Err(Errno::EAGAIN));
        socket.send_to(b"knock", closed).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let told = loop {
            match next(socket.as_fd()) {
                Err(Errno::EAGAIN) => assert!(Instant::now() < deadline, "no answer"),
                told => break told.unwrap().unwrap(),
            }
        };
        assert_eq!(told, Undelivered { peer: closed, kind, code, data: [0; 4] });
    }

    #[test]
    fn a_closed_port_is_told() {
        check("127.0.0.1:0", 3, 3);
        check("[::1]:0", 1, 4);
    }
}
