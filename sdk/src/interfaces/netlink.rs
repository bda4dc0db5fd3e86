//! Hears from the Linux kernel that addresses, links or routes have changed (rtnetlink(7)).

use std::io;
use std::net;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UdpSocket;

/// Groups of linux/rtnetlink.h: links, and addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// What is said is not looked at, and a longer message is cut.
const BUFFER_LEN: usize = 256;
/// Messages taken in one turn; what is left counts as the next change.
const MAX_BATCH: usize = 1_024;

/// See the module. The type stands for any socket of datagrams here: only receiving from it is of use.
pub(super) struct Changes(UdpSocket);

impl Changes {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // The protocol of number 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(UdpSocket::from_std(net::UdpSocket::from(socket))?))
    }

    /// Waits until something has changed. That some messages were lost, which is an error, is a change as well.
    pub(super) async fn wait(&self) {
        let _ = self.0.recv(&mut [0; BUFFER_LEN]).await;
    }

    /// Takes what is waiting.
    pub(super) fn drain(&self) {
        for _ in 0..MAX_BATCH {
            match self.0.try_recv(&mut [0; BUFFER_LEN]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}
