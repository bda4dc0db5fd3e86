//! Introductions: who is shown to whom, where, and with which keys.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hkdf::Hkdf;
use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::wire::{
    Candidate, CandidateKind, Introduction, MAX_GUESSED_PORTS, MAX_RELAY_CANDIDATES, PortWindow, Refusal,
    ServerMessage, TicketOutcome,
};
use meetpoint_proto::{
    Allocator, Code, EffectiveNetwork, HandshakeStart, Mapping, NatBehavior, NodeId, SessionId, TicketId,
    TicketKey,
};
use sha2::Sha256;

use crate::api::{ConnId, Event, Output};
use crate::defence::Defence;
use crate::state::{Lent, Request, Session, Ticket, Timer, Unsolicited};
use crate::{Broker, millis};

/// Longest name or id a node can ask for: an id has 52 characters, a name 63.
const MAX_PEER_LEN: usize = 64;
/// What the relay has lent counts so long without the node's own word, which is a round trip behind; and counts no
/// longer if the node has let it go before it could say anything of it.
const LENT_FOR: Duration = Duration::from_secs(3);

/// Why two nodes are introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// One asked for the other, and may have begun a handshake.
    Asked(u32, Option<HandshakeStart>),
    /// The broker drew one as a witness for the other.
    Witness,
    /// More is known about their NATs, or of where they are, than when they were introduced before.
    Known,
}

/// What stands between a request and its introduction.
enum Obstacle {
    /// The peer is not here.
    Absent,
    /// One side has no address yet.
    NoCandidates,
    /// It will never work, or not now.
    Refused(Code),
}

impl Broker {
    pub(crate) fn connect(&mut self, now: Instant, conn: ConnId, request: u32, asked: Request) {
        let most = self.limits.requests_per_session;
        let Some(session) = self.session_mut(conn) else { return };
        let is_too_long = asked.peer.len() > MAX_PEER_LEN;
        if session.requests.len() >= most || is_too_long {
            let code = if is_too_long { Code::UnknownPeer } else { Code::TooManyIntroductions };
            return self.fail(conn, request, code);
        }
        session.requests.insert(request, asked);
        self.attempt(now, conn, request);
    }

    pub(crate) fn cancel(&mut self, conn: ConnId, request: u32) {
        self.take_request(conn, request);
    }

    /// Introduces, parks or refuses a request.
    fn attempt(&mut self, now: Instant, conn: ConnId, request: u32) {
        let Some(session) = self.session(conn) else { return };
        let Some(Request { peer, wait, .. }) = session.requests.get(&request) else { return };
        let (peer, wait) = (peer.clone(), *wait);
        match self.find_pair(now, conn, &peer) {
            Ok(target) => {
                let handshake = self.take_request(conn, request).and_then(|asked| asked.handshake);
                self.introduce(now, conn, target, Cause::Asked(request, handshake));
            }
            Err(Obstacle::Absent) if wait => {
                self.drop_handshake(conn, request, true);
                self.park(conn, request, peer);
            }
            Err(Obstacle::Absent) => self.fail(conn, request, Code::PeerOffline),
            Err(Obstacle::Refused(code)) => self.fail(conn, request, code),
            Err(Obstacle::NoCandidates) => {
                self.tell_wanted(now, conn, &peer);
                self.drop_handshake(conn, request, false);
                self.park(conn, request, peer);
                self.timers.set(Timer::Request(conn, request), Some(now + self.limits.candidate_timeout));
            }
        }
    }

    /// The peer's connection, if an introduction is possible now.
    fn find_pair(&self, now: Instant, conn: ConnId, peer: &str) -> Result<ConnId, Obstacle> {
        let asker = self.session(conn).ok_or(Obstacle::Absent)?;
        let cluster = self.clusters.get(&asker.cluster).ok_or(Obstacle::Absent)?;
        let target_conn = cluster.find(peer).ok_or(Obstacle::Absent)?;
        if target_conn == conn {
            return Err(Obstacle::Refused(Code::SelfConnect));
        }
        let target = self.session(target_conn).ok_or(Obstacle::Absent)?;
        if !self.has_room(asker, target) {
            return Err(Obstacle::Refused(Code::TooManyIntroductions));
        }
        let effective = cluster.config.effective;
        if is_nowhere(now, effective, asker, target) || is_nowhere(now, effective, target, asker) {
            return Err(Obstacle::NoCandidates);
        }
        Ok(target_conn)
    }

