//! An allocation follows its client to another address (RFC 8016).
//!
//! A client that asks for it, by an empty MOBILITY-TICKET in its Allocate, is told a ticket. When its NAT gives it
//! another port, or it changes networks, a Refresh with that ticket from the new place makes the allocation its
//! own again. Relayed addresses, permissions and channels stay as they are, so that no peer notices.
//!
//! A ticket names the allocation, by its shard and its key there, and has 64 bits of chance that nothing but the
//! answers to this client tell. It moves the allocation once: the answer brings the next one. It is no credential. The
//! request that bears it is signed by the user who made the allocation, under a nonce that was delivered to the new
//! place. What comes from the old place afterwards is a stranger's.
//!
//! A repeated request finds the allocation where it is already, and is answered like any Refresh there, with the ticket
//! that is good by then: an answer that was lost costs nothing.
//!
//! The new place may be another shard's. That one keeps nothing while it asks the ticket's shard (`Follow`), which
//! hands the allocation over with its sockets, or says why not (`Stayed`). If a message is lost, so is at worst the
//! allocation, and its client makes another.
//!
//! Deliberately absent: clients on streams. What a connection carried ends with it; they are told 405.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use data_encoding::BASE64URL_NOPAD;
use meetpoint_stun::Writer;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use subtle::ConstantTimeEq;

use crate::answer::{Request, TurnError, seal};
use crate::attr;
use crate::auth::KnownKey;
use crate::config::{ListenerId, Transport};
use crate::defence::Defence;
use crate::message::{Class, Message, REFRESH, TransactionId};
use crate::relay::RelayId;
use crate::relay::SessionId;
use crate::relay::allocation::Allocation;
use crate::relay::handover::{Message as Told, ShardMessage};
use crate::relay::owners::PortLease;
use crate::relay::ports::Port;
use crate::relay::quota::Denial;
use crate::relay::request::{Renewal, refreshed};
use crate::relay::slab::Key;
use crate::relay::table::Relays;
use crate::server::{Output, StunServer};
use crate::shared::ShardId;

/// Length of the part of a ticket that names the allocation.
const NAME_LEN: usize = 8;
/// Length of the part that is chance. A guess is a signed request of the very user, and each is answered.
const SECRET_LEN: usize = 8;
/// Length of a ticket as it is told: base64 without padding. RFC 8016 lets it be any bytes, but there are clients
/// (coturn's) that keep it as text.
const TICKET_LEN: usize = 22;

/// What the next ticket of an allocation is known by.
#[derive(Clone, Copy)]
pub(crate) struct MobilitySecret([u8; SECRET_LEN]);

impl MobilitySecret {
    fn random(random: &mut ChaCha20Rng) -> Self {
        let mut secret = [0; SECRET_LEN];
        random.fill_bytes(&mut secret);
        Self(secret)
    }

    /// For an Allocate that asks for it.
    pub(super) fn asked(
        message: &Message<'_>,
        transport: Transport,
        random: &mut ChaCha20Rng,
    ) -> Result<Option<Self>, TurnError> {
        match message.attribute(attr::MOBILITY_TICKET) {
            None => Ok(None),
            Some([]) if transport.is_stream() => Err(TurnError::MobilityForbidden),
            Some([]) => Ok(Some(Self::random(random))),
            Some(_) => Err(TurnError::BadRequest),
        }
    }
}

/// Names an allocation, and proves that its bearer was told so.
#[derive(Clone, Copy)]
struct Ticket {
    session: SessionId,
    secret: MobilitySecret,
}

impl Ticket {
    fn read(text: &[u8]) -> Option<Self> {
        let mut value = [0; NAME_LEN + SECRET_LEN];
        let is_whole = text.len() == TICKET_LEN && BASE64URL_NOPAD.decode_mut(text, &mut value).is_ok();
        let (name, secret) = value.split_first_chunk::<NAME_LEN>().filter(|_| is_whole)?;
        let session = SessionId::from_number(u64::from_be_bytes(*name));
        Some(Self { session, secret: MobilitySecret(secret.try_into().ok()?) })
    }

    fn write(self) -> [u8; TICKET_LEN] {
        let mut value = [0; NAME_LEN + SECRET_LEN];
        value[..NAME_LEN].copy_from_slice(&self.session.number().to_be_bytes());
        value[NAME_LEN..].copy_from_slice(&self.secret.0);
        let mut text = [0; TICKET_LEN];
        BASE64URL_NOPAD.encode_mut(&value, &mut text);
        text
    }
}

