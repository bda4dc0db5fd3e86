//! Whether data flows between this node and a peer: by that the agent decides how closely to watch their way.
//!
//! QUIC tells nobody what it sends, so the packets are counted where they pass ([`crate::paths`]). A few of them now
//! and then are QUIC's own keepalives and no data. While packets go and none comes, the way may be dead, and long
//! before QUIC or consent would say so. Counts are looked at only while something flows.

use std::collections::BTreeMap;
use std::time::Duration;

use meetpoint_proto::NodeId;

/// Between two looks.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// Packets of one burst, received and sent, that may be a keepalive: its acknowledgement comes once, or a few times if
/// it was repeated, and while the way is dead it is repeated, two packets at a time, until the way is another one.
const KEEPALIVE: Flow = Flow { sent: 16, received: 3 };
/// Looks without a packet after which a burst is over.
const QUIET_TICKS: u32 = 4;
/// Looks in a row, each with sends behind it and no answer since, that make a peer unheard: an answer takes a round
/// trip, and a packet that was sent just before a look has had none of that time.
const UNHEARD_TICKS: u32 = 2;
/// Looks from which on an ongoing burst is told again: the agent forgets one after 15 s.
const TELL_TICKS: u32 = 10;

/// Packets counted since the peer has been known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flow {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What is to be done about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Data flows.
    Busy,
    /// Data goes, and nothing comes back.
    Unheard,
    /// Nothing flows any more: no further look is needed.
    Quiet,
}

#[derive(Debug, Default)]
struct Burst {
    seen: Flow,
    total: Flow,
    quiet: u32,
    unheard: u32,
    /// Looks since it was told.
    told: Option<u32>,
}

/// The bursts of all peers that data flows to.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    bursts: BTreeMap<NodeId, Burst>,
}

impl Usage {
    /// True while there is something to look at.
    pub(crate) fn is_watching(&self) -> bool {
        !self.bursts.is_empty()
    }

    /// Looks at all counts of peers that are watched.
    pub(crate) fn look(&mut self, flows: &BTreeMap<NodeId, Flow>) -> Vec<(NodeId, Told)> {
        self.bursts.retain(|peer, _| flows.contains_key(peer));
        let mut told = Vec::new();
        for (peer, flow) in flows {
            // What woke the watch was sent already.
            let seen = Flow { sent: flow.sent.saturating_sub(1), ..*flow };
            let burst = self.bursts.entry(*peer).or_insert(Burst { seen, ..Burst::default() });
            if let Some(what) = burst.look(*flow) {
                told.push((*peer, what));
            }
            if told.last() == Some(&(*peer, Told::Quiet)) {
                self.bursts.remove(peer);
            }
        }
        told
    }
}

impl Burst {
    fn look(&mut self, flow: Flow) -> Option<Told> {
        let sent = flow.sent.saturating_sub(self.seen.sent);
        let received = flow.received.saturating_sub(self.seen.received);
        self.seen = flow;
        (self.total.sent, self.total.received) = (self.total.sent + sent, self.total.received + received);
        self.quiet = if sent + received == 0 { self.quiet + 1 } else { 0 };
        self.unheard = match (sent, received) {
            (_, 1..) => 0,
            (0, 0) => self.unheard,
            (_, 0) => self.unheard + 1,
        };
        self.told = self.told.map(|looks| looks + 1).filter(|looks| *looks < TELL_TICKS);
        if self.unheard >= UNHEARD_TICKS {
            self.unheard = 0;
            return Some(Told::Unheard);
        }
        if self.quiet >= QUIET_TICKS {
            return Some(Told::Quiet);
        }
        let is_data = self.total.sent > KEEPALIVE.sent || self.total.received > KEEPALIVE.received;
        if is_data && sent + received > 0 && self.told.is_none() {
            self.told = Some(0);
            return Some(Told::Busy);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each look: packets sent and received since the last.
    #[test]
    fn what_the_packets_tell() {
        use Told::{Busy, Quiet, Unheard};
        type Looks = &'static [(u64, u64)];
        let cases: [(Looks, &[(usize, Told)]); 7] = [
            // A keepalive, answered; and one whose packets had to be repeated.
            (&[(1, 1), (0, 0), (0, 0), (0, 0), (0, 0)], &[(4, Quiet)]),
            (&[(1, 0), (2, 1), (0, 0), (0, 0), (0, 0), (0, 0)], &[(5, Quiet)]),
            // One by a way that has died, until it is met again.
            (
                &[(5, 0), (2, 0), (2, 0), (0, 0), (2, 1), (0, 0), (0, 0), (0, 0), (0, 0)],
                &[(0, Unheard), (2, Unheard), (8, Quiet)],
            ),
            // One packet a second, echoed.
            (&[(2, 2), (0, 0), (2, 2), (0, 0), (2, 2)], &[(2, Busy)]),
            // A transfer, told again after five seconds.
            (&[(50, 50); 12], &[(0, Busy), (10, Busy)]),
            // A dead way: QUIC repeats ever more slowly.
            (&[(20, 20), (5, 0), (2, 0), (0, 0), (1, 0), (1, 0)], &[(0, Busy), (2, Unheard), (5, Unheard)]),
            // An answer that is a little late.
            (&[(1, 0), (0, 1), (1, 0), (0, 1)], &[]),
        ];
        for (number, (looks, expect)) in cases.iter().enumerate() {
            let peer = NodeId::from_bytes([1; 32]);
            // Counted before the watch began.
            let mut flow = Flow { sent: 1_000, received: 900 };
            let mut usage = Usage::default();
            let mut told = Vec::new();
            for (at, (sent, received)) in looks.iter().enumerate() {
                flow.sent += sent;
                flow.received += received;
                if at == 0 {
                    // The watch is woken by the first packet, and has seen the others come.
                    let before = Flow { sent: flow.sent - sent + 1, received: flow.received - received };
                    usage.look(&BTreeMap::from([(peer, before)]));
                }
                told.extend(
                    usage.look(&BTreeMap::from([(peer, flow)])).into_iter().map(|(_, told)| (at, told)),
                );
            }
            assert_eq!(told, *expect, "case {number}");
        }
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut usage = Usage::default();
        usage.look(&BTreeMap::from([(NodeId::from_bytes([1; 32]), Flow { sent: 1, received: 0 })]));
        assert!(usage.is_watching());
        usage.look(&BTreeMap::new());
        assert!(!usage.is_watching());
    }
}
