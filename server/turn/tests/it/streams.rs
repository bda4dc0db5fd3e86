//! TCP and TLS between client and server (RFC 8656, section 3.1; RFC 8489, section 6.2.2).

use meetpoint_proto::SessionId;
use meetpoint_turn::frame::frame_len;
use meetpoint_turn::message::{ALLOCATE, BINDING, Class, REFRESH};
use meetpoint_turn::{
    Config, ConfigError, Input, ListenerId, Output, Rate, StreamListener, StunServer, Transport, attr,
};

use crate::common::{
    CLIENT, NOW_UNIX_S, Rig, addr, config, error, kinds, lone, mapped, plain, raw, request, request_with,
    square, unknown,
};
use crate::turn::{
    A, CHANNEL, PEER, Relayed, TurnRig, UDP, channel_data, data_indication, relay_config, to_client, to_peer,
    with, write,
};

pub(crate) const TCP_AT: ListenerId = ListenerId(1);
const TLS_AT: ListenerId = ListenerId(2);

fn streams(first_id: u8) -> Vec<StreamListener> {
    let places = [(Transport::Tcp, "20.0.0.1:3478"), (Transport::Tls, "20.0.0.1:5349")];
    let listener = |(id, (transport, text)): (u8, &(Transport, &str))| StreamListener {
        id: ListenerId(first_id + id),
        transport: *transport,
        addr: addr(text),
    };
    (0..).zip(&places).map(listener).collect()
}

pub(crate) fn turn_over(at: ListenerId) -> TurnRig {
    let mut turn = with(|config| config.streams = streams(1));
    turn.rig.at = at;
    turn
}

#[test]
fn listeners_of_streams_are_counted_on() {
    let check = |change: fn(&mut Config), expected: Option<ConfigError>| {
        let mut config = Config { streams: streams(1), ..config(lone()) };
        change(&mut config);
        assert_eq!(StunServer::new(config, [0; 32]).err(), expected);
    };
    check(|_| {}, None);
    check(|config| config.streams[1].id = ListenerId(7), Some(ConfigError::ListenerId { index: 2, id: 7 }));
    check(|config| config.streams[0].id = ListenerId(0), Some(ConfigError::ListenerId { index: 1, id: 0 }));
    check(
        |config| config.streams[0].transport = Transport::Udp,
        Some(ConfigError::NoStream(addr("20.0.0.1:3478"))),
    );
    check(|config| config.streams[0].addr.set_port(0), Some(ConfigError::NoPort(addr("20.0.0.1:0"))));
    check(|config| config.streams = vec![config.streams[0]; 9], Some(ConfigError::StreamCount));
    check(|config| config.listeners.clear(), Some(ConfigError::ListenerCount));
}

/// RFC 8656, section 18.8: what the client's own transport is says nothing of the peers', which is UDP.
#[test]
fn a_stream_carries_a_whole_session() {
    for (at, transport) in [(TCP_AT, Transport::Tcp), (TLS_AT, Transport::Tls)] {
        let mut turn = turn_over(at);
        let client = turn.client("alice", CLIENT);
        let tcp = A::Raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
        assert_eq!(turn.code(&client, ALLOCATE, &[tcp]), Some(442));
        let relayed = turn.allocate(&client);
        let sessions: Vec<_> = turn.rig.server.sessions(turn.rig.now).collect();
        assert_eq!((sessions[0].listener, sessions[0].transport), (at, transport));
        assert_eq!(turn.permit(&client, PEER), None);
        assert_eq!(turn.send(&client, PEER, b"hello"), to_peer(relayed, PEER, b"hello"));
        assert_eq!(data_indication(turn.arrive(relayed, PEER, b"hi")), Some((addr(PEER), b"hi".to_vec())));
        assert_eq!(turn.refresh(&client, 0), None);
    }
}

