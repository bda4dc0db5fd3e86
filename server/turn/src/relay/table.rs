//! A shard's allocations: when each is to be looked at, and the sockets they need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use meetpoint_proto::SessionId as NodeSession;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::answer::{Request, TurnError};
use crate::auth::KnownKey;
use crate::config::ListenerId;
use crate::defence::{Defence, Defences};
use crate::relay::allocation::{Allocation, Opening, OpeningPorts, Wanted};
use crate::relay::handover::ShardMessage;
use crate::relay::hash::{self, ClientHasher};
use crate::relay::mobility::NewPlace;
use crate::relay::owners::PortLease;
use crate::relay::pairs::Pairs;
use crate::relay::peers::PeerRules;
use crate::relay::ports::Ports;
use crate::relay::quota::{Quota, Quotas};
use crate::relay::rate::{Meters, Prepaid};
use crate::relay::slab::{Key, Slab};
use crate::relay::{
    Family, MAX_OPEN_ATTEMPTS, OPEN_TIMEOUT, RESERVATION_LIFETIME, RelayConfig, RelayId, RelayLimits,
    RelayPolicy, Session, SessionId, SharedRelay,
};
use crate::server::Output;
use crate::shared::{ShardId, Shared};

/// A port that waits for its client (RFC 8656, section 18.10).
pub(super) struct Reservation {
    pub(super) relay: RelayId,
    pub(super) user: Box<str>,
    expires: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Allocation(Key),
    Reservation([u8; 8]),
}

/// What came of a timer.
pub(crate) enum Due {
    /// Something of an allocation or a reservation ran out.
    Pruned,
    /// An allocation ended.
    Ended,
    /// An allocation ended before it began, and its client is to be told.
    Refused(Box<Allocation>),
}

/// What the shell is to do with a socket.
enum Order {
    Open { id: RelayId, bind: SocketAddr },
    Close { id: RelayId, lease: PortLease },
    HandOver { id: RelayId, shard: ShardId, message: ShardMessage },
}

/// The allocations of a shard.
pub(crate) struct Relays {
    pub(super) shard: ShardId,
    pub(super) shared: Shared,
    pub(super) quotas: Arc<Quotas>,
    /// What a shard grants, which can change while it serves.
    pub(super) limits: RelayLimits,
    pub(super) meters: Meters,
    pub(super) ports: Ports,
    pub(super) rules: PeerRules,
    pub(super) slab: Slab<Allocation>,
    pub(super) reservations: BTreeMap<[u8; 8], Reservation>,
    pub(super) can_refuse_fragments: bool,
    pub(super) pairs: Pairs,
    pub(super) defences: Defences,
    /// Makes the transaction ids of indications differ; nobody answers them.
    pub(super) indications: u64,
    /// By listener and source, which the allocations know.
    by_client: HashTable<Key>,
    hasher: ClientHasher,
    timers: BTreeSet<(Instant, Timer)>,
    /// Sockets to open and close, in their order. As many as there are ports, and as many again
    /// for each answer the shell leaves waiting.
    orders: VecDeque<Order>,
    /// The port of the last order to close. It is anybody's only when the shell asks for more to do:
    /// until then its socket may be open, and another shard's shell could not open its own.
    closing: Option<PortLease>,
}

impl Relays {
    pub(crate) fn new(config: &RelayConfig, shared: &Shared, relay: &SharedRelay, shard: ShardId) -> Self {
        Self {
            shard,
            shared: shared.clone(),
            quotas: Arc::clone(&relay.quotas),
            limits: *relay.quotas.limits(),
            meters: Meters::new(relay.quotas.limits(), Prepaid::default()),
            ports: Ports::new(shard, Arc::clone(&relay.owners)),
            rules: relay.rules.clone(),
            slab: Slab::default(),
            reservations: BTreeMap::new(),
            can_refuse_fragments: config.dont_fragment,
            pairs: Pairs::default(),
            defences: Defences::default(),
            indications: 0,
            by_client: HashTable::new(),
            hasher: shared.client_hasher(),
            timers: BTreeSet::new(),
            orders: VecDeque::new(),
            closing: None,
        }
    }

    /// Grants by this from now on. Nothing that was granted is taken back: a permission for a peer that is denied
    /// now is not renewed, and ends within five minutes.
    pub(crate) fn set_policy(&mut self, policy: RelayPolicy) {
        let RelayPolicy { mut limits, allow, deny, is_draining } = policy;
        if is_draining {
            limits.allocations = 0;
        }
        self.limits = limits;
        self.meters = Meters::new(&limits, self.meters.prepaid);
        self.rules.set_lists(allow, deny);
    }