    /// Tells a member that somebody waits for it to be somewhere: it need not wait for UDP then until it is sure that
    /// nothing comes.
    fn tell_wanted(&mut self, now: Instant, asker: ConnId, peer: &str) {
        let has_streams = self.relay.tcp.is_some() || self.relay.tls.is_some();
        let pause = self.limits.candidate_timeout;
        let Some(asker) = self.session(asker).filter(|_| has_streams) else { return };
        let Some(cluster) = self.clusters.get(&asker.cluster) else { return };
        let effective = cluster.config.effective;
        let Some(conn) = cluster.find(peer) else { return };
        let is_lost = |target: &&Session| {
            is_nowhere(now, effective, target, asker) && target.wanted_at.is_none_or(|at| at + pause <= now)
        };
        if effective != EffectiveNetwork::Public || self.session(conn).filter(is_lost).is_none() {
            return;
        }
        if let Some(target) = self.session_mut(conn) {
            target.wanted_at = Some(now);
        }
        self.send(conn, ServerMessage::Wanted);
    }

    /// What a handshake begins with is not kept for a peer that comes later, or never; and of a session's requests that
    /// wait for addresses, only one keeps it.
    fn drop_handshake(&mut self, conn: ConnId, request: u32, is_absent: bool) {
        let Some(session) = self.session_mut(conn) else { return };
        let has_begun = |(number, asked): (&u32, &Request)| *number != request && asked.handshake.is_some();
        let is_dropped = is_absent || session.requests.iter().any(has_begun);
        if let Some(asked) = session.requests.get_mut(&request).filter(|_| is_dropped) {
            asked.handshake = None;
        }
    }

    fn park(&mut self, conn: ConnId, request: u32, peer: String) {
        let Some(session) = self.session(conn) else { return };
        let cluster = session.cluster.clone();
        if let Some(cluster) = self.clusters.get_mut(&cluster) {
            cluster.waiting.entry(peer).or_default().insert((conn, request));
        }
    }

    pub(crate) fn request_timeout(&mut self, conn: ConnId, request: u32) {
        self.fail(conn, request, Code::NoCandidates);
    }

    fn fail(&mut self, conn: ConnId, request: u32, code: Code) {
        self.take_request(conn, request);
        let mut refusal = Refusal::new(code);
        if code == Code::TooManyIntroductions {
            refusal = refusal.retry_after_ms(millis(self.limits.ticket_lifetime));
        }
        self.send(conn, ServerMessage::ConnectFailed { request, refusal });
    }

    fn take_request(&mut self, conn: ConnId, request: u32) -> Option<Request> {
        self.timers.set(Timer::Request(conn, request), None);
        let session = self.session_mut(conn)?;
        let asked = session.requests.remove(&request)?;
        let cluster = session.cluster.clone();
        if let Some(cluster) = self.clusters.get_mut(&cluster) {
            cluster.stop_waiting(&asked.peer, (conn, request));
        }
        Some(asked)
    }

    /// Something changed at this member: whoever waits for it may go on.
    pub(crate) fn retry_waiting_for(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        let Some(cluster) = self.clusters.get(&session.cluster) else { return };
        let keys = [session.name.to_string(), session.node.to_string()];
        let sets = keys.iter().filter_map(|key| cluster.waiting.get(key));
        let waiters: Vec<(ConnId, u32)> = sets.flatten().copied().collect();
        for (waiter, request) in waiters {
            self.attempt(now, waiter, request);
        }
    }

    /// Something changed at this member: its own requests may go on.
    pub(crate) fn retry_own(&mut self, now: Instant, conn: ConnId) {
        let requests: Vec<u32> =
            self.session(conn).map(|session| session.requests.keys().copied().collect()).unwrap_or_default();
        for request in requests {
            self.attempt(now, conn, request);
        }
    }

