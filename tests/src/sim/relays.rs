//! What the world has to do for relaying: the server's relay sockets, streams to it, and the nodes' channels.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meetpoint_agent::{Channel, Input, Leg, Output, Socket, StreamId, Way};
use meetpoint_broker::RelayAccess;
use meetpoint_proto::stun::is_stun;
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork};
use meetpoint_turn::{ListenerId, RelayConfig, RelayId, RelayIp, StreamListener, Transport};

use super::wires::{SERVER, SERVER_V6, STUN_PORTS};
use super::world::{Arrival, World};

/// Behind those of the datagrams: TCP's, and TLS's.
const STREAM_LISTENERS: [ListenerId; 2] = [ListenerId(5), ListenerId(6)];
/// Where they are.
const STREAM_PORTS: [u16; 2] = [STUN_PORTS[0], 5349];
/// Where streams come from: each has a port of its own.
const FIRST_STREAM_PORT: u16 = 20_000;
/// Relayed addresses have ports from here on.
const FIRST_RELAY_PORT: u16 = 49_152;

/// A stream between a node and the server. Each direction keeps its order.
#[derive(Debug)]
pub(super) struct Stream {
    node: usize,
    stream: StreamId,
    tls: bool,
    to_server: Duration,
    to_node: Duration,
}

/// The server's relay sockets and the streams.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    sockets: BTreeMap<RelayId, SocketAddr>,
    streams: BTreeMap<SocketAddr, Stream>,
    next_port: u16,
    /// TCP passes to the port for TLS alone, and the server offers no other.
    is_tls_only: bool,
    /// Streams that were opened.
    opened: u32,
    /// Direct datagrams do not arrive.
    is_apart: bool,
}

pub(super) fn relay_config() -> RelayConfig {
    let ip = IpAddr::V4(SERVER[0]);
    RelayConfig { ipv4: Some(RelayIp { bind: ip, seen: ip }), ..RelayConfig::default() }
}

pub(super) fn stream_listeners() -> Vec<StreamListener> {
    let listener = |(index, transport): (usize, Transport)| StreamListener {
        id: STREAM_LISTENERS[index],
        transport,
        addr: SocketAddr::new(IpAddr::V4(SERVER[0]), STREAM_PORTS[index]),
    };
    [Transport::Tcp, Transport::Tls].into_iter().enumerate().map(listener).collect()
}

/// An address that the server relays at.
pub(super) fn is_relayed(addr: SocketAddr) -> bool {
    addr.ip() == IpAddr::V4(SERVER[0]) && addr.port() >= FIRST_RELAY_PORT
}

impl World {
    /// What the STUN machine wants of its relay sockets.
    pub(super) fn relay_output(&mut self, output: meetpoint_turn::Output) {
        use meetpoint_turn::Output as Out;
        match output {
            Out::OpenRelay { id, bind } => {
                self.relaying.sockets.insert(id, bind);
                self.stun.handle(self.start + self.now, meetpoint_turn::Input::RelayOpened { id });
            }
            Out::CloseRelay { id } => {
                self.relaying.sockets.remove(&id);
            }
            Out::TransmitRelayed { from, to, payload, .. } => {
                if let Some(from) = self.relaying.sockets.get(&from).copied() {
                    self.cross(self.server_one_way, from, to, payload.to_vec());
                }
            }
            other => self.violations.push(format!("a lone shard says {other:?}")),
        }
    }

    /// A datagram for a relayed address.
    pub(super) fn at_relay(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let found = self.relaying.sockets.iter().find(|(_, addr)| **addr == to).map(|(id, _)| *id);
        let Some(at) = found else { return };
        let input = meetpoint_turn::Input::Relayed { at, peer: from, payload };
        self.stun.handle(self.start + self.now, input);
        self.drain_stun();
    }

