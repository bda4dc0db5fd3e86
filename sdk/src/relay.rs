//! Relayed data in the shell: headers of ChannelData, packets on their way to QUIC, and streams to the relay.
//!
//! Which channel carries whom is in [`crate::paths`]; that a peer is relayed at all, and all that is said to the
//! relay's server, is the agent's.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use meetpoint_agent::StreamId;
use meetpoint_stun::frame::frame_len;
use meetpoint_stun::{CHANNEL_HEADER_LEN, channel_header};
use quinn::udp::RecvMeta;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::mux::Mux;
use crate::paths::SyntheticAddr;
use crate::ws::{ByteStream, OpenOptions, connect_beside};

/// Packets of relays that wait for QUIC; 1.2 MB. More than that in one turn is loss, which QUIC repairs.
const MAX_WAITING: usize = 1024;
/// Frames that wait for a stream. What does not fit is lost, as a full queue of the network would lose it.
const FRAME_QUEUE: usize = 256;
/// The longest frame that a relay has a reason to send: a packet in an indication.
const MAX_FRAME_LEN: usize = 4096;
/// How long one write may take. Longer, and the server does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch of packets of one size, each behind its header.
pub(crate) fn wrap(number: u16, contents: &[u8], segment: usize) -> Vec<u8> {
    let count = contents.len().div_ceil(segment);
    let mut wrapped = Vec::with_capacity(contents.len() + count * CHANNEL_HEADER_LEN);
    for packet in contents.chunks(segment) {
        // A packet is shorter than 64 KiB, as all datagrams are.
        wrapped.extend_from_slice(&channel_header(number, packet.len() as u16));
        wrapped.extend_from_slice(packet);
    }
    wrapped
}

/// A packet as a frame of a stream, which is padded to a multiple of four (RFC 8656, section 12.5).
pub(crate) fn frame(number: u16, packet: &[u8]) -> Box<[u8]> {
    let mut frame = wrap(number, packet, packet.len().max(1));
    frame.resize(frame.len().next_multiple_of(4), 0);
    frame.into()
}

/// Packets that came by a relay and wait for QUIC.
#[derive(Debug, Default)]
pub(crate) struct Relayed(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<(SyntheticAddr, Box<[u8]>)>,
    waker: Option<Waker>,
}

impl Relayed {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, sender: SyntheticAddr, packet: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.packets.len() >= MAX_WAITING {
            waiting.packets.pop_front();
        }
        waiting.packets.push_back((sender, packet.into()));
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// As many as there are buffers for; pending if there are none.
    pub(crate) fn poll(
        &self,
        cx: &Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut waiting = self.waiting();
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((sender, packet)) = waiting.packets.pop_front() else { break };
            let len = packet.len().min(buffer.len());
            buffer[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta { addr: sender.socket_addr(), len, stride: len, ecn: None, dst_ip: None };
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(filled);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The writing ends of the streams to a relay. Dropping one closes its stream.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<StreamId, mpsc::Sender<Box<[u8]>>>>);

impl Streams {
    fn all(&self) -> MutexGuard<'_, HashMap<StreamId, mpsc::Sender<Box<[u8]>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one, whose frames come out of the receiver.
    pub(crate) fn open(&self, stream: StreamId) -> mpsc::Receiver<Box<[u8]>> {
        let (sender, frames) = mpsc::channel(FRAME_QUEUE);
        self.all().insert(stream, sender);
        frames
    }

    /// False if the frame is lost.
    pub(crate) fn send(&self, stream: StreamId, frame: Box<[u8]>) -> bool {
        self.all().get(&stream).is_some_and(|frames| frames.try_send(frame).is_ok())
    }

    pub(crate) fn close(&self, stream: StreamId) {
        self.all().remove(&stream);
    }

    pub(crate) fn close_all(&self) {
        self.all().clear();
    }
}

/// What the driver hears of a stream.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// It is open.
    Opened(StreamId),
    /// It has ended, or never opened.
    Closed(StreamId),
    /// The relay said something.
    Frame { stream: StreamId, server: SocketAddr, bytes: Box<[u8]>, received: Instant },
}

/// Everything a stream's task is made of.
pub(crate) struct Line {
    pub(crate) stream: StreamId,
    pub(crate) to: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) options: OpenOptions,
    /// What to send. Its end is the order to close.
    pub(crate) frames: mpsc::Receiver<Box<[u8]>>,
    pub(crate) mux: Arc<Mux>,
    pub(crate) events: mpsc::Sender<StreamEvent>,
}

