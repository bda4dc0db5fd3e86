//! Carries out what [`crate::plan`] found: which socket sends where, and when.
//!
//! A guess is a check like any other, to a port at which nobody was observed. It goes to one IP address that was
//! observed, into the window of ports that the ticket names, at an even pace. Ports come in a seeded order in
//! which none repeats before all were asked.
//!
//! Only the schedule is here; sockets are the shell's and checks the ticket's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::wire::PortWindow;
use meetpoint_proto::{Allocator, NatBehavior};
use rand_chacha::rand_core::Rng;

use crate::api::{Leg, Way};
use crate::plan::{self, PROBES, Plan};

/// Between two guesses of a node, whatever it guesses: 667 packets of some 200 bytes a second, or 1 Mbit/s.
pub(crate) const GAP: Duration = Duration::from_micros(1_500);
/// How far the schedule may be behind before it gives up catching up: ten guesses at once.
const MAX_LATE: Duration = Duration::from_millis(15);
/// Nobody's NAT gives out a well-known port, whatever a ticket says.
const FIRST_PORT: u16 = 1_024;
/// How often all flows are gone through: a lost packet is made good by another round.
const ROUNDS: u32 = 2;
/// Where the peer's packets only open its NAT, because they would come too early here, this side guesses when all of
/// them are sent; the two may start so far apart.
const APART: Duration = Duration::from_millis(60);

/// How long the side that has opened so many sockets keeps still until the peer has guessed. A kernel's NAT that an
/// early packet has moved one mapping of goes on with the port it moved to: a single check that comes before the guess
/// at its source takes all guesses after that elsewhere.
pub(crate) fn guessed_after(sockets: u16) -> Duration {
    GAP * sockets.into() + APART * 2
}

/// What is known of the places where the peer may be.
pub(crate) struct Setting<'a> {
    /// What this node found out about its NAT.
    pub(crate) own: &'a NatBehavior,
    /// What the peer did.
    pub(crate) peer: &'a NatBehavior,
    /// Where the ticket allows to guess.
    pub(crate) window: Option<PortWindow>,
    /// Where the peer was observed.
    pub(crate) observed: SocketAddr,
}

/// One guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) way: Way,
    /// The packet is to open this node's NAT, and must not reach the peer's.
    pub(crate) is_opener: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Guesses {
    /// Extra sockets: the first, and how many; none stands for the main socket.
    first_socket: u16,
    sockets: u16,
    ip: IpAddr,
    /// Ports: the first, the distance between two, how many, and in which order.
    first_port: u16,
    step: u16,
    ports: u32,
    stride: u32,
    offset: u32,
    openers: bool,
    sent: u32,
    total: u32,
    next: Instant,
}

impl Guesses {
    /// The schedule of a plan that needs one, and how many sockets it needs. `None` for the others, and if the ticket
    /// names no window.
    pub(crate) fn new(plan: Plan, setting: &Setting<'_>, start: Instant, rng: &mut impl Rng) -> Option<Self> {
        let &Setting { own, peer, observed, .. } = setting;
        let observed_only = Self {
            first_socket: 0,
            sockets: 0,
            ip: observed.ip(),
            first_port: observed.port(),
            step: 0,
            ports: 1,
            stride: 1,
            offset: 0,
            openers: false,
            sent: 0,
            total: 0,
            next: start,
        };
        let mut guesses = match plan {
            Plan::Checks | Plan::Relay(_) => return None,
            Plan::Spread { sockets } => {
                Self { sockets, openers: peer.early_inbound == Some(true), ..observed_only }
            }
            Plan::Guess { ports } => {
                let is_sequence = matches!(peer.allocator, Some(Allocator::Sequential { .. }));
                let next = match plan::plan(Some(peer), Some(own)) {
                    Plan::Spread { sockets } if own.early_inbound == Some(true) => {
                        start + GAP * sockets.into() + APART
                    }
                    _ => start,
                };
                let guesses = Self { next, ..observed_only }.among(setting, ports)?;
                if is_sequence { guesses } else { guesses.shuffled(rng) }
            }
            Plan::Cross { sockets } => {
                let middle = Self { sockets, ..observed_only }.among(setting, sockets)?;
                let port = middle.port(u32::from(sockets / 2));
                Self { first_port: port, ports: 1, ..middle }
            }
            Plan::Grid { sockets, ports } => {
                Self { sockets, ..observed_only }.among(setting, ports)?.shuffled(rng)
            }
        };
        // What opens only is done once; two blocks take the whole life of a ticket.
        let is_once = guesses.openers || matches!(plan, Plan::Grid { .. });
        guesses.total = guesses.flows() * if is_once { 1 } else { ROUNDS };
        Some(guesses)
    }