    /// Mints a ticket and sends each side its half.
    pub(crate) fn introduce(&mut self, now: Instant, asker_conn: ConnId, target_conn: ConnId, cause: Cause) {
        let ticket = TicketId::from_bytes(self.random());
        let secret: [u8; 32] = self.random();
        let (Some(asker), Some(target)) = (self.session(asker_conn), self.session(target_conn)) else {
            return;
        };
        let Some(cluster) = self.clusters.get(&asker.cluster) else { return };
        let effective = cluster.config.effective;
        let to_target = direction_key(&secret, &ticket, &asker.node, &target.node);
        let to_asker = direction_key(&secret, &ticket, &target.node, &asker.node);
        let drawn = cause == Cause::Witness;
        let expires_in_ms = u32::try_from(millis(self.limits.ticket_lifetime)).unwrap_or(u32::MAX);
        let half = |own: &Session, peer: &Session, send_key, recv_key, requests, active| Introduction {
            requests,
            ticket,
            certificate: peer.certificate.clone(),
            candidates: candidates(effective, peer, own),
            send_key,
            recv_key,
            start_in_ms: head_start_ms(own, peer),
            expires_in_ms,
            active,
            own: own.behavior,
            peer: peer.behavior,
            window: window(effective, peer),
            peer_rtt_ms: peer.ping.rtt.and_then(|rtt| u32::try_from(millis(rtt)).ok()),
            probe: drawn,
            handshake: None,
        };
        // A reachable node need not open anything, and by staying silent it learns that it can
        // be reached unasked. If both are reachable the one that asked sends.
        let asker_active = !asker.proven_reachable() || target.proven_reachable();
        let target_active = !target.proven_reachable();
        let (requests, handshake) = match cause {
            Cause::Asked(request, handshake) => (vec![request], handshake),
            Cause::Witness | Cause::Known => (Vec::new(), None),
        };
        let for_asker = half(asker, target, to_target, to_asker, requests, asker_active);
        let mut for_target = half(target, asker, to_asker, to_target, Vec::new(), target_active);
        for_target.handshake = handshake;
        let (shown_to_asker, shown_to_target) = (ips(&for_asker), ips(&for_target));
        let memory = self.limits.unsolicited_after;
        let possible = !target_active
            && (drawn || !self.defences.stand(Defence::DrawnWitness))
            && now >= target.quiet.since + memory
            && shown_to_target.iter().all(|ip| !target.quiet.shown.may_have_sent(now, *ip, memory));
        let event = Event::Introduced {
            cluster: asker.cluster.clone(),
            ticket,
            from: asker.node,
            to: target.node,
            sessions: [asker.id, target.id],
        };
        let record = Ticket {
            cluster: asker.cluster.clone(),
            asker: asker_conn,
            target: target_conn,
            nodes: [asker.node, target.node],
            direct_after: None,
            is_blind: asker.behavior.is_none() || target.behavior.is_none(),
            unsolicited: Unsolicited { possible, drawn, ..Unsolicited::default() },
        };
        self.tickets.insert(ticket, record);
        self.note_pair(now, [asker_conn, target_conn], ticket);
        self.timers.set(Timer::Ticket(ticket), Some(now + self.limits.ticket_lifetime));
        self.send_halves(now, ticket, (asker_conn, for_asker), (target_conn, for_target));
        self.outputs.push_back(Output::Event(event));
        if let Some(asker) = self.session_mut(asker_conn) {
            asker.asked.insert(ticket);
            shown_to_asker.into_iter().for_each(|ip| asker.quiet.shown.add(now, ip, memory));
        }
        if let Some(target) = self.session_mut(target_conn) {
            target.targeted.insert(ticket);
            shown_to_target.into_iter().for_each(|ip| target.quiet.shown.add(now, ip, memory));
        }
    }

    /// Sends each side its half of a ticket, and where the other is relayed.
    fn send_halves(
        &mut self,
        now: Instant,
        ticket: TicketId,
        asker: (ConnId, Introduction),
        target: (ConnId, Introduction),
    ) {
        // Who has begun a handshake is told first: it is to let the answer in, at its relay.
        let has_begun = target.1.handshake.is_some();
        let (first, second) = if has_begun { (asker, target) } else { (target, asker) };
        let (one, other) = (first.0, second.0);
        for (to, half) in [first, second] {
            self.send(to, ServerMessage::Introduction(Box::new(half)));
        }
        self.show_relays(now, other, one, ticket);
        self.show_relays(now, one, other, ticket);
    }

    /// A node says where it is relayed. Only addresses of this server's relay count, so that nobody is sent
    /// elsewhere. Whoever is just meeting the node is told at once: it had the allocation made for that.
    pub(crate) fn relay_candidates(&mut self, now: Instant, conn: ConnId, relays: Vec<SocketAddr>) {
        let relays = self.own_relays(relays);
        let Some(session) = self.session_mut(conn) else { return };
        let before = session.relayed(now);
        session.lent.take_if(|lent| lent.relayed.iter().all(|addr| relays.contains(addr)));
        session.relays = relays;
        self.show_if_changed(now, conn, &before);
    }

