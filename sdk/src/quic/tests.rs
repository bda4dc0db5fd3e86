//! Two or more nodes on real sockets of the loopback interface.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn::{RecvStream, SendStream};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;
use crate::mux::{BindAddrs, SocketStats, StunDatagram};
use crate::provisional::Wanted;

/// Nothing here takes a second; what has not happened by now never will.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    id: NodeId,
    mux: Arc<Mux>,
    admitted: Arc<Admitted>,
    quic: Quic,
    acceptor: Acceptor,
    stun: mpsc::Receiver<StunDatagram>,
}

impl Node {
    fn new(secret: u8) -> Self {
        Self::bind(secret, BindAddrs { v4: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), v6: None })
    }

    fn bind(secret: u8, addrs: BindAddrs) -> Self {
        let key = NodeKey::from_secret(&[secret; 32]);
        let (mux, stun) = Mux::bind(addrs, &key.id(), Arc::default(), Arc::default()).unwrap();
        let admitted = Arc::<Admitted>::default();
        let (quic, acceptor) = Quic::start(Arc::clone(&mux), &key, Arc::clone(&admitted)).unwrap();
        Self { id: key.id(), mux, admitted, quic, acceptor, stun }
    }

    /// The IPv4 address, or the last one bound.
    fn addr(&self) -> SocketAddr {
        self.mux.local_addrs().last().unwrap()
    }

    fn stats(&self) -> SocketStats {
        self.mux.stats()
    }

    fn path(&self, peer: NodeId, remote: SocketAddr) {
        self.mux.paths().set(&peer, meetpoint_agent::Way::main(remote)).unwrap();
    }
}

/// Both sides know and admit each other.
fn introduce(a: &Node, b: &Node) {
    for (node, peer) in [(a, b), (b, a)] {
        assert!(node.admitted.admit(peer.id));
        node.path(peer.id, peer.addr());
    }
}

