//! The simulator's NATs are what the lab's are: the lab's own measurement, step by step, on the models, against the
//! lab's own promises. So what the simulator proves of a type of NAT holds for a kernel's NAT of that type.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use meetpoint_cli::lab::probe::{
    Behavior, Dependence, EarlyInbound, Measurement, PORTS_PER_ADDR, Sightings, classify,
};
use meetpoint_cli::lab::{NatKind, SERVER_ADDRS};
use meetpoint_tests::sim::dice::Dice;
use meetpoint_tests::sim::gate::Gate;
use meetpoint_tests::sim::nats::Nat;

/// A host behind model gates, and the world outside.
struct Bench {
    gates: Vec<Gate>,
    dice: Dice,
    host: Ipv4Addr,
}

impl Bench {
    fn new(nat: Nat, seed: u64) -> Self {
        let kinds = nat.gates();
        let public = |at: usize| if at + 1 == kinds.len() { [20, 0, 10, 1] } else { [100, 64, 0, 2] };
        let gate = |(at, kind)| Gate::new(kind, public(at).into(), 30_000);
        let gates = kinds.iter().copied().enumerate().map(gate).collect();
        let host = if nat == Nat::Open { [20, 0, 10, 7] } else { [10, 0, 1, 2] };
        Self { gates, dice: Dice::new(seed), host: host.into() }
    }

    /// Where the world sees a packet come from.
    fn sighting(&mut self, near: u16, far: SocketAddrV4) -> SocketAddrV4 {
        let from = SocketAddr::from((self.host, near));
        let dice = &mut self.dice;
        let mut gates = self.gates.iter_mut();
        let seen = gates.try_fold(from, |from, gate| gate.outbound(Duration::ZERO, dice, from, far.into()));
        let Some(SocketAddr::V4(seen)) = seen else { panic!("no port is left") };
        seen
    }

    /// Whether a packet of the world's reaches the host.
    fn arrives(&mut self, from: SocketAddrV4, to: SocketAddrV4) -> bool {
        let mut gates = self.gates.iter_mut().rev();
        gates.try_fold(SocketAddr::V4(to), |to, gate| gate.inbound(Duration::ZERO, from.into(), to)).is_some()
    }

    /// The lab's measurement.
    fn measure(&mut self) -> Measurement {
        let world = SERVER_ADDRS.map(|addr| [0, 1, 2, 3].map(|n| SocketAddrV4::new(addr, 7_000 + n)));
        let seen: Sightings = world.map(|row| row.map(|far| self.sighting(50_000, far)));
        let local = SocketAddrV4::new(self.host, 50_000);
        let (mapping, allocator) = classify(local, &seen);
        let [[known, same_addr, ..], [other_addr, ..]] = world;
        let mapped = self.sighting(50_001, known);
        let filtering = match (self.arrives(other_addr, mapped), self.arrives(same_addr, mapped)) {
            (true, _) => Dependence::Nothing,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
        };
        let mapped = self.sighting(50_002, known);
        let _ = self.arrives(other_addr, mapped);
        let moves = self.sighting(50_002, other_addr) != mapped;
        let early = if moves { EarlyInbound::MovesMapping } else { EarlyInbound::Harmless };
        let early_inbound = (mapping == Dependence::Nothing).then_some(early);
        let translated = *seen[0][0].ip() != self.host;
        Measurement::Passes(Behavior { translated, mapping, filtering, allocator, early_inbound })
    }
}

#[test]
fn models_keep_the_labs_promises() {
    assert_eq!(PORTS_PER_ADDR, 4);
    let pairs = [
        (Nat::Open, NatKind::Open),
        (Nat::FullCone, NatKind::FullCone),
        (Nat::AddressRestricted, NatKind::AddressRestricted),
        (Nat::PortRestricted, NatKind::PortRestricted),
        (Nat::Remap, NatKind::Remap),
        (Nat::EarlyInbound, NatKind::PortRestrictedEarlyInbound),
        (Nat::DoubleNat, NatKind::DoubleNat),
        (Nat::Sequential, NatKind::SymmetricSequential),
        (Nat::Block, NatKind::SymmetricBlock),
        (Nat::BlockOnce, NatKind::SymmetricBlock),
        (Nat::Random, NatKind::SymmetricRandom),
    ];
    for (model, kind) in pairs {
        for seed in 0..20 {
            let measured = Bench::new(model, seed).measure();
            assert_eq!(
                measured,
                kind.promise(),
                "{kind}: the model is {measured}, the lab promises {}",
                kind.promise()
            );
        }
    }
    let rest = NatKind::ALL.into_iter().filter(|kind| pairs.iter().all(|(_, modelled)| modelled != kind));
    // The one lets nothing pass to be measured, the others are random NATs until somebody asks them for a port.
    let not_modelled = [NatKind::UdpBlocked, NatKind::UpnpRouter, NatKind::PcpRouter];
    assert_eq!(rest.collect::<Vec<_>>(), not_modelled);
}
