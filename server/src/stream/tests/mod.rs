//! Connections against a real machine, whose shard is turned by hand.

mod end;
mod limits;
mod sockets;
mod time;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use meetpoint_turn::{
    Config, Limits, Listener, ListenerId, ListenerRole, Output, Secret, Secrets, StreamListener, StunServer,
    Transport,
};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StreamKind;
use super::connection::{self, End, Origin};
use crate::udp::{Arrivals, Inbox, Message, StreamInput};

/// The machine's listeners: one for datagrams, which nobody uses, then one for each kind of stream.
const LISTENER: ListenerId = ListenerId(1);
const STREAMS: [StreamListener; 2] = {
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(20, 0, 0, 1)), 3478);
    [
        StreamListener { id: LISTENER, transport: Transport::Tcp, addr },
        StreamListener { id: ListenerId(2), transport: Transport::Tls, addr },
    ]
};
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

fn source() -> SocketAddr {
    SocketAddr::from(([20, 0, 0, 9], 4000))
}

/// A Binding request without attributes.
fn binding(id: u8) -> Vec<u8> {
    [&[0, 1, 0, 0][..], &MAGIC_COOKIE, &[id; 12]].concat()
}

/// True if this is a success response to the Binding of this id.
fn is_answer(frame: &[u8], id: u8) -> bool {
    frame.starts_with(&[1, 1]) && frame[8..20] == [id; 12]
}

/// The end of a shard that its thread would hold.
struct Shard {
    machine: StunServer,
    arrivals: Arrivals,
    replies: HashMap<(ListenerId, SocketAddr), mpsc::Sender<Vec<u8>>>,
    frames: usize,
    opened: usize,
    closed: usize,
}

impl Shard {
    fn new() -> (Inbox, Self) {
        let (inbox, arrivals) = Inbox::new().unwrap();
        let listener = Listener {
            id: ListenerId(0),
            role: ListenerRole::PrimaryMain,
            addr: SocketAddr::from(([20, 0, 0, 1], 3478)),
        };
        let config = Config {
            listeners: vec![listener],
            streams: STREAMS.to_vec(),
            realm: "meetpoint".to_owned(),
            secrets: Secrets::new(vec![Secret::new(&[7; 32]).unwrap()]).unwrap(),
            limits: Limits::default(),
            relay: None,
        };
        let machine = StunServer::new(config, [1; 32]).unwrap();
        let replies = HashMap::new();
        (inbox, Self { machine, arrivals, replies, frames: 0, opened: 0, closed: 0 })
    }

    /// Takes one message. False if there is none.
    fn turn(&mut self) -> bool {
        let Some(Message::Stream(input)) = self.arrivals.next() else { return false };
        match input {
            StreamInput::Opened { listener, source, replies } => {
                self.opened += 1;
                assert!(self.replies.insert((listener, source), replies).is_none());
            }
            StreamInput::Closed { listener, source } => {
                self.closed += 1;
                assert!(self.replies.remove(&(listener, source)).is_some());
            }
            StreamInput::Frame { listener, source, bytes } => {
                self.frames += 1;
                let now = std::time::Instant::now();
                assert!(self.machine.datagram(now, listener, source, &bytes).is_none());
                while let Some(Output::Transmit { listener, to, payload }) = self.machine.poll_output() {
                    let _ = self.replies[&(listener, to)].try_send(payload.into());
                }
            }
        }
        true
    }

    /// Lets everybody do what they can do without time passing.
    async fn settle(&mut self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
            while self.turn() {}
        }
    }

    /// To the only connection.
    fn reply(&self, bytes: Vec<u8>) -> bool {
        self.replies.values().next().unwrap().try_send(bytes).is_ok()
    }
}

/// A connection without sockets, so that time can be stopped.
struct Piped {
    client: DuplexStream,
    shard: Shard,
    stop: CancellationToken,
    served: JoinHandle<End>,
}

/// The bytes that are under way in each direction.
const PIPE_BYTES: usize = 256;

impl Piped {
    fn new() -> Self {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let (inbox, shard) = Shard::new();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stopping = stop.clone();
        let served = tokio::spawn(async move {
            let origin = Origin { listener: LISTENER, source: source(), kind: StreamKind::Tcp };
            connection::serve(server, origin, &inbox, &tasks, &stopping).await
        });
        Self { client, shard, stop, served }
    }

    /// Why it ended, once it has. The shard has heard of it.
    async fn end(mut self) -> String {
        self.shard.settle().await;
        // For a writer that has to wait for the client.
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        self.shard.settle().await;
        assert!(self.served.is_finished(), "the connection is still there");
        assert_eq!((self.shard.opened, self.shard.closed), (1, 1));
        self.served.await.unwrap().to_string()
    }
}
