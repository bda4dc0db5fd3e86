//! Attacks, each shown to succeed against a server without the defence it meets, and then to fail.

use std::time::Duration;

use meetpoint_proto::SessionId;
use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, REFRESH};
use meetpoint_turn::{Defence, Output, Rate, RelayIp, attr, node_user};

use crate::common::{CLIENT, NOW_UNIX_S, PRIMARY_MAIN, addr, error, plain, raw};
use crate::streams::{TCP_AT, turn_over};
use crate::turn::{A, CHANNEL, PEER, TurnRig, UDP, V6, turn, with};

/// Runs the attack without the defence, and with it.
fn check(defence: Defence, make: impl Fn() -> TurnRig, attack: impl Fn(&mut TurnRig) -> bool) {
    let mut weak = make();
    weak.rig.server.switch_off(defence);
    assert!(attack(&mut weak), "without {defence:?} the attack succeeds");
    assert!(!attack(&mut make()), "{defence:?} stops the attack");
}

/// True if a peer can be sent to, by any of the ways there are.
fn reaches(turn: &mut TurnRig, peer: &str) -> bool {
    let client = turn.client("mallory", CLIENT);
    let both = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
    assert_eq!(turn.code(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), both]), None);
    let permitted = turn.permit(&client, peer);
    let bound = turn.bind(&client, CHANNEL, peer);
    for code in [permitted, bound] {
        assert!(matches!(code, None | Some(403)), "{code:?}");
    }
    let sent = turn.send(&client, peer, b"x").is_some();
    let channelled = turn.channel(&client, CHANNEL, b"x").is_some();
    sent || channelled
}

/// A flood of requests makes the server remember nothing, and a nonce harvested at one address is
/// worth nothing in another's name: else a victim would be "observed" without asking.
#[test]
fn nonces_prove_their_source() {
    check(Defence::BoundNonce, turn, |turn| {
        let mut client = turn.client("mallory", "20.0.6.6:6");
        client.source = "20.0.1.99:9".to_owned();
        let request = turn.request(&client, meetpoint_turn::message::BINDING, &[]);
        let outputs = turn.rig.give(PRIMARY_MAIN, "20.0.1.99:9", &request);
        outputs.iter().any(|output| matches!(output, Output::Observed { .. }))
    });
}

/// Requests from many sources, which are spoofed, leave nothing behind.
#[test]
fn challenges_cost_no_memory() {
    check(Defence::StatelessNonce, turn, |turn| {
        let grown = allocation_counter::measure(|| {
            for n in 0..100_000_u32 {
                let source = std::net::Ipv4Addr::from_bits(0x3000_0000 + n).to_string() + ":9";
                let request = crate::common::request_with(&[(attr::USERNAME, b"1:a")]);
                turn.rig.give(PRIMARY_MAIN, &source, &request);
                turn.rig.pass(Duration::from_micros(30));
            }
        });
        assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
        grown.bytes_current > 0
    });
}

/// What a victim gets whose name an attacker writes on his questions: answers, and more bytes of them
/// than the attacker has sent.
#[test]
fn a_victim_is_not_flooded() {
    check(Defence::Budgets, turn, |turn| {
        let login = crate::common::request_with(&[(attr::USERNAME, b"1:a")]);
        for _ in 0..5_000 {
            turn.rig.give(PRIMARY_MAIN, CLIENT, &plain());
            turn.rig.give(PRIMARY_MAIN, CLIENT, &login);
            turn.rig.pass(Duration::from_micros(200));
        }
        let counters = turn.rig.counters();
        // A second has passed: a burst of 400, and 200 more.
        counters.datagrams_out > 600 || counters.bytes_out > counters.bytes_in
    });
}

#[test]
fn private_networks_are_not_relayed_into() {
    for peer in [
        "10.0.0.1:80",
        "172.16.0.1:80",
        "192.168.1.1:80",
        "100.64.0.1:80",
        "169.254.169.254:80",
        "127.0.0.1:80",
        "127.9.9.9:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "192.0.2.1:80",
        "198.18.0.1:80",
        "224.0.0.1:80",
        "240.0.0.1:80",
        "255.255.255.255:80",
        "[::1]:80",
        "[::]:80",
        "[fe80::1]:80",
        "[fd00::1]:80",
        "[ff02::1]:80",
        "[2001:db8::1]:80",
    ] {
        check(Defence::PeerRules, turn, |turn| reaches(turn, peer));
    }
}

/// The same addresses in the forms that IPv6 has for IPv4.
#[test]
fn private_networks_are_not_relayed_into_in_another_form() {
    for peer in [
        "[::ffff:127.0.0.1]:80",
        "[::ffff:10.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[::10.0.0.1]:80",
        "[::127.0.0.1]:80",
        "[64:ff9b::10.0.0.1]:80",
        "[64:ff9b:1::192.168.0.1]:80",
        "[2002:a00:1::1]:80",
        "[2002:7f00:1::]:80",
        "[::ffff:0.0.0.0]:80",
    ] {
        check(Defence::Canonical, turn, |turn| reaches(turn, peer));
    }
}

