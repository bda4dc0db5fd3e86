//! A WebRTC stack over a connection of the SDK: SCTP and data channels of the crates `webrtc-sctp` and `webrtc-data`,
//! between two nodes that have joined a server.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meetpoint::webrtc::{Conn, FlowId, MAX_PACKET_LEN, OpenError};
use meetpoint::{Connection, Node};
use meetpoint_tests::binary::{PATIENCE, Server};
use tokio::time::timeout;
use webrtc_data::data_channel::{Config, DataChannel};
use webrtc_sctp::association::{self, Association};
use webrtc_util::Error;

/// Messages of each size that go through a data channel, there and back.
const MESSAGES: usize = 50;
/// A datagram that has not arrived by then is lost.
const REPETITION: Duration = Duration::from_millis(200);
/// From a byte to many times what a packet holds.
const SIZES: [usize; 4] = [1, 1_000, 1_200, 60_000];

async fn start(server: &Server, name: &str) -> Node {
    let builder = Node::builder(&server.url()).name(name).join_token(server.join_token());
    builder.start().await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Two nodes, and both ends of their connection.
async fn pair(server: &Server) -> ([Node; 2], [Connection; 2]) {
    let (alice, bob) = (start(server, "alice").await, start(server, "bob").await);
    let (to_bob, to_alice) = tokio::join!(alice.connect_when_present("bob"), bob.accept());
    ([alice, bob], [to_bob.expect("a connection"), to_alice.expect("a connection")])
}

fn flow(number: u8) -> FlowId {
    FlowId::new(NonZeroU8::new(number).expect("a number"))
}

/// The defaults of the stack, its packets' size among them.
fn config(conn: &Arc<dyn Conn + Send + Sync>, name: &str) -> association::Config {
    association::Config {
        net_conn: Arc::clone(conn),
        max_receive_buffer_size: 0,
        max_message_size: 0,
        mtu: 0,
        name: name.to_owned(),
        remote_port: 5000,
        local_port: 5000,
    }
}

fn message(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31) ^ number).to_le_bytes()[0]).collect()
}

async fn write(channel: &DataChannel, len: usize) {
    for number in 0..MESSAGES {
        channel.write(&message(number, len)).await.expect("it goes");
    }
}

async fn read(channel: &DataChannel, len: usize) {
    let mut buffer = vec![0; 64 << 10];
    for number in 0..MESSAGES {
        let read = channel.read(&mut buffer).await.expect("it comes back");
        assert!(buffer[..read] == message(number, len), "message {number} of {len} bytes");
    }
}

