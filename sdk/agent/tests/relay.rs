//! When a node asks for an allocation, and by which way.
#![allow(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::time::Duration;

use meetpoint_agent::{Input, Output, Socket, StreamId};
use meetpoint_proto::EffectiveNetwork;
use meetpoint_proto::wire::StunAccess;

use rig::{Rig, addr};

const MS: Duration = Duration::from_millis(1);

fn access(relays: bool) -> StunAccess {
    let relay = if relays { vec![[20, 0, 1, 1].into()] } else { Vec::new() };
    StunAccess { relay, tcp: Some(3478), tls: Some(5349), ..Rig::stun_access() }
}

/// Allocate requests, and the sockets that they left by.
fn allocates(rig: &Rig) -> Vec<Socket> {
    let is_allocate = |payload: &[u8]| payload[..2] == [0x00, 0x03];
    rig.sent.iter().filter(|(_, _, payload)| is_allocate(payload)).map(|(socket, ..)| *socket).collect()
}

fn streams(log: &[Output]) -> Vec<(StreamId, bool)> {
    let opened = log.iter().filter_map(|output| match output {
        Output::OpenStream { stream, tls, .. } => Some((*stream, *tls)),
        _ => None,
    });
    opened.collect()
}

/// Servers lend ports, so nodes that can be met directly hold none; and nothing is relayed for a PRIVATE cluster.
#[test]
fn an_allocation_is_made_when_somebody_is_to_be_met() {
    let public = EffectiveNetwork::Public;
    for (effective, relays, expect) in
        [(public, true, 1), (public, false, 0), (EffectiveNetwork::Private, true, 0)]
    {
        let mut rig = Rig::new(1);
        rig.join_with(|welcome| (welcome.effective, welcome.stun) = (effective, Some(access(relays))));
        assert_eq!(allocates(&rig), []);
        rig.input(Input::Connect { request: 1, peer: "node-2".to_owned(), wait: true });
        assert_eq!(allocates(&rig), vec![Socket::Main; expect], "{effective} {relays}");
    }
}

/// UDP that does not answer within three round trips is not waited for: a tenth of a second, where they are short.
#[test]
fn without_udp_the_first_stream_carries_the_allocation() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(access(true)));
    rig.advance(99 * MS);
    assert_eq!(streams(&rig.take()), []);
    rig.advance(MS);
    let opened = streams(&rig.take());
    let [(tcp, false)] = opened[..] else { panic!("{opened:?}") };
    rig.advance(250 * MS);
    let opened = streams(&rig.take());
    let [(tls, true)] = opened[..] else { panic!("{opened:?}") };
    rig.input(Input::Stream { stream: tls, open: true });
    let log = rig.take();
    let is_closed = |output: &Output| matches!(output, Output::CloseStream { stream } if *stream == tcp);
    assert!(log.iter().any(is_closed), "{log:?}");
    assert_eq!(allocates(&rig), [Socket::Stream(tls)]);
    let to = rig.sent.last().map(|(_, to, _)| *to);
    assert_eq!(to, Some(addr("20.0.1.1:5349")));

    // The server hangs up: there is another attempt, a while later.
    rig.input(Input::Stream { stream: tls, open: false });
    rig.advance(Duration::from_secs(60));
    assert!(!streams(&rig.take()).is_empty());
}
