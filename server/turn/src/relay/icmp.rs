//! What the network says of a relayed datagram that did not get to its peer (RFC 8656,
//! section 11.5).
//!
//! Anybody can write an ICMP message, and the kernel only checks that it quotes a datagram of the
//! socket's. So it is passed on for peers with a permission only, and few of them a second: a client
//! that counted on more of it would be told by strangers when to give up.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_stun::Writer;

use crate::attr;
use crate::budget::Rate;
use crate::config::ListenerId;
use crate::counters::RelayCounters;
use crate::message::{Class, DATA, TransactionId};
use crate::relay::table::Relays;
use crate::relay::{Family, RelayId};

/// Indications an allocation is sent: one for each peer that a client tries at the same time.
pub(super) const RATE: Rate = Rate::new(10, 20);

/// An ICMP message about a datagram that left a relay socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Icmp {
    /// Where that datagram went.
    pub(crate) peer: SocketAddr,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) data: [u8; 4],
}

impl Icmp {
    /// True for the types that section 11.5 names.
    const fn is_told(&self, family: Family) -> bool {
        match family {
            // Destination unreachable, time exceeded (RFC 792).
            Family::V4 => matches!(self.kind, 3 | 11),
            // Destination unreachable, packet too big, time exceeded (RFC 4443).
            Family::V6 => matches!(self.kind, 1..=3),
        }
    }

    /// The next hop's MTU where there is one, and zero elsewhere (section 18.13).
    const fn error_data(&self, family: Family) -> [u8; 4] {
        match (family, self.kind, self.code) {
            (Family::V4, 3, 4) | (Family::V6, 2, _) => self.data,
            _ => [0; 4],
        }
    }
}

impl Relays {
    /// The Data indication that tells a client, and where it goes.
    pub(crate) fn icmp(
        &mut self,
        now: Instant,
        at: RelayId,
        icmp: Icmp,
        counters: &mut RelayCounters,
    ) -> Option<(ListenerId, SocketAddr, Writer)> {
        let peer = SocketAddr::new(icmp.peer.ip().to_canonical(), icmp.peer.port());
        let family = Family::of(peer.ip());
        // Whatever goes to one of our own relayed addresses does not pass through the network.
        if !icmp.is_told(family) || self.rules.is_inside(peer) {
            counters.dropped.icmp += 1;
            return None;
        }
        let now_ns = self.shared.nanos(now);
        let permission = self.rules.permission(peer);
        let owner = self.ports.get(at).and_then(|port| port.owner);
        let Some(allocation) = owner.and_then(|key| self.slab.get_mut(key)) else {
            counters.dropped.no_allocation += 1;
            return None;
        };
        if !allocation.permits(now, permission) {
            counters.dropped.no_permission += 1;
            return None;
        }
        if !allocation.take_icmp(now_ns) {
            counters.dropped.icmp += 1;
            return None;
        }
        counters.icmp += 1;
        self.indications = self.indications.wrapping_add(1);
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.indications.to_be_bytes());
        let mut writer = Writer::new(Class::Indication, DATA, TransactionId(id));
        writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        writer.icmp(icmp.kind, icmp.code, icmp.error_data(family));
        Some((allocation.listener, allocation.source, writer))
    }
}
