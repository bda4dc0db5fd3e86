//! Members without a join: those who are introduced by a peer of theirs while the server is away.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_proto::wire::{CertificateText, Refusal, ServerMessage};
use meetpoint_proto::{Certificate, Code, SessionId};

use crate::Broker;
use crate::api::{ConnId, Event, Output};
use crate::state::{Conn, Mapping, Phase, Proof, Quiet, Session, Shown};

impl Broker {
    /// Makes a connection a member's at once.
    pub(crate) fn proven(
        &mut self,
        now: Instant,
        conn: ConnId,
        source: SocketAddr,
        member: Certificate,
        certificate: CertificateText,
    ) {
        let id = SessionId::from_bytes(self.random());
        let is_full = self.conns.len() >= self.limits.connections;
        let Some(cluster) = self.clusters.get(&member.cluster).filter(|_| !is_full) else {
            return self.turn_away(conn, Code::ServerFull);
        };
        let same_node = cluster.members.get(&member.node).copied();
        let same_name = cluster.names.get(&member.name).copied();
        // A name may have gone from one node to another: the certificate that was made last tells to whom.
        let made = |conn: ConnId| self.session(conn).map(|session| session.certificate.not_before_unix_s);
        let is_outdated = same_name.filter(|_| same_name != same_node).and_then(made);
        if is_outdated.is_some_and(|made_s| made_s > member.not_before_unix_s) {
            return self.turn_away(conn, Code::NameTaken);
        }
        for old in [same_node, same_name].into_iter().flatten() {
            self.close(now, old, Refusal::new(Code::Replaced));
        }
        let quiet = Quiet { since: now, shown: Shown::default() };
        let who = (member.cluster.clone(), member.node, member.name.clone());
        let mut session = Session::new(now, id, who, certificate, source.ip(), quiet);
        session.observed.push_back(Mapping { addr: source, proof: Proof::Untried });
        self.sessions.insert(id, conn);
        self.sources.enter(source.ip());
        let phase = Phase::Member(Box::new(session));
        self.conns.insert(conn, Conn { source, last_heard: now, phase });
        self.set_membership_timer(now, conn, member.not_after_unix_s);
        let Certificate { cluster, node, name, .. } = member;
        if let Some(known) = self.clusters.get_mut(&cluster) {
            known.members.insert(node, conn);
            known.names.insert(name.clone(), conn);
        }
        self.outputs.push_back(Output::Event(Event::Joined { session: id, cluster, node, name }));
        self.retry_waiting_for(now, conn);
    }

    fn turn_away(&mut self, conn: ConnId, code: Code) {
        self.send(conn, ServerMessage::Rejected(Refusal::new(code)));
        self.outputs.push_back(Output::Close { conn });
    }
}
