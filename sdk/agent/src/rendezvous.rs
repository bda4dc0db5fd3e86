//! Meeting peers while the server is away, by the introduction of a peer that both have a path to.
//!
//! The dialogue and who trusts whom in it are told in [`meetpoint_proto::meet`]. This is the guest's side: it opens a
//! connection to a few peers that may introduce it, asks them what it would ask the server, and makes of two
//! signed halves what a server's introduction is. From there on a ticket is a ticket.
//!
//! While the control connection is open none of this happens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::meet::{
    AgreementSecret, GuestMessage, HALF_LIFETIME_MS, Half, IntroducerMessage, MAX_HALF_CANDIDATES, Meeting,
};
use meetpoint_proto::wire::{Candidate, CandidateKind, CertificateText, Introduction};
use meetpoint_proto::{
    Certificate, ClusterName, EffectiveNetwork, Evidence, NetworkClass, NodeId, PublicKey, Signature,
    TicketId,
};

use crate::agent::{Agent, Timer};
use crate::api::{Output, PathKind};
use crate::defence::{Defence, Defences};
use crate::env::millis;

/// Introducers at once. More would hardly know other peers, and each costs a connection.
const MAX_INTRODUCERS: usize = 4;
/// From the loss of the server: one that restarts is back by then.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between two looks at who could introduce.
const LOOK: Duration = Duration::from_secs(2);
/// A peer that does not introduce is not asked again for so long.
const REST: Duration = Duration::from_secs(30);
/// Halves given and not answered.
const MAX_MEETINGS: usize = 32;
/// Halves that one introducer can have of this node within [`WINDOW`], and those for one peer. The punch of each is
/// bounded like any other; this bounds how many there are.
const MAX_HALVES: u32 = 32;
const MAX_HALVES_PER_PEER: u32 = 8;
const WINDOW: Duration = Duration::from_secs(60);
/// Peers whose class is remembered; a server announces 100.
const MAX_CLASSES: usize = 1_024;

/// What a node that introduces its peers has to know.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Its cluster, which is effectively PUBLIC.
    pub cluster: ClusterName,
    /// By which certificates are signed.
    pub cluster_key: PublicKey,
    /// Removed members, and until when their certificates may hold, in seconds since 1970.
    pub revoked: Vec<(NodeId, u64)>,
    /// The server's clock, in milliseconds since 1970.
    pub now_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Resting { until: Instant },
}

/// A half that was given and waits for the other.
#[derive(Debug)]
struct Given {
    introducer: NodeId,
    requests: Vec<u32>,
    certificate: CertificateText,
    secret: AgreementSecret,
    half: Half,
    until: Instant,
}

/// How many of something there were in the present window.
#[derive(Debug, Clone, Copy)]
struct Spent {
    window: Instant,
    count: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rendezvous {
    introducers: BTreeMap<NodeId, State>,
    /// What the server has said of peers: anybody can reach them, or not.
    classes: BTreeMap<NodeId, bool>,
    /// What it has said of this node.
    own_class: Option<(NetworkClass, Evidence)>,
    observed: Option<SocketAddr>,
    given: BTreeMap<TicketId, Given>,
    by_introducer: BTreeMap<NodeId, Spent>,
    by_peer: BTreeMap<NodeId, Spent>,
    pub(crate) defences: Defences,
}

impl Rendezvous {
    pub(crate) fn classified(
        &mut self,
        class: NetworkClass,
        evidence: Evidence,
        observed: Option<SocketAddr>,
    ) {
        self.own_class = Some((class, evidence));
        self.observed = observed.map(addr::unmap).or(self.observed);
    }

    /// This node is somewhere else: what it was proven to be it was there.
    pub(crate) fn moved(&mut self) {
        self.own_class = None;
    }

    pub(crate) fn peer_classified(&mut self, peer: NodeId, class: Option<NetworkClass>) {
        let Some(class) = class else { return };
        if self.classes.len() < MAX_CLASSES || self.classes.contains_key(&peer) {
            self.classes.insert(peer, class.is_public_and_reachable());
        }
    }

