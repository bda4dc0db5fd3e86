//! What shards ask of each other.
//!
//! A client that redeems a reservation comes from another port than the one that made it
//! (RFC 8656, section 7.2), and so, as often as not, to another shard. The token's first byte says
//! which shard keeps the port. That shard is sent a claim; if the user is right it hands its socket
//! over, and the client's shard adopts it and answers. While the client waits, his allocation exists
//! without a port and counts for his quotas. A claim that is refused, or not answered in time
//! because a message was lost, ends with 508.
//!
//! So does a client that takes its allocation along ([`crate::relay::mobility`]).
//!
//! A message holds what it hands over: a port whose message is lost is free again.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_stun::Payload;

use crate::answer::TurnError;
use crate::holder::Holder;
use crate::relay::allocation::Opening;
use crate::relay::mobility::{Follow, Moved, NewPlace};
use crate::relay::owners::PortLease;
use crate::relay::ports::Port;
use crate::relay::slab::Key;
use crate::relay::table::Relays;
use crate::relay::{Relay, RelayId};
use crate::server::{Output, StunServer};
use crate::shared::ShardId;

/// What one shard tells another. The shell carries it, in a queue of bounded length; what does not
/// fit may be dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct ShardMessage(pub(crate) Message);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A client of another shard claims the port reserved under a token.
    Claim { by: ShardId, claim: Key, token: [u8; 8], user: Box<str> },
    /// The port is the claimant's.
    Granted { claim: Key, lease: PortLease },
    /// There is no such reservation, or it is somebody else's.
    Refused { claim: Key },
    /// A client of another shard bears a ticket of this one's.
    Follow(Box<Follow>),
    /// The allocation stays, because of this.
    Stayed { follow: Box<Follow>, error: TurnError },
    /// The allocation is the claimant's, and this is its first socket.
    Moved(Box<Moved>),
    /// The second socket of the allocation whose client is there.
    MovedToo { place: NewPlace, lease: PortLease },
    /// A datagram for a client of another shard, of a shell that has only outputs.
    Datagram(Box<Datagram>),
}

/// What [`Relay::ToShard`] borrows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) holder: Holder,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Payload,
}

impl StunServer {
    /// Takes a packet from another shard's relayed address `from` to `to`, which is one of this
    /// shard, with whose the first is: what [`Relay::ToShard`] said there. The sender's side of it was checked there.
    #[must_use = "what is to be relayed is sent by the caller"]
    pub fn from_shard<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        holder: Holder,
        to: SocketAddr,
        payload: &'a [u8],
    ) -> Option<Relay<'a>> {
        self.relays.as_mut()?.inside(now, (from, holder), to, payload, &mut self.counters.relay)
    }

    /// Takes in the socket that came with the message of an [`Output::HandOver`]. Returns the id to
    /// keep it under from now on, or nothing if it is to be closed because nobody waits for it any
    /// more.
    #[must_use = "the socket is the caller's"]
    pub fn adopt(&mut self, now: Instant, message: ShardMessage) -> Option<RelayId> {
        match message.0 {
            Message::Granted { claim, lease } => {
                let id = self.relays.as_mut()?.adopt(now, claim, lease)?;
                self.answer_allocate(claim);
                Some(id)
            }
            Message::Moved(moved) => self.take_in(now, *moved),
            Message::MovedToo { place, lease } => self.relays.as_mut()?.take_in_second(place, lease),
            Message::Claim { .. }
            | Message::Refused { .. }
            | Message::Follow(_)
            | Message::Stayed { .. }
            | Message::Datagram(_) => None,
        }
    }

    /// Does what another shard asks.
    pub(crate) fn shard_message(&mut self, now: Instant, message: ShardMessage) {
        match message.0 {
            Message::Claim { by, claim, token, user } => {
                let Some(relays) = &mut self.relays else { return };
                if !relays.hand_over_reserved(token, &user, by, claim) {
                    let message = ShardMessage(Message::Refused { claim });
                    self.push(Output::ToShard { shard: by, message });
                }
            }
            Message::Refused { claim } => {
                let refused = self.relays.as_mut().and_then(|relays| relays.give_up(claim));
                if let Some(allocation) = refused {
                    self.refuse_allocate(&allocation, TurnError::InsufficientCapacity);
                }
            }
            Message::Datagram(datagram) => {
                let Datagram { from, holder, to, payload } = *datagram;
                if let Some(relay) = self.from_shard(now, from, holder, to, &payload) {
                    self.push_relay(&relay);
                }
            }
            Message::Follow(follow) => self.followed(now, follow),
            Message::Stayed { follow, error } => self.stayed(&follow, error),
            // It came without its socket, which is then closed; the port is free again.
            Message::Granted { .. } | Message::Moved(_) | Message::MovedToo { .. } => {}
        }
    }
}

impl Relays {
    /// Gives a reserved port to the shard its user came to. False if there is none of his.
    fn hand_over_reserved(&mut self, token: [u8; 8], user: &str, to: ShardId, claim: Key) -> bool {
        let Some(id) = self.reserved(token, user) else { return false };
        self.forget_reservation(token);
        let Some(lease) = self.ports.remove(id) else { return false };
        lease.hand_to(to);
        self.hand_over(id, to, ShardMessage(Message::Granted { claim, lease }));
        true
    }

    /// Gives an allocation the port it claimed.
    fn adopt(&mut self, now: Instant, claim: Key, lease: PortLease) -> Option<RelayId> {
        let allocation = self.slab.get_mut(claim)?;
        let Some(Opening::Claim) = allocation.opening else { return None };
        let family = lease.family();
        let id = self.ports.insert(Port { lease, owner: Some(claim), is_open: true });
        allocation.relays[family.index()] = Some(id);
        self.begin(now, claim);
        Some(id)
    }

    /// Ends an allocation whose claim was refused.
    fn give_up(&mut self, claim: Key) -> Option<crate::relay::allocation::Allocation> {
        let is_waiting = matches!(self.slab.get(claim)?.opening, Some(Opening::Claim));
        if is_waiting { self.remove(claim) } else { None }
    }
}
