//! Permissions, channels, and what is relayed (RFC 8656, sections 9 to 12).

use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, Class, SEND, TransactionId};
use meetpoint_turn::{ByteRate, ListenerId, Relay, StreamListener, Transport, attr};

use crate::common::{CLIENT, CLIENT6, PRIMARY_MAIN, addr, raw};
use crate::turn::{
    A, CHANNEL, Client, PEER, TurnRig, UDP, V6, channel_data, data_indication, relayed, to_client, to_peer,
    turn, with, write,
};

fn allocated() -> (TurnRig, Client, std::net::SocketAddr) {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let relayed = turn.allocate(&client);
    (turn, client, relayed)
}

/// Sections 11.2 and 11.4: only with a permission, for the address and not the port.
#[test]
fn indications_need_a_permission() {
    let (mut turn, client, relayed) = allocated();
    assert_eq!(turn.send(&client, PEER, b"hello"), None);
    assert_eq!(turn.arrive(relayed, PEER, b"hello"), None);
    assert_eq!(turn.rig.counters().relay.dropped.no_permission, 2);

    assert_eq!(turn.permit(&client, "30.0.0.1:1"), None);
    assert_eq!(turn.send(&client, PEER, b"hello"), to_peer(relayed, PEER, b"hello"));
    for len in 0..9 {
        let data = vec![7; len];
        let arrived = turn.arrive(relayed, PEER, &data);
        assert_eq!(data_indication(arrived), Some((addr(PEER), data)));
    }
    assert_eq!(turn.send(&client, "30.0.0.2:7000", b"x"), None);
    assert_eq!(turn.arrive(relayed, "30.0.0.2:7000", b"x"), None);
    let counters = turn.rig.counters().relay;
    assert_eq!((counters.to_peer.packets, counters.to_peer.bytes), (1, 5));
    assert_eq!((counters.to_client.packets, counters.to_client.bytes), (9, 36));
    let session = turn.rig.server.sessions(turn.rig.now).next().expect("one");
    assert_eq!((session.to_peer, session.to_client), (counters.to_peer, counters.to_client));
}

/// Section 12: a channel relays both ways, and comes with a permission.
#[test]
fn channels_relay_both_ways() {
    let (mut turn, client, relayed) = allocated();
    assert_eq!(turn.channel(&client, CHANNEL, b"x"), None);
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
    assert_eq!(turn.channel(&client, CHANNEL, b"hello"), to_peer(relayed, PEER, b"hello"));
    assert_eq!(turn.arrive(relayed, PEER, b"hello"), to_client(CLIENT, &channel_data(CHANNEL, b"hello")));
    // Another port of the peer has no channel, but the permission.
    let other = turn.arrive(relayed, "30.0.0.1:7001", b"hello");
    assert_eq!(data_indication(other), Some((addr("30.0.0.1:7001"), b"hello".to_vec())));
    // An empty datagram is one too.
    assert_eq!(turn.channel(&client, CHANNEL, b""), to_peer(relayed, PEER, b""));
}

/// Section 12.5: the length says where it ends; padding may follow, nothing else.
#[test]
fn channel_data_is_read_strictly() {
    let check = |datagram: &[u8], payload: Option<&[u8]>| {
        let (mut turn, client, relayed) = allocated();
        assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
        let expected = payload.and_then(|payload| to_peer(relayed, PEER, payload));
        assert_eq!(turn.relay(CLIENT, datagram), expected, "{datagram:?}");
    };
    check(&[0x40, 0, 0, 1, 9], Some(&[9]));
    check(&[0x40, 0, 0, 1, 9, 0, 0, 0], Some(&[9]));
    check(&[0x40, 0, 0, 1, 9, 0, 0, 0, 0], None);
    check(&[0x40, 0, 0, 2, 9], None);
    check(&[0x40, 0, 0], None);
    check(&[0x40], None);
    check(&[0x40, 1, 0, 1, 9], None);
    check(&[0x4F, 0xFF, 0, 1, 9], None);
    check(&[0x50, 0, 0, 1, 9], None);
}