/// Where a client is now. What carries its messages stays what it was: datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewPlace {
    pub(crate) listener: ListenerId,
    pub(crate) source: SocketAddr,
}

/// A request that bears a ticket, as far as its answer needs it.
#[derive(Clone, Copy)]
pub(crate) struct Bearer {
    place: NewPlace,
    ticket: Ticket,
    transaction_id: TransactionId,
    has_fingerprint: bool,
}

/// Where the allocation of a ticket is.
pub(super) enum Followed {
    /// It has followed its client.
    Here(Key),
    /// This shard has to be asked for it.
    Claim(ShardId, Bearer),
}

/// One shard asks another for the allocation of a client that has come to it.
pub(crate) struct Follow {
    pub(super) by: ShardId,
    pub(super) bearer: Bearer,
    pub(super) renewal: Renewal,
    pub(super) known: KnownKey,
}

/// The allocation, and the first of its sockets. A second one comes behind it.
pub(crate) struct Moved {
    follow: Follow,
    allocation: Allocation,
    lease: PortLease,
}

impl StunServer {
    /// Another shard asks for an allocation.
    pub(super) fn followed(&mut self, now: Instant, follow: Box<Follow>) {
        let Some(relays) = &mut self.relays else { return };
        let shard = follow.by;
        if let Err((follow, denial)) = relays.hand_over_allocation(now, follow) {
            let error = match denial {
                Denial::Error(error) => error,
                Denial::Quota(quota) => {
                    self.counters.relay.refused.count(quota);
                    quota.error()
                }
            };
            self.push(Output::ToShard { shard, message: ShardMessage(Told::Stayed { follow, error }) });
        }
    }

    /// Another shard keeps its allocation. If it is here already, that answers a request that was repeated.
    pub(super) fn stayed(&mut self, follow: &Follow, error: TurnError) {
        let NewPlace { listener, source } = follow.bearer.place;
        if self.relays.as_ref().is_some_and(|relays| relays.find(listener, source).is_some()) {
            return;
        }
        let mut writer = Writer::new(Class::Error, REFRESH, follow.bearer.transaction_id);
        writer.error_code(error.code());
        seal(&mut writer, Some(follow.known.key()), follow.bearer.has_fingerprint);
        self.counters.errors.count(error.code());
        self.transmit(listener, source, writer.finish());
    }

    /// Takes in an allocation of another shard, and answers its client.
    pub(super) fn take_in(&mut self, now: Instant, moved: Moved) -> Option<RelayId> {
        let Moved { follow: Follow { bearer, renewal, known, .. }, mut allocation, lease } = moved;
        let relays = self.relays.as_mut()?;
        if relays.find(bearer.place.listener, bearer.place.source).is_some() {
            return None;
        }
        allocation.relocate(bearer.place);
        allocation.mobility = Some(MobilitySecret::random(&mut self.random));
        let key = relays.insert(allocation);
        let id = relays.take_in_port(key, lease)?;
        let signing = known.key().clone();
        let renewed = relays.renew(now, key, renewal, known, &mut self.counters.relay.ended);
        let mut writer = match renewed {
            Ok(granted) => {
                self.counters.relay.refresh += 1;
                let mut writer = refreshed(bearer.transaction_id, granted);
                relays.write_ticket(&mut writer, key);
                writer
            }
            Err(error) => {
                self.counters.errors.count(error.code());
                let mut writer = Writer::new(Class::Error, REFRESH, bearer.transaction_id);
                writer.error_code(error.code());
                writer
            }
        };
        seal(&mut writer, Some(&signing), bearer.has_fingerprint);
        self.transmit(bearer.place.listener, bearer.place.source, writer.finish());
        Some(id)
    }
}

impl Relays {
    /// Tells the client of an allocation the ticket to take it along by, if it asked for one.
    pub(super) fn write_ticket(&self, writer: &mut Writer, key: Key) {
        if let Some(secret) = self.slab.get(key).and_then(|allocation| allocation.mobility) {
            let ticket = Ticket { session: SessionId::of(self.shard, key), secret };
            writer.attribute(attr::MOBILITY_TICKET, &ticket.write());
        }
    }

