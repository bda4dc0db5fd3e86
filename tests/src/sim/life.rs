//! The life of one cluster: seeds come, go and fall silent, nodes join, move and are cut off, secrets rotate,
//! and after each step the server, the nodes and [the model](crate::model) must be of one mind.
//!
//! The server stands on the internet and on a LAN of its own, so that a private cluster can become a public one
//! under its members. The model knows the rules' words, the gates, and how long things take: nothing of what the
//! machines said.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::Ended;
use meetpoint_proto::rules::{self, SeedFacts};
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, Filtering, Mapping, NetworkClass, NetworkType};

use super::case::FILTERS;
use super::dice::Dice;
use super::gate::{GateKind, Ports};
use super::world::{Claims, ServerPlace, Weather, World};
use crate::model::{self, Finding, Standing};

const SERVER_ON_LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Sites by their numbers: the server's LAN, a home, and public hosts behind a firewall.
const LAN: usize = 0;
const HOME: usize = 1;
const HOSTS: usize = 2;
/// Steps of one life.
const STEPS: u64 = 12;
/// Nodes at once.
const MAX_ALIVE: usize = 4;
/// Nodes in all.
const MAX_NODES: usize = 10;
/// From the rules: whoever fails has so long to pass.
const MINUTE: Duration = Duration::from_secs(60);
/// How long a node that joins may take to be seen by STUN.
const STUN_PATIENCE: Duration = Duration::from_secs(10);
/// Nobody bears witness for a node that has not been quiet for so long.
const OPENS_AFTER: Duration = Duration::from_secs(600);
/// A join, with the first delay after a broken connection.
const JOIN: Duration = Duration::from_secs(6);
/// From a change until a node's class is what it will be: its mapping is refreshed every 20 s, a dial-back follows
/// the one before after 10 s, and takes 2 s.
const SETTLED: Duration = Duration::from_secs(45);
/// Until a node's new mapping is seen.
const NOTICED: Duration = Duration::from_secs(22);
/// A second way to break a connection within this would let the node wait for long.
const STABLE: Duration = Duration::from_secs(40);
/// How late a verdict may be.
const LATE: Duration = Duration::from_secs(8);

static KEYS: LazyLock<Vec<SigningKey>> =
    LazyLock::new(|| (0..MAX_NODES).map(|n| SigningKey::from_bytes(&[n as u8 + 100; 32])).collect());

/// A mistake for the model to make, to show that it would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// None.
    None,
    /// Members that fail are out at once.
    NoProbation,
    /// Loopback nodes stay in a lifted cluster.
    LoopbackStays,
    /// An address-restricted NAT lets dial-backs in.
    RestrictedIsOpen,
    /// A seed that is down is no public seed.
    DownIsGone,
    /// A revoked token goes on to admit.
    TokensLast,
    /// A node that moved keeps its class.
    MovesDontMatter,
    /// Relayed nodes are always kept.
    RelayedStay,
}

impl Flaw {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::NoProbation,
        Self::LoopbackStays,
        Self::RestrictedIsOpen,
        Self::DownIsGone,
        Self::TokensLast,
        Self::MovesDontMatter,
        Self::RelayedStay,
    ];
}

#[derive(Debug, Clone, Copy)]
struct Seed {
    public: bool,
    is_up: bool,
}

/// Whether a node is, and will be, a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A member, from then on as what the rules say.
    In { settled: Duration },
    /// A member till `from` (if it had been one before), gone by `by`.
    Leaving { from: Duration, by: Duration, reason: &'static str },
}

/// A node as the model sees it.
#[derive(Debug, Clone, Copy)]
struct Subject {
    site: usize,
    ip: IpAddr,
    declared: Option<NetworkType>,
    named: Option<IpAddr>,
    token: usize,
    /// Where its control connection comes from.
    source: IpAddr,
    joined: Duration,
    fate: Fate,
}

