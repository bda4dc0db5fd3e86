//! What the broker says happened, for the log, the events and the audit log.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_broker::Event;
use meetpoint_proto::wire::TicketOutcome;
use meetpoint_proto::{ClusterName, Code, NodeId};
use tracing::{debug, info};

use super::{PAIR_LIFETIME, Rendezvous, StunRequest, is_guess};
use crate::events::{self, Sender};
use crate::limits::Key;
use crate::service::{Actor, ServiceError, UnixMs};

/// The word for the path that an introduction led to.
pub(crate) const fn path_word(outcome: TicketOutcome) -> &'static str {
    match outcome {
        TicketOutcome::Direct { .. } => "direct",
        TicketOutcome::Relayed => "relay",
        TicketOutcome::Failed => "none",
    }
}

/// How long it took to meet directly.
pub(crate) const fn elapsed_ms(outcome: TicketOutcome) -> Option<u32> {
    match outcome {
        TicketOutcome::Direct { elapsed_ms } => Some(elapsed_ms),
        TicketOutcome::Relayed | TicketOutcome::Failed => None,
    }
}

impl Rendezvous {
    pub(super) fn event(&mut self, event: Event) {
        let now = UnixMs::now();
        match event {
            Event::Joined { session, cluster, node, name } => {
                info!(%cluster, %node, %name, %session, "joined");
                self.meetings.joined();
                let announce = events::Event::NodeAnnounce { node, name, session };
                self.publish(&cluster, Sender::Node(node), &announce);
            }
            Event::Left { session, cluster, node, graceful } => {
                self.tell_stun(StunRequest::Ended { session });
                info!(%cluster, %node, graceful, "left");
                self.service.note_seen(now, &cluster, node);
                self.publish(&cluster, Sender::Node(node), &events::Event::NodeLeave { node, graceful });
            }
            Event::Rejected { source, code, member: None } => self.rejected(source, code),
            Event::Rejected { code, member: Some((cluster, node)), .. } => {
                info!(%cluster, %node, %code, "rejected");
                self.meetings.rejected(code);
                self.judged_unfit(&cluster, node, "rejected", code);
            }
            Event::OnProbation { cluster, node, code, row } => {
                info!(%cluster, %node, %code, row, "on probation");
                self.judged_unfit(&cluster, node, "on_probation", code);
            }
            Event::Classified { cluster, node, class, evidence, observed, relayed, row } => {
                let seen_as = observed.map(tracing::field::display);
                info!(%cluster, %node, %class, %evidence, seen_as, relayed, row, "classified");
                self.service.note_class(now, &cluster, node, (class, evidence, observed));
                let judged = events::Event::NodeClass { node, class, evidence, observed, relayed, rule: row };
                self.publish(&cluster, Sender::Server, &judged);
            }
            Event::Introduced { cluster, ticket, from, to, sessions: [a, b] } => {
                self.tell_stun(StunRequest::Introduced { a, b, until: Instant::now() + PAIR_LIFETIME });
                info!(%cluster, %ticket, %from, %to, "introduced");
                self.meetings.introduced();
                let status = events::Event::NodeStatus {
                    node: from,
                    status: "introduced",
                    peer: Some(to),
                    reason: None,
                };
                self.publish(&cluster, Sender::Node(from), &status);
            }
            Event::Path { cluster, path } => {
                let change = events::Event::PathChange {
                    nodes: path.nodes,
                    path: path_word(path.outcome),
                    rtt_ms: path.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                    elapsed_ms: elapsed_ms(path.outcome),
                };
                self.publish(&cluster, Sender::Server, &change);
            }
            Event::TicketEnded { cluster, ticket, direct_after, sides } => {
                self.meetings.ended(&sides, direct_after);
                let direct_after_ms = direct_after.map(|after| after.as_secs_f64() * 1000.0);
                info!(%cluster, %ticket, direct_after_ms, "introduction ended");
            }
        }
    }

    fn judged_unfit(&self, cluster: &ClusterName, node: NodeId, status: &'static str, code: Code) {
        let status = events::Event::NodeStatus { node, status, peer: None, reason: Some(code.as_str()) };
        self.publish(cluster, Sender::Server, &status);
    }

    fn publish(&self, cluster: &ClusterName, sender: Sender, event: &events::Event) {
        self.service.events().publish(cluster, sender, event);
    }

    /// Puts a refused join into the audit log, unless there were many.
    pub(super) fn note_refusal(&mut self, actor: Actor, cluster: &ClusterName, error: &ServiceError) {
        if let Some(left_out) = self.noted_refusals.pass(Instant::now()) {
            self.service.note_refusal(UnixMs::now(), actor, cluster.to_string(), error, left_out);
        }
    }

    fn rejected(&mut self, source: SocketAddr, code: Code) {
        // Strangers can cause these at will, so they are no line of the ordinary log.
        debug!(%source, %code, "rejected");
        self.meetings.rejected(code);
        if is_guess(code) {
            self.limiters.failures.count(Instant::now(), Key::source(source.ip()));
        }
    }
}
