//! A reserved port (RFC 8656, sections 7.2 and 18.10) whose client comes to another shard.

use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, REFRESH};
use meetpoint_turn::{Payload, attr};

use crate::common::{CLIENT, error, raw};
use crate::shards::{Shards, shards};
use crate::turn::{A, Client, PEER, UDP, relayed, to_peer};

const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
const SECOND: &str = "20.0.1.2:9";

/// Two shards, the port above a client's of the first one, and its token.
fn reserved() -> (Shards, u16, Vec<u8>) {
    let mut shards = shards(2, |config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_001);
    });
    let alice = shards.client(0, "alice", CLIENT);
    let answer = shards.ask(0, &alice, ALLOCATE, &[TRANSPORT, A::Raw(attr::EVEN_PORT, &[0x80])]);
    let token = raw(&answer, attr::RESERVATION_TOKEN).expect("a token");
    assert_eq!((token[0], relayed(&answer)[0].port()), (0, 50_000));
    (shards, 50_001, token)
}

fn redeem(shards: &mut Shards, shard: usize, client: &Client, token: &[u8]) -> Payload {
    shards.ask(shard, client, ALLOCATE, &[TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, token)])
}

#[test]
fn a_reserved_port_moves_to_its_client() {
    let (mut shards, port, token) = reserved();
    let client = shards.client(1, "alice", SECOND);
    let answer = redeem(&mut shards, 1, &client, &token);
    let at = relayed(&answer)[0];
    assert_eq!((error(&answer), at.port()), (None, port));
    let lifetime = raw(&answer, attr::LIFETIME).expect("a lifetime");
    assert_eq!(lifetime, 600_u32.to_be_bytes());
    assert_eq!([0, 1].map(|n| shards.at(n).sockets.len()), [1, 1]);
    assert_eq!([0, 1].map(|n| shards.at(n).rig.server.relay_sizes()), [[1, 1, 0, 1]; 2]);
    assert_eq!(shards.at(1).rig.counters().relay.allocate, 1);

    // It is a relayed address like any other, also for clients of the shard it comes from.
    assert_eq!(shards.at(1).permit(&client, PEER), None);
    assert_eq!(shards.at(1).send(&client, PEER, b"x"), to_peer(at, PEER, b"x"));
    assert!(shards.at(1).arrive(at, PEER, b"x").is_some());
    let alice = shards.client(0, "alice", CLIENT);
    assert_eq!(shards.at(0).code(&alice, CREATE_PERMISSION, &[A::Peer(&at.to_string())]), None);
    assert!(shards.at(0).send(&alice, &at.to_string(), b"x").is_some());

    // A token is good once.
    let third = shards.client(1, "alice", "20.0.1.3:9");
    assert_eq!(error(&redeem(&mut shards, 1, &third, &token)), Some(508));
    // The port is its new shard's to give back.
    let end = [A::Raw(attr::LIFETIME, &[0; 4])];
    assert_eq!(error(&shards.ask(1, &client, REFRESH, &end)), None);
    let fresh = shards.client(0, "bob", "20.0.1.4:9");
    assert_eq!(relayed(&shards.ask(0, &fresh, ALLOCATE, &[TRANSPORT]))[0].port(), port);
}