/// Sections 10.2 and 12.2: the errors.
#[test]
fn bad_requests_are_refused() {
    let (mut turn, client, _) = allocated();
    let mut check = |what: &str, attributes: &[A<'_>], method: u16, code: u16| {
        assert_eq!(turn.code(&client, method, attributes), Some(code), "{what}");
    };
    let bind = meetpoint_turn::message::CHANNEL_BIND;
    let number = |value| A::Raw(attr::CHANNEL_NUMBER, value);
    check("no peer", &[], CREATE_PERMISSION, 400);
    check("a short peer", &[A::Raw(attr::XOR_PEER_ADDRESS, &[0, 1, 2, 3])], CREATE_PERMISSION, 400);
    check(
        "a good and a bad peer",
        &[A::Peer(PEER), A::Raw(attr::XOR_PEER_ADDRESS, &[])],
        CREATE_PERMISSION,
        400,
    );
    check("another family", &[A::Peer(PEER), A::Peer("[2a00::1]:1")], CREATE_PERMISSION, 443);
    check("a good and a forbidden peer", &[A::Peer(PEER), A::Peer("10.0.0.1:1")], CREATE_PERMISSION, 403);
    check("no number", &[A::Peer(PEER)], bind, 400);
    check("a short number", &[number(&[0x40, 0]), A::Peer(PEER)], bind, 400);
    check("no channel's peer", &[number(&[0x40, 0, 0, 0])], bind, 400);
    check("a number below", &[number(&[0x3F, 0xFF, 0, 0]), A::Peer(PEER)], bind, 400);
    check("a number above", &[number(&[0x80, 0, 0, 0]), A::Peer(PEER)], bind, 400);
    check("a peer without port", &[number(&[0x40, 0, 0, 0]), A::Peer("30.0.0.1:0")], bind, 400);
    check("a forbidden peer", &[number(&[0x40, 0, 0, 0]), A::Peer("127.0.0.1:1")], bind, 403);
    check("another family", &[number(&[0x40, 0, 0, 0]), A::Peer("[2a00::1]:1")], bind, 443);
    // Nothing came of any of these, not even of the good halves.
    assert_eq!(turn.send(&client, PEER, b"x"), None);
}

/// Section 12.2: a number has one peer and a peer one number, until it has run out.
#[test]
fn a_channel_is_bound_once() {
    let (mut turn, client, _) = allocated();
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None, "renewed");
    assert_eq!(turn.bind(&client, CHANNEL, "30.0.0.1:7001"), Some(400));
    assert_eq!(turn.bind(&client, CHANNEL + 1, PEER), Some(400));
    assert_eq!(turn.refresh(&client, 3600), None);
    turn.rig.pass(Duration::from_secs(600));
    let mut client = turn.client("alice", CLIENT);
    assert_eq!(turn.bind(&client, CHANNEL, "30.0.0.1:7001"), None);
    client = turn.client("alice", CLIENT);
    assert_eq!(turn.bind(&client, CHANNEL + 1, PEER), None);
}

/// Section 10: one request may name many peers; all of them are let in.
#[test]
fn all_peers_of_a_request_count() {
    let (mut turn, client, relayed) = allocated();
    let peers = ["30.0.0.1:1", "30.0.0.2:1", "30.0.0.3:1", "30.0.0.2:9"];
    let attributes = peers.map(A::Peer);
    assert_eq!(turn.code(&client, CREATE_PERMISSION, &attributes), None);
    for peer in peers {
        assert_eq!(turn.send(&client, peer, b"x"), to_peer(relayed, peer, b"x"));
    }
}

/// Permissions last 300 s (section 9), channels 600 s (section 12), to the second.
#[test]
fn permissions_and_channels_run_out() {
    let check = |pass_s: &[u64], renew: bool, sent: bool, arrived: Option<bool>| {
        let (mut turn, client, relayed) = allocated();
        assert_eq!(turn.refresh(&client, 3600), None);
        assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
        let mut client = client;
        for s in pass_s {
            turn.rig.pass(Duration::from_secs(*s));
            if renew {
                client = turn.client("alice", CLIENT);
                assert_eq!(turn.permit(&client, PEER), None);
            }
        }
        assert_eq!(turn.channel(&client, CHANNEL, b"x").is_some(), sent, "{pass_s:?}");
        let got = turn.arrive(relayed, PEER, b"x");
        let by_channel = got.map(|got| Some(got) == to_client(CLIENT, &channel_data(CHANNEL, b"x")));
        assert_eq!(by_channel, arrived, "{pass_s:?}");
    };
    check(&[299], false, true, Some(true));
    check(&[300], false, false, None);
    check(&[299, 299, 1], true, true, Some(true));
    // The channel is over, and the permission that was renewed is not.
    check(&[299, 299, 2], true, false, Some(false));
}

