//! Streams to the relay: when one is opened, over TCP or TLS, and what comes of it.
//!
//! The first request on a stream is not challenged: the welcome brings a nonce for it. So where UDP does not pass a
//! node is lent an address two round trips after it has begun to open a stream over TCP, and three over TLS.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Access, Client};
use super::{LINGER, Udp};
use crate::agent::Agent;
use crate::api::{Output, Socket, StreamId};
use crate::stun::{Credential, MAX_ECHO_LEN};

/// TLS starts so much later than TCP, which is cheaper and almost always there.
const TLS_DELAY: Duration = Duration::from_millis(250);
/// A stream that is not open by then will not be.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// After streams that could not be opened.
const RETRY_STREAMS: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) stream: StreamId,
    to: SocketAddr,
    pub(super) until: Instant,
}

impl Agent {
    pub(super) fn open_streams(&mut self, now: Instant) {
        let Some(access) = self.relay_access() else { return };
        let (tcp, tls) = (access.tcp, access.tls);
        match (tcp, tls) {
            (Some(port), _) => self.open_stream(now, port, false),
            (None, Some(port)) => return self.open_stream(now, port, true),
            (None, None) => return,
        }
        self.relays.tls_at = tls.map(|_| now + TLS_DELAY);
    }

    pub(super) fn open_stream(&mut self, now: Instant, port: u16, tls: bool) {
        let Some(membership) = &self.membership else { return };
        let to = SocketAddr::new(membership.server, port);
        self.relays.last_stream = self.relays.last_stream.wrapping_add(1);
        let stream = StreamId(self.relays.last_stream);
        self.relays.opening.push(Opening { stream, to, until: now + OPEN_TIMEOUT });
        self.env.push(Output::OpenStream { stream, to, tls });
    }

    /// Somebody asks for this node, and the server can't tell where it is. If that is because UDP has not answered yet,
    /// a stream is opened beside, as for whoever asks.
    pub(crate) fn wanted(&mut self, now: Instant) {
        let is_waiting = matches!(self.relays.udp, Udp::Waiting { .. });
        let may_try = self.relays.retry.is_none_or(|at| at <= now);
        if is_waiting && may_try && !self.has_stream() {
            self.open_streams(now);
            self.relays.review = Some(now + LINGER);
            self.set_relay_timer();
        }
    }

    /// The relay is being asked by a stream, or will be as soon as one is open.
    fn has_stream(&self) -> bool {
        let is_stream = |client: &Client| matches!(client.access().socket, Socket::Stream(_));
        !self.relays.opening.is_empty() || self.relays.clients.values().any(is_stream)
    }

    /// The first stream that opens carries the allocation; the others are not needed.
    pub(crate) fn stream_opened(&mut self, now: Instant, stream: StreamId) {
        let found = self.relays.opening.iter().find(|opening| opening.stream == stream);
        let Some(server) = found.map(|opening| opening.to) else { return };
        for opening in std::mem::take(&mut self.relays.opening) {
            if opening.stream != stream {
                self.env.push(Output::CloseStream { stream: opening.stream });
            }
        }
        self.relays.tls_at = None;
        let Some(access) = self.relay_access() else {
            return self.env.push(Output::CloseStream { stream });
        };
        let (username, password) = (access.username.clone(), access.password.clone());
        let nonce = access.stream_nonce.as_deref().filter(|nonce| nonce.len() <= MAX_ECHO_LEN);
        let credential = nonce.map(|nonce| Credential::unchallenged(&username, &password, nonce));
        let others = Vec::new();
        let access = Access { socket: Socket::Stream(stream), server, username, password, others };
        self.add_client(now, access, credential);
        self.set_relay_timer();
    }

    /// A stream could not be opened, or it has ended.
    pub(crate) fn stream_closed(&mut self, now: Instant, stream: StreamId) {
        let was_opening = self.relays.opening.iter().any(|opening| opening.stream == stream);
        self.relays.opening.retain(|opening| opening.stream != stream);
        if was_opening && self.relays.tls_at.take().is_some() {
            // TCP was refused: nothing is gained by waiting.
            if let Some(port) = self.relay_access().and_then(|access| access.tls) {
                self.open_stream(now, port, true);
            }
        } else if was_opening && !self.has_relay() {
            self.relays.retry = Some(now + RETRY_STREAMS);
        }
        for client in self.relays.clients.values_mut() {
            if client.access().socket == Socket::Stream(stream) {
                client.broke();
            }
        }
        self.relay_news(now);
    }
}
