//! Ports that routers map: claims, until they are observed and proven.

use std::time::Duration;

use crate::rig::{Rig, addr};
use meetpoint_broker::{ConnId, Output};
use meetpoint_proto::wire::{CandidateKind, ClientMessage};
use meetpoint_proto::{EffectiveNetwork, Evidence, NetworkClass};

const PRIVATE: Option<(NetworkClass, Evidence)> = Some((NetworkClass::Private, Evidence::Observed));
const REACHABLE: Option<(NetworkClass, Evidence)> = Some((NetworkClass::PublicReachable, Evidence::Proven));

fn claim(rig: &mut Rig, conn: ConnId, mapped: &[&str]) {
    let mapped = mapped.iter().map(|text| addr(text)).collect();
    rig.say(conn, ClientMessage::Candidates { host: Vec::new(), relay: Vec::new(), mapped });
}

/// A node behind a NAT, of which nothing is proven: its dial-back has not come in.
fn behind_a_nat() -> (Rig, ConnId) {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    rig.observe(conn, "20.0.0.11:7000");
    rig.live(Duration::from_secs(20));
    assert_eq!(rig.class(conn), PRIVATE);
    (rig, conn)
}

/// Where dial-backs went since the last look.
fn dialled(rig: &mut Rig) -> Vec<String> {
    let to = |output: &Output| match output {
        Output::DialBack { to, .. } => Some(to.to_string()),
        _ => None,
    };
    let dialled = rig.log.iter().filter_map(to).collect();
    rig.log.clear();
    dialled
}

#[test]
fn a_mapped_port_is_proven_like_any_other_place() {
    let (mut rig, conn) = behind_a_nat();
    dialled(&mut rig);
    claim(&mut rig, conn, &["20.0.0.11:4000"]);
    let (to, nonce) = rig.dial_back().expect("a dial-back");
    assert_eq!(to, addr("20.0.0.11:4000"));
    rig.say(conn, ClientMessage::DialBackSeen { nonce });
    assert_eq!(rig.class(conn), REACHABLE);
    // Said again it changes nothing; gone it takes the class along.
    rig.log.clear();
    claim(&mut rig, conn, &["20.0.0.11:4000"]);
    assert_eq!(dialled(&mut rig), Vec::<String>::new());
    claim(&mut rig, conn, &[]);
    assert_eq!(rig.class(conn), PRIVATE);
}

/// Each row claims something that nobody may be sent to.
#[test]
fn claims_elsewhere_count_for_nothing() {
    for claimed in [
        &["20.66.66.66:53"][..],
        &["10.0.1.2:4000"],
        &["20.0.0.11:0"],
        &["224.0.0.1:53", "127.0.0.1:53"],
        // Only the first two are looked at.
        &["20.66.66.66:1", "20.66.66.66:2", "20.0.0.11:4000"],
    ] {
        let (mut rig, conn) = behind_a_nat();
        dialled(&mut rig);
        claim(&mut rig, conn, claimed);
        rig.live(Duration::from_secs(120));
        assert_eq!(dialled(&mut rig), Vec::<String>::new(), "{claimed:?}");
        let peer = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
        rig.observe(peer, "20.0.0.12:7000");
        rig.say(
            peer,
            ClientMessage::Connect { request: 1, peer: "node-1".to_owned(), wait: false, handshake: None },
        );
        let shown: Vec<_> = rig.introductions(peer)[0].candidates.iter().map(|c| c.addr).collect();
        assert_eq!(shown, [addr("20.0.0.11:7000")], "{claimed:?}");
    }
}

#[test]
fn a_claim_counts_from_the_observation_on_and_is_shown_as_mapped() {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let conn = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    claim(&mut rig, conn, &["20.0.0.11:4000"]);
    assert_eq!(dialled(&mut rig), Vec::<String>::new());
    rig.observe(conn, "20.0.0.11:7000");
    rig.live(Duration::from_secs(30));
    assert_eq!(dialled(&mut rig), ["20.0.0.11:7000", "20.0.0.11:4000"]);
    let peer = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.observe(peer, "20.0.0.12:7000");
    rig.say(
        peer,
        ClientMessage::Connect { request: 1, peer: "node-1".to_owned(), wait: false, handshake: None },
    );
    let shown: Vec<_> = rig.introductions(peer)[0].candidates.iter().map(|c| (c.kind, c.addr)).collect();
    let (observed, mapped) = (addr("20.0.0.11:7000"), addr("20.0.0.11:4000"));
    assert_eq!(shown, [(CandidateKind::Srflx, observed), (CandidateKind::Mapped, mapped)]);
}

/// A node that moves leaves its router's port behind; who comes next to that address has it then.
#[test]
fn a_proof_does_not_move_along() {
    let (mut rig, conn) = behind_a_nat();
    rig.log.clear();
    claim(&mut rig, conn, &["20.0.0.11:4000"]);
    let (_, nonce) = rig.dial_back().expect("a dial-back");
    rig.say(conn, ClientMessage::DialBackSeen { nonce });
    assert_eq!(rig.class(conn), REACHABLE);
    rig.observe(conn, "20.0.0.99:7000");
    rig.live(Duration::from_secs(20));
    assert_eq!(rig.class(conn), PRIVATE);
    dialled(&mut rig);
    rig.observe(conn, "20.0.0.11:7001");
    rig.live(Duration::from_secs(30));
    assert_eq!(rig.class(conn), PRIVATE, "to be proven anew");
    assert!(dialled(&mut rig).contains(&"20.0.0.11:4000".to_owned()));
}