    /// At the first ports of the window, of which there may be fewer.
    fn among(self, setting: &Setting<'_>, most: u16) -> Option<Self> {
        let mut window = setting.window?;
        window.first = window.first.max(FIRST_PORT);
        if window.first > window.last {
            return None;
        }
        let step = match setting.peer.allocator {
            Some(Allocator::Sequential { delta, .. }) => delta.max(1),
            _ => 1,
        };
        // Of all ports any are as good as others, so they are chosen among all.
        let is_anywhere = setting.peer.allocator == Some(Allocator::Random);
        let most = if is_anywhere { u32::from(u16::MAX) } else { u32::from(most.min(PROBES)) };
        let ports = (u32::from(window.last - window.first) / u32::from(step) + 1).min(most);
        Some(Self { ip: window.ip, first_port: window.first, step, ports, ..self })
    }

    /// Any stride that shares no divisor with the number of ports comes by all of them.
    fn shuffled(self, rng: &mut impl Rng) -> Self {
        let ports = self.ports;
        let mut stride = rng.next_u32() % ports + 1;
        while gcd(stride, ports) != 1 {
            stride = stride % ports + 1;
        }
        Self { stride, offset: rng.next_u32() % ports, ..self }
    }

    fn flows(&self) -> u32 {
        self.ports.min(PROBES.into()) * u32::from(self.sockets.max(1))
    }

    /// How many extra sockets it needs.
    pub(crate) fn sockets(&self) -> u16 {
        self.sockets
    }

    /// The sockets are numbered from here.
    pub(crate) fn set_first_socket(&mut self, number: u16) {
        self.first_socket = number;
    }

    /// So many of the sockets are there.
    pub(crate) fn opened(&mut self, first: u16, sockets: u16) {
        if first == self.first_socket && sockets < self.sockets {
            let rounds = self.total / self.flows();
            self.sockets = sockets;
            self.total = if sockets == 0 { 0 } else { self.flows() * rounds };
        }
    }

