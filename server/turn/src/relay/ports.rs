//! Which relayed address is whose, of those that are this shard's. Each allocation has ports of its
//! own: what arrives at one needs no further question whose it is.

use std::net::SocketAddr;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;

use crate::relay::owners::{Owners, Parity, PortLease};
use crate::relay::slab::{Key, Slab};
use crate::relay::{Family, RelayId};
use crate::shared::ShardId;

/// A relayed address.
pub(crate) struct Port {
    pub(crate) lease: PortLease,
    /// The allocation it belongs to; a reserved one belongs to none.
    pub(crate) owner: Option<Key>,
    pub(crate) is_open: bool,
}

/// No slot of the slab: there are fewer than twice 65,536.
const NOT_HERE: u32 = u32::MAX;

/// The relayed addresses of a shard.
pub(crate) struct Ports {
    shard: ShardId,
    owners: Arc<Owners>,
    /// By family, for each port of the range its slot, and so its key, in the slab.
    by_port: [Box<[u32]>; 2],
    slab: Slab<Port>,
}

impl Ports {
    pub(crate) fn new(shard: ShardId, owners: Arc<Owners>) -> Self {
        let by_port = Family::BOTH.map(|family| vec![NOT_HERE; owners.count(family)].into_boxed_slice());
        Self { shard, owners, by_port, slab: Slab::default() }
    }

    pub(crate) fn has(&self, family: Family) -> bool {
        !self.by_port[family.index()].is_empty()
    }

    /// Takes a free port for an allocation, and the next one if that is asked.
    pub(crate) fn claim(
        &mut self,
        family: Family,
        parity: Parity,
        owner: Key,
        random: &mut ChaCha20Rng,
    ) -> Option<(RelayId, Option<RelayId>)> {
        let (first, next) = self.owners.claim(family, parity, self.shard, random)?;
        let mut insert = |lease| self.insert(Port { lease, owner: Some(owner), is_open: false });
        Some((insert(first), next.map(insert)))
    }

    /// Takes in a port that is this shard's already.
    pub(crate) fn insert(&mut self, port: Port) -> RelayId {
        let (family, at) = (port.lease.family(), port.lease.place());
        let key = self.slab.insert(port);
        self.by_port[family.index()][at] = key.index;
        RelayId(key)
    }

    /// Takes a port out. It stays this shard's as long as its lease is kept.
    pub(crate) fn remove(&mut self, id: RelayId) -> Option<PortLease> {
        let lease = self.slab.remove(id.0)?.lease;
        self.by_port[lease.family().index()][lease.place()] = NOT_HERE;
        Some(lease)
    }

    #[inline]
    pub(crate) fn get(&self, id: RelayId) -> Option<&Port> {
        self.slab.get(id.0)
    }

    pub(crate) fn get_mut(&mut self, id: RelayId) -> Option<&mut Port> {
        self.slab.get_mut(id.0)
    }

    /// The allocation whose relayed address this is, if it is one of this shard.
    pub(crate) fn owner_of(&self, relayed: SocketAddr) -> Option<Key> {
        let by_port = &self.by_port[Family::of(relayed.ip()).index()];
        let index = by_port.get(self.owners.place(relayed)?)?;
        self.slab.at(*index)?.owner
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}
