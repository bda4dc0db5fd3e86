//! The discovery of a NAT's behaviour alone, for tools that look at a network without joining anything.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{NatBehavior, addr};

use crate::api::{Config, Event, Interface, Output};
use crate::discover::Discovery;
use crate::env::Env;
use crate::network::Network;
use crate::stun::Datagram;

/// What the caller is to do for a [`NatCheck`].
#[derive(Debug)]
pub enum NatCheckStep {
    /// Send this from the present socket.
    Send {
        /// To where.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// As [`Output::TraceRoute`] says; then call [`NatCheck::route_told`].
    Trace {
        /// The server.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
        /// The longest time to live.
        most: u8,
    },
    /// Put another socket, on a fresh port, in the place of the present one, and call [`NatCheck::opened`].
    Reopen,
}

/// Finds out, from fresh sockets, what NAT is in front of it. The same tests as a member's, with nobody who is
/// told of the outcome.
pub struct NatCheck {
    env: Env,
    network: Network,
    discovery: Discovery,
    behavior: Option<NatBehavior>,
}

impl std::fmt::Debug for NatCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatCheck").field("behavior", &self.behavior).finish_non_exhaustive()
    }
}

impl NatCheck {
    /// Begins with [`NatCheckStep::Reopen`]. `server`'s addresses are resolved.
    #[must_use]
    pub fn new(
        config: Config,
        now: Instant,
        server: StunServer,
        interfaces: Vec<Interface>,
        seed: [u8; 32],
    ) -> Self {
        let mut env = Env::new(config, seed);
        let discovery = Discovery::new(&mut env, now, server, None);
        Self { env, network: Network::new(interfaces, None, None), discovery, behavior: None }
    }

    /// A fresh socket is there, on this port of the machine, and has sent to nobody; or there is none to be had.
    pub fn opened(&mut self, now: Instant, port: Option<u16>) {
        self.discovery.opened(&mut self.env, now, port);
    }

    /// Takes a datagram that the socket received.
    pub fn handle(&mut self, now: Instant, source: SocketAddr, payload: &[u8]) {
        if let Some(datagram) = Datagram::parse(payload) {
            self.discovery.handle(&mut self.env, &self.network, now, addr::unmap(source), &datagram);
        }
    }

    /// Who has answered to a time to live of 1, 2 and so on.
    pub fn route_told(&mut self, hops: &[Option<IpAddr>]) {
        self.env.route.told(hops);
        if let Some(behavior) = &mut self.behavior {
            behavior.depth = self.env.route.depth();
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.discovery.handle_timeout(&mut self.env, &self.network, now);
    }

    /// When [`NatCheck::handle_timeout`] is next due; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.discovery.deadline()
    }

    /// The next thing to do.
    pub fn poll_step(&mut self) -> Option<NatCheckStep> {
        while let Some(output) = self.env.pop() {
            match output {
                Output::Transmit { to, payload, .. } => return Some(NatCheckStep::Send { to, payload }),
                Output::TraceRoute { to, payload, most, .. } => {
                    return Some(NatCheckStep::Trace { to, payload, most });
                }
                Output::OpenProbe { .. } => return Some(NatCheckStep::Reopen),
                Output::Event(Event::Behavior(behavior)) => self.behavior = Some(behavior),
                // What a member would tell its server, and the end, which no further timeout shows.
                _ => {}
            }
        }
        None
    }

    /// What was found out; `None` until it is over, and if the server did not answer at all.
    #[must_use]
    pub fn behavior(&self) -> Option<NatBehavior> {
        self.behavior
    }
}