    /// The relay has lent a node addresses: who waits for the node, or is meeting it, need not wait until it has been
    /// told of them and says so.
    pub(crate) fn allocated(&mut self, now: Instant, session: SessionId, relayed: Vec<SocketAddr>) {
        let Some(&conn) = self.sessions.get(&session) else { return };
        let relayed = self.own_relays(relayed);
        let Some(session) = self.session_mut(conn) else { return };
        let before = session.relayed(now);
        session.lent = Some(Lent { relayed, until: now + LENT_FOR });
        self.show_if_changed(now, conn, &before);
        self.retry_own(now, conn);
        self.retry_waiting_for(now, conn);
    }

    /// Those that are at this server's relay.
    fn own_relays(&self, relays: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let fits = |addr: &SocketAddr| addr.port() != 0 && self.relay.ips.contains(&addr.ip());
        relays.into_iter().map(addr::unmap).filter(fits).take(MAX_RELAY_CANDIDATES).collect()
    }

    /// Shows where a node is relayed to those who are meeting it, unless they know.
    fn show_if_changed(&mut self, now: Instant, conn: ConnId, before: &[SocketAddr]) {
        let Some(session) = self.session(conn) else { return };
        if session.relayed(now) == before {
            return;
        }
        let tickets: Vec<TicketId> = session.asked.iter().chain(&session.targeted).copied().collect();
        for ticket in tickets {
            let Some(record) = self.tickets.get(&ticket) else { continue };
            let other = if record.asker == conn { record.target } else { record.asker };
            self.show_relays(now, conn, other, ticket);
        }
    }

    /// Tells one side of a ticket where the other is relayed.
    fn show_relays(&mut self, now: Instant, of: ConnId, to: ConnId, ticket: TicketId) {
        let Some(session) = self.session(of) else { return };
        let candidate = |addr| Candidate { kind: CandidateKind::Relay, addr };
        let candidates: Vec<Candidate> = session.relayed(now).into_iter().map(candidate).collect();
        if candidates.is_empty() {
            return;
        }
        self.send(to, ServerMessage::Candidates { ticket, candidates });
    }

    /// A member has told what its NAT does. Tickets do not wait for that; but where a symmetric NAT is in between, one
    /// that was minted before it was known is followed by another, which knows.
    pub(crate) fn behavior_told(&mut self, now: Instant, conn: ConnId, behavior: NatBehavior) {
        let Some(session) = self.session_mut(conn) else { return };
        session.behavior = Some(behavior);
        let cluster = session.cluster.clone();
        if let Some(source) = self.conns.get(&conn).map(|conn| conn.source.ip()) {
            self.hints.note(now, &cluster, source, behavior);
        }
        let Some(session) = self.session(conn) else { return };
        let tickets: Vec<TicketId> = session.asked.iter().chain(&session.targeted).copied().collect();
        for ticket in tickets {
            let Some(record) = self.tickets.get(&ticket) else { continue };
            let (asker_conn, target_conn) = (record.asker, record.target);
            if !record.is_blind || record.direct_after.is_some() {
                continue;
            }
            let (Some(asker), Some(target)) = (self.session(asker_conn), self.session(target_conn)) else {
                continue;
            };
            let both = asker.behavior.is_some() && target.behavior.is_some();
            let has_room = self.has_room(asker, target);
            let effective = self.clusters.get(&asker.cluster).map(|cluster| cluster.config.effective);
            let is_symmetric = effective.is_some_and(|effective| {
                window(effective, asker).is_some() || window(effective, target).is_some()
            });
            if let Some(record) = self.tickets.get_mut(&ticket) {
                record.is_blind = !both;
            }
            if both && has_room && is_symmetric {
                self.introduce(now, asker_conn, target_conn, Cause::Known);
            }
        }
    }

