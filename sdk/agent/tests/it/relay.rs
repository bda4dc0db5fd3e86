//! When a node asks for an allocation, and by which way.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use meetpoint_agent::{Defence, Input, Output, PathKind, Socket, StreamId, Way};
use meetpoint_proto::wire::{
    Candidate, CandidateKind, ClientMessage, Introduction, PeerInfo, ServerMessage, StunAccess,
};
use meetpoint_proto::{EffectiveNetwork, HandshakeStart};
use meetpoint_stun::Writer;
use meetpoint_stun::message::{BINDING, Class, TransactionId};

use crate::rig::{Rig, addr};

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

/// UDP that does not answer within one and a half round trips is not waited for: a twentieth of a second, where they
/// are short.
#[test]
fn without_udp_the_first_stream_carries_the_allocation() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(access(true)));
    rig.advance(49 * MS);
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

/// Who is wanted before it knows whether UDP gets through opens a stream at once, and only one; it goes again when UDP
/// answers. Whoever knows need not.
#[test]
fn who_is_wanted_opens_a_stream_beside() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(access(true)));
    rig.advance(MS);
    rig.take();
    rig.tell(ServerMessage::Wanted);
    rig.tell(ServerMessage::Wanted);
    let opened = streams(&rig.take());
    let [(tcp, false)] = opened[..] else { panic!("{opened:?}") };
    // Whatever the server answers, it has been reached.
    let (_, to, binding) = rig.sent.iter().find(|(_, _, payload)| payload[..2] == [0, 1]).unwrap().clone();
    let id = TransactionId(binding[8..20].try_into().unwrap());
    let mut answer = Writer::new(Class::Error, BINDING, id);
    answer.error_code(500);
    rig.datagram(to, &answer.finish());
    let closed = rig.take();
    assert!(closed.iter().any(|output| matches!(output, Output::CloseStream { stream } if *stream == tcp)));
    rig.tell(ServerMessage::Wanted);
    assert_eq!((streams(&rig.take()), allocates(&rig)), (vec![], vec![]));
}

/// The welcome's nonce goes with the first request on a stream, and with none of a datagram.
#[test]
fn a_stream_is_asked_with_the_welcomes_nonce() {
    const NONCE: &str = "obMatJos2gAAAabcdefghijk";
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| {
        welcome.stun = Some(StunAccess { stream_nonce: Some(NONCE.to_owned()), ..access(true) });
    });
    rig.input(Input::Connect { request: 1, peer: "node-2".to_owned(), wait: true });
    let opened = streams(&rig.take());
    rig.input(Input::Stream { stream: opened[0].0, open: true });
    let carries_it = |payload: &[u8]| payload.windows(NONCE.len()).any(|window| window == NONCE.as_bytes());
    let is_allocate = |payload: &[u8]| payload[..2] == [0x00, 0x03];
    let asked = rig.sent.iter().filter(|(_, _, payload)| is_allocate(payload));
    let asked: Vec<(Socket, bool)> =
        asked.map(|(socket, _, payload)| (*socket, carries_it(payload))).collect();
    assert_eq!(asked, [(Socket::Main, false), (Socket::Stream(opened[0].0), true)]);
}

/// Where a handshake may go that nobody has answered a check of, under one ticket of which more and more is told.
fn handshakes(defence_off: bool, relayed: &[&str]) -> Vec<Way> {
    let mut rig = Rig::new(1);
    if defence_off {
        rig.agent.set_defence_off(Defence::OwnRelay);
    }
    rig.join_with(|welcome| welcome.stun = Some(access(true)));
    rig.introduce(rig.introduction(7, 2, &["20.0.0.2:4000"]));
    let ticket = rig.introduction(7, 2, &[]).ticket;
    for text in relayed {
        let candidates = vec![Candidate { kind: CandidateKind::Relay, addr: addr(text) }];
        rig.tell(ServerMessage::Candidates { ticket, candidates });
        rig.advance(100 * MS);
    }
    rig.advance(Duration::from_secs(12));
    let log = rig.take();
    let is_over = |output: &Output| matches!(output, Output::Path { path: None, .. });
    let begun: Vec<Way> = log.iter().filter_map(provisional).collect();
    assert_eq!(log.iter().any(is_over), !begun.is_empty(), "it ends with its ticket: {log:?}");
    begun
}

