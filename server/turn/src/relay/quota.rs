//! Who has how much: allocations, permissions, channels and bytes a second, by user, by source and
//! in all, over all shards.
//!
//! Whoever is granted an allocation gets a [`Seat`]; dropping it gives everything back. Seats are
//! taken and given back under a lock, so their counts are exact. Permissions and channels are
//! counted by atomics, and so are bytes ([`crate::relay::rate`]).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::answer::TurnError;
use crate::defence::{Defence, Defences};
use crate::relay::hash::{self, source_hash, user_hash};
use crate::relay::rate::{Account, Meters, Prepaid, Spent};
use crate::relay::{MAX_ALLOCATIONS, RelayLimits};

/// What somebody has enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quota {
    /// Allocations of the user.
    User,
    /// Allocations of the source.
    Source,
    /// Allocations.
    Server,
    /// Relay ports.
    Ports,
    /// Permissions, of the allocation or in all.
    Permissions,
    /// Channels, of the allocation or in all.
    Channels,
}

impl Quota {
    /// What a client is told (RFC 8656, sections 7.2, 10.2 and 12.2).
    pub(crate) const fn error(self) -> TurnError {
        match self {
            Self::User | Self::Source => TurnError::AllocationQuotaReached,
            Self::Server | Self::Ports | Self::Permissions | Self::Channels => {
                TurnError::InsufficientCapacity
            }
        }
    }
}

/// Why a request is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// What it asks for is wrong, or is not to be had by anybody.
    Error(TurnError),
    /// Somebody has enough.
    Quota(Quota),
}

impl From<TurnError> for Denial {
    fn from(error: TurnError) -> Self {
        Self::Error(error)
    }
}

impl From<Quota> for Denial {
    fn from(quota: Quota) -> Self {
        Self::Quota(quota)
    }
}

/// A user or a source that has an allocation, or had one and used it up to a moment ago: who ends
/// his allocation and begins another has not more to spend for it.
struct Holder<N> {
    name: N,
    /// Changed under the lock alone.
    allocations: AtomicU32,
    account: Account,
}

/// Those who have allocations, and how many there are.
#[derive(Default)]
struct Holders {
    users: HashTable<Arc<Holder<Box<str>>>>,
    sources: HashTable<Arc<Holder<IpAddr>>>,
    allocations: u32,
    /// Those who have none, but accounts that are not settled, as they came. No more than there
    /// may be allocations.
    unsettled: VecDeque<Unsettled>,
    /// When the last seat was taken.
    now_ns: u64,
}

enum Unsettled {
    User(Arc<Holder<Box<str>>>),
    Source(Arc<Holder<IpAddr>>),
}

/// Something of which there is a number.
#[derive(Default)]
struct Stock {
    used: AtomicU32,
}

/// What all shards count together. How much there may be each shard is told, and may be told anew.
pub(crate) struct Quotas {
    limits: RelayLimits,
    /// Users choose names and sources: without the key they cannot choose their places.
    hasher: SipHasher13,
    holders: Mutex<Holders>,
    permissions: Stock,
    channels: Stock,
    server: Account,
}

/// The place of one allocation among those of its user, its source and the server.
pub(crate) struct Seat {
    quotas: Arc<Quotas>,
    user: Arc<Holder<Box<str>>>,
    source: Arc<Holder<IpAddr>>,
    permissions: u16,
    channels: u16,
    prepaid: Prepaid,
}

impl Quotas {
    pub(crate) fn new(limits: RelayLimits, hasher: SipHasher13) -> Self {
        Self {
            limits,
            hasher,
            holders: Mutex::default(),
            permissions: Stock::default(),
            channels: Stock::default(),
            server: Account::default(),
        }
    }

    /// What holds until something else is said.
    pub(crate) const fn limits(&self) -> &RelayLimits {
        &self.limits
    }

