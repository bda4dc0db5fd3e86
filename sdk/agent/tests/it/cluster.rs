//! The cluster comes to amount to something else while the node is a member.

use std::time::Duration;

use crate::rig::{Rig, carry, config};
use meetpoint_agent::{Ended, Event, Input, Output, Socket};
use meetpoint_proto::wire::{ClientMessage, ServerMessage, StunAccess};
use meetpoint_proto::{ClusterNetwork, Code, EffectiveNetwork};

use EffectiveNetwork::{Private, Public};

fn become_(rig: &mut Rig, effective: EffectiveNetwork, stun: Option<StunAccess>) {
    rig.tell(ServerMessage::Cluster { effective, stun });
}

/// Where the main socket sends to, and whether there is a probe.
fn traffic(rig: &mut Rig) -> (Vec<String>, bool) {
    rig.advance(Duration::from_secs(1));
    let mut to: Vec<String> = std::mem::take(&mut rig.sent)
        .into_iter()
        .filter(|(socket, ..)| *socket == Socket::Main)
        .map(|(_, to, _)| to.to_string())
        .collect();
    to.dedup();
    (to, rig.log.iter().any(|output| matches!(output, Output::OpenProbe { .. })))
}

fn hosts(rig: &Rig) -> Option<usize> {
    rig.log.iter().rev().find_map(|output| match output {
        Output::SendControl(ClientMessage::Candidates { host, .. }) => Some(host.len()),
        _ => None,
    })
}

#[test]
fn a_lifted_cluster_starts_what_a_private_one_forbids() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.effective = Private);
    assert_eq!(hosts(&rig), Some(1), "the public address is not offered");
    assert_eq!(traffic(&mut rig), (Vec::new(), false));
    rig.take();
    become_(&mut rig, Public, Some(Rig::stun_access()));
    assert!(rig.log.iter().any(
        |output| matches!(output, Output::Event(Event::ClusterChanged { effective }) if *effective == Public)
    ));
    assert_eq!(hosts(&rig), Some(2));
    assert_eq!(traffic(&mut rig), (vec!["20.0.1.1:3478".to_owned()], true));
    rig.take();

    become_(&mut rig, Private, None);
    assert_eq!(hosts(&rig), Some(1));
    rig.take();
    assert_eq!(traffic(&mut rig), (Vec::new(), false));
    rig.advance(Duration::from_secs(30));
    assert!(rig.sent.is_empty(), "the mapping is no longer kept alive");
}

/// An introduction of before names addresses that do not count any more.
#[test]
fn what_was_asked_for_before_a_lift_is_asked_again() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.effective = Private);
    rig.input(Input::Connect { request: 5, peer: "node-2".to_owned(), wait: true });
    let asked = |rig: &mut Rig| {
        rig.messages().into_iter().find_map(|message| match message {
            ClientMessage::Connect { request, .. } => Some(request),
            _ => None,
        })
    };
    let number = asked(&mut rig).unwrap();
    let mut introduction = rig.introduction(7, 2, &["10.9.9.9:4000"]);
    introduction.requests = vec![number];
    rig.introduce(introduction);
    rig.take();
    become_(&mut rig, Public, Some(Rig::stun_access()));
    assert_eq!(asked(&mut rig), Some(number));
    become_(&mut rig, Public, Some(Rig::stun_access()));
    assert_eq!(asked(&mut rig), None, "nothing has changed");
    rig.advance(Duration::from_secs(30));
    let has_ended = |output: &Output| matches!(output, Output::ConnectEnded { .. });
    assert!(!rig.log.iter().any(has_ended), "the end of the old introduction is not that of the request");
}

/// A credential of a server's making is no leave to speak with the outside.
#[test]
fn a_credential_in_a_private_cluster_is_not_used() {
    let mut rig = Rig::new(1);
    rig.join_with(|welcome| welcome.effective = Private);
    become_(&mut rig, Private, Some(Rig::stun_access()));
    rig.take();
    assert_eq!(traffic(&mut rig), (Vec::new(), false));
}

#[test]
fn public_paths_end_with_the_public_cluster() {
    for (becomes, survives) in [(Private, false), (Public, true)] {
        let (mut a, mut b) = (Rig::new(1), Rig::new(2));
        a.join();
        b.join();
        let (for_a, for_b) =
            (a.introduction(7, 2, &["20.0.0.2:4000"]), b.introduction(7, 1, &["20.0.0.1:4000"]));
        a.introduce(for_a);
        b.introduce(for_b);
        assert!(carry(&mut a, &mut b) > 0);
        assert!(a.paths().iter().any(Option::is_some));
        become_(&mut a, becomes, None);
        assert_eq!(!a.paths().contains(&None), survives, "{becomes}");
        a.introduce(a.introduction(8, 2, &["20.0.0.2:4000"]));
        a.sent.clear();
        a.advance(Duration::from_secs(1));
        assert_eq!(!a.sent.is_empty(), survives, "{becomes}");
    }
}

/// Neither a sealed node nor the member of a cluster whose type is fixed takes such a change.
#[test]
fn what_can_not_change_is_an_error() {
    let cases = [
        (Some(ClusterNetwork::Private), ClusterNetwork::Private, Private, Public),
        (None, ClusterNetwork::Private, Private, Public),
        (None, ClusterNetwork::Public, Public, Private),
    ];
    for (expect, kind, was, becomes) in cases {
        let config = meetpoint_agent::Config { expect, ..config(1) };
        let mut rig = Rig::with(config, [10, 0, 7, 3].into());
        rig.join_with(|welcome| {
            welcome.kind = kind;
            welcome.effective = was;
            welcome.stun = Some(Rig::stun_access()).filter(|_| was == Public);
        });
        rig.take();
        rig.sent.clear();
        become_(&mut rig, becomes, Some(Rig::stun_access()));
        let ended = rig.log.iter().find_map(|output| match output {
            Output::Ended(Ended::Rejected(refusal)) => Some(refusal.code),
            _ => None,
        });
        assert_eq!(ended, Some(Code::ClusterTypeMismatch), "{kind} {becomes}");
        rig.advance(Duration::from_secs(60));
        assert!(rig.sent.is_empty());
    }
}

#[test]
fn a_passive_node_says_once_that_it_was_met_unsolicited() {
    let claims = |rig: &mut Rig| {
        let said = rig.messages().into_iter();
        said.filter(|message| matches!(message, ClientMessage::Unsolicited { .. })).count()
    };
    // The second ticket is for an address that the first one made it send to.
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    a.join();
    b.join();
    for (ticket, pause_s, expect) in [(7, 0, 1), (8, 60, 0), (9, 660, 1)] {
        for rig in [&mut a, &mut b] {
            rig.now += Duration::from_secs(pause_s);
        }
        let mut for_b = b.introduction(ticket, 1, &["20.0.0.1:4000"]);
        for_b.active = false;
        b.introduce(for_b);
        a.introduce(a.introduction(ticket, 2, &["20.0.0.2:4000"]));
        carry(&mut a, &mut b);
        assert_eq!(claims(&mut b), expect, "ticket {ticket}");
        b.input(Input::Release { peer: a.id() });
        a.input(Input::Release { peer: b.id() });
        for rig in [&mut a, &mut b] {
            rig.advance(Duration::from_secs(20));
            rig.sent.clear();
        }
    }
}
