//! One seed, one case: two nodes in some setting, the run, and the judgement.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::Input;
use meetpoint_proto::{Code, Evidence, Filtering, Mapping, NetworkClass};

use super::dice::Dice;
use super::gate::{GateKind, Ports};
use super::oracle::{self, Verdict};
use super::world::{ServerPlace, Weather, World};

/// All mappings, `None` standing for public addresses.
pub const MAPPINGS: [Mapping; 4] = [
    Mapping::None,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];
/// All filters.
pub const FILTERS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
const PORTS: [Ports; 3] = [Ports::Preserved, Ports::Sequential(1), Ports::Random];

/// A connect request has ended by then: waiting for candidates takes 5 s, a ticket 10 s.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// From the start until both are classified and know their NAT.
const WARM_LIMIT: Duration = Duration::from_secs(15);
/// Attempts in lossy weather.
const ATTEMPTS: u32 = 3;
/// How long a path is watched after it was found: longer than consent lasts.
const WATCH: Duration = Duration::from_secs(35);
/// Until silence has killed a path that no data goes by.
const CONSENT_LIMIT: Duration = Duration::from_secs(32);
/// From the loss of a path until it is back: noticing takes up to 30 s, and a ticket that comes before
/// the new mapping was observed may run out for nothing.
const REPAIR_LIMIT: Duration = Duration::from_secs(60);
/// Datagrams of one node for one ticket: its own checks, answers to as many of the peer's, and
/// what it says to the server meanwhile.
const MAX_SENT: u64 = 2 * 128 + 100;

/// Guesses of one node for one ticket, besides.
const GUESSED: u64 = 3 * (2 * 1_200 + 200);

static NODE_KEYS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [1, 2].map(|n| SigningKey::from_bytes(&[n; 32])));

/// Where the two nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Each behind a gate of its own.
    TwoSites(GateKind, GateKind),
    /// Both behind one gate.
    OneSite(GateKind),
    /// On one link with the server, which is private.
    PrivateLan,
    /// On one machine with the server.
    Loopback,
}

/// What happens once a path was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// The case ends.
    None,
    /// Nothing, for a while.
    Time,
    /// Node 0 loses its control connection.
    CutControl,
    /// The gate of node 0 restarts.
    RestartGate,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it was made of.
    pub seed: u64,
    /// Where.
    pub setting: Setting,
    /// How far and how lossy.
    pub weather: Weather,
    /// The nodes have been classified before one asks for the other.
    pub warm: bool,
    /// How long they then rest before that: mappings must be kept alive.
    pub rest: Duration,
    /// Both ask for each other at once.
    pub mutual: bool,
    /// What the path has to stand.
    pub trial: Trial,
    /// Both LANs have the same addresses.
    pub twin_lans: bool,
    /// On the private LAN: both nodes are on a second network too, and may settle on different ones.
    pub two_homed: bool,
}

