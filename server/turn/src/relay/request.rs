//! Answers Allocate, Refresh, CreatePermission and ChannelBind. Who asks is known here
//! ([`StunServer::authenticated`]); nothing is granted to anybody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_stun::{Writer, read_xor_address};
use rand_chacha::ChaCha20Rng;

use crate::answer::{Fault, MAX_UNKNOWN, Request, TurnError, seal, unknown_attributes};
use crate::attr;
use crate::auth::{KnownKey, Proof, Refusal};
use crate::holder::Holder;
use crate::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH, TransactionId};
use crate::relay::allocation::{Allocation, Beginning, Opening, Wanted};
use crate::relay::handover::{Message as Told, ShardMessage};
use crate::relay::mobility::{Follow, Followed, MobilitySecret};
use crate::relay::owners::Parity;
use crate::relay::peers::Peer;
use crate::relay::quota::Denial;
use crate::relay::slab::Key;
use crate::relay::table::Relays;
use crate::relay::{DEFAULT_LIFETIME, Family, MAX_LIFETIME, Quota, RelayId};
use crate::server::{Output, StunServer};
use crate::shared::ShardId;

/// UDP's protocol number, the only transport there is (RFC 8656, section 18.8).
const UDP: u8 = 17;
/// The reserve bit of EVEN-PORT (RFC 8656, section 18.7).
const RESERVE: u8 = 0x80;
/// The channel numbers. RFC 8656, section 12 stops at 0x4FFF, so that a client may share its socket with other
/// protocols; RFC 5766, section 11 had them up to 0x7FFF, and clients in use (coturn's among them) still
/// draw from all of those. Nothing else arrives at a relay's own port.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7FFF;
/// Peers one CreatePermission names at most: more than a path's usual datagram holds.
const MAX_PEERS: usize = 128;

/// True for the methods that are answered here.
pub(crate) const fn is_turn_request(method: u16) -> bool {
    matches!(method, ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND)
}

/// What a good request came to.
pub(super) enum Outcome {
    Answer(Writer),
    /// The answer follows when the sockets are open.
    Later,
    /// The answer follows when another shard has handed over what it has.
    Claim(ShardId, ShardMessage),
}

impl StunServer {
    /// Answers a request about relaying.
    pub(crate) fn turn(&mut self, request: &Request<'_>) {
        let Some(proof) = self.authenticated(request) else { return };
        let Some(relays) = &mut self.relays else { return };
        let message = &request.message;
        if proof.is_handed && message.method() == ALLOCATE && relays.holds(proof.user()) {
            // Whoever has read the user's first request on its way can go no further with it than to here.
            return self.fault(request, None, Fault::Refused(Refusal::StaleNonce));
        }
        let can_refuse_fragments = relays.can_refuse_fragments;
        let mut list = [0; MAX_UNKNOWN];
        let is_known = |kind| attr::is_known_in_turn(kind, can_refuse_fragments);
        let unknown = unknown_attributes(message, is_known, &mut list);
        if !unknown.is_empty() {
            return self.fault(request, Some(&proof), Fault::UnknownAttributes(unknown));
        }
        let counters = &mut self.counters.relay;
        let (outcome, counter) = match message.method() {
            ALLOCATE => {
                let known = self.auth.remember(&proof);
                (relays.allocate(request, known, &mut self.random), &mut counters.allocate)
            }
            REFRESH => {
                let known = self.auth.remember(&proof);
                let outcome = relays.refresh(request, known, &mut counters.ended, &mut self.random);
                (outcome, &mut counters.refresh)
            }
            CREATE_PERMISSION => (relays.create_permission(request, &proof), &mut counters.create_permission),
            _ => (relays.channel_bind(request, &proof), &mut counters.channel_bind),
        };
        match outcome {
            Ok(Outcome::Later) => {}
            Ok(Outcome::Claim(shard, message)) => self.push(Output::ToShard { shard, message }),
            Ok(Outcome::Answer(mut writer)) => {
                *counter += 1;
                seal(&mut writer, Some(&proof.key), message.has_fingerprint());
                self.transmit(request.listener.id, request.source, writer.finish());
            }
            Err(Denial::Error(error)) => self.fault(request, Some(&proof), Fault::Turn(error)),
            Err(Denial::Quota(quota)) => {
                counters.refused.count(quota);
                self.fault(request, Some(&proof), Fault::Turn(quota.error()));
            }
        }
    }

