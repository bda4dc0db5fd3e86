//! Allocations that follow their clients (RFC 8016), within a shard and to another.

use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use meetpoint_turn::message::{ALLOCATE, REFRESH};
use meetpoint_turn::{Config, Input, Payload, attr};

use crate::common::{CLIENT, PRIMARY_MAIN, addr, error, raw};
use crate::shards::{Shards, shards};
use crate::turn::{A, CHANNEL, Client, PEER, UDP, V6, channel_data, relayed, to_client, to_peer};

const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
const BOTH: A<'_> = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
const PLEASE: A<'_> = A::Raw(attr::MOBILITY_TICKET, &[]);
const END: A<'_> = A::Raw(attr::LIFETIME, &[0; 4]);
/// The form of a ticket: it would be that of the first allocation of the first shard.
const ANY: &[u8] = b"AAAAAAAAAAAAAAAAAAAAAA";
/// Where the client is next.
const SECOND: &str = "20.0.1.1:40001";
const THIRD: &str = "20.0.1.9:9";
/// How many shards there are, and which of them the client comes to. It was at the first.
const WAYS: [(u8, usize); 2] = [(1, 0), (2, 1)];

/// Alice at the first shard, her two relayed addresses, and her ticket. She has a channel.
struct Mobile {
    shards: Shards,
    alice: Client,
    relays: Vec<SocketAddr>,
    ticket: Vec<u8>,
}

fn mobile(count: u8, change: impl FnOnce(&mut Config)) -> Mobile {
    let mut shards = shards(count, change);
    let alice = shards.client(0, "alice", CLIENT);
    let answer = shards.ask(0, &alice, ALLOCATE, &[TRANSPORT, BOTH, PLEASE]);
    let (relays, ticket) = (relayed(&answer), ticket(&answer));
    assert_eq!((error(&answer), relays.len()), (None, 2));
    assert_eq!(shards.at(0).bind(&alice, CHANNEL, PEER), None);
    Mobile { shards, alice, relays, ticket }
}

fn ticket(answer: &[u8]) -> Vec<u8> {
    raw(answer, attr::MOBILITY_TICKET).expect("a ticket")
}

fn follow(shards: &mut Shards, shard: usize, client: &Client, ticket: &[u8]) -> Payload {
    shards.ask(shard, client, REFRESH, &[A::Raw(attr::MOBILITY_TICKET, ticket)])
}

fn is_served(shards: &mut Shards, shard: usize, client: &Client, relays: &[SocketAddr]) -> bool {
    let sent = shards.at(shard).channel(client, CHANNEL, b"x");
    let came = shards.at(shard).sockets.values().any(|open| *open == relays[0])
        && shards.at(shard).arrive(relays[0], PEER, b"y")
            == to_client(&client.source, &channel_data(CHANNEL, b"y"));
    assert_eq!(sent.is_some(), came, "both ways or none");
    sent == to_peer(relays[0], PEER, b"x")
}