    pub(super) fn relay_access(&self) -> RelayAccess {
        let [tcp, tls] = STREAM_PORTS;
        let is_tls = self.relaying.is_tls_only;
        let (tcp, tls) = (Some(tcp).filter(|_| !is_tls), Some(tls).filter(|_| is_tls));
        RelayAccess { ips: vec![IpAddr::V4(SERVER[0])], tcp, tls }
    }

    /// A node wants a stream to the server: TCP passes everywhere here. TLS 1.3 takes a round trip more.
    pub(super) fn open_stream(&mut self, node: usize, stream: StreamId, tls: bool) {
        let port = FIRST_STREAM_PORT + self.relaying.next_port;
        self.relaying.next_port += 1;
        let source = SocketAddr::new(self.control_source(node), port);
        self.relaying.opened += 1;
        let opened = self.now + self.control_one_way(node) * if tls { 4 } else { 2 };
        let entry = Stream { node, stream, tls, to_server: opened, to_node: opened };
        self.relaying.streams.insert(source, entry);
        self.push_at(opened, Arrival::StreamOpened { node, stream });
    }

    pub(super) fn close_stream(&mut self, node: usize, stream: StreamId) {
        let Some(source) = self.stream_of(node, stream) else { return };
        let Some(Stream { tls, .. }) = self.relaying.streams.remove(&source) else { return };
        let listener = STREAM_LISTENERS[usize::from(tls)];
        let input = meetpoint_turn::Input::Disconnected { listener, source };
        self.stun.handle(self.start + self.now, input);
        self.drain_stun();
    }

    fn stream_of(&self, node: usize, stream: StreamId) -> Option<SocketAddr> {
        let is_its = |entry: &Stream| entry.node == node && entry.stream == stream;
        self.relaying.streams.iter().find(|(_, entry)| is_its(entry)).map(|(source, _)| *source)
    }

    /// A frame on a stream: late, but neither lost nor overtaken.
    pub(super) fn send_frame(&mut self, node: usize, stream: StreamId, payload: Vec<u8>) {
        self.nodes[node].traffic.note_tcp(0, payload.len());
        let delay = self.control_delay(node);
        let Some(source) = self.stream_of(node, stream) else { return };
        let Some(entry) = self.relaying.streams.get_mut(&source) else { return };
        entry.to_server = entry.to_server.max(self.now + delay);
        let (at, listener) = (entry.to_server, STREAM_LISTENERS[usize::from(entry.tls)].0);
        self.push_at(at, Arrival::AtServer { listener, from: source, payload });
    }

    /// What the server sends by a stream. False if it is no stream's.
    pub(super) fn frame_to_node(&mut self, listener: ListenerId, to: SocketAddr, payload: &[u8]) -> bool {
        if !STREAM_LISTENERS.contains(&listener) {
            return false;
        }
        let Some(node) = self.relaying.streams.get(&to).map(|entry| entry.node) else { return true };
        let delay = self.control_delay(node);
        if let Some(entry) = self.relaying.streams.get_mut(&to) {
            entry.to_node = entry.to_node.max(self.now + delay);
            let (at, stream) = (entry.to_node, entry.stream);
            self.push_at(at, Arrival::Frame { node, stream, payload: payload.to_vec() });
        }
        true
    }

    pub(super) fn frame(&mut self, node: usize, stream: StreamId, payload: &[u8]) {
        let Some(source) = self.stream_of(node, stream) else { return };
        let tls = self.relaying.streams.get(&source).is_some_and(|entry| entry.tls);
        self.nodes[node].traffic.note_tcp(1, payload.len());
        let source = SocketAddr::new(self.control_ip(node), STREAM_PORTS[usize::from(tls)]);
        let socket = Socket::Stream(stream);
        if !self.channel_data(node, socket, source, payload) {
            self.input(node, Input::Datagram { socket, source, payload });
        }
    }

    pub(super) fn set_channel(&mut self, node: usize, way: Way, channel: Option<Channel>) {
        let channels = &mut self.nodes[node].channels;
        match channel {
            Some(channel) => channels.insert(way, channel),
            None => channels.remove(&way),
        };
    }