    /// Takes a seat, unless somebody has enough.
    pub(crate) fn admit(
        self: &Arc<Self>,
        user: &str,
        source: SocketAddr,
        now_ns: u64,
        limits: &RelayLimits,
        defences: Defences,
    ) -> Result<Seat, Quota> {
        let source = source_key(source);
        let (user_hash, source_hash) = (self.hash_user(user), self.hash_source(source));
        let mut holders = self.lock();
        holders.now_ns = holders.now_ns.max(now_ns);
        self.forget_settled(&mut holders);
        let Holders { users, sources, allocations, .. } = &mut *holders;
        let known_user = users.find(user_hash, |holder| *holder.name == *user);
        let known_source = sources.find(source_hash, |holder| holder.name == source);
        if defences.stand(Defence::Quotas) {
            if known_user.is_some_and(|user| user.count() >= limits.allocations_per_user) {
                return Err(Quota::User);
            }
            if known_source.is_some_and(|source| source.count() >= limits.allocations_per_source) {
                return Err(Quota::Source);
            }
            if *allocations >= limits.allocations.min(MAX_ALLOCATIONS) {
                return Err(Quota::Server);
            }
        }
        let user = known_user.cloned().unwrap_or_else(|| {
            let holder = Arc::new(Holder::new(Box::from(user)));
            users.insert_unique(user_hash, Arc::clone(&holder), |holder| self.hash_user(&holder.name));
            holder
        });
        let source = known_source.cloned().unwrap_or_else(|| {
            let holder = Arc::new(Holder::new(source));
            let hash = |holder: &Arc<Holder<IpAddr>>| self.hash_source(holder.name);
            sources.insert_unique(source_hash, Arc::clone(&holder), hash);
            holder
        });
        user.add(1);
        source.add(1);
        *allocations += 1;
        drop(holders);
        let quotas = Arc::clone(self);
        Ok(Seat { quotas, user, source, permissions: 0, channels: 0, prepaid: Prepaid::default() })
    }

    /// True if the user has an allocation.
    pub(crate) fn holds(&self, user: &str) -> bool {
        let holders = self.lock();
        let known = holders.users.find(self.hash_user(user), |holder| *holder.name == *user);
        known.is_some_and(|user| user.count() > 0)
    }

    /// Forgets those whose accounts are settled, in the order in which they left, so that none is
    /// looked at more often than he left and once.
    fn forget_settled(&self, holders: &mut Holders) {
        let now_ns = holders.now_ns;
        while let Some(first) = holders.unsettled.front() {
            let is_settled = match first {
                Unsettled::User(user) => user.account.is_settled(now_ns),
                Unsettled::Source(source) => source.account.is_settled(now_ns),
            };
            if !is_settled && holders.unsettled.len() <= self.max_allocations() as usize {
                return;
            }
            match holders.unsettled.pop_front() {
                Some(Unsettled::User(user)) => self.forget_user(holders, &user),
                Some(Unsettled::Source(source)) => self.forget_source(holders, &source),
                None => return,
            }
        }
    }

    fn forget_user(&self, holders: &mut Holders, user: &Arc<Holder<Box<str>>>) {
        if user.count() == 0 {
            let is_it = |holder: &Arc<_>| Arc::ptr_eq(holder, user);
            let rehash = |holder: &Arc<Holder<Box<str>>>| self.hash_user(&holder.name);
            hash::remove(&mut holders.users, self.hash_user(&user.name), is_it, rehash);
        }
    }

    fn forget_source(&self, holders: &mut Holders, source: &Arc<Holder<IpAddr>>) {
        if source.count() == 0 {
            let is_it = |holder: &Arc<_>| Arc::ptr_eq(holder, source);
            let rehash = |holder: &Arc<Holder<IpAddr>>| self.hash_source(holder.name);
            hash::remove(&mut holders.sources, self.hash_source(source.name), is_it, rehash);
        }
    }

    /// One allocation of a source is gone.
    fn leave_source(&self, holders: &mut Holders, source: &Arc<Holder<IpAddr>>) {
        if source.remove_one() {
            if source.account.is_settled(holders.now_ns) {
                self.forget_source(holders, source);
            } else {
                holders.unsettled.push_back(Unsettled::Source(Arc::clone(source)));
            }
        }
    }

    fn max_allocations(&self) -> u32 {
        self.limits.allocations.min(MAX_ALLOCATIONS)
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        // Nothing panics under the lock; were it so, counts would be off by one and no more.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash_user(&self, user: &str) -> u64 {
        user_hash(self.hasher, user)
    }

    fn hash_source(&self, source: IpAddr) -> u64 {
        source_hash(self.hasher, source)
    }
}

impl<N> Holder<N> {
    fn new(name: N) -> Self {
        Self { name, allocations: AtomicU32::new(0), account: Account::default() }
    }

    fn count(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }

    fn add(&self, count: u32) {
        self.allocations.fetch_add(count, Ordering::Relaxed);
    }