fn provisional(output: &Output) -> Option<Way> {
    match output {
        Output::Provisional { way, .. } => Some(*way),
        _ => None,
    }
}

/// A handshake begins towards the server's own relay and towards nothing else, whatever is said to be a relayed
/// address; and seldom, however many are named.
#[test]
fn no_handshake_is_aimed_elsewhere() {
    const VICTIM: &str = "20.9.9.9:50000";
    const LENT: &str = "20.0.1.1:50001";
    let to = |text: &str| Way::main(addr(text));
    assert_eq!(handshakes(false, &[LENT]), [to(LENT); 2]);
    assert_eq!(handshakes(false, &["20.0.0.2:4000"]), [], "where the peer itself is");
    assert_eq!(handshakes(true, &[VICTIM]), [to(VICTIM); 2], "the attack");
    assert_eq!(handshakes(false, &[VICTIM]), []);
    let many: Vec<String> = (0..40).map(|n| format!("20.0.1.1:{}", 50_000 + n)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(handshakes(false, &many).len(), 6);
}

const PEERS_RELAY: &str = "20.0.1.1:50001";

/// A member of a cluster that relays, and a peer that is announced.
fn member(announced: Option<bool>) -> Rig {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.stun = Some(access(true)));
    if let Some(relayed) = announced {
        let id = rig.certificate(2).node;
        let peer = PeerInfo { id, name: "node-2".to_owned(), class: None, relayed };
        rig.tell(ServerMessage::Peers { peers: vec![peer] });
    }
    rig.take();
    rig
}

/// What the requests in a log bring along.
fn brought(log: &[Output]) -> Vec<Option<HandshakeStart>> {
    let asked = log.iter().filter_map(|output| match output {
        Output::SendControl(ClientMessage::Connect { handshake, .. }) => Some(handshake.clone()),
        _ => None,
    });
    asked.collect()
}

/// The request waits a moment for what the handshake begins with, and for no longer. Whoever may not be here is not
/// begun with.
#[test]
fn a_handshake_begins_with_the_call() {
    let id = Rig::new(1).certificate(2).node;
    let start = || Some(vec![0xC0; 1_200]);
    let too_long = || Some(vec![0xC0; 1_400]);
    for (announced, peer, wait, datagram, expect_begun, expect_len) in [
        (Some(false), "node-2", true, start(), true, Some(1_200)),
        (Some(true), &id.to_string()[..], true, start(), true, Some(1_200)),
        (Some(false), "node-2", true, None, true, None),
        (Some(false), "node-2", true, too_long(), true, None),
        (None, "node-2", false, start(), false, None),
        (None, &id.to_string(), true, start(), false, None),
        (None, &id.to_string(), false, start(), true, Some(1_200)),
    ] {
        let case = format!("{announced:?} {peer} {wait}");
        let mut rig = member(announced);
        rig.input(Input::Connect { request: 5, peer: peer.to_owned(), wait });
        let log = rig.take();
        let begun =
            log.iter().any(|output| matches!(output, Output::Begin { request: 5, peer, .. } if *peer == id));
        assert_eq!((begun, brought(&log).len()), (expect_begun, usize::from(!expect_begun)), "{case}");
        rig.input(Input::Begun { request: 5, datagram: datagram.clone() });
        let sent = brought(&rig.take());
        let lens: Vec<_> =
            sent.iter().map(|start| start.as_ref().map(|start| start.as_bytes().len())).collect();
        assert_eq!(lens, if expect_begun { vec![expect_len] } else { vec![] }, "{case}");
        // Once.
        rig.input(Input::Begun { request: 5, datagram });
        assert_eq!(brought(&rig.take()), [], "{case}");
        rig.input(Input::CancelConnect { request: 5 });
        let is_over = |output: &Output| matches!(output, Output::Path { path: None, .. });
        assert_eq!(rig.take().iter().any(is_over), expect_begun, "{case}");
    }
    let mut rig = member(Some(false));
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    rig.advance(19 * MS);
    assert_eq!(brought(&rig.take()), []);
    rig.advance(MS);
    assert_eq!(brought(&rig.take()), [None], "the shell is too slow");
}