#[test]
fn a_reserved_port_is_its_users_while_it_waits() {
    let check = |user: &str, change: fn(&mut [u8]), pass_s: u64, code: Option<u16>| {
        let (mut shards, _, mut token) = reserved();
        change(&mut token);
        let client = shards.client(1, user, SECOND);
        shards.pass(Duration::from_secs(pass_s));
        let answer = redeem(&mut shards, 1, &client, &token);
        assert_eq!(error(&answer), code, "{user} {pass_s}");
        let [held, waiting] = [0, 2].map(|of| shards.at(1).rig.server.relay_sizes()[of]);
        assert_eq!((held, waiting), (usize::from(code.is_none()), 0));
        // Whoever was refused has not spent what he may have.
        let sessions: Vec<_> = (0..16)
            .map(|n| {
                let client = shards.client(1, "other", &format!("20.0.1.{}:9", n + 10));
                error(&redeem(&mut shards, 1, &client, &[0; 8]))
            })
            .collect();
        assert_eq!(sessions, [Some(508); 16], "never 486");
    };
    check("alice", |_| {}, 0, None);
    check("alice", |_| {}, 29, None);
    check("alice", |_| {}, 30, Some(508));
    check("mallory", |_| {}, 0, Some(508));
    check("alice", |token| token[7] ^= 1, 0, Some(508));
    check("alice", |token| token[0] = 1, 0, Some(508));
    check("alice", |token| token[0] = 2, 0, Some(508));
    check("alice", |token| token[0] = 255, 0, Some(508));
}

/// A message may be lost. The client is told so when a shell that answers would have, and nothing
/// of what was underway is lost with it.
#[test]
fn a_lost_claim_ends_in_time() {
    let (mut shards, port, token) = reserved();
    let client = shards.client(1, "alice", SECOND);
    let attributes = [TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, &token)];
    let request = shards.at(1).request(&client, ALLOCATE, &attributes);
    shards.is_lossy = true;
    for _ in 0..3 {
        assert!(shards.give(1, &client, &request).is_none(), "nothing to tell yet");
        assert!(shards.pass(Duration::from_secs(1)).is_empty());
    }
    let other = shards.at(1).request(&client, ALLOCATE, &[TRANSPORT]);
    assert_eq!(error(&shards.give(1, &client, &other).expect("an answer")), Some(437));
    let answers = shards.pass(Duration::from_secs(2));
    let codes: Vec<_> = answers.iter().map(|answer| error(answer)).collect();
    assert_eq!((codes, shards.at(1).rig.server.relay_sizes()), (vec![Some(508)], [0; 4]));
    // The reservation is as it was.
    shards.is_lossy = false;
    let answer = redeem(&mut shards, 1, &client, &token);
    assert_eq!(relayed(&answer)[0].port(), port);
}

/// The socket arrives when its client has been told that it does not: it is closed, and its port is
/// anybody's.
#[test]
fn a_late_or_lost_socket_frees_its_port() {
    for is_late in [false, true] {
        let (mut shards, port, token) = reserved();
        let client = shards.client(1, "alice", SECOND);
        let attributes = [TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, &token)];
        let request = shards.at(1).request(&client, ALLOCATE, &attributes);
        let handed_over = shards.hold_hand_over(1, &client, &request);
        if is_late {
            let codes: Vec<_> =
                shards.pass(Duration::from_secs(5)).iter().map(|answer| error(answer)).collect();
            assert_eq!(codes, [Some(508)]);
            let now = shards.at(1).rig.now;
            assert_eq!(shards.at(1).rig.server.adopt(now, handed_over), None);
        } else {
            // Until then the port is somebody's.
            let fresh = shards.client(0, "bob", "20.0.1.4:9");
            assert_eq!(error(&shards.ask(0, &fresh, ALLOCATE, &[TRANSPORT])), Some(508));
            drop(handed_over);
        }
        let fresh = shards.client(0, "carol", "20.0.1.5:9");
        assert_eq!(relayed(&shards.ask(0, &fresh, ALLOCATE, &[TRANSPORT]))[0].port(), port);
    }
}

/// Section 7.2: a retransmission is answered like the first one.
#[test]
fn a_retransmitted_claim_is_answered_alike() {
    let (mut shards, _, token) = reserved();
    let client = shards.client(1, "alice", SECOND);
    let attributes = [TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, &token)];
    let request = shards.at(1).request(&client, ALLOCATE, &attributes);
    let first = shards.give(1, &client, &request).expect("an answer");
    let second = shards.give(1, &client, &request).expect("an answer");
    assert_eq!((error(&first), first.to_vec()), (None, second.to_vec()));
}
