//! Roaming: what a node does when it, or its peer, sends from elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::rig::{MS, Rig, addr};
use meetpoint_agent::{Input, Output, Path, Socket};
use meetpoint_proto::NodeId;
use meetpoint_proto::wire::{ClientMessage, Introduction};

/// Where node 1 is after it has moved.
const ELSEWHERE: &str = "20.0.0.77:5000";
/// The silence that would pass until consent gives a way up.
const CONSENT: Duration = Duration::from_secs(5);

/// Two nodes with a path, and nothing under way.
fn met() -> (Rig, Rig) {
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    a.join();
    b.join();
    a.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    let number = asked(&mut a).pop().expect("a request");
    a.introduce(Introduction { requests: vec![number], ..a.introduction(1, 2, &["20.0.0.2:4000"]) });
    b.introduce(b.introduction(1, 1, &["20.0.0.1:4000"]));
    let places = [a.main(), b.main()];
    for _ in 0..200 {
        carry(&mut a, &mut b, places, places);
        a.advance(100 * MS);
        b.advance(100 * MS);
    }
    carry(&mut a, &mut b, places, places);
    assert!(matches!(a.paths()[..], [.., Some(path)] if path.way.remote == b.main()));
    assert!(matches!(b.paths()[..], [.., Some(path)] if path.way.remote == a.main()));
    (a, b)
}

fn asked(rig: &mut Rig) -> Vec<u32> {
    let number = |message| match message {
        ClientMessage::Connect { request, .. } => Some(request),
        _ => None,
    };
    rig.messages().into_iter().filter_map(number).collect()
}

/// Carries datagrams: what each sends comes from its place in `from`, and arrives if it goes to the other's place in
/// `to`.
fn carry(a: &mut Rig, b: &mut Rig, from: [SocketAddr; 2], to: [SocketAddr; 2]) {
    loop {
        let (from_a, from_b) = (std::mem::take(&mut a.sent), std::mem::take(&mut b.sent));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        for (_, _, payload) in from_a.into_iter().filter(|(_, target, _)| *target == to[1]) {
            b.datagram(from[0], &payload);
        }
        for (_, _, payload) in from_b.into_iter().filter(|(_, target, _)| *target == to[0]) {
            a.datagram(from[1], &payload);
        }
    }
}

/// Lets both go on for so long.
fn go_on(a: &mut Rig, b: &mut Rig, places: [SocketAddr; 2], time: Duration) {
    let end = a.now + time;
    while a.now < end {
        carry(a, b, places, places);
        a.advance(10 * MS);
        b.advance(10 * MS);
    }
    carry(a, b, places, places);
}

fn remotes(paths: &[Option<Path>]) -> Vec<Option<SocketAddr>> {
    paths.iter().map(|path| path.map(|path| path.way.remote)).collect()
}

fn moved() -> Input<'static> {
    Input::Rerouted { source: Some(IpAddr::from([10, 0, 7, 2])) }
}

#[test]
fn a_peer_follows_a_node_that_moved_within_a_second() {
    let (mut a, mut b) = met();
    a.take();
    a.input(moved());
    let places = [addr(ELSEWHERE), b.main()];
    go_on(&mut a, &mut b, places, 500 * MS);
    assert_eq!(remotes(&b.paths()), [Some(addr(ELSEWHERE))], "the old way is left for the new one, and once");
    let log = a.take();
    assert!(!log.iter().any(|output| matches!(output, Output::Path { path: None, .. })), "{log:?}");
    // Nothing more comes of it.
    go_on(&mut a, &mut b, places, 3 * CONSENT);
    assert!(remotes(&b.paths()).iter().all(|remote| *remote == Some(addr(ELSEWHERE))));
    assert!(!a.paths().contains(&None));
}

