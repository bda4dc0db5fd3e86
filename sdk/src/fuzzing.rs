//! What strangers may send to a node, read as the node reads it, for whoever searches for inputs that go wrong. No part
//! of the API: it changes with what is inside.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::datagrams::{self, APPLICATION};
use crate::http;
#[cfg(feature = "portmap")]
use crate::portmap::{self, PortMapping};
use crate::sources::{self, FoundSeed};

/// An announcement to a multicast group.
#[must_use]
pub fn announcement(datagram: &[u8], source: IpAddr) -> Option<FoundSeed> {
    sources::announced(datagram, source)
}

/// What an mDNS service amounts to: its full name, the name that it says, its addresses, its port.
#[cfg(feature = "mdns")]
#[must_use]
pub fn service(full_name: &str, named: Option<&str>, ips: &[IpAddr], port: u16) -> Vec<FoundSeed> {
    sources::resolved(full_name, named, ips, port)
}

/// A list of servers, of a file or a registry.
#[must_use]
pub fn seed_list(text: &str) -> Option<Vec<FoundSeed>> {
    sources::listed(text)
}

/// An answer by HTTP: status and body.
#[must_use]
pub fn http_answer(answer: &[u8]) -> Option<(u16, String)> {
    http::parse(answer).ok().map(|answer| (answer.status, answer.body))
}

/// Where an answer to UPnP's search says that the router's description is.
#[cfg(feature = "portmap")]
#[must_use]
pub fn upnp_location(answer: &str) -> Option<(SocketAddr, String)> {
    portmap::upnp_location(answer)
}

/// The service that a description from this address names: what it is called, and where it is controlled.
#[cfg(feature = "portmap")]
#[must_use]
pub fn upnp_service(description: &str, from: SocketAddr) -> Option<(String, SocketAddr, String)> {
    portmap::upnp_service(description, from)
}

/// The address in an answer to GetExternalIPAddress.
#[cfg(feature = "portmap")]
#[must_use]
pub fn upnp_external(answer: &str) -> Option<IpAddr> {
    portmap::upnp_external(answer)
}

/// Notes what a router's datagram shows.
#[cfg(feature = "portmap")]
pub fn router_answer(found: &mut PortMapping, answer: &[u8]) {
    portmap::note(found, answer);
}

/// A message of the application as it is sent.
#[must_use]
pub fn plain(message: Bytes) -> Bytes {
    datagrams::plain(message)
}

/// A connection's datagram: the number of its flow, if it belongs to one, and what is behind.
#[must_use]
pub fn datagram(bytes: Bytes) -> (Option<u8>, Bytes) {
    let (owner, rest) = datagrams::read(bytes);
    (Some(owner).filter(|number| *number != APPLICATION), rest)
}

/// Puts a flow's packets together.
#[cfg(feature = "webrtc")]
#[derive(Debug, Default)]
pub struct Packets(crate::webrtc::packets::Assembler);

#[cfg(feature = "webrtc")]
impl Packets {
    /// The datagrams of a packet.
    #[must_use]
    pub fn parts(flow: u8, number: u32, packet: &[u8], room: usize) -> Option<Vec<Bytes>> {
        crate::webrtc::packets::parts(flow, number, packet, room)
    }

    /// Takes a part; gives the packet that it completes.
    pub fn take(&mut self, part: Bytes) -> Option<Bytes> {
        self.0.take(part)
    }
}
