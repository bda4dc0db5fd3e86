//! Relaying over UDP (TURN, RFC 8656): what clients ask for, what they are granted, and the way of
//! each packet.
//!
//! * `request` answers Allocate, Refresh, CreatePermission and ChannelBind;
//! * `table` holds a shard's allocations, and when each is to be looked at again;
//! * `allocation` is one of them: its permissions, channels and rate;
//! * `quota` counts who has how much, and `rate` how many bytes, over all shards;
//! * `ports` knows which relayed address is whose, and `owners` which is which shard's;
//! * `peers` says who may be a peer at all;
//! * `pairs` says which nodes may meet at their relayed addresses;
//! * `data` is the way of a packet. It searches a hash table and two short lists, takes no lock and
//!   allocates nothing;
//! * `icmp` is what comes back instead;
//! * `handover` moves a reserved port to the shard that its client came to;
//! * `mobility` lets an allocation follow its client to another address (RFC 8016).
//!
//! # What a relayed packet needs
//!
//! A permission its client installed for the peer, a peer that the rules allow, and what is left of
//! the allocation's rate. A peer that is itself one of the server's relayed addresses is handed to
//! its client inside the machine, and only if that client has a permission for exactly the
//! relayed address the packet comes from. If either client is a node, both have to be, and the broker
//! must have introduced them. If that client is another shard's, the sender's side is checked here and
//! the receiver's there ([`Relay::ToShard`]).
//!
//! Two things are stricter than the RFC. A channel carries data towards a peer only while there is
//! a permission as well (section 12 asks for one only in the other direction). And a permission for
//! an address of this server holds for the one port it names, because all clients' relayed
//! addresses differ in nothing else.
//!
//! Not here: TCP allocations (RFC 6062).

mod allocation;
mod cidr;
mod data;
mod handover;
mod hash;
mod icmp;
mod mobility;
mod owners;
mod pairs;
mod peers;
mod ports;
mod quota;
mod rate;
mod request;
mod slab;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use meetpoint_stun::Family;
use siphasher::sip::SipHasher13;

pub use cidr::{Cidr, ParseCidrError};
pub use handover::ShardMessage;
pub(crate) use handover::{Datagram, Message as Told};
pub(crate) use hash::ClientHasher;
pub(crate) use icmp::Icmp;
pub(crate) use quota::Quota;
pub use rate::ByteRate;
pub(crate) use rate::Spent;
pub(crate) use request::is_turn_request;
pub(crate) use table::{Due, Relays};

use crate::behaviour::Listeners;
use crate::config::{ConfigError, ListenerId, Transport};
use crate::counters::Traffic;
use crate::holder::Holder;
use crate::shared::ShardId;
use owners::Owners;
use peers::PeerRules;
use quota::Quotas;
use slab::Key;

/// The ports relayed addresses have if nothing else is said (RFC 8656, section 7.2: the dynamic
/// ports of RFC 6335).
pub const DEFAULT_PORTS: RangeInclusive<u16> = 49152..=65535;
/// Blocks in each of the two lists of peers: each is compared with every new peer.
pub const MAX_PEER_BLOCKS: usize = 256;
/// No lifetime is shorter than this unless the client ends it (RFC 8656, section 7.2).
pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// No lifetime is longer than this (RFC 8656, section 7.2 recommends it). So long an allocation may
/// outlive the credentials it was made with, and its permissions are renewed with those till then.
pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a permission lasts (RFC 8656, section 9).
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a channel stays bound (RFC 8656, section 12).
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// How long a reserved port waits (RFC 8656, section 7.2: at least 30 seconds).
pub(crate) const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);
/// How long the shell may take to open a socket. It takes microseconds; whoever waits longer than
/// this has given up asking.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Ports to try if the shell can't open one: another program may use a port of the range.
pub(crate) const MAX_OPEN_ATTEMPTS: u8 = 8;
/// The part of a [`SessionId`] that tells the allocations of a shard apart. There are ports for
/// fewer than 2^17; the rest is room for those that wait for theirs.
const INDEX_BITS: u32 = 24;
/// Allocations there may be at most, whatever the limits say.
const MAX_ALLOCATIONS: u32 = 1 << INDEX_BITS;

/// The address relayed addresses of a family have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayIp {
    /// The one to open sockets on.
    pub bind: IpAddr,
    /// The one peers know, which is another behind a cloud's 1:1 NAT.
    pub seen: IpAddr,
}