#[test]
fn a_node_that_moved_joins_from_there_and_asks_for_its_peers() {
    let (mut a, mut b) = met();
    // The peer's NAT lets nothing in from the new place.
    let nowhere = [addr(ELSEWHERE), addr("20.0.0.99:9")];
    a.take();
    a.input(moved());
    let log = a.take();
    assert!(log.iter().any(|output| matches!(output, Output::OpenControl { .. })), "{log:?}");
    assert!(
        !log.iter().any(|output| matches!(output, Output::SendControl(_))),
        "not on the dead connection: {log:?}"
    );
    carry(&mut a, &mut b, nowhere, nowhere);
    a.local = SocketAddr::new([10, 0, 7, 2].into(), 3333);
    a.open();
    a.challenge().expect("a proof");
    let welcome = a.welcome();
    a.take();
    a.tell(meetpoint_proto::wire::ServerMessage::Welcome(Box::new(welcome)));
    let number = asked(&mut a).pop().expect("it asks for its peer");
    a.introduce(Introduction { requests: vec![number], ..a.introduction(2, 2, &["20.0.0.2:4000"]) });
    b.take();
    b.introduce(b.introduction(2, 1, &[ELSEWHERE]));
    let places = [addr(ELSEWHERE), b.main()];
    go_on(&mut a, &mut b, places, 500 * MS);
    assert_eq!(remotes(&b.paths()), [Some(addr(ELSEWHERE))]);
    assert!(!a.paths().contains(&None), "the path stays");
}

#[test]
fn doubt_alone_breaks_nothing() {
    let (mut a, mut b) = met();
    let places = [a.main(), b.main()];
    let source = Some(a.local.ip());
    // The same source by another router: the ways answer, and that is all.
    a.take();
    a.input(Input::Rerouted { source });
    assert!(a.take().iter().any(|output| matches!(output, Output::SendControl(ClientMessage::Ping { .. }))));
    go_on(&mut a, &mut b, places, CONSENT);
    assert!(!a.paths().contains(&None) && !b.paths().contains(&None));
    // Nobody answers: there is nothing better, so the way stays until consent has decided.
    a.input(Input::Rerouted { source });
    a.sent.clear();
    a.advance(2 * CONSENT / 3);
    assert!(!a.paths().contains(&None));
    let checks = a.sent.iter().filter(|(socket, to, _)| *socket == Socket::Main && *to == b.main()).count();
    assert!(checks <= 12, "a few checks, and consent's: {checks}");
    a.advance(3 * CONSENT);
    assert_eq!(a.paths(), [None]);
}

/// Whoever replays a peer's check from elsewhere moves no path: the doubted way answers.
#[test]
fn a_check_from_elsewhere_moves_nothing_that_answers() {
    let (mut a, mut b) = met();
    let places = [a.main(), b.main()];
    a.input(Input::Rerouted { source: Some(a.local.ip()) });
    let (_, _, payload) = a.sent.first().cloned().expect("a check");
    b.take();
    b.datagram(addr("20.0.0.66:6"), &payload);
    go_on(&mut a, &mut b, places, CONSENT);
    assert!(remotes(&b.paths()).iter().all(|remote| *remote == Some(a.main())));
}

/// A peer that is gone for good is asked for no longer than its path lasts.
#[test]
fn what_was_asked_for_ends_with_the_link() {
    let (mut a, _) = met();
    let source = a.local.ip();
    a.take();
    a.input(moved());
    a.open();
    a.challenge().expect("a proof");
    let welcome = a.welcome();
    a.take();
    a.tell(meetpoint_proto::wire::ServerMessage::Welcome(Box::new(welcome)));
    let number = asked(&mut a).pop().expect("it asks for its peer");
    // It is held, so that losing it begins a repair; released, nothing is left of it.
    let peer = NodeId::from(&crate::rig::config(2).key);
    a.input(Input::Release { peer });
    let cancelled =
        |message| matches!(message, ClientMessage::CancelConnect { request } if request == number);
    assert!(a.messages().into_iter().any(cancelled));
    a.input(Input::Rerouted { source: Some(source) });
    assert!(asked(&mut a).is_empty(), "nobody is left to ask for");
}
