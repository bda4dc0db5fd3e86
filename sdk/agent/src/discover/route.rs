//! How many address translators there are on the way out.
//!
//! A router that has to drop a datagram because its time to live is over says so, and from where (RFC 792). Each says
//! it from its address on the near side, so the addresses show which network lies before each router: as long as they
//! are private there may be one more translator, and before the first one with an address of the internet stands the
//! last. That is an upper bound, and likely: a router with a private address may just route, and a carrier may number
//! its routers before its own translator from the internet's addresses. One thing is proof: where a router answers from
//! the very address under which the internet sees the node, the way of translations ends there. A router that does not
//! answer may be anything, so where one is silent nothing is told, but for that proof.
//!
//! The datagrams are Bindings for the server, with which the node has a session; they are sent once in each network,
//! after all else that the discovery does, and nothing waits for what comes of it.

use std::net::{IpAddr, SocketAddr};

use meetpoint_proto::NatDepth;
use meetpoint_proto::addr::{self, AddressClass};

use crate::agent::Agent;
use crate::api::Output;
use crate::env::Env;
use crate::stun;

/// Routers that are asked: a home's own, its provider's, and some of a company or a carrier.
const MOST_HOPS: u8 = 5;

/// The question and what came of it, in the present network.
#[derive(Debug, Default)]
pub(crate) struct Route {
    /// Of the newest question: whatever answers one of before is about another network.
    number: u32,
    is_asked: bool,
    /// The address under which the internet sees the node.
    external: Option<IpAddr>,
    depth: Option<NatDepth>,
}

impl Route {
    pub(crate) fn depth(&self) -> Option<NatDepth> {
        self.depth
    }

    /// The network is another one.
    pub(crate) fn forget(&mut self) {
        *self = Self { number: self.number.wrapping_add(1), ..Self::default() };
    }

    /// Who has answered.
    pub(crate) fn told(&mut self, hops: &[Option<IpAddr>]) {
        self.depth = self.external.and_then(|external| depth(hops, external));
    }
}

impl Env {
    /// Has the routers asked, once in each network, if a NAT of IPv4 is known to stand there.
    pub(crate) fn trace_route(&mut self, server: SocketAddr, external: Option<IpAddr>) {
        if self.route.is_asked || server.is_ipv6() || external.is_none() {
            return;
        }
        (self.route.is_asked, self.route.external) = (true, external);
        let payload = stun::binding(self.transaction_id());
        let number = self.route.number;
        self.push(Output::TraceRoute { number, to: server, payload, most: MOST_HOPS });
    }
}

impl Agent {
    /// The routers have been asked.
    pub(crate) fn route_told(&mut self, number: u32, hops: &[Option<IpAddr>]) {
        if number != self.env.route.number {
            return;
        }
        self.env.route.told(hops);
        let depth = self.env.route.depth();
        if let Some(behavior) = self.behavior.as_mut().filter(|behavior| behavior.depth != depth) {
            behavior.depth = depth;
            self.tell_behavior();
        }
    }
}

/// True of an answer from the internet: what lies behind it is of no interest.
#[must_use]
pub fn ends_route(hop: IpAddr) -> bool {
    addr::classify(hop) == AddressClass::Public
}

/// What the routers' addresses, the nearest first, tell a node that the internet sees at this one.
fn depth(hops: &[Option<IpAddr>], external: IpAddr) -> Option<NatDepth> {
    let count = |routers: usize| u8::try_from(routers).ok().filter(|routers| *routers > 0);
    if let Some(at) = hops.iter().position(|hop| *hop == Some(external)) {
        return Some(NatDepth { at_most: count(at + 1)?, proven: true });
    }
    let end = hops.iter().position(|hop| hop.is_none_or(ends_route))?;
    // Whoever is silent there may be anything.
    hops[end]?;
    Some(NatDepth { at_most: count(end)?, proven: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTERNAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(20, 0, 9, 1));

    /// Routers by their addresses, the nearest first; `*` is one that does not answer.
    #[test]
    fn depth_table() {
        let (likely, proven) = (|most| Some((most, false)), |most| Some((most, true)));
        let cases = [
            ("10.0.0.1 20.0.0.1", likely(1)),
            ("192.168.1.1 100.64.7.1 20.0.0.1", likely(2)),
            ("192.168.1.1 10.20.0.1 20.0.0.1", likely(2)),
            // Whether the second translates is not told: it may be a company's own router.
            ("10.0.0.1 10.0.9.1 172.16.0.1 20.0.0.1", likely(3)),
            ("10.0.0.1 10.0.9.1 172.16.0.1 100.64.0.1 20.0.0.1", likely(4)),
            // RFC 6333, section 5.7: the translator of Dual-Stack Lite; and a link of its own addresses.
            ("192.168.1.1 192.0.0.1 20.0.0.1", likely(2)),
            ("192.168.1.1 169.254.0.1 20.0.0.1", likely(2)),
            // None of the first ones is on the internet.
            ("10.0.0.1 10.0.9.1 172.16.0.1 100.64.0.1 100.64.0.5", None),
            ("10.0.0.1", None),
            ("", None),
            // Silence.
            ("* * * * *", None),
            ("* 20.0.0.1", None),
            ("10.0.0.1 * 20.0.0.1", None),
            ("10.0.0.1 100.64.0.1 *", None),
            // Who has the node's own public address ends it, whoever is silent before.
            ("20.0.9.1", proven(1)),
            ("10.0.0.1 20.0.9.1", proven(2)),
            ("* 20.0.9.1", proven(2)),
            ("10.0.0.1 20.0.0.1 20.0.9.1", proven(3)),
            // A machine whose first router is on the internet has no room for a translator, and yet there is one.
            ("20.0.0.1", None),
        ];
        for (routers, expect) in cases {
            let parse = |word: &str| (word != "*").then(|| word.parse().unwrap());
            let hops: Vec<Option<IpAddr>> = routers.split_whitespace().map(parse).collect();
            let expect = expect.map(|(at_most, proven)| NatDepth { at_most, proven });
            assert_eq!(depth(&hops, EXTERNAL), expect, "{routers}");
        }
    }

    #[test]
    fn the_internet_ends_the_way() {
        let cases = [
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("192.0.0.1", false),
            ("169.254.9.9", false),
            ("127.0.0.1", false),
            ("20.0.0.1", true),
            ("100.128.0.1", true),
        ];
        for (ip, expect) in cases {
            assert_eq!(ends_route(ip.parse().unwrap()), expect, "{ip}");
        }
    }

    /// One question in each network, and its answer alone.
    #[test]
    fn once_in_each_network() {
        let mut route = Route { is_asked: true, external: Some(EXTERNAL), ..Route::default() };
        let hops = [Some([10, 0, 0, 1].into()), Some([20, 0, 0, 1].into())];
        route.told(&hops);
        assert_eq!(route.depth(), Some(NatDepth { at_most: 1, proven: false }));
        route.forget();
        assert_eq!((route.depth(), route.is_asked, route.number), (None, false, 1));
        route.told(&hops);
        assert_eq!(route.depth(), None, "no NAT is known there yet");
    }
}
