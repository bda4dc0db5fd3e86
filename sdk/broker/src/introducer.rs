//! A node that introduces its peers while the server is away.
//!
//! It drives a [`Broker`] whose members are guests: peers of the node, on connections that prove their keys, with
//! certificates that prove the rest. Presence, names, requests that wait and the bounds on tickets are the broker's.
//! Two things are different from a server's introductions, because nobody trusts an introducer (see
//! [`meetpoint_proto::meet`]): the two ends are told of each other and not where to send, and what they sign for each
//! other is passed on.
//!
//! Deliberately absent: whether this node may introduce at all (the agent knows what it was proven to be), connections,
//! and any check of the signatures that the two ends make for each other: only they have to believe them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::meet::{GuestMessage, Half, IntroducerMessage, MAX_HALF_CANDIDATES, Meeting};
use meetpoint_proto::wire::{CertificateText, ClientMessage, Introduction, Refusal, ServerMessage};
use meetpoint_proto::{
    Certificate, ClusterName, ClusterNetwork, Code, EffectiveNetwork, NodeId, PublicKey, TicketId,
};

use crate::api::{ClusterConfig, ConnId, Event, Input, Output};
use crate::defence::Defence;
use crate::introduce::same_site;
use crate::{Broker, Limits};

/// Guests at once: a node serves its neighbours, not a cluster. About 4 KB each.
const MAX_GUESTS: usize = 256;
/// Messages of one guest within [`WINDOW`]. An introduction takes two.
const MAX_MESSAGES: u32 = 64;
/// Introductions that one guest may have asked for within [`WINDOW`]. Each is worth a punch of two nodes.
const MAX_ASKED: u32 = 16;
const WINDOW: Duration = Duration::from_secs(60);

/// What the broker behind it is bound by.
fn limits() -> Limits {
    Limits {
        connections: MAX_GUESTS,
        requests_per_session: 16,
        tickets_per_asker: 8,
        tickets_per_target: 16,
        ..Limits::default()
    }
}

/// What an introducer is for.
#[derive(Debug, Clone)]
pub struct IntroducerConfig {
    /// Its cluster, which is effectively PUBLIC.
    pub cluster: ClusterName,
    /// By which members' certificates are signed.
    pub cluster_key: PublicKey,
    /// Who is no member any more, and until when certificates may say otherwise, in seconds since 1970.
    pub revoked: Vec<(NodeId, u64)>,
    /// The server's clock, in milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// Something happened. Guests are named by the keys that their connections have proven.
#[derive(Debug)]
pub enum IntroducerInput {
    /// A peer has opened a connection; an older one of it is gone.
    Opened {
        /// Who.
        peer: NodeId,
        /// Where its path comes from.
        observed: SocketAddr,
    },
    /// It said something.
    Message {
        /// Who.
        peer: NodeId,
        /// What.
        message: GuestMessage,
    },
    /// Its connection is gone.
    Closed {
        /// Who.
        peer: NodeId,
    },
}

/// Something to be done.
#[derive(Debug)]
pub enum IntroducerOutput {
    /// Say something to a guest.
    Send {
        /// To whom.
        peer: NodeId,
        /// What.
        message: IntroducerMessage,
    },
    /// Close a guest's connection.
    Close {
        /// Whose.
        peer: NodeId,
    },
}

/// Counts since it was made. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IntroducerCounters {
    /// Introductions.
    pub introductions: u64,
    /// Halves that were passed on.
    pub halves: u64,
    /// Guests without a certificate that counts.
    pub guests_refused: u64,
    /// Halves of no ticket of theirs, or with addresses that are not the guest's.
    pub halves_refused: u64,
    /// Guests that said more than an honest one has reason to, and requests beyond what one may ask.
    pub limited: u64,
}

#[derive(Debug)]
struct Guest {
    conn: ConnId,
    observed: SocketAddr,
}

