//! What stands between a site and the internet: a NAT, or a firewall in front of public addresses.
//!
//! RFC 4787's model: a *mapping* gives an internal endpoint an external one, chosen anew for each
//! destination or not; a *filter* lets in what comes from those that were sent to, by address, by
//! address and port, or from anybody. Beyond it, what carriers' and Linux' NATs do: blocks of ports, a port
//! that serves several destinations, and a mapping that an early packet moves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meetpoint_proto::{Filtering, Mapping};

use super::dice::Dice;

/// RFC 4787, REQ-5: at least two minutes since the last packet from inside.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long Linux remembers a packet that nothing answered.
const EARLY_LIFETIME: Duration = Duration::from_secs(30);
/// Ports of a carrier's block.
pub const BLOCK_SIZE: u16 = 1_024;
/// What [`Ports::Rewritten`] flips in each port.
const REWRITE_MASK: u16 = 0x1515;
/// Ports below it are nobody's.
const FIRST_PORT: u16 = 1_024;

/// How external ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The internal port if it is free, else the next one.
    Preserved,
    /// Another one that follows from the internal port.
    Rewritten,
    /// One after the other, so far apart.
    Sequential(u16),
    /// Any free one of [`BLOCK_SIZE`].
    Block {
        /// The first of them.
        first: u16,
        /// One port serves several destinations at once.
        reused: bool,
    },
    /// Any free one.
    Random,
}

/// A kind of gate. A mapping of `None` is a firewall that translates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateKind {
    /// How the external endpoint is chosen.
    pub mapping: Mapping,
    /// Who is let in.
    pub filtering: Filtering,
    /// Which port.
    pub ports: Ports,
    /// A packet that comes in before its target has sent to its sender moves the target's next mapping
    /// towards that sender to another port.
    pub early_moves: bool,
    /// Whoever is behind it reaches others behind it by its external address.
    pub hairpin: bool,
}

impl GateKind {
    /// One that early packets do not confuse, with hairpin.
    #[must_use]
    pub const fn new(mapping: Mapping, filtering: Filtering, ports: Ports) -> Self {
        Self { mapping, filtering, ports, early_moves: false, hairpin: true }
    }
}

/// What of a destination a mapping depends on.
type DestinationKey = (Option<IpAddr>, Option<u16>);
const ANY: DestinationKey = (None, None);

/// An external endpoint, and the destination it serves if it serves one of several.
type Slot = (SocketAddr, DestinationKey);

/// An external endpoint in use.
#[derive(Debug)]
struct Binding {
    internal: SocketAddr,
    key: DestinationKey,
    /// Where it was used for, and when last: each is forgotten by itself.
    sent_to: BTreeMap<SocketAddr, Duration>,
    last_sent: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    kind: GateKind,
    /// The external address of a NAT; `None` for a firewall.
    public: Option<IpAddr>,
    mappings: BTreeMap<(SocketAddr, DestinationKey), SocketAddr>,
    bindings: BTreeMap<Slot, Binding>,
    /// Packets that came too early: to which external endpoint, from whom, and when last.
    early: BTreeMap<(SocketAddr, SocketAddr), Duration>,
    next_port: u16,
    /// How long it remembers a mapping that nothing leaves by.
    lifetime: Duration,
    /// Added to ports that follow from the internal one.
    shift: u16,
}

impl Gate {
    /// A gate with this external address.
    #[must_use]
    pub fn new(kind: GateKind, public: IpAddr, next_port: u16) -> Self {
        let public = (kind.mapping != Mapping::None).then_some(public);
        let (mappings, bindings, early) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { kind, public, mappings, bindings, early, next_port, lifetime: LIFETIME, shift: 0 }
    }

