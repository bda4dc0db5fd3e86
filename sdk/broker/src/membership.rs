//! How a membership goes on, and how it is taken away.

use std::time::{Duration, Instant};

use meetpoint_proto::wire::{Refusal, Renewal, RevocationText, ServerMessage};
use meetpoint_proto::{Certificate, ClusterName, Code, NodeId, Revocation};

use crate::Broker;
use crate::api::{ConnId, Output, StunCredential};
use crate::state::Timer;

/// A longer membership counts as a year: an instant can't be put off for ever.
const MAX_LIFETIME_S: u64 = 365 * 24 * 60 * 60;

impl Broker {
    /// Asks the registry for a fresh certificate, once at a time. A visitor's can only be had at home.
    pub(crate) fn renew(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn).filter(|session| !session.renewing) else { return };
        let (id, cluster, node) = (session.id, session.cluster.clone(), session.node);
        if self.clusters.get(&cluster).is_none_or(|cluster| cluster.config.home.is_some()) {
            return;
        }
        if let Some(session) = self.session_mut(conn) {
            session.renewing = true;
        }
        self.outputs.push_back(Output::Renew { conn, session: id, cluster, node });
    }

    pub(crate) fn renewed(
        &mut self,
        now: Instant,
        conn: ConnId,
        not_after_unix_s: u64,
        credential: Option<StunCredential>,
    ) {
        let now_unix_s = self.unix_ms(now) / 1000;
        let Some(session) = self.session(conn) else { return };
        let Some(cluster) = self.clusters.get(&session.cluster) else { return };
        let certificate = Certificate {
            cluster: session.cluster.clone(),
            node: session.node,
            name: session.name.clone(),
            not_before_unix_s: now_unix_s,
            not_after_unix_s,
            capabilities: session.capabilities.clone(),
        }
        .sign(&cluster.config.key);
        let renewal = Renewal { certificate: certificate.clone(), stun: cluster.stun_access(credential) };
        if let Some(session) = self.session_mut(conn) {
            session.renewing = false;
            session.certificate = certificate;
        }
        self.set_membership_timer(now, conn, not_after_unix_s);
        self.send(conn, ServerMessage::Certificate(Box::new(renewal)));
    }

    pub(crate) fn not_renewed(&mut self, now: Instant, conn: ConnId, code: Code) {
        let Some(session) = self.session_mut(conn) else { return };
        session.renewing = false;
        if code == Code::Removed {
            self.refuse(now, conn, Refusal::new(Code::Removed));
        }
    }

    /// A member is one as long as its certificate holds.
    pub(crate) fn set_membership_timer(&mut self, now: Instant, conn: ConnId, until_unix_s: u64) {
        let left_s = until_unix_s.saturating_sub(self.unix_ms(now) / 1000).min(MAX_LIFETIME_S);
        self.timers.set(Timer::Membership(conn), Some(now + Duration::from_secs(left_s)));
    }

    /// Ends a removed node's session, refuses it from now on, and tells all members: they may have a
    /// path to it, and its certificate.
    pub(crate) fn revoke(&mut self, now: Instant, name: &ClusterName, node: NodeId, until_unix_s: u64) {
        let Some(cluster) = self.clusters.get(name) else { return };
        // Only the cluster's own word counts among its members.
        let is_home = cluster.config.home.is_none();
        let text = is_home.then(|| Revocation { node, until_unix_s }.sign(name, &cluster.config.key));
        self.note_revocation(now, name, (node, until_unix_s), text);
    }

    /// The same for a visitor, by the word of its cluster's home.
    pub(crate) fn told(&mut self, now: Instant, name: &ClusterName, text: RevocationText) {
        let Some(cluster) = self.clusters.get(name).filter(|cluster| cluster.config.home.is_some()) else {
            return;
        };
        let (node, until_unix_s) = (text.id, text.until_unix_s);
        let is_known = cluster.revoked.get(&node).is_some_and(|known_s| until_unix_s <= *known_s);
        if !is_known && self.unix_ms(now) / 1000 < until_unix_s {
            self.note_revocation(now, name, (node, until_unix_s), Some(text));
        }
    }

    fn note_revocation(
        &mut self,
        now: Instant,
        name: &ClusterName,
        (node, until_unix_s): (NodeId, u64),
        text: Option<RevocationText>,
    ) {
        self.restore(name, &node);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if cluster.revoked.len() >= self.limits.revocations {
            cluster.forget_first_revocation();
        }
        cluster.revoked.insert(node, until_unix_s);
        cluster.revocations.insert((until_unix_s, node), text.clone());
        let conn = cluster.members.get(&node).copied();
        let is_covered = |conn: &ConnId| {
            let session = self.session(*conn);
            let cluster = self.clusters.get(name);
            session.zip(cluster).is_some_and(|(session, cluster)| {
                cluster.is_revoked(&node, session.certificate.not_after_unix_s)
            })
        };
        if let Some(conn) = conn.filter(is_covered) {
            self.refuse(now, conn, Refusal::new(Code::Removed));
        }
        let (Some(text), Some(cluster)) = (text, self.clusters.get(name)) else { return };
        let message = ServerMessage::Revoked(text);
        let sends = cluster.members.values().map(|&conn| Output::Send { conn, message: message.clone() });
        self.outputs.extend(sends);
    }

    /// The node may come back. Members that were told otherwise believe it until they join anew.
    pub(crate) fn restore(&mut self, cluster: &ClusterName, node: &NodeId) {
        let Some(cluster) = self.clusters.get_mut(cluster) else { return };
        if let Some(until_s) = cluster.revoked.remove(node) {
            cluster.revocations.remove(&(until_s, *node));
        }
    }

    pub(crate) fn end_session(&mut self, now: Instant, cluster: &ClusterName, node: &NodeId) {
        let member = self.clusters.get(cluster).and_then(|cluster| cluster.members.get(node));
        if let Some(&conn) = member {
            self.close(now, conn, Refusal::new(Code::SessionRevoked));
        }
    }
}