/// What relaying needs to know. How much is given to whom is in [`RelayLimits`].
#[derive(Debug, Clone, Default)]
pub struct RelayConfig {
    /// Where relayed IPv4 addresses are, if there are any.
    pub ipv4: Option<RelayIp>,
    /// Where relayed IPv6 addresses are, if there are any.
    pub ipv6: Option<RelayIp>,
    /// Their ports; [`DEFAULT_PORTS`] if nothing is said.
    pub ports: Option<RangeInclusive<u16>>,
    /// Addresses of this machine, as far as the shell knows them. Nobody is a peer there, except
    /// other clients at their relayed addresses. Those of listeners and relayed addresses need
    /// not be repeated.
    pub own_ips: Vec<IpAddr>,
    /// Where this machine listens besides [`crate::Config::listeners`]. No list allows these.
    pub own_listeners: Vec<SocketAddr>,
    /// Peers that are allowed although the rules deny them.
    pub allow: Vec<Cidr>,
    /// Peers that are denied, whatever else is said.
    pub deny: Vec<Cidr>,
    /// The shell can send a datagram that must not be fragmented. Without it DONT-FRAGMENT is
    /// answered as an attribute the server does not know (RFC 8656, section 7.2).
    pub dont_fragment: bool,
}

impl RelayConfig {
    pub(crate) fn validate(&self, limits: &RelayLimits) -> Result<(), ConfigError> {
        let is_of = |ip: Option<RelayIp>, family| {
            ip.is_none_or(|ip| {
                [ip.bind, ip.seen].iter().all(|ip| Family::of(*ip) == family)
                    && !ip.seen.is_unspecified()
                    && !ip.seen.is_multicast()
            })
        };
        let is_any = self.ipv4.is_some() || self.ipv6.is_some();
        if !is_any || !is_of(self.ipv4, Family::V4) || !is_of(self.ipv6, Family::V6) {
            return Err(ConfigError::RelayAddress);
        }
        if self.ports.as_ref().is_some_and(|ports| ports.is_empty() || *ports.start() == 0) {
            return Err(ConfigError::RelayPorts);
        }
        if self.allow.len() > MAX_PEER_BLOCKS || self.deny.len() > MAX_PEER_BLOCKS {
            return Err(ConfigError::PeerBlocks);
        }
        if limits.is_usable() { Ok(()) } else { Err(ConfigError::RelayLimits) }
    }
}

/// How much relaying is given to whom, over all shards. None of these is unlimited by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Allocations of one user, who is the part of a username behind its expiry. A browser opens
    /// one for each interface and transport it tries.
    pub allocations_per_user: u32,
    /// Allocations of one source, which is an IPv4 address or an IPv6 /64: a carrier's NAT has
    /// many clients.
    pub allocations_per_source: u32,
    /// Allocations of all. At 2 KB and a socket each, the default is what a small machine holds.
    pub allocations: u32,
    /// Permissions of one allocation.
    pub permissions: u16,
    /// Permissions of all. Most clients have one or two, so the default is eight for each
    /// allocation there may be: what a few could pile up at most is 3 MB.
    pub permissions_total: u32,
    /// Channels of one allocation.
    pub channels: u16,
    /// Channels of all, as for permissions: 6 MB.
    pub channels_total: u32,
    /// What one allocation relays, both ways together: 100 Mbit/s, more than a call or the uplink
    /// of most.
    pub rate: ByteRate,
    /// What one user's allocations relay: twice as much, since several of them are seldom busy at
    /// once.
    pub rate_per_user: ByteRate,
    /// What one source's allocations relay: half of what the server does, so that others have the
    /// other half.
    pub rate_per_source: ByteRate,
    /// What the server relays: 1 Gbit/s, which is what most machines' lines carry. A relay that
    /// fills its line delays what it shares the line with, and all that goes beyond is dropped
    /// anyhow, at random.
    pub rate_total: ByteRate,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            allocations_per_user: 16,
            allocations_per_source: 512,
            allocations: 8192,
            permissions: 128,
            permissions_total: 65_536,
            channels: 128,
            channels_total: 65_536,
            rate: ByteRate::new(12_500_000, 2_500_000),
            rate_per_user: ByteRate::new(25_000_000, 5_000_000),
            rate_per_source: ByteRate::new(62_500_000, 12_500_000),
            rate_total: ByteRate::new(125_000_000, 25_000_000),
        }
    }
}

/// What can change while a server relays: how much is given to whom, and who may be a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPolicy {
    /// How much.
    pub limits: RelayLimits,
    /// Peers that are allowed although the rules deny them.
    pub allow: Vec<Cidr>,
    /// Peers that are denied, whatever else is said.
    pub deny: Vec<Cidr>,
    /// The server waits for its end: what there is goes on and is refreshed, and there are no new allocations.
    pub is_draining: bool,
}