    /// Remembers mappings for so long from now on.
    pub fn remember_for(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// Forgets everything, and gives other ports from now on, however it chooses them.
    pub fn rebind(&mut self) {
        self.restart();
        self.shift += 1;
    }

    /// Forgets everything. Ports that are chosen in sequence or at random will be others.
    pub fn restart(&mut self) {
        self.mappings.clear();
        self.bindings.clear();
        self.early.clear();
    }

    /// The site gets another external address; a firewall has none.
    pub fn move_to(&mut self, public: IpAddr) {
        self.restart();
        self.public = self.public.map(|_| public);
    }

    /// The external address of a NAT.
    #[must_use]
    pub fn public(&self) -> Option<IpAddr> {
        self.public
    }

    /// Whether a packet from inside to its own external address comes back in.
    #[must_use]
    pub fn has_hairpin(&self) -> bool {
        self.kind.hairpin
    }

    /// A packet leaves: the source that the internet sees. `None` if all ports are taken.
    pub fn outbound(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let usual = match self.kind.mapping {
            Mapping::None | Mapping::EndpointIndependent => ANY,
            Mapping::AddressDependent => (Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        let own = (Some(to.ip()), Some(to.port()));
        // A mapping that an early packet has moved stays where it is.
        let key = if self.known(now, from, own).is_some() { own } else { usual };
        let known = self.known(now, from, key);
        let mut slot = match known {
            Some(slot) => slot,
            None => self.bind(now, dice, from, key, self.kind.ports)?,
        };
        if self.is_spoiled(now, slot, to) {
            slot = self.bind(now, dice, from, own, Ports::Random)?;
        }
        let binding = self.bindings.get_mut(&slot)?;
        binding.sent_to.insert(to, now);
        binding.last_sent = now;
        Some(slot.0)
    }

    /// A packet arrives at an external endpoint: the internal one, if it is let in.
    pub fn inbound(&mut self, now: Duration, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.is_none() && self.kind.filtering == Filtering::EndpointIndependent {
            return Some(to);
        }
        let of_port = self.bindings.range((to, ANY)..).take_while(|((external, _), _)| *external == to);
        let mut alive =
            of_port.map(|(_, binding)| binding).filter(|binding| binding.is_alive(now, self.lifetime));
        let passes = |binding: &&Binding| match self.kind.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                binding.has_sent(now, self.lifetime, |sent| sent.ip() == from.ip())
            }
            Filtering::AddressAndPortDependent => binding.has_sent(now, self.lifetime, |sent| *sent == from),
        };
        let inside = alive.find(passes).map(|binding| binding.internal);
        if inside.is_none() && self.kind.early_moves {
            self.early.insert((to, from), now);
        }
        inside
    }

    /// The living mapping of an internal endpoint.
    fn known(&self, now: Duration, from: SocketAddr, key: DestinationKey) -> Option<Slot> {
        let external = *self.mappings.get(&(from, key))?;
        let slot = self.slot(external, key);
        self.bindings.get(&slot).is_some_and(|binding| binding.is_alive(now, self.lifetime)).then_some(slot)
    }

    fn slot(&self, external: SocketAddr, key: DestinationKey) -> Slot {
        let is_reused = matches!(self.kind.ports, Ports::Block { reused: true, .. });
        (external, if is_reused { key } else { ANY })
    }

    fn is_spoiled(&self, now: Duration, slot: Slot, to: SocketAddr) -> bool {
        let is_early = self.early.get(&(slot.0, to)).is_some_and(|at| now < *at + EARLY_LIFETIME);
        is_early
            && !self
                .bindings
                .get(&slot)
                .is_some_and(|binding| binding.has_sent(now, self.lifetime, |sent| *sent == to))
    }

    fn bind(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        from: SocketAddr,
        key: DestinationKey,
        ports: Ports,
    ) -> Option<Slot> {
        let external = match self.public {
            None => from,
            Some(public) => self.free_port(now, dice, SocketAddr::new(public, from.port()), key, ports)?,
        };
        let slot = self.slot(external, key);
        if let Some(dead) = self.bindings.remove(&slot) {
            self.mappings.remove(&(dead.internal, dead.key));
        }
        self.mappings.insert((from, key), external);
        let binding = Binding { internal: from, key, sent_to: BTreeMap::new(), last_sent: now };
        self.bindings.insert(slot, binding);
        Some(slot)
    }

    fn free_port(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        wanted: SocketAddr,
        key: DestinationKey,
        ports: Ports,
    ) -> Option<SocketAddr> {
        let next = |port: u16, step: u16| port.checked_add(step).unwrap_or(FIRST_PORT);
        let mut port = match ports {
            Ports::Preserved => wanted.port().wrapping_add(self.shift),
            Ports::Rewritten => (wanted.port() ^ REWRITE_MASK).wrapping_add(self.shift),
            Ports::Sequential(_) => self.next_port,
            Ports::Block { first, .. } => first + dice.below(BLOCK_SIZE.into()) as u16,
            Ports::Random => random_port(dice),
        };
        for _ in 0..=u16::MAX {
            let external = SocketAddr::new(wanted.ip(), port);
            let taken = self.bindings.get(&self.slot(external, key));
            if !taken.is_some_and(|binding| binding.is_alive(now, self.lifetime)) {
                if let Ports::Sequential(step) = ports {
                    self.next_port = next(port, step);
                }
                return Some(external);
            }
            port = match ports {
                Ports::Preserved | Ports::Rewritten => next(port, 1),
                Ports::Sequential(step) => next(port, step),
                Ports::Block { first, .. } if self.is_exhausted(now, first) => return None,
                Ports::Block { first, .. } => first + dice.below(BLOCK_SIZE.into()) as u16,
                Ports::Random => random_port(dice),
            };
        }
        None
    }

    /// No port of a block that serves one destination a port is left.
    fn is_exhausted(&self, now: Duration, first: u16) -> bool {
        let in_block = |port: u16| (first..first + BLOCK_SIZE).contains(&port);
        let alive = self
            .bindings
            .iter()
            .filter(|((at, _), binding)| in_block(at.port()) && binding.is_alive(now, self.lifetime));
        self.kind.ports == (Ports::Block { first, reused: false }) && alive.count() >= BLOCK_SIZE.into()
    }
}

impl Binding {
    fn is_alive(&self, now: Duration, lifetime: Duration) -> bool {
        now < self.last_sent + lifetime
    }