    /// What is to be done next about a socket. The one before is done.
    pub(crate) fn poll_order(&mut self) -> Option<Output> {
        self.closing = None;
        Some(match self.orders.pop_front()? {
            Order::Open { id, bind } => Output::OpenRelay { id, bind },
            Order::Close { id, lease } => {
                self.closing = Some(lease);
                Output::CloseRelay { id }
            }
            Order::HandOver { id, shard, message } => Output::HandOver { id, shard, message },
        })
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The key of the client of a request, if he has an allocation.
    pub(crate) fn known_key(&self, request: &Request<'_>) -> Option<&KnownKey> {
        let key = self.find(request.listener.id, request.source)?;
        self.slab.get(key).map(|allocation| &allocation.known)
    }

    /// An allocation's relayed addresses as peers know them, IPv4 first.
    pub(super) fn relayed_of(&self, allocation: &Allocation) -> [Option<SocketAddr>; 2] {
        allocation.relays.map(|id| Some(self.ports.get(id?)?.lease.seen()))
    }

    /// True if the user has an allocation, on whichever shard.
    pub(crate) fn holds(&self, user: &str) -> bool {
        self.quotas.holds(user) && self.defences.stand(Defence::HandedOnce)
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
    }

    #[inline]
    pub(super) fn find(&self, listener: ListenerId, source: SocketAddr) -> Option<Key> {
        let is_client = |key: &Key| {
            let allocation = self.slab.get(*key);
            allocation.is_some_and(|known| known.source == source && known.listener == listener)
        };
        self.by_client.find(self.hasher.place(listener, source), is_client).copied()
    }

    pub(super) fn insert(&mut self, allocation: Allocation) -> Key {
        let hash = self.hasher.place(allocation.listener, allocation.source);
        let due = allocation.due;
        let key = self.slab.insert(allocation);
        self.by_client.insert_unique(hash, key, rehash(&self.slab, self.hasher));
        self.timers.insert((due, Timer::Allocation(key)));
        key
    }

    /// Notes that its client is elsewhere now.
    pub(super) fn relocate(&mut self, key: Key, place: NewPlace) {
        let Some(allocation) = self.slab.get(key) else { return };
        let hash = self.hasher.place(allocation.listener, allocation.source);
        hash::remove(&mut self.by_client, hash, |known| *known == key, rehash(&self.slab, self.hasher));
        if let Some(allocation) = self.slab.get_mut(key) {
            allocation.relocate(place);
        }
        let hash = self.hasher.place(place.listener, place.source);
        self.by_client.insert_unique(hash, key, rehash(&self.slab, self.hasher));
    }

    /// Takes an allocation out, but none of its ports.
    fn take(&mut self, key: Key) -> Option<Allocation> {
        let allocation = self.slab.remove(key)?;
        let hash = self.hasher.place(allocation.listener, allocation.source);
        let rehash = rehash(&self.slab, self.hasher);
        hash::remove(&mut self.by_client, hash, |known| *known == key, rehash);
        self.timers.remove(&(allocation.due, Timer::Allocation(key)));
        Some(allocation)
    }

    /// Takes an allocation out with its ports, which stay open.
    pub(super) fn detach(&mut self, key: Key) -> Option<(Allocation, Vec<(RelayId, PortLease)>)> {
        let mut allocation = self.take(key)?;
        let ids = std::mem::take(&mut allocation.relays).into_iter().flatten();
        let ports = ids.filter_map(|id| Some((id, self.ports.remove(id)?))).collect();
        Some((allocation, ports))
    }

    /// Ends an allocation and gives back all it had, but for a port it reserved.
    pub(super) fn remove(&mut self, key: Key) -> Option<Allocation> {
        let allocation = self.take(key)?;
        let spare = match allocation.opening {
            Some(Opening::Ports(ports)) => ports.spare,
            Some(Opening::Claim) | None => None,
        };
        for id in allocation.relays.into_iter().chain([spare]).flatten() {
            self.close(id);
        }
        Some(allocation)
    }

    pub(super) fn close(&mut self, id: RelayId) {
        if let Some(lease) = self.ports.remove(id) {
            self.orders.push_back(Order::Close { id, lease });
        }
    }

    /// Gives a socket to the shard whose port this is now.
    pub(super) fn hand_over(&mut self, id: RelayId, shard: ShardId, message: ShardMessage) {
        self.orders.push_back(Order::HandOver { id, shard, message });
    }

    /// Sets the allocation's timer to when something of it runs out next.
    pub(super) fn reschedule(&mut self, key: Key) {
        let Some(allocation) = self.slab.get_mut(key) else { return };
        let due = allocation.next_due();
        if due != allocation.due {
            self.timers.remove(&(allocation.due, Timer::Allocation(key)));
            self.timers.insert((due, Timer::Allocation(key)));
            allocation.due = due;
        }
    }

    /// Orders the sockets an allocation wants, on ports that no shard has.
    pub(super) fn open(
        &mut self,
        key: Key,
        wanted: Wanted,
        attempts: u8,
        random: &mut ChaCha20Rng,
    ) -> Result<(), Quota> {
        let mut relays = [None; 2];
        let mut spare = None;
        let mut address_error = None;
        let families = Family::BOTH.into_iter().filter(|family| wanted.families[family.index()]);
        for family in families {
            match self.ports.claim(family, wanted.parity, key, random) {
                Some((relay, next)) => {
                    relays[family.index()] = Some(relay);
                    spare = spare.or(next);
                }
                None => address_error = Some((family, TurnError::InsufficientCapacity)),
            }
        }
        let mut waiting = 0;
        for id in relays.into_iter().chain([spare]).flatten() {
            let Some(port) = self.ports.get(id) else { continue };
            self.orders.push_back(Order::Open { id, bind: port.lease.bind() });
            waiting += 1;
        }
        let allocation = self.slab.get_mut(key).ok_or(Quota::Ports)?;
        allocation.relays = relays;
        allocation.address_error = allocation.address_error.or(address_error);
        allocation.opening = Some(Opening::Ports(OpeningPorts { waiting, attempts, wanted, spare }));
        if waiting == 0 { Err(Quota::Ports) } else { Ok(()) }
    }

    /// A socket is open. Returns its allocation if that was the last one it waited for.
    pub(crate) fn opened(&mut self, now: Instant, id: RelayId, random: &mut ChaCha20Rng) -> Option<Key> {
        let port = self.ports.get_mut(id).filter(|port| !port.is_open)?;
        port.is_open = true;
        let key = port.owner?;
        let Some(Opening::Ports(opening)) = &mut self.slab.get_mut(key)?.opening else { return None };
        opening.waiting -= 1;
        if opening.waiting > 0 {
            return None;
        }
        let spare = opening.spare;
        self.begin(now, key);
        if let Some(spare) = spare {
            self.reserve(now, key, spare, random);
        }
        Some(key)
    }

    /// An allocation has what it waited for: its lifetime begins.
    pub(super) fn begin(&mut self, now: Instant, key: Key) {
        let Some(allocation) = self.slab.get_mut(key) else { return };
        allocation.opening = None;
        allocation.expires = now + Duration::from_secs(allocation.lifetime_s.into());
        self.reschedule(key);
    }

    /// Keeps a port for the user of an allocation. The token begins with the shard, since its bearer
    /// may come to another one.
    fn reserve(&mut self, now: Instant, key: Key, spare: RelayId, random: &mut ChaCha20Rng) {
        let Some(allocation) = self.slab.get_mut(key) else { return };
        let user: Box<str> = allocation.known.user().into();
        let mut token = [0; 8];
        random.fill_bytes(&mut token);
        token[0] = self.shard.0;
        allocation.token = Some(token);
        if let Some(port) = self.ports.get_mut(spare) {
            port.owner = None;
        }
        let expires = now + RESERVATION_LIFETIME;
        self.reservations.insert(token, Reservation { relay: spare, user, expires });
        self.timers.insert((expires, Timer::Reservation(token)));
    }

    /// A socket could not be opened: others are tried, with which the allocation starts anew.
    /// Returns it if it has to be given up.
    pub(crate) fn failed(&mut self, id: RelayId, random: &mut ChaCha20Rng) -> Option<Allocation> {
        let key = self.ports.get(id)?.owner?;
        let allocation = self.slab.get_mut(key)?;
        let Some(Opening::Ports(opening)) = allocation.opening else { return None };
        allocation.opening = None;
        let held = std::mem::take(&mut allocation.relays);
        for id in held.into_iter().chain([opening.spare]).flatten() {
            self.close(id);
        }
        let attempts = opening.attempts + 1;
        let is_over =
            attempts >= MAX_OPEN_ATTEMPTS || self.open(key, opening.wanted, attempts, random).is_err();
        if is_over { self.remove(key) } else { None }
    }

    /// The port that was reserved under a token, if it is this user's.
    pub(super) fn reserved(&self, token: [u8; 8], user: &str) -> Option<RelayId> {
        let reservation = self.reservations.get(&token)?;
        (*reservation.user == *user).then_some(reservation.relay)
    }

    /// Ends a reservation whose port has been found a use for.
    pub(super) fn forget_reservation(&mut self, token: [u8; 8]) {
        if let Some(reservation) = self.reservations.remove(&token) {
            self.timers.remove(&(reservation.expires, Timer::Reservation(token)));
        }
    }

    /// Takes a reserved port for an allocation.
    pub(super) fn redeem(&mut self, token: [u8; 8], relay: RelayId, key: Key) {
        self.forget_reservation(token);
        let Some(port) = self.ports.get_mut(relay) else { return };
        port.owner = Some(key);
        let family = port.lease.family();
        if let Some(allocation) = self.slab.get_mut(key) {
            allocation.relays[family.index()] = Some(relay);
        }
    }

    /// Does one thing that is due; nothing if nothing is.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        let (at, timer) = *self.timers.first()?;
        if at > now {
            return None;
        }
        match timer {
            Timer::Reservation(token) => {
                self.timers.remove(&(at, timer));
                if let Some(reservation) = self.reservations.remove(&token) {
                    self.close(reservation.relay);
                }
            }
            Timer::Allocation(key) => {
                let Some(allocation) = self.slab.get_mut(key) else {
                    self.timers.remove(&(at, timer));
                    return Some(Due::Pruned);
                };
                if allocation.expires <= now {
                    let allocation = self.remove(key)?;
                    let is_claim = matches!(allocation.opening, Some(Opening::Claim));
                    return Some(if is_claim { Due::Refused(Box::new(allocation)) } else { Due::Ended });
                }
                allocation.prune(now);
                self.reschedule(key);
            }
        }
        Some(Due::Pruned)
    }

