//! Introductions by peers: this node's connections to introducers, and those of its own guests.

use std::collections::HashMap;
use std::time::Instant;

use meetpoint_agent::Input;
use meetpoint_proto::NodeId;
use meetpoint_proto::meet::GuestMessage;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Driver;
use crate::connection::PathKind;
use crate::introducer::{Served, Serving};
use crate::meet::{self, GuestEvent, LINE_QUEUE};
use crate::quic::{self, Accepted, Acceptor};

/// Events waiting for the driver; each is at most 8 KiB.
const EVENT_QUEUE: usize = 64;
/// Guests' connections waiting for the driver.
const GUEST_QUEUE: usize = 16;

/// Something happened on one of the connections.
#[derive(Debug)]
pub(super) enum Met {
    /// To an introducer: whose, on which of the connections there were, and what.
    Guest(NodeId, u64, GuestEvent),
    /// A peer would like to be a guest.
    Accepted(Accepted),
    /// On a guest's connection.
    Served(Served),
}

/// This node's end of one connection to an introducer.
#[derive(Debug)]
struct Line {
    number: u64,
    messages: mpsc::Sender<GuestMessage>,
}

/// See the module.
pub(super) struct Meet {
    lines: HashMap<NodeId, Line>,
    last_number: u64,
    tell: mpsc::Sender<(NodeId, u64, GuestEvent)>,
    told: mpsc::Receiver<(NodeId, u64, GuestEvent)>,
    guests: mpsc::Receiver<Accepted>,
    serving: Serving,
    accepting: CancellationToken,
}

impl Meet {
    pub(super) fn new(
        acceptor: Acceptor,
        application: mpsc::Sender<Accepted>,
        accepting: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (tell, told) = mpsc::channel(EVENT_QUEUE);
        let (to_guests, guests) = mpsc::channel(GUEST_QUEUE);
        let stop = accepting.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = quic::accept_all(acceptor, application, to_guests) => {}
                () = stop.cancelled() => {}
            }
        });
        let serving = Serving::new();
        Self { lines: HashMap::new(), last_number: 0, tell, told, guests, serving, accepting }
    }

    /// What happens next; never ends. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Met {
        tokio::select! {
            Some((peer, number, event)) = self.told.recv() => Met::Guest(peer, number, event),
            Some(accepted) = self.guests.recv() => Met::Accepted(accepted),
            served = self.serving.next() => Met::Served(served),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.serving.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.serving.handle_timeout(now);
    }

    pub(super) fn close_introducer(&mut self, peer: &NodeId) {
        self.lines.remove(peer);
    }

    /// Ends all of it.
    pub(super) fn end(&mut self) {
        self.accepting.cancel();
        self.lines.clear();
        self.told.close();
        self.serving = Serving::new();
    }
}

impl Driver {
    pub(super) fn met(&mut self, event: Met) {
        match event {
            Met::Guest(peer, number, event) => self.guest_event(peer, number, event),
            Met::Accepted((peer, connection)) => {
                let now = Instant::now();
                let path = self.parts.shared.path(&peer).map(|path| *path.borrow());
                // A relay's address is not where a peer comes from.
                let observed = path.filter(|path| path.kind == PathKind::Direct).map(|path| path.remote);
                match (self.parts.agent.serving(now), observed) {
                    (Some(terms), Some(observed)) => {
                        self.meet.serving.accept(now, terms, (peer, connection), observed, &self.tasks);
                    }
                    _ => meet::turn_away(&connection),
                }
            }
            Met::Served(served) => {
                let now = Instant::now();
                if self.parts.agent.serving(now).is_some() {
                    let path = self.parts.shared.path(&served.peer).map(|path| *path.borrow());
                    self.meet.serving.handle(now, served, path.map(|path| path.remote));
                } else {
                    self.meet.serving.end();
                }
            }
        }
    }

    fn guest_event(&mut self, peer: NodeId, number: u64, event: GuestEvent) {
        if self.meet.lines.get(&peer).is_none_or(|line| line.number != number) {
            return;
        }
        match event {
            GuestEvent::Opened => self.feed(Input::Introducer { peer, open: true }),
            GuestEvent::Said(message) => self.feed(Input::FromIntroducer { peer, message }),
            GuestEvent::Closed => {
                self.meet.lines.remove(&peer);
                self.feed(Input::Introducer { peer, open: false });
            }
        }
    }

    pub(super) fn tell_introducer(&mut self, peer: NodeId, message: GuestMessage) {
        // A peer that does not read is as good as none.
        if self.meet.lines.get(&peer).is_some_and(|line| line.messages.try_send(message).is_err()) {
            self.meet.lines.remove(&peer);
            self.feed(Input::Introducer { peer, open: false });
        }
    }

    pub(super) fn open_introducer(&mut self, peer: NodeId) {
        let Some(path) = self.parts.shared.path(&peer).map(|path| *path.borrow()) else {
            return self.feed(Input::Introducer { peer, open: false });
        };
        self.meet.last_number += 1;
        let number = self.meet.last_number;
        let (messages, outgoing) = mpsc::channel(LINE_QUEUE);
        self.meet.lines.insert(peer, Line { number, messages });
        let events = self.meet.tell.clone();
        self.spawn(meet::guest(self.parts.quic.clone(), (peer, number, path.rtt), outgoing, events));
    }
}
