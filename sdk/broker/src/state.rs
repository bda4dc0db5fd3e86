//! What the broker remembers of connections, members and clusters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meetpoint_proto::addr;
use meetpoint_proto::id::DialBackNonce;
use meetpoint_proto::join::Transcript;
use meetpoint_proto::rules::{Discovery, Found};
use meetpoint_proto::wire::{
    CertificateText, Hello, MAX_MAPPED_CANDIDATES, MAX_RELAY_CANDIDATES, MAX_REVOCATIONS, PeerInfo,
    RevocationText, StunAccess,
};
use meetpoint_proto::{
    Capability, ClusterName, Code, EffectiveNetwork, Evidence, HandshakeStart, NatBehavior, NetworkType,
    NodeId, NodeName, SessionId, TicketId,
};

use crate::api::{ClusterConfig, ConnId, RelayAccess, SessionView, StunCredential};
use crate::paths::PathReports;

/// A control connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) source: SocketAddr,
    pub(crate) last_heard: Instant,
    pub(crate) phase: Phase,
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits for hello.
    Greeting,
    /// Waits for proof.
    Challenged(Box<Joining>),
    /// Waits for the registry.
    Admitting(Box<Joining>),
    /// Is a member.
    Member(Box<Session>),
}

/// A join under way.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) hello: Hello,
    pub(crate) cluster: ClusterName,
    pub(crate) name: NodeName,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) transcript: Transcript,
    pub(crate) session: SessionId,
}

/// A member that is present.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    pub(crate) name: NodeName,
    pub(crate) ephemeral: bool,
    /// What it said of itself at the join.
    pub(crate) declared: Option<NetworkType>,
    pub(crate) node_addr: Option<SocketAddr>,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) local_ip: IpAddr,
    pub(crate) certificate: CertificateText,
    /// The registry is being asked for a fresh one.
    pub(crate) renewing: bool,
    pub(crate) since: Instant,
    /// It is in the directory that all members are sent.
    pub(crate) announced: bool,
    pub(crate) class: Option<Found>,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) probation: Option<Probation>,
    /// An unsolicited check has reached its present mapping.
    pub(crate) is_open: bool,
    pub(crate) dial_back: Option<DialBackRun>,
    pub(crate) last_dial_back: Option<Instant>,
    /// A mapped port has had a dial-back that did not wait for its turn.
    pub(crate) has_hurried: bool,
    /// One mapping an address family, the newest first.
    pub(crate) observed: VecDeque<Mapping>,
    /// Where introductions of the last while may have made it send.
    pub(crate) quiet: Quiet,
    pub(crate) witnesses: Witnesses,
    pub(crate) hosts: Vec<SocketAddr>,
    /// What it says that it was allocated on this server's relay.
    pub(crate) relays: Vec<SocketAddr>,
    /// What the relay says, until the node can have said it.
    pub(crate) lent: Option<Lent>,
    /// When it was last told that it is wanted.
    pub(crate) wanted_at: Option<Instant>,
    /// What routers are said to have mapped.
    pub(crate) mapped: Vec<Mapping>,
    pub(crate) behavior: Option<NatBehavior>,
    pub(crate) ping: PingState,
    pub(crate) requests: BTreeMap<u32, Request>,
    pub(crate) asked: BTreeSet<TicketId>,
    pub(crate) targeted: BTreeSet<TicketId>,
    pub(crate) paths: PathReports,
}

/// A member has to fit by then, or is rejected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probation {
    pub(crate) until: Instant,
    /// It fails, for this reason; `None` while that is being found out.
    pub(crate) failing: Option<Code>,
}

/// An observed mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) addr: SocketAddr,
    pub(crate) proof: Proof,
}

/// Whether a mapping can be reached unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nobody has tried.
    Untried,
    /// A dial-back did not get through.
    Missing,
    /// One did.
    Given,
}

/// A dial-back that has not been answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialBackRun {
    pub(crate) nonce: DialBackNonce,
    pub(crate) to: SocketAddr,
}