    fn has_sent(&self, now: Duration, lifetime: Duration, there: impl Fn(&SocketAddr) -> bool) -> bool {
        self.sent_to.iter().any(|(sent, at)| there(sent) && now < *at + lifetime)
    }
}

fn random_port(dice: &mut Dice) -> u16 {
    FIRST_PORT + dice.below(64_512) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The model NATs must be what they are called, or all else proves nothing.
    #[test]
    fn rfc_4787_words() {
        use Filtering as F;
        use Mapping as M;
        let mappings = [M::None, M::EndpointIndependent, M::AddressDependent, M::AddressAndPortDependent];
        let filters = [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent];
        let (inside, first) = (addr("10.0.0.2:4000"), addr("20.0.0.1:1"));
        let (same_ip, other) = (addr("20.0.0.1:2"), addr("20.0.0.2:1"));
        for mapping in mappings {
            for filtering in filters {
                for ports in [Ports::Preserved, Ports::Sequential(1), Ports::Random] {
                    let kind = GateKind::new(mapping, filtering, ports);
                    let mut dice = Dice::new(7);
                    let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
                    let now = Duration::ZERO;
                    let external = gate.outbound(now, &mut dice, inside, first).unwrap();
                    let letting = |gate: &mut Gate, from| gate.inbound(now, from, external).is_some();
                    assert!(letting(&mut gate, first), "{kind:?}");
                    assert_eq!(letting(&mut gate, same_ip), filtering != F::AddressAndPortDependent);
                    assert_eq!(letting(&mut gate, other), filtering == F::EndpointIndependent);
                    let to_same_ip = gate.outbound(now, &mut dice, inside, same_ip).unwrap();
                    let to_other = gate.outbound(now, &mut dice, inside, other).unwrap();
                    assert_eq!(to_same_ip == external, mapping != M::AddressAndPortDependent);
                    let keeps = matches!(mapping, M::None | M::EndpointIndependent);
                    assert_eq!(to_other == external, keeps);
                    assert_eq!(external == inside, mapping == M::None);
                }
            }
        }
    }

    #[test]
    fn a_mapping_ends_after_silence() {
        let kind = GateKind::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, Ports::Random);
        let mut dice = Dice::new(7);
        let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
        let (inside, to) = (addr("10.0.0.2:4000"), addr("20.0.0.1:1"));
        let external = gate.outbound(Duration::ZERO, &mut dice, inside, to).unwrap();
        assert!(gate.inbound(LIFETIME - Duration::from_millis(1), to, external).is_some());
        assert!(gate.inbound(LIFETIME, to, external).is_none());
        assert_ne!(gate.outbound(LIFETIME, &mut dice, inside, to), Some(external));
    }

    /// A plain Linux router: who knocks before he is expected spoils the mapping towards himself, and no other.
    #[test]
    fn an_early_packet_moves_the_mapping_towards_its_sender() {
        let strict = Filtering::AddressAndPortDependent;
        for early_moves in [false, true] {
            let kind = GateKind {
                early_moves,
                ..GateKind::new(Mapping::EndpointIndependent, strict, Ports::Preserved)
            };
            let (mut dice, now) = (Dice::new(7), Duration::ZERO);
            let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
            let inside = addr("10.0.0.2:4000");
            let (server, early, late) = (addr("20.0.0.1:1"), addr("20.0.0.2:1"), addr("20.0.0.3:1"));
            let mapped = gate.outbound(now, &mut dice, inside, server).unwrap();
            assert_eq!(gate.inbound(now, early, mapped), None);
            let moved = gate.outbound(now, &mut dice, inside, early).unwrap();
            assert_eq!(moved == mapped, !early_moves);
            assert_eq!(gate.outbound(now, &mut dice, inside, early), Some(moved), "it stays there");
            assert_eq!(gate.inbound(now, early, moved), Some(inside));
            assert_eq!(gate.outbound(now, &mut dice, inside, late), Some(mapped));
        }
    }

    /// Carriers' blocks: 1,024 ports, for all destinations together or for each.
    #[test]
    fn a_block_has_so_many_ports() {
        for reused in [false, true] {
            let ports = Ports::Block { first: 40_000, reused };
            let symmetric = Mapping::AddressAndPortDependent;
            let kind = GateKind::new(symmetric, Filtering::AddressAndPortDependent, ports);
            let (mut dice, now) = (Dice::new(7), Duration::ZERO);
            let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
            let mut seen = BTreeSet::new();
            let mut served = 0;
            for port in 1..=2_000 {
                let to = SocketAddr::from(([20, 0, 0, 1], port));
                let Some(external) = gate.outbound(now, &mut dice, addr("10.0.0.2:4000"), to) else { break };
                assert_eq!(gate.inbound(now, to, external), Some(addr("10.0.0.2:4000")));
                seen.insert(external.port());
                served += 1;
            }
            assert_eq!(served, if reused { 2_000 } else { usize::from(BLOCK_SIZE) });
            assert!(seen.iter().all(|port| (40_000..41_024).contains(port)));
        }
    }
}