    pub(crate) fn end(&mut self, id: SessionId) -> bool {
        id.shard() == self.shard && self.remove(id.key()).is_some()
    }

    /// Ends what a client's connection carried, if it carried anything.
    pub(crate) fn disconnected(&mut self, listener: ListenerId, source: SocketAddr) -> bool {
        let key = self.find(listener, source);
        key.is_some_and(|key| self.remove(key).is_some())
    }

    /// Lets two nodes meet at their relayed addresses.
    pub(crate) fn introduce(&mut self, now: Instant, a: NodeSession, b: NodeSession, until: Instant) {
        self.pairs.introduce(now, a, b, until);
    }

    /// A node's session has ended: it meets nobody any more.
    pub(crate) fn part(&mut self, node: NodeSession) {
        self.pairs.end(node);
    }

    /// How many pairs of nodes may meet, those included that have run out since the last one came.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs.len()
    }

    pub(crate) fn sessions(&self, now: Instant) -> impl Iterator<Item = Session<'_>> {
        let is_active = |(_, allocation): &(Key, &Allocation)| allocation.opening.is_none();
        self.slab.iter().filter(is_active).map(move |(key, allocation)| Session {
            id: SessionId::of(self.shard, key),
            user: allocation.known.user(),
            client: allocation.source,
            listener: allocation.listener,
            transport: allocation.transport,
            relayed: self.relayed_of(allocation),
            lifetime_left: allocation.expires.saturating_duration_since(now),
            to_peer: allocation.to_peer,
            to_client: allocation.to_client,
        })
    }

    /// How much is held: allocations, sockets, reservations, timers.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.slab.len(), self.ports.len(), self.reservations.len(), self.timers.len()]
    }

    /// When an allocation that is being opened is given up.
    pub(super) fn opening_ends(now: Instant) -> Instant {
        now + OPEN_TIMEOUT
    }
}

/// The place of a client that is in the table.
fn rehash(slab: &Slab<Allocation>, hasher: ClientHasher) -> impl Fn(&Key) -> u64 {
    move |key| slab.get(*key).map_or(0, |known| hasher.place(known.listener, known.source))
}
