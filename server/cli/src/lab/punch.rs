//! Finds out which pairs of hosts can meet directly, by the classic hole punch in plain UDP.
//!
//! This is the ground truth for every model of "a direct path is possible": no protocol, no keys, no prediction of
//! ports. Each side sends to the public endpoint that the server saw of the other, and to whatever source it has really
//! heard the other from. Nobody sends before the packet before has settled, so an outcome never hangs on timing.

use std::net::{SocketAddrV4, UdpSocket};

use super::Host;
use super::probe::{ProbeError, bind, expect, sighting, sources_until};

/// Rounds in which both send. After the first, each has heard what it can hear; after the second, each has answered
/// that; the third shows that nothing changes any more.
const ROUNDS: usize = 3;

const PUNCH: &[u8] = b"punch";
const SETTLED: &[u8] = b"settled";

/// Who sends in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Senders {
    /// Only the first host, as if the second knew nothing of the attempt.
    FirstOnly,
    /// Both, the first host leading.
    Both,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Where the first host heard the second from.
    pub first_heard: Option<SocketAddrV4>,
    /// Where the second host heard the first from.
    pub second_heard: Option<SocketAddrV4>,
}

impl Outcome {
    /// Whether each heard the other, which is a direct path.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.first_heard.is_some() && self.second_heard.is_some()
    }
}

/// Lets two hosts, each with a fresh socket, try to reach each other.
///
/// # Errors
///
/// [`ProbeError`] if the lab's own conditions do not hold; that the hosts cannot meet is an outcome.
pub fn attempt(server: &Host, first: &Host, second: &Host, senders: Senders) -> Result<Outcome, ProbeError> {
    let meeting_point = bind(server)?;
    let mut first = Side::new(first, &meeting_point)?;
    let mut second = Side::new(second, &meeting_point)?;
    for _ in 0..ROUNDS {
        first.send(&mut second, &meeting_point)?;
        if senders == Senders::Both {
            second.send(&mut first, &meeting_point)?;
        }
    }
    Ok(Outcome { first_heard: first.heard, second_heard: second.heard })
}

/// One host of an attempt.
struct Side {
    socket: UdpSocket,
    /// How the meeting point sees the socket.
    mapped: SocketAddrV4,
    /// Where the other side was heard from.
    heard: Option<SocketAddrV4>,
}

impl Side {
    fn new(host: &Host, meeting_point: &UdpSocket) -> Result<Self, ProbeError> {
        let socket = bind(host)?;
        let mapped = sighting(&socket, meeting_point)?;
        Ok(Self { socket, mapped, heard: None })
    }

    /// Sends to all that is known of the other side and waits until that has arrived wherever it could: a packet after
    /// it to the meeting point, and one from there to the other side, travel every stretch of its way in its wake.
    fn send(&mut self, other: &mut Self, meeting_point: &UdpSocket) -> Result<(), ProbeError> {
        self.socket.send_to(PUNCH, other.mapped)?;
        if let Some(heard) = self.heard.filter(|heard| *heard != other.mapped) {
            self.socket.send_to(PUNCH, heard)?;
        }
        self.socket.send_to(SETTLED, meeting_point.local_addr()?)?;
        expect(meeting_point, SETTLED, "a packet towards the public network")?;
        meeting_point.send_to(SETTLED, other.mapped)?;
        let heard = sources_until(&other.socket, SETTLED)?;
        other.heard = heard.last().copied().or(other.heard);
        Ok(())
    }
}
