//! Finds out what NAT the node sits behind (RFC 5780), from a socket of its own.
//!
//! A fresh port has no history: no packet of it ever opened the NAT for the server's alternate
//! address. The filtering tests run first and all at once, since none of them spoils another: each
//! goes to the primary address. Only then the mapping tests may touch the alternate one. Where the
//! mapping depends on the destination, more fresh ports show how the NAT chooses
//! ([`crate::allocator`]).
//!
//! The answers that a filter has kept out came early: where they have moved the mappings towards their
//! senders, and no other, the NAT is not symmetric but one that early packets confuse.
//!
//! A block's ports may serve several destinations each, or one. Two mappings of sixteen rarely share a port either way,
//! so after the verdict further sockets are mapped, one after the other, until two share one, or should have by far.
//!
//! A hint of the server's (another node behind the same NAT is said to be symmetric) turns the order round: the mapping
//! is looked at first, and the ports are told before the filter has had the time to be silent. The filter is then
//! looked at from the last of the fresh ports. If the hint was wrong everything is done again in the usual order; no
//! verdict rests on it.
//!
//! When all is told the routers on the way are asked who they are ([`route`]).
//!
//! Verdicts are only about what the server's addresses allow to tell; the rest stays `None`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::addr::{self, AddressClass};
use meetpoint_proto::wire::{ClientMessage, StunServer};
use meetpoint_proto::{Allocator, Filtering, Mapping, NatBehavior};

use crate::allocator;
use crate::api::{Event, Output};
use crate::env::{Env, whole_seconds};
use crate::network::Network;
use crate::stun::{self, Class, Datagram, TransactionId};

/// When copies of a test's request are sent, counted from the first. Silence is an answer here, so
/// it has to be trusted: at 25 % loss each way five copies leave 2 % for a wrong one.
const SCHEDULE_MS: [u64; 5] = [0, 80, 180, 300, 420];
/// How long after the last copy silence counts: three round trips, at least and at most this.
const GRACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1_500));
/// The round trip that is assumed until one was measured.
const ASSUMED_RTT: Duration = Duration::from_millis(500);
/// For the shell to make the socket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Sockets besides the first that show how ports are chosen: with four destinations sixteen mappings in a row, of
/// which all but the ends of a block can be told.
const MORE_SOCKETS: usize = 3;
/// A block is looked at until so many of its ports should have come twice by chance, if they may: that none has happens
/// once in 150 times then. For a block of 1,024 ports that takes thirty sockets, and an eighth of the block.
const EXPECTED_REPEATS: usize = 5;
/// Sockets for that besides the first. A block that is too large for them is large enough.
const MOST_SOCKETS: usize = 44;
/// All mappings of one socket, in the order in which the NAT is asked for them.
const DESTINATIONS: [Test; 4] = [Test::Baseline, Test::ToOtherIp, Test::ToOtherBoth, Test::ToOtherPort];

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    /// Is there an answer at all, and what is the mapping towards the primary address?
    Baseline,
    /// Does an answer from an address get in to which nothing was sent?
    FromOtherIp,
    /// And one from another port of the address that was asked?
    FromOtherPort,
    /// The mapping towards the alternate address and the main port.
    ToOtherIp,
    /// The mapping towards the alternate address and the alternate port.
    ToOtherBoth,
    /// The mapping towards the primary address and the alternate port.
    ToOtherPort,
    /// Does a packet to the own external address come back?
    Hairpin,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// An answer with this mapping.
    Mapped(SocketAddr),
    /// Silence.
    Silent,
    /// The server can't do this test.
    Untold,
}

#[derive(Debug)]
struct Running {
    id: TransactionId,
    started: Instant,
    sent: usize,
}