    /// Answers the Allocate whose sockets are open now.
    pub(crate) fn relay_opened(&mut self, now: Instant, id: RelayId) {
        let Some(relays) = &mut self.relays else { return };
        if let Some(key) = relays.opened(now, id, &mut self.random) {
            self.answer_allocate(key);
        }
    }

    /// Answers the Allocate whose sockets could not be opened.
    pub(crate) fn relay_failed(&mut self, id: RelayId) {
        let Some(relays) = &mut self.relays else { return };
        if let Some(allocation) = relays.failed(id, &mut self.random) {
            self.counters.relay.refused.count(Quota::Ports);
            self.refuse_allocate(&allocation, Quota::Ports.error());
        }
    }

    /// Tells a client of the allocation that he waits for.
    pub(crate) fn answer_allocate(&mut self, key: Key) {
        let Some(relays) = &self.relays else { return };
        let (Some(mut writer), Some(allocation)) = (relays.allocated(key), relays.slab.get(key)) else {
            return;
        };
        self.counters.relay.allocate += 1;
        seal(&mut writer, Some(allocation.known.key()), allocation.has_fingerprint);
        let (listener, to) = (allocation.listener, allocation.source);
        let relayed = relays.relayed_of(allocation);
        let session = match allocation.holder {
            Holder::Node(session) => Some(session),
            Holder::Other => None,
        };
        self.transmit(listener, to, writer.finish());
        if let Some(session) = session {
            self.push(Output::Allocated { session, relayed });
        }
    }

    /// Tells a client that there will be no allocation.
    pub(crate) fn refuse_allocate(&mut self, allocation: &Allocation, error: TurnError) {
        let mut writer = Writer::new(Class::Error, ALLOCATE, allocation.transaction_id);
        writer.error_code(error.code());
        seal(&mut writer, Some(allocation.known.key()), allocation.has_fingerprint);
        self.counters.errors.count(error.code());
        self.counters.errors_by_method.allocate.count(error.code());
        self.transmit(allocation.listener, allocation.source, writer.finish());
    }
}

/// What an Allocate asks for.
enum Ask {
    Fresh { wanted: Wanted, address_error: Option<(Family, TurnError)> },
    Reserved([u8; 8]),
}

/// Where a reserved port is.
enum Reserved {
    Here(RelayId),
    There(ShardId),
}

impl Relays {
    /// RFC 8656, section 7.2.
    fn allocate(
        &mut self,
        request: &Request<'_>,
        known: KnownKey,
        random: &mut ChaCha20Rng,
    ) -> Result<Outcome, Denial> {
        let message = &request.message;
        if let Some(key) = self.find(request.listener.id, request.source) {
            return Ok(self.allocate_again(key, message, &known)?);
        }
        let lifetime = read_lifetime(message)?.unwrap_or(DEFAULT_LIFETIME);
        let mobility = MobilitySecret::asked(message, request.listener.transport, random)?;
        let ask = self.read_allocate(message)?;
        let holder = Holder::of(known.user()).ok_or(TurnError::Forbidden)?;
        let reserved = match ask {
            Ask::Reserved(token) => Some(self.find_reserved(token, known.user())?),
            Ask::Fresh { .. } => None,
        };
        let now_ns = self.shared.nanos(request.now);
        let seat = self.quotas.admit(known.user(), request.seen, now_ns, &self.limits, self.defences)?;
        let lifetime = lifetime.clamp(DEFAULT_LIFETIME, MAX_LIFETIME);
        let beginning = Beginning {
            listener: request.listener.id,
            transport: request.listener.transport,
            source: request.source,
            known,
            holder,
            transaction_id: message.transaction_id(),
            has_fingerprint: message.has_fingerprint(),
            lifetime_s: lifetime.as_secs() as u32,
            mobility,
        };
        let mut allocation = Allocation::new(beginning, seat, Self::opening_ends(request.now));
        match (ask, reserved) {
            (Ask::Fresh { wanted, address_error }, _) => {
                allocation.address_error = address_error;
                let key = self.insert(allocation);
                if let Err(quota) = self.open(key, wanted, 0, random) {
                    self.remove(key);
                    return Err(quota.into());
                }
                Ok(Outcome::Later)
            }
            (Ask::Reserved(token), Some(Reserved::Here(relay))) => {
                let key = self.insert(allocation);
                self.redeem(token, relay, key);
                self.begin(request.now, key);
                Ok(self.allocated(key).map_or(Outcome::Later, Outcome::Answer))
            }
            (Ask::Reserved(token), Some(Reserved::There(shard))) => {
                let user = allocation.known.user().into();
                allocation.opening = Some(Opening::Claim);
                let claim = self.insert(allocation);
                let told = Told::Claim { by: self.shard, claim, token, user };
                Ok(Outcome::Claim(shard, ShardMessage(told)))
            }
            (Ask::Reserved(_), None) => Err(TurnError::InsufficientCapacity.into()),
        }
    }

