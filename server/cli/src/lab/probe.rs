//! Measures what a NAT really does, with plain UDP sockets at both ends.
//!
//! The tests of RFC 4787 need no protocol of their own when one program holds both ends: a packet is sent from one side
//! and looked for on the other. So nothing here can share a mistake with a STUN implementation. The probe assumes a
//! path that does not lose packets, which a lab's is.
//!
//! That a packet did *not* come through is told without waiting for time to pass: another packet is sent after it, over
//! the same path, that is certain to arrive, and a path of the lab keeps order.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::nat::BLOCK_SIZE;
use super::{Host, LabError, SERVER_ADDRS};

/// Public sockets on each of the server's two addresses. One is sent to, the others tell how far a mapping reaches;
/// four make it all but impossible that a random allocator repeats itself on all of them.
pub const PORTS_PER_ADDR: usize = 4;

/// How long a packet that must arrive may take. Only a failure takes this long.
const MUST_ARRIVE: Duration = Duration::from_secs(3);

/// How long UDP gets to show any sign of life before it counts as blocked.
const MAY_ARRIVE: Duration = Duration::from_millis(300);

/// Attempts before UDP counts as blocked.
const BLOCKED_AFTER_ATTEMPTS: usize = 3;

/// Longer than every payload of the probe.
const MAX_PAYLOAD: usize = 64;

/// How far a property of a NAT depends on the other end (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependence {
    /// Endpoint-independent.
    Nothing,
    /// Address-dependent.
    Address,
    /// Address- and port-dependent.
    AddressAndPort,
}

/// How public ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocator {
    /// The host's own port, for every destination.
    Preserving,
    /// One other port for every destination.
    Rewriting,
    /// Each destination gets the port after the one before.
    Sequential,
    /// Each destination gets some port of a small block.
    Block,
    /// Each destination gets any port.
    Random,
}

/// What happens to a mapping when its peer's packet comes in before the host has sent to that peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EarlyInbound {
    /// The mapping stays.
    Harmless,
    /// The host is mapped to another port towards that peer.
    MovesMapping,
}

/// Everything that was measured on a host whose UDP passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Behavior {
    /// Whether the world sees another address than the host's own.
    pub translated: bool,
    /// What the public endpoint depends on.
    pub mapping: Dependence,
    /// What lets a packet in depends on.
    pub filtering: Dependence,
    /// How ports are chosen.
    pub allocator: Allocator,
    /// Measured only where the mapping depends on nothing, since no peer can be early otherwise.
    pub early_inbound: Option<EarlyInbound>,
}

/// The outcome of [`measure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measurement {
    /// No UDP came through.
    Blocked,
    /// UDP passes, in this way.
    Passes(Behavior),
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The lab is in trouble.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A socket is in trouble.
    #[error("a socket of the probe: {0}")]
    Io(#[from] io::Error),
    /// A packet that had to arrive did not, so that nothing can be concluded.
    #[error("the probe lost {what}")]
    Lost {
        /// Which packet.
        what: &'static str,
    },
}

/// Measures the way of `node` to the public network, with the lab's server host as the other end.
///
/// # Errors
///
/// [`ProbeError`] if the lab's own conditions do not hold; what the NAT does is never an error.
pub fn measure(server: &Host, node: &Host) -> Result<Measurement, ProbeError> {
    let world = World::open(server)?;
    let near = bind(node)?;
    if !world.hears_anything(&near)? {
        return Ok(Measurement::Blocked);
    }
    let local = SocketAddrV4::new(node.addr(), near.local_addr()?.port());
    let seen = world.mappings(&near)?;
    let (mapping, allocator) = classify(local, &seen);
    let filtering = world.filtering(&bind(node)?)?;
    let early_inbound = match mapping {
        Dependence::Nothing => Some(world.early_inbound(&bind(node)?)?),
        Dependence::Address | Dependence::AddressAndPort => None,
    };
    let translated = seen[0][0].ip() != local.ip();
    Ok(Measurement::Passes(Behavior { translated, mapping, filtering, allocator, early_inbound }))
}

/// A socket on a host, on any port of its own address.
pub(super) fn bind(host: &Host) -> Result<UdpSocket, ProbeError> {
    Ok(host.run_in(|| UdpSocket::bind((host.addr(), 0)))??)
}

