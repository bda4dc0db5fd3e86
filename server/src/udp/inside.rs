//! From shard to shard: packets between two clients of this server whom the kernel dealt to different
//! threads, and what the machines tell each other.
//!
//! What a round has for another shard goes there in one message. A shard whose inbox is full loses
//! it, as a line that is full loses packets.

use std::net::SocketAddr;

use meetpoint_turn::{Holder, ShardId};
use tracing::trace;

use super::inbox::{Inboxes, Message};

/// Bytes for one shard that wait; with more they leave before the round is over.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// A packet whose bytes are in the batch.
#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    holder: Holder,
    to: SocketAddr,
    len: usize,
}

/// Packets for the clients of one shard.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    packets: Vec<Packet>,
}

impl Batch {
    /// Gives each packet to `take`: from whom, whose that is, to whom, and what.
    pub(super) fn unpack(&self, mut take: impl FnMut(SocketAddr, Holder, SocketAddr, &[u8])) {
        let mut rest = self.bytes.as_slice();
        for packet in &self.packets {
            let Some((payload, others)) = rest.split_at_checked(packet.len) else { return };
            take(packet.from, packet.holder, packet.to, payload);
            rest = others;
        }
    }
}

/// The ways to the other shards.
pub(super) struct Neighbours {
    inboxes: Inboxes,
    /// At the index of the shard they are for.
    batches: Vec<Batch>,
}

impl Neighbours {
    pub(super) fn new(inboxes: Inboxes) -> Self {
        let batches = inboxes.iter().map(|_| Batch::default()).collect();
        Self { inboxes, batches }
    }

    /// Adds a packet from one relayed address to another.
    pub(super) fn push(
        &mut self,
        shard: ShardId,
        (from, holder): (SocketAddr, Holder),
        to: SocketAddr,
        payload: &[u8],
    ) {
        let Some(batch) = self.batches.get_mut(usize::from(shard.0)) else { return };
        batch.bytes.extend_from_slice(payload);
        batch.packets.push(Packet { from, holder, to, len: payload.len() });
        if batch.bytes.len() >= MAX_WAITING_BYTES {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        for (batch, inbox) in self.batches.iter_mut().zip(self.inboxes.iter()) {
            if !batch.packets.is_empty() && !inbox.try_send(Message::Inside(std::mem::take(batch))) {
                trace!("a shard is busy; relayed datagrams were dropped");
            }
        }
    }

    /// Tells another shard something that can be told again or times out.
    pub(super) fn tell(&self, shard: ShardId, message: Message) {
        let is_told = self.inboxes.at(shard).is_some_and(|inbox| inbox.try_send(message));
        if !is_told {
            trace!("a shard is busy; a message to it was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::Inbox;
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let (inbox, mut arrivals) = Inbox::new().unwrap();
        let (other, _other_arrivals) = Inbox::new().unwrap();
        let mut neighbours = Neighbours::new(Inboxes::new(vec![other, inbox]));
        let from: SocketAddr = "20.0.0.1:50000".parse().unwrap();
        let to: SocketAddr = "20.0.0.1:50001".parse().unwrap();
        let payloads: [&[u8]; 3] = [b"one", b"", b"three"];
        for payload in payloads {
            neighbours.push(ShardId(1), (from, Holder::Other), to, payload);
        }
        neighbours.flush();
        neighbours.flush();
        let Some(Message::Inside(batch)) = arrivals.next() else { panic!("nothing came") };
        let mut seen = Vec::new();
        batch.unpack(|from, holder, to, payload| seen.push((from, holder, to, payload.to_vec())));
        assert_eq!(seen, payloads.map(|payload| (from, Holder::Other, to, payload.to_vec())));
        assert!(arrivals.next().is_none(), "it was sent once");
    }

    #[test]
    fn nobody_waits_for_a_shard_that_is_gone() {
        let (inbox, arrivals) = Inbox::new().unwrap();
        drop(arrivals);
        let mut neighbours = Neighbours::new(Inboxes::new(vec![inbox]));
        let addr: SocketAddr = "20.0.0.1:50000".parse().unwrap();
        neighbours.push(ShardId(0), (addr, Holder::Other), addr, &vec![0; MAX_WAITING_BYTES]);
        neighbours.push(ShardId(7), (addr, Holder::Other), addr, b"there is no such shard");
        neighbours.flush();
    }
}