/// RFC 8656, section 12.5: over a stream ChannelData is padded, over UDP it need not be; its length
/// says how much of it is data.
#[test]
fn channel_data_is_padded_in_a_stream_only() {
    for (at, is_padded) in [(ListenerId(0), false), (TCP_AT, true), (TLS_AT, true)] {
        let mut turn = turn_over(at);
        let client = turn.client("alice", CLIENT);
        let relayed = turn.allocate(&client);
        assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
        for len in 0..9 {
            let data = vec![7; len];
            let mut framed = channel_data(CHANNEL, &data);
            let bare_len = framed.len();
            framed.resize(bare_len.next_multiple_of(4), 0);
            assert_eq!(frame_len(&framed), Ok(Some(framed.len())));
            assert_eq!(turn.relay(CLIENT, &framed), to_peer(relayed, PEER, &data), "{len}");
            let expected = if is_padded { &framed[..] } else { &framed[..bare_len] };
            assert_eq!(turn.arrive(relayed, PEER, &data), to_client(CLIENT, expected), "{len}");
        }
    }
}

/// Whatever is written to a stream is whole frames, one after the other.
#[test]
fn what_is_written_can_be_read_again() {
    let mut turn = turn_over(TCP_AT);
    let client = turn.client("alice", CLIENT);
    let relayed = turn.allocate(&client);
    assert_eq!(turn.bind(&client, CHANNEL, PEER), None);
    assert_eq!(turn.permit(&client, "30.0.0.2:1"), None);
    let mut stream = vec![];
    let mut frames = vec![];
    for len in (0..40).chain([1200, 65_000]) {
        for peer in [PEER, "30.0.0.2:1"] {
            let Some(Relayed::ToClient { datagram, .. }) = turn.arrive(relayed, peer, &vec![7; len]) else {
                panic!("{len} bytes are relayed");
            };
            stream.extend(&datagram);
            frames.push(datagram);
        }
    }
    let mut rest = &stream[..];
    for frame in frames {
        let len = frame_len(rest).expect("in its place").expect("whole");
        assert_eq!(rest[..len], frame);
        rest = &rest[len..];
    }
    assert!(rest.is_empty());
}

/// RFC 8656, section 6: an allocation is a 5-tuple's. The same address and port over another
/// transport is another client.
#[test]
fn each_transport_has_its_own_allocations() {
    let mut turn = turn_over(TCP_AT);
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    turn.rig.at = TLS_AT;
    assert_eq!(turn.refresh(&client, 600), Some(437));
    turn.allocate(&client);
    assert_eq!(turn.rig.server.sessions(turn.rig.now).count(), 2);
    let disconnected = |turn: &mut TurnRig, listener| {
        let input = Input::Disconnected { listener, source: addr(CLIENT) };
        turn.rig.server.handle(turn.rig.now, input);
        assert_eq!(turn.run(), []);
        (turn.rig.server.relay_sizes()[0], turn.sockets.len())
    };
    assert_eq!(disconnected(&mut turn, ListenerId(9)), (2, 2));
    assert_eq!(disconnected(&mut turn, TLS_AT), (1, 1));
    assert_eq!(disconnected(&mut turn, TLS_AT), (1, 1), "once");
    assert_eq!(disconnected(&mut turn, TCP_AT), (0, 0));
    assert_eq!(turn.rig.counters().relay.ended, 2);
}

/// A connection that ends while its sockets are being opened leaves nothing behind.
#[test]
fn a_connection_may_end_before_its_answer() {
    let mut turn = turn_over(TCP_AT);
    let client = turn.client("alice", CLIENT);
    let request = turn.request(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]);
    let opens = turn.rig.give(TCP_AT, CLIENT, &request);
    let [Output::OpenRelay { id, .. }] = opens[..] else { panic!("{opens:?}") };
    let input = Input::Disconnected { listener: TCP_AT, source: addr(CLIENT) };
    turn.rig.server.handle(turn.rig.now, input);
    turn.rig.server.handle(turn.rig.now, Input::RelayOpened { id });
    assert_eq!(turn.rig.outputs(), [Output::CloseRelay { id }]);
    assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
}