    /// Where the port is that was reserved under a token. Another shard is asked, this one knows.
    fn find_reserved(&self, token: [u8; 8], user: &str) -> Result<Reserved, TurnError> {
        let shard = ShardId(token[0]);
        if shard == self.shard {
            let relay = self.reserved(token, user);
            return relay.map(Reserved::Here).ok_or(TurnError::InsufficientCapacity);
        }
        let is_there = shard.0 < self.shared.shards();
        is_there.then_some(Reserved::There(shard)).ok_or(TurnError::InsufficientCapacity)
    }

    /// A retransmission is answered like the first one, once there is an answer; anything else
    /// while there is an allocation is a mismatch.
    fn allocate_again(
        &self,
        key: Key,
        message: &Message<'_>,
        known: &KnownKey,
    ) -> Result<Outcome, TurnError> {
        let allocation = self.slab.get(key).ok_or(TurnError::AllocationMismatch)?;
        let is_same =
            allocation.transaction_id == message.transaction_id() && allocation.known.user() == known.user();
        if !is_same {
            return Err(TurnError::AllocationMismatch);
        }
        match self.allocated(key) {
            Some(answer) if allocation.opening.is_none() => Ok(Outcome::Answer(answer)),
            _ => Ok(Outcome::Later),
        }
    }

    fn read_allocate(&self, message: &Message<'_>) -> Result<Ask, TurnError> {
        match message.attribute(attr::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => {}
            Some([_, _, _, _]) => return Err(TurnError::UnsupportedTransport),
            _ => return Err(TurnError::BadRequest),
        }
        let requested = message.attribute(attr::REQUESTED_ADDRESS_FAMILY);
        let additional = message.attribute(attr::ADDITIONAL_ADDRESS_FAMILY);
        let parity = match message.attribute(attr::EVEN_PORT) {
            None => Parity::Any,
            Some([flags]) if flags & RESERVE != 0 => Parity::EvenWithNext,
            Some([_]) => Parity::Even,
            Some(_) => return Err(TurnError::BadRequest),
        };
        if let Some(token) = message.attribute(attr::RESERVATION_TOKEN) {
            let is_alone = requested.is_none() && additional.is_none() && parity == Parity::Any;
            let token = token.try_into().ok().filter(|_| is_alone);
            return token.map(Ask::Reserved).ok_or(TurnError::BadRequest);
        }
        match (requested, additional) {
            (Some(_), Some(_)) => Err(TurnError::BadRequest),
            (None, Some(value)) => {
                // Only IPv6 can be an addition, and not to a reservation.
                let is_good = read_family(value)? == Some(Family::V6) && parity != Parity::EvenWithNext;
                if is_good { Ok(self.dual(parity)) } else { Err(TurnError::BadRequest) }
            }
            (requested, None) => {
                let family = requested.map_or(Ok(Some(Family::V4)), read_family)?;
                let family = family
                    .filter(|family| self.ports.has(*family))
                    .ok_or(TurnError::AddressFamilyNotSupported)?;
                let families = Family::BOTH.map(|each| each == family);
                Ok(Ask::Fresh { wanted: Wanted { families, parity }, address_error: None })
            }
        }
    }

    /// Both families, as far as there are relayed addresses of them.
    fn dual(&self, parity: Parity) -> Ask {
        let families = Family::BOTH.map(|family| self.ports.has(family));
        let missing = Family::BOTH.into_iter().find(|family| !self.ports.has(*family));
        let address_error = missing.map(|family| (family, TurnError::AddressFamilyNotSupported));
        Ask::Fresh { wanted: Wanted { families, parity }, address_error }
    }