/// Receives until a datagram with this payload comes and tells where from; `None` if it does not come in time. All
/// others are strays of an earlier step and are passed over.
pub(super) fn receive(
    socket: &UdpSocket,
    payload: &[u8],
    wait: Duration,
) -> io::Result<Option<SocketAddrV4>> {
    socket.set_read_timeout(Some(wait))?;
    let mut buffer = [0; MAX_PAYLOAD];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, SocketAddr::V4(source))) if &buffer[..len] == payload => return Ok(Some(source)),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Like [`receive`], for a packet that must arrive.
pub(super) fn expect(
    socket: &UdpSocket,
    payload: &[u8],
    what: &'static str,
) -> Result<SocketAddrV4, ProbeError> {
    receive(socket, payload, MUST_ARRIVE)?.ok_or(ProbeError::Lost { what })
}

/// Where the world saw one socket come from, for each of its own sockets.
pub type Sightings = [[SocketAddrV4; PORTS_PER_ADDR]; SERVER_ADDRS.len()];

/// The public end of the probe: several sockets on each of two addresses.
struct World {
    sockets: [[UdpSocket; PORTS_PER_ADDR]; SERVER_ADDRS.len()],
}

impl World {
    fn open(server: &Host) -> Result<Self, ProbeError> {
        let sockets = server.run_in(|| {
            try_each(SERVER_ADDRS, |addr| try_each([addr; PORTS_PER_ADDR], |addr| UdpSocket::bind((addr, 0))))
        })??;
        Ok(Self { sockets })
    }

