//! NAT behaviour discovery (RFC 5780): which listener answers, and which addresses are told.
//!
//! Two addresses with the same two ports are the whole usage. With fewer listeners a
//! CHANGE-REQUEST is still served where the wanted listener exists (a second port alone lets a
//! client tell address-dependent from port-dependent filtering), and answered with 420 where it
//! does not; OTHER-ADDRESS is told for the whole square only, as sections 6 and 7.4 demand.

use std::net::SocketAddr;

use crate::config::{ConfigError, Listener, ListenerId, ListenerRole, MAX_LISTENERS};

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

/// The listeners of one family, by place.
type Square = [Option<ListenerId>; 4];

/// All listeners and their squares.
pub(crate) struct Listeners {
    all: Vec<Listener>,
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
    pub(crate) fn new(all: Vec<Listener>) -> Result<Self, ConfigError> {
        if !(1..=MAX_LISTENERS).contains(&all.len()) {
            return Err(ConfigError::ListenerCount);
        }
        for (index, listener) in all.iter().enumerate() {
            if usize::from(listener.id.0) != index {
                let id = listener.id.0;
                return Err(ConfigError::ListenerId { index, id });
            }
            if listener.addr.port() == 0 {
                return Err(ConfigError::NoPort(listener.addr));
            }
        }
        Ok(Self {
            ipv4: square(&all, "IPv4", SocketAddr::is_ipv4)?,
            ipv6: square(&all, "IPv6", SocketAddr::is_ipv6)?,
            all,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.all.iter()
    }

    pub(crate) fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.all.get(usize::from(id.0))
    }

    /// The listener that answers a request to `at` with this CHANGE-REQUEST (RFC 5780, table 1).
    pub(crate) fn changed(&self, at: &Listener, change: Change) -> Option<&Listener> {
        let id = self.square_of(at.addr)[at.role.changed(change)]?;
        self.get(id)
    }

    /// True if the family of `at` has more than one listener, so that clients can ask for
    /// another and should be told which one answered.
    pub(crate) fn has_alternates(&self, at: &Listener) -> bool {
        self.square_of(at.addr).iter().flatten().count() > 1
    }

    /// The address to tell as OTHER-ADDRESS, if the square is whole and its ports are the same
    /// on both addresses (RFC 5780, section 6).
    pub(crate) fn other_address(&self, at: &Listener) -> Option<SocketAddr> {
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
