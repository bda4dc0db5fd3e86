//! The discovery of a NAT's behaviour alone, for tools that look at a network without joining anything.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{NatBehavior, addr};

use crate::api::{Config, Event, Interface, Output};
use crate::discover::Discovery;
use crate::env::Env;
use crate::network::Network;
use crate::stun::Datagram;

/// Finds out, from one fresh socket, what NAT is in front of it. The same tests as a member's, with nobody who is
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
    /// Begins at once: the socket is there, has sent to nobody, and `server`'s addresses are resolved.
    #[must_use]
    pub fn new(
        config: Config,
        now: Instant,
        server: StunServer,
        interfaces: Vec<Interface>,
        seed: [u8; 32],
    ) -> Self {
        let mut env = Env::new(config, seed);
        let mut discovery = Discovery::new(&mut env, now, server);
        discovery.opened(&mut env, now, true);
        Self { env, network: Network::new(interfaces, None, None), discovery, behavior: None }
    }

    /// Takes a datagram that the socket received.
    pub fn handle(&mut self, now: Instant, source: SocketAddr, payload: &[u8]) {
        if let Some(datagram) = Datagram::parse(payload) {
            self.discovery.handle(&mut self.env, &self.network, now, addr::unmap(source), &datagram);
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

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        while let Some(output) = self.env.pop() {
            match output {
                Output::Transmit { to, payload, .. } => return Some((to, payload)),
                Output::Event(Event::Behavior(behavior)) => self.behavior = Some(behavior),
                // What a member would tell its server, and the socket, which is the caller's.
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