    fn open(&self) -> Vec<NodeId> {
        let open = self.introducers.iter().filter(|(_, state)| **state == State::Open);
        open.map(|(peer, _)| *peer).collect()
    }
}

/// Counts one more; false if there have been too many. Entries of earlier windows are forgotten.
fn spend(table: &mut BTreeMap<NodeId, Spent>, now: Instant, who: NodeId, most: u32) -> bool {
    table.retain(|_, spent| now < spent.window + WINDOW);
    let spent = table.entry(who).or_insert(Spent { window: now, count: 0 });
    spent.count += 1;
    spent.count <= most
}

impl Agent {
    /// What this node needs to introduce its peers; `None` if it must not: whoever does has been proven to be reachable
    /// by anybody, in a cluster that is effectively PUBLIC.
    #[must_use]
    pub fn serving(&self, now: Instant) -> Option<Serving> {
        let membership = self.membership.as_ref()?;
        let is_public = membership.effective == EffectiveNetwork::Public && !self.env.sealed();
        let is_proven = |(class, evidence): (NetworkClass, Evidence)| {
            class.is_public_and_reachable() && evidence == Evidence::Proven
        };
        self.rendezvous.own_class.filter(|own| is_public && is_proven(*own))?;
        Some(Serving {
            cluster: self.env.config.cluster.clone(),
            cluster_key: membership.cluster_key,
            revoked: self.revoked.iter().map(|(node, until_unix_s)| (*node, *until_unix_s)).collect(),
            now_unix_ms: membership.clock.unix_ms(now),
        })
    }

    /// Switches a defence off, to show the attack it is for.
    #[cfg(feature = "attack-tests")]
    pub fn set_defence_off(&mut self, which: Defence) {
        self.rendezvous.defences.off = Some(which);
    }

    /// The server is gone.
    pub(crate) fn server_lost(&mut self, now: Instant) {
        self.timers.set(Timer::Introducers, Some(now + FIRST_LOOK));
    }

    /// It is there again, or the cluster no longer has anything to do with the outside.
    pub(crate) fn end_introducers(&mut self) {
        self.timers.set(Timer::Introducers, None);
        self.rendezvous.given.clear();
        for (peer, state) in std::mem::take(&mut self.rendezvous.introducers) {
            if !matches!(state, State::Resting { .. }) {
                self.env.push(Output::CloseIntroducer { peer });
            }
        }
    }

    /// Opens connections to peers that may introduce this node, as far as there are none.
    pub(crate) fn look_for_introducers(&mut self, now: Instant) {
        let is_private = self.reach.as_ref().is_none_or(|reach| reach.private_only);
        if self.control.is_member() || is_private {
            return self.end_introducers();
        }
        self.timers.set(Timer::Introducers, Some(now + LOOK));
        self.rendezvous.given.retain(|_, given| now < given.until);
        let is_direct = |peer: &NodeId| {
            self.links.get(peer).is_some_and(|link| link.is_open() && link.kind() == Some(PathKind::Direct))
        };
        let is_over = |peer: &NodeId, state: &State| match state {
            State::Opening | State::Open => !is_direct(peer),
            State::Resting { until } => now >= *until,
        };
        let introducers = self.rendezvous.introducers.iter();
        let over: Vec<(NodeId, State)> = introducers
            .filter(|(peer, state)| is_over(peer, state))
            .map(|(peer, state)| (*peer, *state))
            .collect();
        // Those whom the server has called reachable first, then those of whom it has said nothing.
        let class = |peer: &NodeId| self.rendezvous.classes.get(peer).copied();
        let peers = self.links.keys().filter(|peer| {
            is_direct(peer) && class(peer) != Some(false) && !self.rendezvous.introducers.contains_key(*peer)
        });
        let mut peers: Vec<NodeId> = peers.copied().collect();
        peers.sort_by_key(|peer| (class(peer).is_none(), *peer));
        for (peer, state) in over {
            self.rendezvous.introducers.remove(&peer);
            if !matches!(state, State::Resting { .. }) {
                self.env.push(Output::CloseIntroducer { peer });
            }
        }
        let is_asked = |state: &&State| !matches!(state, State::Resting { .. });
        let asked = self.rendezvous.introducers.values().filter(is_asked).count();
        for peer in peers.into_iter().take(MAX_INTRODUCERS.saturating_sub(asked)) {
            self.rendezvous.introducers.insert(peer, State::Opening);
            self.env.push(Output::OpenIntroducer { peer });
        }
    }

