//! What a machine of the lab sends, packet by packet, and whether it stays at home.
//!
//! A packet socket inside the machine's namespace sees each packet on each of its interfaces, whoever made it: a
//! socket of a process, a resolver, or the kernel. It is opened before the process that is watched, so nothing comes
//! before it; the kernel keeps what it saw until it is asked for, and says if it had to drop some.

use std::collections::BTreeSet;
use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use meetpoint_cli::lab::Host;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};

/// Room for some ten thousand packets that nobody has asked for yet.
const BUFFER_BYTES: usize = 16 << 20;
/// All headers that are read lie before this.
const SNAP_BYTES: usize = 128;
/// How often a packet that is waited for is looked for.
const POLL: Duration = Duration::from_millis(10);

/// `PACKET_OUTGOING` of packet(7): the machine itself has sent it.
const OUTGOING: u8 = 4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86DD;

/// RFC 826: asks who has an address.
const ARP_REQUEST: [u8; 2] = [0, 1];
const ICMPV6: u8 = 58;
/// RFC 4861, section 4.3: asks who has an address.
const NEIGHBOR_SOLICITATION: u8 = 135;

/// A packet that the machine has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is for, or asks for.
    pub to: Destination,
    /// Its first bytes, from the network header on.
    pub head: Vec<u8>,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// The address in its header, or the one that it asks its link for.
    Ip(IpAddr),
    /// It is of a protocol that nothing here speaks.
    Unknown {
        /// Its Ethernet type.
        ethertype: u16,
    },
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Destination::Ip(ip) => write!(f, "to {ip}:")?,
            Destination::Unknown { ethertype } => write!(f, "of type {ethertype:#06x}:")?,
        }
        self.head.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

impl Packet {
    fn new(ethertype: u16, head: &[u8]) -> Self {
        let to = destination(ethertype, head).map_or(Destination::Unknown { ethertype }, Destination::Ip);
        Self { to, head: head.to_vec() }
    }

    /// It goes to this machine, to a private network, or to everybody on the link.
    #[must_use]
    pub fn stays_at_home(&self) -> bool {
        match self.to {
            Destination::Ip(IpAddr::V4(ip)) => is_home_v4(ip),
            Destination::Ip(IpAddr::V6(ip)) => is_home_v6(ip),
            Destination::Unknown { .. } => false,
        }
    }
}

fn destination(ethertype: u16, head: &[u8]) -> Option<IpAddr> {
    let v6 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = head.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let v4 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = head.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    match ethertype {
        ETHERTYPE_IPV4 => v4(16),
        // A question is judged by what it asks for, an answer by who gets it.
        ETHERTYPE_ARP if head.get(6..8)? == ARP_REQUEST => v4(24),
        ETHERTYPE_ARP => Some(Ipv4Addr::BROADCAST.into()),
        ETHERTYPE_IPV6 if head.get(6) == Some(&ICMPV6) && head.get(40) == Some(&NEIGHBOR_SOLICITATION) => {
            v6(48)
        }
        ETHERTYPE_IPV6 => v6(24),
        _ => None,
    }
}

/// Written apart from the product's own table of addresses, which it judges.
fn is_home_v4(ip: Ipv4Addr) -> bool {
    let local_multicast = matches!(ip.octets(), [224, 0, 0, _] | [239, ..]);
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_broadcast() || local_multicast
}

fn is_home_v6(ip: Ipv6Addr) -> bool {
    // RFC 4291, section 2.7: of this interface, or of this link.
    let local_multicast = ip.is_multicast() && matches!(ip.segments()[0] & 0xF, 1 | 2);
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || local_multicast
}

/// Everything that a machine sends from now on.
pub struct Capture {
    socket: OwnedFd,
    sent: Vec<Packet>,
}

