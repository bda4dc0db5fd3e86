//! However a connection ends, the shard hears of it once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{LISTENER, Piped, Shard, binding, is_answer, source};
use crate::stream::StreamKind;
use crate::stream::connection::{self, Origin};
use crate::udp::{Message, StreamInput};

#[tokio::test(start_paused = true)]
async fn garbage_ends_it() {
    let reason = "neither a STUN message nor ChannelData begins here";
    for garbage in [&b"\x80"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC", b"\0\x01\0\0HTTP"] {
        let mut piped = Piped::new();
        // What came before it is answered.
        piped.client.write_all(&[&binding(1), garbage].concat()).await.unwrap();
        piped.shard.settle().await;
        let mut answer = Vec::new();
        piped.client.read_to_end(&mut answer).await.unwrap();
        assert!(is_answer(&answer, 1));
        assert_eq!(piped.end().await, reason, "{garbage:?}");
    }
}

/// As `nc` does with its input's end.
#[tokio::test(start_paused = true)]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let mut piped = Piped::new();
    piped.client.write_all(&binding(1)).await.unwrap();
    piped.client.shutdown().await.unwrap();
    piped.shard.settle().await;
    let mut answer = Vec::new();
    piped.client.read_to_end(&mut answer).await.unwrap();
    assert!(is_answer(&answer, 1));
    assert_eq!(piped.end().await, "closed by the client");
}

#[tokio::test(start_paused = true)]
async fn the_server_ends_it() {
    let mut piped = Piped::new();
    piped.client.write_all(&binding(1)).await.unwrap();
    piped.shard.settle().await;
    piped.stop.cancel();
    piped.shard.settle().await;
    let mut answer = Vec::new();
    piped.client.read_to_end(&mut answer).await.unwrap();
    assert!(is_answer(&answer, 1), "what was asked before is answered");
    assert_eq!(piped.end().await, "the server is ending");
}

#[tokio::test(start_paused = true)]
async fn the_shard_ends_it() {
    let mut piped = Piped::new();
    piped.shard.settle().await;
    let replies = piped.shard.replies.get_mut(&(LISTENER, source())).unwrap();
    // Its own sender stays in the table, closed, until it hears the farewell.
    *replies = tokio::sync::mpsc::channel(1).0;
    assert_eq!(piped.end().await, "closed by the shard");
}

#[tokio::test]
async fn a_shard_that_is_gone_ends_it() {
    let Piped { client, shard, served, .. } = Piped::new();
    drop(shard);
    assert_eq!(served.await.unwrap().to_string(), "the server is ending");
    drop(client);
}

/// A stream that panics when it is read.
struct Bomb;

impl AsyncRead for Bomb {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        panic!("on purpose");
    }
}

impl AsyncWrite for Bomb {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_panic_or_a_cancellation_ends_it_too() {
    for (is_panic, is_full) in [(true, false), (true, true), (false, false), (false, true)] {
        let (inbox, mut shard) = Shard::new();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let (their_inbox, their_tasks) = (inbox.clone(), tasks.clone());
        let (_client, server) = tokio::io::duplex(1);
        let origin = Origin { listener: LISTENER, source: source(), kind: StreamKind::Tcp };
        let opening = inbox.clone();
        let task = tokio::spawn(async move {
            if is_panic {
                connection::serve(Bomb, origin, &their_inbox, &their_tasks, &stop).await
            } else {
                connection::serve(server, origin, &their_inbox, &their_tasks, &stop).await
            }
        });
        if is_full {
            // Everything behind the place that `Opened` takes. Nobody else runs meanwhile.
            let other = || StreamInput::Frame { listener: LISTENER, source: source(), bytes: Vec::new() };
            let places = std::iter::from_fn(|| opening.try_send(Message::Stream(other())).then_some(()));
            let count = places.count();
            assert!(count > 0);
            shard.arrivals.next();
        }
        tokio::task::yield_now().await;
        task.abort();
        let result = task.await;
        assert_eq!(result.is_err_and(|error| error.is_panic()), is_panic);
        tasks.close();
        while !(tasks.is_empty() && shard.closed == 1) {
            shard.turn();
            tokio::task::yield_now().await;
        }
        assert_eq!((shard.opened, shard.closed, shard.replies.len()), (1, 1, 0));
    }
}
