//! What stands between a site and the internet: a NAT, or a firewall in front of public addresses.
//!
//! RFC 4787's model: a *mapping* gives an internal endpoint an external one, chosen anew for each
//! destination or not; a *filter* lets in what comes from those that were sent to, by address, by
//! address and port, or from anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meetpoint_proto::{Filtering, Mapping};

use super::dice::Dice;

/// RFC 4787, REQ-5: at least two minutes since the last packet from inside.
const LIFETIME: Duration = Duration::from_secs(120);

/// How external ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The internal port if it is free, else the next one.
    Preserved,
    /// One after the other.
    Sequential,
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
}

/// An external endpoint in use.
#[derive(Debug)]
struct Binding {
    internal: SocketAddr,
    key: DestinationKey,
    sent_to: BTreeSet<SocketAddr>,
    last_sent: Duration,
}

/// What of a destination a mapping depends on.
type DestinationKey = (Option<IpAddr>, Option<u16>);

/// See the module.
#[derive(Debug)]
pub struct Gate {
    kind: GateKind,
    /// The external address of a NAT; `None` for a firewall.
    public: Option<IpAddr>,
    mappings: BTreeMap<(SocketAddr, DestinationKey), SocketAddr>,
    bindings: BTreeMap<SocketAddr, Binding>,
    next_port: u16,
}

impl Gate {
    /// A gate with this external address.
    #[must_use]
    pub fn new(kind: GateKind, public: IpAddr, next_port: u16) -> Self {
        let public = (kind.mapping != Mapping::None).then_some(public);
        Self { kind, public, mappings: BTreeMap::new(), bindings: BTreeMap::new(), next_port }
    }

    /// Forgets everything. Ports that are chosen in sequence or at random will be others.
    pub fn restart(&mut self) {
        self.mappings.clear();
        self.bindings.clear();
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

    /// A packet leaves: the source that the internet sees.
    pub fn outbound(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        from: SocketAddr,
        to: SocketAddr,
    ) -> SocketAddr {
        let key = match self.kind.mapping {
            Mapping::None | Mapping::EndpointIndependent => (None, None),
            Mapping::AddressDependent => (Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        let known = self.mappings.get(&(from, key)).copied().filter(|external| self.is_alive(now, *external));
        let external = known.unwrap_or_else(|| self.bind(now, dice, from, key));
        if let Some(binding) = self.bindings.get_mut(&external) {
            binding.sent_to.insert(to);
            binding.last_sent = now;
        }
        external
    }

    /// A packet arrives at an external endpoint: the internal one, if it is let in.
    pub fn inbound(&mut self, now: Duration, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.is_none() && self.kind.filtering == Filtering::EndpointIndependent {
            return Some(to);
        }
        if !self.is_alive(now, to) {
            return None;
        }
        let binding = self.bindings.get(&to)?;
        let passes = match self.kind.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => binding.sent_to.iter().any(|sent| sent.ip() == from.ip()),
            Filtering::AddressAndPortDependent => binding.sent_to.contains(&from),
        };
        passes.then_some(binding.internal)
    }

    fn is_alive(&self, now: Duration, external: SocketAddr) -> bool {
        self.bindings.get(&external).is_some_and(|binding| now < binding.last_sent + LIFETIME)
    }

    fn bind(&mut self, now: Duration, dice: &mut Dice, from: SocketAddr, key: DestinationKey) -> SocketAddr {
        let external = match self.public {
            None => from,
            Some(public) => self.free_port(now, dice, public, from.port()),
        };
        if let Some(dead) = self.bindings.remove(&external) {
            self.mappings.remove(&(dead.internal, dead.key));
        }
        self.mappings.insert((from, key), external);
        let binding = Binding { internal: from, key, sent_to: BTreeSet::new(), last_sent: now };
        self.bindings.insert(external, binding);
        external
    }

    fn free_port(&mut self, now: Duration, dice: &mut Dice, public: IpAddr, wanted: u16) -> SocketAddr {
        let mut port = match self.kind.ports {
            Ports::Preserved => wanted,
            Ports::Sequential => self.next_port,
            Ports::Random => random_port(dice),
        };
        while self.is_alive(now, SocketAddr::new(public, port)) {
            port = match self.kind.ports {
                Ports::Preserved | Ports::Sequential => port.checked_add(1).unwrap_or(1024),
                Ports::Random => random_port(dice),
            };
        }
        self.next_port = port.checked_add(1).unwrap_or(1024);
        SocketAddr::new(public, port)
    }
}

fn random_port(dice: &mut Dice) -> u16 {
    1024 + dice.below(64_512) as u16
}

#[cfg(test)]
mod tests {
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
                for ports in [Ports::Preserved, Ports::Sequential, Ports::Random] {
                    let kind = GateKind { mapping, filtering, ports };
                    let mut dice = Dice::new(7);
                    let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
                    let now = Duration::ZERO;
                    let external = gate.outbound(now, &mut dice, inside, first);
                    let letting = |gate: &mut Gate, from| gate.inbound(now, from, external).is_some();
                    assert!(letting(&mut gate, first), "{kind:?}");
                    assert_eq!(letting(&mut gate, same_ip), filtering != F::AddressAndPortDependent);
                    assert_eq!(letting(&mut gate, other), filtering == F::EndpointIndependent);
                    let to_same_ip = gate.outbound(now, &mut dice, inside, same_ip);
                    let to_other = gate.outbound(now, &mut dice, inside, other);
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
        let kind = GateKind {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::EndpointIndependent,
            ports: Ports::Random,
        };
        let mut dice = Dice::new(7);
        let mut gate = Gate::new(kind, "20.0.9.1".parse().unwrap(), 30_000);
        let (inside, to) = (addr("10.0.0.2:4000"), addr("20.0.0.1:1"));
        let external = gate.outbound(Duration::ZERO, &mut dice, inside, to);
        assert!(gate.inbound(LIFETIME - Duration::from_millis(1), to, external).is_some());
        assert!(gate.inbound(LIFETIME, to, external).is_none());
        assert_ne!(gate.outbound(LIFETIME, &mut dice, inside, to), external);
    }
}
