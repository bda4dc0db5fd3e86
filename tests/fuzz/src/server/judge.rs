//! What may come out of the server, given what went in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use meetpoint_turn::message::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, DATA, REFRESH, SEND};
use meetpoint_turn::{ListenerId, RelayId, attr};

use crate::server::World;
use crate::server::model::{Client, Gauge, source_key};
use crate::server::question::Grant;
use crate::server::setup::{STREAM, is_forbidden, is_inside};
use crate::wire::{
    FINGERPRINT, HEADER_LEN, INTEGRITY, INTEGRITY_SHA256, Seen, fingerprint, u16_at, xor_address,
};

const REQUEST: u8 = 0;
const INDICATION: u8 = 1;
const SUCCESS: u8 = 2;
const ERROR: u8 = 3;
const SOFTWARE: u16 = 0x8022;
/// XOR-MAPPED-ADDRESS and the three addresses of RFC 5780, all IPv6, with FINGERPRINT: no answer to somebody who
/// proved nothing is longer, unless it is not longer than its question.
const MAX_UNPROVEN_LEN: usize = HEADER_LEN + 4 * 24 + 8;

/// A datagram that the server wants sent from a listener.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) listener: ListenerId,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// A datagram that is relayed.
#[derive(Debug)]
pub(super) enum Relayed {
    ToPeer { from: RelayId, to: SocketAddr, payload: Vec<u8> },
    ToClient(Answer),
}

/// What a client's datagram asks to be relayed: the peer, if it names one, and the bytes.
pub(super) struct Cargo<'a> {
    number: Option<u16>,
    peer: Option<SocketAddr>,
    data: &'a [u8],
}

/// The budgets for those who proved nothing.
#[derive(Debug)]
pub(super) struct Budgets {
    started: Instant,
    amplified: Gauge,
    redirected: Gauge,
    sources: BTreeMap<IpAddr, Gauge>,
}

impl Budgets {
    pub(super) const fn new(started: Instant) -> Self {
        let (amplified, redirected) = (Gauge::new(2.0, 4.0), Gauge::new(1.0, 2.0));
        Self { started, amplified, redirected, sources: BTreeMap::new() }
    }
}

/// Reads ChannelData (RFC 8656, section 12.4) or a Send indication.
pub(super) fn cargo(bytes: &[u8]) -> Option<Cargo<'_>> {
    if (0x40..0x80).contains(bytes.first()?) {
        let (header, rest) = bytes.split_at_checked(4)?;
        let len = usize::from(u16_at(header, 2));
        let is_whole = (len..len + 4).contains(&rest.len());
        return is_whole.then(|| Cargo { number: Some(u16_at(header, 0)), peer: None, data: &rest[..len] });
    }
    let seen = Seen::read(bytes).filter(|seen| (seen.class(), seen.method()) == (INDICATION, SEND))?;
    let peer = *seen.addresses(attr::XOR_PEER_ADDRESS).iter().flatten().next()?;
    Some(Cargo { number: None, peer: Some(peer), data: seen.get(attr::DATA)? })
}

impl World {
    /// A client's datagram was relayed.
    pub(super) fn judge_relayed(&mut self, client: Client, datagram: &[u8], relayed: &Relayed) {
        let cargo = cargo(datagram).expect("only ChannelData and Send are relayed");
        let bound = cargo.number.and_then(|number| self.model.peer_of(self.now, client, number));
        let peer = cargo.peer.or(bound).expect("a channel that is bound");
        assert!(self.model.permits(self.now, client, peer), "no permission for {peer}");
        let own = self.model.relayed_for(client, peer).expect("a relayed address of the peer's family");
        self.model.count(self.now, client, cargo.data.len(), self.setup);
        match relayed {
            Relayed::ToPeer { from, to, payload } => {
                let socket = self.model.sockets.get(from).expect("a socket");
                assert!(socket.is_open && socket.seen == own, "{socket:?} is not {own}");
                assert_eq!((*to, &payload[..]), (peer, cargo.data));
                assert!(!is_inside(*to) && !is_forbidden(*to), "{to} is nobody's peer");
            }
            Relayed::ToClient(answer) => {
                let owner = self.model.owner(peer).expect("somebody's relayed address");
                assert!(
                    self.model.may_meet(self.now, client, owner),
                    "{client:?} was not introduced to {owner:?}"
                );
                self.judge_delivered(owner, own, cargo.data, answer);
            }
        }
    }