    /// The connection to a peer is open, or could not be opened, or has ended.
    pub(crate) fn introducer_opened(&mut self, now: Instant, peer: NodeId, is_open: bool) {
        let Some(state) = self.rendezvous.introducers.get_mut(&peer) else { return };
        if !is_open {
            *state = State::Resting { until: now + REST };
            return;
        }
        let Some(membership) = self.membership.as_ref().filter(|_| *state == State::Opening) else { return };
        *state = State::Open;
        let certificate = Box::new(membership.certificate.clone());
        self.tell_introducer(peer, GuestMessage::Hello { certificate });
        for number in self.requests.unanswered() {
            self.ask_introducer(peer, number);
        }
    }

    fn tell_introducer(&mut self, peer: NodeId, message: GuestMessage) {
        self.env.push(Output::ToIntroducer { peer, message });
    }

    fn ask_introducer(&mut self, introducer: NodeId, number: u32) {
        let Some(request) = self.requests.get(number) else { return };
        let message = GuestMessage::Connect { request: number, peer: request.peer().to_owned() };
        self.tell_introducer(introducer, message);
    }

    /// Has whoever can introduce this node to the peer of a request.
    pub(crate) fn ask_introducers(&mut self, number: u32) {
        for introducer in self.rendezvous.open() {
            self.ask_introducer(introducer, number);
        }
    }

    /// Has them forget it.
    pub(crate) fn withdraw_request(&mut self, number: u32) {
        for introducer in self.rendezvous.open() {
            self.tell_introducer(introducer, GuestMessage::Cancel { request: number });
        }
    }

    pub(crate) fn introducer_said(&mut self, now: Instant, introducer: NodeId, message: IntroducerMessage) {
        if self.rendezvous.introducers.get(&introducer) != Some(&State::Open) || self.control.is_member() {
            return;
        }
        match message {
            IntroducerMessage::Meeting(meeting) => {
                if self.give_half(now, introducer, *meeting).is_none() {
                    self.env.counters.meetings_refused += 1;
                }
            }
            IntroducerMessage::Half(half) => {
                if self.take_half(now, introducer, &half).is_none() {
                    self.env.counters.halves_refused += 1;
                }
            }
            // The request stays open: another one may introduce the two, and the server when it is back.
            IntroducerMessage::Refused { .. } | IntroducerMessage::Unknown => {}
        }
    }

    /// Signs this node's half of a ticket, if the proposal makes sense. Nothing is sent to the peer by this.
    fn give_half(&mut self, now: Instant, introducer: NodeId, meeting: Meeting) -> Option<()> {
        let defences = self.rendezvous.defences;
        let peer = self.guest_certificate(now, &meeting.certificate)?;
        let is_fresh = !self.used_tickets.contains(&meeting.ticket)
            && !self.rendezvous.given.contains_key(&meeting.ticket);
        if !is_fresh && defences.stand(Defence::FreshHalf) {
            return None;
        }
        let in_budget = spend(&mut self.rendezvous.by_introducer, now, introducer, MAX_HALVES)
            & spend(&mut self.rendezvous.by_peer, now, peer.node, MAX_HALVES_PER_PEER);
        let has_room = self.rendezvous.given.len() < MAX_MEETINGS;
        if !(in_budget && has_room) && defences.stand(Defence::MeetingBudget) {
            return None;
        }
        let candidates = self.half_candidates(&meeting)?;
        let membership = self.membership.as_ref()?;
        let is_meant = |number: &u32| {
            self.requests.get(*number).is_some_and(|request| request.means(&peer.node, &peer.name))
        };
        let requests: Vec<u32> = meeting.requests.into_iter().filter(is_meant).collect();
        let not_after_unix_ms = membership.clock.unix_ms(now).saturating_add(HALF_LIFETIME_MS);
        let secret = AgreementSecret::from_random(self.env.random());
        let half = Half {
            ticket: meeting.ticket,
            introducer,
            from: self.id,
            to: peer.node,
            asks: !requests.is_empty(),
            key: secret.key(),
            candidates,
            not_after_unix_ms,
            signature: Signature::from_bytes([0; Signature::LEN]),
        };
        let half = half.signed(&self.env.config.cluster, &self.env.config.key);
        let message = GuestMessage::Half(Box::new(half.clone()));
        let until = now + Duration::from_millis(HALF_LIFETIME_MS);
        let certificate = meeting.certificate;
        let given = Given { introducer, requests, certificate, secret, half, until };
        self.rendezvous.given.insert(meeting.ticket, given);
        self.tell_introducer(introducer, message);
        Some(())
    }

