//! The kinds of NAT, as nftables rules.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use super::portal::Protocol;
use super::probe::{Allocator, Behavior, Dependence, EarlyInbound, Measurement};

/// First port of the ranges that do not keep ports.
const POOL_START: u16 = 40_000;

/// Ports of [`NatKind::SymmetricSequential`] before it starts over.
const SEQUENTIAL_POOL: u16 = 4_096;

/// Ports of a subscriber's block in [`NatKind::SymmetricBlock`]: a size carriers use, with 63 subscribers to an
/// address.
pub(super) const BLOCK_SIZE: u16 = 1_024;

/// What [`NatKind::Remap`] flips in each port. Equal bytes make it the same in either byte order, and bits this low
/// keep an ephemeral port ephemeral.
const REMAP_MASK: u16 = 0x1515;

/// What a host's way to the public network does to UDP, in the words of RFC 3489 where users know them and of RFC 4787
/// where those are exact. Everything but UDP is translated plainly and never let in unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKind {
    /// No NAT: the host has a public address.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping; lets in any port of an address that was sent to.
    AddressRestricted,
    /// Endpoint-independent mapping that keeps ports; lets in only what was sent to.
    PortRestricted,
    /// The same, but a packet that comes in before its target has sent moves the target's next mapping towards that
    /// sender to another port: a plain Linux router without a firewall in front of its own ports.
    PortRestrictedEarlyInbound,
    /// Endpoint-independent mapping that changes every port; lets in only what was sent to.
    Remap,
    /// A random port for each destination.
    SymmetricRandom,
    /// The next port for each destination.
    SymmetricSequential,
    /// A random port out of a small block for each destination, as carriers do.
    SymmetricBlock,
    /// Two port-restricted NATs in a row, the home's and the carrier's.
    DoubleNat,
    /// A port-restricted NAT that passes no UDP.
    UdpBlocked,
    /// A random port for each destination, and a router that maps a port for whoever asks it by UPnP.
    UpnpRouter,
    /// The same for whoever asks by PCP or NAT-PMP.
    PcpRouter,
}

impl NatKind {
    /// Every kind, for tests that go through them all.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedEarlyInbound,
        Self::Remap,
        Self::SymmetricRandom,
        Self::SymmetricSequential,
        Self::SymmetricBlock,
        Self::DoubleNat,
        Self::UdpBlocked,
        Self::UpnpRouter,
        Self::PcpRouter,
    ];

    /// What [`probe::measure`](super::probe::measure) must find on a host of this kind.
    #[must_use]
    pub const fn promise(self) -> Measurement {
        use {Allocator as Ports, Dependence as On, EarlyInbound as Early};
        let (translated, mapping, filtering, ports, early) = match self {
            Self::Open => (false, On::Nothing, On::Nothing, Ports::Preserving, Some(Early::Harmless)),
            Self::FullCone => (true, On::Nothing, On::Nothing, Ports::Preserving, Some(Early::Harmless)),
            Self::AddressRestricted => {
                (true, On::Nothing, On::Address, Ports::Preserving, Some(Early::Harmless))
            }
            Self::PortRestricted | Self::DoubleNat => {
                (true, On::Nothing, On::AddressAndPort, Ports::Preserving, Some(Early::Harmless))
            }
            Self::PortRestrictedEarlyInbound => {
                (true, On::Nothing, On::AddressAndPort, Ports::Preserving, Some(Early::MovesMapping))
            }
            Self::Remap => (true, On::Nothing, On::AddressAndPort, Ports::Rewriting, Some(Early::Harmless)),
            Self::SymmetricRandom | Self::UpnpRouter | Self::PcpRouter => {
                (true, On::AddressAndPort, On::AddressAndPort, Ports::Random, None)
            }
            Self::SymmetricSequential => {
                (true, On::AddressAndPort, On::AddressAndPort, Ports::Sequential, None)
            }
            Self::SymmetricBlock => (true, On::AddressAndPort, On::AddressAndPort, Ports::Block, None),
            Self::UdpBlocked => return Measurement::Blocked,
        };
        Measurement::Passes(Behavior {
            translated,
            mapping,
            filtering,
            allocator: ports,
            early_inbound: early,
        })
    }

    /// What its router lets its hosts ask for ports by.
    pub(super) const fn portal(self) -> Option<Protocol> {
        match self {
            Self::UpnpRouter => Some(Protocol::Upnp),
            Self::PcpRouter => Some(Protocol::Pcp),
            _ => None,
        }
    }

    /// The rule set of a router of this kind whose public address is `wan`.
    pub(super) fn rules(self, wan: Ipv4Addr) -> String {
        let recipe = self.recipe(wan);
        format!(
            r#"table ip nat_lab {{
                {declarations}
                chain from_afar {{
                    type filter hook prerouting priority raw;
                    {FAR_AWAY}
                }}
                chain to_router {{
                    type filter hook input priority filter; policy drop;
                    ct state established,related accept
                    iifname != "wan" accept
                    {admit_to_router}
                }}
                chain through_router {{
                    type filter hook forward priority filter; policy drop;
                    {refuse}
                    ct state established,related accept
                    ct status dnat accept
                    iifname != "wan" accept
                }}
                chain from_world {{
                    type nat hook prerouting priority dstnat;
                    {let_in}
                }}
                chain note_use {{
                    type filter hook postrouting priority srcnat - 10;
                    {note_use}
                }}
                chain to_world {{
                    type nat hook postrouting priority srcnat;
                    {translate}
                    oifname "wan" masquerade
                }}
            }}"#,
            declarations = recipe.declarations,
            admit_to_router = recipe.admit_to_router,
            refuse = recipe.refuse,
            let_in = recipe.let_in,
            note_use = recipe.note_use,
            translate = recipe.translate,
        )
    }

    /// One row of the table of recipes: what each kind adds to the common router, which by itself is port-restricted.
    ///
    /// That router drops new packets towards itself. Without that the kernel remembers them, finds the port taken when
    /// the host behind it later sends to the same place, and moves the mapping: the early-inbound kind.
    fn recipe(self, wan: Ipv4Addr) -> Recipe {
        let mut recipe = Recipe::default();
        match self {
            Self::Open => recipe.refuse = "drop".to_owned(),
            Self::PortRestricted | Self::DoubleNat => {}
            Self::FullCone => {
                recipe.declarations = CONE.to_owned();
                recipe.note_use = format!("{OUTGOING_UDP} {REMEMBER_HOST}");
                recipe.translate = format!("{OUTGOING_UDP} snat to {wan}");
                recipe.let_in = r#"iifname "wan" dnat ip to udp dport map @cone"#.to_owned();
            }
            Self::AddressRestricted => {
                recipe.declarations = format!("{CONE}\n{PERMISSIONS}");
                recipe.note_use = format!("{OUTGOING_UDP} {REMEMBER_HOST} {REMEMBER_PEER}");
                recipe.translate = format!("{OUTGOING_UDP} snat to {wan}");
                recipe.let_in =
                    r#"iifname "wan" udp dport . ip saddr @permissions dnat ip to udp dport map @cone"#
                        .to_owned();
            }
            Self::PortRestrictedEarlyInbound => recipe.admit_to_router = "meta l4proto udp accept".to_owned(),
            Self::Remap => {
                recipe.translate = format!("{OUTGOING_UDP} snat to {wan} : udp sport ^ {REMAP_MASK}");
            }
            Self::SymmetricRandom | Self::UpnpRouter | Self::PcpRouter => {
                recipe.translate = format!("{OUTGOING_UDP} masquerade fully-random");
            }
            Self::SymmetricSequential => {
                recipe.translate = format!("{OUTGOING_UDP} snat to {wan} : {}", next_port());
            }
            Self::SymmetricBlock => {
                let last = POOL_START + BLOCK_SIZE - 1;
                recipe.translate = format!("{OUTGOING_UDP} masquerade to :{POOL_START}-{last} fully-random");
            }
            Self::UdpBlocked => recipe.refuse = "meta l4proto udp drop".to_owned(),
        }
        recipe
    }
}

