//! Who a member is by the admission table, and what becomes of it when things change.
//!
//! A member is judged when it joins, when its cluster comes to amount to something else, and when its
//! observed mapping changes. Whoever joins and fails is refused at once. Whoever is a member already stays
//! where it is, and has a probation to fit again; then it is rejected, with the code of the row that
//! refuses it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use meetpoint_proto::rules::{self, Admission, Found, NodeFacts};
use meetpoint_proto::wire::{Hello, Refusal, ServerMessage};
use meetpoint_proto::{Code, EffectiveNetwork, NetworkType, addr};

use crate::Broker;
use crate::api::{ClusterConfig, ConnId, Event, Output, StunCredential};
use crate::state::{Probation, Session, Timer};

/// What a node says that the rules look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claims {
    pub(crate) declared: Option<NetworkType>,
    pub(crate) node_addr: Option<SocketAddr>,
    pub(crate) local_ip: IpAddr,
}

impl From<&Hello> for Claims {
    fn from(hello: &Hello) -> Self {
        Self { declared: hello.declared, node_addr: hello.node_addr, local_ip: hello.local_ip }
    }
}

/// What the admission table says of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruling {
    pub(crate) verdict: Admission,
    /// The row that says so.
    pub(crate) row: &'static str,
}

impl Ruling {
    /// `seen` is the address under which the server sees the node.
    pub(crate) fn new(cluster: &ClusterConfig, seen: IpAddr, claims: &Claims) -> Self {
        let named = claims.node_addr.map(|addr| addr.ip());
        let address = match rules::node_address(seen, claims.local_ip, named) {
            Ok(address) => address,
            Err(code) => return Self { verdict: Admission::Reject(code), row: "address/named-elsewhere" },
        };
        // A public source is refused by a private cluster even if a NAT hides a private node.
        let address = match cluster.effective {
            EffectiveNetwork::Private => addr::classify(seen),
            EffectiveNetwork::Public => address,
        };
        let (effective, kind, declared) = (cluster.effective, cluster.kind, claims.declared);
        let row = rules::admission(&NodeFacts { effective, kind, address, declared });
        Self { verdict: row.verdict, row: row.name }
    }
}

/// From when a member's probation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// From now: the rules changed under it.
    Anew,
    /// From when it began to fail: its own doing must not prolong it.
    GoesOn,
}

impl Broker {
    /// The cluster amounts to something else: what was observed under the former rules is void.
    pub(crate) fn cluster_changed(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        session.observed.clear();
        session.discovery = None;
        let Some(ruling) = self.ruling(conn) else { return };
        let Some(effective) = self.effective_of(conn) else { return };
        let is_checked = !matches!(ruling.verdict, Admission::Reject(_));
        if effective == EffectiveNetwork::Public && is_checked {
            self.mint(conn);
        } else {
            self.send(conn, ServerMessage::Cluster { effective, stun: None });
        }
        self.judge_member(now, conn, &ruling, Count::Anew);
    }

    /// Whether relayed nodes are kept has changed: it concerns those, and those that fail.
    pub(crate) fn relaying_changed(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session_mut(conn) else { return };
        let is_relayed = session.class.is_some_and(|found| found.relayed);
        // Whoever has to prove itself is never relayed.
        let may_relay = session.discovery.is_some_and(|discovery| !discovery.must_prove);
        if !may_relay || !(is_relayed || session.probation.is_some()) {
            return;
        }
        session.discovery = None;
        if let Some(ruling) = self.ruling(conn) {
            self.judge_member(now, conn, &ruling, Count::Anew);
        }
    }

    /// A member is seen elsewhere than before.
    pub(crate) fn mapping_changed(&mut self, now: Instant, conn: ConnId) {
        if let Some(ruling) = self.ruling(conn) {
            self.judge_member(now, conn, &ruling, Count::GoesOn);
        }
    }

    fn judge_member(&mut self, now: Instant, conn: ConnId, ruling: &Ruling, count: Count) {
        match ruling.verdict {
            Admission::Reject(code) => {
                self.stop_discovery(conn);
                self.begin_probation(now, conn, count);
                self.tell_probation(conn, (code, ruling.row));
            }
            Admission::Discover(discovery) => {
                let begins = self.session(conn).is_some_and(|session| session.discovery != Some(discovery));
                if begins && count == Count::Anew {
                    self.begin_probation(now, conn, count);
                }
                self.apply(now, conn, ruling);
            }
            Admission::Admit { .. } => self.apply(now, conn, ruling),
        }
    }