impl Running {
    /// When to send the next copy, or to take silence for an answer.
    fn deadline(&self, grace: Duration) -> Instant {
        let offset = |at: usize| Duration::from_millis(SCHEDULE_MS[at.min(SCHEDULE_MS.len() - 1)]);
        if self.sent < SCHEDULE_MS.len() {
            self.started + offset(self.sent)
        } else {
            self.started + offset(self.sent) + grace
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening {
        give_up: Instant,
    },
    Filtering,
    Mapping,
    /// More mappings, from a further socket.
    Ports,
    Done,
}

/// One discovery.
#[derive(Debug)]
pub(crate) struct Discovery {
    server: StunServer,
    phase: Phase,
    /// The port that the first socket has here.
    local_port: Option<u16>,
    /// Further sockets asked for.
    more_sockets: usize,
    running: BTreeMap<Test, Running>,
    outcomes: BTreeMap<Test, Outcome>,
    rtt: Option<Duration>,
    /// The address under which the internet sees the first socket, if a NAT has given it.
    external: Option<IpAddr>,
    /// What the first socket has shown.
    found: NatBehavior,
    /// External ports in the order in which they were given.
    ports: Vec<u16>,
    /// Pairs of mappings of two sockets to two destinations.
    pairs: usize,
    /// The two of some pair had the same port.
    has_repeats: bool,
    /// What was said so far.
    told: Option<NatBehavior>,
    /// The NAT is said to be symmetric.
    is_hinted: bool,
}

impl Discovery {
    /// Asks for the socket. The server's addresses must be resolved. `hint` is what somebody else has found.
    pub(crate) fn new(env: &mut Env, now: Instant, server: StunServer, hint: Option<NatBehavior>) -> Self {
        let mut discovery = Self::asleep(server);
        discovery.is_hinted = hint.and_then(|hint| hint.mapping).is_some_and(is_symmetric);
        discovery.open(env, now);
        discovery
    }

    fn asleep(server: StunServer) -> Self {
        Self {
            server,
            phase: Phase::Done,
            local_port: None,
            more_sockets: 0,
            running: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            rtt: None,
            external: None,
            found: NatBehavior::default(),
            ports: Vec::new(),
            pairs: 0,
            has_repeats: false,
            told: None,
            is_hinted: false,
        }
    }

    fn open(&mut self, env: &mut Env, now: Instant) {
        env.push(Output::OpenProbe { ipv6: self.server.primary.is_ipv6() });
        self.phase = Phase::Opening { give_up: now + OPEN_TIMEOUT };
    }

    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// What there is to tell was told.
    pub(crate) fn is_complete(&self) -> bool {
        let NatBehavior { mapping, filtering, .. } = self.found;
        mapping.is_some() && (filtering.is_some() || self.server.alternate_port.is_none())
    }

    /// What the first socket has shown of the mapping.
    pub(crate) fn mapping_found(&self) -> Option<Mapping> {
        self.found.mapping
    }

    /// What it found, and of which server's address it asked first.
    pub(crate) fn found(&self) -> (NatBehavior, SocketAddr) {
        (self.found, self.server.primary)
    }

    /// At most four tests run at once, so looking at each is no scan to speak of.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening { give_up } => Some(give_up),
            Phase::Done => None,
            Phase::Filtering | Phase::Mapping | Phase::Ports => {
                self.running.values().map(|test| test.deadline(self.grace())).min()
            }
        }
    }

