//! Introductions by peers, while the server is away: the connections between guests and introducers, and the part of
//! the real shells that runs [`Introducer`] on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_agent::{Input, Output};
use meetpoint_broker::{Introducer, IntroducerConfig, IntroducerInput, IntroducerOutput};
use meetpoint_proto::NodeId;
use meetpoint_proto::meet::{GuestMessage, IntroducerMessage};

use super::world::{Arrival, World};

/// What travels between a guest and an introducer, by their numbers.
#[derive(Debug)]
pub(super) enum Word {
    /// The guest's connection is there, or not.
    Opened { guest: usize, host: usize, open: bool },
    /// The introducer hears that it is.
    Came { guest: usize, host: usize },
    /// The introducer hears that it is gone.
    Gone { guest: usize, host: usize },
    /// From the guest.
    Asked { guest: usize, host: usize, message: GuestMessage },
    /// From the introducer.
    Answered { guest: usize, host: usize, message: IntroducerMessage },
}

/// The introducers of a world.
#[derive(Debug, Default)]
pub struct Meets {
    pub(super) is_server_dead: bool,
    pub(super) machines: BTreeMap<usize, Introducer>,
    /// Open connections: guest and introducer.
    lines: BTreeSet<(usize, usize)>,
    /// This node introduces nobody by itself: a test speaks for it, and finds here what guests say to it.
    pub liar: Option<usize>,
    /// How often nodes have looked for somebody to introduce them.
    pub looked: usize,
    /// What guests have said to the liar.
    pub heard: Vec<(usize, GuestMessage)>,
}

impl World {
    /// The server is killed: all its connections break, and nothing answers any more.
    pub fn kill_server(&mut self) {
        self.meets.is_server_dead = true;
        let conns: Vec<_> = self.conns.keys().copied().collect();
        for conn in conns {
            self.push(Duration::ZERO, Arrival::ClosedAtNode { conn });
        }
    }

    /// It is there again, and knows of no session.
    pub fn revive_server(&mut self) {
        self.meets.is_server_dead = false;
        self.restart_server();
    }

    /// The liar says something to a guest.
    pub fn lie(&mut self, guest: usize, message: IntroducerMessage) {
        if let Some(host) = self.meets.liar {
            self.answer(host, guest, message);
        }
    }

    /// Which guests have a connection to an introducer.
    #[must_use]
    pub fn guests_of(&self, host: usize) -> Vec<usize> {
        self.meets.lines.iter().filter(|(_, of)| *of == host).map(|(guest, _)| *guest).collect()
    }

    pub(super) fn meet_command(&mut self, guest: usize, output: Output) {
        match output {
            Output::OpenIntroducer { peer } => {
                self.meets.looked += 1;
                let (Some(host), true) = (self.number_of(&peer), self.nodes[guest].paths.contains_key(&peer))
                else {
                    return self.violations.push("an introducer without a path".to_owned());
                };
                // Two flights of QUIC's handshake.
                let delay = self.between(guest, host) * 2;
                let serves = self.nodes[host].agent.serving(self.start + self.now).is_some();
                let open = serves && self.nodes[host].paths.contains_key(&self.nodes[guest].id);
                if open {
                    self.meets.lines.insert((guest, host));
                    self.push(delay, Arrival::Word(Word::Came { guest, host }));
                }
                self.push(delay, Arrival::Word(Word::Opened { guest, host, open }));
            }
            Output::CloseIntroducer { peer } => {
                if let Some(host) = self.number_of(&peer) {
                    self.meets.lines.remove(&(guest, host));
                    let delay = self.between(guest, host);
                    self.push(delay, Arrival::Word(Word::Gone { guest, host }));
                }
            }
            Output::ToIntroducer { peer, message } => {
                let Some(host) = self.number_of(&peer) else { return };
                if let GuestMessage::Half(half) = &message {
                    // Where a node wants to be met the other one may send, whatever becomes of its word on the way.
                    if let Some(to) = self.number_of(&half.to) {
                        self.nodes[to].may_send.extend(&half.candidates);
                    }
                }
                let delay = self.between(guest, host);
                self.push(delay, Arrival::Word(Word::Asked { guest, host, message }));
            }
            _ => {}
        }
    }