#[test]
fn an_allocation_follows_its_client() {
    for (count, to) in WAYS {
        let Mobile { mut shards, alice, relays, ticket: first } = mobile(count, |_| {});
        let moved = shards.client(to, "alice", SECOND);
        assert!(!is_served(&mut shards, to, &moved, &relays), "not yet");

        let answer = follow(&mut shards, to, &moved, &first);
        assert_eq!(
            (error(&answer), raw(&answer, attr::LIFETIME)),
            (None, Some(600_u32.to_be_bytes().to_vec()))
        );
        let second = ticket(&answer);
        assert_ne!(first, second);
        assert!(is_served(&mut shards, to, &moved, &relays));
        let open: Vec<SocketAddr> = shards.at(to).sockets.values().copied().collect();
        assert!(relays.iter().all(|relay| open.contains(relay)), "both families: {open:?}");

        // Who is at the old place now is a stranger.
        assert_eq!(shards.at(0).channel(&alice, CHANNEL, b"x"), None);
        assert_eq!(error(&shards.ask(0, &alice, REFRESH, &[])), Some(437));
        if to != 0 {
            assert_eq!(shards.at(0).rig.server.relay_sizes(), [0; 4]);
        }
        // A ticket is good for one move, and the next one for the next: also back again.
        assert_eq!(error(&follow(&mut shards, 0, &alice, &first)), Some(437));
        assert!(is_served(&mut shards, to, &moved, &relays));
        let answer = follow(&mut shards, 0, &alice, &second);
        assert_eq!(error(&answer), None);
        assert!(is_served(&mut shards, 0, &alice, &relays));

        // Without a ticket it is a Refresh like any other, and tells none.
        let answer = shards.ask(0, &alice, REFRESH, &[]);
        assert_eq!((error(&answer), raw(&answer, attr::MOBILITY_TICKET)), (None, None));
        assert_eq!(error(&shards.ask(0, &alice, REFRESH, &[END])), None);
        shards.pass(Duration::ZERO);
        let sizes: Vec<_> = shards.shards.iter().map(|shard| shard.rig.server.relay_sizes()).collect();
        assert!(sizes.iter().all(|sizes| *sizes == [0; 4]), "{sizes:?}");
    }
}

/// Its end can be asked for from the new place too.
#[test]
fn an_allocation_ends_where_its_client_is() {
    for (count, to) in WAYS {
        let Mobile { mut shards, ticket, .. } = mobile(count, |_| {});
        let moved = shards.client(to, "alice", SECOND);
        let answer = shards.ask(to, &moved, REFRESH, &[END, A::Raw(attr::MOBILITY_TICKET, &ticket)]);
        assert_eq!((error(&answer), raw(&answer, attr::LIFETIME)), (None, Some(vec![0; 4])));
        shards.pass(Duration::ZERO);
        let left: usize = shards.shards.iter().map(|shard| shard.sockets.len()).sum();
        assert_eq!(left, 0);
    }
}

/// Before the answer to the first one has arrived, and after it was lost.
#[test]
fn a_repeated_request_is_answered() {
    for (count, to) in WAYS {
        let Mobile { mut shards, relays, ticket: first, .. } = mobile(count, |_| {});
        let moved = shards.client(to, "alice", SECOND);
        let request = shards.at(to).request(&moved, REFRESH, &[A::Raw(attr::MOBILITY_TICKET, &first)]);
        for _ in 0..2 {
            let rig = &mut shards.at(to).rig;
            let (listener, source) = (PRIMARY_MAIN, addr(SECOND));
            rig.server.handle(rig.now, Input::Datagram { listener, source, payload: &request });
        }
        let mut answers = shards.settle();
        answers.extend(shards.give(to, &moved, &request));
        assert!(answers.len() >= 2 && answers.iter().all(|answer| error(answer).is_none()), "{count}");
        let second = ticket(&answers[answers.len() - 1]);
        assert!(is_served(&mut shards, to, &moved, &relays));
        let third = shards.client(0, "alice", THIRD);
        assert_eq!(error(&follow(&mut shards, 0, &third, &second)), None, "the newest is good");
    }
}

#[test]
fn who_may_not_is_told_why_and_changes_nothing() {
    let check = |user: &str, change: fn(&mut Vec<u8>), pass_s: u64, code: u16| {
        for (count, to) in WAYS {
            let Mobile { mut shards, alice, relays, mut ticket } = mobile(count, |_| {});
            let mut bytes = BASE64URL_NOPAD.decode(&ticket).expect("text");
            change(&mut bytes);
            ticket = BASE64URL_NOPAD.encode(&bytes).into();
            shards.pass(Duration::from_secs(pass_s));
            let moved = shards.client(to, user, SECOND);
            assert_eq!(error(&follow(&mut shards, to, &moved, &ticket)), Some(code), "{user} {ticket:?}");
            assert_eq!(is_served(&mut shards, 0, &alice, &relays), pass_s == 0);
        }
    };
    let last = |ticket: &mut Vec<u8>| ticket[15] ^= 1;
    check("alice", last, 0, 437);
    // The first half says generation, shard and index.
    check("alice", |ticket| ticket[3] ^= 1, 0, 437);
    check("alice", |ticket| ticket[4] = 9, 0, 437);
    check("alice", |ticket| ticket[7] ^= 1, 0, 437);
    check("alice", |ticket| ticket.truncate(15), 0, 400);
    check("alice", |ticket| ticket.push(0), 0, 400);
    check("alice", Vec::clear, 0, 400);
    check("mallory", |_| {}, 0, 441);
    check("mallory", last, 0, 437);
    check("alice", |_| {}, 600, 437);
}