/// A nonce is for the transport it went over as well: behind a NAT the same address and port are
/// another client's there.
#[test]
fn a_nonce_is_good_for_its_transport() {
    let check = |from: ListenerId, to: ListenerId, code: Option<u16>| {
        let mut turn = turn_over(from);
        let client = turn.client("alice", CLIENT);
        turn.rig.at = to;
        let answer = turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]);
        assert_eq!(error(&answer), code, "{from:?} {to:?}");
    };
    check(TCP_AT, TCP_AT, None);
    check(TCP_AT, ListenerId(0), Some(438));
    check(ListenerId(0), TCP_AT, Some(438));
}

/// The nonce that came with a node's credential saves the challenge: on a stream, for that user, for as long as others
/// last. Where it is refused the challenge comes as ever, and is answered as ever.
#[test]
fn a_welcomes_nonce_saves_the_challenge() {
    let check = |at: ListenerId, of: u8, age_s: u64, code: Option<u16>| {
        let mut turn = turn_over(at);
        let mut node = turn.welcomed(1, CLIENT, NOW_UNIX_S - age_s);
        node.login.nonce = turn.welcomed(of, CLIENT, NOW_UNIX_S - age_s).login.nonce;
        let transport = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
        let answer = turn.ask(&node, ALLOCATE, std::slice::from_ref(&transport));
        assert_eq!(error(&answer), code, "{at:?} {of} {age_s}");
        if code.is_some() {
            assert_eq!(turn.lent, []);
            node.login.nonce = raw(&answer, attr::NONCE).expect("another nonce");
            assert_eq!(turn.code(&node, ALLOCATE, &[transport]), None);
        }
        // The rest of the session goes by the same nonce, and the broker is told who was lent what.
        assert_eq!(turn.bind(&node, CHANNEL, PEER), None);
        assert_eq!(turn.refresh(&node, 600), None);
        let relayed = turn.sockets.values().next().copied();
        assert_eq!(turn.lent, [(SessionId::from_bytes([1; 16]), [relayed, None])]);
    };
    for at in [TCP_AT, TLS_AT] {
        check(at, 1, 0, None);
        check(at, 1, 300, None);
        check(at, 1, 600, Some(438));
        check(at, 2, 0, Some(438));
    }
    check(ListenerId(0), 1, 0, Some(438));
}

/// It is for the first allocation, wherever the next one is asked for from; and when there is none any more it is for
/// the first again.
#[test]
fn a_welcomes_nonce_makes_one_allocation() {
    let mut turn = turn_over(TCP_AT);
    let node = turn.welcomed(1, CLIENT, NOW_UNIX_S);
    let again = turn.welcomed(1, "20.0.1.1:40001", NOW_UNIX_S);
    let other = turn.welcomed(2, "20.0.1.2:40000", NOW_UNIX_S);
    turn.allocate(&node);
    turn.allocate(&other);
    let transport = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
    assert_eq!(turn.code(&again, ALLOCATE, std::slice::from_ref(&transport)), Some(438));
    assert_eq!(turn.refresh(&node, 0), None);
    assert_eq!(turn.code(&again, ALLOCATE, &[transport]), None);
}

/// The operator's own users are nobody's peers by the broker, which is told nothing of them.
#[test]
fn the_broker_is_told_of_nodes_alone() {
    let mut turn = turn_over(TCP_AT);
    let client = turn.client("alice", CLIENT);
    turn.allocate(&client);
    assert_eq!(turn.lent, []);
}

/// A login on a stream is answered and says nothing about where its user's datagrams come from.
#[test]
fn a_stream_is_not_observed() {
    for (at, outputs) in [(ListenerId(0), 2), (TCP_AT, 1), (TLS_AT, 1)] {
        let mut turn = turn_over(at);
        let client = turn.client("alice", CLIENT);
        let request = turn.request(&client, BINDING, &[]);
        let given = turn.rig.give(at, CLIENT, &request);
        assert_eq!(given.len(), outputs, "{given:?}");
        assert!(
            matches!(&given[0], Output::Transmit { payload, .. } if mapped(payload) == Some(addr(CLIENT)))
        );
    }
}