    /// The success response to Allocate, but for its end.
    fn allocated(&self, key: Key) -> Option<Writer> {
        let allocation = self.slab.get(key)?;
        let mut writer = Writer::new(Class::Success, ALLOCATE, allocation.transaction_id);
        for id in allocation.relays.into_iter().flatten() {
            writer.xor_address(attr::XOR_RELAYED_ADDRESS, self.ports.get(id)?.lease.seen());
        }
        if let Some((family, error)) = allocation.address_error {
            writer.address_error_code(family, error.code());
        }
        writer.attribute(attr::LIFETIME, &allocation.lifetime_s.to_be_bytes());
        if let Some(token) = allocation.token {
            writer.attribute(attr::RESERVATION_TOKEN, &token);
        }
        self.write_ticket(&mut writer, key);
        let source = allocation.source;
        let seen = SocketAddr::new(source.ip().to_canonical(), source.port());
        writer.xor_address(attr::XOR_MAPPED_ADDRESS, seen);
        Some(writer)
    }

    /// The allocation that a request is about, if its user is the one who made it
    /// (RFC 8656, section 5: a newer timestamp is the same user).
    fn allocation_of(&self, request: &Request<'_>, user: &str) -> Result<Key, TurnError> {
        let key = self.find(request.listener.id, request.source);
        let key = key.ok_or(TurnError::AllocationMismatch)?;
        let allocation = self.slab.get(key).filter(|allocation| allocation.opening.is_none());
        let allocation = allocation.ok_or(TurnError::AllocationMismatch)?;
        if allocation.known.user() == user { Ok(key) } else { Err(TurnError::WrongCredentials) }
    }

    /// RFC 8656, section 8.2; with a ticket of before, from another place, RFC 8016, section 3.2.
    fn refresh(
        &mut self,
        request: &Request<'_>,
        known: KnownKey,
        ended: &mut u64,
        random: &mut ChaCha20Rng,
    ) -> Result<Outcome, Denial> {
        let message = &request.message;
        let renewal = Renewal::read(message)?;
        let ticket = message.attribute(attr::MOBILITY_TICKET);
        let key = match (self.find(request.listener.id, request.source), ticket) {
            (None, Some(ticket)) => match self.follow(request, &known, ticket, random)? {
                Followed::Here(key) => key,
                Followed::Claim(shard, bearer) => {
                    let told = Told::Follow(Box::new(Follow { bearer, renewal, known, by: self.shard }));
                    return Ok(Outcome::Claim(shard, ShardMessage(told)));
                }
            },
            (_, _) => self.allocation_of(request, known.user())?,
        };
        let granted = self.renew(request.now, key, renewal, known, ended)?;
        let mut writer = refreshed(message.transaction_id(), granted);
        if ticket.is_some() {
            self.write_ticket(&mut writer, key);
        }
        Ok(Outcome::Answer(writer))
    }

    /// Prolongs an allocation, or ends it or one of its families.
    pub(super) fn renew(
        &mut self,
        now: Instant,
        key: Key,
        renewal: Renewal,
        known: KnownKey,
        ended: &mut u64,
    ) -> Result<Duration, TurnError> {
        let allocation = self.slab.get_mut(key).ok_or(TurnError::AllocationMismatch)?;
        let relay = match renewal.family {
            None => None,
            Some(family) => {
                let relay = family.and_then(|family| allocation.relays[family.index()]);
                Some(relay.ok_or(TurnError::PeerFamilyMismatch)?)
            }
        };
        if !renewal.lifetime.is_zero() {
            let granted = renewal.lifetime.clamp(DEFAULT_LIFETIME, MAX_LIFETIME);
            allocation.expires = now + granted;
            allocation.known = known;
            self.reschedule(key);
            return Ok(granted);
        }
        // One family of two can be given back alone.
        match relay.filter(|_| allocation.relays.iter().all(Option::is_some)) {
            Some(relay) => {
                allocation.relays = allocation.relays.map(|id| id.filter(|id| *id != relay));
                self.close(relay);
            }
            None => *ended += u64::from(self.remove(key).is_some()),
        }
        Ok(Duration::ZERO)
    }

