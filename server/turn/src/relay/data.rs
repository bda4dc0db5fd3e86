//! The way of a packet: from a client to a peer, from a peer to a client, and from client to
//! client inside the machine. Nothing here allocates or copies what is relayed.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use meetpoint_stun::{CHANNEL_HEADER_LEN, Family, read_channel_data, read_xor_address};

use crate::attr;
use crate::config::{ListenerId, Transport};
use crate::counters::RelayCounters;
use crate::defence::Defence;
use crate::holder::Holder;
use crate::message::{Class, DATA, HEADER_LEN, MAGIC_COOKIE, Message, message_type};
use crate::relay::allocation::Allocation;
use crate::relay::peers::Peer;
use crate::relay::slab::Key;
use crate::relay::table::Relays;
use crate::relay::{Head, MAX_HEAD_LEN, Relay, RelayId};

/// What fits a UDP datagram with the longest head before it.
const MAX_RELAYED_LEN: usize = 65_507 - MAX_HEAD_LEN - ZEROS.len();
/// What fills up DATA.
static ZEROS: [u8; 3] = [0; 3];

fn dropped<T>(counter: &mut u64) -> Option<T> {
    *counter += 1;
    None
}

impl Relays {
    /// ChannelData from a client (RFC 8656, section 12.6).
    pub(crate) fn channel_data<'a>(
        &mut self,
        now: Instant,
        listener: ListenerId,
        source: SocketAddr,
        datagram: &'a [u8],
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let Some(key) = self.find(listener, source) else {
            return dropped(&mut counters.dropped.no_allocation);
        };
        let Some((number, payload)) = read_channel_data(datagram) else {
            return dropped(&mut counters.dropped.malformed);
        };
        let Some(peer) = self.slab.get(key).and_then(|allocation| allocation.peer_of(now, number)) else {
            return dropped(&mut counters.dropped.no_channel);
        };
        self.forward(now, key, peer, payload, false, counters)
    }

    /// A Send indication from a client (RFC 8656, section 11.2).
    pub(crate) fn send<'a>(
        &mut self,
        now: Instant,
        listener: ListenerId,
        source: SocketAddr,
        message: &Message<'a>,
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let Some(key) = self.find(listener, source) else {
            return dropped(&mut counters.dropped.no_allocation);
        };
        let mut is_understood = true;
        let (mut peer, mut payload, mut dont_fragment) = (None, None, false);
        for attribute in message.attributes() {
            match attribute.kind {
                attr::XOR_PEER_ADDRESS => {
                    peer = peer.or_else(|| read_xor_address(attribute.value, message.transaction_id()));
                }
                attr::DATA => payload = payload.or(Some(attribute.value)),
                attr::DONT_FRAGMENT => dont_fragment = true,
                kind => {
                    is_understood &= !attr::is_comprehension_required(kind)
                        || attr::is_known_in_turn(kind, self.can_refuse_fragments);
                }
            }
        }
        is_understood &= !dont_fragment || self.can_refuse_fragments;
        let (Some(peer), Some(payload), true) = (peer, payload, is_understood) else {
            return dropped(&mut counters.dropped.malformed);
        };
        // A permission is for an address; this machine's own ones are judged port by port.
        if self.rules.is_here(peer.ip()) && self.rules.judge(peer, self.defences) == Peer::Forbidden {
            return dropped(&mut counters.dropped.forbidden);
        }
        // The client can ask for it only where it means something; elsewhere it is no error.
        let obeys = |allocation: &Allocation| allocation.obeys_dont_fragment(peer);
        let dont_fragment = dont_fragment && self.slab.get(key).is_some_and(obeys);
        self.forward(now, key, peer, payload, dont_fragment, counters)
    }

    fn forward<'a>(
        &mut self,
        now: Instant,
        key: Key,
        peer: SocketAddr,
        payload: &'a [u8],
        dont_fragment: bool,
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let permission = self.rules.permission(peer);
        let now_ns = self.shared.nanos(now);
        let allocation = self.slab.get_mut(key)?;
        if !allocation.permits(now, permission) {
            return dropped(&mut counters.dropped.no_permission);
        }
        let Some(from) = allocation.relays[Family::of(peer.ip()).index()] else {
            return dropped(&mut counters.dropped.forbidden);
        };
        if let Err(spent) = allocation.take(&mut self.meters, now_ns, payload.len()) {
            return dropped(counters.dropped.by_rate(spent));
        }
        let holder = allocation.holder;
        allocation.to_peer.count(payload.len());
        counters.to_peer.count(payload.len());
        if !self.rules.is_inside(peer) {
            return Some(Relay::ToPeer { from, to: peer, payload, dont_fragment });
        }
        let from = self.ports.get(from)?.lease.seen();
        match self.shared.shard_of(peer) {
            Some(shard) if shard != self.shard => {
                Some(Relay::ToShard { shard, from, holder, to: peer, payload })
            }
            _ => self.inside(now, (from, holder), peer, payload, counters),
        }
    }

    /// A packet between two relayed addresses, of which `to` is this shard's.
    pub(crate) fn inside<'a>(
        &mut self,
        now: Instant,
        (from, holder): (SocketAddr, Holder),
        to: SocketAddr,
        payload: &'a [u8],
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let Some(client) = self.ports.owner_of(to) else {
            return dropped(&mut counters.dropped.no_allocation);
        };
        let relay = self.deliver(now, client, from, Some(holder), payload, counters)?;
        counters.inside.count(payload.len());
        Some(relay)
    }

    /// A datagram from a peer, at a relay socket (RFC 8656, section 11.4).
    pub(crate) fn inbound<'a>(
        &mut self,
        now: Instant,
        at: RelayId,
        peer: SocketAddr,
        payload: &'a [u8],
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let Some(key) = self.ports.get(at).and_then(|port| port.owner) else {
            return dropped(&mut counters.dropped.no_allocation);
        };
        // Without flow label and scope, which a permission does not have.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // What claims to come from one of our own relayed addresses did not come this way: those
        // never leave the machine.
        if self.rules.is_inside(peer) {
            return dropped(&mut counters.dropped.forbidden);
        }
        self.deliver(now, key, peer, None, payload, counters)
    }

    /// Delivers to the client of `key` what a peer sent, who is `inside` if he is one of this server's
    /// clients too.
    fn deliver<'a>(
        &mut self,
        now: Instant,
        key: Key,
        peer: SocketAddr,
        inside: Option<Holder>,
        payload: &'a [u8],
        counters: &mut RelayCounters,
    ) -> Option<Relay<'a>> {
        let permission = self.rules.permission(peer);
        let now_ns = self.shared.nanos(now);
        let Some(allocation) = self.slab.get_mut(key) else {
            return dropped(&mut counters.dropped.no_allocation);
        };
        if !allocation.permits(now, permission) {
            return dropped(&mut counters.dropped.no_permission);
        }
        let may_meet = |from| self.pairs.may_meet(now, from, allocation.holder);
        if !inside.is_none_or(may_meet) && self.defences.stand(Defence::Introductions) {
            return dropped(&mut counters.dropped.not_introduced);
        }
        if payload.len() > MAX_RELAYED_LEN {
            return dropped(&mut counters.dropped.malformed);
        }
        if let Err(spent) = allocation.take(&mut self.meters, now_ns, payload.len()) {
            return dropped(counters.dropped.by_rate(spent));
        }
        allocation.to_client.count(payload.len());
        counters.to_client.count(payload.len());
        let (head, tail) = match allocation.channel_of(now, peer) {
            Some(number) => channel_head(number, payload.len(), allocation.transport),
            None => {
                self.indications = self.indications.wrapping_add(1);
                data_head(self.indications, peer, payload.len())
            }
        };
        Some(Relay::ToClient { listener: allocation.listener, to: allocation.source, head, payload, tail })
    }
}

