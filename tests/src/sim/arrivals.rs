//! What arrives, and at whom.

use std::net::SocketAddr;

use meetpoint_agent::{Input, Leg, Socket, Way};
use meetpoint_broker::ConnId;
use meetpoint_proto::wire::ServerMessage;
use meetpoint_turn::ListenerId;

use super::handshake::is_handshake;
use super::world::{Arrival, CONTROL_PORT, DATA, World};

impl World {
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let at = self.start + self.now;
        match arrival {
            Arrival::AtGate { site, from, to, payload } => {
                let mut gates = self.sites[site].gates.iter_mut().rev();
                if let Some(to) = gates.try_fold(to, |to, gate| gate.inbound(self.now, from, to)) {
                    self.at_host(site, from, to, &payload);
                }
            }
            Arrival::AtHost { site, from, to, payload } => self.at_host(site, from, to, &payload),
            Arrival::Word(word) => self.word(word),
            // Nobody is there.
            Arrival::AtServer { .. } | Arrival::ToServer { .. } if self.meets.is_server_dead => {}
            Arrival::AtServer { listener, from, payload } => {
                self.tap.iter_mut().for_each(|tap| tap.push((None, from, payload.clone())));
                self.note(1, from, &payload);
                let listener = ListenerId(listener);
                let input = meetpoint_turn::Input::Datagram { listener, source: from, payload: &payload };
                self.stun.handle(at, input);
                self.drain_stun();
            }
            Arrival::ControlAccepted { conn, source } => {
                self.broker.handle(at, meetpoint_broker::Input::Opened { conn, source });
                self.drain_broker();
            }
            Arrival::ControlOpened { node, conn } => {
                if self.nodes[node].conn == Some(conn) {
                    let local = SocketAddr::new(self.nodes[node].ip, 33_333);
                    let remote = SocketAddr::new(self.control_ip(node), CONTROL_PORT);
                    self.input(node, Input::ControlOpened { local, remote });
                }
            }
            Arrival::ToServer { conn, message } => {
                self.broker.handle(at, meetpoint_broker::Input::Message { conn, message });
                self.drain_broker();
            }
            Arrival::ToNode { conn, message } => self.tell_node(conn, message),
            Arrival::ClosedAtServer { conn } => {
                self.broker.handle(at, meetpoint_broker::Input::Closed { conn });
                self.drain_broker();
            }
            Arrival::ClosedAtNode { conn } => {
                let node = self.conns.remove(&conn).map(|connection| connection.node);
                if let Some(node) = node.filter(|node| self.nodes[*node].conn == Some(conn)) {
                    self.nodes[node].conn = None;
                    self.input(node, Input::ControlClosed);
                }
            }
            Arrival::SocketsOpened { node, first, count } => {
                self.input(node, Input::SocketsOpened { first, count });
            }
            Arrival::AtRelay { from, to, payload } => self.at_relay(from, to, &payload),
            Arrival::StreamOpened { node, stream } => {
                self.input(node, Input::Stream { stream, open: true });
            }
            Arrival::Frame { node, stream, payload } => self.frame(node, stream, &payload),
            Arrival::RouteTold { node, number, hops } => self.input(node, Input::Route { number, hops }),
            Arrival::ProbeOpened { node } => {
                let port = self.nodes[node].probe;
                self.input(node, Input::ProbeOpened { port });
            }
        }
    }

    pub(super) fn tell_node(&mut self, conn: ConnId, message: ServerMessage) {
        let Some(node) = self.conns.get(&conn).map(|connection| connection.node) else { return };
        if self.nodes[node].conn != Some(conn) {
            return;
        }
        if let ServerMessage::Candidates { candidates, .. } = &message {
            self.nodes[node].may_send.extend(candidates.iter().map(|candidate| candidate.addr));
        }
        if let ServerMessage::Introduction(introduction) = &message {
            let candidates = introduction.candidates.iter().map(|candidate| candidate.addr);
            self.nodes[node].may_send.extend(candidates);
            self.nodes[node].windows.extend(introduction.window);
        }
        self.input(node, Input::ControlMessage(message));
    }

    pub(super) fn at_host(&mut self, site: usize, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut nodes = self.nodes.iter().enumerate();
        let found = nodes.find_map(|(index, node)| {
            let is_here = node.site == site && node.has_ip(to.ip());
            Some((index, node.socket_at(to.port()).filter(|_| is_here)?))
        });
        let Some((index, socket)) = found else { return };
        self.tap.iter_mut().for_each(|tap| tap.push((Some(index), from, payload.to_vec())));
        let node = &mut self.nodes[index];
        node.traffic.note_udp(1, payload);
        if !node.may_send.is_empty() {
            node.may_send.insert(from);
        }
        self.note(2 + index as u64, from, payload);
        if payload == DATA || is_handshake(payload) {
            let leg = match socket {
                Socket::Extra(number) => Leg::Extra(number),
                Socket::Main | Socket::Probe | Socket::Stream(_) => Leg::Main,
            };
            return self.quic_packet(index, Way { leg, remote: from }, payload);
        }
        if socket == Socket::Main && self.channel_data(index, socket, from, payload) {
            return;
        }
        self.input(index, Input::Datagram { socket, source: from, payload });
    }
}
