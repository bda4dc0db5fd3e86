//! The peers of an allocation: permissions, channels, and what goes by them.
//!
//! A node names a peer before it hears of it: that is a permission. What it uses for more than checks gets a
//! channel, which renews the permission as well (section 12). Peers that nothing was sent to for a while are
//! forgotten.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_stun::{channel_header, read_channel_data};

use super::{Client, Due, News};
use crate::env::Env;
use crate::stun::{self, Ask};

/// Between two renewals of a permission, which lasts 300 s (RFC 8656, section 9); a channel lasts longer.
pub(super) const PEER_REFRESH: Duration = Duration::from_secs(200);
/// Peers that nothing was sent to for so long are not renewed but forgotten: a way that is in use has a check on it more often
/// than three times in that time.
const PEER_IDLE: Duration = Duration::from_secs(80);
/// Forgotten peers whose channel numbers are known: the server keeps a peer's channel for ten minutes, and in that time
/// gives the peer no other number.
const MAX_PAST: usize = 64;
/// Before a permission or a channel that was not granted is asked for again.
pub(super) const PEER_RETRY: Duration = Duration::from_secs(10);
/// Peers of one allocation; a server gives 128 permissions.
pub(super) const MAX_PEERS: usize = 96;
/// RFC 8656, section 12: the first of the channel numbers, and all of them.
pub(super) const FIRST_CHANNEL: u16 = 0x4000;
const CHANNELS: std::ops::RangeInclusive<u16> = FIRST_CHANNEL..=0x4FFF;

#[derive(Debug)]
pub(super) struct Peer {
    /// Something was sent to it last.
    used: Instant,
    /// A request about it is under way.
    asking: bool,
    channel: Option<Channel>,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: u16,
    is_bound: bool,
}

impl Client {
    /// Lets peers in, all by one request. What does not fit the tables is left out: its checks stay unanswered.
    pub(crate) fn permit(&mut self, env: &mut Env, now: Instant, remotes: &[SocketAddr]) {
        let mut fresh = Vec::new();
        for &remote in remotes {
            if !self.reaches(remote) || self.peers.contains_key(&remote) || self.peers.len() >= MAX_PEERS {
                continue;
            }
            self.peers.insert(remote, Peer { used: now, asking: true, channel: None });
            fresh.push(remote);
        }
        if !fresh.is_empty() {
            self.ask(env, now, Ask::Permit(fresh), 0);
        }
    }

    /// Wants a channel for a peer; [`News::Bound`] tells when there is one.
    pub(crate) fn bind(&mut self, env: &mut Env, now: Instant, remote: SocketAddr) {
        if !self.reaches(remote) || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&remote)) {
            return;
        }
        let peer = self.peers.entry(remote).or_insert(Peer { used: now, asking: false, channel: None });
        peer.used = now;
        if peer.channel.is_some() {
            return;
        }
        let Some(number) = self.past_number(remote).or_else(|| self.free_number()) else { return };
        if let Some(peer) = self.peers.get_mut(&remote) {
            peer.channel = Some(Channel { number, is_bound: false });
            peer.asking = true;
        }
        self.numbers.insert(number, remote);
        self.ask(env, now, Ask::Bind { number, peer: remote }, 0);
    }

    /// The channel that carries data to this peer.
    pub(crate) fn channel(&self, remote: SocketAddr) -> Option<u16> {
        let channel = self.peers.get(&remote)?.channel.filter(|channel| channel.is_bound)?;
        Some(channel.number)
    }

    /// The channel that was asked for; it may be there already.
    pub(crate) fn asked_channel(&self, remote: SocketAddr) -> Option<u16> {
        Some(self.peers.get(&remote)?.channel?.number)
    }

    /// Who has a channel.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.numbers.values().copied()
    }

    /// The number that the peer had before it was forgotten.
    fn past_number(&mut self, remote: SocketAddr) -> Option<u16> {
        let at = self.past.iter().position(|(peer, _)| *peer == remote)?;
        let (_, number) = self.past.remove(at)?;
        (!self.numbers.contains_key(&number)).then_some(number)
    }

    /// Numbers go round, so that one comes back only after thousands of others: a server keeps the one it stood for
    /// for ten minutes, and another five (RFC 8656, section 12).
    fn free_number(&mut self) -> Option<u16> {
        for _ in CHANNELS {
            let number = self.next_number;
            self.next_number = if number == *CHANNELS.end() { FIRST_CHANNEL } else { number + 1 };
            if !self.numbers.contains_key(&number) {
                return Some(number);
            }
        }
        None
    }

    /// Sends bytes to a peer, who was permitted before.
    pub(crate) fn send(&mut self, env: &mut Env, now: Instant, remote: SocketAddr, data: &[u8]) {
        if !self.is_granted() {
            return;
        }
        self.permit(env, now, &[remote]);
        let Some(peer) = self.peers.get_mut(&remote) else { return };
        peer.used = now;
        let bound = peer.channel.filter(|channel| channel.is_bound);
        let payload = match (bound, u16::try_from(data.len())) {
            (Some(channel), Ok(len)) => {
                let padding = if self.is_stream() { data.len().next_multiple_of(4) - data.len() } else { 0 };
                [&channel_header(channel.number, len)[..], data, &[0; 3][..padding]].concat()
            }
            (_, _) => stun::send(env.transaction_id(), remote, data),
        };
        self.transmit(env, now, payload);
    }

    /// What ChannelData of the server brings, and from whom.
    pub(crate) fn read_channel<'a>(&self, frame: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let (number, data) = read_channel_data(frame)?;
        Some((*self.numbers.get(&number)?, data))
    }

    pub(super) fn peer_asked(&mut self, remote: SocketAddr, again: Instant) {
        if let Some(peer) = self.peers.get_mut(&remote) {
            peer.asking = false;
            self.due.set(Due::Peer(remote), Some(again));
        }
    }

    /// The server has made the channel that was asked for.
    pub(super) fn channel_made(&mut self, remote: SocketAddr) {
        let channel = self.peers.get_mut(&remote).and_then(|peer| peer.channel.as_mut());
        if channel.is_some_and(|channel| !std::mem::replace(&mut channel.is_bound, true)) {
            self.news.push_back(News::Bound { remote });
        }
    }

    /// Renews what a peer has, or forgets a peer that nothing was sent to since the last time.
    pub(super) fn refresh_peer(&mut self, env: &mut Env, now: Instant, remote: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&remote) else { return };
        if now >= peer.used + PEER_IDLE {
            self.forget(remote);
            return;
        }
        if std::mem::replace(&mut peer.asking, true) {
            return;
        }
        let ask = match peer.channel {
            Some(Channel { number, .. }) => Ask::Bind { number, peer: remote },
            None => Ask::Permit(vec![remote]),
        };
        self.ask(env, now, ask, 0);
    }

    fn forget(&mut self, remote: SocketAddr) {
        if let Some(Peer { channel: Some(channel), .. }) = self.peers.remove(&remote) {
            self.numbers.remove(&channel.number);
            self.past.push_front((remote, channel.number));
            self.past.truncate(MAX_PAST);
            self.news.push_back(News::Forgotten { remote });
        }
    }
}
