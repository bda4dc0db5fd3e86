//! One allocation: what its client may send where, and how much.
//!
//! What has run out is still in the lists until the table looks at the allocation again, and is
//! never honoured: each question brings the time.

use std::net::SocketAddr;
use std::time::Instant;

use crate::answer::TurnError;
use crate::auth::KnownKey;
use crate::config::{ListenerId, Transport};
use crate::counters::Traffic;
use crate::defence::Defences;
use crate::holder::Holder;
use crate::message::TransactionId;
use crate::relay::RelayLimits;
use crate::relay::icmp;
use crate::relay::mobility::{MobilitySecret, NewPlace};
use crate::relay::owners::Parity;
use crate::relay::quota::{Denial, Quota, Seat};
use crate::relay::rate::{Meters, Spent};
use crate::relay::{CHANNEL_LIFETIME, Family, PERMISSION_LIFETIME, RelayId};

/// What an allocation waits for before it is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opening {
    /// The shell opens the sockets.
    Ports(OpeningPorts),
    /// Another shard was asked for the port it reserved.
    Claim,
}

/// Waiting for the shell to open the sockets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpeningPorts {
    /// Sockets that are not open yet.
    pub(crate) waiting: u8,
    pub(crate) attempts: u8,
    pub(crate) wanted: Wanted,
    /// The port behind an even one, which is reserved once both are open.
    pub(crate) spare: Option<RelayId>,
}

/// Which ports a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// By [`Family::index`].
    pub(crate) families: [bool; 2],
    pub(crate) parity: Parity,
}

#[derive(Debug, Clone, Copy)]
struct Permission {
    /// With port 0, unless it is for an address of this server.
    peer: SocketAddr,
    expires: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Instant,
}

/// An allocation (RFC 8656, section 3.2).
pub(crate) struct Allocation {
    pub(crate) listener: ListenerId,
    pub(crate) transport: Transport,
    /// Where its client is, as the socket says it.
    pub(crate) source: SocketAddr,
    pub(crate) known: KnownKey,
    pub(crate) holder: Holder,
    /// Of the Allocate request: a retransmission is answered like the first one.
    pub(crate) transaction_id: TransactionId,
    pub(crate) has_fingerprint: bool,
    pub(crate) opening: Option<Opening>,
    /// By [`Family::index`].
    pub(crate) relays: [Option<RelayId>; 2],
    /// The family that was asked for too and could not be had, and why.
    pub(crate) address_error: Option<(Family, TurnError)>,
    pub(crate) token: Option<[u8; 8]>,
    /// Its client may take it along ([`crate::relay::mobility`]).
    pub(crate) mobility: Option<MobilitySecret>,
    pub(crate) expires: Instant,
    /// What the answer to Allocate says.
    pub(crate) lifetime_s: u32,
    /// When the table looks at it next.
    pub(crate) due: Instant,
    pub(crate) to_peer: Traffic,
    pub(crate) to_client: Traffic,
    /// Sorted by peer.
    permissions: Vec<Permission>,
    /// Sorted by number.
    channels: Vec<Channel>,
    /// The same, sorted by peer.
    by_peer: Vec<(SocketAddr, u16)>,
    /// When what was relayed so far is paid for.
    empty_ns: u64,
    /// The same for ICMP.
    icmp_empty_ns: u64,
    /// What it is counted by, over all shards.
    seat: Seat,
}

/// What an allocation begins with.
pub(crate) struct Beginning {
    pub(crate) listener: ListenerId,
    pub(crate) transport: Transport,
    pub(crate) source: SocketAddr,
    pub(crate) known: KnownKey,
    pub(crate) holder: Holder,
    pub(crate) transaction_id: TransactionId,
    pub(crate) has_fingerprint: bool,
    pub(crate) lifetime_s: u32,
    pub(crate) mobility: Option<MobilitySecret>,
}

impl Allocation {
    /// A new one that lasts until `expires` if nothing more is heard.
    pub(crate) fn new(beginning: Beginning, seat: Seat, expires: Instant) -> Self {
        let Beginning {
            listener,
            transport,
            source,
            known,
            holder,
            transaction_id,
            has_fingerprint,
            lifetime_s,
            mobility,
        } = beginning;
        Self {
            listener,
            transport,
            source,
            known,
            holder,
            transaction_id,
            has_fingerprint,
            opening: None,
            relays: [None; 2],
            address_error: None,
            token: None,
            mobility,
            expires,
            lifetime_s,
            due: expires,
            to_peer: Traffic::default(),
            to_client: Traffic::default(),
            permissions: Vec::new(),
            channels: Vec::new(),
            by_peer: Vec::new(),
            empty_ns: 0,
            icmp_empty_ns: 0,
            seat,
        }
    }

    /// Counts it by the source of where its client is now, unless that has enough.
    pub(crate) fn reseat(&mut self, place: &NewPlace, defences: Defences) -> Result<(), Quota> {
        self.seat.move_to(place.source, defences)
    }

    /// Its client is there now.
    pub(crate) fn relocate(&mut self, place: NewPlace) {
        (self.listener, self.source) = (place.listener, place.source);
    }

    /// Installs or renews permissions: all or none of them.
    pub(crate) fn permit(
        &mut self,
        now: Instant,
        peers: &[SocketAddr],
        limits: &RelayLimits,
    ) -> Result<(), Denial> {
        self.prune(now);
        Ok(self.install(now, peers, limits)?)
    }

