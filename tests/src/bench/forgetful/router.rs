//! What is done to a router, and what is read of a host, inside their namespaces.

use std::fmt;
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
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE` of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. A
/// request that names no connection is about all of them.
const DELETE: u16 = 1 << 8 | 2;
/// Of the same files, by their place: `CTA_TUPLE_ORIG`; in that `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`; in those the two
/// addresses, and the protocol and its two ports. `NLA_F_NESTED` marks what has attributes in it.
const ORIGINAL: u16 = 1 | NESTED;
const IP: u16 = 1 | NESTED;
const PROTOCOL: u16 = 2 | NESTED;
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;
/// `NLM_F_REQUEST` and `NLM_F_ACK` of netlink(7).
const ACKNOWLEDGED: u16 = 1 | 4;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS_LEN: usize = 16 + 4;
/// `AF_INET`.
const IPV4: u8 = 2;
/// What a router that changes ports flips at first: equal bytes are the same in either byte order.
const FIRST_MASK: u16 = 0x1616;
const MASK_STEP: u16 = 0x0101;

/// What a router forgets when it gives other ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// Mappings of UDP. Those of TCP live for hours (RFC 5382, REQ-5).
    Udp,
    /// Everything, as if it had been restarted.
    All,
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::All => "UDP, TCP",
        })
    }
}

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
    forgotten: Forgotten,
    mask: u16,
}

impl Router {
    pub(super) fn new(host: Host, wan: Ipv4Addr, nat: NatKind, forgotten: Forgotten) -> Self {
        Self { host, wan, nat, forgotten, mask: FIRST_MASK }
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

    /// Forgets, and gives other ports from now on. One that draws them does so by itself.
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
        match self.forgotten {
            Forgotten::All => self
                .host
                .run_in(|| delete(&[], 0))?
                .map_err(|errno| BenchError::os("a router's connections")(errno)),
            Forgotten::Udp => {
                let table = self.host.run_in(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"))?;
                let table = table.map_err(BenchError::io("a router's connections"))?;
                let flows: Vec<_> = table.lines().filter_map(udp_flow).collect();
                let forget = || flows.iter().try_for_each(|flow| delete(flow, IPV4));
                self.host.run_in(forget)?.map_err(|errno| BenchError::os("a router's connections")(errno))
            }
        }
    }
}

/// How a line of the kernel's table names a connection of UDP over IPv4, as an attribute of a request: the first
/// address and port of each name in it are those of the packet that began it.
fn udp_flow(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split_whitespace();
    if (words.next()?, words.nth(1)?) != ("ipv4", "udp") {
        return None;
    }
    let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
    let ip = |name| value(name)?.parse::<Ipv4Addr>().ok().map(|ip| ip.octets());
    let port = |name| value(name)?.parse::<u16>().ok().map(u16::to_be_bytes);
    let ips = [attribute(1, &ip("src=")?), attribute(2, &ip("dst=")?)].concat();
    let ports =
        [attribute(1, &[UDP]), attribute(2, &port("sport=")?), attribute(3, &port("dport=")?)].concat();
    Some(attribute(ORIGINAL, &[attribute(IP, &ips), attribute(PROTOCOL, &ports)].concat()))
}

/// `struct nlattr`, its value, and what fills that up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Deletes a connection from the table of the namespace that this runs in; all of them if none is named. It is no error
/// if it has ended by itself.
fn delete(flow: &[u8], family: u8) -> nix::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADERS_LEN + flow.len()).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(ACKNOWLEDGED.to_ne_bytes());
    // Sequence number and port; then the family, and version 0.
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(flow);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0; 256];
    let len = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    // An acknowledgement is an error message whose number is 0.
    match reply
        .get(16..20)
        .filter(|_| len >= 20)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes)
    {
        Some(0) => Ok(()),
        Some(code) if -code == nix::errno::Errno::ENOENT as i32 => Ok(()),
        Some(code) => Err(nix::errno::Errno::from_raw(-code)),
        None => Err(nix::errno::Errno::EBADMSG),
    }
}