/// RFC 5780, section 6.1: what can't be done is an unknown attribute. An answer on a stream has
/// nowhere else to go.
#[test]
fn a_stream_answers_back_only() {
    let mut rig = Rig::with(Config { streams: streams(4), ..config(square()) });
    rig.at = ListenerId(4);
    let answer = rig.ask(CLIENT, &plain()).expect("an answer");
    assert_eq!(kinds(&answer), [attr::XOR_MAPPED_ADDRESS]);
    let change: (u16, &[u8]) = (attr::CHANGE_REQUEST, &[0, 0, 0, 0]);
    let port: (u16, &[u8]) = (attr::RESPONSE_PORT, &[1, 1, 0, 0]);
    for attributes in [vec![change], vec![port], vec![change, port]] {
        let answer = rig.ask(CLIENT, &request_with(&attributes)).expect("an answer");
        let expected: Vec<_> = attributes.iter().map(|(kind, _)| *kind).collect();
        assert_eq!((error(&answer), unknown(&answer)), (Some(420), expected));
    }
    let mut padded = request();
    padded.attribute(attr::PADDING, &[0; 100]);
    let question = padded.finish();
    let answer = rig.ask(CLIENT, &question).expect("an answer");
    assert!(raw(&answer, attr::PADDING).is_some() && answer.len() <= question.len());
    assert_eq!(rig.counters().binding.redirected, 0);
}

/// Who has shown by TCP's handshake that he receives costs nobody else anything: amplification
/// does not matter, and his budget is his own.
#[test]
fn a_stream_needs_no_budget_against_amplification() {
    let short = request_with(&[(attr::USERNAME, b"1:a")]);
    let answered = |at: ListenerId, ports: std::ops::Range<u16>| {
        let mut config = Config { streams: streams(1), relay: Some(relay_config()), ..config(lone()) };
        config.limits.amplified = Rate::new(1, 3);
        config.limits.source = Rate::new(1, 5);
        let mut rig = Rig::with(config);
        let ask = |port: u16| rig.give(at, &format!("20.0.1.1:{port}"), &short).len();
        ports.map(ask).sum::<usize>()
    };
    assert_eq!(answered(ListenerId(0), 1..21), 3, "amplified");
    assert_eq!(answered(TCP_AT, 1..21), 20, "each connection by itself");
    let mut rig = Rig::with(Config { streams: streams(1), ..config(lone()) });
    let count = (0..1000).filter(|_| !rig.give(TCP_AT, CLIENT, &plain()).is_empty()).count();
    assert_eq!(count, 400, "and one connection no more than its burst");
}

/// Where the server listens for streams is no peer either, even among the addresses allowed.
#[test]
fn listeners_of_streams_are_no_peers() {
    let mut turn = with(|config| {
        config.streams = streams(1);
        let relay = config.relay.as_mut().expect("a relay");
        relay.allow = vec!["20.0.0.1/32".parse().expect("a block")];
    });
    let client = turn.client("mallory", CLIENT);
    turn.allocate(&client);
    assert_eq!(turn.permit(&client, "20.0.0.1:5349"), Some(403));
    assert_eq!(turn.permit(&client, "20.0.0.1:5350"), None);
    let id = turn.fresh_id();
    let data = A::Raw(attr::DATA, b"x");
    let send = write(Class::Indication, meetpoint_turn::message::SEND, id, &[A::Peer("20.0.0.1:5349"), data]);
    assert_eq!(turn.relay(CLIENT, &send.finish()), None);
    assert_eq!(turn.code(&client, REFRESH, &[]), None);
}

/// RFC 8016: what a stream carried ends with it, so it follows nobody.
#[test]
fn what_a_stream_carries_is_not_mobile() {
    for at in [TCP_AT, TLS_AT] {
        let mut turn = turn_over(at);
        let client = turn.client("alice", CLIENT);
        let transport = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
        let ticket = |value| A::Raw(attr::MOBILITY_TICKET, value);
        assert_eq!(turn.code(&client, ALLOCATE, &[transport.clone(), ticket(&[])]), Some(405));
        assert_eq!(turn.code(&client, REFRESH, &[ticket(&[0; 16])]), Some(405));
        assert_eq!(turn.code(&client, ALLOCATE, &[transport]), None);
    }
}