/// This machine: where it listens, and its addresses, in any form.
#[test]
fn this_machine_is_not_relayed_to() {
    for peer in [
        "20.0.0.1:3478",
        "20.0.0.1:22",
        "20.0.0.9:3478",
        "20.0.0.9:22",
        "20.0.0.7:22",
        "20.0.0.7:8080",
        "[64:ff9b::20.0.0.1]:3478",
        "[2002:1400:9::]:50000",
        "[::ffff:20.0.0.9]:50000",
    ] {
        let make = || {
            with(|config| {
                let relay = config.relay.as_mut().expect("a relay");
                relay.own_ips = vec![addr("20.0.0.7:1").ip()];
                relay.own_listeners = vec![addr("0.0.0.0:8080")];
            })
        };
        check(Defence::OwnPorts, make, |turn| reaches(turn, peer));
    }
}

/// A node with good credentials that was introduced to nobody, and a node of another cluster that was
/// talked into a permission for it.
#[test]
fn nodes_of_different_clusters_do_not_meet() {
    check(Defence::Introductions, turn, |turn| {
        let nodes = [1, 2].map(|n| node_user(&SessionId::from_bytes([n; 16])));
        let mallory = turn.client(&nodes[0], CLIENT);
        let victim = turn.client(&nodes[1], "20.0.1.2:9");
        let (here, there) = (turn.allocate(&mallory), turn.allocate(&victim));
        assert_eq!(turn.permit(&victim, &here.to_string()), None);
        assert_eq!(turn.permit(&mallory, &there.to_string()), None);
        turn.send(&mallory, &there.to_string(), b"x").is_some()
    });
}

/// A port that the server listens on is nobody's relayed address, even in their range.
#[test]
fn listening_ports_are_not_given_away() {
    let mut turn = with(|config| {
        let relay = config.relay.as_mut().expect("a relay");
        relay.ports = Some(50_000..=50_001);
        relay.own_listeners = vec![addr("0.0.0.0:50000")];
    });
    assert!(!reaches(&mut turn, "20.0.0.9:50000"));
    assert!(turn.sockets.values().all(|open| open.port() == 50_001));
    let other = turn.client("other", "20.0.1.2:9");
    assert_eq!(turn.code(&other, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]), Some(508));
}

/// What an operator allows is allowed, except for the ports of this server; what he denies is
/// denied in any case.
#[test]
fn lists_come_before_the_rules() {
    let check = |peer: &str, is_reached: bool| {
        let mut turn = with(|config| {
            let relay = config.relay.as_mut().expect("a relay");
            relay.allow =
                ["10.1.0.0/16", "127.0.0.0/8", "20.0.0.1"].map(|t| t.parse().expect("a block")).into();
            relay.deny = ["30.9.0.0/16", "10.1.2.0/24"].map(|text| text.parse().expect("a block")).into();
            relay.own_listeners = vec![addr("0.0.0.0:8080")];
        });
        assert_eq!(reaches(&mut turn, peer), is_reached, "{peer}");
    };
    check("10.1.0.1:80", true);
    check("10.2.0.1:80", false);
    check("10.1.2.1:80", false);
    check("[64:ff9b::10.1.2.1]:80", false);
    check("30.9.0.1:80", false);
    check(PEER, true);
    check("127.0.0.1:80", true);
    check("127.0.0.1:8080", false);
    check("[::ffff:127.0.0.1]:8080", false);
    check("20.0.0.1:22", true);
    check("20.0.0.1:3478", false);
}

/// A permission is for an address, and so no way around what is said of a port.
#[test]
fn a_permission_does_not_open_this_servers_ports() {
    check(
        Defence::OwnPorts,
        || {
            with(|config| {
                config.relay.as_mut().expect("a relay").allow = vec!["127.0.0.0/8".parse().expect("a block")];
                config.relay.as_mut().expect("a relay").own_listeners = vec![addr("127.0.0.1:8080")];
            })
        },
        |turn| {
            let client = turn.client("mallory", CLIENT);
            turn.allocate(&client);
            assert_eq!(turn.permit(&client, "127.0.0.1:9"), None);
            turn.send(&client, "127.0.0.1:8080", b"GET /").is_some()
        },
    );
}

/// Behind a 1:1 NAT the inner address of relayed addresses is no way around the outer one.
#[test]
fn the_inner_address_is_nobodys() {
    let mut turn = with(|config| {
        let relay = config.relay.as_mut().expect("a relay");
        let bind = addr("10.0.0.9:1").ip();
        relay.ipv4 = Some(RelayIp { bind, seen: addr("20.0.0.9:1").ip() });
        relay.allow = vec!["10.0.0.0/8".parse().expect("a block")];
    });
    let alice = turn.client("alice", CLIENT);
    let bob = turn.client("bob", "20.0.1.2:9");
    let (here, there) = (turn.allocate(&alice), turn.allocate(&bob));
    assert_eq!(turn.permit(&bob, &format!("10.0.0.9:{}", here.port())), None);
    let inner = format!("10.0.0.9:{}", there.port());
    assert_eq!(turn.permit(&alice, &inner), None);
    assert_eq!(turn.send(&alice, &inner, b"x"), None);
}