    /// A datagram of `peer` was delivered to the client of a relayed address.
    pub(super) fn judge_delivered(&mut self, owner: Client, peer: SocketAddr, data: &[u8], answer: &Answer) {
        assert_eq!((answer.listener, answer.to), owner);
        assert!(self.model.permits(self.now, owner, peer), "no permission for {peer}");
        self.model.count(self.now, owner, data.len(), self.setup);
        if let Some(number) = self.model.channel_of(self.now, owner, peer) {
            let head = [number.to_be_bytes(), (data.len() as u16).to_be_bytes()].concat();
            // In a stream the next frame starts at a multiple of four (RFC 8656, section 12.5).
            let padding =
                if answer.listener == STREAM { data.len().next_multiple_of(4) - data.len() } else { 0 };
            assert_eq!(answer.bytes, [&head[..], data, &[0; 3][..padding]].concat());
            return;
        }
        let seen = Seen::read(&answer.bytes).expect("a message");
        assert_eq!((seen.class(), seen.method()), (INDICATION, DATA));
        assert_eq!(seen.addresses(attr::XOR_PEER_ADDRESS), [Some(peer)]);
        assert_eq!((seen.get(attr::DATA), seen.attributes.len()), (Some(data), 2));
    }

    /// A datagram of a client was answered.
    pub(super) fn judge_answer(
        &mut self,
        client: Client,
        question: &[u8],
        grant: Option<&Grant>,
        answer: &Answer,
    ) {
        let asked = Seen::read(question).expect("only messages are answered");
        let told = Seen::read(&answer.bytes).expect("answers are messages");
        assert_eq!((asked.class(), asked.method(), asked.id), (REQUEST, told.method(), told.id));
        assert!(matches!(told.class(), SUCCESS | ERROR));
        self.judge_place(client, &asked, &told, answer);
        assert!(!told.has(SOFTWARE), "SOFTWARE");
        assert_eq!(asked.has(FINGERPRINT), told.has(FINGERPRINT));
        if let Some(last) = told.attributes.last().filter(|_| told.has(FINGERPRINT)) {
            assert_eq!(last.value, fingerprint(&answer.bytes[..last.at]));
        }
        if told.has(INTEGRITY) || told.has(INTEGRITY_SHA256) {
            self.judge_grant(&told, grant.expect("only who knows the key is answered under it"));
        } else {
            let is_open = told.method() == BINDING && !asked.has(INTEGRITY) && !asked.has(INTEGRITY_SHA256);
            assert!(told.class() == ERROR || is_open, "something is granted to nobody");
            self.judge_len(client, &asked, question.len(), &told, answer);
        }
        if told.class() == SUCCESS {
            self.judge_success(client, &asked, &told, grant);
        }
    }

    /// An answer goes where its question came from, but for what RFC 5780 lets a client ask.
    fn judge_place(&mut self, client: Client, asked: &Seen<'_>, told: &Seen<'_>, answer: &Answer) {
        let is_discovery = (told.class(), told.method()) == (SUCCESS, BINDING);
        let port = asked.get(attr::RESPONSE_PORT).filter(|_| is_discovery).map(|value| u16_at(value, 0));
        let (listener, source) = client;
        assert_eq!(answer.to, SocketAddr::new(source.ip(), port.unwrap_or(source.port())));
        assert!(
            listener != STREAM || (answer.listener, answer.to) == client,
            "a stream's answer goes elsewhere"
        );
        let may_change = is_discovery && asked.get(attr::CHANGE_REQUEST).is_some();
        assert!(answer.listener == listener || may_change);
        let is_proven = told.has(INTEGRITY) || told.has(INTEGRITY_SHA256);
        if (answer.listener, answer.to) != client && !is_proven {
            let elapsed = self.now - self.budgets.started;
            self.budgets.redirected.take(elapsed, "redirected answers");
        }
    }

    /// A good credential, and a nonce of at most two epochs.
    fn judge_grant(&self, told: &Seen<'_>, grant: &Grant) {
        let unix_s = self.unix_s().expect("no time, no credentials");
        assert!(self.secrets.contains(&grant.secret), "a secret that was dropped");
        let epochs = (unix_s / 300).checked_sub(grant.nonce.unix_s / 300);
        assert!(epochs.is_some_and(|epochs| epochs < 2), "an old nonce");
        let is_grant = matches!(told.method(), BINDING | ALLOCATE | REFRESH);
        assert!(!is_grant || unix_s < grant.expires_unix_s, "an expired credential");
    }

