//! Dial-back probes: a datagram from an address the target has never sent to. If it arrives, the
//! target is publicly reachable.
//!
//! The probe is a STUN Binding indication that carries a nonce only the target's session knows
//! ([`crate::attr::MEETPOINT_NONCE`]), so it asks for no answer and anything else that listens
//! there ignores it. Datagrams get lost, so it is sent three times within 600 ms.
//!
//! What keeps it from being a scanner or a flood: the caller names only observed addresses, one
//! target has one probe running at a time, and the table is bounded. A refused probe is counted
//! and nothing else: a dial-back may always get lost. A new probe of a target that is being probed
//! takes over what is left of the running one: the newest nonce is the one somebody waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::ListenerId;

/// The times between the copies of a probe: it is sent at 0, 200 and 600 ms.
const GAPS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(400)];
/// Probes running at once. Each lasts 600 ms, so this is some 400 new nodes a second.
pub(crate) const MAX_RUNNING: usize = 256;
/// Probes running at once towards one address: nodes behind one NAT may join together, but a
/// walk over somebody's ports has to be slow.
pub(crate) const MAX_RUNNING_PER_ADDRESS: usize = 4;

/// A probe to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) from: ListenerId,
    pub(crate) to: SocketAddr,
    pub(crate) nonce: [u8; 16],
}

struct Running {
    probe: Probe,
    /// Copies already sent.
    sent: usize,
}

/// The probes under way.
#[derive(Default)]
pub(crate) struct DialBacks {
    running: BTreeMap<SocketAddr, Running>,
    due: BTreeSet<(Instant, SocketAddr)>,
}

impl DialBacks {
    /// Starts a probe, whose first copy is due at once, or hands the rest of the running one of its
    /// target to it. False if too many are running, in all or at the target's address.
    pub(crate) fn start(&mut self, now: Instant, probe: Probe) -> bool {
        if let Some(running) = self.running.get_mut(&probe.to) {
            running.probe = probe;
            return true;
        }
        let is_full =
            self.running.len() >= MAX_RUNNING || self.running_at(probe.to.ip()) >= MAX_RUNNING_PER_ADDRESS;
        if is_full {
            return false;
        }
        self.due.insert((now, probe.to));
        self.running.insert(probe.to, Running { probe, sent: 0 });
        true
    }

    fn running_at(&self, ip: IpAddr) -> usize {
        let first = SocketAddr::new(ip, 0);
        self.running.range(first..).take_while(|(to, _)| to.ip() == ip).count()
    }

    /// The next copy that is due, if any.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Probe> {
        let (at, to) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let running = self.running.get_mut(&to)?;
        let probe = running.probe;
        match GAPS.get(running.sent) {
            // Counted from now rather than from when it was due: a late timer does not bunch
            // the copies.
            Some(gap) => {
                self.due.insert((now + *gap, to));
                running.sent += 1;
            }
            None => {
                self.running.remove(&to);
            }
        }
        Some(probe)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

/// True for addresses a probe may go to and a question may come from: one host's, with a port.
pub(crate) fn is_one_host(addr: SocketAddr) -> bool {
    let is_group = match addr.ip() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    addr.port() != 0 && !is_group && !addr.ip().is_unspecified()
}
