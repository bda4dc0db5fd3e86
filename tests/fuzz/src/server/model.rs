//! What the outside knows of the server: who was granted what, and until when. It is built from questions and answers
//! alone, and it is what every relayed packet is measured against.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_turn::{ListenerId, RelayId};

use crate::server::setup::{RELAY_IP4, RELAY_IP6, Setup, is_forbidden, is_inside};

/// RFC 8656, section 9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656, section 12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// Who has an allocation: RFC 8656 knows a client by its address and the server's.
pub(super) type Client = (ListenerId, SocketAddr);

/// Permissions are for an address; those for the relay's own address are for a port too.
type Permitted = (IpAddr, Option<u16>);

/// An allocation that was answered well.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) id: [u8; 12],
    pub(super) user: String,
    pub(super) relayed: Vec<SocketAddr>,
    pub(super) expires: Instant,
    began: Instant,
    relayed_bytes: u64,
    icmp: Gauge,
    permissions: BTreeMap<Permitted, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
}

/// A socket the server ordered.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) seen: SocketAddr,
    pub(super) is_open: bool,
}

/// A budget of answers, counted from the start.
#[derive(Debug)]
pub(super) struct Gauge {
    per_s: f64,
    burst: f64,
    taken: f64,
}

impl Gauge {
    pub(super) const fn new(per_s: f64, burst: f64) -> Self {
        Self { per_s, burst, taken: 0.0 }
    }

    pub(super) fn take(&mut self, elapsed: Duration, what: &str) {
        self.taken += 1.0;
        let most = self.burst + self.per_s * elapsed.as_secs_f64() + 1.0;
        assert!(self.taken <= most, "{what}: {} of {most}", self.taken);
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) granted: BTreeMap<Client, Granted>,
    pub(super) sockets: BTreeMap<RelayId, Socket>,
    /// Which users' nodes were introduced, in both orders, and until when.
    pairs: BTreeMap<(String, String), Instant>,
}

impl Model {
    /// An Allocate was answered well.
    pub(super) fn allocate(
        &mut self,
        now: Instant,
        client: Client,
        id: [u8; 12],
        user: &str,
        relayed: Vec<SocketAddr>,
        lifetime_s: u32,
    ) {
        assert!(!relayed.is_empty() && (600..=3600).contains(&lifetime_s), "{relayed:?} {lifetime_s}");
        let is_open = |addr: &SocketAddr| self.sockets.values().any(|s| s.is_open && s.seen == *addr);
        assert!(relayed.iter().all(is_open), "no socket at {relayed:?}");
        let mut others = self.granted.iter().filter(|(other, _)| **other != client);
        let is_taken = others.any(|(_, other)| other.relayed.iter().any(|addr| relayed.contains(addr)));
        assert!(!is_taken, "{relayed:?} is another's");
        if let Some(old) = self.granted.get(&client) {
            assert_eq!((old.id, &old.user[..]), (id, user), "a second allocation");
            // What is left of it: one family may have been given back since.
            assert!(old.relayed.iter().eq(&relayed), "{:?} {relayed:?}", old.relayed);
            return;
        }
        let granted = Granted {
            id,
            user: user.to_owned(),
            relayed,
            expires: now + Duration::from_secs(lifetime_s.into()),
            began: now,
            relayed_bytes: 0,
            icmp: Gauge::new(10.0, 20.0),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        };
        self.granted.insert(client, granted);
    }

    fn of(&mut self, client: Client, user: &str) -> &mut Granted {
        let granted = self.granted.get_mut(&client).expect("an allocation");
        assert_eq!(granted.user, user, "another user's allocation");
        granted
    }

    pub(super) fn refresh(&mut self, now: Instant, client: Client, user: &str, lifetime_s: u32) {
        if lifetime_s == 0 {
            // What was given back shows in the sockets; a whole allocation is gone with its last.
            assert!(self.granted.get(&client).is_none_or(|granted| granted.user == user));
            return;
        }
        assert!((600..=3600).contains(&lifetime_s), "{lifetime_s}");
        self.of(client, user).expires = now + Duration::from_secs(lifetime_s.into());
    }

    pub(super) fn permit(
        &mut self,
        now: Instant,
        client: Client,
        user: &str,
        peers: &[Option<SocketAddr>],
        most: usize,
    ) {
        let granted = self.of(client, user);
        assert!(!peers.is_empty(), "a permission for nobody");
        for peer in peers {
            let peer = peer.expect("a permission for no address");
            assert!(is_inside(peer) || !is_forbidden(peer), "a permission for {peer}");
            let has_family = granted.relayed.iter().any(|relayed| relayed.is_ipv4() == peer.is_ipv4());
            assert!(has_family, "no relayed address for {peer}");
            granted.permissions.insert(permitted(peer), now + PERMISSION_LIFETIME);
        }
        granted.permissions.retain(|_, until| now < *until);
        assert!(granted.permissions.len() <= most, "too many permissions");
    }

