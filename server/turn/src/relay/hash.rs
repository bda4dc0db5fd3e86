//! What the hash tables have in common. All of them are keyed, since clients choose their addresses
//! and names, and none is ever iterated over, so their order does not show.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use siphasher::sip::SipHasher13;

use crate::config::ListenerId;

/// A table this small is left as it is.
const SMALL: usize = 64;

/// Places clients by multiplication with secret numbers: `(b + sum of a * x) mod 2^128`, of which
/// the upper half counts. It is strongly universal (Dietzfelbinger, "Universal hashing and k-wise
/// independent random variables via integer arithmetic without primes"): whoever does not know the
/// numbers finds no two addresses that meet more often than by chance. This is looked up for every
/// packet, and costs a tenth of what SipHash does.
#[derive(Clone, Copy)]
pub(crate) struct ClientHasher {
    a: [u128; 3],
    b: u128,
}

impl ClientHasher {
    pub(crate) fn new(random: &mut ChaCha20Rng) -> Self {
        let mut number = || u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        Self { a: [number(), number(), number()], b: number() }
    }

    #[inline]
    pub(super) fn place(&self, listener: ListenerId, source: SocketAddr) -> u64 {
        let rest = u64::from(listener.0) << 16 | u64::from(source.port());
        let words = match source {
            SocketAddr::V4(source) => [rest << 32 | u64::from(source.ip().to_bits()), 0, 0],
            SocketAddr::V6(source) => {
                let ip = source.ip().to_bits();
                // The mark keeps the families apart.
                [rest | 1 << 63, ip as u64, (ip >> 64) as u64]
            }
        };
        let products = self.a.iter().zip(words).map(|(a, word)| a.wrapping_mul(word.into()));
        (products.fold(self.b, u128::wrapping_add) >> 64) as u64
    }
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
