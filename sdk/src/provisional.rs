//! A handshake that begins before its way is verified: what may leave, and what is kept.
//!
//! The agent names the ways (all of them pass the server's relay) and when each may be used. Here is counted what goes
//! there: the first datagram of QUIC's handshake, once for each time the agent says so, and after a keyed check of the
//! peer has come by one of these ways, a few answers by the same. Of a datagram only the packets of a handshake are
//! sent (RFC 9000, section 17.2): application data has no form in which it could leave. QUIC itself sends a stranger no
//! more than three times what came from him (section 8.1).
//!
//! What this side begins with may be wanted before there is any way, to go with the request for an introduction. What
//! the peer begins with may come so, and then the answer is a first datagram like the other. It may be too early for
//! the peer's relay, so it goes once more where a check of the peer shows that the way is open by now.
//!
//! The other end sends as early, so its first datagram may be here before the driver has read the check in front of it:
//! that one is kept for the moment.

use meetpoint_agent::Way;
use tokio::sync::mpsc;

/// Ways of one peer that are tried at a time: what the agent names under two tickets.
const MAX_WAYS: usize = 8;
/// Datagrams that are sent before anything is verified, as answers to a peer whose keyed check has come by the very
/// way: a flight of the handshake is one or two, repeated a few times.
const MAX_ANSWERS: u32 = 8;
/// Datagrams kept of one peer until its check has been read. Its first flight is one.
const MAX_HELD: usize = 4;
/// The longest datagram of a handshake: QUIC sends none longer than 1,200 bytes here.
const MAX_FLIGHT_LEN: usize = 1_200;

/// The first byte of a packet with a long header (RFC 9000, section 17.2), and where its type stands.
const LONG_HEADER: u8 = 0x80;
const TYPE_MASK: u8 = 0x30;
const INITIAL: u8 = 0x00;
const HANDSHAKE: u8 = 0x20;

/// Datagrams of a handshake.
pub(crate) type Packets = Vec<Box<[u8]>>;

/// Who wants what a handshake begins with, for which request.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) request: u32,
    pub(crate) to: mpsc::Sender<(u32, Box<[u8]>)>,
}

/// What one peer has of it.
#[derive(Debug, Default)]
pub(crate) struct Provisional {
    ways: Vec<Way>,
    wanted: Option<Wanted>,
    /// The peer's handshake came with its introduction.
    has_come: bool,
    /// What the peer may never have got: what this side begins with, and its answer to what has come.
    flights: Packets,
    /// Where a keyed check came from, and how many datagrams may still go there.
    answers: Option<(Way, u32)>,
    held: Vec<(Way, Box<[u8]>)>,
    /// Without its bounds, to show what they are for.
    #[cfg(test)]
    pub(crate) is_unbounded: bool,
}

impl Provisional {
    /// Has the first datagram told as soon as there is one. False if there has been one.
    pub(crate) fn want(&mut self, wanted: Wanted) -> bool {
        let is_first = self.flights.is_empty() && self.wanted.is_none();
        if is_first {
            self.wanted = Some(wanted);
        }
        is_first
    }

    /// The peer's handshake comes with its introduction: it may be answered.
    pub(crate) fn come(&mut self) {
        self.has_come = true;
    }

    /// The handshake may go by this way once more. Gives what is to be sent there now.
    pub(crate) fn allow(&mut self, way: Way) -> Packets {
        if !self.ways.contains(&way) {
            if self.ways.len() >= MAX_WAYS {
                return Vec::new();
            }
            self.ways.push(way);
        }
        self.flights.clone()
    }

    /// The ways that are tried.
    pub(crate) fn ways(&self) -> &[Way] {
        &self.ways
    }

    /// The peer's check came by a way. Gives what came behind it too soon, and what is to be sent there now.
    pub(crate) fn heard(&mut self, way: Way) -> (Packets, Packets) {
        if !self.ways.contains(&way) {
            return Default::default();
        }
        let before = self.answers;
        let mut left = before.map_or(MAX_ANSWERS, |(_, left)| left);
        let mut again = Vec::new();
        if self.has_come && before.is_none_or(|(before, _)| before != way) {
            again = self.flights.iter().take(left as usize).cloned().collect();
            left -= again.len() as u32;
        }
        self.answers = Some((way, left));
        let held = self.held.extract_if(.., |(by, _)| *by == way).map(|(_, packet)| packet).collect();
        (held, again)
    }