    /// RFC 8656, section 10.2: all its peers or none.
    fn create_permission(&mut self, request: &Request<'_>, proof: &Proof<'_>) -> Result<Outcome, Denial> {
        let message = &request.message;
        let key = self.allocation_of(request, proof.user())?;
        let mut peers = Vec::new();
        for attribute in message.attributes().filter(|a| a.kind == attr::XOR_PEER_ADDRESS) {
            let peer = read_xor_address(attribute.value, message.transaction_id());
            let peer = self.judged(key, peer.ok_or(TurnError::BadRequest)?, Asked::Permission)?;
            if peers.len() == MAX_PEERS {
                return Err(TurnError::InsufficientCapacity.into());
            }
            peers.push(self.rules.permission(peer));
        }
        if peers.is_empty() {
            return Err(TurnError::BadRequest.into());
        }
        peers.sort_unstable();
        peers.dedup();
        let allocation = self.slab.get_mut(key).ok_or(TurnError::AllocationMismatch)?;
        allocation.permit(request.now, &peers, &self.limits)?;
        self.reschedule(key);
        Ok(Outcome::Answer(Writer::new(Class::Success, CREATE_PERMISSION, message.transaction_id())))
    }

    /// RFC 8656, section 12.2. The permission comes with the channel.
    fn channel_bind(&mut self, request: &Request<'_>, proof: &Proof<'_>) -> Result<Outcome, Denial> {
        let message = &request.message;
        let key = self.allocation_of(request, proof.user())?;
        let number = match message.attribute(attr::CHANNEL_NUMBER) {
            Some([high, low, _, _]) => u16::from_be_bytes([*high, *low]),
            _ => return Err(TurnError::BadRequest.into()),
        };
        let peer = message.attribute(attr::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| read_xor_address(value, message.transaction_id()));
        let peer = peer.filter(|_| CHANNELS.contains(&number)).ok_or(TurnError::BadRequest)?;
        let peer = self.judged(key, peer, Asked::Channel)?;
        let permission = self.rules.permission(peer);
        let allocation = self.slab.get_mut(key).ok_or(TurnError::AllocationMismatch)?;
        allocation.bind(request.now, number, peer, permission, &self.limits)?;
        self.reschedule(key);
        Ok(Outcome::Answer(Writer::new(Class::Success, CHANNEL_BIND, message.transaction_id())))
    }

    /// A peer of a family the allocation has, whom the rules allow.
    fn judged(&self, key: Key, peer: SocketAddr, asked: Asked) -> Result<SocketAddr, TurnError> {
        let allocation = self.slab.get(key).ok_or(TurnError::AllocationMismatch)?;
        if allocation.relays[Family::of(peer.ip()).index()].is_none() {
            return Err(TurnError::PeerFamilyMismatch);
        }
        let judgement = self.rules.judge(peer, self.defences);
        match (judgement, asked) {
            (Peer::Forbidden, _) => Err(TurnError::Forbidden),
            (Peer::Inside, _) | (Peer::Outside, Asked::Permission) => Ok(peer),
            (Peer::Outside, Asked::Channel) if peer.port() == 0 => Err(TurnError::BadRequest),
            (Peer::Outside, Asked::Channel) => Ok(peer),
        }
    }
}

/// What a Refresh asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renewal {
    lifetime: Duration,
    /// It is about this family alone; nothing for one that there is not.
    family: Option<Option<Family>>,
}

impl Renewal {
    fn read(message: &Message<'_>) -> Result<Self, TurnError> {
        let lifetime = read_lifetime(message)?.unwrap_or(DEFAULT_LIFETIME);
        let family = message.attribute(attr::REQUESTED_ADDRESS_FAMILY).map(read_family).transpose()?;
        Ok(Self { lifetime, family })
    }
}

/// The success response to Refresh, but for its end.
pub(super) fn refreshed(id: TransactionId, granted: Duration) -> Writer {
    let mut writer = Writer::new(Class::Success, REFRESH, id);
    writer.attribute(attr::LIFETIME, &(granted.as_secs() as u32).to_be_bytes());
    writer
}

/// What a peer is named for.
#[derive(Clone, Copy)]
enum Asked {
    Permission,
    Channel,
}

fn read_lifetime(message: &Message<'_>) -> Result<Option<Duration>, TurnError> {
    let Some(value) = message.attribute(attr::LIFETIME) else { return Ok(None) };
    let seconds = value.try_into().map_err(|_| TurnError::BadRequest)?;
    Ok(Some(Duration::from_secs(u32::from_be_bytes(seconds).into())))
}

/// A family, or nothing for one that there is not.
fn read_family(value: &[u8]) -> Result<Option<Family>, TurnError> {
    match value {
        [number, _, _, _] => Ok(Family::from_number(*number)),
        _ => Err(TurnError::BadRequest),
    }
}
