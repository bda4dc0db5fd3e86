//! All allocations: who has how many, when each is to be looked at, and the sockets they need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::SessionId as NodeSession;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::answer::{Request, TurnError};
use crate::auth::KnownKey;
use crate::behaviour::Listeners;
use crate::config::ListenerId;
use crate::defence::{Defence, Defences};
use crate::relay::allocation::{Allocation, Opening, Wanted};
use crate::relay::pairs::Pairs;
use crate::relay::peers::PeerRules;
use crate::relay::ports::{Parity, Ports};
use crate::relay::slab::{Key, Slab};
use crate::relay::{
    DEFAULT_PORTS, Family, MAX_OPEN_ATTEMPTS, OPEN_TIMEOUT, RESERVATION_LIFETIME, RelayConfig, RelayId,
    RelayLimits, Session, SessionId,
};
use crate::server::Output;

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

/// The allocations of a server.
pub(crate) struct Relays {
    pub(super) ports: Ports,
    pub(super) rules: PeerRules,
    pub(super) limits: RelayLimits,
    pub(super) slab: Slab<Allocation>,
    pub(super) reservations: BTreeMap<[u8; 8], Reservation>,
    pub(super) can_refuse_fragments: bool,
    pub(super) pairs: Pairs,
    pub(super) defences: Defences,
    /// Makes the transaction ids of indications differ; nobody answers them.
    pub(super) indications: u64,
    by_client: BTreeMap<(ListenerId, SocketAddr), Key>,
    users: BTreeMap<Box<str>, u32>,
    sources: BTreeMap<IpAddr, u32>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Sockets to open and close, in their order. As many as there are ports, and as many again
    /// for each answer the shell leaves waiting.
    orders: VecDeque<Output>,
    /// The rates count from here.
    epoch: Option<Instant>,
}

impl Relays {
    pub(crate) fn new(config: &RelayConfig, limits: RelayLimits, listeners: &Listeners) -> Self {
        let range = config.ports.clone().unwrap_or(DEFAULT_PORTS);
        let rules = PeerRules::new(config, (*range.start(), *range.end()), listeners);
        let mut ports = Ports::new(config, &range);
        rules.listening_ports().for_each(|port| ports.withhold(port));
        Self {
            ports,
            rules,
            limits,
            slab: Slab::default(),
            reservations: BTreeMap::new(),
            can_refuse_fragments: config.dont_fragment,
            pairs: Pairs::default(),
            defences: Defences::default(),
            indications: 0,
            by_client: BTreeMap::new(),
            users: BTreeMap::new(),
            sources: BTreeMap::new(),
            timers: BTreeSet::new(),
            orders: VecDeque::new(),
            epoch: None,
        }
    }

    pub(crate) fn poll_order(&mut self) -> Option<Output> {
        self.orders.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The key of the client of a request, if he has an allocation.
    pub(crate) fn known_key(&self, request: &Request<'_>) -> Option<&KnownKey> {
        let key = self.find(request.listener.id, request.source)?;
        self.slab.get(key).map(|allocation| &allocation.known)
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
    }

    #[inline]
    pub(super) fn find(&self, listener: ListenerId, source: SocketAddr) -> Option<Key> {
        self.by_client.get(&(listener, source)).copied()
    }

    /// Refuses a user or a source that has enough.
    pub(super) fn admit(&self, user: &str, seen: SocketAddr) -> Result<(), TurnError> {
        if !self.defences.stand(Defence::Quotas) {
            return Ok(());
        }
        let limits = &self.limits;
        let of_user = self.users.get(user).copied().unwrap_or(0);
        let of_source = self.sources.get(&source_key(seen)).copied().unwrap_or(0);
        if of_user >= limits.allocations_per_user || of_source >= limits.allocations_per_source {
            return Err(TurnError::AllocationQuotaReached);
        }
        if self.slab.len() >= limits.allocations as usize {
            return Err(TurnError::InsufficientCapacity);
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, allocation: Allocation) -> Key {
        let client = (allocation.listener, allocation.source);
        match self.users.get_mut(allocation.known.user()) {
            Some(count) => *count += 1,
            None => {
                self.users.insert(allocation.known.user().into(), 1);
            }
        }
        *self.sources.entry(source_key(allocation.source)).or_default() += 1;
        let due = allocation.due;
        let key = self.slab.insert(allocation);
        self.by_client.insert(client, key);
        self.timers.insert((due, Timer::Allocation(key)));
        key
    }

    /// Ends an allocation and gives back all it had, but for a port it reserved.
    pub(super) fn remove(&mut self, key: Key) -> Option<Allocation> {
        let allocation = self.slab.remove(key)?;
        self.by_client.remove(&(allocation.listener, allocation.source));
        self.timers.remove(&(allocation.due, Timer::Allocation(key)));
        if let Some(count) = self.users.get_mut(allocation.known.user()) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(allocation.known.user());
            }
        }
        let source = source_key(allocation.source);
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        let spare = allocation.opening.and_then(|opening| opening.spare);
        for id in allocation.relays.into_iter().chain([spare]).flatten() {
            self.close(id);
        }
        Some(allocation)
    }