/// A ChannelData header, and the zeros behind what it announces: in a stream the next message has
/// to start at a multiple of four (RFC 8656, section 12.5).
fn channel_head(number: u16, len: usize, transport: Transport) -> (Head, &'static [u8]) {
    let tail_len = if transport.is_stream() { len.next_multiple_of(4) - len } else { 0 };
    let mut bytes = [0; MAX_HEAD_LEN];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    (Head { bytes, len: CHANNEL_HEADER_LEN as u8 }, &ZEROS[..tail_len])
}

/// A Data indication up to what it carries, and the zeros behind that.
fn data_head(indication: u64, peer: SocketAddr, len: usize) -> (Head, &'static [u8]) {
    let tail = &ZEROS[..len.next_multiple_of(4) - len];
    let mut bytes = [0; MAX_HEAD_LEN];
    bytes[..2].copy_from_slice(&message_type(Class::Indication, DATA).to_be_bytes());
    bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
    bytes[12..HEADER_LEN].copy_from_slice(&indication.to_be_bytes());
    let mut mask = [0; 16];
    mask.copy_from_slice(&bytes[4..HEADER_LEN]);

    let family = Family::of(peer.ip());
    let ip_len = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let address = HEADER_LEN + 4;
    bytes[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&attr::XOR_PEER_ADDRESS.to_be_bytes());
    bytes[HEADER_LEN + 3] = 4 + ip_len as u8;
    bytes[address + 1] = family.number();
    bytes[address + 2..address + 4].copy_from_slice(&peer.port().to_be_bytes());
    let ip = &mut bytes[address + 4..address + 4 + ip_len];
    match peer.ip() {
        IpAddr::V4(peer) => ip.copy_from_slice(&peer.octets()),
        IpAddr::V6(peer) => ip.copy_from_slice(&peer.octets()),
    }
    let port = bytes[address + 2..address + 4].iter_mut();
    port.zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    let ip = bytes[address + 4..address + 4 + ip_len].iter_mut();
    ip.zip(mask).for_each(|(byte, mask)| *byte ^= mask);

    let data = address + 4 + ip_len;
    bytes[data..data + 2].copy_from_slice(&attr::DATA.to_be_bytes());
    bytes[data + 2..data + 4].copy_from_slice(&(len as u16).to_be_bytes());
    let head_len = data + 4;
    let body_len = (head_len - HEADER_LEN + len + tail.len()) as u16;
    bytes[2..4].copy_from_slice(&body_len.to_be_bytes());
    (Head { bytes, len: head_len as u8 }, tail)
}