    /// True once the peer's check came by one of the ways.
    pub(crate) fn may_answer(&self) -> bool {
        self.answers.is_some()
    }

    /// Keeps what came by a way before its check was read.
    pub(crate) fn hold(&mut self, way: Way, packet: Box<[u8]>) {
        if self.held.len() >= MAX_HELD {
            self.held.remove(0);
        }
        self.held.push((way, packet));
    }

    /// By which ways a datagram of QUIC's goes, and how much of it.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> (Vec<Way>, usize) {
        #[cfg(test)]
        if self.is_unbounded {
            return (self.ways.clone(), datagram.len());
        }
        let len = handshake_len(datagram);
        if len == 0 {
            return (Vec::new(), 0);
        }
        if let Some(Wanted { request, to }) = self.wanted.take() {
            // Whoever wanted it does not wait for it for long.
            let _ = to.try_send((request, datagram[..len].into()));
        }
        if let Some((way, left)) = &mut self.answers {
            let ways = if *left == 0 { Vec::new() } else { vec![*way] };
            *left = left.saturating_sub(1);
            return (ways, len);
        }
        let most = 1 + usize::from(self.has_come);
        if self.flights.len() >= most || len > MAX_FLIGHT_LEN {
            return (Vec::new(), 0);
        }
        self.flights.push(datagram[..len].into());
        (self.ways.clone(), len)
    }

    /// What the peer may never have got.
    pub(crate) fn into_flights(self) -> Packets {
        self.flights
    }
}

/// How many bytes of a datagram are Initial and Handshake packets, which come first (RFC 9000, section 12.2).
fn handshake_len(datagram: &[u8]) -> usize {
    let mut len = 0;
    while let Some(packet) = datagram.get(len..).and_then(packet_len) {
        len += packet;
    }
    len
}

/// The length of the packet at the start, if it is one of a handshake.
fn packet_len(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    let kind = first & TYPE_MASK;
    if first & LONG_HEADER == 0 || !matches!(kind, INITIAL | HANDSHAKE) {
        return None;
    }
    // The version's four bytes, then two connection ids behind their lengths.
    let mut at = 5;
    for _ in 0..2 {
        at += 1 + usize::from(*bytes.get(at)?);
    }
    if kind == INITIAL {
        let token = variable(bytes, &mut at)?;
        at = at.checked_add(token)?;
    }
    let rest = variable(bytes, &mut at)?;
    at.checked_add(rest).filter(|end| *end <= bytes.len())
}