/// Since when it is known where a node was shown to send, and where that was. Outlives its session for as
/// long as it counts, so that a short absence begins nothing anew.
#[derive(Debug)]
pub(crate) struct Quiet {
    pub(crate) since: Instant,
    pub(crate) shown: Shown,
}

/// Members that the broker drew to see whether a node's mapping is open to strangers.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    /// The sites of those that met it.
    pub(crate) sites: BTreeSet<IpAddr>,
    /// How many did not, since the mapping was observed.
    pub(crate) failures: u32,
}

/// The addresses that a node's introductions have shown it, and when last. What it sends to others, it
/// sends there.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    last: BTreeMap<IpAddr, Instant>,
    /// Some had to be forgotten: until then nothing is known.
    lost_until: Option<Instant>,
}

/// Addresses remembered for one node; each introduction shows at most a dozen.
const MAX_SHOWN: usize = 256;

impl Shown {
    pub(crate) fn add(&mut self, now: Instant, ip: IpAddr, memory: Duration) {
        if self.last.len() >= MAX_SHOWN && !self.last.contains_key(&ip) {
            self.last.retain(|_, at| now < *at + memory);
        }
        if self.last.len() >= MAX_SHOWN && !self.last.contains_key(&ip) {
            self.lost_until = Some(now + memory);
        } else {
            self.last.insert(ip, now);
        }
    }

    /// False if it is certain that this address was not shown for so long.
    pub(crate) fn may_have_sent(&self, now: Instant, ip: IpAddr, memory: Duration) -> bool {
        self.lost_until.is_some_and(|until| now < until)
            || self.last.get(&ip).is_some_and(|at| now < *at + memory)
    }
}

/// The control channel's round trip.
#[derive(Debug, Default)]
pub(crate) struct PingState {
    pub(crate) seq: u64,
    /// The one that is not answered yet.
    pub(crate) sent: Option<Instant>,
    /// When the last one was sent.
    pub(crate) asked: Option<Instant>,
    pub(crate) rtt: Option<Duration>,
}

/// Addresses that the relay has lent to a member.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) relayed: Vec<SocketAddr>,
    pub(crate) until: Instant,
}

/// A connect request that has not been answered.
#[derive(Debug)]
pub(crate) struct Request {
    /// The peer's name or id, as the node wrote it.
    pub(crate) peer: String,
    pub(crate) wait: bool,
    /// For the peer. Gone as soon as the request has to wait for it to come.
    pub(crate) handshake: Option<HandshakeStart>,
}

impl Session {
    /// A stay that has just begun: nothing is known but who it is.
    pub(crate) fn new(
        now: Instant,
        id: SessionId,
        (cluster, node, name): (ClusterName, NodeId, NodeName),
        certificate: CertificateText,
        local_ip: IpAddr,
        quiet: Quiet,
    ) -> Self {
        Self {
            id,
            cluster,
            node,
            name,
            ephemeral: false,
            declared: None,
            node_addr: None,
            capabilities: Vec::new(),
            local_ip,
            certificate,
            renewing: false,
            since: now,
            announced: false,
            class: None,
            discovery: None,
            probation: None,
            is_open: false,
            dial_back: None,
            last_dial_back: None,
            has_hurried: false,
            observed: VecDeque::new(),
            quiet,
            witnesses: Witnesses::default(),
            hosts: Vec::new(),
            relays: Vec::new(),
            lent: None,
            wanted_at: None,
            mapped: Vec::new(),
            behavior: None,
            ping: PingState::default(),
            requests: BTreeMap::new(),
            asked: BTreeSet::new(),
            targeted: BTreeSet::new(),
            paths: PathReports::default(),
        }
    }

    pub(crate) fn peer_info(&self) -> PeerInfo {
        PeerInfo {
            id: self.node,
            name: self.name.to_string(),
            class: self.class.map(|found| found.class),
            relayed: self.class.is_some_and(|found| found.relayed),
        }
    }

    pub(crate) fn mappings(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.observed.iter().map(|mapping| mapping.addr)
    }

    pub(crate) fn has_observed(&self, ip: IpAddr) -> bool {
        self.mappings().any(|addr| addr.ip() == ip)
    }

