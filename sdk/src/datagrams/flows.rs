//! Deals a connection's datagrams to their queues.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{APPLICATION, read};
use crate::webrtc::packets::Assembler;

/// Bytes waiting in one queue, as much as QUIC buffers for the whole connection.
const MAX_QUEUED_LEN: usize = 1 << 20;
/// Packets waiting in one queue: each holds on to a little more than its bytes.
const MAX_QUEUED: usize = 4_096;

/// Why there is no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is in use at this side of the connection.
    #[error("this flow is open already; close it, or take another one")]
    Taken,
    /// The peer takes no unreliable messages.
    #[error("the peer takes no datagrams")]
    NoDatagrams,
    /// A flow needs a task of its own.
    #[error("a flow is opened within a tokio runtime")]
    NoRuntime,
}

/// See the module. Its task ends with it.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    queues: Arc<Queues>,
    task: OnceLock<AbortHandle>,
}

#[derive(Debug, Default)]
struct Queues {
    plain: Arc<Queue>,
    flows: Mutex<BTreeMap<u8, Flow>>,
}

#[derive(Debug)]
struct Flow {
    assembler: Assembler,
    queue: Arc<Queue>,
}

impl Flows {
    /// The application's messages.
    pub(super) fn plain(&self, quic: &quinn::Connection) -> Result<Arc<Queue>, OpenError> {
        self.read(quic)?;
        Ok(Arc::clone(&self.queues.plain))
    }

    pub(super) fn open(&self, quic: &quinn::Connection, number: u8) -> Result<Arc<Queue>, OpenError> {
        if quic.max_datagram_size().is_none() {
            return Err(OpenError::NoDatagrams);
        }
        self.read(quic)?;
        let mut flows = lock(&self.queues.flows);
        if flows.contains_key(&number) {
            return Err(OpenError::Taken);
        }
        let queue = Arc::new(Queue::default());
        flows.insert(number, Flow { assembler: Assembler::default(), queue: Arc::clone(&queue) });
        drop(flows);
        // The task may have seen the connection's end just before.
        if quic.close_reason().is_some() {
            queue.close();
        }
        Ok(queue)
    }

    pub(super) fn close(&self, number: u8) {
        if let Some(flow) = lock(&self.queues.flows).remove(&number) {
            flow.queue.close();
        }
    }

    /// Has the datagrams read from now on.
    fn read(&self, quic: &quinn::Connection) -> Result<(), OpenError> {
        let runtime = Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
        self.task.get_or_init(|| {
            let (quic, queues) = (quic.clone(), Arc::clone(&self.queues));
            runtime.spawn(deal(quic, queues)).abort_handle()
        });
        Ok(())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        // The task holds the connection, which ends with the last who uses it.
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn deal(quic: quinn::Connection, queues: Arc<Queues>) {
    while let Ok(datagram) = quic.read_datagram().await {
        let (number, bytes) = read(datagram);
        if number == APPLICATION {
            queues.plain.push(bytes);
        } else if let Some(flow) = lock(&queues.flows).get_mut(&number)
            && let Some(packet) = flow.assembler.take(bytes)
        {
            // What comes for a flow that is not open here is lost, as on any network.
            flow.queue.push(packet);
        }
    }
    queues.plain.close();
    for flow in lock(&queues.flows).values() {
        flow.queue.close();
    }
}

/// What waits for one reader, or for several that share.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<Bytes>,
    len: usize,
    is_closed: bool,
}

impl Queue {
    fn push(&self, packet: Bytes) {
        let mut waiting = lock(&self.waiting);
        waiting.len += packet.len();
        waiting.packets.push_back(packet);
        while waiting.len > MAX_QUEUED_LEN || waiting.packets.len() > MAX_QUEUED {
            let oldest = waiting.packets.pop_front().map_or(0, |oldest| oldest.len());
            waiting.len -= oldest;
        }
        drop(waiting);
        self.news.notify_one();
    }

    fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.news.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).is_closed
    }

    /// The next packet; `None` once the queue is closed and empty. Cancelling loses nothing.
    pub(crate) async fn next(&self) -> Option<Bytes> {
        loop {
            // Made before the look, so that no word is missed in between.
            let news = self.news.notified();
            {
                let mut waiting = lock(&self.waiting);
                if let Some(packet) = waiting.packets.pop_front() {
                    waiting.len -= packet.len();
                    return Some(packet);
                }
                if waiting.is_closed {
                    return None;
                }
            }
            news.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_queue_loses_the_oldest() {
        let check = async |len: usize, pushed: usize, kept: usize| {
            let queue = Queue::default();
            for number in 0..pushed {
                let mut packet = vec![0; len];
                packet[..8].copy_from_slice(&(number as u64).to_be_bytes());
                queue.push(packet.into());
            }
            queue.close();
            for number in pushed - kept..pushed {
                let packet = queue.next().await.unwrap();
                assert_eq!(packet[..8], (number as u64).to_be_bytes(), "{len} {pushed}");
            }
            assert_eq!(queue.next().await, None);
        };
        check(8, 10, 10).await;
        check(8, MAX_QUEUED + 5, MAX_QUEUED).await;
        check(64 << 10, 20, MAX_QUEUED_LEN / (64 << 10)).await;
    }

    /// Readers that wait are woken, each by a packet of its own, and all by the end.
    #[tokio::test]
    async fn readers_share_a_queue() {
        let queue = Arc::new(Queue::default());
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut read = 0;
                    while queue.next().await.is_some() {
                        read += 1;
                    }
                    read
                })
            })
            .collect();
        for _ in 0..100 {
            queue.push(Bytes::from_static(b"packet"));
            tokio::task::yield_now().await;
        }
        queue.close();
        let mut read = 0;
        for reader in readers {
            read += timeout(PATIENCE, reader).await.expect("woken").unwrap();
        }
        assert_eq!((read, queue.is_closed()), (100, true));
    }
}