    /// A client without an allocation bears a ticket: has its allocation follow.
    pub(super) fn follow(
        &mut self,
        request: &Request<'_>,
        known: &KnownKey,
        ticket: &[u8],
        random: &mut ChaCha20Rng,
    ) -> Result<Followed, Denial> {
        if request.listener.transport.is_stream() {
            return Err(TurnError::MobilityForbidden.into());
        }
        let ticket = Ticket::read(ticket).ok_or(TurnError::BadRequest)?;
        let place = NewPlace { listener: request.listener.id, source: request.source };
        let shard = ticket.session.shard();
        if shard != self.shard {
            let bearer = Bearer {
                place,
                ticket,
                transaction_id: request.message.transaction_id(),
                has_fingerprint: request.message.has_fingerprint(),
            };
            let is_there = shard.0 < self.shared.shards();
            return is_there
                .then_some(Followed::Claim(shard, bearer))
                .ok_or(TurnError::AllocationMismatch.into());
        }
        let key = self.leaving(request.now, ticket, place, known)?;
        self.relocate(key, place);
        if let Some(allocation) = self.slab.get_mut(key) {
            allocation.mobility = Some(MobilitySecret::random(random));
        }
        Ok(Followed::Here(key))
    }

    /// The allocation of a ticket, once nothing speaks against its following this user there.
    fn leaving(
        &mut self,
        now: Instant,
        ticket: Ticket,
        place: NewPlace,
        known: &KnownKey,
    ) -> Result<Key, Denial> {
        let (key, defences) = (ticket.session.key(), self.defences);
        let allocation = self.slab.get_mut(key).ok_or(TurnError::AllocationMismatch)?;
        if allocation.opening.is_some() || allocation.expires <= now {
            return Err(TurnError::AllocationMismatch.into());
        }
        let secret = allocation.mobility.ok_or(TurnError::MobilityForbidden)?;
        if !bool::from(secret.0.ct_eq(&ticket.secret.0)) {
            return Err(TurnError::AllocationMismatch.into());
        }
        if allocation.known.user() != known.user() && defences.stand(Defence::TicketUser) {
            return Err(TurnError::WrongCredentials.into());
        }
        allocation.reseat(&place, defences)?;
        Ok(key)
    }

    /// Gives an allocation to the shard its client came to; the request comes back if that may not be.
    fn hand_over_allocation(
        &mut self,
        now: Instant,
        follow: Box<Follow>,
    ) -> Result<(), (Box<Follow>, Denial)> {
        let Bearer { ticket, place, .. } = follow.bearer;
        let key = match self.leaving(now, ticket, place, &follow.known) {
            Ok(key) => key,
            Err(denial) => return Err((follow, denial)),
        };
        let Some((allocation, ports)) = self.detach(key) else {
            return Err((follow, TurnError::AllocationMismatch.into()));
        };
        let to = follow.by;
        let mut ports = ports.into_iter();
        let Some((id, lease)) = ports.next() else { return Ok(()) };
        lease.hand_to(to);
        let moved = Moved { follow: *follow, allocation, lease };
        self.hand_over(id, to, ShardMessage(Told::Moved(Box::new(moved))));
        for (id, lease) in ports {
            lease.hand_to(to);
            self.hand_over(id, to, ShardMessage(Told::MovedToo { place, lease }));
        }
        Ok(())
    }

    /// The second socket of an allocation that has come from another shard.
    pub(super) fn take_in_second(&mut self, place: NewPlace, lease: PortLease) -> Option<RelayId> {
        let key = self.find(place.listener, place.source)?;
        self.take_in_port(key, lease)
    }

    fn take_in_port(&mut self, key: Key, lease: PortLease) -> Option<RelayId> {
        let family = lease.family();
        let allocation = self.slab.get_mut(key)?;
        if allocation.relays[family.index()].is_some() {
            return None;
        }
        let id = self.ports.insert(Port { lease, owner: Some(key), is_open: true });
        allocation.relays[family.index()] = Some(id);
        Some(id)
    }
}

impl PartialEq for Follow {
    fn eq(&self, other: &Self) -> bool {
        let of = |follow: &Self| (follow.by, follow.bearer.place, follow.bearer.transaction_id);
        of(self) == of(other)
    }
}

impl Eq for Follow {}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follow({:?})", self.bearer.place)
    }
}

impl PartialEq for Moved {
    fn eq(&self, other: &Self) -> bool {
        self.follow == other.follow && self.lease == other.lease
    }
}

impl Eq for Moved {}

impl fmt::Debug for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moved({:?}, {:?})", self.follow, self.lease)
    }
}
