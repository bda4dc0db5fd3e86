//! What the hash tables have in common. All of them are keyed, since clients choose their addresses
//! and names, and none is ever iterated over, so their order does not show.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::config::ListenerId;

/// A table this small is left as it is.
const SMALL: usize = 64;

/// A client's place.
#[inline]
pub(super) fn client_hash(mut hasher: SipHasher13, listener: ListenerId, source: SocketAddr) -> u64 {
    let rest = u64::from(listener.0) << 16 | u64::from(source.port());
    match source {
        SocketAddr::V4(source) => hasher.write_u64(rest << 32 | u64::from(source.ip().to_bits())),
        SocketAddr::V6(source) => {
            hasher.write_u128(source.ip().to_bits());
            hasher.write_u64(rest);
        }
    }
    hasher.finish()
}

/// A user's place.
pub(super) fn user_hash(mut hasher: SipHasher13, user: &str) -> u64 {
    hasher.write(user.as_bytes());
    hasher.finish()
}

/// The place of a source, which is an IPv4 address or an IPv6 /64.
pub(super) fn source_hash(mut hasher: SipHasher13, source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
        IpAddr::V6(ip) => hasher.write_u64((ip.to_bits() >> 64) as u64),
    }
    hasher.finish()
}

/// Removes a value, and gives memory back when three quarters of it lie idle. So each removal pays
/// for a fixed number of moves.
pub(super) fn remove<T>(
    table: &mut HashTable<T>,
    hash: u64,
    is_it: impl FnMut(&T) -> bool,
    rehash: impl Fn(&T) -> u64,
) {
    if let Ok(entry) = table.find_entry(hash, is_it) {
        entry.remove();
    }
    if table.capacity() > SMALL && table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, rehash);
    }
}