    pub(super) fn bind(
        &mut self,
        now: Instant,
        client: Client,
        user: &str,
        number: u16,
        peer: SocketAddr,
        most: usize,
    ) {
        assert!((0x4000..=0x7FFF).contains(&number) && peer.port() != 0, "{number:#x} {peer}");
        let granted = self.of(client, user);
        granted.channels.retain(|_, (_, until)| now < *until);
        for (other, (bound, _)) in &granted.channels {
            assert_eq!(*other == number, *bound == peer, "{number:#x} {peer} is bound otherwise");
        }
        granted.channels.insert(number, (peer, now + CHANNEL_LIFETIME));
        assert!(granted.channels.len() <= most, "too many channels");
    }

    /// A socket is closed, and what it was part of is gone with the last one.
    pub(super) fn close(&mut self, id: RelayId) {
        let socket = self.sockets.remove(&id).expect("closed once");
        for granted in self.granted.values_mut() {
            granted.relayed.retain(|relayed| *relayed != socket.seen);
        }
        self.granted.retain(|_, granted| !granted.relayed.is_empty());
    }

    pub(super) fn owner(&self, relayed: SocketAddr) -> Option<Client> {
        let mut granted = self.granted.iter();
        granted.find(|(_, granted)| granted.relayed.contains(&relayed)).map(|(client, _)| *client)
    }

    pub(super) fn peer_of(&self, now: Instant, client: Client, number: u16) -> Option<SocketAddr> {
        let (peer, until) = self.granted.get(&client)?.channels.get(&number)?;
        (now < *until).then_some(*peer)
    }

    pub(super) fn channel_of(&self, now: Instant, client: Client, peer: SocketAddr) -> Option<u16> {
        let channels = &self.granted.get(&client)?.channels;
        channels.iter().find(|(_, (bound, until))| *bound == peer && now < *until).map(|(number, _)| *number)
    }

    pub(super) fn permits(&self, now: Instant, client: Client, peer: SocketAddr) -> bool {
        let Some(granted) = self.granted.get(&client) else { return false };
        let until = granted.permissions.get(&permitted(peer));
        now < granted.expires && until.is_some_and(|until| now < *until)
    }

    /// The relayed address of the client in the peer's family.
    pub(super) fn relayed_for(&self, client: Client, peer: SocketAddr) -> Option<SocketAddr> {
        let granted = self.granted.get(&client)?;
        granted.relayed.iter().find(|relayed| relayed.is_ipv4() == peer.is_ipv4()).copied()
    }

    /// So many bytes were relayed for the client: not more than the rate gives since it began.
    pub(super) fn count(&mut self, now: Instant, client: Client, len: usize, setup: Setup) {
        let Some(granted) = self.granted.get_mut(&client).filter(|_| !setup.is_generous) else { return };
        granted.relayed_bytes += len as u64;
        let elapsed = now.saturating_duration_since(granted.began).as_secs_f64();
        // What the rate of the setup allows, and a byte for rounding.
        let most = 3000.0 + 1000.0 * elapsed + 1.0;
        assert!(granted.relayed_bytes as f64 <= most, "{} of {most} bytes", granted.relayed_bytes);
    }

    /// The client is told of an ICMP message: ten a second, twenty at once.
    pub(super) fn count_icmp(&mut self, now: Instant, client: Client) {
        let granted = self.granted.get_mut(&client).expect("an allocation");
        granted.icmp.take(now.saturating_duration_since(granted.began), "ICMP messages");
    }

    pub(super) fn introduce(&mut self, a: &str, b: &str, until: Instant) {
        self.pairs.insert((a.to_owned(), b.to_owned()), until);
        self.pairs.insert((b.to_owned(), a.to_owned()), until);
    }

    pub(super) fn part(&mut self, node: &str) {
        self.pairs.retain(|(a, b), _| a != node && b != node);
    }

    /// Inside the server nodes meet whom they were introduced to, and others meet others.
    pub(super) fn may_meet(&self, now: Instant, a: Client, b: Client) -> bool {
        let user = |client| self.granted.get(&client).map(|granted| granted.user.clone());
        let (Some(a), Some(b)) = (user(a), user(b)) else { return false };
        match (a.starts_with("node:"), b.starts_with("node:")) {
            (false, false) => true,
            (true, true) => a != b && self.pairs.get(&(a, b)).is_some_and(|until| now < *until),
            _ => false,
        }
    }

    /// Nothing outlives its time once the timers ran.
    pub(super) fn is_current(&self, now: Instant) -> bool {
        self.granted.values().all(|granted| now < granted.expires)
    }
}

fn permitted(peer: SocketAddr) -> Permitted {
    let is_own = peer.ip() == IpAddr::from(RELAY_IP4) || peer.ip() == IpAddr::from(RELAY_IP6);
    (peer.ip(), is_own.then_some(peer.port()))
}

/// What is one source to a budget: an IPv4 address or an IPv6 /64.
pub(super) fn source_key(source: SocketAddr) -> IpAddr {
    match source.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
