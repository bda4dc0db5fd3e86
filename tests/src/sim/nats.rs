//! The types of NAT that the matrix is about, by the names the lab gives them.

use meetpoint_proto::{Filtering, Mapping};

use super::gate::{GateKind, Ports};

/// The first port of a carrier's block.
const BLOCK_START: u16 = 40_000;

const BLOCK: Ports = Ports::Block { first: BLOCK_START, reused: true };
const BLOCK_ONCE: Ports = Ports::Block { first: BLOCK_START, reused: false };

/// A node's way to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nat {
    /// A public address, and nothing in between.
    Open,
    /// Anybody gets in.
    FullCone,
    /// Those whose address was sent to get in.
    AddressRestricted,
    /// Those whose address and port was sent to get in.
    PortRestricted,
    /// The same, with other ports than the hosts'.
    Remap,
    /// The same, and an early packet moves a mapping.
    EarlyInbound,
    /// Two in a row.
    DoubleNat,
    /// The next port for each destination.
    Sequential,
    /// Any port of a block for each destination; a port serves several.
    Block,
    /// The same, but a port serves one.
    BlockOnce,
    /// Any port for each destination.
    Random,
    /// No UDP passes.
    UdpBlocked,
}

impl Nat {
    /// All there are.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Remap,
        Self::EarlyInbound,
        Self::DoubleNat,
        Self::Sequential,
        Self::Block,
        Self::BlockOnce,
        Self::Random,
        Self::UdpBlocked,
    ];

    /// A few letters, for tables.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full",
            Self::AddressRestricted => "addr",
            Self::PortRestricted => "port",
            Self::Remap => "remap",
            Self::EarlyInbound => "early",
            Self::DoubleNat => "double",
            Self::Sequential => "seq",
            Self::Block => "block",
            Self::BlockOnce => "block1",
            Self::Random => "random",
            Self::UdpBlocked => "noudp",
        }
    }

    /// What all its gates amount to.
    #[must_use]
    pub const fn kind(self) -> GateKind {
        use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let (mapping, filtering, ports) = match self {
            Self::Open => (Mapping::None, EndpointIndependent, Ports::Preserved),
            Self::FullCone => (Mapping::EndpointIndependent, EndpointIndependent, Ports::Preserved),
            Self::AddressRestricted => (Mapping::EndpointIndependent, AddressDependent, Ports::Preserved),
            Self::PortRestricted | Self::EarlyInbound | Self::DoubleNat | Self::UdpBlocked => {
                (Mapping::EndpointIndependent, AddressAndPortDependent, Ports::Preserved)
            }
            Self::Remap => (Mapping::EndpointIndependent, AddressAndPortDependent, Ports::Rewritten),
            Self::Sequential => {
                (Mapping::AddressAndPortDependent, AddressAndPortDependent, Ports::Sequential(1))
            }
            Self::Block => (Mapping::AddressAndPortDependent, AddressAndPortDependent, BLOCK),
            Self::BlockOnce => (Mapping::AddressAndPortDependent, AddressAndPortDependent, BLOCK_ONCE),
            Self::Random => (Mapping::AddressAndPortDependent, AddressAndPortDependent, Ports::Random),
        };
        let early_moves = matches!(self, Self::EarlyInbound);
        GateKind { early_moves, ..GateKind::new(mapping, filtering, ports) }
    }

    /// The gates on the way out, the outermost last.
    #[must_use]
    pub fn gates(self) -> Vec<GateKind> {
        vec![self.kind(); if self == Self::DoubleNat { 2 } else { 1 }]
    }

    /// No UDP passes.
    #[must_use]
    pub const fn is_blocked(self) -> bool {
        matches!(self, Self::UdpBlocked)
    }
}