/// Both ends of a connection from `a` to `b`.
async fn connect(a: &Node, b: &mut Node) -> (Connection, Connection) {
    let (connecting, accepted) = tokio::join!(a.quic.connect(&b.id, MIN_INITIAL_RTT), b.acceptor.accept());
    let (peer, accepted) = accepted.unwrap();
    assert_eq!(peer, a.id);
    (connecting.unwrap(), accepted)
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Bytes that tell their place, so that loss, repetition and mixing show.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

async fn echo((mut send, mut recv): (SendStream, RecvStream)) {
    tokio::io::copy(&mut recv, &mut send).await.unwrap();
    send.finish().unwrap();
}

/// Sends `data` in chunks from `from` and reads it back, echoed by `to`; `between` runs before
/// each chunk.
async fn echo_between(from: &Connection, to: &Connection, data: &[u8], between: impl Fn(usize)) {
    let to = to.clone();
    let echoing = tokio::spawn(async move { echo(to.accept_bi().await.unwrap()).await });
    let (mut send, mut recv) = from.open_bi().await.unwrap();
    let sending = async {
        for (number, chunk) in data.chunks(64 << 10).enumerate() {
            between(number);
            send.write_all(chunk).await.unwrap();
        }
        send.finish().unwrap();
    };
    let ((), back) = tokio::join!(sending, recv.read_to_end(data.len() + 1));
    assert!(back.unwrap() == data, "the echo differs");
    echoing.await.unwrap();
}

/// Datagrams may be lost, so each is sent until its echo is there.
async fn datagrams_between(from: &Connection, to: &Connection) {
    let to = to.clone();
    let echoing = tokio::spawn(async move {
        while let Ok(datagram) = to.read_datagram().await {
            let _ = to.send_datagram(datagram);
        }
    });
    for number in 0..50 {
        let datagram = vec![number; from.max_datagram_size().unwrap()];
        timeout(PATIENCE, async {
            loop {
                from.send_datagram(datagram.clone().into()).unwrap();
                let answer = timeout(Duration::from_millis(200), from.read_datagram()).await;
                if answer.is_ok_and(|bytes| bytes.unwrap() == datagram) {
                    return;
                }
            }
        })
        .await
        .unwrap();
    }
    echoing.abort();
}

async fn check_echo(addrs: BindAddrs) {
    let (a, mut b) = (Node::bind(1, addrs), Node::bind(2, addrs));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    assert_eq!((raw_key::peer_of(&ab), raw_key::peer_of(&ba)), (Some(b.id), Some(a.id)));
    let data = pattern(4 << 20);
    tokio::join!(echo_between(&ab, &ba, &data, |_| ()), echo_between(&ba, &ab, &data, |_| ()));
    datagrams_between(&ab, &ba).await;
    datagrams_between(&ba, &ab).await;

    tokio::join!(a.quic.close("done"), async {
        let reason = ba.closed().await;
        assert!(
            matches!(&reason, ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_DONE),
            "{reason}"
        );
    });
    assert_eq!((a.stats().unverified, b.stats().unverified), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_mebibytes_and_datagrams_both_ways_by_ipv4() {
    check_echo(BindAddrs { v4: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), v6: None }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_mebibytes_and_datagrams_both_ways_by_ipv6() {
    let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    if UdpSocket::bind(v6).await.is_err() {
        eprintln!("skipped: this host has no IPv6 loopback");
        return;
    }
    check_echo(BindAddrs { v4: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), v6: Some(v6) }).await;
}

#[tokio::test]
async fn a_peer_without_the_pinned_key_is_an_error() {
    let (a, mut b, other) = (Node::new(1), Node::new(2), Node::new(3));
    introduce(&a, &b);
    a.path(other.id, b.addr());
    tokio::select! {
        outcome = a.quic.connect(&other.id, MIN_INITIAL_RTT) => {
            assert!(matches!(outcome, Err(ConnectError::WrongKey)), "{outcome:?}");
        }
        accepted = b.acceptor.accept() => panic!("{accepted:?}"),
    }
}

#[tokio::test]
async fn without_a_path_there_is_nothing_to_wait_for() {
    let (a, b) = (Node::new(1), Node::new(2));
    let outcome = a.quic.connect(&b.id, MIN_INITIAL_RTT).await;
    assert!(matches!(outcome, Err(ConnectError::NoPath)), "{outcome:?}");
}

/// `a` connects to `b`, which takes its address for that of `believed` and admits `admitted`;
/// `early` if that is refused by `b` before any handshake.
async fn check_refused(believed: u8, admitted: &[u8], early: bool) {
    let (a, mut b) = (Node::new(1), Node::new(2));
    let id = |secret: u8| NodeKey::from_secret(&[secret; 32]).id();
    a.path(b.id, b.addr());
    b.path(id(believed), a.addr());
    for &secret in admitted {
        assert!(b.admitted.admit(id(secret)));
    }
    let case = format!("believed {believed}, admitted {admitted:?}");
    let connecting = async {
        match a.quic.connect(&b.id, MIN_INITIAL_RTT).await {
            Ok(connection) => ConnectError::from(connection.closed().await),
            Err(error) => error,
        }
    };
    tokio::select! {
        outcome = timeout(PATIENCE, connecting) => {
            assert!(matches!(outcome, Ok(ConnectError::Refused)), "{case}: {outcome:?}");
        }
        accepted = b.acceptor.accept() => panic!("{case}: accepted {accepted:?}"),
    }
    assert_eq!(b.quic.endpoint.stats().refused_handshakes, u64::from(early), "{case}");
}

#[tokio::test]
async fn who_was_not_introduced_is_refused() {
    // Not admitted at all: refused before any handshake.
    check_refused(1, &[], true).await;
    check_refused(1, &[3], true).await;
    // On the path of an admitted peer, with a key that is not: refused by TLS.
    check_refused(3, &[3], false).await;
    // On the path of an admitted peer, with another admitted key: refused after TLS.
    check_refused(3, &[1, 3], false).await;
}

#[tokio::test]
async fn revoking_ends_new_connections_only() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    b.admitted.revoke(&a.id);
    echo_between(&ab, &ba, &pattern(1000), |_| ()).await;

    // An acceptor that nobody asks answers nobody.
    let (outcome, _) =
        tokio::join!(a.quic.connect(&b.id, MIN_INITIAL_RTT), timeout(PATIENCE / 20, b.acceptor.accept()));
    assert!(matches!(outcome, Err(ConnectError::Refused)), "{outcome:?}");
}

/// A stranger's address on the way: what `a` sends to the first address reaches `b` from the
/// second, and the other way round.
async fn forwarder(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let towards_a = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let towards_b = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addrs = (towards_a.local_addr().unwrap(), towards_b.local_addr().unwrap());
    for (from, to, remote) in
        [(Arc::clone(&towards_a), Arc::clone(&towards_b), b), (Arc::clone(&towards_b), towards_a, a)]
    {
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok(len) = from.recv(&mut buffer).await {
                let _ = to.send_to(&buffer[..len], remote).await;
            }
        });
    }
    addrs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_path_changes() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    let ways =
        [forwarder(a.addr(), b.addr()).await, forwarder(a.addr(), b.addr()).await, (b.addr(), a.addr())];
    let data = pattern(4 << 20);
    echo_between(&ab, &ba, &data, |chunk| {
        if chunk % 8 == 4 {
            let (of_b, of_a) = ways[chunk / 8 % ways.len()];
            b.path(a.id, of_a);
            a.path(b.id, of_b);
        }
    })
    .await;
    assert_eq!(ab.remote_address(), SyntheticAddr::of(&b.id).socket_addr(), "QUIC saw no change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_or_missing_path_is_only_a_pause() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    // Broadcast needs a permission that the socket does not ask for, so the system refuses it.
    a.path(b.id, "255.255.255.255:9".parse().unwrap());
    let data = pattern(100_000);
    let restored = async {
        wait_until("the system refuses a send", || a.stats().send_failed > 0).await;
        a.mux.paths().remove(&b.id);
        wait_until("a send is dropped for want of a path", || a.stats().no_path > 0).await;
        a.path(b.id, b.addr());
    };
    tokio::join!(echo_between(&ab, &ba, &data, |_| ()), restored);
}

#[tokio::test]
async fn without_a_path_for_long_a_connection_ends() {
    const FOR_LONG: Duration = Duration::from_secs(1);
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, _ba) = connect(&a, &mut b).await;
    let watch = a.quic.watch_with(FOR_LONG, b.id, &ab);
    a.mux.paths().remove(&b.id);
    a.path(b.id, b.addr());
    sleep(FOR_LONG * 5 / 4).await;
    assert_eq!(ab.close_reason(), None, "it came back");
    a.mux.paths().remove(&b.id);
    assert_eq!(timeout(PATIENCE, ab.closed()).await.unwrap(), ConnectionError::LocallyClosed);
    drop(watch);

    a.path(b.id, b.addr());
    let (ab, ba) = connect(&a, &mut b).await;
    drop((a.quic.watch_with(FOR_LONG, b.id, &ab), ab));
    let why = timeout(PATIENCE, ba.closed()).await.expect("the watch holds nothing");
    assert!(matches!(why, ConnectionError::ApplicationClosed(_)), "{why}");
}