/// One life.
pub struct Life {
    seed: u64,
    flaw: Flaw,
    dice: Dice,
    world: World,
    kind: ClusterNetwork,
    gates: [GateKind; 3],
    blocked: [bool; 3],
    external_host: [u8; 3],
    seeds: Vec<Seed>,
    admit_relayed: bool,
    token: usize,
    /// By the world's numbers; those that are out stay.
    subjects: Vec<Subject>,
    story: Vec<String>,
    outcomes: BTreeSet<String>,
    divergences: Vec<String>,
}

/// How a life went.
#[derive(Debug)]
pub struct LifeReport {
    /// What happened.
    pub story: Vec<String>,
    /// As what nodes were in, or why they were out, at a time when the model was certain of it.
    pub outcomes: BTreeSet<String>,
    /// Where server, nodes and model were not of one mind.
    pub divergences: Vec<String>,
}

impl Life {
    /// The life of a seed, with a model that makes this mistake.
    #[must_use]
    pub fn new(seed: u64, flaw: Flaw) -> Self {
        let mut dice = Dice::new(seed ^ 0x11FE);
        let one_way = [dice.below(60), dice.below(60)].map(Duration::from_millis);
        let weather = Weather { one_way, jitter: Duration::ZERO, loss_permille: 0, json: dice.chance(50) };
        let mut world = World::new(seed, ServerPlace::Both(SERVER_ON_LAN), weather);
        let ports = [Ports::Preserved, Ports::Sequential(1), Ports::Random];
        let translations = [Mapping::EndpointIndependent, Mapping::AddressAndPortDependent];
        let gates = [LAN, HOME, HOSTS].map(|site| {
            let mapping = if site == HOSTS { Mapping::None } else { dice.pick(&translations) };
            GateKind::new(mapping, dice.pick(&FILTERS), dice.pick(&ports))
        });
        let blocked = [100, 200, 150].map(|permille| dice.chance(permille));
        for (gate, blocked) in gates.into_iter().zip(blocked) {
            let site = world.add_site(Some(gate));
            world.block_udp(site, blocked);
        }
        let kind = dice.pick(&[
            ClusterNetwork::Dynamic,
            ClusterNetwork::Dynamic,
            ClusterNetwork::Dynamic,
            ClusterNetwork::Public,
            ClusterNetwork::Private,
        ]);
        let public = match kind {
            ClusterNetwork::Private => false,
            ClusterNetwork::Public => true,
            ClusterNetwork::Dynamic => dice.chance(400),
        };
        let mut life = Self {
            seed,
            flaw,
            world,
            kind,
            gates,
            blocked,
            external_host: [1; 3],
            seeds: vec![Seed { public, is_up: true }],
            admit_relayed: dice.chance(300),
            token: 0,
            subjects: Vec::new(),
            story: Vec::new(),
            outcomes: BTreeSet::new(),
            divergences: Vec::new(),
            dice,
        };
        life.note(&format!("{kind}, gates {gates:?}, blocked {blocked:?}, relayed {}", life.admit_relayed));
        life.configure(Vec::new());
        life
    }

    /// Lives it.
    #[must_use]
    pub fn run(mut self) -> LifeReport {
        for _ in 0..3 {
            self.new_node();
        }
        for _ in 0..STEPS {
            let pause = self.dice.pick(&[3, 25, 100]);
            self.rest(Duration::from_secs(pause));
            self.compare();
            if !self.divergences.is_empty() {
                break;
            }
            self.step();
        }
        self.rest(Duration::from_secs(100));
        self.compare();
        let Self { seed, mut story, outcomes, mut divergences, mut world, .. } = self;
        divergences.append(&mut world.violations);
        story.insert(0, format!("life {seed}"));
        LifeReport { story, outcomes, divergences }
    }

    fn note(&mut self, text: &str) {
        self.story.push(format!("{:>6.1} s: {text}", self.world.now().as_secs_f64()));
    }