/// Opens a stream and carries frames until either side ends it.
pub(crate) async fn run(mut line: Line) {
    let stream = line.stream;
    let opened = tokio::select! {
        opened = connect_beside(&line.options, line.to, line.tls) => opened,
        // Given up before it was there.
        () = line.events.closed() => return,
    };
    match opened {
        Ok(socket) => {
            tracing::debug!(to = %line.to, tls = line.tls, "stream to the relay open");
            // The driver may be gone before its streams.
            let _ = line.events.send(StreamEvent::Opened(stream)).await;
            if let Err(error) = carry(&mut line, socket).await {
                tracing::debug!(to = %line.to, %error, "stream to the relay broke");
            }
        }
        Err(error) => tracing::debug!(to = %line.to, tls = line.tls, %error, "no stream to the relay"),
    }
    let _ = line.events.send(StreamEvent::Closed(stream)).await;
}

async fn carry(line: &mut Line, socket: Box<dyn ByteStream>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut buffer = Vec::with_capacity(MAX_FRAME_LEN);
    loop {
        tokio::select! {
            frame = line.frames.recv() => {
                let Some(frame) = frame else { return writer.shutdown().await };
                let sent = timeout(WRITE_TIMEOUT, writer.write_all(&frame)).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                if line.frames.is_empty() {
                    timeout(WRITE_TIMEOUT, writer.flush()).await.map_err(|_| io::ErrorKind::TimedOut)??;
                }
            }
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Ok(());
                }
                take_frames(line, &mut buffer).await?;
            }
        }
    }
}

/// Takes the whole frames off the front of what was read.
async fn take_frames(line: &Line, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut at = 0;
    loop {
        let rest = &buffer[at..];
        let len = frame_len(rest).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let Some(len) = len else { break };
        if len > MAX_FRAME_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that no relay sends"));
        }
        let Some(frame) = rest.get(..len) else { break };
        if !line.mux.take_frame(line.stream, line.to, frame) {
            let event = StreamEvent::Frame {
                stream: line.stream,
                server: line.to,
                bytes: frame.into(),
                received: Instant::now(),
            };
            if line.events.send(event).await.is_err() {
                return Ok(());
            }
        }
        at += len;
    }
    buffer.drain(..at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_wrapped_packet_by_packet() {
        assert_eq!(wrap(0x4001, b"aaabbbc", 3), b"\x40\x01\0\x03aaa\x40\x01\0\x03bbb\x40\x01\0\x01c");
        assert_eq!(wrap(0x4001, b"", 1), b"");
        assert_eq!(frame(0x4001, b"aaaaa")[..], b"\x40\x01\0\x05aaaaa\0\0\0"[..]);
        assert_eq!(frame(0x4001, b"aaaa")[..], b"\x40\x01\0\x04aaaa"[..]);
    }

    #[test]
    fn what_waits_for_quic_is_bounded() {
        let relayed = Relayed::default();
        let sender = SyntheticAddr::of(&meetpoint_proto::NodeId::from_bytes([1; 32]));
        for n in 0..2 * MAX_WAITING {
            relayed.push(sender, &n.to_be_bytes());
        }
        assert_eq!(relayed.waiting().packets.len(), MAX_WAITING);
    }
}
