//! What is done to a router, and what is read of a host, inside their namespaces.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use meetpoint_cli::lab::{Host, NatKind};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::super::BenchError;

/// Ethernet's header, which is not counted.
const ETHERNET_LEN: u64 = 14;
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE` of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const DELETE_ALL: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST` and `NLM_F_ACK` of netlink(7).
const ACKNOWLEDGED: u16 = 1 | 4;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const MESSAGE_LEN: u32 = 16 + 4;
/// What a router that changes ports flips at first: equal bytes are the same in either byte order.
const FIRST_MASK: u16 = 0x1616;
const MASK_STEP: u16 = 0x0101;

/// Bytes of IP at a host's device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Count {
    /// What has passed the device called `wan`.
    pub(super) fn of(host: &Host) -> Result<Self, BenchError> {
        let text = host.run_in(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let text = text.map_err(BenchError::io("a host's devices"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("wan:"));
        let numbers: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|number| number.parse().ok()).collect();
        // Received: bytes, packets, and six more; then the same for what was sent.
        let [received, received_packets, _, _, _, _, _, _, sent, sent_packets, ..] = numbers[..] else {
            return Err(BenchError::Unexpected(format!("no device called wan in:\n{text}")));
        };
        Ok(Self {
            sent: sent - sent_packets * ETHERNET_LEN,
            received: received - received_packets * ETHERNET_LEN,
        })
    }
}

/// A router that can be made to forget.
pub(super) struct Router {
    host: Host,
    wan: Ipv4Addr,
    nat: NatKind,
    mask: u16,
}

impl Router {
    pub(super) fn new(host: Host, wan: Ipv4Addr, nat: NatKind) -> Self {
        Self { host, wan, nat, mask: FIRST_MASK }
    }

    /// Mappings of UDP last so long after their last packet.
    pub(super) fn remember_for(&self, seconds: u32) -> Result<(), BenchError> {
        let write = || -> io::Result<()> {
            for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
                fs::write(format!("/proc/sys/net/netfilter/{name}"), seconds.to_string())?;
            }
            Ok(())
        };
        self.host.run_in(write)?.map_err(BenchError::io("a router's memory"))
    }

    /// Forgets everything, and gives other ports from now on. One that draws them does so by itself.
    pub(super) fn rebind(&mut self) -> Result<(), BenchError> {
        if self.nat == NatKind::Remap {
            let (wan, mask) = (self.wan, self.mask);
            self.mask = self.mask.wrapping_add(MASK_STEP);
            let rules = format!(
                "flush chain ip nat_lab to_world; \
                 add rule ip nat_lab to_world oifname \"wan\" meta l4proto udp snat to {wan} : udp sport ^ {mask}; \
                 add rule ip nat_lab to_world oifname \"wan\" masquerade"
            );
            let output = self.host.command("nft").arg(rules).output().map_err(BenchError::io("nft"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(BenchError::Unexpected(format!("nft: {said}")));
            }
        }
        self.host.run_in(forget)?.map_err(|errno| BenchError::os("a router's connections")(errno))
    }
}

/// Empties the connection tracking of the namespace that this runs in.
fn forget() -> nix::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut message = Vec::new();
    message.extend(MESSAGE_LEN.to_ne_bytes());
    message.extend(DELETE_ALL.to_ne_bytes());
    message.extend(ACKNOWLEDGED.to_ne_bytes());
    // Sequence number and port, then any family and version 0.
    message.extend([0; 8 + 4]);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0; 64];
    let len = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    // An acknowledgement is an error message whose number is 0.
    match reply
        .get(16..20)
        .filter(|_| len >= 20)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes)
    {
        Some(0) => Ok(()),
        Some(code) => Err(nix::errno::Errno::from_raw(-code)),
        None => Err(nix::errno::Errno::EBADMSG),
    }
}
