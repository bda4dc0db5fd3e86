//! The path of an anonymous Binding does not allocate, nor does that of a relayed packet; and what
//! an idle allocation holds.

use meetpoint_turn::message::{ALLOCATE, CHANNEL_BIND, Class, REFRESH, SEND};
use meetpoint_turn::{Input, Output, Payload, Rate, attr};

use crate::common::{CLIENT, CLIENT6, PRIMARY_MAIN, Rig, addr, plain, request, request_with, square};
use crate::turn::{A, CHANNEL, Client, PEER, UDP, channel_data, turn, with, write};

#[test]
fn anonymous_bindings_do_not_allocate() {
    let mut rig = Rig::new(square());
    let mut with_fingerprint = request();
    with_fingerprint.fingerprint();
    let questions = [
        plain(),
        with_fingerprint.finish(),
        request_with(&[(attr::CHANGE_REQUEST, &[0, 0, 0, 6])]),
        request_with(&[(0x8022, b"some client's name")]),
    ];
    let mut check = |source: &str, question: &[u8]| {
        let source = addr(source);
        let mut outputs = 0;
        let measured = allocation_counter::measure(|| {
            let input = Input::Datagram { listener: PRIMARY_MAIN, source, payload: question };
            rig.server.handle(rig.now, input);
            while let Some(output) = rig.server.poll_output() {
                std::hint::black_box(output);
                outputs += 1;
            }
        });
        assert_eq!((outputs, measured.count_total), (1, 0));
    };
    for question in &questions {
        check(CLIENT, question);
        check(CLIENT6, question);
    }
}

/// ChannelData and indications, out and in, and between two clients.
#[test]
fn relayed_packets_do_not_allocate() {
    let mut turn = turn();
    let alice = turn.client("alice", CLIENT);
    let bob = turn.client("bob", "20.0.1.2:9");
    let (here, there) = (turn.allocate(&alice), turn.allocate(&bob));
    assert_eq!(turn.bind(&alice, CHANNEL, PEER), None);
    assert_eq!(turn.bind(&alice, CHANNEL + 1, &there.to_string()), None);
    assert_eq!(turn.permit(&bob, &here.to_string()), None);
    let at = *turn.sockets.iter().find(|(_, open)| **open == here).expect("a socket").0;
    let data = [7; 1200];
    let id = turn.fresh_id();
    let indication = write(Class::Indication, SEND, id, &[A::Peer(PEER), A::Raw(attr::DATA, &data)]).finish();
    let outbound = [channel_data(CHANNEL, &data), channel_data(CHANNEL + 1, &data), indication.to_vec()];
    let (source, now) = (addr(CLIENT), turn.rig.now);
    for datagram in &outbound {
        let measured = allocation_counter::measure(|| {
            assert!(turn.rig.server.datagram(now, PRIMARY_MAIN, source, datagram).is_some());
        });
        assert_eq!(measured.count_total, 0);
    }
    for peer in [addr(PEER), addr("30.0.0.1:7001")] {
        let measured = allocation_counter::measure(|| {
            assert!(turn.rig.server.relayed(now, at, peer, &data).is_some());
        });
        assert_eq!(measured.count_total, 0);
    }
}

/// With a permission, a channel, and the user's name: at most 1.5 KB, all of it given back.
#[test]
fn an_idle_allocation_is_small() {
    const COUNT: usize = 1000;
    let mut turn = with(|config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=60_000);
        config.limits.source = Rate::unlimited();
        config.limits.amplified = Rate::unlimited();
    });
    let clients: Vec<_> = (0..COUNT)
        .map(|n| {
            let user = format!("{n:052}");
            turn.client(&user, &format!("20.1.{}.{}:9", n / 250, n % 250 + 1))
        })
        .collect();
    let transport = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
    let number = A::Raw(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
    let mut packets = |method, attributes: &[A<'_>]| -> Vec<_> {
        let packet = |client| (client, turn.request(client, method, attributes));
        clients.iter().map(packet).collect()
    };
    let allocate = packets(ALLOCATE, &[transport]);
    let bind = packets(CHANNEL_BIND, &[number, A::Peer(PEER)]);
    let release = packets(REFRESH, &[A::Raw(attr::LIFETIME, &[0; 4])]);
    let mut feed = |packets: &[(&Client, Payload)]| {
        let grown = allocation_counter::measure(|| {
            for (client, payload) in packets {
                let input = Input::Datagram { listener: PRIMARY_MAIN, source: addr(&client.source), payload };
                turn.rig.server.handle(turn.rig.now, input);
                while let Some(output) = turn.rig.server.poll_output() {
                    if let Output::OpenRelay { id, .. } = output {
                        turn.rig.server.handle(turn.rig.now, Input::RelayOpened { id });
                    }
                }
            }
        });
        (grown.bytes_current, turn.rig.server.relay_sizes()[0])
    };
    let ((first, held), (more, _)) = (feed(&allocate), feed(&bind));
    let each = (first + more) / COUNT as i64;
    println!("{each} bytes for an idle allocation");
    assert!(held == COUNT && (200..=1536).contains(&each), "{each}");
    let (given_back, held) = feed(&release);
    let kept = (first + more + given_back) / COUNT as i64;
    println!("{kept} bytes of it are kept for the next one");
    assert!(held == 0 && kept <= 64, "{kept}");
}