    /// Does what a ruling says. One that refuses is for those that join.
    pub(crate) fn apply(&mut self, now: Instant, conn: ConnId, ruling: &Ruling) {
        match ruling.verdict {
            Admission::Admit { class, evidence } => {
                self.stop_discovery(conn);
                self.passed(conn);
                self.settle(conn, Found::new(class, evidence), ruling.row);
            }
            Admission::Discover(discovery) => self.discover(now, conn, discovery, ruling.row),
            Admission::Reject(code) => self.refuse(now, conn, Refusal::new(code)),
        }
    }

    /// What the rules say of a member now.
    fn ruling(&self, conn: ConnId) -> Option<Ruling> {
        let (state, session) = (self.conns.get(&conn)?, self.session(conn)?);
        let cluster = self.clusters.get(&session.cluster)?;
        let Session { declared, node_addr, local_ip, .. } = *session;
        let seen = seen_at(session, state.source.ip());
        Some(Ruling::new(&cluster.config, seen, &Claims { declared, node_addr, local_ip }))
    }

    fn effective_of(&self, conn: ConnId) -> Option<EffectiveNetwork> {
        Some(self.clusters.get(&self.session(conn)?.cluster)?.config.effective)
    }

    fn begin_probation(&mut self, now: Instant, conn: ConnId, count: Count) {
        let end = now + self.limits.probation;
        let Some(session) = self.session_mut(conn) else { return };
        let goes_on = session.probation.filter(|_| count == Count::GoesOn);
        let probation = goes_on.unwrap_or(Probation { until: end, failing: None });
        session.probation = Some(probation);
        self.timers.set(Timer::Probation(conn), Some(probation.until));
    }

    /// Says once that a member fails, and why.
    pub(crate) fn tell_probation(&mut self, conn: ConnId, (code, row): (Code, &'static str)) {
        let Some(session) = self.session_mut(conn) else { return };
        let Some(probation) = &mut session.probation else { return };
        if probation.failing.replace(code) != Some(code) {
            let (cluster, node) = (session.cluster.clone(), session.node);
            self.outputs.push_back(Output::Event(Event::OnProbation { cluster, node, code, row }));
        }
    }

    /// A member whose membership hangs on a proof has its probation from the first moment.
    pub(crate) fn must_prove(&mut self, now: Instant, conn: ConnId) {
        self.begin_probation(now, conn, Count::GoesOn);
    }

    /// It fits.
    pub(crate) fn passed(&mut self, conn: ConnId) {
        if let Some(session) = self.session_mut(conn) {
            session.probation = None;
            self.timers.set(Timer::Probation(conn), None);
        }
    }

    /// Time is up for a member that does not fit.
    pub(crate) fn probation_timeout(&mut self, now: Instant, conn: ConnId) {
        let Some(ruling) = self.ruling(conn) else { return };
        match ruling.verdict {
            Admission::Reject(code) => self.refuse(now, conn, Refusal::new(code)),
            Admission::Discover(discovery) => match self.discovered(conn, discovery) {
                (row, Ok(found)) => {
                    self.passed(conn);
                    self.settle(conn, found, row);
                }
                (_, Err(code)) => self.refuse(now, conn, Refusal::new(code)),
            },
            Admission::Admit { .. } => self.apply(now, conn, &ruling),
        }
    }

    /// Has a credential made for a member of a cluster that is PUBLIC now.
    pub(crate) fn mint(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn).map(|session| session.id) else { return };
        self.outputs.push_back(Output::Mint { conn, session });
    }

    /// Tells a member what its cluster has become, with the credential that goes with it.
    pub(crate) fn credential(&mut self, now: Instant, conn: ConnId, credential: Option<StunCredential>) {
        if self.effective_of(conn) != Some(EffectiveNetwork::Public) {
            // It changed back meanwhile, and the member was told so.
            return;
        }
        if credential.is_none() {
            return self.close(now, conn, Refusal::new(Code::ClusterChanged));
        }
        let cluster = self.session(conn).and_then(|session| self.clusters.get(&session.cluster));
        let Some(stun) = cluster.map(|cluster| cluster.stun_access(credential)) else { return };
        self.send(conn, ServerMessage::Cluster { effective: EffectiveNetwork::Public, stun });
    }
}

/// Where the server sees a member: at its mapping, which follows it through networks, in the family of its
/// control connection; before one is observed, at that connection's source.
fn seen_at(session: &Session, source: IpAddr) -> IpAddr {
    let same_family = |addr: &SocketAddr| addr.is_ipv4() == source.is_ipv4();
    session.mappings().find(same_family).map_or(source, |addr| addr.ip())
}