impl RelayLimits {
    const fn is_usable(&self) -> bool {
        self.allocations_per_user > 0
            && self.allocations_per_source > 0
            && self.allocations > 0
            && self.permissions > 0
            && self.permissions_total > 0
            && self.channels > 0
            && self.channels_total > 0
            && self.rate.is_usable()
            && self.rate_per_user.is_usable()
            && self.rate_per_source.is_usable()
            && self.rate_total.is_usable()
    }
}

/// What the shards of a server share of relaying.
pub(crate) struct SharedRelay {
    pub(crate) owners: Arc<Owners>,
    quotas: Arc<Quotas>,
    rules: PeerRules,
}

impl SharedRelay {
    pub(crate) fn new(
        config: &RelayConfig,
        limits: RelayLimits,
        listeners: &Listeners,
        hasher: SipHasher13,
    ) -> Self {
        let range = config.ports.clone().unwrap_or(DEFAULT_PORTS);
        let rules = PeerRules::new(config, (*range.start(), *range.end()), listeners);
        let owners = Owners::new(config, &range);
        rules.listening_ports().for_each(|port| owners.withhold(port));
        Self { owners: Arc::new(owners), quotas: Arc::new(Quotas::new(limits, hasher)), rules }
    }
}

/// Names a relay socket of the shell, from the order to open it until it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub(crate) Key);

impl RelayId {
    /// Smaller than the number of sockets that were ever open at once: an index for the shell.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

/// Names an allocation while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The session of this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// A number to tell others.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The shard that has it, and that is to be asked to end it.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> INDEX_BITS) as u8)
    }

    const fn of(shard: ShardId, key: Key) -> Self {
        Self((key.generation as u64) << 32 | (shard.0 as u64) << INDEX_BITS | key.index as u64)
    }

    const fn key(self) -> Key {
        Key { index: self.0 as u32 & (MAX_ALLOCATIONS - 1), generation: (self.0 >> 32) as u32 }
    }
}

/// An allocation, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session<'a> {
    /// Its name, for [`crate::Input::EndSession`].
    pub id: SessionId,
    /// Whose it is, without the expiry.
    pub user: &'a str,
    /// Where its client is.
    pub client: SocketAddr,
    /// The listener its client uses.
    pub listener: ListenerId,
    /// What carries its messages there.
    pub transport: Transport,
    /// Its relayed addresses, IPv4 first.
    pub relayed: [Option<SocketAddr>; 2],
    /// How long it lasts if its client is silent.
    pub lifetime_left: Duration,
    /// From the client to peers.
    pub to_peer: Traffic,
    /// From peers to the client.
    pub to_client: Traffic,
}

/// Where a packet goes next. It borrows the packet, so that it is copied once at most: into the
/// kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay<'a> {
    /// From a relayed address to a peer.
    ToPeer {
        /// The socket it leaves from.
        from: RelayId,
        /// The peer.
        to: SocketAddr,
        /// The whole datagram.
        payload: &'a [u8],
        /// The client wants it whole or not at all (RFC 8656, section 18.9).
        dont_fragment: bool,
    },
    /// From a listener to a client: `head`, `payload` and `tail` in one datagram, or one after the other
    /// in the client's stream.
    ToClient {
        /// The socket it leaves from.
        listener: ListenerId,
        /// The client.
        to: SocketAddr,
        /// What wraps the payload.
        head: Head,
        /// What the peer sent.
        payload: &'a [u8],
        /// Zeros that fill up the last attribute, or a stream's ChannelData.
        tail: &'static [u8],
    },
    /// From a relayed address to one of another shard, inside the machine: to be given to
    /// [`crate::StunServer::from_shard`] there. It may be lost, like any packet.
    ToShard {
        /// Whose the receiving address is.
        shard: ShardId,
        /// The sender's relayed address.
        from: SocketAddr,
        /// Whose that is.
        holder: Holder,
        /// The receiver's.
        to: SocketAddr,
        /// The whole datagram.
        payload: &'a [u8],
    },
}

/// The longest [`Head`]: a STUN header, XOR-PEER-ADDRESS with an IPv6 address, and the header of
/// DATA.
const MAX_HEAD_LEN: usize = 20 + 24 + 4;

/// What stands before relayed bytes: a ChannelData header, or a Data indication up to its DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; MAX_HEAD_LEN],
    len: u8,
}

impl std::ops::Deref for Head {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
