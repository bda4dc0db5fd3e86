//! Which relayed address is whose. Each allocation has ports of its own: what arrives at one needs
//! no further question whose it is.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::relay::slab::{Key, Slab};
use crate::relay::{Family, RelayConfig, RelayId, RelayIp};

/// What is asked of a port's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parity {
    Any,
    /// EVEN-PORT (RFC 8656, section 18.7).
    Even,
    /// EVEN-PORT with its reserve bit: the next one has to be free too.
    EvenWithNext,
}

/// A relayed address.
pub(crate) struct Port {
    /// As peers know it.
    pub(crate) seen: SocketAddr,
    /// The allocation it belongs to; a reserved one belongs to none.
    pub(crate) owner: Option<Key>,
    pub(crate) is_open: bool,
}

/// No slot of the slab: there are fewer than twice 65,536.
const FREE: u32 = u32::MAX;
/// No slot either, and never free.
const TAKEN: u32 = FREE - 1;

/// The relayed addresses of one family.
struct Plane {
    ip: RelayIp,
    /// For each port of the range its slot, and so its key, in the slab.
    by_port: Box<[u32]>,
    free: u32,
}

/// All relayed addresses.
pub(crate) struct Ports {
    first: u16,
    last: u16,
    planes: [Option<Plane>; 2],
    slab: Slab<Port>,
}

impl Ports {
    pub(crate) fn new(config: &RelayConfig, range: &RangeInclusive<u16>) -> Self {
        let count = usize::from(range.end() - range.start()) + 1;
        let plane = |ip: Option<RelayIp>| {
            ip.map(|ip| Plane { ip, by_port: vec![FREE; count].into_boxed_slice(), free: count as u32 })
        };
        Self {
            first: *range.start(),
            last: *range.end(),
            planes: [plane(config.ipv4), plane(config.ipv6)],
            slab: Slab::default(),
        }
    }

    /// Never gives this port to a client.
    pub(crate) fn withhold(&mut self, port: u16) {
        let Some(at) = self.place(port) else { return };
        for plane in self.planes.iter_mut().flatten() {
            if plane.by_port[at] == FREE {
                plane.by_port[at] = TAKEN;
                plane.free -= 1;
            }
        }
    }

    pub(crate) fn has(&self, family: Family) -> bool {
        self.planes[family.index()].is_some()
    }

    /// A free port of the family, from a random place on: who can't guess it can't send there
    /// before its client tells (RFC 8656, section 7.2).
    pub(crate) fn pick(&self, family: Family, parity: Parity, random: &mut ChaCha20Rng) -> Option<u16> {
        let plane = self.planes[family.index()].as_ref().filter(|plane| plane.free > 0)?;
        let count = plane.by_port.len();
        let start = random.next_u32() as usize % count;
        let suits = |at: &usize| {
            let port = usize::from(self.first) + at;
            let is_free = plane.by_port[*at] == FREE;
            let is_next_free = plane.by_port.get(at + 1) == Some(&FREE);
            is_free
                && match parity {
                    Parity::Any => true,
                    Parity::Even => port.is_multiple_of(2),
                    Parity::EvenWithNext => port.is_multiple_of(2) && is_next_free,
                }
        };
        let at = (start..count).chain(0..start).find(suits)?;
        Some((usize::from(self.first) + at) as u16)
    }

    /// Takes a free port. The second value is the address to open.
    pub(crate) fn take(&mut self, family: Family, port: u16, owner: Key) -> Option<(RelayId, SocketAddr)> {
        let at = self.place(port)?;
        let plane = self.planes[family.index()].as_mut()?;
        let seen = SocketAddr::new(plane.ip.seen, port);
        let key = self.slab.insert(Port { seen, owner: Some(owner), is_open: false });
        plane.by_port[at] = key.index;
        plane.free -= 1;
        Some((RelayId(key), SocketAddr::new(plane.ip.bind, port)))
    }

    pub(crate) fn release(&mut self, id: RelayId) {
        let Some(port) = self.slab.remove(id.0) else { return };
        let at = self.place(port.seen.port());
        let plane = self.planes[Family::of(port.seen.ip()).index()].as_mut();
        if let (Some(at), Some(plane)) = (at, plane) {
            plane.by_port[at] = FREE;
            plane.free += 1;
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: RelayId) -> Option<&Port> {
        self.slab.get(id.0)
    }

    pub(crate) fn get_mut(&mut self, id: RelayId) -> Option<&mut Port> {
        self.slab.get_mut(id.0)
    }

    /// The allocation whose relayed address this is.
    pub(crate) fn owner_of(&self, relayed: SocketAddr) -> Option<Key> {
        let plane = self.planes[Family::of(relayed.ip()).index()].as_ref()?;
        let index = plane.by_port[self.place(relayed.port())?];
        self.slab.at(index).filter(|port| port.seen == relayed)?.owner
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    fn place(&self, port: u16) -> Option<usize> {
        (self.first..=self.last).contains(&port).then(|| usize::from(port - self.first))
    }
}
