//! What coturn's tools of version 4.6.1 can do, and what must come of it.

use std::fmt;

use meetpoint_cli::lab::NatKind;

/// A program of coturn's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Stunclient,
    Natdiscovery,
    Uclient,
}

impl Tool {
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Stunclient => "turnutils_stunclient",
            Self::Natdiscovery => "turnutils_natdiscovery",
            Self::Uclient => "turnutils_uclient",
        }
    }
}

/// Where the tool runs, and how it comes to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Public,
    PublicOverIpv6,
    Behind(NatKind),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public host"),
            Self::PublicOverIpv6 => f.write_str("public host, over IPv6"),
            Self::Behind(kind) => write!(f, "behind: {kind}"),
        }
    }
}

/// What is to come of a case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// All messages come back.
    Relayed,
    /// None does.
    NothingRelayed,
    /// The client gives up because of this error.
    Refused(u16),
    /// The client gives up because it is asked for a credential again and again.
    Stranger,
    /// The tool says all of this.
    Says(&'static [&'static str]),
    /// Whatever becomes of the client, all others are served, then and afterwards.
    Unharmed,
}

/// What is done with a case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Run {
    Measured(Expected),
    /// The tool must find what the lab's NAT of this kind does.
    Discovery(NatKind),
    /// There is nothing to measure, with the reason.
    NotOffered(&'static str),
}

/// One row of the document.
pub(super) struct Case {
    pub(super) tool: Tool,
    /// Those that say what is done; credential, peer and server are added.
    pub(super) options: &'static str,
    pub(super) from: Place,
    pub(super) shows: &'static str,
    pub(super) run: Run,
}

impl Case {
    /// Whether this option is given.
    pub(super) fn has(&self, option: char) -> bool {
        self.options
            .split_whitespace()
            .any(|word| word.strip_prefix('-').is_some_and(|rest| rest.starts_with(option)))
    }
}

const fn case(tool: Tool, options: &'static str, from: Place, shows: &'static str, run: Run) -> Case {
    Case { tool, options, from, shows, run }
}

const fn discovery(kind: NatKind) -> Case {
    let from = if matches!(kind, NatKind::Open) { Public } else { Behind(kind) };
    let shows = "RFC 5780: the tool finds the mapping and the filtering that there are";
    case(Natdiscovery, "-m -f", from, shows, Run::Discovery(kind))
}

/// The client of coturn, from a public host.
pub(super) const fn turn(options: &'static str, shows: &'static str, expected: Expected) -> Case {
    case(Uclient, options, Public, shows, Run::Measured(expected))
}

const fn turn_from(options: &'static str, from: Place, shows: &'static str, expected: Expected) -> Case {
    case(Uclient, options, from, shows, Run::Measured(expected))
}

const fn without(options: &'static str, shows: &'static str, reason: &'static str) -> Case {
    case(Uclient, options, Public, shows, Run::NotOffered(reason))
}

use Expected::{NothingRelayed, Refused, Relayed, Says, Stranger, Unharmed};
use Place::{Behind, Public, PublicOverIpv6};
use Tool::{Natdiscovery, Stunclient, Uclient};

