//! When a router is asked for a port, and who is told of it.

use std::net::{IpAddr, SocketAddr};

use crate::rig::{Rig, addr, config};
use meetpoint_agent::{Input, Interface, Output};
use meetpoint_proto::wire::{ClientMessage, ServerMessage};
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork};

fn behind_a_nat(expect: Option<ClusterNetwork>) -> Rig {
    let mut config = config(1);
    config.expect = expect;
    let mut rig = Rig::with(config, IpAddr::from([10, 0, 7, 2]));
    rig.server = addr("10.0.7.1:8080");
    rig
}

fn join(rig: &mut Rig, kind: ClusterNetwork, effective: EffectiveNetwork) {
    rig.join_with(|welcome| (welcome.kind, welcome.effective) = (kind, effective));
}

fn asked(log: &[Output]) -> Vec<bool> {
    let wanted = |output: &Output| match output {
        Output::MapPort { wanted } => Some(*wanted),
        _ => None,
    };
    log.iter().filter_map(wanted).collect()
}

fn told(log: &[Output]) -> Option<Vec<SocketAddr>> {
    let mapped = |output: &Output| match output {
        Output::SendControl(ClientMessage::Candidates { mapped, .. }) => Some(mapped.clone()),
        _ => None,
    };
    log.iter().rev().find_map(mapped)
}

#[test]
fn when_a_router_is_asked() {
    use ClusterNetwork::{Dynamic, Private, Public};
    let cases = [
        (None, Dynamic, EffectiveNetwork::Public, vec![true]),
        (None, Public, EffectiveNetwork::Public, vec![true]),
        (None, Dynamic, EffectiveNetwork::Private, vec![]),
        (None, Private, EffectiveNetwork::Private, vec![]),
        (Some(Private), Private, EffectiveNetwork::Private, vec![]),
        // A liar: a sealed node is told of an open cluster.
        (Some(Private), Dynamic, EffectiveNetwork::Public, vec![]),
    ];
    for (expect, kind, effective, wanted) in cases {
        let mut rig = behind_a_nat(expect);
        join(&mut rig, kind, effective);
        assert_eq!(asked(&rig.take()), wanted, "{expect:?} {kind} {effective}");
    }
    // Who has a public address needs no port of a router's.
    let mut rig = Rig::new(1);
    join(&mut rig, Dynamic, EffectiveNetwork::Public);
    assert!(asked(&rig.take()).is_empty());
}

#[test]
fn a_port_goes_with_the_open_cluster_and_the_nat() {
    let mut rig = behind_a_nat(None);
    join(&mut rig, ClusterNetwork::Dynamic, EffectiveNetwork::Private);
    for (effective, expect) in [(EffectiveNetwork::Public, true), (EffectiveNetwork::Private, false)] {
        rig.take();
        rig.tell(ServerMessage::Cluster { effective, stun: None });
        assert_eq!(asked(&rig.take()), [expect], "{effective}");
    }
    rig.tell(ServerMessage::Cluster { effective: EffectiveNetwork::Public, stun: None });
    rig.take();
    let public = Interface { ip: IpAddr::from([20, 0, 0, 1]), prefix_len: 24 };
    rig.input(Input::Interfaces { list: vec![public], port_v4: Some(4000), port_v6: None });
    assert_eq!(asked(&rig.take()), [false]);
}

#[test]
fn the_server_is_told_in_the_open_only() {
    let mapped = vec![addr("20.0.0.9:4000")];
    let mut rig = behind_a_nat(None);
    rig.input(Input::Mapped { addrs: mapped.clone() });
    join(&mut rig, ClusterNetwork::Dynamic, EffectiveNetwork::Private);
    assert_eq!(told(&rig.take()), Some(vec![]));
    rig.tell(ServerMessage::Cluster { effective: EffectiveNetwork::Public, stun: None });
    assert_eq!(told(&rig.take()), Some(mapped));
    rig.input(Input::Mapped { addrs: Vec::new() });
    assert_eq!(told(&rig.take()), Some(vec![]));
}