    fn step(&mut self) {
        match self.dice.below(16) {
            0..=2 => self.add_seed(),
            3 | 4 => self.remove_seed(),
            5 => self.kill_seed(),
            6 => self.toggle_relaying(),
            7 | 8 => self.new_node(),
            9 => self.move_node(),
            10 => self.move_gate(),
            11 => self.restart_gate(),
            12 => self.cut(),
            13 => self.restart_server(),
            14 => {
                self.note("the secret rotates");
                self.world.rotate_secret();
            }
            _ => {
                if self.world.rotate_token() {
                    self.token += 1;
                    self.note("the join token rotates");
                }
            }
        }
    }

    // What the operator does.

    fn seed_facts(&self) -> Vec<bool> {
        let counts = |seed: &Seed| seed.public && (seed.is_up || self.flaw != Flaw::DownIsGone);
        self.seeds.iter().map(counts).collect()
    }

    fn add_seed(&mut self) {
        let public = self.dice.chance(500);
        let mut seeds = self.seeds.clone();
        seeds.push(Seed { public, is_up: true });
        self.change_seeds(seeds, &format!("a seed is added, public: {public}"));
    }

    fn remove_seed(&mut self) {
        let mut seeds = self.seeds.clone();
        if !seeds.is_empty() {
            seeds.remove(self.dice.below(seeds.len() as u64) as usize);
            self.change_seeds(seeds, "a seed is deleted");
        }
    }

    fn kill_seed(&mut self) {
        let at = self.dice.below(self.seeds.len() as u64) as usize;
        if let Some(seed) = self.seeds.get_mut(at) {
            seed.is_up = !seed.is_up;
            self.note("a seed goes down, or comes up");
            let before = self.all_expected();
            self.configure(before);
        }
    }

    /// The registry takes the seeds if the rules do, and the model must agree to that too.
    fn change_seeds(&mut self, seeds: Vec<Seed>, what: &str) {
        let facts: Vec<SeedFacts> = seeds.iter().map(|seed| SeedFacts { public: seed.public }).collect();
        let expected = self.all_expected();
        let before = std::mem::replace(&mut self.seeds, seeds);
        let ruled = rules::effective(self.kind, &facts);
        let modelled = model::effective(self.kind, &self.seed_facts());
        if ruled.map_err(|code| code.as_str()) != modelled {
            self.diverge(&format!("{what}: the rules say {ruled:?}, the model {modelled:?}"));
        }
        self.note(&format!("{what}: {ruled:?}"));
        if ruled.is_err() {
            self.seeds = before;
        }
        self.configure(expected);
    }

    fn toggle_relaying(&mut self) {
        let before = self.all_expected();
        self.admit_relayed = !self.admit_relayed;
        self.note(&format!("relayed nodes are kept: {}", self.admit_relayed));
        self.configure(before);
    }

