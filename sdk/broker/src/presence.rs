//! Who is here: the directory that members see, and how one leaves it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meetpoint_proto::ClusterName;
use meetpoint_proto::wire::{PEERS_PER_MESSAGE, PeerInfo, ServerMessage, encode};

use crate::Broker;
use crate::api::{ConnId, Event, Output};
use crate::state::{Phase, Session, Timer};

/// Weight of a new sample in the smoothed round trip, as in RFC 6298: 1/8.
const RTT_SHIFT: u32 = 3;
/// A member that speaks all the time is asked for its round trip so seldom, in intervals of the pings.
const SAMPLE_INTERVALS: u32 = 6;
/// Peers in one page of the directory, about 1.5 KiB. A connection's buffers grow with the largest message and stay so,
/// and ten thousand connections have as many buffers.
const PEERS_PER_PAGE: usize = 10;
const _: () = assert!(PEERS_PER_PAGE <= PEERS_PER_MESSAGE, "a page is a message");

impl Broker {
    /// Sends a newcomer the members that are announced, in pages. It may find itself among them.
    pub(crate) fn send_directory(&mut self, conn: ConnId) {
        let Some(name) = self.session(conn).map(|session| session.cluster.clone()) else { return };
        let known = self.clusters.get(&name).and_then(|cluster| cluster.directory.clone());
        let frames = known.unwrap_or_else(|| self.write_directory(&name));
        self.outputs.extend(frames.into_iter().map(|frame| Output::SendFrame { conn, frame }));
    }

    fn write_directory(&mut self, name: &ClusterName) -> Vec<Arc<str>> {
        let Some(cluster) = self.clusters.get(name) else { return Vec::new() };
        let sessions = cluster.announced.iter().filter_map(|conn| self.session(*conn));
        let peers: Vec<PeerInfo> = sessions.map(Session::peer_info).collect();
        let page = |peers: &[PeerInfo]| encode(&ServerMessage::Peers { peers: peers.to_vec() }).into();
        let frames: Vec<Arc<str>> = peers.chunks(PEERS_PER_PAGE).map(page).collect();
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.directory = Some(frames.clone());
        }
        frames
    }

    /// Tells all other members of a member, if it is one of those announced.
    pub(crate) fn announce(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn).filter(|session| session.announced) else { return };
        let (cluster, message) =
            (session.cluster.clone(), ServerMessage::Peers { peers: vec![session.peer_info()] });
        self.broadcast(&cluster, conn, &message);
    }

    /// Tells all other members of a change of the directory.
    fn broadcast(&mut self, cluster: &ClusterName, except: ConnId, message: &ServerMessage) {
        let Some(cluster) = self.clusters.get_mut(cluster) else { return };
        cluster.directory = None;
        let frame: Arc<str> = encode(message).into();
        let others = cluster.members.values().filter(|other| **other != except);
        let sends = others.map(|other| Output::SendFrame { conn: *other, frame: Arc::clone(&frame) });
        self.outputs.extend(sends);
    }

    /// Forgets a connection and, if it was a member's, tells the others.
    pub(crate) fn drop_conn(&mut self, now: Instant, conn: ConnId, graceful: bool) {
        let Some(state) = self.conns.remove(&conn) else { return };
        let of_conn =
            [Timer::Handshake, Timer::Idle, Timer::Ping, Timer::Discovery, Timer::Probation, Timer::Witness];
        for timer in of_conn {
            self.timers.set(timer(conn), None);
        }
        self.timers.set(Timer::Membership(conn), None);
        let Phase::Member(session) = state.phase else { return };
        self.sources.leave(state.source.ip());
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
        let Session { id: session, cluster, node, ephemeral, quiet, .. } = session;
        self.keep_quiet(now, &cluster, node, quiet);
        if ephemeral && graceful {
            self.outputs.push_back(Output::Forget { cluster: cluster.clone(), node });
        } else if ephemeral {
            self.timers.set(Timer::Forget(cluster.clone(), node), Some(now + self.limits.ephemeral_grace));
        }
        self.outputs.push_back(Output::Event(Event::Left { session, cluster, node, graceful }));
    }

    /// Pings a member, unless it was heard a short while ago and its round trip is known well enough.
    pub(crate) fn ping(&mut self, now: Instant, conn: ConnId) {
        let interval = self.limits.ping_interval;
        let Some(heard) = self.conns.get(&conn).map(|state| state.last_heard) else { return };
        let Some(session) = self.session_mut(conn) else { return };
        let is_fresh = session.ping.asked.is_some_and(|asked| now < asked + interval * SAMPLE_INTERVALS);
        if session.ping.rtt.is_some() && is_fresh && now < heard + interval {
            self.timers.set(Timer::Ping(conn), Some(heard + interval));
            return;
        }
        session.ping.seq += 1;
        (session.ping.sent, session.ping.asked) = (Some(now), Some(now));
        let seq = session.ping.seq;
        self.send(conn, ServerMessage::Ping { seq });
        self.timers.set(Timer::Ping(conn), Some(now + interval));
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