    fn install(&mut self, now: Instant, peers: &[SocketAddr], limits: &RelayLimits) -> Result<(), Quota> {
        let places = |all: &[Permission], peer: &SocketAddr| all.binary_search_by(|p| p.peer.cmp(peer));
        let added = peers.iter().filter(|peer| places(&self.permissions, peer).is_err()).count();
        self.seat.take_permissions(added, limits)?;
        self.permissions.reserve_exact(added);
        let expires = now + PERMISSION_LIFETIME;
        for peer in peers {
            match places(&self.permissions, peer) {
                Ok(at) => self.permissions[at].expires = expires,
                Err(at) => self.permissions.insert(at, Permission { peer: *peer, expires }),
            }
        }
        Ok(())
    }

    /// A permission does not outlive its allocation.
    #[inline]
    pub(crate) fn permits(&self, now: Instant, peer: SocketAddr) -> bool {
        let place = self.permissions.binary_search_by(|p| p.peer.cmp(&peer));
        now < self.expires && place.is_ok_and(|at| now < self.permissions[at].expires)
    }

    /// Binds a channel or renews it, with its permission: both or neither. A number has one peer
    /// and a peer one number (RFC 8656, section 12.2).
    pub(crate) fn bind(
        &mut self,
        now: Instant,
        number: u16,
        peer: SocketAddr,
        permission: SocketAddr,
        limits: &RelayLimits,
    ) -> Result<(), Denial> {
        self.prune(now);
        let expires = now + CHANNEL_LIFETIME;
        let place = self.channels.binary_search_by(|c| c.number.cmp(&number));
        let peer_place = self.by_peer.binary_search_by(|(p, _)| p.cmp(&peer));
        match (place, peer_place) {
            (Ok(at), Ok(_)) if self.channels[at].peer == peer => {
                self.install(now, &[permission], limits)?;
                self.channels[at].expires = expires;
            }
            (Err(at), Err(peer_at)) => {
                self.seat.take_channel(limits)?;
                if let Err(quota) = self.install(now, &[permission], limits) {
                    self.seat.keep(self.permissions.len(), self.channels.len());
                    return Err(quota.into());
                }
                // Most clients have one channel or a few; doubling would begin with four.
                self.channels.reserve_exact(1);
                self.by_peer.reserve_exact(1);
                self.channels.insert(at, Channel { number, peer, expires });
                self.by_peer.insert(peer_at, (peer, number));
            }
            _ => return Err(TurnError::BadRequest.into()),
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn peer_of(&self, now: Instant, number: u16) -> Option<SocketAddr> {
        let at = self.channels.binary_search_by(|c| c.number.cmp(&number)).ok()?;
        let channel = &self.channels[at];
        (now < channel.expires).then_some(channel.peer)
    }

    #[inline]
    pub(crate) fn channel_of(&self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let at = self.by_peer.binary_search_by(|(p, _)| p.cmp(&peer)).ok()?;
        let number = self.by_peer[at].1;
        self.peer_of(now, number).map(|_| number)
    }

    /// Pays for so many bytes, if there is enough left.
    #[inline]
    pub(crate) fn take(&mut self, meters: &mut Meters, now_ns: u64, bytes: usize) -> Result<(), Spent> {
        let bytes = bytes as u64;
        let next = meters.allocation.next(self.empty_ns, now_ns, bytes);
        let empty_ns = next.ok_or(Spent::Allocation)?;
        self.seat.cover(meters, now_ns, bytes)?;
        self.seat.spend(meters, bytes);
        self.empty_ns = empty_ns;
        Ok(())
    }

    /// Takes one report of ICMP's, if there is one left.
    pub(crate) fn take_icmp(&mut self, now_ns: u64) -> bool {
        let next = icmp::RATE.next(self.icmp_empty_ns, now_ns);
        self.icmp_empty_ns = next.unwrap_or(self.icmp_empty_ns);
        next.is_some()
    }

    /// True if a datagram to this peer is one that its client can forbid to fragment. Between two
    /// IP versions, and between two addresses of IPv6, the attribute is ignored (RFC 8656,
    /// sections 13 and 14); what came in a stream had no packet to go by (section 15).
    pub(crate) fn obeys_dont_fragment(&self, peer: SocketAddr) -> bool {
        let is_ipv4 = self.source.ip().to_canonical().is_ipv4() && peer.is_ipv4();
        self.transport.is_stream() || is_ipv4
    }

    /// Forgets what has run out.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.permissions.retain(|permission| now < permission.expires);
        if self.channels.iter().any(|channel| channel.expires <= now) {
            self.channels.retain(|channel| now < channel.expires);
            let channels = &self.channels;
            self.by_peer.retain(|(_, number)| channels.binary_search_by(|c| c.number.cmp(number)).is_ok());
        }
        self.seat.keep(self.permissions.len(), self.channels.len());
    }

    /// When something of it runs out next.
    pub(crate) fn next_due(&self) -> Instant {
        let permissions = self.permissions.iter().map(|permission| permission.expires);
        let channels = self.channels.iter().map(|channel| channel.expires);
        permissions.chain(channels).fold(self.expires, Instant::min)
    }
}