    /// The socket is there, on this port; or there is none.
    pub(crate) fn opened(&mut self, env: &mut Env, now: Instant, port: Option<u16>) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        if self.more_sockets > 0 {
            let is_last = self.more_sockets == MORE_SOCKETS;
            self.phase = if self.is_hinted && is_last { Phase::Filtering } else { Phase::Ports };
            return match port {
                Some(_) if self.phase == Phase::Filtering => self.start(env, now, &self.filter_tests()),
                Some(_) => self.start(env, now, &self.destinations()),
                None => self.conclude(env),
            };
        }
        if port.is_none() {
            self.phase = Phase::Done;
            return;
        }
        self.local_port = port;
        let tests = if self.is_hinted { self.destinations() } else { self.filter_tests() };
        self.phase = if self.is_hinted { Phase::Mapping } else { Phase::Filtering };
        self.start(env, now, &tests);
    }

    fn filter_tests(&self) -> Vec<Test> {
        let mut tests = vec![Test::Baseline];
        tests.extend(self.server.alternate.map(|_| Test::FromOtherIp));
        tests.extend(self.server.alternate_port.map(|_| Test::FromOtherPort));
        tests
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env, network: &Network, now: Instant) {
        if let Phase::Opening { give_up } = self.phase
            && give_up <= now
        {
            return if self.more_sockets > 0 { self.conclude(env) } else { self.stop(env) };
        }
        let grace = self.grace();
        let due: Vec<Test> = self
            .running
            .iter()
            .filter(|(_, running)| running.deadline(grace) <= now)
            .map(|(test, _)| *test)
            .collect();
        for test in due {
            let Some(running) = self.running.get_mut(&test) else { continue };
            if running.sent < SCHEDULE_MS.len() {
                running.sent += 1;
                let id = running.id;
                self.transmit(env, test, id);
            } else {
                self.settle(test, Outcome::Silent);
            }
        }
        self.advance(env, network, now);
    }

    pub(crate) fn handle(
        &mut self,
        env: &mut Env,
        network: &Network,
        now: Instant,
        source: SocketAddr,
        datagram: &Datagram<'_>,
    ) {
        let found = self.running.iter().find(|(_, running)| running.id == datagram.id());
        let Some((&test, running)) = found else {
            env.counters.unsolicited += 1;
            return;
        };
        let rtt = now.saturating_duration_since(running.started);
        if test == Test::Hairpin {
            if datagram.class() == Class::Request {
                self.settle(test, Outcome::Mapped(source));
                self.advance(env, network, now);
            }
            return;
        }
        let outcome = match (datagram.class(), datagram.mapped()) {
            (Class::Success, Some(mapped)) if self.is_from_where_asked(test, source) => {
                Outcome::Mapped(mapped)
            }
            (Class::Success | Class::Error, _) => Outcome::Untold,
            (Class::Request | Class::Indication, _) => return,
        };
        if matches!(outcome, Outcome::Mapped(_)) {
            // An answer to a repeated request makes it look longer, never shorter.
            self.rtt = Some(self.rtt.map_or(rtt, |known| known.min(rtt)));
        }
        self.settle(test, outcome);
        if let (Phase::Filtering, Test::Baseline, Outcome::Mapped(mapped)) = (self.phase, test, outcome)
            && self.more_sockets == 0
            && !network.has_ip(mapped.ip())
            && addr::classify(mapped.ip()) == AddressClass::Public
        {
            self.start(env, now, &[Test::Hairpin]);
        }
        self.advance(env, network, now);
    }

    /// A server that ignores CHANGE-REQUEST would make every NAT look open.
    fn is_from_where_asked(&self, test: Test, source: SocketAddr) -> bool {
        let primary = self.server.primary;
        match test {
            Test::Baseline => source == primary,
            Test::FromOtherIp => Some(source.ip()) == self.server.alternate,
            Test::FromOtherPort => {
                source.ip() == primary.ip() && Some(source.port()) == self.server.alternate_port
            }
            Test::ToOtherIp | Test::ToOtherBoth | Test::ToOtherPort => self.target(test) == Some(source),
            Test::Hairpin => false,
        }
    }

    fn target(&self, test: Test) -> Option<SocketAddr> {
        let (primary, ip) = (self.server.primary, self.server.alternate);
        let port = self.server.alternate_port;
        match test {
            Test::Baseline | Test::FromOtherIp | Test::FromOtherPort => Some(primary),
            Test::ToOtherIp => Some(SocketAddr::new(ip?, primary.port())),
            Test::ToOtherBoth => Some(SocketAddr::new(ip?, port?)),
            Test::ToOtherPort => Some(SocketAddr::new(primary.ip(), port?)),
            Test::Hairpin => self.mapped(Test::Baseline),
        }
    }

    fn destinations(&self) -> Vec<Test> {
        DESTINATIONS.into_iter().filter(|test| self.target(*test).is_some()).collect()
    }

    fn start(&mut self, env: &mut Env, now: Instant, tests: &[Test]) {
        for &test in tests {
            let id = env.transaction_id();
            self.running.insert(test, Running { id, started: now, sent: 1 });
            self.transmit(env, test, id);
        }
    }

    fn transmit(&self, env: &mut Env, test: Test, id: TransactionId) {
        let Some(to) = self.target(test) else { return };
        let payload = match test {
            // With an alternate port the answer is to differ in both, as RFC 5780's test II.
            Test::FromOtherIp => stun::binding_changed(id, true, self.server.alternate_port.is_some()),
            Test::FromOtherPort => stun::binding_changed(id, false, true),
            Test::Baseline | Test::ToOtherIp | Test::ToOtherBoth | Test::ToOtherPort | Test::Hairpin => {
                stun::binding(id)
            }
        };
        env.transmit_probe(to, payload);
    }

    fn settle(&mut self, test: Test, outcome: Outcome) {
        self.running.remove(&test);
        self.outcomes.insert(test, outcome);
    }

    /// Goes on once all tests of a phase are settled. Without a baseline nothing can be told.
    fn advance(&mut self, env: &mut Env, network: &Network, now: Instant) {
        if !self.running.is_empty() {
            return;
        }
        let baseline = self.mapped(Test::Baseline);
        match (self.phase, baseline) {
            // The hint was right, and the last socket's filter is known now.
            (Phase::Filtering, _) if self.more_sockets > 0 => {
                self.found.filtering = baseline.and_then(|_| self.filtering());
                self.phase = Phase::Ports;
                self.start_mapping(env, now);
                if self.running.is_empty() {
                    self.next_socket(env, now);
                }
            }
            (Phase::Mapping, Some(_))
                if self.is_hinted && !self.mapping(network).is_some_and(is_symmetric) =>
            {
                self.start_over(env, now);
            }
            (Phase::Filtering, Some(mapped)) if !network.has_ip(mapped.ip()) => {
                self.phase = Phase::Mapping;
                self.start_mapping(env, now);
                if self.running.is_empty() {
                    self.judge(env, network, now);
                }
            }
            (Phase::Filtering | Phase::Mapping, Some(_)) => self.judge(env, network, now),
            (Phase::Filtering | Phase::Mapping, None) => self.stop(env),
            (Phase::Ports, _) => self.next_socket(env, now),
            (Phase::Opening { .. } | Phase::Done, _) => {}
        }
    }

    /// Where a socket is mapped to, towards all destinations that it was not asked for yet.
    fn start_mapping(&mut self, env: &mut Env, now: Instant) {
        let mut tests = self.destinations();
        tests.retain(|test| *test != Test::Baseline);
        self.start(env, now, &tests);
    }

    /// The hint was wrong: a fresh socket, and the usual order.
    fn start_over(&mut self, env: &mut Env, now: Instant) {
        self.is_hinted = false;
        self.outcomes.clear();
        env.push(Output::CloseProbe);
        self.open(env, now);
    }

    /// The first socket has told what it can.
    fn judge(&mut self, env: &mut Env, network: &Network, now: Instant) {
        let mapping = self.mapping(network);
        let is_translated = mapping.is_none_or(|mapping| mapping != Mapping::None);
        self.external = self.mapped(Test::Baseline).map(|mapped| mapped.ip()).filter(|_| is_translated);
        let is_fixed = mapping == Some(Mapping::EndpointIndependent);
        let baseline = self.mapped(Test::Baseline).map(|mapped| mapped.port());
        let keeps = is_fixed && baseline.is_some() && baseline == self.local_port;
        self.found = NatBehavior {
            mapping,
            filtering: self.filtering(),
            allocator: keeps.then_some(Allocator::Preserving),
            hairpin: self
                .outcomes
                .get(&Test::Hairpin)
                .filter(|_| is_fixed)
                .map(|outcome| matches!(outcome, Outcome::Mapped(_))),
            early_inbound: self.early_inbound().filter(|_| is_fixed),
            port_reuse: None,
            lifetime_s: None,
            double_nat: None,
            depth: None,
            udp_blocked: false,
        };
        match mapping {
            Some(Mapping::AddressDependent | Mapping::AddressAndPortDependent) => self.next_socket(env, now),
            Some(Mapping::None | Mapping::EndpointIndependent) | None => self.conclude(env),
        }
    }

    /// Notes the ports that this socket was given, and asks for another socket if there is more to learn.
    fn next_socket(&mut self, env: &mut Env, now: Instant) {
        let mut ports: Vec<u16> = Vec::new();
        for mapped in DESTINATIONS.into_iter().filter_map(|test| self.mapped(test)) {
            if !ports.contains(&mapped.port()) {
                ports.push(mapped.port());
            }
        }
        let destinations = self.destinations().len();
        self.pairs += ports.len() * self.ports.len() * destinations.saturating_sub(1) / destinations.max(1);
        self.has_repeats |= ports.iter().any(|port| self.ports.contains(port));
        self.ports.append(&mut ports);
        if self.more_sockets == MORE_SOCKETS {
            self.tell(env);
        }
        let is_in_doubt =
            || matches!(self.allocator(), Some(Allocator::Block { .. })) && self.reuse().is_none();
        if self.more_sockets >= MORE_SOCKETS && (self.more_sockets >= MOST_SOCKETS || !is_in_doubt()) {
            return self.conclude(env);
        }
        self.more_sockets += 1;
        if self.is_hinted && self.more_sockets == MORE_SOCKETS {
            let allocator = allocator::of(&self.ports);
            env.send(ClientMessage::Behavior { behavior: NatBehavior { allocator, ..self.found } });
        }
        self.outcomes.clear();
        env.push(Output::CloseProbe);
        self.open(env, now);
    }

    fn conclude(&mut self, env: &mut Env) {
        self.tell(env);
        env.trace_route(self.server.primary, self.external);
        self.stop(env);
    }

    /// Says what is known by now, if that is news.
    fn tell(&mut self, env: &mut Env) {
        let allocator = self.allocator();
        let is_block = matches!(allocator, Some(Allocator::Block { .. }));
        let port_reuse = self.reuse().filter(|_| is_block);
        let lifetime_s = env.keepalive.lifetime().map(whole_seconds);
        let (double_nat, depth) = (env.double_nat, env.route.depth());
        let behavior = NatBehavior { allocator, port_reuse, lifetime_s, double_nat, depth, ..self.found };
        self.found = behavior;
        if self.told.replace(behavior) != Some(behavior) {
            env.send(ClientMessage::Behavior { behavior });
            env.event(Event::Behavior(behavior));
        }
    }

    fn allocator(&self) -> Option<Allocator> {
        if self.ports.is_empty() { self.found.allocator } else { allocator::of(&self.ports) }
    }

    /// Whether a port serves several destinations: of one socket's mappings to several that tells nothing where the
    /// NAT looks at a part of the destination only, so those of different sockets are compared. Two of them towards one
    /// destination never share a port.
    fn reuse(&self) -> Option<bool> {
        let (first, last) = (self.ports.iter().min()?, self.ports.iter().max()?);
        let is_enough = self.pairs >= EXPECTED_REPEATS * (usize::from(last - first) + 1);
        if self.has_repeats { Some(true) } else { is_enough.then_some(false) }
    }

    pub(crate) fn stop(&mut self, env: &mut Env) {
        if self.phase != Phase::Done {
            env.push(Output::CloseProbe);
        }
        self.phase = Phase::Done;
        self.running.clear();
    }

    fn filtering(&self) -> Option<Filtering> {
        match (self.outcomes.get(&Test::FromOtherIp), self.outcomes.get(&Test::FromOtherPort)) {
            (Some(Outcome::Mapped(_)), _) => Some(Filtering::EndpointIndependent),
            (Some(Outcome::Silent), Some(Outcome::Mapped(_))) => Some(Filtering::AddressDependent),
            // Not even another port of an address that was sent to gets in.
            (_, Some(Outcome::Silent)) => Some(Filtering::AddressAndPortDependent),
            _ => None,
        }
    }

    fn mapping(&self, network: &Network) -> Option<Mapping> {
        let primary = self.mapped(Test::Baseline)?;
        if network.has_ip(primary.ip()) {
            return Some(Mapping::None);
        }
        let other_ip = self.mapped(Test::ToOtherIp);
        let other_both = self.mapped(Test::ToOtherBoth);
        let other_port = self.mapped(Test::ToOtherPort);
        match (other_ip, other_both, other_port) {
            (Some(ip), _, _) if ip == primary && self.early_inbound() == Some(true) => {
                Some(Mapping::EndpointIndependent)
            }
            (_, _, Some(port)) if port != primary => Some(Mapping::AddressAndPortDependent),
            (Some(ip), Some(both), _) if ip != both => Some(Mapping::AddressAndPortDependent),
            (Some(ip), _, _) if ip == primary => Some(Mapping::EndpointIndependent),
            (Some(_), Some(_), _) | (Some(_), None, Some(_)) => Some(Mapping::AddressDependent),
            (Some(_), None, None) | (None, ..) => None,
        }
    }

    /// The filtering tests' answers came from the alternate port of both addresses. If just the mappings
    /// towards those two are others than the one towards the primary address, and the alternate address with the main
    /// port sees the same as that, then it is by their coming early.
    fn early_inbound(&self) -> Option<bool> {
        let primary = self.mapped(Test::Baseline)?;
        let moved = |test: Test| Some(self.mapped(test)? != primary);
        match self.filtering()? {
            Filtering::EndpointIndependent => Some(false),
            Filtering::AddressDependent => moved(Test::ToOtherBoth),
            Filtering::AddressAndPortDependent => {
                Some(moved(Test::ToOtherBoth)? && moved(Test::ToOtherPort)? && !moved(Test::ToOtherIp)?)
            }
        }
    }

    fn mapped(&self, test: Test) -> Option<SocketAddr> {
        match self.outcomes.get(&test)? {
            Outcome::Mapped(addr) => Some(*addr),
            Outcome::Silent | Outcome::Untold => None,
        }
    }

    fn grace(&self) -> Duration {
        (self.rtt.unwrap_or(ASSUMED_RTT) * 3).clamp(GRACE.0, GRACE.1)
    }
}

/// One mapping for each destination, or for each address.
const fn is_symmetric(mapping: Mapping) -> bool {
    match mapping {
        Mapping::AddressDependent | Mapping::AddressAndPortDependent => true,
        Mapping::None | Mapping::EndpointIndependent => false,
    }
}

pub(crate) mod route;

#[cfg(test)]
mod tests;
