//! Whether a node that is proven to be reachable is open to strangers.
//!
//! That a check came unsolicited is a claim of the node and of the one that met it, and two that collude
//! can make it. So nobody that a node could choose is believed: the broker draws a member at another site,
//! introduces the two without either having asked, and wants the word of [`WITNESSES`] from different
//! sites. A pair then lacks at least one honest stranger. Sites are drawn and not members, so a hundred
//! members at one address weigh as much as one.
//!
//! Nothing but the class hangs on it: with too few sites in a cluster nobody becomes open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use meetpoint_proto::{ClusterName, EffectiveNetwork, NodeId};

use crate::Broker;
use crate::api::ConnId;
use crate::introduce::{Cause, candidates, same_site};
use crate::source::principal;
use crate::state::{Joining, Proof, Quiet, Shown, Timer};

/// At different sites: more than the one accomplice of a pair.
const WITNESSES: usize = 2;
/// After a witness that did not meet the node the next one waits twice as long, so that trying again until
/// two accomplices are drawn takes longer than it is worth: at last a day, with ten minutes at first.
const MAX_DOUBLINGS: u32 = 7;
/// Waits are prolonged by up to half of what counts as long ago: all nodes of a server that was restarted
/// are proven within a few seconds.
const SPREAD: u32 = 2;

impl Broker {
    /// A mapping was proven to be reachable: strangers are to meet the node once it has been quiet.
    pub(crate) fn seek_witness(&mut self, now: Instant, conn: ConnId) {
        let memory = self.limits.unsolicited_after;
        let share = f64::from(u32::from_le_bytes(self.random())) / f64::from(u32::MAX);
        let Some(session) = self.session(conn) else { return };
        if !session.proven_reachable() || session.is_open {
            return;
        }
        let at = now.max(session.quiet.since + memory) + (memory / SPREAD).mul_f64(share);
        self.timers.set(Timer::Witness(conn), Some(at));
    }

    /// Time for the next witness.
    pub(crate) fn witness_due(&mut self, now: Instant, conn: ConnId) {
        let memory = self.limits.unsolicited_after;
        let Some(session) = self.session(conn) else { return };
        if session.is_open || !session.has_proof() {
            return;
        }
        let witness = self.draw_witness(now, conn);
        let Some(session) = self.session_mut(conn) else { return };
        let wait = memory * (1 << session.witnesses.failures.min(MAX_DOUBLINGS));
        if let Some(witness) = witness {
            // Taken back as soon as both say that they met.
            session.witnesses.failures += 1;
            self.introduce(now, witness, conn, Cause::Witness);
        }
        self.timers.set(Timer::Witness(conn), Some(now + wait));
    }

    /// Both sides say that a drawn witness met the node, which had no reason to send there.
    pub(crate) fn witnessed(&mut self, now: Instant, conn: ConnId, witness: ConnId) {
        let site = self.session(witness).and_then(|witness| witness.mappings().next());
        let (Some(site), Some(session)) = (site, self.session_mut(conn)) else { return };
        if !session.witnesses.sites.insert(principal(site.ip())) {
            return;
        }
        session.witnesses.failures = session.witnesses.failures.saturating_sub(1);
        let is_enough = session.witnesses.sites.len() >= WITNESSES;
        if is_enough {
            self.opened_up(now, conn);
        }
        self.timers.set(Timer::Witness(conn), (!is_enough).then_some(now));
    }

    /// A member at a random one of the sites that can bear witness.
    fn draw_witness(&mut self, now: Instant, conn: ConnId) -> Option<ConnId> {
        let cluster = self.clusters.get(&self.session(conn)?.cluster)?;
        let mut sites: BTreeMap<IpAddr, Vec<ConnId>> = BTreeMap::new();
        for &other in cluster.members.values() {
            if let Some(site) = self.witness_site(now, conn, other) {
                sites.entry(site).or_default().push(other);
            }
        }
        let members = self.draw(sites.into_values().collect())?;
        self.draw(members)
    }

    fn draw<T>(&mut self, mut list: Vec<T>) -> Option<T> {
        let number = u64::from_le_bytes(self.random());
        let index = number.checked_rem(list.len() as u64)?;
        Some(list.swap_remove(usize::try_from(index).ok()?))
    }

    /// Where a member is that can bear witness for another: elsewhere, by each of its addresses, than the
    /// node itself, than witnesses before it, and than where the node may have sent lately.
    fn witness_site(&self, now: Instant, of: ConnId, other: ConnId) -> Option<IpAddr> {
        let (node, witness) = (self.session(of)?, self.session(other).filter(|_| other != of)?);
        let (node_source, source) = (self.conns.get(&of)?.source.ip(), self.conns.get(&other)?.source.ip());
        let proven = node.observed.iter().find(|mapping| mapping.proof == Proof::Given)?;
        let site = witness.mappings().find(|addr| addr.is_ipv4() == proven.addr.is_ipv4())?;
        let own = || node.mappings().map(|addr| addr.ip()).chain([node_source]);
        let is_elsewhere = |ip: IpAddr| {
            !own().any(|own| same_site(own, ip)) && !node.witnesses.sites.contains(&principal(ip))
        };
        let shown = candidates(EffectiveNetwork::Public, witness, node);
        let memory = self.limits.unsolicited_after;
        let is_stranger =
            shown.iter().all(|shown| !node.quiet.shown.may_have_sent(now, shown.addr.ip(), memory));
        let has_place = witness.asked.len() < self.limits.tickets_per_asker
            && node.targeted.len() < self.limits.tickets_per_target;
        let fits = is_stranger
            && has_place
            && witness.probation.is_none()
            && witness.mappings().map(|addr| addr.ip()).chain([source]).all(is_elsewhere);
        fits.then(|| principal(site.ip()))
    }

    /// What is known of where a newcomer was shown to send.
    pub(crate) fn recall_quiet(&mut self, now: Instant, joining: &Joining) -> Quiet {
        let key = (joining.cluster.clone(), joining.hello.node_id);
        let known = self.quiet.remove(&key);
        self.timers.set(Timer::Quiet(key.0, key.1), None);
        known.unwrap_or_else(|| Quiet { since: now, shown: Shown::default() })
    }

    /// Keeps it for a node that may be back soon. Where there is no place its count begins anew, which gains
    /// nobody anything.
    pub(crate) fn keep_quiet(&mut self, now: Instant, cluster: &ClusterName, node: NodeId, quiet: Quiet) {
        if self.quiet.len() < self.limits.connections {
            self.quiet.insert((cluster.clone(), node), quiet);
            let until = now + self.limits.unsolicited_after;
            self.timers.set(Timer::Quiet(cluster.clone(), node), Some(until));
        }
    }
}