/// What came with the introduction is passed on, once, where it may be answered.
#[test]
fn a_handshake_comes_with_the_introduction() {
    for (relays, probe, expect) in [(true, false, 1), (false, false, 0), (true, true, 0)] {
        let mut rig = Rig::new(1);
        rig.join_with(|welcome| welcome.stun = Some(access(relays)));
        let handshake = HandshakeStart::new(vec![0xC0; 1_200]).ok();
        let half = Introduction { handshake, probe, ..rig.introduction(7, 2, &["20.0.0.2:4000"]) };
        rig.introduce(half.clone());
        rig.introduce(half);
        let log = rig.take();
        let came = log.iter().filter(|output| matches!(output, Output::Handshake { .. })).count();
        assert_eq!(came, expect, "{relays} {probe}");
    }
}

/// By which way data would go once QUIC's handshake is done, where the peer's check has come from `source` and it is
/// said to have the relayed address `named`; nobody has answered a check of the node's own.
fn way_after_handshake(defence_off: bool, named: &str, source: &str) -> Option<(Way, PathKind)> {
    let mut rig = member(Some(false));
    if defence_off {
        rig.agent.set_defence_off(Defence::OwnRelay);
    }
    let mut peer = Rig::new(2);
    peer.join();
    rig.introduce(rig.introduction(7, 2, &["20.0.0.2:4000"]));
    peer.introduce(peer.introduction(7, 1, &["20.0.0.1:4000"]));
    let ticket = rig.introduction(7, 2, &[]).ticket;
    let candidates = vec![Candidate { kind: CandidateKind::Relay, addr: addr(named) }];
    rig.tell(ServerMessage::Candidates { ticket, candidates });
    rig.take();
    let id = peer.id();
    rig.input(Input::HandshakeDone { peer: id });
    assert_eq!(rig.paths(), [], "no check has come");
    let checks = std::mem::take(&mut peer.sent);
    rig.datagram(addr(source), &checks.first().unwrap().2);
    rig.input(Input::HandshakeDone { peer: id });
    let found = rig.paths().into_iter().flatten().next().map(|path| (path.way, path.kind));
    // It is a path like any other, and has to show that it is one.
    rig.advance(Duration::from_secs(6));
    assert_eq!(rig.paths().contains(&None), found.is_some());
    found
}

/// A handshake that is done makes a path of a way by the server's own relay that the peer's check came by, and of
/// nothing else, whatever is said to be a relayed address and wherever checks seem to come from.
#[test]
fn a_finished_handshake_sends_data_nowhere_else() {
    const VICTIM: &str = "20.9.9.9:50000";
    let to = |text: &str| Some((Way::main(addr(text)), PathKind::Relayed));
    assert_eq!(way_after_handshake(false, PEERS_RELAY, PEERS_RELAY), to(PEERS_RELAY));
    assert_eq!(way_after_handshake(false, PEERS_RELAY, "20.0.0.2:4000"), None, "where the peer itself is");
    assert_eq!(way_after_handshake(false, PEERS_RELAY, "20.0.1.1:50002"), None, "another's relayed address");
    assert_eq!(way_after_handshake(true, VICTIM, VICTIM), to(VICTIM), "the attack");
    assert_eq!(way_after_handshake(false, VICTIM, VICTIM), None);
}