/// How a case went.
#[derive(Debug)]
pub struct Report {
    /// A hash over every datagram, its time and its way.
    pub trace: u64,
    /// Time from the connect call to the path, if one was found.
    pub direct_after: Option<Duration>,
    /// Attempts made.
    pub attempts: u32,
    /// Datagrams both nodes sent.
    pub datagrams: u64,
    /// What went against expectation.
    pub faults: Vec<String>,
}

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut gate = || GateKind::new(dice.pick(&MAPPINGS), dice.pick(&FILTERS), dice.pick(&PORTS));
        let (left, right) = (gate(), gate());
        let setting = match dice.below(20) {
            0 => Setting::OneSite(GateKind { mapping: Mapping::EndpointIndependent, ..left }),
            1 => Setting::PrivateLan,
            2 => Setting::Loopback,
            _ => Setting::TwoSites(left, right),
        };
        let weather = Weather {
            one_way: [dice.below(100), dice.below(100)].map(Duration::from_millis),
            jitter: Duration::from_millis(dice.pick(&[0, 0, 2, 20])),
            loss_permille: dice.pick(&[0, 0, 0, 50, 250]),
            json: dice.chance(100),
        };
        Self {
            seed,
            setting,
            weather,
            warm: dice.chance(500),
            rest: Duration::from_secs(if dice.chance(50) { 300 } else { 0 }),
            mutual: dice.chance(200),
            trial: match dice.below(100) {
                0..4 => Trial::Time,
                4..7 => Trial::CutControl,
                7..10 => Trial::RestartGate,
                _ => Trial::None,
            },
            twin_lans: dice.chance(200),
            two_homed: dice.chance(500),
        }
    }

    /// Plays it.
    #[must_use]
    pub fn run(&self) -> Report {
        let mut world = self.world();
        let mut faults = Vec::new();
        if self.warm {
            world.run_until(WARM_LIMIT, |world| world.nodes.iter().all(|node| self.is_warm(node)));
        }
        let rested = world.now() + self.rest;
        world.run_until(rested, |_| false);
        let mut direct_after = None;
        let mut attempts = 0;
        while direct_after.is_none() && attempts < if self.is_lossy() { ATTEMPTS } else { 1 } {
            attempts += 1;
            direct_after = self.connect(&mut world, attempts, &mut faults);
        }
        let verdict = self.verdict();
        let (must, may) = (verdict == Verdict::Direct, verdict != Verdict::Relay);
        if (must && direct_after.is_none()) || (!may && direct_after.is_some()) {
            faults.push(format!("direct: expected {verdict:?}, found {direct_after:?}"));
        }
        let end = world.now() + WARM_LIMIT;
        world.run_until(end, |world| world.nodes.iter().all(|node| self.is_warm(node)));
        if direct_after.is_some() {
            self.try_path(&mut world, &mut faults);
        }
        self.judge(&world, attempts, &mut faults);
        faults.append(&mut world.violations);
        let datagrams = world.nodes.iter().flat_map(|node| node.sent).sum();
        Report { trace: world.trace(), direct_after, attempts, datagrams, faults }
    }

    fn world(&self) -> World {
        let place = match self.setting {
            Setting::TwoSites(..) | Setting::OneSite(_) => ServerPlace::Internet,
            Setting::PrivateLan => ServerPlace::Inside([10, 0, 0, 1].into()),
            Setting::Loopback => ServerPlace::Inside([127, 0, 0, 1].into()),
        };
        let mut world = World::new(self.seed, place, self.weather);
        let key = |node: usize| NODE_KEYS[node].clone();
        let address = |node: u8, site: u8, gate: GateKind| match gate.mapping {
            Mapping::None => IpAddr::from([20, 0, 10 + site, 7 + node]),
            _ if self.twin_lans => IpAddr::from([192, 168, 1, 2 + if site == 0 { node } else { 0 }]),
            _ => IpAddr::from([10, 0, 1 + site, 2 + node]),
        };
        match self.setting {
            Setting::TwoSites(left, right) => {
                for (node, gate) in [left, right].into_iter().enumerate() {
                    let site = world.add_site(Some(gate));
                    world.add_node(site, address(0, site as u8, gate), 24, key(node));
                }
            }
            Setting::OneSite(gate) => {
                let site = world.add_site(Some(gate));
                for node in 0..2 {
                    world.add_node(site, address(node, 0, gate), 24, key(node.into()));
                }
            }
            Setting::PrivateLan | Setting::Loopback => {
                let site = world.add_site(None);
                for node in 0..2 {
                    let lan = IpAddr::from([10, 0, 0, 2 + node]);
                    let ip = if self.setting == Setting::Loopback { [127, 0, 0, 1].into() } else { lan };
                    let node_number = world.add_node(site, ip, 24, key(node.into()));
                    if self.two_homed && self.setting == Setting::PrivateLan {
                        world.join_second_network(node_number, IpAddr::from([10, 0, 9, 2 + node]));
                    }
                }
            }
        }
        world
    }

    /// One connect call of node 0 (and of node 1, if they are eager); the time to the path.
    fn connect(&self, world: &mut World, attempt: u32, faults: &mut Vec<String>) -> Option<Duration> {
        let asked = world.now();
        let names = [world.nodes[0].name.clone(), world.nodes[1].id.to_string()];
        let sides = if self.mutual { 2 } else { 1 };
        for side in 0..sides {
            let peer = if side == 0 { names[1].clone() } else { names[0].clone() };
            world.input(side, Input::Connect { request: attempt, peer, wait: true });
        }
        let has_ended = |world: &World| {
            world.nodes[..sides].iter().all(|node| node.ended.contains_key(&attempt) || node.over.is_some())
        };
        if !world.run_until(asked + CONNECT_LIMIT, has_ended) {
            faults.push(format!("attempt {attempt} hangs"));
            return None;
        }
        let elapsed = world.now() - asked;
        match world.nodes[0].ended.get(&attempt)? {
            Ok(_) => {
                // The other side must get there too, by checks of its own.
                let both = |world: &World| world.nodes.iter().all(|node| !node.paths.is_empty());
                if !world.run_until(world.now() + Duration::from_secs(10), both) {
                    faults.push("only one side has a path".to_owned());
                }
                self.exchange_data(world, faults);
                Some(elapsed)
            }
            Err(refusal) if refusal.code == Code::NoPath => None,
            Err(refusal) => {
                faults.push(format!("attempt {attempt}: {refusal:?}"));
                None
            }
        }
    }

    /// Each side must take data from where the other sends it, although each chose its way alone.
    fn exchange_data(&self, world: &mut World, faults: &mut Vec<String>) {
        if self.is_lossy() {
            return;
        }
        for side in 0..2 {
            world.send_data(side);
        }
        let end = world.now() + Duration::from_secs(2);
        if !world.run_until(end, |world| world.nodes.iter().all(|node| node.has_data)) {
            faults.push("data goes where the peer does not listen".to_owned());
        }
    }

    /// Consent keeps a path, with or without the server; a lost one comes back by itself.
    fn try_path(&self, world: &mut World, faults: &mut Vec<String>) {
        let start = world.now();
        let have_paths = |world: &World| world.nodes.iter().all(|node| !node.paths.is_empty());
        match self.trial {
            Trial::None => return,
            Trial::Time => {}
            Trial::CutControl => world.cut_control(0),
            Trial::RestartGate => {
                world.restart_gate(0);
                let lost = |world: &World| world.nodes[0].paths.is_empty();
                world.run_until(start + CONSENT_LIMIT, lost);
                // With a kept port nothing may have happened, and else the way back takes time.
                world.run_until(start + REPAIR_LIMIT, have_paths);
            }
        }
        if self.trial != Trial::RestartGate {
            world.run_until(start + WATCH, |world| !have_paths(world));
        }
        if !have_paths(world) && !self.is_lossy() {
            faults.push(format!("{:?}: the path is lost", self.trial));
        }
    }

    fn judge(&self, world: &World, attempts: u32, faults: &mut Vec<String>) {
        for (index, node) in world.nodes.iter().enumerate() {
            let expect = self.gate(index);
            let class = expect.map_or(self.inner_class(), oracle::class);
            // A loss may hide a dial-back, but nothing may invent one.
            let missed = self.is_lossy() && class.0 == NetworkClass::PublicReachable;
            if node.class != Some(class) && !missed {
                faults.push(format!("node {index}: class {:?}, expected {class:?}", node.class));
            }
            let is_false =
                |found: &NetworkClass| *found == NetworkClass::PublicReachable && *found != class.0;
            if node.classes.iter().any(is_false) {
                faults.push(format!("node {index} was falsely called reachable"));
            }
            let behavior = expect.map(|gate| (Some(gate.mapping), Some(gate.filtering)));
            let found = node.behavior.map(|behavior| (behavior.mapping, behavior.filtering));
            if found != behavior && !(self.is_lossy() && expect.is_some()) {
                faults.push(format!("node {index}: {found:?}, expected {behavior:?}"));
            }
            let tickets = u64::from(attempts) * if self.mutual { 2 } else { 1 };
            // Refreshes, about three a minute, are no part of the storm.
            let most = self.rest.as_secs() / 10
                + MAX_SENT * tickets
                + if self.trial == Trial::None { 0 } else { MAX_SENT };
            if node.sent[..2].iter().sum::<u64>() > most + GUESSED {
                faults.push(format!("node {index} sent {:?} datagrams", node.sent));
            }
            if let Some(over) = &node.over {
                faults.push(format!("node {index} ended: {over:?}"));
            }
        }
    }

    fn gate(&self, node: usize) -> Option<GateKind> {
        match self.setting {
            Setting::TwoSites(left, right) => Some([left, right][node]),
            Setting::OneSite(gate) => Some(gate),
            Setting::PrivateLan | Setting::Loopback => None,
        }
    }

    fn inner_class(&self) -> (NetworkClass, Evidence) {
        let class = match self.setting {
            Setting::Loopback => NetworkClass::Loopback,
            _ => NetworkClass::Private,
        };
        (class, Evidence::Observed)
    }

    fn verdict(&self) -> Verdict {
        match self.setting {
            Setting::TwoSites(left, right) => oracle::verdict(left, right),
            Setting::OneSite(_) | Setting::PrivateLan | Setting::Loopback => Verdict::Direct,
        }
    }

    fn is_lossy(&self) -> bool {
        self.weather.loss_permille > 0
    }

    fn is_warm(&self, node: &super::world::Node) -> bool {
        node.class.is_some() && (node.behavior.is_some() || self.gate(0).is_none())
    }
}