    /// The claimed mappings that count: those whose IP was observed.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = &Mapping> {
        self.mapped.iter().filter(|mapping| self.has_observed(mapping.addr.ip()))
    }

    /// Takes what it says is mapped now; true if that is news. What was found out about a mapping stays.
    pub(crate) fn take_mapped(&mut self, claimed: Vec<SocketAddr>) -> bool {
        let known = |addr: SocketAddr| self.mapped.iter().find(|mapping| mapping.addr == addr).copied();
        let new = |addr| known(addr).unwrap_or(Mapping { addr, proof: Proof::Untried });
        let claimed = claimed.into_iter().map(addr::unmap).filter(|addr| addr.port() != 0);
        let mapped: Vec<Mapping> = claimed.take(MAX_MAPPED_CANDIDATES).map(new).collect();
        let is_news = mapped != self.mapped;
        self.mapped = mapped;
        self.is_open &= !is_news;
        is_news
    }

    /// Nothing is known any more of mappings at addresses that it is not observed at: another node may have them next.
    pub(crate) fn forget_elsewhere(&mut self) {
        let observed: Vec<IpAddr> = self.mappings().map(|addr| addr.ip()).collect();
        for mapping in self.mapped.iter_mut().filter(|mapping| !observed.contains(&mapping.addr.ip())) {
            mapping.proof = Proof::Untried;
        }
    }

    /// Where it may be reached unasked: what was observed, then what is claimed and counts.
    pub(crate) fn reachable_at(&self) -> impl Iterator<Item = &Mapping> {
        self.observed.iter().chain(self.mapped())
    }

    /// A mapping of it that is in use now has been proven to be reachable.
    pub(crate) fn has_proof(&self) -> bool {
        self.reachable_at().any(|mapping| mapping.proof == Proof::Given)
    }

    /// Where it is relayed: as it says itself, and what it has been lent just now.
    pub(crate) fn relayed(&self, now: Instant) -> Vec<SocketAddr> {
        let lent = self.lent.iter().filter(|lent| now < lent.until).flat_map(|lent| &lent.relayed);
        let fresh = lent.filter(|addr| !self.relays.contains(addr));
        self.relays.iter().chain(fresh).copied().take(MAX_RELAY_CANDIDATES).collect()
    }

    /// Proven: it can be reached by whoever knows its mapping.
    pub(crate) fn proven_reachable(&self) -> bool {
        self.class.is_some_and(|found| found.evidence == Evidence::Proven)
    }

    pub(crate) fn view(&self, source: SocketAddr) -> SessionView {
        SessionView {
            session: self.id,
            cluster: self.cluster.clone(),
            node: self.node,
            name: self.name.clone(),
            source,
            class: self.class.map(|found| (found.class, found.evidence)),
            relayed: self.class.is_some_and(|found| found.relayed),
            on_probation: self.probation.is_some_and(|probation| probation.failing.is_some()),
            observed: self.mappings().collect(),
            behavior: self.behavior,
            rtt: self.ping.rtt,
            since: self.since,
        }
    }
}

/// A cluster and who is present in it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: ClusterConfig,
    pub(crate) relay: Arc<RelayAccess>,
    pub(crate) members: BTreeMap<NodeId, ConnId>,
    pub(crate) names: BTreeMap<NodeName, ConnId>,
    /// Members in the directory.
    pub(crate) announced: BTreeSet<ConnId>,
    /// The directory as it is sent, in pages; `None` after it has changed. Newcomers are many, and changes few.
    pub(crate) directory: Option<Vec<Arc<str>>>,
    /// Requests by the name or id that they wait for.
    pub(crate) waiting: BTreeMap<String, BTreeSet<(ConnId, u32)>>,
    /// When the last certificate of each removed node ends, in seconds since 1970.
    pub(crate) revoked: BTreeMap<NodeId, u64>,
    /// The same in the order of their ends, as members are told.
    pub(crate) revocations: BTreeMap<(u64, NodeId), Option<RevocationText>>,
}