fn stun(number: u8, len: usize) -> Vec<u8> {
    let mut message = vec![number; len];
    message[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stun_passes_between_quic_packets() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    let data = pattern(4 << 20);
    let mut received = std::mem::replace(&mut b.stun, mpsc::channel(1).1);
    let checking = async {
        for number in 0..32 {
            // Every other one is as long as a QUIC packet, as the system would merge them.
            let message = stun(number, if number % 2 == 0 { usize::from(MTU) } else { 20 });
            let datagram = timeout(PATIENCE, async {
                loop {
                    a.mux.send_to(b.addr(), &message, None).unwrap();
                    if let Ok(datagram) = timeout(Duration::from_millis(200), received.recv()).await {
                        return datagram.unwrap();
                    }
                }
            })
            .await
            .unwrap();
            assert_eq!((&datagram.bytes[..], datagram.source), (&message[..], a.addr()));
        }
    };
    tokio::join!(echo_between(&ab, &ba, &data, |_| ()), checking);
    assert_eq!(b.stats().stray, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strays_ends_nothing() {
    const ROUNDS: u64 = 500;
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let (ab, ba) = connect(&a, &mut b).await;
    let strays: [&[u8]; 8] = [
        b"",
        &[0],
        &[0x40],
        &[0xff; 1200],
        &[0x40, 0x00, 0x00, 0x04, 1, 2, 3, 4],
        &stun(1, 19),
        &[&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x43][..], &[0; 20]].concat(),
        &stun(9, 1600),
    ];
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let flood = async {
        for _ in 0..ROUNDS {
            for stray in strays {
                let _ = stranger.send_to(stray, b.addr()).await;
                let _ = a.mux.send_to(b.addr(), stray, None);
            }
            tokio::task::yield_now().await;
        }
    };
    let data = pattern(1 << 20);
    tokio::join!(flood, echo_between(&ab, &ba, &data, |_| ()));
    echo_between(&ba, &ab, &data, |_| ()).await;
    let stats = b.stats();
    assert!(stats.stray > 0 && stats.unverified > 0, "{stats:?}");
    assert_eq!((stats.stun, stats.receive_failed), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn stun_beyond_the_queue_is_dropped_and_counted() {
    const SENT: u64 = 400;
    let (a, b) = (Node::new(1), Node::new(2));
    for sent in 1..=SENT {
        a.mux.send_to(b.addr(), &stun(7, 20), None).unwrap();
        wait_until("the message is counted", || b.stats().stun == sent).await;
    }
    let waiting = u64::try_from(b.stun.len()).unwrap();
    assert!(waiting < SENT, "the queue is bounded");
    assert_eq!(b.stats().stun_dropped, SENT - waiting);
}

#[tokio::test]
async fn a_stranger_does_not_reach_quic() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    b.mux.paths().remove(&a.id);
    tokio::select! {
        outcome = a.quic.connect(&b.id, MIN_INITIAL_RTT) => panic!("{outcome:?}"),
        () = wait_until("the first packet is dropped", || b.stats().unverified > 0) => {}
    }
    assert_eq!((b.stats().quic, a.stats().quic), (0, 0), "neither heard nor answered");

    b.path(a.id, a.addr());
    connect(&a, &mut b).await;
}

#[tokio::test]
async fn the_socket_says_what_it_cannot() {
    let a = Node::new(1);
    let error = a.mux.send_to("[::1]:9".parse().unwrap(), b"x", None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);

    let SocketAddr::V4(taken) = a.addr() else { panic!("bound by IPv4") };
    let id = a.id;
    let error =
        Mux::bind(BindAddrs { v4: taken, v6: None }, &id, Arc::default(), Arc::default()).unwrap_err();
    assert!(error.to_string().contains("choose another port"), "{error}");
}

/// Who carries datagrams from `from` to `to` and sends each again: at once, and after all that follow it for a while.
fn replayer(from: Arc<UdpSocket>, to: Arc<UdpSocket>, remote: SocketAddr, replayed: Arc<AtomicU64>) {
    const KEPT: usize = 64;
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let mut kept = VecDeque::new();
        while let Ok(len) = from.recv(&mut buffer).await {
            let _ = to.send_to(&buffer[..len], remote).await;
            let _ = to.send_to(&buffer[..len], remote).await;
            kept.push_back(buffer[..len].to_vec());
            if kept.len() > KEPT
                && let Some(old) = kept.pop_front()
            {
                let _ = to.send_to(&old, remote).await;
            }
            replayed.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Whoever carries the datagrams of a connection, a relay for one, can repeat them and gains nothing by it: each of
/// QUIC's packets has a number that counts once (RFC 9000, section 12.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replayed_is_delivered_once() {
    const SENT: u32 = 200;
    let (a, mut b) = (Node::new(1), Node::new(2));
    introduce(&a, &b);
    let sockets =
        [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    let [of_b, of_a] = sockets.map(Arc::new);
    let replayed = Arc::new(AtomicU64::new(0));
    replayer(Arc::clone(&of_b), Arc::clone(&of_a), b.addr(), Arc::clone(&replayed));
    replayer(Arc::clone(&of_a), Arc::clone(&of_b), a.addr(), Arc::clone(&replayed));
    a.path(b.id, of_b.local_addr().unwrap());
    b.path(a.id, of_a.local_addr().unwrap());
    let (ab, ba) = connect(&a, &mut b).await;
    for number in 0..SENT {
        ab.send_datagram(number.to_be_bytes().to_vec().into()).unwrap();
    }
    echo_between(&ab, &ba, &pattern(256 << 10), |_| ()).await;
    let mut delivered = Vec::new();
    while let Ok(Ok(datagram)) = timeout(Duration::from_millis(100), ba.read_datagram()).await {
        delivered.push(datagram);
    }
    let distinct: HashSet<_> = delivered.iter().collect();
    assert!(
        !delivered.is_empty() && distinct.len() == delivered.len(),
        "{} twice",
        delivered.len() - distinct.len()
    );
    assert!(replayed.load(Ordering::Relaxed) > u64::from(SENT));
}

fn way_to(node: &Node) -> meetpoint_agent::Way {
    meetpoint_agent::Way::main(node.addr())
}

/// Each end's keyed check has come to the other, and no answer to one: the handshake is done by then, and data waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_does_not_wait_for_the_path_but_data_does() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    for (node, peer) in [(&a, &b), (&b, &a)] {
        node.mux.expect(&peer.id, way_to(peer)).unwrap();
    }
    let peer_of_a = b.id;
    let begun = a.quic.begin(&b.id, MAX_INITIAL_RTT).unwrap();
    // It is there before the check in front of it was read, and is kept.
    wait_until("the first datagram is there", || b.stats().unverified > 0).await;
    assert_eq!(b.stats().quic, 0);
    for (node, peer) in [(&a, &b), (&b, &a)] {
        assert!(node.admitted.admit(peer.id));
        node.mux.hear(&peer.id, way_to(peer)).unwrap();
    }
    let (mux_of_b, to_b) = (Arc::clone(&b.mux), way_to(&b));
    let accepting = async { b.acceptor.accept().await.unwrap() };
    tokio::pin!(accepting);
    let ab = tokio::select! {
        begun = timeout(PATIENCE, begun) => begun.unwrap().unwrap(),
        _ = &mut accepting => panic!("accepted without a path"),
    };
    let before = a.stats().no_path;
    ab.open_uni().await.unwrap().write_all(b"data").await.unwrap();
    tokio::select! {
        () = wait_until("the data is dropped", || a.stats().no_path > before) => {}
        _ = &mut accepting => panic!("accepted without a path"),
    }
    assert!(a.mux.set_path(&peer_of_a, to_b).is_ok());
    assert!(timeout(Duration::from_millis(50), &mut accepting).await.is_err(), "accepted without a path");
    assert!(mux_of_b.set_path(&a.id, way_to(&a)).is_ok());
    let (peer, ba) = timeout(PATIENCE, accepting).await.unwrap();
    assert_eq!(peer, a.id);
    let mut stream = timeout(PATIENCE, ba.accept_uni()).await.unwrap().unwrap();
    let mut data = [0; 4];
    stream.read_exact(&mut data).await.unwrap();
    assert_eq!(&data, b"data");
}

/// What this side begins with goes to the peer in other hands, and is answered before anything of this side's own has
/// come there: by the ways that there are, and once more where the peer's check shows that the way is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_came_with_the_introduction_is_answered() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    let (to, mut told) = mpsc::channel(1);
    let wanted = |request| Wanted { request, to: to.clone() };
    assert_eq!(a.mux.paths().begin(&b.id, wanted(7)), Ok(true));
    let begun = a.quic.begin(&b.id, MAX_INITIAL_RTT).unwrap();
    let (request, datagram) = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!((request, datagram.len()), (7, usize::from(MTU)));
    assert_eq!(a.mux.paths().begin(&b.id, wanted(8)), Ok(false), "it has begun already");

    b.mux.expect(&a.id, way_to(&a)).unwrap();
    assert!(b.admitted.admit(a.id) && a.admitted.admit(b.id));
    b.mux.introduced(&a.id, b"nothing that a handshake begins with").unwrap();
    assert_eq!(b.stats().quic, 0);
    b.mux.introduced(&a.id, &datagram).unwrap();
    let (mux_of_b, id_of_b, to_b) = (Arc::clone(&b.mux), b.id, way_to(&b));
    let accepting = async { b.acceptor.accept().await.unwrap() };
    tokio::pin!(accepting);
    // The first answer is too early.
    tokio::select! {
        () = wait_until("the answer is there", || a.stats().unverified > 0) => {}
        _ = &mut accepting => panic!("accepted without a path"),
    }
    a.mux.expect(&id_of_b, to_b).unwrap();
    a.mux.hear(&id_of_b, to_b).unwrap();
    mux_of_b.hear(&a.id, way_to(&a)).unwrap();
    let ab = tokio::select! {
        begun = timeout(PATIENCE, begun) => begun.unwrap().unwrap(),
        _ = &mut accepting => panic!("accepted without a path"),
    };
    a.mux.set_path(&id_of_b, to_b).unwrap();
    ab.open_uni().await.unwrap().write_all(b"data").await.unwrap();
    mux_of_b.set_path(&a.id, way_to(&a)).unwrap();
    let (peer, ba) = timeout(PATIENCE, accepting).await.unwrap();
    assert_eq!(peer, a.id);
    let mut stream = timeout(PATIENCE, ba.accept_uni()).await.unwrap().unwrap();
    let mut data = [0; 4];
    stream.read_exact(&mut data).await.unwrap();
    assert_eq!(&data, b"data");
}

/// A first datagram that nobody got, as where the peer's NAT was still closed, goes again with the path.
#[tokio::test]
async fn a_handshake_that_was_lost_goes_again_with_the_path() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    let nowhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    a.mux.expect(&b.id, meetpoint_agent::Way::main(nowhere.local_addr().unwrap())).unwrap();
    let begun = a.quic.begin(&b.id, MAX_INITIAL_RTT).unwrap();
    let mut lost = [0; 2048];
    timeout(PATIENCE, nowhere.recv(&mut lost)).await.unwrap().unwrap();
    let since = Instant::now();
    assert!(b.admitted.admit(a.id));
    b.mux.set_path(&a.id, way_to(&a)).unwrap();
    a.mux.set_path(&b.id, way_to(&b)).unwrap();
    let (connection, accepted) = tokio::join!(begun, b.acceptor.accept());
    assert!(connection.is_ok() && accepted.is_some());
    // QUIC itself would have waited for three times the round trip that it was told.
    assert!(since.elapsed() < 3 * MAX_INITIAL_RTT, "{:?}", since.elapsed());
}

/// What a victim gets of a node that was told to begin there `starts` times, until QUIC has repeated itself often.
async fn aimed_at_a_victim(starts: usize, bounded: bool) -> usize {
    const BOUND: u64 = 6;
    let a = Node::new(1);
    let victim = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (peer, way) =
        (NodeKey::from_secret(&[2; 32]).id(), meetpoint_agent::Way::main(victim.local_addr().unwrap()));
    a.mux.expect(&peer, way).unwrap();
    if !bounded {
        a.mux.paths().unbound(&peer);
    }
    let attempts = [(); 3].map(|()| a.quic.begin(&peer, MIN_INITIAL_RTT).unwrap());
    let (mut received, mut buffer) = (0, [0; 2048]);
    let reading = async {
        loop {
            received += victim.recv(&mut buffer).await.unwrap();
            if received > 20 * usize::from(MTU) {
                return;
            }
        }
    };
    let repeating = async {
        for _ in 1..starts {
            sleep(Duration::from_millis(5)).await;
            a.mux.expect(&peer, way).unwrap();
        }
        wait_until("QUIC has said it often", || a.stats().no_path >= BOUND).await;
        // What was sent by then is there.
        sleep(Duration::from_millis(20)).await;
    };
    tokio::select! {
        () = reading => {}
        () = repeating => {}
    }
    drop(attempts);
    received
}

/// The attack first succeeds without the bounds: QUIC goes on for seconds, for each attempt of the application.
#[tokio::test]
async fn what_is_not_verified_gets_one_datagram_for_each_start() {
    assert!(aimed_at_a_victim(1, false).await > 20 * usize::from(MTU), "the attack");
    for starts in [1, 4] {
        let received = aimed_at_a_victim(starts, true).await;
        assert!((1..=starts * usize::from(MTU)).contains(&received), "{received} bytes by {starts}");
    }
}