impl Capture {
    /// Begins to listen on a machine of the lab.
    ///
    /// # Panics
    /// If the machine is gone, or gives no packet socket.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
            setsockopt(&socket, sockopt::RxqOvfl, &1)?;
            Ok(socket)
        };
        let socket = host.run_in(open).expect("the machine").expect("a packet socket");
        Self { socket, sent: Vec::new() }
    }

    /// All that was sent so far.
    ///
    /// # Panics
    /// If the kernel could not keep all of it: then it shows nothing.
    pub fn sent(&mut self) -> &[Packet] {
        while let Some(packet) = self.next() {
            self.sent.extend(packet);
        }
        &self.sent
    }

    /// The next packet, if there is one; and that, if the machine has sent it.
    fn next(&self) -> Option<Option<Packet>> {
        let mut bytes = [0; SNAP_BYTES];
        let mut control = cmsg_space!(u32);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let fd = self.socket.as_raw_fd();
        let received = match recvmsg::<LinkAddr>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)
        {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return None,
            Err(errno) => panic!("the capture broke: {errno}"),
        };
        for message in received.cmsgs().expect("control messages") {
            assert!(!matches!(message, ControlMessageOwned::RxqOvfl(1..)), "the capture has lost packets");
        }
        let (link, len) = (received.address.expect("a link"), received.bytes.min(SNAP_BYTES));
        let ethertype = u16::from_be(link.protocol());
        Some((link.pkttype() == OUTGOING).then(|| Packet::new(ethertype, &bytes[..len])))
    }

    /// Fails unless every packet so far has stayed at home, and there was one.
    ///
    /// # Panics
    /// With all packets that have not.
    pub fn assert_silent(&mut self, case: &str) {
        let sent = self.sent();
        assert!(!sent.is_empty(), "{case}: the capture has seen nothing at all");
        let out: Vec<String> =
            sent.iter().filter(|packet| !packet.stays_at_home()).map(ToString::to_string).collect();
        assert!(
            out.is_empty(),
            "{case}: {} packets left the private network:\n{}",
            out.len(),
            out.join("\n")
        );
    }

    /// Waits until the machine has sent something to each of these.
    ///
    /// # Panics
    /// If it doesn't in time, with those that it has not sent to.
    pub fn await_packets_to(&mut self, ips: &[IpAddr], patience: Duration, case: &str) {
        let deadline = Instant::now() + patience;
        loop {
            let seen: BTreeSet<Destination> = self.sent().iter().map(|packet| packet.to).collect();
            let missing: Vec<&IpAddr> =
                ips.iter().filter(|ip| !seen.contains(&Destination::Ip(**ip))).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{case}: nothing was sent to {missing:?}, but to {seen:?}");
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_what_no_router_passes_on() {
        let home = "127.0.0.1 10.0.0.1 172.31.255.255 192.168.1.1 169.254.1.1 224.0.0.251 239.1.2.3 \
                    255.255.255.255 ::1 fd00::1 fe80::1 ff02::1 ff01::1";
        let away = "20.0.0.1 100.64.0.1 172.32.0.1 8.8.8.8 224.0.1.1 0.0.0.0 2600::1 64:ff9b::a00:1 \
                    ::ffff:10.0.0.1 ff05::2 ff0e::1 ::";
        for (list, expect) in [(home, true), (away, false)] {
            for ip in list.split_whitespace() {
                let to = Destination::Ip(ip.parse().expect("an address"));
                assert_eq!(Packet { to, head: Vec::new() }.stays_at_home(), expect, "{ip}");
            }
        }
    }

    #[test]
    fn questions_are_judged_by_what_they_ask_for() {
        let mut arp = vec![0; 28];
        arp[7] = 1;
        arp[24..28].copy_from_slice(&[20, 0, 0, 1]);
        assert!(!Packet::new(ETHERTYPE_ARP, &arp).stays_at_home());
        arp[7] = 2;
        assert!(Packet::new(ETHERTYPE_ARP, &arp).stays_at_home(), "an answer");
        let mut solicitation = vec![0; 64];
        solicitation[6] = ICMPV6;
        solicitation[24..26].copy_from_slice(&[0xFF, 0x02]);
        assert!(Packet::new(ETHERTYPE_IPV6, &solicitation).stays_at_home());
        solicitation[40] = NEIGHBOR_SOLICITATION;
        solicitation[48..50].copy_from_slice(&[0x26, 0]);
        assert!(!Packet::new(ETHERTYPE_IPV6, &solicitation).stays_at_home());
        for (ethertype, head) in [(ETHERTYPE_IPV4, &[0x45][..]), (0x88CC, &[0; 64])] {
            assert!(!Packet::new(ethertype, head).stays_at_home(), "{ethertype:#x}");
        }
    }
}