    /// What a shell does with ChannelData: data is the application's if it comes by a way that was named, checks are
    /// the agent's.
    pub(super) fn channel_data(
        &mut self,
        index: usize,
        socket: Socket,
        from: SocketAddr,
        frame: &[u8],
    ) -> bool {
        let node = &mut self.nodes[index];
        let Some((number, data)) = meetpoint_stun::read_channel_data(frame) else { return false };
        let wanted = Channel { socket, server: from, number };
        let Some((&way, _)) = node.channels.iter().find(|(_, channel)| **channel == wanted) else {
            return false;
        };
        if is_stun(data) {
            return false;
        }
        let data = data.to_vec();
        self.quic_packet(index, way, &data);
        true
    }

    /// A node sends a packet by a way, as QUIC would.
    pub(super) fn send_by(&mut self, node: usize, way: Way, packet: &[u8]) {
        let direct = match way.leg {
            Leg::Main => Some(Socket::Main),
            Leg::Extra(number) => Some(Socket::Extra(number)),
            Leg::Relay(_) => None,
        };
        if let Some(socket) = direct {
            return self.transmit(node, socket, way.remote, packet.to_vec(), None);
        }
        let Some(Channel { socket, server, number }) = self.nodes[node].channels.get(&way).copied() else {
            return self.violations.push(format!("node {node} has a path by {way:?} and no channel"));
        };
        let header = meetpoint_stun::channel_header(number, packet.len() as u16);
        let mut frame = [&header[..], packet].concat();
        if matches!(socket, Socket::Stream(_)) {
            frame.resize(frame.len().next_multiple_of(4), 0);
        }
        self.transmit(node, socket, server, frame, None);
    }

    /// What concerns relaying of what a node says.
    pub(super) fn relay_command(&mut self, node: usize, output: Output) {
        match output {
            Output::OpenStream { stream, tls, .. } => self.open_stream(node, stream, tls),
            Output::CloseStream { stream } => self.close_stream(node, stream),
            Output::Channel { way, channel } => self.set_channel(node, way, channel),
            other => self.violations.push(format!("no relaying: {other:?}")),
        }
    }
}

impl World {
    /// The server answers STUN by IPv6 too, and says so.
    pub fn serve_ipv6(&mut self) {
        self.cluster.stun.push(StunServer {
            primary: SocketAddr::new(IpAddr::V6(SERVER_V6), STUN_PORTS[0]),
            alternate: None,
            alternate_port: None,
        });
        self.set_cluster_admitting_relayed();
    }

    /// What the nodes send each other directly does not arrive; what a server relays does.
    pub fn block_between(&mut self, is_blocked: bool) {
        self.relaying.is_apart = is_blocked;
    }

    /// How many addresses the server lends at this moment.
    #[must_use]
    pub fn relayed_addresses(&self) -> usize {
        self.relaying.sockets.len()
    }

    /// The relay is reached by TLS, and by TCP without that it is not. Before anybody joins.
    pub fn set_tls_only(&mut self) {
        self.relaying.is_tls_only = true;
        self.offer_relay_anew();
    }

    /// How many streams to the relay there are, and how many were ever opened.
    #[must_use]
    pub fn stream_count(&self) -> [u32; 2] {
        [self.relaying.streams.len() as u32, self.relaying.opened]
    }

    /// The cluster keeps nodes that can only be relayed.
    pub fn set_cluster_admitting_relayed(&mut self) {
        self.set_cluster(ClusterNetwork::Dynamic, EffectiveNetwork::Public, true);
    }

    pub(super) fn is_apart(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let is_server = |addr: SocketAddr| SERVER.iter().any(|ip| addr.ip() == IpAddr::V4(*ip));
        self.relaying.is_apart && !is_server(from) && !is_server(to)
    }
}