/// Section 11.2: a Send indication that is not understood goes nowhere.
#[test]
fn send_indications_are_read_strictly() {
    let check = |attributes: &[A<'_>], is_relayed: bool| {
        let (mut turn, client, _) = allocated();
        assert_eq!(turn.permit(&client, PEER), None);
        let id = turn.fresh_id();
        let indication = write(Class::Indication, SEND, id, attributes).finish();
        assert_eq!(turn.relay(CLIENT, &indication).is_some(), is_relayed);
        assert_eq!(turn.relay("20.0.1.1:40001", &indication), None, "somebody else");
    };
    let data = A::Raw(attr::DATA, b"x");
    check(&[A::Peer(PEER), data.clone()], true);
    check(&[A::Peer(PEER), data.clone(), A::Raw(0x8042, b"")], true);
    check(&[A::Peer(PEER), data.clone(), A::Raw(0x4242, b"")], false);
    check(&[A::Peer(PEER), data.clone(), A::Raw(attr::DONT_FRAGMENT, b"")], false);
    check(&[A::Peer(PEER)], false);
    check(std::slice::from_ref(&data), false);
    check(&[A::Peer("[2a00::1]:1"), data], false);
}

/// Sections 11.2 and 13 to 15: a Send indication's DONT-FRAGMENT is obeyed between two addresses of IPv4 and
/// out of a stream, has no meaning elsewhere, and is an unknown attribute where nobody could obey it.
/// ChannelData cannot ask for it.
#[test]
fn datagrams_are_not_fragmented_if_their_client_says_so() {
    const STREAM: ListenerId = ListenerId(1);
    let check = |can: bool, at: ListenerId, client: &str, peer: &str, expected: Option<bool>| {
        let mut turn = with(|config| {
            config.relay.as_mut().expect("a relay").dont_fragment = can;
            let addr = addr("20.0.0.1:3478");
            config.streams = vec![StreamListener { id: STREAM, transport: Transport::Tcp, addr }];
        });
        turn.rig.at = at;
        let client = turn.client("alice", client);
        let both = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
        turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), both]);
        assert_eq!(turn.bind(&client, CHANNEL, peer), None);
        let mut flag = |datagram: &[u8]| match turn.rig.server.datagram(
            turn.rig.now,
            at,
            addr(&client.source),
            datagram,
        ) {
            Some(Relay::ToPeer { dont_fragment, payload: b"x", .. }) => Some(dont_fragment),
            None => None,
            other => panic!("{other:?}"),
        };
        let send = |more: &[A<'_>]| {
            let attributes = [&[A::Peer(peer), A::Raw(attr::DATA, b"x")], more].concat();
            write(Class::Indication, SEND, TransactionId([1; 12]), &attributes).finish()
        };
        assert_eq!(
            flag(&send(&[A::Raw(attr::DONT_FRAGMENT, b"")])),
            expected,
            "{can} {at:?} {} {peer}",
            client.source
        );
        assert_eq!(flag(&send(&[])), Some(false));
        assert_eq!(flag(&channel_data(CHANNEL, b"x")), Some(false));
    };
    let peer6 = "[2a00::7]:7";
    for at in [PRIMARY_MAIN, STREAM] {
        for (client, peer) in [(CLIENT, PEER), (CLIENT, peer6), (CLIENT6, PEER), (CLIENT6, peer6)] {
            check(false, at, client, peer, None);
            check(true, at, client, peer, Some(at == STREAM || (client, peer) == (CLIENT, PEER)));
        }
    }
    check(true, PRIMARY_MAIN, "[::ffff:20.0.1.1]:40000", PEER, Some(true));
}

