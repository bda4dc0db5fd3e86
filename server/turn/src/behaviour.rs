//! NAT behaviour discovery (RFC 5780): which listener answers, and which addresses are told.
//!
//! Two addresses with the same two ports are the whole usage. With fewer listeners a
//! CHANGE-REQUEST is still served where the wanted listener exists (a second port alone lets a
//! client tell address-dependent from port-dependent filtering), and answered with 420 where it
//! does not; OTHER-ADDRESS is told for the whole square only, as sections 6 and 7.4 demand.
//!
//! The square is one of datagrams. An answer to a message on a stream has nowhere to go but back,
//! so a listener of streams is treated as section 6 wants a server without alternates treated.

use std::net::SocketAddr;

use crate::config::{
    ConfigError, Listener, ListenerId, ListenerRole, MAX_LISTENERS, MAX_STREAM_LISTENERS, StreamListener,
    Transport,
};

/// The "change IP" flag (RFC 5780, section 7.2).
const CHANGE_IP: u8 = 0x04;
/// The "change port" flag (RFC 5780, section 7.2).
const CHANGE_PORT: u8 = 0x02;

/// From where a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) ip: bool,
    pub(crate) port: bool,
}

impl Change {
    pub(crate) const BOTH: Self = Self { ip: true, port: true };
    pub(crate) const IP: Self = Self { ip: true, port: false };

    /// Reads CHANGE-REQUEST; nothing if its length is wrong.
    pub(crate) fn from_attribute(value: &[u8]) -> Option<Self> {
        let [_, _, _, flags] = value else { return None };
        Some(Self { ip: flags & CHANGE_IP != 0, port: flags & CHANGE_PORT != 0 })
    }
}

/// Reads RESPONSE-PORT (RFC 5780, section 7.5); nothing if its length is wrong or nobody can
/// listen there.
pub(crate) fn response_port(value: &[u8]) -> Option<u16> {
    // The two bytes behind the port are the attribute's own padding; some clients count them in
    // its length and some do not.
    let ([high, low] | [high, low, _, _]) = value else {
        return None;
    };
    Some(u16::from_be_bytes([*high, *low])).filter(|port| *port != 0)
}

/// A listener of either kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) id: ListenerId,
    pub(crate) transport: Transport,
    pub(crate) addr: SocketAddr,
    /// Its place in the square, if it is one of datagrams.
    role: Option<ListenerRole>,
}

impl From<Listener> for Place {
    fn from(Listener { id, role, addr }: Listener) -> Self {
        Self { id, transport: Transport::Udp, addr, role: Some(role) }
    }
}

impl From<StreamListener> for Place {
    fn from(StreamListener { id, transport, addr }: StreamListener) -> Self {
        Self { id, transport, addr, role: None }
    }
}

/// The listeners of one family, by place.
type Square = [Option<ListenerId>; 4];

/// All listeners and their squares.
pub(crate) struct Listeners {
    all: Vec<Place>,
    ipv4: Square,
    ipv6: Square,
}

impl ListenerRole {
    /// Bit 1 is the address, bit 0 the port.
    const fn place(self) -> usize {
        match self {
            Self::PrimaryMain => 0,
            Self::PrimaryAlt => 1,
            Self::AlternateMain => 2,
            Self::AlternateAlt => 3,
        }
    }

    const fn changed(self, change: Change) -> usize {
        self.place() ^ ((change.ip as usize) << 1 | change.port as usize)
    }
}

impl Listeners {
    pub(crate) fn new(datagrams: &[Listener], streams: &[StreamListener]) -> Result<Self, ConfigError> {
        if !(1..=MAX_LISTENERS).contains(&datagrams.len()) {
            return Err(ConfigError::ListenerCount);
        }
        if streams.len() > MAX_STREAM_LISTENERS {
            return Err(ConfigError::StreamCount);
        }
        if let Some(stream) = streams.iter().find(|stream| !stream.transport.is_stream()) {
            return Err(ConfigError::NoStream(stream.addr));
        }
        let places = datagrams.iter().copied().map(Place::from);
        let all: Vec<Place> = places.chain(streams.iter().copied().map(Place::from)).collect();
        for (index, place) in all.iter().enumerate() {
            if usize::from(place.id.0) != index {
                let id = place.id.0;
                return Err(ConfigError::ListenerId { index, id });
            }
            if place.addr.port() == 0 {
                return Err(ConfigError::NoPort(place.addr));
            }
        }
        Ok(Self {
            ipv4: square(datagrams, "IPv4", SocketAddr::is_ipv4)?,
            ipv6: square(datagrams, "IPv6", SocketAddr::is_ipv6)?,
            all,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.all.iter()
    }

    pub(crate) fn get(&self, id: ListenerId) -> Option<&Place> {
        self.all.get(usize::from(id.0))
    }

    /// The listener that answers a request to `at` with this CHANGE-REQUEST (RFC 5780, table 1).
    pub(crate) fn changed(&self, at: &Place, change: Change) -> Option<&Place> {
        let id = self.square_of(at.addr)[at.role?.changed(change)]?;
        self.get(id)
    }

    /// True if the family of `at` has more than one listener, so that clients can ask for
    /// another and should be told which one answered.
    pub(crate) fn has_alternates(&self, at: &Place) -> bool {
        at.role.is_some() && self.square_of(at.addr).iter().flatten().count() > 1
    }

    /// The address to tell as OTHER-ADDRESS, if the square is whole and its ports are the same
    /// on both addresses (RFC 5780, section 6).
    pub(crate) fn other_address(&self, at: &Place) -> Option<SocketAddr> {
        let same_port = self.changed(at, Change::IP)?.addr.port() == at.addr.port();
        let other = self.changed(at, Change::BOTH)?.addr;
        let port = Change { ip: false, port: true };
        let same_alternate_port = self.changed(at, port)?.addr.port() == other.port();
        (same_port && same_alternate_port && !other.ip().is_unspecified()).then_some(other)
    }

    /// Where a dial-back to `to` leaves: the alternate address, with the alternate port if there
    /// is one. Never the primary address: the target may have sent there.
    pub(crate) fn dial_back_from(&self, to: SocketAddr) -> Option<ListenerId> {
        let square = self.square_of(to);
        square[ListenerRole::AlternateAlt.place()].or(square[ListenerRole::AlternateMain.place()])
    }

    fn square_of(&self, addr: SocketAddr) -> &Square {
        match addr {
            SocketAddr::V4(_) => &self.ipv4,
            SocketAddr::V6(_) => &self.ipv6,
        }
    }
}

/// Puts the listeners of a family in their places.
fn square(
    all: &[Listener],
    family: &'static str,
    is_of_family: impl Fn(&SocketAddr) -> bool,
) -> Result<Square, ConfigError> {
    let mut square = Square::default();
    let mut ips = [None; 2];
    for listener in all.iter().filter(|l| is_of_family(&l.addr)) {
        let role = listener.role;
        if square[role.place()].replace(listener.id).is_some() {
            return Err(ConfigError::DuplicateRole { role, family });
        }
        let ip = ips[role.place() >> 1].get_or_insert(listener.addr.ip());
        if *ip != listener.addr.ip() {
            return Err(ConfigError::NotASquare(family));
        }
    }
    if square.iter().any(Option::is_some) && square[0].is_none() {
        return Err(ConfigError::NoPrimary(family));
    }
    if ips[0].is_some() && ips[0] == ips[1] {
        return Err(ConfigError::NotASquare(family));
    }
    Ok(square)
}