/// Only what was asked for can be taken along, and only by who was asked politely.
#[test]
fn mobility_has_to_be_asked_for() {
    for (count, to) in WAYS {
        let mut shards = shards(count, |_| {});
        let alice = shards.client(0, "alice", CLIENT);
        let answer = shards.ask(0, &alice, ALLOCATE, &[TRANSPORT]);
        assert_eq!((error(&answer), raw(&answer, attr::MOBILITY_TICKET)), (None, None));
        let moved = shards.client(to, "alice", SECOND);
        assert_eq!(error(&follow(&mut shards, to, &moved, ANY)), Some(405));
        let odd = [TRANSPORT, A::Raw(attr::MOBILITY_TICKET, ANY)];
        assert_eq!(error(&shards.ask(to, &moved, ALLOCATE, &odd)), Some(400));
    }
}

/// It counts where its client is.
#[test]
fn the_quota_of_a_source_follows_too() {
    for (count, to) in WAYS {
        let limit = |config: &mut Config| config.limits.relay.allocations_per_source = 1;
        let Mobile { mut shards, alice, relays, ticket } = mobile(count, limit);
        let bob = shards.client(to, "bob", THIRD);
        assert_eq!(error(&shards.ask(to, &bob, ALLOCATE, &[TRANSPORT])), None);
        let moved = shards.client(to, "alice", "20.0.1.9:10");
        assert_eq!(error(&follow(&mut shards, to, &moved, &ticket)), Some(486));
        assert!(is_served(&mut shards, 0, &alice, &relays));
        assert_eq!(error(&shards.ask(to, &bob, REFRESH, &[END])), None);
        assert_eq!(error(&follow(&mut shards, to, &moved, &ticket)), None);
        for (user, source, code) in [("bob", THIRD, Some(486)), ("carol", SECOND, None)] {
            let client = shards.client(0, user, source);
            assert_eq!(error(&shards.ask(0, &client, ALLOCATE, &[TRANSPORT])), code, "{user}");
        }
    }
}

/// Messages between shards may be lost: nothing stays behind, and the client learns that it has to begin anew.
#[test]
fn what_is_lost_on_the_way_is_freed() {
    let Mobile { mut shards, alice, relays, ticket } = mobile(2, |_| {});
    let moved = shards.client(1, "alice", SECOND);
    let request = shards.at(1).request(&moved, REFRESH, &[A::Raw(attr::MOBILITY_TICKET, &ticket)]);
    shards.is_lossy = true;
    assert!(shards.give(1, &moved, &request).is_none());
    shards.is_lossy = false;
    assert!(is_served(&mut shards, 0, &alice, &relays), "nobody was asked");

    let lost = shards.hold_hand_over(1, &moved, &request);
    drop(lost);
    shards.settle();
    assert_eq!(error(&shards.give(1, &moved, &request).expect("an answer")), Some(437));
    for shard in &mut shards.shards {
        assert_eq!((shard.sockets.len(), shard.rig.server.relay_sizes()), (0, [0; 4]));
    }
    assert_eq!(error(&shards.ask(1, &moved, ALLOCATE, &[TRANSPORT, BOTH, PLEASE])), None);
}
