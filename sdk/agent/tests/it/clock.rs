//! Attack: a node's clock is set wrong. It has no say: a node judges by the time that its server tells.

use std::time::Duration;

use crate::rig::{IDLE, Rig, UNIX_S, addr};
use meetpoint_agent::{Event, Output};
use meetpoint_proto::Certificate;
use meetpoint_proto::wire::{ClientMessage, Renewal, ServerMessage};

const HOUR_S: u64 = 3_600;
const YEAR_S: u64 = 365 * 24 * HOUR_S;

/// What becomes of a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    joined: bool,
    /// A member is introduced, and checks go out to it.
    meets_a_member: bool,
    /// So is somebody whose membership ended an hour ago.
    meets_a_former_member: bool,
}

fn checks_sent(rig: &mut Rig, ticket: u8, peer: u8, change: impl FnOnce(&mut Certificate)) -> bool {
    let there = format!("20.0.0.{peer}:4000");
    let mut introduction = rig.introduction(ticket, peer, &[&there]);
    let mut certificate = rig.certificate(peer);
    certificate.not_before_unix_s -= 10 * HOUR_S;
    change(&mut certificate);
    introduction.certificate = rig.resign(&certificate);
    rig.sent.clear();
    rig.introduce(introduction);
    rig.sent.iter().any(|(_, to, _)| *to == addr(&there))
}

/// The node's own certificate holds for ten hours before and after the server's present.
fn fate(own_clock_s: Option<u64>) -> Fate {
    let mut rig = Rig::new(1);
    if let Some(own_clock_s) = own_clock_s {
        rig.agent.trust_own_clock(own_clock_s * 1_000);
    }
    rig.open();
    rig.challenge().expect("a proof");
    let mut certificate = rig.own_certificate();
    certificate.not_before_unix_s -= 10 * HOUR_S;
    certificate.not_after_unix_s += 10 * HOUR_S;
    let mut welcome = rig.welcome();
    welcome.certificate = rig.resign(&certificate);
    rig.tell(ServerMessage::Welcome(Box::new(welcome)));
    let joined = |output: &Output| matches!(output, Output::Event(Event::Joined { .. }));
    if !rig.take().iter().any(joined) {
        return Fate::default();
    }
    let meets_a_member = checks_sent(&mut rig, 1, 2, |_| {});
    let ended = |certificate: &mut Certificate| certificate.not_after_unix_s = UNIX_S - HOUR_S;
    Fate { joined: true, meets_a_member, meets_a_former_member: checks_sent(&mut rig, 2, 3, ended) }
}

#[test]
fn a_wrong_clock_keeps_nobody_out_and_lets_nobody_in() {
    let out = Fate::default();
    let right = Fate { joined: true, meets_a_member: true, meets_a_former_member: false };
    let careless = Fate { meets_a_former_member: true, ..right };
    let lonely = Fate { meets_a_member: false, ..right };
    // Where the node's own clock is believed.
    let cases = [
        (UNIX_S - YEAR_S, &out),
        (UNIX_S - 2 * HOUR_S, &careless),
        (UNIX_S, &right),
        (UNIX_S + 2 * HOUR_S, &lonely),
        (UNIX_S + YEAR_S, &out),
    ];
    for (own_clock_s, expect) in cases {
        assert_eq!(fate(Some(own_clock_s)), *expect, "a clock that stands at {own_clock_s}");
    }
    // It is not, and can't be: the node is not even told.
    assert_eq!(fate(None), right);
}

/// Whatever year the server lives in: the node joins, meets peers, and has its membership renewed in time.
#[test]
fn a_node_lives_in_the_servers_year() {
    for year in [1, 30, 56, 57, 58, 130] {
        let now_s = year * YEAR_S;
        let mut rig = Rig::new(1);
        rig.open();
        rig.challenge().expect("a proof");
        let at = |certificate: &mut Certificate, begin_s: u64| {
            (certificate.not_before_unix_s, certificate.not_after_unix_s) = (begin_s, begin_s + HOUR_S);
        };
        let mut certificate = rig.own_certificate();
        at(&mut certificate, now_s);
        let mut welcome = rig.welcome();
        welcome.certificate = rig.resign(&certificate);
        welcome.now_unix_ms = now_s * 1_000;
        rig.tell(ServerMessage::Welcome(Box::new(welcome)));
        let joined = |output: &Output| matches!(output, Output::Event(Event::Joined { .. }));
        assert!(rig.take().iter().any(joined), "year {year}");
        assert!(checks_sent(&mut rig, 1, 2, |peer| at(peer, now_s)), "year {year}");
        let mut stayed = Duration::ZERO;
        while !rig.messages().iter().any(|message| matches!(message, ClientMessage::Renew)) {
            rig.advance(IDLE / 4);
            stayed += IDLE / 4;
            rig.tell(ServerMessage::Ping { seq: 1 });
            assert!(stayed < Duration::from_secs(HOUR_S), "year {year}");
        }
        at(&mut certificate, now_s + stayed.as_secs());
        let renewal = Renewal { certificate: rig.resign(&certificate), stun: None };
        rig.tell(ServerMessage::Certificate(Box::new(renewal)));
        let renewed = |output: &Output| matches!(output, Output::Membership(_));
        assert!(rig.take().iter().any(renewed), "year {year}");
    }
}