    pub(super) fn close(&mut self, id: RelayId) {
        self.ports.release(id);
        self.orders.push_back(Output::CloseRelay { id });
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

    /// Orders the sockets an allocation wants, on ports that are free as far as this table knows.
    pub(super) fn open(
        &mut self,
        key: Key,
        wanted: Wanted,
        attempts: u8,
        random: &mut ChaCha20Rng,
    ) -> Result<(), TurnError> {
        let mut relays = [None; 2];
        let mut spare = None;
        let mut address_error = None;
        let families = Family::BOTH.into_iter().filter(|family| wanted.families[family.index()]);
        for family in families {
            let Some(port) = self.ports.pick(family, wanted.parity, random) else {
                address_error = Some((family, TurnError::InsufficientCapacity));
                continue;
            };
            relays[family.index()] = self.order(family, port, key);
            if wanted.parity == Parity::EvenWithNext {
                spare = self.order(family, port.saturating_add(1), key);
            }
        }
        let waiting = relays.iter().chain([&spare]).flatten().count() as u8;
        let allocation = self.slab.get_mut(key).ok_or(TurnError::InsufficientCapacity)?;
        allocation.relays = relays;
        allocation.address_error = allocation.address_error.or(address_error);
        allocation.opening = Some(Opening { waiting, attempts, wanted, spare });
        if waiting == 0 { Err(TurnError::InsufficientCapacity) } else { Ok(()) }
    }

    fn order(&mut self, family: Family, port: u16, owner: Key) -> Option<RelayId> {
        let (id, bind) = self.ports.take(family, port, owner)?;
        self.orders.push_back(Output::OpenRelay { id, bind });
        Some(id)
    }

    /// A socket is open. Returns its allocation if that was the last one it waited for.
    pub(crate) fn opened(&mut self, now: Instant, id: RelayId, random: &mut ChaCha20Rng) -> Option<Key> {
        let port = self.ports.get_mut(id).filter(|port| !port.is_open)?;
        port.is_open = true;
        let key = port.owner?;
        let allocation = self.slab.get_mut(key)?;
        let opening = allocation.opening.as_mut()?;
        opening.waiting -= 1;
        if opening.waiting > 0 {
            return None;
        }
        let spare = opening.spare;
        allocation.opening = None;
        allocation.expires = now + Duration::from_secs(allocation.lifetime_s.into());
        if let Some(spare) = spare {
            let user: Box<str> = allocation.known.user().into();
            let mut token = [0; 8];
            random.fill_bytes(&mut token);
            allocation.token = Some(token);
            if let Some(port) = self.ports.get_mut(spare) {
                port.owner = None;
            }
            let expires = now + RESERVATION_LIFETIME;
            self.reservations.insert(token, Reservation { relay: spare, user, expires });
            self.timers.insert((expires, Timer::Reservation(token)));
        }
        self.reschedule(key);
        Some(key)
    }

    /// A socket could not be opened: others are tried, with which the allocation starts anew.
    /// Returns it if it has to be given up.
    pub(crate) fn failed(&mut self, id: RelayId, random: &mut ChaCha20Rng) -> Option<Allocation> {
        let key = self.ports.get(id)?.owner?;
        let allocation = self.slab.get_mut(key)?;
        let opening = allocation.opening.take()?;
        let held = std::mem::take(&mut allocation.relays);
        for id in held.into_iter().chain([opening.spare]).flatten() {
            self.close(id);
        }
        let attempts = opening.attempts + 1;
        let is_over =
            attempts >= MAX_OPEN_ATTEMPTS || self.open(key, opening.wanted, attempts, random).is_err();
        if is_over { self.remove(key) } else { None }
    }

    /// Takes a reserved port for an allocation.
    pub(super) fn redeem(&mut self, token: [u8; 8], key: Key) {
        let Some(reservation) = self.reservations.remove(&token) else { return };
        self.timers.remove(&(reservation.expires, Timer::Reservation(token)));
        let Some(port) = self.ports.get_mut(reservation.relay) else { return };
        port.owner = Some(key);
        let family = Family::of(port.seen.ip());
        if let Some(allocation) = self.slab.get_mut(key) {
            allocation.relays[family.index()] = Some(reservation.relay);
        }
    }

    /// Does one thing that is due. True if an allocation ended with it; nothing if nothing is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<bool> {
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
                    return Some(false);
                };
                if allocation.expires <= now {
                    return Some(self.remove(key).is_some());
                }
                allocation.prune(now);
                self.reschedule(key);
            }
        }
        Some(false)
    }

    pub(crate) fn end(&mut self, id: SessionId) -> bool {
        self.remove(id.key()).is_some()
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
            id: SessionId::of(key),
            user: allocation.known.user(),
            client: allocation.source,
            listener: allocation.listener,
            transport: allocation.transport,
            relayed: allocation.relays.map(|id| Some(self.ports.get(id?)?.seen)),
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

    #[inline]
    pub(super) fn nanos(&mut self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(now);
        now.saturating_duration_since(epoch).as_nanos() as u64
    }
}

/// Who counts as one source: an IPv4 address or an IPv6 /64.
fn source_key(source: SocketAddr) -> IpAddr {
    match source.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}