/// Sends back what comes.
async fn echo(channel: DataChannel, count: usize) {
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..count {
        let len = channel.read(&mut buffer).await.expect("a message");
        channel.write(&Bytes::copy_from_slice(&buffer[..len])).await.expect("it goes back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_channels_run_over_a_connection() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let (_nodes, ends) = pair(&server).await;
    let conns: Vec<Arc<dyn Conn + Send + Sync>> =
        ends.iter().map(|end| Arc::new(end.webrtc(FlowId::FIRST).expect("a flow")) as _).collect();
    let meeting = async {
        tokio::try_join!(
            Association::client(config(&conns[0], "alice")),
            Association::server(config(&conns[1], "bob"))
        )
    };
    let (client, accepting) =
        timeout(PATIENCE, meeting).await.expect("in time").expect("the associations stand");
    let (client, accepting) = (Arc::new(client), Arc::new(accepting));
    let wanted = Config { label: "chat".to_owned(), ..Config::default() };
    let channel = DataChannel::dial(&client, 7, wanted).await.expect("a channel");
    let accepted = DataChannel::accept(&accepting, Config::default(), &[] as &[DataChannel]);
    let accepted = timeout(PATIENCE, accepted).await.expect("in time").expect("a channel");
    assert_eq!((accepted.config.label.as_str(), accepted.stream_identifier()), ("chat", 7));

    let echo = tokio::spawn(echo(accepted, MESSAGES * SIZES.len()));
    // Beside it the application goes on with its own messages.
    let chatter = tokio::spawn(chatter(ends.clone()));
    for len in SIZES {
        // Written and read at once: what is under way is bounded, so whoever only writes waits for ever.
        let both = async { tokio::join!(write(&channel, len), read(&channel, len)) };
        timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{len} bytes: not in time"));
    }
    timeout(PATIENCE, echo).await.expect("in time").expect("nothing went wrong");
    timeout(PATIENCE, chatter).await.expect("in time").expect("nothing went wrong");
    client.close().await.expect("it ends");
}

/// The application's own messages while flows are open; they look like a flow's.
async fn chatter([from, to]: [Connection; 2]) {
    for number in 0..200u32 {
        repeat(&from, &to, [&[0xF7, 1, 0][..], &number.to_be_bytes()].concat().into()).await;
    }
    let longest = vec![0xF7; from.max_datagram_size().expect("the peer takes datagrams")];
    repeat(&from, &to, longest.into()).await;
}

/// Sends a message until it has arrived: beside so much else one may get lost.
async fn repeat(from: &Connection, to: &Connection, message: Bytes) {
    let arrives = async { while to.read_datagram().await.expect("the connection stands") != message {} };
    tokio::pin!(arrives);
    loop {
        from.send_datagram(message.clone()).expect("it fits");
        if timeout(REPETITION, &mut arrives).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_apart_and_say_what_is_wrong() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let (nodes, [here, there]) = pair(&server).await;
    let [first, second] = [1, 2].map(|number| here.webrtc(flow(number)).expect("a flow"));
    let [their_first, their_second] = [1, 2].map(|number| there.webrtc(flow(number)).expect("a flow"));
    assert_eq!(here.webrtc(flow(1)).err(), Some(OpenError::Taken));
    assert_eq!(first.remote_addr(), their_first.local_addr().ok(), "each node has one name");
    assert_ne!(first.remote_addr(), first.local_addr().ok());

    let mut buffer = vec![0; MAX_PACKET_LEN];
    for (conn, theirs, len) in [
        (&first, &their_first, 0),
        (&second, &their_second, 1),
        (&first, &their_first, 1_163),
        (&second, &their_second, MAX_PACKET_LEN),
    ] {
        let packet = message(len, len);
        let target = conn.remote_addr().expect("a peer");
        assert_eq!(conn.send_to(&packet, target).await, Ok(len));
        let (read, from) =
            timeout(PATIENCE, theirs.recv_from(&mut buffer)).await.expect("in time").expect("a packet");
        assert_eq!((&buffer[..read], Some(from)), (&packet[..], theirs.remote_addr()), "{len}");
    }
    assert_eq!(first.send(&vec![0; MAX_PACKET_LEN + 1]).await, Err(Error::ErrPacketTooBig));
    let elsewhere = "20.0.0.1:9".parse().expect("an address");
    for refused in [first.send_to(b"x", elsewhere).await.map(drop), first.connect(elsewhere).await] {
        assert!(refused.expect_err("nobody is there").to_string().contains("20.0.0.1:9"));
    }
    first.connect(first.remote_addr().expect("a peer")).await.expect("that is where it leads");

    // A packet that does not fit the reader's buffer is lost, and the next one is not.
    first.send(b"too long").await.expect("it goes");
    first.send(b"fits").await.expect("it goes");
    let mut short = [0; 4];
    let read = timeout(PATIENCE, their_first.recv(&mut short)).await.expect("in time");
    assert_eq!(read, Err(Error::ErrBufferShort));
    assert_eq!(timeout(PATIENCE, their_first.recv(&mut short)).await.expect("in time"), Ok(4));

    // Closed is closed, at this side, and free again.
    let (closed, waiting) = tokio::join!(their_first.close(), their_first.recv(&mut short));
    closed.expect("it closes");
    assert_eq!(waiting, Err(Error::ErrUseClosedNetworkConn));
    assert_eq!(their_first.send(b"x").await, Err(Error::ErrUseClosedNetworkConn));
    let again = there.webrtc(flow(1)).expect("it is free");
    drop(their_first);
    first.send(b"more").await.expect("it goes");
    assert_eq!(timeout(PATIENCE, again.recv(&mut short)).await.expect("in time"), Ok(4));

    // The connection's end is the end of its flows, and says why.
    nodes[0].leave().await;
    let ended = timeout(PATIENCE, their_second.recv(&mut buffer)).await.expect("in time");
    assert!(ended.expect_err("it ends").to_string().contains("leaves the cluster"));
}