    /// Who the other end is, if it is a member.
    fn guest_certificate(&self, now: Instant, text: &CertificateText) -> Option<Certificate> {
        let verified = self.verify_peer(now, text).ok();
        if verified.is_none() && !self.rendezvous.defences.stand(Defence::PeerCertificate) {
            return Some(Certificate {
                cluster: self.env.config.cluster.clone(),
                node: text.node_id,
                name: text.name.parse().ok()?,
                not_before_unix_s: text.not_before_unix_s,
                not_after_unix_s: text.not_after_unix_s,
                capabilities: Vec::new(),
            });
        }
        verified
    }

    /// Where this node can be met: where the introducer sees it, if the server has seen it at that IP or the machine
    /// itself has it; what its router has mapped there; and its own addresses for a peer that may share its link.
    fn half_candidates(&self, meeting: &Meeting) -> Option<Vec<SocketAddr>> {
        let reach = self.reach.as_ref()?;
        let observed = addr::unmap(meeting.observed);
        let is_known = self.network.has_ip(observed.ip())
            || self.membership.as_ref().is_some_and(|membership| membership.observed == observed.ip())
            || self.rendezvous.observed.is_some_and(|known| known.ip() == observed.ip());
        let is_public = addr::classify(observed.ip()) == AddressClass::Public && observed.port() != 0;
        if !is_public || (!is_known && self.rendezvous.defences.stand(Defence::KnownAddress)) {
            return None;
        }
        let mapped = self.mapped.iter().chain(&self.env.config.node_addr).copied();
        let mut candidates = vec![observed];
        candidates.extend(mapped.filter(|mapped| mapped.ip() == observed.ip() && *mapped != observed));
        if meeting.near {
            let hosts = self.network.candidates(reach);
            let is_private = |host: &SocketAddr| addr::classify(host.ip()) == AddressClass::Private;
            candidates.extend(hosts.into_iter().filter(is_private));
        }
        candidates.truncate(MAX_HALF_CANDIDATES);
        Some(candidates)
    }

    /// The other end has signed too: from here on this is a ticket like the server's.
    fn take_half(&mut self, now: Instant, introducer: NodeId, half: &Half) -> Option<()> {
        let now_unix_ms = self.membership.as_ref()?.clock.unix_ms(now);
        let defences = self.rendezvous.defences;
        let given = self.rendezvous.given.get(&half.ticket)?;
        let peer = given.certificate.node_id;
        let is_for_this = given.introducer == introducer
            && (half.introducer, half.from, half.to) == (introducer, peer, self.id)
            && half.candidates.len() <= MAX_HALF_CANDIDATES;
        let is_asked = given.half.asks || half.asks || !defences.stand(Defence::Asked);
        let is_fresh = half.is_fresh(now_unix_ms) && now < given.until || !defences.stand(Defence::FreshHalf);
        let is_signed = half.is_signed(&self.env.config.cluster) || !defences.stand(Defence::SignedHalf);
        if !(is_for_this && is_asked && is_fresh && is_signed) {
            return None;
        }
        let (send_key, recv_key) = given.secret.agree(&given.half, half)?;
        let given = self.rendezvous.given.remove(&half.ticket)?;
        if !defences.stand(Defence::FreshHalf) {
            self.used_tickets.remove(&half.ticket);
        }
        let candidate = |addr: &SocketAddr| Candidate { kind: CandidateKind::Srflx, addr: *addr };
        self.env.counters.meetings += 1;
        let introduction = Introduction {
            requests: given.requests,
            ticket: half.ticket,
            certificate: given.certificate,
            candidates: half.candidates.iter().map(candidate).collect(),
            send_key,
            recv_key,
            start_in_ms: 0,
            expires_in_ms: u32::try_from(millis(given.until.saturating_duration_since(now))).ok()?,
            active: true,
            own: None,
            peer: None,
            window: None,
            peer_rtt_ms: None,
            probe: false,
            handshake: None,
        };
        self.introduced_by_peer(now, &introduction);
        Some(())
    }

    fn introduced_by_peer(&mut self, now: Instant, introduction: &Introduction) {
        let peer = self.guest_certificate(now, &introduction.certificate);
        match peer {
            Some(peer) if self.take_ticket(&peer.node, introduction.ticket).is_ok() => {
                self.start_ticket(now, introduction, &peer);
            }
            // The requests stay open.
            _ => self.env.counters.tickets_refused += 1,
        }
    }
}
