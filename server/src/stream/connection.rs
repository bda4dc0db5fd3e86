//! The way of a connection's bytes: frames to the shard, answers back.
//!
//! Reading and writing do not wait for each other: a client that sends much and reads late, or the
//! reverse, stalls only itself.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meetpoint_turn::ListenerId;
use meetpoint_turn::frame::FrameError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StreamKind;
use super::frames::Frames;
use crate::udp::{Gone, Inbox, Message, StreamInput};

/// Answers that wait to be written. At a hundred megabits a second this is 10 ms of full packets;
/// what is beyond is lost, as it would be in a socket's buffer.
const REPLIES: usize = 128;
/// Bytes written at once, so that many small answers cost one call and one TLS record.
const WRITE_BYTES: usize = 16 * 1024;
/// From the connection's start to the end of its first frame. Who connects has something to ask.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// From a later frame's first byte to its last: the longest one, at 17 kbit/s.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two frames of a client without an allocation. It may ask again, or come again.
const ASKER_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two frames of a client that has been granted an allocation: more than the longest lifetime
/// of one, an hour, within which it has to be refreshed.
const HOLDER_IDLE_TIMEOUT: Duration = Duration::from_secs(3660);
/// For the kernel to take what is written. It waits for the client only when its buffer, some hundred
/// kilobytes, is full already.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the last answers, and for TLS to say goodbye.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// The type of a success response to Allocate (RFC 8656, section 13).
const ALLOCATE_SUCCESS: [u8; 2] = [0x01, 0x03];

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) listener: ListenerId,
    pub(super) source: SocketAddr,
    pub(super) kind: StreamKind,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by the client")]
    ByClient,
    #[error("closed by the shard")]
    ByShard,
    #[error("the server is ending")]
    Stopped,
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame took too long")]
    SlowFrame,
    #[error("no frame for too long")]
    Idle,
    #[error("the client does not read")]
    SlowReader,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Carries frames and answers until either side ends it.
pub(super) async fn serve<S>(
    stream: S,
    origin: Origin,
    inbox: &Inbox,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> End
where
    S: AsyncRead + AsyncWrite,
{
    let (replies, queue) = mpsc::channel(REPLIES);
    let presence = match Presence::announce(origin, inbox, tasks, replies).await {
        Ok(presence) => presence,
        Err(gone) => return gone.into(),
    };
    let (reader, writer) = tokio::io::split(stream);
    let has_allocation = AtomicBool::new(false);
    let reading = read(reader, origin, inbox, &has_allocation);
    let writing = write(writer, queue, &has_allocation, origin.kind);
    tokio::pin!(reading, writing);
    let end = tokio::select! {
        read = &mut reading => read.err().unwrap_or(End::ByClient),
        end = &mut writing => {
            presence.end().await;
            return end;
        }
        () = stop.cancelled() => End::Stopped,
    };
    // The shard has everything the client sent. What it answers to that, it answers before it takes the
    // farewell and closes the queue, which ends the writing.
    presence.end().await;
    let _ = timeout(FAREWELL_TIMEOUT, &mut writing).await;
    end
}

/// A connection that the shard knows of. Whatever becomes of it, the shard hears that it is over.
struct Presence {
    origin: Origin,
    inbox: Inbox,
    tasks: TaskTracker,
    is_over: bool,
}

impl Presence {
    async fn announce(
        origin: Origin,
        inbox: &Inbox,
        tasks: &TaskTracker,
        replies: mpsc::Sender<Vec<u8>>,
    ) -> Result<Self, Gone> {
        let Origin { listener, source, .. } = origin;
        inbox.send(Message::Stream(StreamInput::Opened { listener, source, replies })).await?;
        Ok(Self { origin, inbox: inbox.clone(), tasks: tasks.clone(), is_over: false })
    }

    fn farewell(&self) -> Message {
        let Origin { listener, source, .. } = self.origin;
        Message::Stream(StreamInput::Closed { listener, source })
    }

    async fn end(mut self) {
        // A shard that is gone knows.
        let _ = self.inbox.send(self.farewell()).await;
        self.is_over = true;
    }
}

impl Drop for Presence {
    /// Does something only if the connection's task panicked or was cancelled.
    fn drop(&mut self) {
        if self.is_over || self.inbox.try_send(self.farewell()) {
            return;
        }
        // No place at the moment. Without a runtime the server has ended.
        let Ok(runtime) = Handle::try_current() else { return };
        let (inbox, farewell) = (self.inbox.clone(), self.farewell());
        let late = async move {
            let _ = inbox.send(farewell).await;
        };
        self.tasks.spawn_on(late, &runtime);
    }
}

/// Reads until the client closes its side.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    Origin { listener, source, .. }: Origin,
    inbox: &Inbox,
    has_allocation: &AtomicBool,
) -> Result<(), End> {
    let mut frames = Frames::new();
    let mut patience = Patience::new();
    loop {
        while let Some(frame) = frames.next()? {
            let bytes = frame.to_vec();
            inbox.send(Message::Stream(StreamInput::Frame { listener, source, bytes })).await?;
            patience.heard();
        }
        patience.wait(frames.is_in_frame());
        let deadline = || patience.deadline(has_allocation.load(Ordering::Relaxed));
        match timeout_at(deadline(), reader.read_buf(frames.space())).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            // An allocation has been granted meanwhile.
            Err(_) if deadline() > Instant::now() => {}
            Err(_) => return Err(patience.end()),
        }
    }
}