/// What one kind adds to the common router, each part nftables text.
#[derive(Default)]
struct Recipe {
    /// Maps and sets.
    declarations: String,
    /// New packets from the world that the router itself takes.
    admit_to_router: String,
    /// What is not passed on in either direction.
    refuse: String,
    /// Which host a new packet from the world goes to.
    let_in: String,
    /// What every outgoing packet makes the router remember, before it is translated.
    note_use: String,
    /// How a new outgoing flow is translated.
    translate: String,
}

/// Between any two sites of an internet lie routers, and this lab's public network has none. What would have died at
/// one of them, because it had one hop left to live when it got there, dies before the kernel that it must not reach
/// takes note of it.
const FAR_AWAY: &str = r#"iifname "wan" ip ttl 1 drop"#;

const OUTGOING_UDP: &str = r#"oifname "wan" meta l4proto udp"#;

/// Which host owns a public port. As ports are kept, the port is the same on both sides. Entries expire like the
/// mappings of RFC 4787 REQ-5 recommends: five minutes after the last outgoing packet.
const CONE: &str = "map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; size 65535; }";
const REMEMBER_HOST: &str = "update @cone { udp sport : ip saddr . udp sport }";

/// Which addresses a public port has sent to.
const PERMISSIONS: &str =
    "set permissions { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 5m; size 65535; }";
const REMEMBER_PEER: &str = "update @permissions { udp sport . ip daddr }";

/// An expression that yields the next port of the sequential pool. The counter goes through a table because the kernel
/// would take its bare value in the wrong byte order.
fn next_port() -> String {
    let mut table = format!("numgen inc mod {SEQUENTIAL_POOL} map {{ ");
    for index in 0..SEQUENTIAL_POOL {
        let _ = write!(table, "{index} : {}, ", POOL_START + index);
    }
    table.push('}');
    table
}

impl fmt::Display for NatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "no NAT",
            Self::FullCone => "full-cone NAT",
            Self::AddressRestricted => "address-restricted NAT",
            Self::PortRestricted => "port-restricted NAT",
            Self::PortRestrictedEarlyInbound => "port-restricted NAT that early packets confuse",
            Self::Remap => "port-restricted NAT that changes ports",
            Self::SymmetricRandom => "symmetric NAT with random ports",
            Self::SymmetricSequential => "symmetric NAT with sequential ports",
            Self::SymmetricBlock => "symmetric NAT with a port block",
            Self::DoubleNat => "two port-restricted NATs in a row",
            Self::UdpBlocked => "NAT that blocks UDP",
            Self::UpnpRouter => "symmetric NAT with UPnP",
            Self::PcpRouter => "symmetric NAT with PCP",
        })
    }
}