    /// A member was seen by IPv4, or by IPv6, for the first time. Where both can be met by a relay tickets do not wait
    /// for that, and name no such address: those that run are followed by others, for whoever can be met there.
    pub(crate) fn first_seen(&mut self, now: Instant, conn: ConnId, is_ipv4: bool) {
        let Some(session) = self.session(conn) else { return };
        let running =
            session.asked.iter().chain(&session.targeted).filter_map(|ticket| self.tickets.get(ticket));
        let unmet = running.filter(|record| record.direct_after.is_none());
        let pairs: BTreeSet<(ConnId, ConnId)> = unmet.map(|record| (record.asker, record.target)).collect();
        for (asker_conn, target_conn) in pairs {
            let (Some(asker), Some(target)) = (self.session(asker_conn), self.session(target_conn)) else {
                continue;
            };
            let other = if asker_conn == conn { target } else { asker };
            if self.has_room(asker, target) && other.mappings().any(|addr| addr.is_ipv4() == is_ipv4) {
                self.introduce(now, asker_conn, target_conn, Cause::Known);
            }
        }
    }

    /// A member is seen elsewhere. Its control connection may have been quicker than what was seen of it: tickets that
    /// it has just asked for name a place where it is no longer, and are followed by others.
    pub(crate) fn seen_elsewhere(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        let running = session.asked.iter().filter_map(|ticket| self.tickets.get(ticket));
        let unmet = running.filter(|record| record.direct_after.is_none());
        let targets: BTreeSet<ConnId> = unmet.map(|record| record.target).collect();
        for target_conn in targets {
            let (Some(asker), Some(target)) = (self.session(conn), self.session(target_conn)) else {
                continue;
            };
            if self.has_room(asker, target) {
                self.introduce(now, conn, target_conn, Cause::Known);
            }
        }
    }

    /// Both may have one more ticket.
    fn has_room(&self, asker: &Session, target: &Session) -> bool {
        asker.asked.len() < self.limits.tickets_per_asker
            && target.targeted.len() < self.limits.tickets_per_target
    }

    /// One side says how its ticket ended. A failure of one side may still be a success of the
    /// other, so only a direct path ends a ticket early; one that may show more waits for that too.
    pub(crate) fn ticket_result(
        &mut self,
        now: Instant,
        conn: ConnId,
        ticket: TicketId,
        (outcome, rtt): (TicketOutcome, Option<Duration>),
    ) {
        let Some(record) = self.tickets.get(&ticket) else { return };
        let both = [record.asker, record.target];
        let Some(side) = both.into_iter().position(|side| side == conn) else { return };
        self.pairs.said(&record.cluster, record.nodes, ticket, (side, outcome));
        self.note_path(now, both, ticket, (outcome, rtt));
        let TicketOutcome::Direct { elapsed_ms } = outcome else { return };
        let Some(record) = self.tickets.get_mut(&ticket) else { return };
        record.direct_after.get_or_insert(Duration::from_millis(u64::from(elapsed_ms)));
        record.unsolicited.asker |= conn == record.asker;
        self.review_ticket(now, ticket);
    }

    /// The target says that it was met without having sent anything.
    pub(crate) fn unsolicited(&mut self, now: Instant, conn: ConnId, ticket: TicketId) {
        let Some(record) = self.tickets.get_mut(&ticket).filter(|record| record.target == conn) else {
            return;
        };
        record.unsolicited.target = true;
        self.review_ticket(now, ticket);
    }

    fn review_ticket(&mut self, now: Instant, ticket: TicketId) {
        let Some(record) = self.tickets.get(&ticket) else { return };
        let (target, witness, is_direct) = (record.target, record.asker, record.direct_after.is_some());
        let Unsolicited { possible, drawn, target: met, asker } = record.unsolicited;
        if possible && met && asker && drawn {
            self.witnessed(now, target, witness);
        } else if possible && met && asker {
            self.opened_up(now, target);
        }
        if is_direct && (!possible || (met && asker)) {
            self.end_ticket(ticket);
        }
    }

    pub(crate) fn end_ticket(&mut self, ticket: TicketId) {
        let Some(record) = self.tickets.remove(&ticket) else { return };
        self.timers.set(Timer::Ticket(ticket), None);
        let sides = self.pairs.ended(&record.cluster, record.nodes, ticket);
        if let Some(asker) = self.session_mut(record.asker) {
            asker.asked.remove(&ticket);
        }
        if let Some(target) = self.session_mut(record.target) {
            target.targeted.remove(&ticket);
        }
        let direct_after = record.direct_after;
        let event = Event::TicketEnded { cluster: record.cluster, ticket, direct_after, sides };
        self.outputs.push_back(Output::Event(event));
    }
}

/// True if `to` has no place to meet `of` at.
fn is_nowhere(now: Instant, effective: EffectiveNetwork, of: &Session, to: &Session) -> bool {
    of.relayed(now).is_empty() && candidates(effective, of, to).is_empty()
}