    /// No more guesses.
    pub(crate) fn stop(&mut self) {
        self.total = 0;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.sent < self.total).then_some(self.next)
    }

    /// The next guess, if it is due.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Flow> {
        if self.sent >= self.total || now < self.next {
            return None;
        }
        let number = self.sent % self.flows();
        let asked = self.ports.min(PROBES.into());
        let (place, socket) = (number % asked, number / asked);
        self.sent += 1;
        self.next = (self.next + GAP).max(now.checked_sub(MAX_LATE).unwrap_or(now));
        let leg = match self.sockets {
            0 => Leg::Main,
            _ => Leg::Extra(self.first_socket.wrapping_add(socket as u16)),
        };
        let remote = SocketAddr::new(self.ip, self.port(place));
        Some(Flow { way: Way { leg, remote }, is_opener: self.openers })
    }

    fn port(&self, place: u32) -> u16 {
        let at = (u64::from(self.offset) + u64::from(place) * u64::from(self.stride)) % u64::from(self.ports);
        let port = u64::from(self.first_port) + at * u64::from(self.step);
        u16::try_from(port).unwrap_or(u16::MAX)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use meetpoint_proto::Mapping;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::testing::start_of_time;

    fn flows(plan: Plan, allocator: Allocator, window: (u16, u16)) -> Vec<(Instant, Way)> {
        let behavior = NatBehavior {
            mapping: Some(Mapping::AddressAndPortDependent),
            allocator: Some(allocator),
            ..NatBehavior::default()
        };
        let ip: IpAddr = [20, 0, 0, 7].into();
        let setting = Setting {
            own: &behavior,
            peer: &behavior,
            window: Some(PortWindow { ip, first: window.0, last: window.1 }),
            observed: SocketAddr::new(ip, 7_000),
        };
        let start = start_of_time();
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut guesses = Guesses::new(plan, &setting, start, &mut rng).unwrap();
        guesses.set_first_socket(u16::MAX - 1);
        let mut found = Vec::new();
        while let Some(now) = guesses.deadline() {
            while let Some(flow) = guesses.next_due(now) {
                found.push((now, flow.way));
            }
        }
        found
    }

    fn counts(flows: &[(Instant, Way)]) -> (usize, usize, usize) {
        let ports: BTreeSet<u16> = flows.iter().map(|(_, way)| way.remote.port()).collect();
        let legs: BTreeSet<Leg> = flows.iter().map(|(_, way)| way.leg).collect();
        (flows.len(), legs.len(), ports.len())
    }

    #[test]
    fn guesses_are_bounded_and_paced() {
        let random = Allocator::Random;
        let block = Allocator::Block { first: 40_000, last: 40_900 };
        let sequence = Allocator::Sequential { delta: 2, newest: 5_000 };
        let (all, some) = ((1_024, 65_535), (39_900, 41_050));
        let cases = [
            (Plan::Spread { sockets: 512 }, random, all, (1_024, 512, 1)),
            (Plan::Guess { ports: PROBES }, random, all, (2_400, 1, 1_200)),
            (Plan::Guess { ports: PROBES }, block, some, (2_302, 1, 1_151)),
            (Plan::Guess { ports: 128 }, sequence, (5_002, 7_400), (256, 1, 128)),
            (Plan::Cross { sockets: 64 }, sequence, (5_002, 7_400), (128, 64, 1)),
            (Plan::Grid { sockets: 3, ports: PROBES }, block, some, (3_453, 3, 1_151)),
        ];
        for (plan, allocator, window, expect) in cases {
            let flows = flows(plan, allocator, window);
            assert_eq!(counts(&flows), expect, "{plan:?}");
            assert!(flows.windows(2).all(|pair| pair[1].0 >= pair[0].0 + GAP), "{plan:?}");
            let in_window = |port: u16| (window.0..=window.1).contains(&port) || port == 7_000;
            assert!(flows.iter().all(|(_, way)| in_window(way.remote.port())), "{plan:?}");
        }
    }

    #[test]
    fn no_flow_repeats_within_a_round() {
        let block = Allocator::Block { first: 40_000, last: 40_900 };
        let flows = flows(Plan::Grid { sockets: 3, ports: PROBES }, block, (39_900, 41_050));
        let mut seen: BTreeMap<Way, u32> = BTreeMap::new();
        flows.iter().for_each(|(_, way)| *seen.entry(*way).or_default() += 1);
        assert!(seen.values().all(|count| *count == 1));
    }

    /// Both sides' sockets straddle the port that the other side sends to.
    #[test]
    fn sequences_are_asked_in_their_order() {
        let sequence = Allocator::Sequential { delta: 2, newest: 5_000 };
        let guessed = flows(Plan::Guess { ports: 128 }, sequence, (5_002, 7_400));
        let ports: Vec<u16> = guessed.iter().take(3).map(|(_, way)| way.remote.port()).collect();
        assert_eq!(ports, [5_002, 5_004, 5_006]);
        let crossed = flows(Plan::Cross { sockets: 64 }, sequence, (5_002, 7_400));
        assert_eq!(crossed[0].1.remote.port(), 5_000 + 2 * 33);
    }

    /// A shell that is late does not send all at once what it has missed.
    #[test]
    fn lateness_makes_no_burst() {
        let behavior = NatBehavior { allocator: Some(Allocator::Random), ..NatBehavior::default() };
        let ip: IpAddr = [20, 0, 0, 7].into();
        let setting =
            Setting { own: &behavior, peer: &behavior, window: None, observed: SocketAddr::new(ip, 7_000) };
        let (start, mut rng) = (start_of_time(), ChaCha20Rng::from_seed([3; 32]));
        let mut guesses = Guesses::new(Plan::Spread { sockets: 512 }, &setting, start, &mut rng).unwrap();
        let late = start + Duration::from_secs(1);
        assert!(guesses.next_due(late).is_some());
        let burst = std::iter::from_fn(|| guesses.next_due(late)).count();
        assert!(burst <= 11, "{burst}");
    }

    #[test]
    fn fewer_sockets_make_fewer_guesses() {
        let behavior = NatBehavior::default();
        let setting = Setting {
            own: &behavior,
            peer: &behavior,
            window: None,
            observed: SocketAddr::from(([20, 0, 0, 7], 7_000)),
        };
        for (opened, expect) in [(512, 1_024), (100, 200), (0, 0)] {
            let (start, mut rng) = (start_of_time(), ChaCha20Rng::from_seed([3; 32]));
            let mut guesses = Guesses::new(Plan::Spread { sockets: 512 }, &setting, start, &mut rng).unwrap();
            guesses.opened(0, opened);
            assert_eq!(guesses.total, expect);
        }
    }
}