/// How long to wait for the client.
struct Patience {
    /// The last whole frame, or the start.
    heard: Instant,
    has_asked: bool,
    /// When a frame began that is not whole.
    begun: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self { heard: Instant::now(), has_asked: false, begun: None }
    }

    /// A whole frame came.
    fn heard(&mut self) {
        *self = Self { heard: Instant::now(), has_asked: true, begun: None };
    }

    /// What there is of frames has been cut.
    fn wait(&mut self, is_in_frame: bool) {
        if is_in_frame {
            self.begun.get_or_insert_with(Instant::now);
        }
    }

    fn deadline(&self, has_allocation: bool) -> Instant {
        match self.begun {
            _ if !self.has_asked => self.heard + FIRST_FRAME_TIMEOUT,
            Some(begun) => begun + FRAME_TIMEOUT,
            None if has_allocation => self.heard + HOLDER_IDLE_TIMEOUT,
            None => self.heard + ASKER_IDLE_TIMEOUT,
        }
    }

    fn end(&self) -> End {
        if self.begun.is_some() { End::SlowFrame } else { End::Idle }
    }
}

/// Writes until the shard closes the queue.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
    has_allocation: &AtomicBool,
    kind: StreamKind,
) -> End {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, REPLIES).await > 0 {
        // The machine knows who holds an allocation. This much can be seen from here, and is enough to
        // tell a client that may be silent for an hour from a stranger.
        if batch.iter().any(|reply| reply.starts_with(&ALLOCATE_SUCCESS)) {
            has_allocation.store(true, Ordering::Relaxed);
        }
        match timeout(WRITE_TIMEOUT, write_batch(&mut writer, &mut batch, kind)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return End::SlowReader,
        }
    }
    match writer.shutdown().await {
        Ok(()) => End::ByShard,
        Err(error) => error.into(),
    }
}

/// Empties the batch. Small answers are written together in the clear. Encrypted ones have a record
/// each: there are clients that take a record for a message.
async fn write_batch(
    writer: &mut (impl AsyncWrite + Unpin),
    batch: &mut Vec<Vec<u8>>,
    kind: StreamKind,
) -> io::Result<()> {
    let together = match kind {
        StreamKind::Tcp => WRITE_BYTES,
        StreamKind::Tls => 0,
    };
    let mut replies = batch.drain(..).peekable();
    while let Some(mut bytes) = replies.next() {
        while let Some(more) = replies.next_if(|more| bytes.len() + more.len() <= together) {
            bytes.reserve_exact(together.saturating_sub(bytes.len()));
            bytes.extend_from_slice(&more);
        }
        writer.write_all(&bytes).await?;
    }
    writer.flush().await
}
