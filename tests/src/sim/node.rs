//! One node of the world: the machine under test, what it has said so far, and what it has sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use meetpoint_agent::{Agent, Channel, Ended, Path, Socket, Way};
use meetpoint_broker::ConnId;
use meetpoint_proto::wire::{PortWindow, Refusal};
use meetpoint_proto::{EffectiveNetwork, Evidence, NatBehavior, NetworkClass, NodeId};

use super::handshake::Handshake;

/// Bytes of one node on the wire of its uplink: sent, and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// UDP datagrams, with the headers of IPv4 and UDP.
    pub udp: [u64; 2],
    /// What goes by TCP: each frame of a stream, and, in a world whose control messages travel as JSON, each of these,
    /// as if TCP, TLS and the WebSocket put their headers around each and TCP acknowledged each.
    pub tcp: [u64; 2],
}

/// IPv4's header without options, and UDP's.
const UDP_HEADERS: u64 = 20 + 8;
/// IPv4's header, and TCP's with timestamps (RFC 7323).
const TCP_HEADERS: u64 = 20 + 32;
/// A record of TLS 1.3 (RFC 8446, section 5.2), and a WebSocket frame from a client that is not long (RFC 6455, section
/// 5.2).
const FRAMING: u64 = 5 + 1 + 16 + 8;

impl Traffic {
    pub(super) fn note_udp(&mut self, direction: usize, payload: &[u8]) {
        self.udp[direction] += UDP_HEADERS + payload.len() as u64;
    }

    pub(super) fn note_tcp(&mut self, direction: usize, len: usize) {
        self.tcp[direction] += TCP_HEADERS + FRAMING + len as u64;
        self.tcp[1 - direction] += TCP_HEADERS;
    }
}

/// A node and what it has said so far.
#[derive(Debug)]
pub struct Node {
    /// The machine under test.
    pub agent: Agent,
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// As what it was judged last.
    pub class: Option<(NetworkClass, Evidence)>,
    /// It can only be relayed.
    pub relayed: bool,
    /// What its cluster amounts to, as it was told.
    pub effective: Option<EffectiveNetwork>,
    /// Every class it was ever judged as.
    pub classes: Vec<NetworkClass>,
    /// What it found out of its NAT.
    pub behavior: Option<NatBehavior>,
    /// Where its peers are.
    pub paths: BTreeMap<NodeId, Path>,
    /// Where it takes its peers' data from.
    pub heard: BTreeSet<(NodeId, Way)>,
    /// How data goes by its relay legs.
    pub(super) channels: BTreeMap<Way, Channel>,
    /// How its connect requests ended.
    pub ended: BTreeMap<u32, Result<NodeId, Refusal>>,
    /// It is over.
    pub over: Option<Ended>,
    /// Datagrams it sent, by the main, the probe, and extra sockets.
    pub sent: [u64; 3],
    /// What it sent and was sent, in bytes on the wire.
    pub traffic: Traffic,
    pub(super) site: usize,
    pub(super) ip: IpAddr,
    /// Its address on a second network of its site, if it is on two.
    pub(super) second_ip: Option<IpAddr>,
    /// It has its peer's data.
    pub has_data: bool,
    pub(super) handshake: Handshake,
    pub(super) main_port: u16,
    pub(super) probe: Option<u16>,
    /// Extra sockets' ports by their numbers.
    pub(super) extras: BTreeMap<u16, u16>,
    pub(super) next_probe: u16,
    pub(super) conn: Option<ConnId>,
    /// Where its main socket may send: candidates it was given, and sources it heard from since.
    pub(super) may_send: BTreeSet<SocketAddr>,
    /// And ports it may guess.
    pub(super) windows: Vec<PortWindow>,
}

impl Node {
    /// Which of its sockets has this port.
    pub(super) fn socket_at(&self, port: u16) -> Option<Socket> {
        if self.main_port == port {
            return Some(Socket::Main);
        }
        let mut extras = self.extras.iter();
        let mut extra = || extras.find(|(_, at)| **at == port).map(|(number, _)| Socket::Extra(*number));
        if self.probe == Some(port) { Some(Socket::Probe) } else { extra() }
    }

    /// Its ports are in this window of a ticket.
    pub(super) fn may_guess(&self, to: SocketAddr) -> bool {
        let fits =
            |window: &PortWindow| window.ip == to.ip() && (window.first..=window.last).contains(&to.port());
        self.windows.iter().any(fits)
    }

    /// The shell takes data from where the agent told it to, and drops all other.
    pub(super) fn hears(&self, way: Way) -> bool {
        self.heard.iter().any(|(_, heard)| *heard == way) || self.paths.values().any(|path| path.way == way)
    }

    pub(super) fn has_ip(&self, ip: IpAddr) -> bool {
        self.ip == ip || self.second_ip == Some(ip)
    }

    /// The address it sends from: the one on the network of the destination.
    pub(super) fn source_ip(&self, to: IpAddr) -> IpAddr {
        let network = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets()[..3].to_vec(),
            IpAddr::V6(_) => Vec::new(),
        };
        self.second_ip.filter(|second| network(*second) == network(to)).unwrap_or(self.ip)
    }
}