/// Where `to` may try to meet `of`.
pub(crate) fn candidates(effective: EffectiveNetwork, of: &Session, to: &Session) -> Vec<Candidate> {
    let host = |addr: &SocketAddr| Candidate { kind: CandidateKind::Host, addr: *addr };
    let local = |addr: &&SocketAddr| addr::classify(addr.ip()) != AddressClass::Public;
    let locals = of.hosts.iter().filter(local);
    if effective == EffectiveNetwork::Private {
        return locals.map(host).collect();
    }
    let mut list: Vec<Candidate> =
        of.mappings().map(|addr| Candidate { kind: CandidateKind::Srflx, addr }).collect();
    if let Some(addr) = of.node_addr.filter(|addr| of.has_observed(addr.ip())) {
        list.push(Candidate { kind: CandidateKind::Mapped, addr });
    }
    list.extend(of.mapped().map(|mapping| Candidate { kind: CandidateKind::Mapped, addr: mapping.addr }));
    // Public addresses of the node itself were observed, so anybody may try them.
    let observed_hosts =
        of.hosts.iter().filter(|addr| !local(addr) && !of.mappings().any(|known| known == **addr));
    list.extend(observed_hosts.map(host));
    if of.mappings().any(|mine| to.mappings().any(|theirs| same_site(mine.ip(), theirs.ip()))) {
        list.extend(locals.map(host));
    }
    list.dedup_by_key(|candidate| candidate.addr);
    list
}

/// Where a symmetric NAT may let `of` come from: on an address that was observed, whatever the node says.
fn window(effective: EffectiveNetwork, of: &Session) -> Option<PortWindow> {
    let behavior = of.behavior.filter(|_| effective == EffectiveNetwork::Public)?;
    if !matches!(behavior.mapping, Some(Mapping::AddressDependent | Mapping::AddressAndPortDependent)) {
        return None;
    }
    let ip = of.mappings().map(|addr| addr.ip()).find(IpAddr::is_ipv4)?;
    let (first, last) = match behavior.allocator? {
        Allocator::Preserving => return None,
        Allocator::Sequential { delta, newest } => {
            (newest.checked_add(delta)?, newest.saturating_add(delta.saturating_mul(MAX_GUESSED_PORTS)))
        }
        // What was seen lies somewhere within the block.
        Allocator::Block { first, last } => {
            let unseen = MAX_GUESSED_PORTS.saturating_sub(last.saturating_sub(first)) / 2;
            (first.saturating_sub(unseen).max(FIRST_PORT), last.saturating_add(unseen))
        }
        Allocator::Random => (FIRST_PORT, u16::MAX),
    };
    Some(PortWindow { ip, first, last })
}

/// NATs give out no well-known ports (RFC 4787, REQ-3), and none of them is to be guessed at.
const FIRST_PORT: u16 = 1_024;

/// The addresses that an introduction shows.
fn ips(introduction: &Introduction) -> Vec<IpAddr> {
    introduction.candidates.iter().map(|candidate| candidate.addr.ip()).collect()
}

/// Behind the same public address, or in the same IPv6 /64.
pub(crate) fn same_site(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a == b,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

/// How long a side waits so that both start together: half of what the other's way is longer.
fn head_start_ms(own: &Session, peer: &Session) -> u32 {
    let rtt = |session: &Session| session.ping.rtt.unwrap_or_default();
    let wait = rtt(peer).saturating_sub(rtt(own)) / 2;
    u32::try_from(millis(wait.min(MAX_HEAD_START))).unwrap_or(0)
}

/// A longer wait would cost more than a lost first check.
const MAX_HEAD_START: Duration = Duration::from_secs(1);

/// The key of the checks that go from one node to the other: one a direction, so that nobody's
/// own checks can be reflected to him.
fn direction_key(secret: &[u8; 32], ticket: &TicketId, from: &NodeId, to: &NodeId) -> TicketKey {
    let mut key = [0; 32];
    let parts: [&[u8]; 3] = [b"meetpoint/v1/check", from.as_bytes(), to.as_bytes()];
    #[allow(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
    Hkdf::<Sha256>::new(Some(ticket.as_bytes()), secret)
        .expand_multi_info(&parts, &mut key)
        .expect("32 bytes are few");
    TicketKey::from_bytes(key)
}