impl Cluster {
    pub(crate) fn new(config: ClusterConfig, relay: Arc<RelayAccess>) -> Self {
        Self {
            config,
            relay,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            announced: BTreeSet::new(),
            directory: None,
            waiting: BTreeMap::new(),
            revoked: BTreeMap::new(),
            revocations: BTreeMap::new(),
        }
    }

    /// The credential as a member is told it: in effectively PUBLIC clusters only.
    pub(crate) fn stun_access(&self, credential: Option<StunCredential>) -> Option<StunAccess> {
        let credential = credential.filter(|_| self.config.effective == EffectiveNetwork::Public)?;
        let StunCredential { username, password, stream_nonce } = credential;
        let relay = &self.relay;
        Some(StunAccess {
            servers: self.config.stun.clone(),
            username,
            password,
            relay: relay.ips.clone(),
            tcp: relay.tcp,
            tls: relay.tls,
            stream_nonce: stream_nonce.filter(|_| relay.tcp.is_some() || relay.tls.is_some()),
        })
    }

    /// The revocations a newcomer is told; forgets those that have ended.
    pub(crate) fn newest_revocations(&mut self, now_unix_s: u64) -> Vec<RevocationText> {
        while let Some(((until_s, _), _)) = self.revocations.first_key_value()
            && *until_s <= now_unix_s
        {
            self.forget_first_revocation();
        }
        self.revocations.values().rev().flatten().take(MAX_REVOCATIONS).cloned().collect()
    }

    /// The node was removed. At home that holds whatever it shows; elsewhere a certificate that ends later was made
    /// after the removal.
    pub(crate) fn is_revoked(&self, node: &NodeId, not_after_unix_s: u64) -> bool {
        let is_home = self.config.home.is_none();
        self.revoked.get(node).is_some_and(|until_s| is_home || not_after_unix_s <= *until_s)
    }

    pub(crate) fn forget_first_revocation(&mut self) {
        if let Some(((_, node), _)) = self.revocations.pop_first() {
            self.revoked.remove(&node);
        }
    }

    /// The member a node means by a name or id.
    pub(crate) fn find(&self, peer: &str) -> Option<ConnId> {
        let by_name = peer.parse::<NodeName>().ok().and_then(|name| self.names.get(&name));
        let by_id = || peer.parse::<NodeId>().ok().and_then(|id| self.members.get(&id));
        by_name.or_else(by_id).copied()
    }

    pub(crate) fn stop_waiting(&mut self, peer: &str, waiter: (ConnId, u32)) {
        if let Some(set) = self.waiting.get_mut(peer) {
            set.remove(&waiter);
            if set.is_empty() {
                self.waiting.remove(peer);
            }
        }
    }
}

/// One introduction under way.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) cluster: ClusterName,
    pub(crate) asker: ConnId,
    pub(crate) target: ConnId,
    /// Who they are, in this order.
    pub(crate) nodes: [NodeId; 2],
    /// One side has said that a direct path works, after so long.
    pub(crate) direct_after: Option<Duration>,
    /// Not both sides had told what their NATs do.
    pub(crate) is_blind: bool,
    pub(crate) unsolicited: Unsolicited,
}

/// Whether a ticket can show, and has shown, that the target is met without having sent anything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unsolicited {
    /// The target waits, was shown none of the asker's addresses for as long as counts, and did not choose
    /// the asker.
    pub(crate) possible: bool,
    /// The broker drew the asker.
    pub(crate) drawn: bool,
    /// The target says that a check came from where it had sent nothing to.
    pub(crate) target: bool,
    /// The asker says that the way works.
    pub(crate) asker: bool,
}

/// What the broker's clock is set for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Handshake(ConnId),
    Idle(ConnId),
    Ping(ConnId),
    /// The certificate ends.
    Membership(ConnId),
    /// Observation, then dial-backs: one at a time.
    Discovery(ConnId),
    Probation(ConnId),
    Request(ConnId, u32),
    Ticket(TicketId),
    /// The next stranger is to meet a reachable node.
    Witness(ConnId),
    /// Where a node was shown to send no longer counts.
    Quiet(ClusterName, NodeId),
    Forget(ClusterName, NodeId),
}
