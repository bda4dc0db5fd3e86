//! The connect requests that have not ended: the application's, and the agent's own to repair a
//! lost path.
//!
//! On the wire they carry numbers of their own, so that neither kind can be mistaken for the other,
//! and requests survive the control connection: they are sent again after the next welcome.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meetpoint_proto::wire::{ClientMessage, Refusal};
use meetpoint_proto::{Certificate, Code, HandshakeStart, NodeId, NodeName, TicketId};

use crate::agent::{Agent, Timer};
use crate::api::Output;

/// Requests at once: more than any application waits for, and a bound on what it can pile up.
pub(crate) const MAX_REQUESTS: usize = 1_024;
/// How often the server may put a request off before the application is told.
const MAX_DEFERRALS: u32 = 3;
/// Longest time it may be put off for.
const MAX_DEFERRAL: Duration = Duration::from_secs(60);

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The application, under this number.
    Application(u32),
    /// The agent: the path to this peer was lost while the application uses it.
    Repair(NodeId),
    /// The agent: this node has moved, and the path to this peer may not have come along.
    Roam(NodeId),
    /// The agent: the peer is reached by a relay only.
    Upgrade(NodeId),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) purpose: Purpose,
    peer: String,
    wait: bool,
    /// When the application asked, or when the peer that it waited for came.
    pub(crate) since: Instant,
    /// The introduction that answers it.
    pub(crate) ticket: Option<TicketId>,
    /// How often the server put it off.
    pub(crate) deferrals: u32,
    /// The shell was told to begin QUIC's handshake with this peer.
    pub(crate) begun: Option<NodeId>,
    /// The request waits for what that begins with.
    pub(crate) awaits_handshake: bool,
    /// It goes along with the request, once.
    pub(crate) handshake: Option<HandshakeStart>,
}

impl Request {
    /// True if the request means this peer.
    pub(crate) fn means(&self, node: &NodeId, name: &NodeName) -> bool {
        self.peer == name.as_str() || self.peer.parse() == Ok(*node)
    }

    /// The peer's name or id, as the application has it.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether it is one for a peer that may not be here yet.
    pub(crate) fn waits(&self) -> bool {
        self.wait
    }