pub(super) const CASES: &[Case] = &[
    // The third answer comes to a second socket and from the alternate address, each only with its attribute.
    case(
        Stunclient,
        "-f",
        Public,
        "Binding; OTHER-ADDRESS; RESPONSE-PORT; CHANGE-REQUEST; PADDING",
        Run::Measured(Says(&["RFC 5780 response 3", "Response origin: : 20.0.0.2:3479"])),
    ),
    case(
        Stunclient,
        "",
        PublicOverIpv6,
        "Binding over IPv6",
        Run::Measured(Says(&["UDP reflexive addr: 2a00:20::"])),
    ),
    discovery(NatKind::Open),
    discovery(NatKind::FullCone),
    discovery(NatKind::AddressRestricted),
    discovery(NatKind::PortRestricted),
    discovery(NatKind::SymmetricRandom),
    case(
        Natdiscovery,
        "-m -f -P",
        Public,
        "the same in datagrams of 1,500 bytes (PADDING)",
        Run::Discovery(NatKind::Open),
    ),
    case(
        Natdiscovery,
        "-t -T 1",
        Public,
        "RESPONSE-PORT: the answer comes to the socket of an earlier request",
        Run::Measured(Says(&["RFC 5780 response 2"])),
    ),
    turn("", "pairs of allocations (EVEN-PORT with RESERVATION-TOKEN), ChannelBind, ChannelData", Relayed),
    turn("-s", "CreatePermission, Send and Data indications", Relayed),
    turn("-y", "channels between two relayed addresses", Relayed),
    turn("-y -s", "indications between two relayed addresses", Relayed),
    turn("-c", "single allocations", Relayed),
    turn("-D", "padded ChannelData over UDP", Relayed),
    turn("-l 1400", "channels, messages of 1,400 bytes", Relayed),
    turn("-s -l 1400", "indications, messages of 1,400 bytes", Relayed),
    turn_from("", Behind(NatKind::PortRestricted), "channels", Relayed),
    turn_from("-s", Behind(NatKind::SymmetricRandom), "indications", Relayed),
    turn("-X", "REQUESTED-ADDRESS-FAMILY of IPv4", Relayed),
    turn("-x", "an IPv6 relayed address for an IPv4 client, channels", Relayed),
    turn("-x -s", "the same, indications", Relayed),
    turn("-x -y", "channels between two IPv6 relayed addresses", Relayed),
    turn("-x -y -s", "indications between two IPv6 relayed addresses", Relayed),
    turn_from("", PublicOverIpv6, "an IPv4 relayed address for an IPv6 client", Relayed),
    turn_from("-x", PublicOverIpv6, "an IPv6 relayed address for an IPv6 client", Relayed),
    turn("-g", "DONT-FRAGMENT in Allocate", Relayed),
    turn("-g -s", "DONT-FRAGMENT in Allocate and Send", Relayed),
    turn("-G", "many permissions and channels more, and peers of the wrong family (443)", Relayed),
    turn("-G -s", "the same, indications", Relayed),
    turn("-G -y", "the same, between two relayed addresses", Relayed),
    turn("-W", "credentials that the client makes itself of the shared secret", Relayed),
    turn("-M", "MOBILITY-TICKET (RFC 8016): the allocation follows the client to another port", Relayed),
    turn("-J", "OAuth: not offered, and the client goes on with its password", Relayed),
    turn("-a 100000", "BANDWIDTH is ignored", Relayed),
    turn("-o https://example.com", "ORIGIN is ignored", Relayed),
    turn("-I -s", "without a permission nothing is relayed", NothingRelayed),
    turn("-I -y -s", "nor between two relayed addresses", NothingRelayed),
    turn("-N", "a second channel for one peer is refused", Refused(400)),
    turn("-N -y", "any channel number from 0x4000 to 0x7FFF", Relayed),
    turn("-m 100", "more allocations than a user may have are refused", Refused(486)),
    turn("-u 1:nobody -w guess", "nobody is relayed without a credential", Stranger),
    turn("-R -m 4", "one message in ten is broken", Unharmed),
    turn("-R -s -m 4", "the same, indications", Unharmed),
    turn("-O", "clients that leave in the middle of Allocate", Unharmed),
    turn("-B", "clients that close their sockets", Unharmed),
    turn("-t", "channels over TCP", Relayed),
    turn("-t -s", "indications over TCP", Relayed),
    turn("-t -y", "channels between two relayed addresses, over TCP", Relayed),
    turn("-t -y -s", "indications between two relayed addresses, over TCP", Relayed),
    turn("-t -c", "single allocations over TCP", Relayed),
    turn("-t -l 1400", "messages of 1,400 bytes over TCP", Relayed),
    turn("-t -l 101", "ChannelData that needs padding, over TCP", Relayed),
    turn("-t -x -y", "IPv6 relayed addresses over TCP", Relayed),
    turn("-t -g -s", "DONT-FRAGMENT over TCP", Relayed),
    turn("-t -G", "many permissions and channels over TCP", Relayed),
    turn_from("-t", PublicOverIpv6, "channels over TCP and IPv6", Relayed),
    turn_from("-t", Behind(NatKind::UdpBlocked), "channels over TCP where UDP is blocked", Relayed),
    turn("-t -I -s", "without a permission nothing is relayed over TCP", NothingRelayed),
    turn("-t -N -y", "any channel number over TCP", Relayed),
    turn("-t -R -m 4", "one message in ten is broken, over TCP", Unharmed),
    turn("-t -O", "connections left in the middle", Unharmed),
    turn("-t -S", "channels over TLS", Relayed),
    turn("-t -S -E", "the same, the server's certificate verified", Relayed),
    turn("-t -S -s", "indications over TLS", Relayed),
    turn("-t -S -y", "channels between two relayed addresses, over TLS", Relayed),
    turn("-t -S -y -s", "indications between two relayed addresses, over TLS", Relayed),
    turn("-t -S -l 1400", "messages of 1,400 bytes over TLS", Relayed),
    turn("-t -S -x -y", "IPv6 relayed addresses over TLS", Relayed),
    turn_from("-t -S", Behind(NatKind::UdpBlocked), "channels over TLS where UDP is blocked", Relayed),
    turn("-t -S -R -m 4", "one message in ten is broken, over TLS", Unharmed),
    without("-S", "DTLS", "not offered; TLS is, over TCP"),
    without("-b", "SCTP", "not offered; no standard has TURN over SCTP"),
    without("-t -U", "TLS without encryption", "not offered on purpose"),
    without("-T", "TCP allocations (RFC 6062)", "not offered: peers are reached by UDP"),
    without("-P", "TCP allocations (RFC 6062), passive", "not offered: peers are reached by UDP"),
    without(
        "-Z",
        "both families in one allocation",
        "the tool sends the attribute by the number of a draft (0x8032), not RFC 8656's (0x8000)",
    ),
];
