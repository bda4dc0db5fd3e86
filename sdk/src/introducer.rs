//! Serving guests: peers that want to be introduced to each other while the server is away. The decisions are
//! [`Introducer`]'s; here are its connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_broker::{Introducer, IntroducerConfig, IntroducerInput, IntroducerOutput};
use meetpoint_proto::NodeId;
use meetpoint_proto::meet::{GuestMessage, IntroducerMessage};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::meet::{self, LINE_QUEUE};
use crate::quic::Accepted;

/// Events of all guests waiting for the driver; each is at most 8 KiB.
const EVENT_QUEUE: usize = 64;

/// Something happened on a guest's connection.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) peer: NodeId,
    number: u64,
    /// `None`: it has ended.
    message: Option<GuestMessage>,
}

/// This node's end of a guest's connection.
#[derive(Debug)]
struct Line {
    number: u64,
    /// Where the guest was seen when it came.
    observed: SocketAddr,
    messages: mpsc::Sender<IntroducerMessage>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Serving {
    /// There while there is a guest.
    introducer: Option<Introducer>,
    lines: HashMap<NodeId, Line>,
    last_number: u64,
    tell: mpsc::Sender<Served>,
    told: mpsc::Receiver<Served>,
}

impl Serving {
    pub(crate) fn new() -> Self {
        let (tell, told) = mpsc::channel(EVENT_QUEUE);
        Self { introducer: None, lines: HashMap::new(), last_number: 0, tell, told }
    }

    /// What a guest does next; never ends. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Served {
        match self.told.recv().await {
            Some(served) => served,
            // Not while this has a sender of its own.
            None => std::future::pending().await,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.introducer.as_ref()?.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(introducer) = &mut self.introducer {
            introducer.handle_timeout(now);
        }
        self.perform();
    }

    /// A peer comes as a guest. What this node knows of its cluster is taken anew with the first one.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        terms: meetpoint_agent::Serving,
        (peer, connection): Accepted,
        observed: SocketAddr,
        tasks: &TaskTracker,
    ) {
        if self.introducer.is_none() {
            let mut seed = [0; 32];
            if let Err(error) = getrandom::fill(&mut seed) {
                tracing::warn!(%error, "no randomness: guests are turned away");
                return meet::turn_away(&connection);
            }
            self.introducer = Some(Introducer::new(now, config(terms), seed));
        }
        self.last_number += 1;
        let number = self.last_number;
        let (messages, outgoing) = mpsc::channel(LINE_QUEUE);
        self.lines.insert(peer, Line { number, observed, messages });
        let tell = self.tell.clone();
        tasks.spawn(async move {
            let said = |message| Served { peer, number, message: Some(message) };
            meet::host(connection, outgoing, &tell, said).await;
            // The driver may be gone.
            let _ = tell.send(Served { peer, number, message: None }).await;
        });
        tracing::debug!(%peer, %observed, "a guest");
        self.feed(now, IntroducerInput::Opened { peer, observed });
    }

    /// `observed` is where the guest's path comes from now.
    pub(crate) fn handle(&mut self, now: Instant, served: Served, observed: Option<SocketAddr>) {
        let Served { peer, number, message } = served;
        let Some(line) = self.lines.get(&peer).filter(|line| line.number == number) else { return };
        let has_moved = observed != Some(line.observed);
        match message {
            // It comes again, from where it is now.
            Some(_) if has_moved => {
                self.lines.remove(&peer);
                self.feed(now, IntroducerInput::Closed { peer });
            }
            Some(message) => self.feed(now, IntroducerInput::Message { peer, message }),
            None => {
                self.lines.remove(&peer);
                self.feed(now, IntroducerInput::Closed { peer });
            }
        }
    }

    /// Turns all guests away.
    pub(crate) fn end(&mut self) {
        self.lines.clear();
        self.introducer = None;
    }

    fn feed(&mut self, now: Instant, input: IntroducerInput) {
        if let Some(introducer) = &mut self.introducer {
            introducer.handle(now, input);
        }
        self.perform();
    }

    fn perform(&mut self) {
        let Some(introducer) = &mut self.introducer else { return };
        while let Some(output) = introducer.poll_output() {
            match output {
                IntroducerOutput::Send { peer, message } => {
                    let is_stuck =
                        self.lines.get(&peer).is_some_and(|line| line.messages.try_send(message).is_err());
                    if is_stuck {
                        // Its line hears of that, and ends.
                        self.lines.remove(&peer);
                    }
                }
                IntroducerOutput::Close { peer } => {
                    self.lines.remove(&peer);
                }
            }
        }
        if introducer.is_idle() {
            self.introducer = None;
        }
    }
}

fn config(terms: meetpoint_agent::Serving) -> IntroducerConfig {
    let meetpoint_agent::Serving { cluster, cluster_key, revoked, now_unix_ms } = terms;
    IntroducerConfig { cluster, cluster_key, revoked, now_unix_ms }
}