    /// What one gets who may have written another's address on his question.
    fn judge_len(&mut self, client: Client, asked: &Seen<'_>, len: usize, told: &Seen<'_>, answer: &Answer) {
        let told_len = answer.bytes.len();
        assert!(told_len <= len.max(MAX_UNPROVEN_LEN), "{told_len} bytes for {len}");
        // Who has a connection receives where he sends from.
        let is_spoofable = client.0 != STREAM;
        if told.class() == ERROR && is_spoofable {
            assert!(told_len <= len.max(3 * HEADER_LEN.max(len)), "{told_len} bytes for {len}");
        }
        if self.setup.is_generous || !is_spoofable {
            return;
        }
        let elapsed = self.now - self.budgets.started;
        let is_plain = told.class() == SUCCESS && told.meant().count() == 1;
        if told_len > len && !is_plain {
            self.budgets.amplified.take(elapsed, "answers longer than their question");
        }
        if asked.get(attr::NONCE).is_none() {
            // Twice the budget: the sketch behind it lets a source go on while either of two slots does.
            let source = self.budgets.sources.entry(source_key(client.1)).or_insert(Gauge::new(40.0, 80.0));
            source.take(elapsed, "answers to one source");
        }
    }

    fn judge_success(&mut self, client: Client, asked: &Seen<'_>, told: &Seen<'_>, grant: Option<&Grant>) {
        let (now, limits) = (self.now, self.setup.limits().relay);
        let seen = SocketAddr::new(client.1.ip().to_canonical(), client.1.port());
        let user = grant.map(|grant| &grant.user[..]);
        let lifetime_s =
            || told.get(attr::LIFETIME).map(|value| u32::from_be_bytes(value.try_into().expect("4 bytes")));
        match (told.method(), user) {
            (BINDING, _) => assert_eq!(told.addresses(attr::XOR_MAPPED_ADDRESS), [Some(seen)]),
            (ALLOCATE, Some(user)) => {
                assert_eq!(told.addresses(attr::XOR_MAPPED_ADDRESS), [Some(seen)]);
                let relayed = told.addresses(attr::XOR_RELAYED_ADDRESS).into_iter().flatten().collect();
                let lifetime_s = lifetime_s().expect("a lifetime");
                self.model.allocate(now, client, told.id, user, relayed, lifetime_s);
                self.tokens.extend(told.get(attr::RESERVATION_TOKEN).map(<[u8]>::to_vec));
            }
            (REFRESH, Some(user)) => {
                self.model.refresh(now, client, user, lifetime_s().expect("a lifetime"));
            }
            (CREATE_PERMISSION, Some(user)) => {
                let peers = asked.addresses(attr::XOR_PEER_ADDRESS);
                self.model.permit(now, client, user, &peers, limits.permissions.into());
            }
            (CHANNEL_BIND, Some(user)) => {
                let peer = asked.get(attr::XOR_PEER_ADDRESS).and_then(|value| xor_address(value, &asked.id));
                let number = asked.get(attr::CHANNEL_NUMBER).map(|value| u16_at(value, 0)).expect("a number");
                self.model.permit(now, client, user, &[peer], limits.permissions.into());
                self.model.bind(now, client, user, number, peer.expect("a peer"), limits.channels.into());
            }
            other => panic!("{other:?} succeeds"),
        }
    }

    /// ICMP is told to who has a permission for whom it is about.
    pub(super) fn judge_icmp(&mut self, owner: Client, peer: SocketAddr, answer: &Answer) {
        let told = Seen::read(&answer.bytes).expect("a message");
        assert_eq!(((answer.listener, answer.to), told.class(), told.method()), (owner, INDICATION, DATA));
        assert_eq!(told.addresses(attr::XOR_PEER_ADDRESS), [Some(peer)]);
        assert!(told.has(attr::ICMP) && !told.has(attr::DATA));
        assert!(self.model.permits(self.now, owner, peer) && !is_inside(peer), "ICMP of {peer}");
        self.model.count_icmp(self.now, owner);
    }

    /// An Allocate is answered once its sockets are open, or could not be opened.
    pub(super) fn judge_allocate(&mut self, answer: &Answer) {
        let told = Seen::read(&answer.bytes).expect("answers are messages");
        assert_eq!(told.method(), ALLOCATE);
        let client = (answer.listener, answer.to);
        // One transaction may have been asked for by several users; the session says who was the first.
        let mut sessions = self.server.sessions(self.now);
        let session = sessions.find(|session| (session.listener, session.client) == client);
        let user = session.map(|session| session.user.to_owned());
        drop(sessions);
        let mut grants = self.asked.iter().filter(|asked| asked.client == client && asked.id == told.id);
        let grant = grants.find(|asked| user.as_ref().is_none_or(|user| *user == asked.grant.user));
        let grant = grant.unwrap_or_else(|| panic!("nobody at {client:?} asked, {user:?}")).grant.clone();
        assert!(told.has(INTEGRITY) || told.has(INTEGRITY_SHA256));
        if told.class() == SUCCESS {
            self.judge_success(client, &told, &told, Some(&grant));
        } else {
            assert_eq!(told.class(), ERROR);
        }
    }
}