    /// True if there are none left.
    fn remove_one(&self) -> bool {
        self.allocations.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

impl Stock {
    fn take(&self, count: u16, limit: u32) -> bool {
        let next = |used: u32| used.checked_add(count.into()).filter(|used| *used <= limit);
        self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    fn give_back(&self, count: u16) {
        self.used.fetch_sub(count.into(), Ordering::Relaxed);
    }
}

impl Seat {
    /// Counts for the source of another address from now on, unless that has enough.
    pub(crate) fn move_to(&mut self, source: SocketAddr, defences: Defences) -> Result<(), Quota> {
        let name = source_key(source);
        if self.source.name == name {
            return Ok(());
        }
        let quotas = Arc::clone(&self.quotas);
        let mut holders = quotas.lock();
        let known = holders.sources.find(quotas.hash_source(name), |holder| holder.name == name).cloned();
        let has_enough =
            known.as_ref().is_some_and(|known| known.count() >= quotas.limits.allocations_per_source);
        if has_enough && defences.stand(Defence::Quotas) {
            return Err(Quota::Source);
        }
        let source = known.unwrap_or_else(|| {
            let holder = Arc::new(Holder::new(name));
            let hash = |holder: &Arc<Holder<IpAddr>>| quotas.hash_source(holder.name);
            holders.sources.insert_unique(quotas.hash_source(name), Arc::clone(&holder), hash);
            holder
        });
        source.add(1);
        let before = std::mem::replace(&mut self.source, source);
        quotas.leave_source(&mut holders, &before);
        Ok(())
    }

    /// Takes so many permissions more, or none.
    pub(crate) fn take_permissions(&mut self, count: usize, limits: &RelayLimits) -> Result<(), Quota> {
        let more = grown(self.permissions, count, limits.permissions).ok_or(Quota::Permissions)?;
        if !self.quotas.permissions.take(more - self.permissions, limits.permissions_total) {
            return Err(Quota::Permissions);
        }
        self.permissions = more;
        Ok(())
    }

    /// Takes a channel more, if there is one.
    pub(crate) fn take_channel(&mut self, limits: &RelayLimits) -> Result<(), Quota> {
        let more = grown(self.channels, 1, limits.channels).ok_or(Quota::Channels)?;
        if !self.quotas.channels.take(1, limits.channels_total) {
            return Err(Quota::Channels);
        }
        self.channels = more;
        Ok(())
    }

    /// Gives back all but so many permissions and channels.
    pub(crate) fn keep(&mut self, permissions: usize, channels: usize) {
        let (permissions, channels) = (permissions as u16, channels as u16);
        self.quotas.permissions.give_back(self.permissions - permissions);
        self.quotas.channels.give_back(self.channels - channels);
        (self.permissions, self.channels) = (permissions, channels);
    }

    /// Makes sure that so many bytes may be relayed, as far as the allocation's own rate is not
    /// concerned.
    #[inline]
    pub(crate) fn cover(&mut self, meters: &mut Meters, now_ns: u64, bytes: u64) -> Result<(), Spent> {
        let purchase = meters.user.purchase().min(meters.source.purchase());
        self.prepaid.cover(bytes, purchase, |bytes| {
            if !self.user.account.take(meters.user, now_ns, bytes) {
                return Err(Spent::User);
            }
            if !self.source.account.take(meters.source, now_ns, bytes) {
                self.user.account.give_back(meters.user, bytes);
                return Err(Spent::Source);
            }
            Ok(())
        })?;
        let (server, purchase) = (meters.server, meters.server.purchase());
        meters.prepaid.cover(bytes, purchase, |bytes| {
            if self.quotas.server.take(server, now_ns, bytes) { Ok(()) } else { Err(Spent::Server) }
        })
    }

    /// Uses what [`Self::cover`] made sure of.
    #[inline]
    pub(crate) const fn spend(&mut self, meters: &mut Meters, bytes: u64) {
        self.prepaid.spend(bytes);
        meters.prepaid.spend(bytes);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.keep(0, 0);
        let Self { quotas, user, source, .. } = &*self;
        let mut holders = quotas.lock();
        holders.allocations -= 1;
        if user.remove_one() {
            if user.account.is_settled(holders.now_ns) {
                quotas.forget_user(&mut holders, user);
            } else {
                holders.unsettled.push_back(Unsettled::User(Arc::clone(user)));
            }
        }
        quotas.leave_source(&mut holders, source);
        quotas.forget_settled(&mut holders);
    }
}

/// So many more, if that is within the limit.
fn grown(held: u16, more: usize, limit: u16) -> Option<u16> {
    u16::try_from(usize::from(held) + more).ok().filter(|sum| *sum <= limit)
}

/// Who counts as one source: an IPv4 address or an IPv6 /64.
fn source_key(source: SocketAddr) -> IpAddr {
    match source.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}
