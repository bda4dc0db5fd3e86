//! Nonces without memory: a MAC over the source's address and port and the current epoch.
//!
//! A flood of spoofed requests makes the server store nothing, and a nonce proves that its bearer
//! receives at the address it sends from: that is what makes an observed address worth something.

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use meetpoint_stun::crypto::keyed;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::defence::{Defence, Defences};

/// A nonce lives for the rest of its epoch and one more: 5 to 10 minutes. RFC 8656, section 5
/// asks for at most one hour; a source that keeps a NAT mapping alive asks far more often.
pub(crate) const EPOCH_S: u64 = 300;

/// Length of a [`Features::cookie`].
const COOKIE_LEN: usize = 13;

/// The security features a nonce announces (RFC 8489, section 18.1). Whoever strips
/// PASSWORD-ALGORITHMS from an answer cannot strip this as well: the MAC covers it, and the nonce
/// would not be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Features {
    /// "Password algorithms", the leftmost bit.
    PasswordAlgorithms = 0x80,
    /// And "username anonymity", the next one.
    UsernameAnonymity = 0xC0,
}

impl Features {
    const ALL: [Self; 2] = [Self::PasswordAlgorithms, Self::UsernameAnonymity];

    /// The nonce cookie (section 9.2) and the base64 of the three bytes of the feature set.
    const fn cookie(self) -> &'static [u8; COOKIE_LEN] {
        match self {
            Self::PasswordAlgorithms => b"obMatJos2gAAA",
            Self::UsernameAnonymity => b"obMatJos2wAAA",
        }
    }
}

/// 63 bits and one that says which of two epochs it was. They cannot be guessed online (each
/// guess is a packet, each epoch a new value), and keep a 401 to a bare 28-byte request within
/// three times that request.
pub(crate) const MAC_LEN: usize = 8;
/// Base64 without padding of [`MAC_LEN`] bytes.
const MAC_TEXT_LEN: usize = 11;
/// Length of a nonce.
pub(crate) const NONCE_LEN: usize = COOKIE_LEN + MAC_TEXT_LEN;

/// Where a nonce is sent, and has to come back from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) source: SocketAddr,
    /// Behind a NAT the same address and port are somebody else's in UDP than in TCP.
    pub(crate) is_stream: bool,
}

/// Makes and checks nonces.
pub(crate) struct NonceKey {
    mac: Hmac<Sha256>,
    defences: Defences,
    /// What a server that issues nonces by chance would have to keep.
    #[cfg(feature = "attack-tests")]
    remembered: std::cell::RefCell<std::collections::BTreeSet<SocketAddr>>,
}

impl NonceKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self {
            mac: keyed(key),
            defences: Defences::default(),
            #[cfg(feature = "attack-tests")]
            remembered: std::cell::RefCell::default(),
        }
    }

    #[cfg(feature = "attack-tests")]
    pub(crate) fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
    }

    /// The nonce for this origin at this time.
    pub(crate) fn issue(&self, features: Features, origin: Origin, unix_s: u64) -> [u8; NONCE_LEN] {
        #[cfg(feature = "attack-tests")]
        if !self.defences.stand(Defence::StatelessNonce) {
            self.remembered.borrow_mut().insert(origin.source);
        }
        write(features, self.mac(features, origin, unix_s / EPOCH_S))
    }

    /// True if `nonce` was issued to this origin in this epoch or the one before, whatever it
    /// announced then.
    pub(crate) fn is_valid(&self, nonce: &[u8], origin: Origin, unix_s: u64) -> bool {
        let read = read(nonce, unix_s);
        read.is_some_and(|Read { features, mac, epoch }| self.mac(features, origin, epoch).ct_eq(&mac).into())
    }

    fn mac(&self, features: Features, origin: Origin, epoch: u64) -> [u8; MAC_LEN] {
        let ip = match origin.source.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut input = [0; 28];
        input[..8].copy_from_slice(&epoch.to_be_bytes());
        if self.defences.stand(Defence::BoundNonce) {
            input[8..24].copy_from_slice(&ip.octets());
            input[24..26].copy_from_slice(&origin.source.port().to_be_bytes());
            input[26] = u8::from(origin.is_stream);
        }
        input[27] = features as u8;
        let whole = self.mac.clone().chain_update(input).finalize().into_bytes();
        cut(&whole, epoch)
    }
}