#[test]
fn both_families_of_an_allocation_relay() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let both = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
    let answer = turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), both]);
    let relayed = relayed(&answer);
    for (peer, from) in [(PEER, relayed[0]), ("[2a00::7]:7", relayed[1])] {
        assert_eq!(turn.permit(&client, peer), None);
        assert_eq!(turn.send(&client, peer, b"x"), to_peer(from, peer, b"x"));
        assert_eq!(data_indication(turn.arrive(from, peer, b"xyz")), Some((addr(peer), b"xyz".to_vec())));
    }
}

/// Two clients of one server: inside the machine, if both agreed, and to exactly that address.
#[test]
fn clients_reach_each_other_inside() {
    let check = |here: bool, there: bool, is_relayed: bool| {
        let mut turn = turn();
        let alice = turn.client("alice", CLIENT);
        let bob = turn.client("bob", "20.0.1.2:9");
        let eve = turn.client("eve", "20.0.1.3:9");
        let relayed = [&alice, &bob, &eve].map(|client| turn.allocate(client));
        let text = relayed.map(|addr| addr.to_string());
        if here {
            assert_eq!(turn.bind(&alice, CHANNEL, &text[1]), None);
        }
        if there {
            assert_eq!(turn.permit(&bob, &text[0]), None);
        }
        assert_eq!(turn.permit(&eve, &text[1]), None);
        let sent = turn.channel(&alice, CHANNEL, b"hello");
        let expected = is_relayed.then(|| (relayed[0], b"hello".to_vec()));
        assert_eq!(data_indication(sent), expected);
        // Bob's permission for one client of this server is none for another.
        assert_eq!(turn.send(&eve, &text[1], b"hello"), None);
        // What claims to be from inside and comes from outside is not let in.
        assert_eq!(turn.arrive(relayed[1], &text[0], b"hello"), None);
        assert_eq!(turn.rig.counters().relay.inside.packets, u64::from(is_relayed));
    };
    check(true, true, true);
    check(true, false, false);
    check(false, true, false);
}

#[test]
fn the_rate_of_an_allocation_is_bounded() {
    let mut turn = with(|config| config.limits.relay.rate = ByteRate::new(1000, 3000));
    let client = turn.client("alice", CLIENT);
    let relayed = turn.allocate(&client);
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
    let data = [7; 500];
    let count = |turn: &mut TurnRig| {
        (0..10)
            .filter(|n| match n % 2 {
                0 => turn.channel(&client, CHANNEL, &data).is_some(),
                _ => turn.arrive(relayed, PEER, &data).is_some(),
            })
            .count()
    };
    assert_eq!(count(&mut turn), 6);
    assert_eq!(turn.rig.counters().relay.dropped.rate, 4);
    turn.rig.pass(Duration::from_secs(1));
    assert_eq!(count(&mut turn), 2);
    turn.rig.pass(Duration::from_secs(60));
    assert_eq!(count(&mut turn), 6, "no more than the burst");
}

#[test]
fn permissions_and_channels_are_bounded() {
    let mut turn = with(|config| {
        config.limits.relay.permissions = 3;
        config.limits.relay.channels = 2;
    });
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    assert_eq!(turn.bind(&client, CHANNEL, "30.0.0.1:1"), None);
    assert_eq!(turn.bind(&client, CHANNEL + 1, "30.0.0.1:2"), None);
    assert_eq!(turn.bind(&client, CHANNEL + 2, "30.0.0.1:3"), Some(508));
    let three = ["30.0.0.2:1", "30.0.0.3:1", "30.0.0.4:1"].map(A::Peer);
    assert_eq!(turn.code(&client, CREATE_PERMISSION, &three), Some(508), "all or none");
    assert_eq!(turn.code(&client, CREATE_PERMISSION, &three[..2]), None);
    assert_eq!(turn.permit(&client, "30.0.0.3:9"), None, "renewed");
    assert_eq!(turn.permit(&client, "30.0.0.9:9"), Some(508));
    // What has run out makes room.
    turn.rig.pass(Duration::from_secs(300));
    assert_eq!(turn.permit(&client, "30.0.0.9:9"), None);
    assert!(raw(&turn.ask(&client, CREATE_PERMISSION, &[]), attr::ERROR_CODE).is_some());
}