    fn number_of(&self, id: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id)
    }

    /// One way from a node to another, without jitter: QUIC keeps order.
    fn between(&self, a: usize, b: usize) -> Duration {
        self.sites[self.nodes[a].site].one_way + self.sites[self.nodes[b].site].one_way
    }

    pub(super) fn word(&mut self, word: Word) {
        match word {
            Word::Opened { guest, host, open } => {
                if open && !self.meets.lines.contains(&(guest, host)) {
                    return;
                }
                let peer = self.nodes[host].id;
                self.input(guest, Input::Introducer { peer, open });
            }
            Word::Answered { guest, host, message } => {
                if self.meets.lines.contains(&(guest, host)) {
                    let peer = self.nodes[host].id;
                    self.input(guest, Input::FromIntroducer { peer, message });
                }
            }
            Word::Asked { guest, host, message } if self.meets.liar == Some(host) => {
                self.meets.heard.push((guest, message));
            }
            Word::Came { host, .. } | Word::Gone { host, .. } if self.meets.liar == Some(host) => {}
            Word::Came { guest, host } => {
                let peer = self.nodes[guest].id;
                let Some(observed) = self.nodes[host].paths.get(&peer).map(|path| path.way.remote) else {
                    return;
                };
                self.host(host, IntroducerInput::Opened { peer, observed });
            }
            Word::Gone { guest, host } => {
                let peer = self.nodes[guest].id;
                self.host(host, IntroducerInput::Closed { peer });
            }
            Word::Asked { guest, host, message } => {
                let peer = self.nodes[guest].id;
                self.host(host, IntroducerInput::Message { peer, message });
            }
        }
    }

    fn host(&mut self, host: usize, input: IntroducerInput) {
        let now = self.start + self.now;
        if !self.meets.machines.contains_key(&host) {
            let Some(terms) = self.nodes[host].agent.serving(now) else { return };
            let config = IntroducerConfig {
                cluster: terms.cluster,
                cluster_key: terms.cluster_key,
                revoked: terms.revoked,
                now_unix_ms: terms.now_unix_ms,
            };
            self.meets.machines.insert(host, Introducer::new(now, config, self.dice.seed()));
        }
        if let Some(machine) = self.meets.machines.get_mut(&host) {
            machine.handle(now, input);
        }
        self.drain_introducer(host);
    }

    pub(super) fn introducers_due(&mut self, now: Instant) {
        let is_due = |machine: &Introducer| machine.poll_timeout().is_some_and(|at| at <= now);
        let due = self.meets.machines.iter().filter(|(_, machine)| is_due(machine)).map(|(host, _)| *host);
        for host in due.collect::<Vec<usize>>() {
            if let Some(machine) = self.meets.machines.get_mut(&host) {
                machine.handle_timeout(now);
            }
            self.drain_introducer(host);
        }
    }

    fn drain_introducer(&mut self, host: usize) {
        loop {
            let output = self.meets.machines.get_mut(&host).and_then(Introducer::poll_output);
            match output {
                Some(IntroducerOutput::Send { peer, message }) => {
                    if let Some(guest) = self.number_of(&peer) {
                        self.answer(host, guest, message);
                    }
                }
                Some(IntroducerOutput::Close { peer }) => {
                    let Some(guest) = self.number_of(&peer) else { continue };
                    self.meets.lines.remove(&(guest, host));
                    let delay = self.between(guest, host);
                    self.push(delay, Arrival::Word(Word::Opened { guest, host, open: false }));
                }
                None => return,
            }
        }
    }

    fn answer(&mut self, host: usize, guest: usize, message: IntroducerMessage) {
        let delay = self.between(guest, host);
        self.push(delay, Arrival::Word(Word::Answered { guest, host, message }));
    }

    /// Where an introducer sees a guest.
    #[must_use]
    pub fn seen(&self, host: usize, guest: usize) -> Option<SocketAddr> {
        self.nodes[host].paths.get(&self.nodes[guest].id).map(|path| path.way.remote)
    }
}
