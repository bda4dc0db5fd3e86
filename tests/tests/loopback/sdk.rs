//! The SDK as an application uses it, against the real server.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use meetpoint::{
    Builder, Code, ConnectError, Connection, Event, NetworkClass, Node, NodeId, PathKind, StartError,
};
use meetpoint_tests::binary::{PATIENCE, Server};
use tokio::time::timeout;

fn builder(server: &Server, name: &str) -> Builder {
    let backoff = (Duration::from_millis(50), Duration::from_millis(500));
    Node::builder(&server.url()).name(name).join_token(server.join_token()).backoff(backoff.0, backoff.1)
}

async fn start(server: &Server, name: &str) -> Node {
    builder(server, name).start().await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn serve(data: &Path) -> Server {
    Server::on_loopback(&data.join("data"), &[])
}

async fn pair(server: &Server) -> (Node, Node, Connection, Connection) {
    let (alice, bob) = (start(server, "alice").await, start(server, "bob").await);
    let (to_bob, to_alice) = tokio::join!(alice.connect_when_present("bob"), bob.accept());
    (alice, bob, to_bob.expect("a connection"), to_alice.expect("a connection"))
}

async fn echo(from: &Connection, to: &Connection, message: &[u8]) {
    let ask = async {
        let (mut send, mut recv) = from.open_bi().await.expect("a stream");
        send.write_all(message).await.expect("it goes");
        send.finish().expect("it ends");
        recv.read_to_end(message.len()).await.expect("it comes back")
    };
    let answer = async {
        let (mut send, mut recv) = to.accept_bi().await.expect("a stream");
        let bytes = recv.read_to_end(message.len()).await.expect("it arrives");
        send.write_all(&bytes).await.expect("it goes back");
        send.finish().expect("it ends");
    };
    let (back, ()) = timeout(PATIENCE, async { tokio::join!(ask, answer) }).await.expect("in time");
    assert_eq!(back, message);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_see_each_other_come_and_go() {
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(data.path());
    let alice = start(&server, "alice").await;
    let mut events = alice.events();
    assert!(
        matches!(events.next().await, Some(Event::Joined { again: false, .. })),
        "what is so comes first"
    );
    let bob = start(&server, "bob").await;
    let wait_for = async |events: &mut meetpoint::Events, fits: &dyn Fn(&Event) -> bool| {
        loop {
            match timeout(PATIENCE, events.next()).await.expect("in time") {
                Some(event) if fits(&event) => return,
                Some(_) => {}
                None => panic!("the events ended"),
            }
        }
    };
    wait_for(&mut events, &|event| matches!(event, Event::PeerJoined(peer) if peer.name == "bob")).await;
    assert_eq!(alice.peers().iter().map(|peer| peer.id).collect::<Vec<_>>(), [bob.id()]);
    wait_for(
        &mut bob.events(),
        &|event| matches!(event, Event::Classified(found) if found.class == NetworkClass::Loopback),
    )
    .await;
    assert_eq!(bob.class().map(|found| found.class), Some(NetworkClass::Loopback));
    let id = bob.id();
    bob.leave().await;
    wait_for(&mut events, &|event| *event == Event::PeerLeft(id)).await;
    assert_eq!(alice.peers(), []);
    // A node that has left is at its end, in every respect.
    assert!(bob.accept().await.is_none());
    assert!(matches!(bob.connect("alice").await, Err(ConnectError::NodeEnded)));
    let mut last = bob.events();
    while let Some(event) = timeout(PATIENCE, last.next()).await.expect("in time") {
        assert!(!matches!(event, Event::Missed(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_datagrams_and_the_path() {
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(data.path());
    let (alice, bob, to_bob, to_alice) = pair(&server).await;
    assert_eq!((to_bob.peer(), to_alice.peer()), (bob.id(), alice.id()));
    let message: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    echo(&to_bob, &to_alice, &message).await;
    echo(&to_alice, &to_bob, &message).await;
    for (from, to) in [(&to_bob, &to_alice), (&to_alice, &to_bob)] {
        from.send_datagram("unreliable".into()).expect("it fits");
        let got =
            timeout(PATIENCE, to.read_datagram()).await.expect("in time").expect("the connection stands");
        assert_eq!(&got[..], b"unreliable");
        let path = *from.path().borrow();
        assert_eq!(path.kind, PathKind::Direct);
        assert!(path.remote.port() != 0 && path.rtt < PATIENCE && path.elapsed < PATIENCE, "{path:?}");
    }
    let told = alice.explain("bob");
    assert!(told.starts_with("alice: on the server's machine; bob: "), "{told}");
    assert!(told.contains("they speak by a direct path of ") && told.contains(", found after "), "{told}");
    assert_eq!(told.split(", found").next(), alice.explain(bob.id()).split(", found").next());
    to_bob.close(7, "done");
    let why = timeout(PATIENCE, to_alice.closed()).await.expect("in time").to_string();
    assert!(why.contains("done"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_typed() {
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(data.path());
    let alice = start(&server, "alice").await;
    for (peer, expect) in [("nobody", Code::PeerOffline), ("alice", Code::SelfConnect)] {
        match timeout(PATIENCE, alice.connect(peer)).await.expect("in time") {
            Err(ConnectError::Refused(refusal)) => assert_eq!(refusal.code, expect),
            other => panic!("{peer}: {other:?}"),
        }
    }
    match builder(&server, "alice").start().await {
        Err(StartError::Rejected(refusal)) => assert_eq!(refusal.code, Code::NameTaken),
        other => panic!("{other:?}"),
    }
    assert!(matches!(builder(&server, "no good").start().await, Err(StartError::Name(_))));
    assert!(matches!(Node::builder("gopher://x").name("a").start().await, Err(StartError::Server(_))));
    let nowhere = Node::builder("http://127.0.0.1:1").name("a").start_timeout(Duration::from_millis(300));
    assert!(matches!(nowhere.start().await, Err(StartError::NoServer { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_the_server() {
    let data = tempfile::tempdir().expect("a directory");
    let mut server = serve(data.path());
    let (alice, _bob, to_bob, to_alice) = pair(&server).await;
    let mut events = alice.events();
    server.process.kill().expect("SIGKILL");
    let lost = async {
        while !matches!(events.next().await.expect("the node lives on"), Event::Disconnected { .. }) {}
    };
    timeout(PATIENCE, lost).await.expect("the node notices");
    echo(&to_bob, &to_alice, b"still here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_peers_connect_to_one_node_at_once() {
    const PEERS: usize = 20;
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(data.path());
    let hub = start(&server, "hub").await;
    let mut peers = Vec::new();
    for number in 0..PEERS {
        peers.push(start(&server, &format!("peer-{number}")).await);
    }
    let connects = futures_util::future::join_all(peers.iter().map(|peer| peer.connect("hub")));
    let accepts = async {
        let mut accepted = Vec::new();
        while accepted.len() < PEERS {
            accepted.push(hub.accept().await.expect("the hub lives"));
        }
        accepted
    };
    let (connections, accepted) =
        timeout(PATIENCE, async { tokio::join!(connects, accepts) }).await.expect("in time");
    for connection in connections {
        assert_eq!(connection.expect("a connection").peer(), hub.id());
    }
    let accepted: BTreeSet<NodeId> = accepted.iter().map(Connection::peer).collect();
    assert_eq!(accepted, peers.iter().map(Node::id).collect());
}
