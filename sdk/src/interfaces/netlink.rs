//! Hears from the Linux kernel that addresses, links or routes have changed (rtnetlink(7)).

use std::io;
use std::net;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
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
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
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