    fn hears_anything(&self, near: &UdpSocket) -> Result<bool, ProbeError> {
        let far = &self.sockets[0][0];
        for _ in 0..BLOCKED_AFTER_ATTEMPTS {
            near.send_to(b"anything", far.local_addr()?)?;
            if receive(far, b"anything", MAY_ARRIVE)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// RFC 4787 section 4.1: sends from one socket to every public one, in order.
    fn mappings(&self, near: &UdpSocket) -> Result<Sightings, ProbeError> {
        let mut seen = [[SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0); PORTS_PER_ADDR]; SERVER_ADDRS.len()];
        for (far, seen) in self.sockets.iter().flatten().zip(seen.iter_mut().flatten()) {
            *seen = sighting(near, far)?;
        }
        Ok(seen)
    }

    /// RFC 4787 section 5: after a fresh socket has sent to one public socket, who else may answer?
    fn filtering(&self, near: &UdpSocket) -> Result<Dependence, ProbeError> {
        let [[known, same_addr, ..], [other_addr, ..]] = &self.sockets;
        let mapped = sighting(near, known)?;
        same_addr.send_to(b"same address", mapped)?;
        other_addr.send_to(b"other address", mapped)?;
        known.send_to(b"last", mapped)?;
        let heard = sources_until(near, b"last")?;
        let came_through = |socket: &UdpSocket| {
            let sender = socket.local_addr()?;
            Ok::<_, io::Error>(heard.iter().any(|source| SocketAddr::V4(*source) == sender))
        };
        Ok(match (came_through(other_addr)?, came_through(same_addr)?) {
            (true, _) => Dependence::Nothing,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
        })
    }

    /// Lets a public socket knock on a mapping it learnt from elsewhere, then looks whether the host, sending to that
    /// socket, still comes from the mapping.
    fn early_inbound(&self, near: &UdpSocket) -> Result<EarlyInbound, ProbeError> {
        let [[known, ..], [early, ..]] = &self.sockets;
        let mapped = sighting(near, known)?;
        early.send_to(b"early", mapped)?;
        known.send_to(b"last", mapped)?;
        expect(near, b"last", "an answer through an open mapping")?;
        if sighting(near, early)? == mapped {
            Ok(EarlyInbound::Harmless)
        } else {
            Ok(EarlyInbound::MovesMapping)
        }
    }
}

/// Sends from one socket to another and tells where the receiver saw it come from.
pub(super) fn sighting(near: &UdpSocket, far: &UdpSocket) -> Result<SocketAddrV4, ProbeError> {
    near.send_to(b"sighting", far.local_addr()?)?;
    expect(far, b"sighting", "a packet towards the public network")
}

/// Where everything came from that was heard before a packet that must arrive.
pub(super) fn sources_until(socket: &UdpSocket, last: &[u8]) -> Result<Vec<SocketAddrV4>, ProbeError> {
    socket.set_read_timeout(Some(MUST_ARRIVE))?;
    let mut sources = Vec::new();
    let mut buffer = [0; MAX_PAYLOAD];
    loop {
        let (len, source) = match socket.recv_from(&mut buffer) {
            Ok((len, SocketAddr::V4(source))) => (len, source),
            Ok((_, SocketAddr::V6(_))) => continue,
            Err(error) if is_timeout(&error) => {
                return Err(ProbeError::Lost { what: "an answer through an open mapping" });
            }
            Err(error) => return Err(error.into()),
        };
        if &buffer[..len] == last {
            return Ok(sources);
        }
        sources.push(source);
    }
}

/// What a socket says when nothing came within its read timeout.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// `array.map` for a function that can fail.
fn try_each<T, U, const N: usize>(items: [T; N], f: impl FnMut(T) -> io::Result<U>) -> io::Result<[U; N]> {
    let made = items.into_iter().map(f).collect::<io::Result<Vec<U>>>()?;
    made.try_into().map_err(|_| io::Error::other("one result for each item"))
}

/// Judges mapping and allocator by what each public socket saw of one socket bound to `local`.
#[must_use]
pub fn classify(local: SocketAddrV4, seen: &Sightings) -> (Dependence, Allocator) {
    let same_on_each_addr = seen.iter().all(|addr| addr.iter().all(|sighting| *sighting == addr[0]));
    let mapping = match (same_on_each_addr, seen[0][0] == seen[1][0]) {
        (true, true) => Dependence::Nothing,
        (true, false) => Dependence::Address,
        (false, _) => Dependence::AddressAndPort,
    };
    (mapping, classify_ports(local.port(), seen.as_flattened().iter().map(SocketAddrV4::port).collect()))
}

fn classify_ports(local: u16, mut ports: Vec<u16>) -> Allocator {
    if ports.iter().all(|port| *port == local) {
        return Allocator::Preserving;
    }
    ports.dedup();
    if ports.len() == 1 {
        return Allocator::Rewriting;
    }
    // One step of many may break a sequence, where its pool starts over.
    let breaks = ports.windows(2).filter(|pair| pair[0].checked_add(1) != Some(pair[1])).count();
    let lowest = ports.iter().min().copied().unwrap_or_default();
    let highest = ports.iter().max().copied().unwrap_or_default();
    match (breaks, highest - lowest) {
        (0, _) => Allocator::Sequential,
        (1, _) if ports.len() > 3 => Allocator::Sequential,
        (_, span) if span < BLOCK_SIZE => Allocator::Block,
        _ => Allocator::Random,
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "endpoint-independent",
            Self::Address => "address-dependent",
            Self::AddressAndPort => "address- and port-dependent",
        })
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preserving => "kept",
            Self::Rewriting => "changed",
            Self::Sequential => "sequential",
            Self::Block => "from a block",
            Self::Random => "random",
        })
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behavior = match self {
            Self::Blocked => return f.write_str("UDP blocked"),
            Self::Passes(behavior) => behavior,
        };
        let Behavior { translated, mapping, filtering, allocator, early_inbound } = behavior;
        f.write_str(if *translated { "address translated" } else { "address kept" })?;
        write!(f, ", {mapping} mapping, {filtering} filtering, ports {allocator}")?;
        match early_inbound {
            Some(EarlyInbound::MovesMapping) => f.write_str(", early packets move the mapping"),
            Some(EarlyInbound::Harmless) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last_byte: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(20, 0, 0, last_byte), port)
    }

    /// RFC 4787 section 4.1 names the three mappings by what they have in common.
    #[test]
    fn mappings_and_allocators_are_told_apart() {
        let check = |ports: [[u16; 4]; 2], expected: (Dependence, Allocator)| {
            let seen = ports.map(|ports| ports.map(|port| endpoint(11, port)));
            assert_eq!(classify(endpoint(99, 5000), &seen), expected, "{ports:?}");
        };
        check([[5000; 4]; 2], (Dependence::Nothing, Allocator::Preserving));
        check([[7000; 4]; 2], (Dependence::Nothing, Allocator::Rewriting));
        check([[7000; 4], [7001; 4]], (Dependence::Address, Allocator::Sequential));
        check([[1, 2, 3, 4], [5, 6, 7, 8]], (Dependence::AddressAndPort, Allocator::Sequential));
        check([[6, 7, 8, 1], [2, 3, 4, 5]], (Dependence::AddressAndPort, Allocator::Sequential));
        check([[40, 900, 41, 77], [300, 5, 80, 640]], (Dependence::AddressAndPort, Allocator::Block));
        check([[40, 9000, 41, 77], [300, 5, 80, 640]], (Dependence::AddressAndPort, Allocator::Random));
        check([[7000; 4], [9000; 4]], (Dependence::Address, Allocator::Random));
        check([[5000, 5000, 5000, 9], [5000; 4]], (Dependence::AddressAndPort, Allocator::Random));
    }
}