/// One user, or one address, takes what it may and no more; others still get theirs.
#[test]
fn allocations_are_shared_out() {
    let flood = |turn: &mut TurnRig, user: fn(u32) -> String, source: fn(u32) -> String, code: u16| {
        let mut codes = vec![];
        for n in 0..20 {
            let client = turn.client(&user(n), &source(n));
            codes.push(turn.code(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]));
        }
        assert!(codes.iter().all(|got| got.is_none_or(|got| got == code)), "{codes:?}");
        codes.iter().filter(|code| code.is_none()).count() == 20
    };
    let make = || {
        with(|config| {
            config.limits.relay.allocations_per_user = 4;
            config.limits.relay.allocations_per_source = 6;
            config.limits.relay.allocations = 10;
        })
    };
    let one = |_| "mallory".to_owned();
    let many = |n| format!("user{n}");
    let here = |n| format!("20.0.1.1:{}", 1000 + n);
    let network = |n| format!("[2a00:1:2:3::{n:x}]:9");
    let everywhere = |n| format!("20.0.1.{}:9", n + 1);
    check(Defence::Quotas, make, |turn| flood(turn, one, everywhere, 486));
    check(Defence::Quotas, make, |turn| flood(turn, many, here, 486));
    check(Defence::Quotas, make, |turn| flood(turn, many, network, 486));
    check(Defence::Quotas, make, |turn| flood(turn, many, everywhere, 508));

    let mut turn = make();
    flood(&mut turn, one, everywhere, 486);
    assert_eq!(turn.rig.server.relay_sizes(), [4, 4, 0, 4]);
    assert_eq!(turn.rig.counters().errors.allocation_quota_reached, 16);
    let good = turn.client("alice", "20.0.2.1:9");
    turn.allocate(&good);
    // What is given back counts for its user again.
    let first = turn.client("mallory", "20.0.1.1:9");
    assert_eq!(turn.refresh(&first, 0), None);
    turn.allocate(&first);
}

/// Packets in a victim's name cost him nothing: nobody is judged by a source he did not prove.
#[test]
fn a_spoofer_blocks_nobody() {
    let make = || with(|config| config.limits.source = Rate::new(10, 20));
    check(Defence::ProvenApart, make, |turn| {
        let client = turn.client("alice", CLIENT);
        turn.allocate(&client);
        let mut refused = 0;
        for _ in 0..10 {
            for _ in 0..100 {
                turn.give(CLIENT, &plain());
                turn.give(CLIENT, &[0xFF; 40]);
                turn.relay(CLIENT, &[0x40, 0, 0, 0]);
            }
            let request = turn.request(&client, CREATE_PERMISSION, &[A::Peer(PEER)]);
            match turn.give(CLIENT, &request) {
                Some(answer) => assert_eq!(error(&answer), None),
                None => refused += 1,
            }
            turn.rig.pass(Duration::from_millis(100));
        }
        refused > 0
    });
}

/// The nonce of a welcome is bound to no address. Who has read a node's first request on its way sends it again from
/// where he is himself: he would be lent an address in the node's name, of which the broker would tell the node's
/// peers.
#[test]
fn a_read_request_allocates_nothing() {
    check(
        Defence::HandedOnce,
        || turn_over(TCP_AT),
        |turn| {
            let node = turn.welcomed(1, CLIENT, NOW_UNIX_S);
            let request = turn.request(&node, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]);
            assert_eq!(error(&turn.give(CLIENT, &request).expect("an answer")), None);
            let code = error(&turn.give("20.0.6.6:6", &request).expect("an answer"));
            assert_eq!(turn.lent.len(), if code.is_none() { 2 } else { 1 });
            code.is_none()
        },
    );
}

/// Tickets of RFC 8016 go in the clear. Who has read somebody's gets nothing by it: neither what is sent to him nor his
/// name.
#[test]
fn a_read_ticket_moves_nothing() {
    check(Defence::TicketUser, turn, |turn| {
        let alice = turn.client("alice", CLIENT);
        let please = A::Raw(attr::MOBILITY_TICKET, &[]);
        let answer = turn.ask(&alice, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), please]);
        let ticket = raw(&answer, attr::MOBILITY_TICKET).expect("a ticket");
        assert_eq!(turn.bind(&alice, CHANNEL, PEER), None);
        let mallory = turn.client("mallory", "20.0.6.6:6");
        let code = turn.code(&mallory, REFRESH, &[A::Raw(attr::MOBILITY_TICKET, &ticket)]);
        let has_it = turn.channel(&mallory, CHANNEL, b"x").is_some();
        assert_eq!(turn.channel(&alice, CHANNEL, b"x").is_some(), !has_it);
        assert_eq!(code, if has_it { None } else { Some(441) });
        has_it
    });
}