/// An integer of variable length (RFC 9000, section 16).
fn variable(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let first = *bytes.get(*at)?;
    let len = 1 << (first >> 6);
    let encoded = bytes.get(*at..at.checked_add(len)?)?;
    *at += len;
    let value =
        encoded[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

/// True if what comes first is a packet of a handshake: worth keeping for a moment.
pub(crate) fn is_handshake(datagram: &[u8]) -> bool {
    datagram.len() <= MAX_FLIGHT_LEN && packet_len(datagram).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with a long header: `kind`, ids of four and no bytes, and `rest` bytes.
    fn packet(kind: u8, rest: u8) -> Vec<u8> {
        let mut packet = vec![0xC0 | kind, 0, 0, 0, 1, 4, 1, 2, 3, 4, 0];
        if kind == INITIAL {
            packet.push(0);
        }
        // Two bytes of length.
        packet.extend([0x40, rest]);
        packet.extend(std::iter::repeat_n(7, rest.into()));
        packet
    }

    #[test]
    fn nothing_but_a_handshake_leaves() {
        let (initial, handshake) = (packet(INITIAL, 30), packet(HANDSHAKE, 20));
        let (zero_rtt, retry, data) = (packet(0x10, 30), packet(0x30, 30), vec![0x40; 60]);
        let both = [&initial[..], &handshake].concat();
        let mut torn = initial.clone();
        torn.pop();
        for (datagram, expect) in [
            (initial.clone(), initial.len()),
            (both.clone(), both.len()),
            ([&both[..], &data].concat(), both.len()),
            ([&initial[..], &zero_rtt, &data].concat(), initial.len()),
            ([&initial[..], &[0; 100]].concat(), initial.len()),
            (zero_rtt, 0),
            (retry, 0),
            (data, 0),
            (torn, 0),
            (Vec::new(), 0),
            (vec![0xC0], 0),
            (vec![0xC0, 0, 0, 0, 1, 255], 0),
            (vec![0xFF; 1200], 0),
        ] {
            assert_eq!(handshake_len(&datagram), expect, "{datagram:?}");
            for end in 0..datagram.len() {
                assert!(handshake_len(&datagram[..end]) <= end);
            }
        }
    }

    fn way(port: u16) -> Way {
        Way::main(([20, 0, 0, 1], port).into())
    }

    #[test]
    fn each_permission_is_good_for_one_datagram() {
        let (mut begun, flight) = (Provisional::default(), packet(INITIAL, 60));
        assert!(begun.allow(way(1)).is_empty() && begun.allow(way(2)).is_empty());
        assert_eq!(begun.send(&[0x40; 60]), (vec![], 0), "no handshake");
        assert_eq!(begun.send(&flight), (vec![way(1), way(2)], flight.len()));
        assert_eq!(begun.send(&flight).0, [], "QUIC's repetition");
        assert_eq!(begun.allow(way(1)), [Box::from(&flight[..])]);
        // The peer's check came by the second way, a moment behind what it announced.
        begun.hold(way(2), flight.clone().into());
        begun.hold(way(1), flight.clone().into());
        assert_eq!(begun.heard(way(9)).0, Vec::<Box<[u8]>>::new(), "no such way");
        assert!(!begun.may_answer());
        let (held, again) = begun.heard(way(2));
        assert_eq!((held.len(), again.len()), (1, 0));
        assert!(begun.may_answer());
        let answers = (0..3 * MAX_ANSWERS).filter(|_| begun.send(&flight).0 == [way(2)]).count();
        assert_eq!(answers, MAX_ANSWERS as usize);
        // Another way is no new share.
        assert_eq!(begun.heard(way(1)).0.len(), 1);
        assert_eq!(begun.send(&flight).0, []);
    }

    /// What came with the introduction is answered by the ways that there are and by those that open, and what this
    /// side has begun is its own.
    #[test]
    fn an_answer_goes_again_where_the_way_has_opened() {
        let (mut begun, answer) = (Provisional::default(), packet(HANDSHAKE, 60));
        let (to, mut told) = mpsc::channel(4);
        assert!(begun.want(Wanted { request: 7, to: to.clone() }));
        assert!(!begun.want(Wanted { request: 8, to: to.clone() }), "one of two calls is enough");
        let initial = packet(INITIAL, 60);
        assert_eq!(begun.send(&initial).0, [], "there is no way yet");
        assert_eq!(told.try_recv().unwrap(), (7, Box::from(&initial[..])));
        assert!(!begun.want(Wanted { request: 9, to }), "QUIC repeats it, and knows why");
        assert_eq!(begun.allow(way(1)).len(), 1);
        assert_eq!(begun.send(&answer).0, [], "there is nothing to be answered");
        begun.come();
        assert_eq!(begun.send(&answer), (vec![way(1)], answer.len()));
        assert_eq!(begun.send(&answer).0, [], "QUIC's repetition");
        assert_eq!(begun.allow(way(2)).len(), 2);
        assert_eq!(begun.heard(way(2)).1.len(), 2);
        assert_eq!(begun.heard(way(2)).1.len(), 0);
        let answers = (0..3 * MAX_ANSWERS).filter(|_| begun.send(&answer).0 == [way(2)]).count();
        assert_eq!(answers, MAX_ANSWERS as usize - 2, "out of the same share");
        assert_eq!(begun.heard(way(1)).1.len(), 0);
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut begun = Provisional::default();
        for port in 1..=100 {
            begun.allow(way(port));
            begun.hold(way(1), Box::from([0xC0; 4]));
        }
        assert_eq!((begun.ways().len(), begun.held.len()), (MAX_WAYS, MAX_HELD));
    }
}