    fn all_expected(&self) -> Vec<Result<Standing, &'static str>> {
        (0..self.subjects.len()).map(|at| self.expected(at)).collect()
    }

    /// Tells the server what the rules make of the seeds; what follows for those of whom something else was
    /// expected `before` is the model's to know.
    fn configure(&mut self, before: Vec<Result<Standing, &'static str>>) {
        let facts: Vec<SeedFacts> = self.seeds.iter().map(|seed| SeedFacts { public: seed.public }).collect();
        let was = self.world.effective();
        if let Ok(effective) = rules::effective(self.kind, &facts) {
            self.world.set_cluster(self.kind, effective, self.admit_relayed);
        }
        let has_changed = was != self.world.effective();
        for (at, before) in before.into_iter().enumerate() {
            if has_changed || before != self.expected(at) {
                self.changed(at, Duration::ZERO, has_changed);
            }
        }
    }

    // What happens to nodes.

    fn alive(&self) -> Vec<usize> {
        let lives = |at: &usize| !matches!(self.subjects[*at].fate, Fate::Leaving { by, .. } if by <= self.world.now());
        (0..self.subjects.len()).filter(lives).collect()
    }

    /// One that has been connected for long enough.
    fn pick_stable(&mut self) -> Option<usize> {
        let now = self.world.now();
        let stable: Vec<usize> =
            self.alive().into_iter().filter(|at| now >= self.subjects[*at].joined + STABLE).collect();
        (!stable.is_empty()).then(|| self.dice.pick(&stable))
    }

    fn somewhere(&mut self, number: usize) -> (usize, IpAddr) {
        let host = 20 + number as u8;
        match self.dice.below(7) {
            0 => (LAN, Ipv4Addr::LOCALHOST.into()),
            1 | 2 => (LAN, [10, 0, 0, host].into()),
            3 | 4 => (HOME, [10, 0, 1, host].into()),
            _ => (HOSTS, [20, 0, 12, host].into()),
        }
    }

    fn new_node(&mut self) {
        let number = self.subjects.len();
        if number == MAX_NODES || self.alive().len() >= MAX_ALIVE {
            return;
        }
        let (site, ip) = self.somewhere(number);
        let declared =
            self.dice.pick(&[None, None, None, Some(NetworkType::Private), Some(NetworkType::Public)]);
        let named = match self.dice.below(6) {
            0 => self.world.external(site).or(Some(ip)),
            1 if self.dice.chance(300) => Some([20, 66, 66, 66].into()),
            _ => None,
        };
        let node_addr = named.map(|ip| SocketAddr::new(ip, 40_000));
        self.note(&format!("node {number} starts at {ip}, declared {declared:?}, named {named:?}"));
        let claims = Claims { declared, node_addr };
        self.world.add_node_as(site, ip, 24, KEYS[number].clone(), claims);
        let source = self.world.source(number);
        let (joined, token) = (self.world.now(), self.token);
        let fate = Fate::In { settled: joined + SETTLED };
        self.subjects.push(Subject { site, ip, declared, named, token, source, joined, fate });
        self.joins(number);
    }

    fn move_node(&mut self) {
        let Some(at) = self.pick_stable() else { return };
        let (site, ip) = self.somewhere(at);
        self.note(&format!("node {at} moves to {ip}"));
        // Loopback sockets have ports of their own, which a simulated node keeps for life.
        if ip.is_loopback() || self.subjects[at].ip.is_loopback() {
            return;
        }
        self.world.move_node(at, site, ip);
        if self.flaw == Flaw::MovesDontMatter {
            self.subjects[at].joined = self.world.now();
            return;
        }
        let subject = &mut self.subjects[at];
        (subject.site, subject.ip) = (site, ip);
        self.joins(at);
    }

    /// A site's external address changes under its hosts: what they send comes from elsewhere, while their control
    /// connections go on (by another line).
    fn move_gate(&mut self) {
        let site = self.dice.pick(&[LAN, HOME]);
        self.external_host[site] += 1;
        self.note(&format!("site {site} gets another external address"));
        self.world.move_gate(site, self.external_host[site]);
        self.new_mappings(site);
    }

    fn restart_gate(&mut self) {
        let site = self.dice.pick(&[LAN, HOME, HOSTS]);
        self.note(&format!("the gate of site {site} restarts"));
        self.world.restart_gate(site);
        self.new_mappings(site);
    }

    fn new_mappings(&mut self, site: usize) {
        for at in self.alive() {
            if self.subjects[at].site == site && self.is_observed(at) {
                self.changed(at, NOTICED, false);
            }
        }
    }

    fn cut(&mut self) {
        if let Some(at) = self.pick_stable() {
            self.note(&format!("node {at} is cut off"));
            self.world.cut_control(at);
            self.joins(at);
        }
    }

    fn restart_server(&mut self) {
        let now = self.world.now();
        let alive = self.alive();
        if alive.iter().all(|at| now >= self.subjects[*at].joined + STABLE) {
            self.note("the server restarts");
            self.world.restart_server();
            alive.into_iter().for_each(|at| self.joins(at));
        }
    }

    // What the model expects.

    /// The server has the node's mapping, or will.
    fn is_observed(&self, at: usize) -> bool {
        let subject = &self.subjects[at];
        self.world.effective() == EffectiveNetwork::Public
            && !self.blocked[subject.site]
            && !subject.ip.is_loopback()
    }

    fn answer(&self, at: usize, seen: IpAddr) -> model::Answer {
        let subject = &self.subjects[at];
        let Ok(effective) = model::effective(self.kind, &self.seed_facts()) else {
            return model::Answer::Out("no such cluster");
        };
        let place = match model::node_place(seen, subject.ip, subject.named) {
            Ok(_) if effective == EffectiveNetwork::Private => model::place(seen),
            Ok(place) => place,
            Err(reason) => return model::Answer::Out(reason),
        };
        match model::admission(effective, self.kind, place, subject.declared) {
            model::Answer::Out("loopback_in_public_cluster") if self.flaw == Flaw::LoopbackStays => {
                model::Answer::In(NetworkClass::Loopback, meetpoint_proto::Evidence::Observed)
            }
            answer => answer,
        }
    }

    /// What becomes of a node as things are.
    fn expected(&self, at: usize) -> Result<Standing, &'static str> {
        let subject = &self.subjects[at];
        let from_source = self.answer(at, subject.source);
        // Whoever is refused is not checked, and so is not seen anywhere else.
        let is_checked = !matches!(from_source, model::Answer::Out(_));
        let mapped = self.world.external(subject.site).unwrap_or(subject.ip);
        let (answer, found) = match self.is_observed(at) && is_checked {
            true => (self.answer(at, mapped), self.finding(subject.site)),
            false => (from_source, Finding::Silence),
        };
        model::standing(answer, found, self.admit_relayed || self.flaw == Flaw::RelayedStay)
    }

    fn finding(&self, site: usize) -> Finding {
        match self.gates[site].filtering {
            Filtering::EndpointIndependent => Finding::WayIn,
            Filtering::AddressDependent if self.flaw == Flaw::RestrictedIsOpen => Finding::WayIn,
            Filtering::AddressDependent | Filtering::AddressAndPortDependent => Finding::Mapping,
        }
    }

    /// A node joins, or comes back.
    fn joins(&mut self, at: usize) {
        let source = self.world.source(at);
        self.subjects[at].source = source;
        self.joins_as_from(at, self.world.now());
    }

    fn joins_as_from(&mut self, at: usize, now: Duration) {
        let subject = &mut self.subjects[at];
        let source = subject.source;
        subject.joined = now;
        let is_revoked = subject.token != self.token && self.flaw != Flaw::TokensLast;
        let leaving = |from, by, reason| Fate::Leaving { from: now + from, by: now + by + LATE, reason };
        self.subjects[at].fate = match (self.answer(at, source), self.expected(at)) {
            (model::Answer::Out(reason), _) => leaving(Duration::ZERO, JOIN, reason),
            _ if is_revoked => leaving(Duration::ZERO, JOIN, "bad_token"),
            (model::Answer::Stun(_, false), Err("unreachable")) => {
                leaving(STUN_PATIENCE, STUN_PATIENCE, "unreachable")
            }
            (_, Err(reason)) => leaving(MINUTE, MINUTE, reason),
            (_, Ok(_)) => Fate::In { settled: now + SETTLED },
        };
    }

    /// Something changed for a member where it is; it shows after `delay`.
    fn changed(&mut self, at: usize, delay: Duration, anew: bool) {
        let now = self.world.now();
        if matches!(self.subjects[at].fate, Fate::Leaving { by, .. } if by <= now) {
            return;
        }
        let probation = if self.flaw == Flaw::NoProbation { Duration::ZERO } else { MINUTE };
        let fate = match (self.subjects[at].fate, self.expected(at)) {
            (_, Ok(_)) => Fate::In { settled: now + SETTLED },
            // Nobody has judged it yet: it joins into the cluster as it is now.
            (Fate::In { .. }, Err("unreachable"))
                if !anew && now < self.subjects[at].joined + STUN_PATIENCE =>
            {
                return self.joins_as_from(at, self.subjects[at].joined);
            }
            (Fate::Leaving { from, by, .. }, Err(reason)) if !anew => Fate::Leaving { from, by, reason },
            (_, Err(reason)) => {
                let from = now + probation;
                Fate::Leaving { from, by: from + delay + LATE, reason }
            }
        };
        self.subjects[at].fate = fate;
    }

    // How the two are held against each other.

    fn diverge(&mut self, text: &str) {
        self.divergences.push(format!("{:>6.1} s: {text}", self.world.now().as_secs_f64()));
    }

    /// Time passes; more of it if a verdict is due any moment.
    fn rest(&mut self, pause: Duration) {
        let mut end = self.world.now() + pause;
        let due = |subject: &Subject, end: Duration| {
            let Fate::Leaving { from, by, .. } = subject.fate else { return None };
            (from < end + LATE && end <= by).then_some(by + LATE)
        };
        while let Some(later) = self.subjects.iter().find_map(|subject| due(subject, end)) {
            end = later;
        }
        self.world.run_until(end, |_| false);
    }

    fn compare(&mut self) {
        let modelled = model::effective(self.kind, &self.seed_facts());
        if modelled != Ok(self.world.effective()) {
            self.diverge(&format!("the cluster is {}, the model has {modelled:?}", self.world.effective()));
        }
        for at in 0..self.subjects.len() {
            if let Some(difference) = self.difference(at) {
                self.diverge(&format!("node {at}: {difference}"));
            }
            let now = self.world.now();
            match self.subjects[at].fate {
                Fate::In { settled } if settled <= now => {
                    if let Ok(Standing { class, evidence, relayed }) = self.expected(at) {
                        let how = if relayed { "relayed" } else { evidence.as_str() };
                        self.outcomes.insert(format!("{class} {how}"));
                    }
                }
                Fate::Leaving { by, reason, .. } if by < now => {
                    self.outcomes.insert(reason.to_owned());
                }
                Fate::In { .. } | Fate::Leaving { .. } => {}
            }
        }
    }

    fn difference(&self, at: usize) -> Option<String> {
        let now = self.world.now();
        let (subject, node, session) = (&self.subjects[at], &self.world.nodes[at], self.world.session(at));
        let server = session.as_ref().map(|session| (session.class, session.relayed));
        let own = (node.class, node.relayed);
        if let Fate::Leaving { by, reason, .. } = subject.fate
            && by < now
        {
            let told = match &node.over {
                Some(Ended::Rejected(refusal)) => Some(refusal.code.as_str()),
                _ => None,
            };
            let is_out = session.is_none() && told == Some(reason);
            return (!is_out)
                .then(|| format!("is out ({reason}); the server has {server:?}, it heard {told:?}"));
        }
        if now < subject.joined + JOIN {
            return None;
        }
        let Some(server) = server.filter(|_| node.over.is_none()) else {
            return Some(format!("is a member; the server has {server:?}, it is over with {:?}", node.over));
        };
        // While a node that came back is being judged it knows what it was before.
        if (server != own && server.0.is_some()) || node.effective != Some(self.world.effective()) {
            return Some(format!("the server has {server:?}, it was told {own:?}, {:?}", node.effective));
        }
        let Fate::In { settled } = subject.fate else { return None };
        let expected = self.expected(at);
        let found = server.0.map(|(class, evidence)| Standing { class, evidence, relayed: server.1 });
        // Strangers may have met it by then, if enough of them were drawn.
        let is_open = |standing: Standing| {
            let opened = Standing { class: NetworkClass::PublicOpen, ..standing };
            standing.class == NetworkClass::PublicReachable && now >= OPENS_AFTER && found == Some(opened)
        };
        let fits = found == expected.ok() || expected.is_ok_and(is_open);
        (settled <= now && !fits).then(|| format!("is {found:?}, the model has {expected:?}"))
    }
}
