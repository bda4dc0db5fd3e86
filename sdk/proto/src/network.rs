//! What a cluster is, what a node declares, and what was found out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A word that is none of those allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected one of {allowed}")]
pub struct ParseWordError {
    /// The allowed words, separated by `|`.
    pub allowed: &'static str,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? } allowed $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used on the wire, in flags and in documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ParseWordError;

            fn from_str(text: &str) -> Result<Self, ParseWordError> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|word| word.as_str().eq_ignore_ascii_case(text))
                    .ok_or(ParseWordError { allowed: $allowed })
            }
        }
    };
}

words!(
    /// What a cluster is, fixed when it is created.
    ClusterNetwork {
        /// Only private nodes, for ever.
        Private = "PRIVATE",
        /// Only public nodes.
        Public = "PUBLIC",
        /// Private until a public, reachable seed appears.
        Dynamic = "DYNAMIC",
    } allowed "PRIVATE|PUBLIC|DYNAMIC"
);
words!(
    /// What a cluster amounts to at this moment, by its type and its seeds.
    EffectiveNetwork {
        /// Nothing leaves the private network.
        Private = "PRIVATE",
        /// Nodes meet over the public network.
        Public = "PUBLIC",
    } allowed "PRIVATE|PUBLIC"
);
words!(
    /// What a node or seed says of itself.
    NetworkType {
        /// It can't be reached from the public network.
        Private = "PRIVATE",
        /// It can.
        Public = "PUBLIC",
    } allowed "PRIVATE|PUBLIC"
);
words!(
    /// What was found out about a node.
    NetworkClass {
        /// It reaches the server over a loopback address.
        Loopback = "Loopback",
        /// It has a private address; NAT behaviour says whom it can meet.
        Private = "Private",
        /// No STUN answer reached it.
        Unreachable = "Unreachable",
        /// A public address, reachability not proven.
        PublicUndefined = "PublicUndefined",
        /// Reachable on its mapped address by whoever knows it.
        PublicReachable = "PublicReachable",
        /// Reachable, and an unsolicited authenticated connection has arrived.
        PublicOpen = "PublicOpen",
    } allowed "Loopback|Private|Unreachable|PublicUndefined|PublicReachable|PublicOpen"
);
impl NetworkClass {
    /// Anybody who knows its address can reach it.
    #[must_use]
    pub const fn is_public_and_reachable(self) -> bool {
        matches!(self, Self::PublicReachable | Self::PublicOpen)
    }
}

words!(
    /// What a class rests on.
    Evidence {
        /// The user said so and no fact contradicts it.
        Declared = "declared",
        /// The server saw it (a source address, an observed mapping).
        Observed = "observed",
        /// A nonce arrived from an address and port the node had never sent to.
        Proven = "proven",
    } allowed "declared|observed|proven"
);
words!(
    /// Who named a seed first.
    SeedOrigin {
        /// The flags of the server.
        Flag = "flag",
        /// The operator, over REST.
        Operator = "operator",
        /// The seed itself.
        Own = "self",
    } allowed "flag|operator|self"
);
words!(
    /// What was found out about a seed.
    SeedStatus {
        /// Nothing yet.
        Unverified = "unverified",
        /// The holder of its key answers at its address.
        Up = "up",
        /// Nobody showed its key there several times in a row.
        Down = "down",
        /// What is there contradicts what was said of it.
        Refused = "refused",
    } allowed "unverified|up|down|refused"
);
words!(
    /// RFC 4787, section 4.1: how a NAT chooses the external address.
    Mapping {
        /// No NAT in between.
        None = "none",
        /// The same towards every destination.
        EndpointIndependent = "endpoint-independent",
        /// One for each destination address.
        AddressDependent = "address-dependent",
        /// One for each destination address and port ("symmetric").
        AddressAndPortDependent = "address-and-port-dependent",
    } allowed "none|endpoint-independent|address-dependent|address-and-port-dependent"
);
words!(
    /// RFC 4787, section 5: whose packets a NAT lets in.
    Filtering {
        /// Anybody's.
        EndpointIndependent = "endpoint-independent",
        /// Those of addresses that were sent to.
        AddressDependent = "address-dependent",
        /// Those of addresses and ports that were sent to.
        AddressAndPortDependent = "address-and-port-dependent",
    } allowed "endpoint-independent|address-dependent|address-and-port-dependent"
);

/// How a NAT chooses external ports, told from several mappings in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Allocator {
    /// The node's own port.
    Preserving,
    /// One after the other.
    Sequential {
        /// From one to the next; never 0.
        delta: u16,
        /// The newest that was seen.
        newest: u16,
    },
    /// Any one of a small range, as carriers give a subscriber.
    Block {
        /// The lowest that was seen.
        first: u16,
        /// The highest that was seen.
        last: u16,
    },
    /// Any one.
    Random,
}

/// How many address translators there are between a node and the internet, as the routers on its way to the server tell
/// it by the addresses that they answer from. A claim of theirs: for explanations, never as proof towards anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatDepth {
    /// No more than so many translate, and none is more routers away than that. Never 0.
    pub at_most: u8,
    /// The router so many hops away answers from the address under which the internet sees the node, so nobody behind
    /// it translates. Else it is concluded from where the first router with an address of the internet stands; and
    /// those before it need not translate because their addresses are private.
    pub proven: bool,
}

impl fmt::Display for NatDepth {
    /// What it amounts to, and why, in words for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_most, self.proven) {
            (1, true) => {
                f.write_str("one address translator: the first router answers from the public address")
            }
            (1, false) => {
                f.write_str("likely one address translator: behind the first router lies the internet")
            }
            (most, true) => write!(
                f,
                "{most} address translators at most: the router {most} hops away answers from the public address"
            ),
            (most, false) => write!(
                f,
                "likely {most} address translators, at most: the first {most} routers have private addresses, which is a \
                 hint and no proof"
            ),
        }
    }
}

/// What a node found out about the NAT in front of it (RFC 5780). Its own claim: used to
/// order attempts and to explain, never as proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NatBehavior {
    /// `None`: could not be told (the server has a single address).
    pub mapping: Option<Mapping>,
    /// `None`: could not be told (the server has a single address).
    pub filtering: Option<Filtering>,
    /// `None`: there is no NAT, or it gives each node's port one other, or it could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocator: Option<Allocator>,
    /// Nodes behind it reach each other by their external addresses (RFC 4787, section 6). `None`: not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// A packet that comes in before the node has sent to its sender moves the node's mapping towards that
    /// sender. `None`: not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_inbound: Option<bool>,
    /// A port of its block serves several destinations at once; if not, the block is soon used up. `None`: there is no
    /// block, or it was not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_reuse: Option<bool>,
    /// The longest silence, in seconds, after which it was seen to remember a mapping. `None`: not measured, which
    /// takes minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_s: Option<u32>,
    /// There is another NAT behind the first: the nearest router's own external address is not one of the internet's.
    /// `None`: not told, since that router does not say where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub double_nat: Option<bool>,
    /// How many translators there are, as far as the routers on the way tell. `None`: not told, since one of them does
    /// not answer, or none of the first few is on the internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<NatDepth>,
    /// The server is reached, but by no UDP. Everything else is not told then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub udp_blocked: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
