//! Who is here: the directory that members see, and how one leaves it.

use std::time::{Duration, Instant};

use meetpoint_proto::wire::{PEERS_PER_MESSAGE, PeerInfo, ServerMessage};

use crate::Broker;
use crate::api::{ConnId, Event, Output};
use crate::state::{Phase, Session, Timer};

/// Weight of a new sample in the smoothed round trip, as in RFC 6298: 1/8.
const RTT_SHIFT: u32 = 3;

impl Broker {
    /// Sends a newcomer the members that are announced, in pages.
    pub(crate) fn send_directory(&mut self, conn: ConnId) {
        let Some(cluster) = self.session(conn).and_then(|session| self.clusters.get(&session.cluster)) else {
            return;
        };
        let others = cluster.announced.iter().filter(|other| **other != conn);
        let peers: Vec<PeerInfo> =
            others.filter_map(|other| self.session(*other).map(Session::peer_info)).collect();
        for page in peers.chunks(PEERS_PER_MESSAGE) {
            self.send(conn, ServerMessage::Peers { peers: page.to_vec() });
        }
    }

    /// Tells all other members of a member, if it is one of those announced.
    pub(crate) fn announce(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn).filter(|session| session.announced) else { return };
        let (cluster, message) =
            (session.cluster.clone(), ServerMessage::Peers { peers: vec![session.peer_info()] });
        self.broadcast(&cluster, conn, &message);
    }

    fn broadcast(&mut self, cluster: &meetpoint_proto::ClusterName, except: ConnId, message: &ServerMessage) {
        let Some(cluster) = self.clusters.get(cluster) else { return };
        let others = cluster.members.values().filter(|other| **other != except);
        let sends = others.map(|other| Output::Send { conn: *other, message: message.clone() });
        self.outputs.extend(sends);
    }

    /// Forgets a connection and, if it was a member's, tells the others.
    pub(crate) fn drop_conn(&mut self, now: Instant, conn: ConnId, graceful: bool) {
        let Some(state) = self.conns.remove(&conn) else { return };
        let of_conn = [Timer::Handshake, Timer::Idle, Timer::Ping, Timer::Discovery, Timer::Probation];
        for timer in of_conn {
            self.timers.set(timer(conn), None);
        }
        let Phase::Member(session) = state.phase else { return };
        self.sessions.remove(&session.id);
        let Some(cluster) = self.clusters.get_mut(&session.cluster) else { return };
        cluster.announced.remove(&conn);
        cluster.members.remove(&session.node);
        cluster.names.remove(&session.name);
        for (request, wanted) in &session.requests {
            cluster.stop_waiting(&wanted.peer, (conn, *request));
            self.timers.set(Timer::Request(conn, *request), None);
        }
        for ticket in session.asked.iter().chain(&session.targeted) {
            self.end_ticket(*ticket);
        }
        if session.announced {
            self.broadcast(&session.cluster, conn, &ServerMessage::PeerLeft { id: session.node });
        }
        self.farewell(now, *session, graceful);
    }

    fn farewell(&mut self, now: Instant, session: Session, graceful: bool) {
        let Session { id: session, cluster, node, ephemeral, .. } = session;
        if ephemeral && graceful {
            self.outputs.push_back(Output::Forget { cluster: cluster.clone(), node });
        } else if ephemeral {
            self.timers.set(Timer::Forget(cluster.clone(), node), Some(now + self.limits.ephemeral_grace));
        }
        self.outputs.push_back(Output::Event(Event::Left { session, cluster, node, graceful }));
    }

    pub(crate) fn ping(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        session.ping.seq += 1;
        session.ping.sent = Some(now);
        let seq = session.ping.seq;
        self.send(conn, ServerMessage::Ping { seq });
        self.timers.set(Timer::Ping(conn), Some(now + self.limits.ping_interval));
    }

    pub(crate) fn pong(&mut self, now: Instant, conn: ConnId, seq: u64) {
        let Some(session) = self.session_mut(conn) else { return };
        let Some(sent) = session.ping.sent.filter(|_| session.ping.seq == seq) else { return };
        session.ping.sent = None;
        let sample = now.saturating_duration_since(sent);
        session.ping.rtt = Some(session.ping.rtt.map_or(sample, |old| smooth(old, sample)));
    }
}

fn smooth(old: Duration, sample: Duration) -> Duration {
    let weight = 1u32 << RTT_SHIFT;
    (old * (weight - 1) + sample) / weight
}