/// What a nonce says of itself.
pub(crate) struct Read {
    pub(crate) features: Features,
    pub(crate) mac: [u8; MAC_LEN],
    /// The present one, or the one before.
    pub(crate) epoch: u64,
}

/// Reads whatever has the form of a nonce.
pub(crate) fn read(nonce: &[u8], unix_s: u64) -> Option<Read> {
    let (cookie, mac_text) = nonce.split_first_chunk::<COOKIE_LEN>()?;
    let features = Features::ALL.into_iter().find(|features| features.cookie() == cookie)?;
    let mut mac = [0; MAC_LEN];
    if mac_text.len() != MAC_TEXT_LEN || BASE64URL_NOPAD.decode_mut(mac_text, &mut mac).is_err() {
        return None;
    }
    // The lowest bit saves the second HMAC; it is covered by the comparison like all others.
    let epoch = unix_s / EPOCH_S;
    let is_current = mac[MAC_LEN - 1] & 1 == parity(epoch);
    Some(Read { features, mac, epoch: epoch.checked_sub(u64::from(!is_current))? })
}

pub(crate) fn write(features: Features, mac: [u8; MAC_LEN]) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..COOKIE_LEN].copy_from_slice(features.cookie());
    BASE64URL_NOPAD.encode_mut(&mac, &mut nonce[COOKIE_LEN..]);
    nonce
}

/// As much of a MAC as a nonce has place for, with the bit that says of which epoch it is.
pub(crate) fn cut(whole: &[u8], epoch: u64) -> [u8; MAC_LEN] {
    let mut mac = [0; MAC_LEN];
    mac.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
    mac[MAC_LEN - 1] = mac[MAC_LEN - 1] & !1 | parity(epoch);
    mac
}

const fn parity(epoch: u64) -> u8 {
    (epoch & 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_says_the_features() {
        for features in Features::ALL {
            let cookie = features.cookie();
            assert_eq!(&cookie[..9], b"obMatJos2");
            let decoded = data_encoding::BASE64.decode(&cookie[9..]).unwrap();
            assert_eq!(decoded, [features as u8, 0, 0]);
        }
    }

    /// Neither feature can be added to a nonce or taken from it.
    #[test]
    fn the_features_are_covered() {
        let key = NonceKey::new(&[1; 32]);
        let source = Origin { source: "20.0.0.1:4000".parse().unwrap(), is_stream: false };
        for (ours, other) in [(Features::ALL[0], Features::ALL[1]), (Features::ALL[1], Features::ALL[0])] {
            let mut nonce = key.issue(ours, source, 1_800_000_000);
            assert!(key.is_valid(&nonce, source, 1_800_000_000));
            nonce[..COOKIE_LEN].copy_from_slice(other.cookie());
            assert!(!key.is_valid(&nonce, source, 1_800_000_000));
        }
    }

    #[test]
    fn a_nonce_is_bound_to_source_and_time() {
        const T: u64 = 1_700_000_100;
        let start = T - T % EPOCH_S;
        let key = NonceKey::new(&[1; 32]);
        let origin = |source: &str| Origin { source: source.parse().unwrap(), is_stream: false };
        let source = origin("20.0.0.1:4000");
        let nonce = key.issue(Features::PasswordAlgorithms, source, start);
        let check = |source: &str, at: u64, valid: bool| {
            assert_eq!(key.is_valid(&nonce, origin(source), at), valid, "{source} {at}");
        };
        check("20.0.0.1:4000", start, true);
        check("20.0.0.1:4000", start + 2 * EPOCH_S - 1, true);
        check("20.0.0.1:4000", start + 2 * EPOCH_S, false);
        check("20.0.0.1:4000", start - 1, false);
        check("20.0.0.1:4001", start, false);
        check("20.0.0.2:4000", start, false);
        check("[::20.0.0.1]:4000", start, false);
        assert!(!key.is_valid(&nonce, Origin { is_stream: true, ..source }, start));

        assert!(!NonceKey::new(&[2; 32]).is_valid(&nonce, source, start));
        assert!(!key.is_valid(&nonce[..NONCE_LEN - 1], source, start));
        assert!(!key.is_valid(&[&nonce[..], b"x"].concat(), source, start));
        assert!(!key.is_valid(b"", source, 0));
        for at in 0..NONCE_LEN {
            let mut forged = nonce;
            forged[at] ^= 1;
            assert!(!key.is_valid(&forged, source, start), "byte {at}");
        }
    }
}
