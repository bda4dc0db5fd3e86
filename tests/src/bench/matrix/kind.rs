//! How a node of the matrix is connected, and what two such ways allow.

use std::fmt;
use std::str::FromStr;

use meetpoint_cli::lab::{Host, Lab, LabError, NatKind, SERVER_ADDRS, SERVER_ADDRS_V6};

use super::HTTP_PORT;

/// How a node is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// By IPv4, with this in between.
    Nat(NatKind),
    /// By IPv6 behind a firewall, and by IPv4 behind a port-restricted NAT.
    DualStack,
    /// By IPv6 behind a firewall.
    Ipv6Only,
}

impl Kind {
    /// Every kind.
    #[must_use]
    pub fn all() -> Vec<Self> {
        NatKind::ALL.map(Self::Nat).into_iter().chain([Self::DualStack, Self::Ipv6Only]).collect()
    }

    /// A new host of this kind.
    pub(super) fn host(self, lab: &mut Lab) -> Result<Host, LabError> {
        match self {
            Self::Nat(kind) => lab.node(kind),
            Self::DualStack => {
                let host = lab.node(NatKind::PortRestricted)?;
                lab.add_ipv6(&host)?;
                Ok(host)
            }
            Self::Ipv6Only => lab.ipv6_host(),
        }
    }

    /// The server, as such a node reaches it.
    pub(super) fn url(self) -> String {
        if self.has_ipv4() {
            format!("https://{}:{HTTP_PORT}", SERVER_ADDRS[0])
        } else {
            format!("https://[{}]:{HTTP_PORT}", SERVER_ADDRS_V6[0])
        }
    }

    pub(super) fn has_ipv4(self) -> bool {
        self != Self::Ipv6Only
    }

    pub(super) fn passes_udp(self) -> bool {
        self != Self::Nat(NatKind::UdpBlocked)
    }
}

impl fmt::Display for Kind {
    /// The name in the source, as a word: `port-restricted`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Nat(kind) => format!("{kind:?}"),
            other => format!("{other:?}"),
        };
        for (at, letter) in name.chars().enumerate() {
            if letter.is_uppercase() && at > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let names = || all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|kind| kind.to_string() == name);
        found.copied().ok_or_else(|| format!("no such kind; there are: {}", names()))
    }
}

/// What the two ways allow, whatever the nodes are capable of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prospect {
    /// A direct path, always: one side's address can be told to the other, or foretold.
    Direct,
    /// A direct path, most likely: enough guesses meet.
    Likely,
    /// Perhaps a direct path, but nobody would wait for it.
    Unlikely,
    /// None: no UDP passes, or they have no family of addresses in common.
    Relay,
}

/// Knows the two ways, and nothing of Meetpoint.
#[must_use]
pub fn prospect(one: Kind, other: Kind) -> Prospect {
    match (one, other) {
        (Kind::Nat(one), Kind::Nat(other)) => of_nats(one, other),
        (Kind::Ipv6Only, Kind::Nat(_)) | (Kind::Nat(_), Kind::Ipv6Only) => Prospect::Relay,
        (Kind::DualStack, Kind::Nat(kind)) | (Kind::Nat(kind), Kind::DualStack) => {
            of_nats(NatKind::PortRestricted, kind)
        }
        (Kind::DualStack | Kind::Ipv6Only, Kind::DualStack | Kind::Ipv6Only) => Prospect::Direct,
    }
}

fn of_nats(one: NatKind, other: NatKind) -> Prospect {
    use NatKind::{
        AddressRestricted, FullCone, Open, SymmetricBlock, SymmetricRandom, SymmetricSequential, UdpBlocked,
    };
    let is_symmetric = |kind| matches!(kind, SymmetricBlock | SymmetricRandom | SymmetricSequential);
    // Lets in any port of an address that was sent to.
    let lets_ports_in = |kind| matches!(kind, Open | FullCone | AddressRestricted);
    match (one, other) {
        (UdpBlocked, _) | (_, UdpBlocked) => Prospect::Relay,
        (one, other) if !is_symmetric(one) && !is_symmetric(other) => Prospect::Direct,
        (one, other) if lets_ports_in(one) || lets_ports_in(other) => Prospect::Direct,
        (SymmetricSequential, SymmetricSequential) => Prospect::Direct,
        (SymmetricSequential, other) | (other, SymmetricSequential) if !is_symmetric(other) => {
            Prospect::Direct
        }
        (one, other) if !is_symmetric(one) || !is_symmetric(other) => Prospect::Likely,
        _ => Prospect::Unlikely,
    }
}
