//! Nonces that are handed out with a credential, for the first request on a stream.
//!
//! A challenge costs a client of a stream a round trip, and gives it a nonce that its source address is bound into. A
//! node that has just been welcomed has proven more than where it receives, and by a channel that nobody else reads: so
//! the welcome brings a nonce along, which is bound to the username, and lasts as long as others do.
//!
//! Such a nonce is not bound to an address, so whoever reads a request on its way could send it again from elsewhere.
//! Therefore it is good on streams only, for the one username, and for the first allocation of its user: what comes
//! behind that is challenged ([`Relays::holds`](crate::relay::Relays::holds)). A request that is no Allocate gains
//! nothing by it, since it is about an allocation of its own connection.
//!
//! It is a MAC under the credential secret, like the password. What the MAC is over begins with a letter here and with
//! a digit there, so the one is never the other.

use hmac::Mac;
use subtle::ConstantTimeEq;

use crate::credentials::{Secret, Secrets};
use crate::nonce::{self, EPOCH_S, Features, MAC_LEN};

const DOMAIN: &[u8] = b"stream nonce:";

impl Secrets {
    /// The nonce to hand out with the credential of this username, at this time in seconds since 1970: 24 characters.
    #[must_use]
    pub fn stream_nonce(&self, username: &str, unix_s: u64) -> String {
        let epoch = unix_s / EPOCH_S;
        let mac = mac(self.current(), username.as_bytes(), epoch);
        let nonce = nonce::write(Features::PasswordAlgorithms, mac);
        nonce.iter().copied().map(char::from).collect()
    }

    /// True if that is what was handed out to this user in this epoch or the one before, under any accepted secret.
    pub(crate) fn handed_out(&self, nonce: &[u8], username: &[u8], unix_s: u64) -> bool {
        let Some(read) = nonce::read(nonce, unix_s) else { return false };
        read.features == Features::PasswordAlgorithms
            && self.iter().any(|secret| mac(secret, username, read.epoch).ct_eq(&read.mac).into())
    }
}

fn mac(secret: &Secret, username: &[u8], epoch: u64) -> [u8; MAC_LEN] {
    let mac = secret.mac().chain_update(DOMAIN).chain_update(epoch.to_be_bytes()).chain_update(username);
    nonce::cut(&mac.finalize().into_bytes(), epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn it_is_bound_to_user_secret_and_time() {
        let secrets = |names: &[&str]| {
            Secrets::new(names.iter().map(|name| Secret::new(name.as_bytes()).unwrap()).collect()).unwrap()
        };
        let ours = secrets(&["the current secret"]);
        let start = NOW - NOW % EPOCH_S;
        let nonce = ours.stream_nonce("9:node:a", start);
        assert_eq!(nonce.len(), nonce::NONCE_LEN);
        let check = |secrets: &Secrets, username: &str, at: u64, valid: bool| {
            assert_eq!(
                secrets.handed_out(nonce.as_bytes(), username.as_bytes(), at),
                valid,
                "{username} {at}"
            );
        };
        check(&ours, "9:node:a", start, true);
        check(&ours, "9:node:a", start + 2 * EPOCH_S - 1, true);
        check(&ours, "9:node:a", start + 2 * EPOCH_S, false);
        check(&ours, "9:node:a", start - 1, false);
        check(&ours, "9:node:b", start, false);
        check(&ours, "8:node:a", start, false);
        check(&ours, "", start, false);
        check(&secrets(&["the other secret.."]), "9:node:a", start, false);
        check(&secrets(&["the next secret...", "the current secret"]), "9:node:a", start, true);
        for at in 0..nonce.len() {
            let mut forged = nonce.clone().into_bytes();
            forged[at] ^= 1;
            assert!(!ours.handed_out(&forged, b"9:node:a", start), "byte {at}");
        }
        assert!(!ours.handed_out(b"", b"9:node:a", start));
    }
}