    pub(crate) fn message(&mut self, number: u32) -> ClientMessage {
        let handshake = self.handshake.take();
        ClientMessage::Connect { request: number, peer: self.peer.clone(), wait: self.wait, handshake }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    open: BTreeMap<u32, Request>,
    by_application: BTreeMap<u32, u32>,
    last: u32,
}

impl Requests {
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= MAX_REQUESTS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens a request and gives its number on the wire.
    pub(crate) fn open(&mut self, now: Instant, purpose: Purpose, peer: String, wait: bool) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.open.contains_key(&self.last) {
                break;
            }
        }
        if let Purpose::Application(request) = purpose {
            self.by_application.insert(request, self.last);
        }
        let request = Request {
            purpose,
            peer,
            wait,
            since: now,
            ticket: None,
            deferrals: 0,
            begun: None,
            awaits_handshake: false,
            handshake: None,
        };
        self.open.insert(self.last, request);
        self.last
    }

    /// A peer is here now. What was spent waiting for it is not the path's fault.
    pub(crate) fn arrived(&mut self, now: Instant, node: &NodeId, name: &NodeName) {
        let waits =
            |request: &&mut Request| request.wait && request.ticket.is_none() && request.means(node, name);
        for request in self.open.values_mut().filter(waits) {
            request.since = now;
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Request> {
        self.open.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Request> {
        self.open.get_mut(&number)
    }

    pub(crate) fn take(&mut self, number: u32) -> Option<Request> {
        let request = self.open.remove(&number)?;
        if let Purpose::Application(application) = request.purpose {
            self.by_application.remove(&application);
        }
        Some(request)
    }

    /// The wire number of an application's request.
    pub(crate) fn of_application(&self, request: u32) -> Option<u32> {
        self.by_application.get(&request).copied()
    }

    /// Numbers of the requests that no introduction has answered.
    pub(crate) fn unanswered(&self) -> Vec<u32> {
        self.numbers(|request| request.ticket.is_none())
    }

    /// Takes back what introductions have answered: their tickets go on without the requests, which are given.
    pub(crate) fn ask_again(&mut self) -> Vec<u32> {
        let numbers = self.numbers(|request| request.ticket.is_some());
        for request in self.open.values_mut() {
            request.ticket = None;
        }
        numbers
    }

    /// True if QUIC's handshake with this peer has begun for one of them.
    pub(crate) fn have_begun(&self, peer: &NodeId) -> bool {
        self.open.values().any(|request| request.begun.as_ref() == Some(peer))
    }

    pub(crate) fn of_ticket(&self, ticket: TicketId) -> Vec<u32> {
        self.numbers(|request| request.ticket == Some(ticket))
    }

    /// Those that a path to this peer fulfils. A relayed one is what an upgrade is to replace.
    pub(crate) fn for_peer(&self, node: &NodeId, name: &NodeName, is_direct: bool) -> Vec<u32> {
        let is_open = |request: &Request| {
            matches!(request.purpose, Purpose::Upgrade(_)) && request.ticket.is_none() && !is_direct
        };
        self.numbers(|request| request.means(node, name) && !is_open(request))
    }

    /// The agent's own, for this peer.
    pub(crate) fn of_agent(&self, peer: NodeId) -> Vec<u32> {
        let own = [Purpose::Repair(peer), Purpose::Roam(peer), Purpose::Upgrade(peer)];
        self.numbers(|request| own.contains(&request.purpose))
    }

    pub(crate) fn of_roaming(&self, peer: NodeId) -> Vec<u32> {
        self.numbers(|request| request.purpose == Purpose::Roam(peer))
    }

    fn numbers(&self, fits: impl Fn(&Request) -> bool) -> Vec<u32> {
        self.open.iter().filter(|(_, request)| fits(request)).map(|(number, _)| *number).collect()
    }

    /// Binds those of `numbers` that mean the introduced peer to its ticket, and gives the time of
    /// the oldest.
    pub(crate) fn answer(
        &mut self,
        numbers: &[u32],
        ticket: TicketId,
        peer: &Certificate,
    ) -> Option<Instant> {
        let mut since = None;
        for number in numbers {
            let Some(request) = self.open.get_mut(number) else { continue };
            if request.ticket.is_none() && request.means(&peer.node, &peer.name) {
                request.ticket = Some(ticket);
                since = Some(since.map_or(request.since, |since: Instant| since.min(request.since)));
            }
        }
        since
    }

    /// Those of `numbers` that mean somebody else.
    pub(crate) fn strays(&self, numbers: &[u32], peer: &Certificate) -> Vec<u32> {
        let is_stray = |number: &&u32| {
            self.open.get(number).is_some_and(|request| !request.means(&peer.node, &peer.name))
        };
        numbers.iter().filter(is_stray).copied().collect()
    }
}

impl Agent {
    pub(crate) fn connect(&mut self, now: Instant, request: u32, peer: String, wait: bool) {
        self.cancel_connect(request);
        let mut links = self.links.iter_mut();
        let open = links.find(|(id, link)| link.is_open() && link.answers_to(id, &peer));
        if let Some((&id, link)) = open {
            link.held = true;
            self.env.push(Output::ConnectEnded { request, result: Ok(id) });
        } else if self.requests.is_full() {
            let refusal = Refusal::new(Code::TooManyIntroductions);
            self.env.push(Output::ConnectEnded { request, result: Err(refusal) });
        } else {
            let number = self.requests.open(now, Purpose::Application(request), peer, wait);
            if !self.begin_handshake(now, number, request) {
                self.send_request(number);
            }
            self.want_relay(now);
        }
    }

    pub(crate) fn cancel_connect(&mut self, request: u32) {
        if let Some(number) = self.requests.of_application(request) {
            self.drop_request(number);
        }
    }

    /// Forgets a request, and has the server forget it too.
    pub(crate) fn drop_request(&mut self, number: u32) -> Option<Purpose> {
        let request = self.requests.take(number)?;
        self.timers.set(Timer::Request(number), None);
        self.forget_handshake(request.begun);
        if request.ticket.is_none() {
            self.cancel_request(number);
        }
        Some(request.purpose)
    }

    /// Has whoever was asked to introduce this node forget it.
    pub(crate) fn cancel_request(&mut self, number: u32) {
        if self.control.is_member() {
            self.env.send(ClientMessage::CancelConnect { request: number });
        } else {
            self.withdraw_request(number);
        }
    }

    /// Sends a request to the server; while it is away, to peers that may introduce this node instead.
    pub(crate) fn send_request(&mut self, number: u32) {
        self.timers.set(Timer::Request(number), None);
        let Some(request) = self.requests.get_mut(number) else { return };
        request.awaits_handshake = false;
        if self.control.is_member() {
            self.env.send(request.message(number));
        } else {
            self.ask_introducers(number);
        }
    }

    pub(crate) fn connect_failed(&mut self, now: Instant, number: u32, refusal: Refusal) {
        let Some(request) = self.requests.get_mut(number) else { return };
        if let (Some(ms), true) = (refusal.retry_after_ms, request.deferrals < MAX_DEFERRALS) {
            request.deferrals += 1;
            let wait = Duration::from_millis(ms).min(MAX_DEFERRAL);
            self.timers.set(Timer::Request(number), Some(now + wait));
        } else {
            self.fail_request(now, number, refusal);
        }
    }

    /// Ends a request without a path.
    pub(crate) fn fail_request(&mut self, now: Instant, number: u32, refusal: Refusal) {
        self.timers.set(Timer::Request(number), None);
        let Some(request) = self.requests.take(number) else { return };
        self.forget_handshake(request.begun);
        match request.purpose {
            Purpose::Application(request) => {
                self.env.push(Output::ConnectEnded { request, result: Err(refusal) });
            }
            Purpose::Repair(peer) => self.schedule_repair(now, peer),
            // The path may hold all the same; if it is lost, that is repaired.
            Purpose::Roam(_) => {}
            Purpose::Upgrade(peer) => self.schedule_upgrade(now, peer),
        }
    }
}