/// What one guest has said in the present window. Kept when its connection ends, or a new one would be a new budget.
#[derive(Debug)]
struct Spent {
    window: Instant,
    messages: u32,
    asked: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Introducer {
    config: IntroducerConfig,
    born: Instant,
    broker: Broker,
    guests: BTreeMap<NodeId, Guest>,
    spent: BTreeMap<NodeId, Spent>,
    peers: BTreeMap<ConnId, NodeId>,
    next_conn: u64,
    /// Both ends of each live ticket, and which of them have signed.
    tickets: BTreeMap<TicketId, BTreeMap<NodeId, bool>>,
    counters: IntroducerCounters,
    outputs: VecDeque<IntroducerOutput>,
}

impl Introducer {
    /// One without guests; `seed` is the source of its tickets' names.
    #[must_use]
    pub fn new(now: Instant, config: IntroducerConfig, seed: [u8; 32]) -> Self {
        let mut broker = Broker::new(limits(), seed);
        broker.handle(now, Input::Wall { unix_ms: config.now_unix_ms });
        broker.handle(now, Input::Cluster(cluster(&config, &seed)));
        Self {
            config,
            born: now,
            broker,
            guests: BTreeMap::new(),
            spent: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_conn: 0,
            tickets: BTreeMap::new(),
            counters: IntroducerCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Switches a defence off, to show the attack it is for.
    #[cfg(feature = "attack-tests")]
    pub fn set_defence_off(&mut self, which: Defence) {
        self.broker.set_defence_off(which);
    }

    /// Takes an input; then poll the outputs.
    pub fn handle(&mut self, now: Instant, input: IntroducerInput) {
        match input {
            IntroducerInput::Opened { peer, observed } => self.opened(now, peer, observed),
            IntroducerInput::Message { peer, message } => self.message(now, peer, message),
            IntroducerInput::Closed { peer } => self.forget(now, &peer),
        }
        self.drain();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.broker.handle_timeout(now);
        self.drain();
    }

    /// When [`Introducer::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.broker.poll_timeout()
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Option<IntroducerOutput> {
        self.outputs.pop_front()
    }

    /// True if it has no guest.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.guests.is_empty()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &IntroducerCounters {
        &self.counters
    }

    fn opened(&mut self, now: Instant, peer: NodeId, observed: SocketAddr) {
        self.forget(now, &peer);
        if self.guests.len() >= MAX_GUESTS {
            self.counters.limited += 1;
            return self.outputs.push_back(IntroducerOutput::Close { peer });
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let observed = addr::unmap(observed);
        self.spent.retain(|_, spent| now < spent.window + WINDOW);
        self.guests.insert(peer, Guest { conn, observed });
        self.peers.insert(conn, peer);
    }

    fn forget(&mut self, now: Instant, peer: &NodeId) {
        let Some(guest) = self.guests.remove(peer) else { return };
        self.peers.remove(&guest.conn);
        self.broker.handle(now, Input::Closed { conn: guest.conn });
    }

    fn close(&mut self, now: Instant, peer: NodeId) {
        self.forget(now, &peer);
        self.outputs.push_back(IntroducerOutput::Close { peer });
    }

    fn message(&mut self, now: Instant, peer: NodeId, message: GuestMessage) {
        let Some(conn) = self.guests.get(&peer).map(|guest| guest.conn) else { return };
        let spent = self.spent.entry(peer).or_insert(Spent { window: now, messages: 0, asked: 0 });
        if now >= spent.window + WINDOW {
            *spent = Spent { window: now, messages: 0, asked: 0 };
        }
        spent.messages += 1;
        spent.asked += u32::from(matches!(message, GuestMessage::Connect { .. }));
        let (is_loud, asks_too_much) = (spent.messages > MAX_MESSAGES, spent.asked > MAX_ASKED);
        if is_loud {
            self.counters.limited += 1;
            return self.close(now, peer);
        }
        match message {
            GuestMessage::Hello { certificate } => self.hello(now, peer, *certificate),
            GuestMessage::Connect { request, .. } if asks_too_much => {
                self.counters.limited += 1;
                self.refuse(peer, request, Refusal::new(Code::TooManyIntroductions));
            }
            GuestMessage::Connect { request, peer: wanted } => {
                self.tell_broker(
                    now,
                    conn,
                    ClientMessage::Connect { request, peer: wanted, wait: true, handshake: None },
                );
            }
            GuestMessage::Cancel { request } => {
                self.tell_broker(now, conn, ClientMessage::CancelConnect { request });
            }
            GuestMessage::Half(half) => self.half(peer, half),
            GuestMessage::Unknown => {}
        }
    }

    /// Nobody but a member is heard by the broker: there a message before its time ends the connection.
    fn tell_broker(&mut self, now: Instant, conn: ConnId, message: ClientMessage) {
        if self.broker.member(conn).is_some() {
            self.broker.handle(now, Input::Message { conn, message });
        }
    }

    fn refuse(&mut self, peer: NodeId, request: u32, refusal: Refusal) {
        let message = IntroducerMessage::Refused { request, refusal };
        self.outputs.push_back(IntroducerOutput::Send { peer, message });
    }

    fn hello(&mut self, now: Instant, peer: NodeId, text: CertificateText) {
        let Some(guest) = self.guests.get(&peer) else { return };
        let (conn, source) = (guest.conn, guest.observed);
        let member = self.verify(now, peer, &text);
        let Some(member) = member.filter(|_| self.broker.member(conn).is_none()) else {
            self.counters.guests_refused += 1;
            return self.close(now, peer);
        };
        let (member, certificate) = (Box::new(member), Box::new(text));
        self.broker.handle(now, Input::Proven { conn, source, member, certificate });
    }

    /// The membership of the peer that holds this key, if the certificate is worth anything.
    fn verify(&self, now: Instant, peer: NodeId, text: &CertificateText) -> Option<Certificate> {
        let age_ms = u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX);
        let now_unix_s = self.config.now_unix_ms.saturating_add(age_ms) / 1000;
        let verified = Certificate::verify(text, &self.config.cluster_key, now_unix_s).ok();
        let is_revoked = |member: &Certificate| {
            let told = self.config.revoked.iter().find(|(node, _)| *node == member.node);
            told.is_some_and(|(_, until_unix_s)| member.not_after_unix_s <= *until_unix_s)
        };
        let is_its = |member: &Certificate| {
            member.cluster == self.config.cluster && member.node == peer && !is_revoked(member)
        };
        if !self.broker.defences.stand(Defence::GuestCertificate) {
            return Some(Certificate {
                cluster: self.config.cluster.clone(),
                node: peer,
                name: text.name.parse().ok()?,
                not_before_unix_s: text.not_before_unix_s,
                not_after_unix_s: u64::MAX,
                capabilities: Vec::new(),
            });
        }
        verified.filter(is_its)
    }

    /// Passes a half on, once, to the other end of its ticket.
    fn half(&mut self, peer: NodeId, half: Box<Half>) {
        let is_good = self.is_in_order(&peer, &half);
        let ends = self.tickets.get_mut(&half.ticket).filter(|_| is_good);
        let signed = ends.and_then(|ends| ends.get_mut(&peer)).filter(|signed| !**signed);
        let Some(signed) = signed else {
            self.counters.halves_refused += 1;
            return;
        };
        *signed = true;
        self.counters.halves += 1;
        let to = half.to;
        self.outputs.push_back(IntroducerOutput::Send { peer: to, message: IntroducerMessage::Half(half) });
    }

    /// What only this node can judge: whether a guest is where it wants to be met. The ends check the rest.
    fn is_in_order(&self, peer: &NodeId, half: &Half) -> bool {
        let ends = self.tickets.get(&half.ticket);
        let are_ends = ends.is_some_and(|ends| ends.contains_key(peer) && ends.contains_key(&half.to));
        let (Some(from), Some(to)) = (self.guests.get(peer), self.guests.get(&half.to)) else { return false };
        if !are_ends || half.from != *peer || half.to == *peer || half.candidates.len() > MAX_HALF_CANDIDATES
        {
            return false;
        }
        let is_near = same_site(from.observed.ip(), to.observed.ip());
        let is_its = |candidate: &SocketAddr| {
            let candidate = addr::unmap(*candidate);
            let is_private = addr::classify(candidate.ip()) == AddressClass::Private;
            candidate.port() != 0 && (candidate.ip() == from.observed.ip() || (is_near && is_private))
        };
        half.candidates.iter().all(is_its) || !self.broker.defences.stand(Defence::OwnAddresses)
    }

    /// Puts what the broker says into an introducer's words.
    fn drain(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send { conn, message: ServerMessage::Introduction(introduction) } => {
                    self.introduce(conn, *introduction);
                }
                Output::Send { conn, message: ServerMessage::ConnectFailed { request, refusal } } => {
                    if let Some(peer) = self.peers.get(&conn) {
                        self.refuse(*peer, request, refusal);
                    }
                }
                Output::Event(Event::Introduced { ticket, from, to, .. }) => {
                    self.counters.introductions += 1;
                    self.tickets.entry(ticket).or_insert_with(|| [(from, false), (to, false)].into());
                }
                Output::Event(Event::TicketEnded { ticket, .. }) => {
                    self.tickets.remove(&ticket);
                }
                Output::Close { conn } => {
                    if let Some(peer) = self.peers.remove(&conn) {
                        self.guests.remove(&peer);
                        self.outputs.push_back(IntroducerOutput::Close { peer });
                    }
                }
                // Guests are neither pinged nor judged, and there is no registry.
                _ => {}
            }
        }
    }

    fn introduce(&mut self, conn: ConnId, introduction: Introduction) {
        let Some(&peer) = self.peers.get(&conn) else { return };
        let Introduction { requests, ticket, certificate, .. } = introduction;
        let (Some(guest), Some(other)) = (self.guests.get(&peer), self.guests.get(&certificate.node_id))
        else {
            return;
        };
        let near = same_site(guest.observed.ip(), other.observed.ip());
        let meeting = Meeting { requests, ticket, certificate, observed: guest.observed, near };
        let message = IntroducerMessage::Meeting(Box::new(meeting));
        self.outputs.push_back(IntroducerOutput::Send { peer, message });
    }
}

/// The broker's view of it: a cluster that is at home elsewhere. No guest is welcomed with a signature, so the key that
/// would make one is worth nothing.
fn cluster(config: &IntroducerConfig, seed: &[u8; 32]) -> ClusterConfig {
    ClusterConfig {
        name: config.cluster.clone(),
        kind: ClusterNetwork::Dynamic,
        effective: EffectiveNetwork::Public,
        key: SigningKey::from_bytes(seed),
        home: Some(config.cluster_key),
        open_join: false,
        admit_relayed: false,
        stun: Vec::new(),
    }
}
