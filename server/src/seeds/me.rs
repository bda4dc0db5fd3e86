//! This server as a seed: its key, its addresses, and how it shows that both are its own.

use std::net::{IpAddr, SocketAddr};

use ed25519_dalek::SigningKey;
use meetpoint_proto::id::Nonce;
use meetpoint_proto::vouch::SeedProof;
use meetpoint_proto::{PublicKey, addr};

use crate::listen::{listening_ips, machine_ips};

/// What this server knows of itself.
pub(crate) struct Me {
    pub(crate) key: SigningKey,
    /// The listener of the control channel.
    pub(crate) http: SocketAddr,
    pub(crate) external_ip: Option<IpAddr>,
    /// Where the seed of the flags that is this server is.
    pub(crate) own_addrs: Vec<SocketAddr>,
}

impl Me {
    /// The public half of the seed key.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from(&self.key)
    }

    /// Whether this server answers there, as far as it knows by itself.
    pub(crate) fn is_at(&self, at: SocketAddr) -> bool {
        let at = addr::unmap(at);
        let is_own = self.own_addrs.iter().any(|own| addr::unmap(*own) == at);
        // Interfaces come and go while the server runs.
        let listens = || {
            at.port() == self.http.port()
                && (self.external_ip == Some(at.ip())
                    || listening_ips(self.http, &machine_ips()).contains(&at.ip()))
        };
        is_own || listens()
    }

    /// Answers whether this server is met at an address; `arrived_at` is the one that the question
    /// came to. Nothing is signed for a foreign address: whoever passes questions on would borrow
    /// this server's key for his own address.
    pub(crate) fn prove(&self, nonce: &Nonce, at: SocketAddr, arrived_at: SocketAddr) -> Option<SeedProof> {
        // A forwarded port may have another number outside.
        let is_outside = self.external_ip == Some(at.ip());
        let is_here = addr::unmap(arrived_at) == addr::unmap(at) || is_outside || self.is_at(at);
        is_here.then(|| SeedProof::sign(&self.key, nonce, &at.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_addresses_are_signed_for() {
        let me = Me {
            key: SigningKey::from_bytes(&[1; 32]),
            http: "10.0.0.5:8080".parse().unwrap(),
            external_ip: Some("20.0.0.9".parse().unwrap()),
            own_addrs: vec!["20.0.0.1:443".parse().unwrap()],
        };
        let nonce = Nonce::from_bytes([2; 32]);
        let check = |at: &str, arrived_at: &str, expect: bool| {
            let proof = me.prove(&nonce, at.parse().unwrap(), arrived_at.parse().unwrap());
            assert_eq!(proof.is_some_and(|proof| proof.answers(&nonce, at)), expect, "{at} {arrived_at}");
        };
        check("10.0.0.5:8080", "10.0.0.5:8080", true);
        check("10.0.0.5:8081", "10.0.0.5:8080", false);
        // Another of its addresses, as its listener or an interface has them.
        check("10.0.0.7:8080", "10.0.0.7:8080", true);
        check("10.0.0.7:8080", "[::ffff:10.0.0.7]:8080", true);
        check("10.0.0.7:8080", "10.0.0.5:8080", false);
        // Behind a NAT: what the operator said.
        check("20.0.0.9:9000", "10.0.0.5:8080", true);
        check("20.0.0.1:443", "10.0.0.5:8080", true);
        check("20.0.0.1:444", "10.0.0.5:8080", false);
        // What a stranger who passes the question on would like to have signed.
        check("66.0.0.1:8080", "10.0.0.5:8080", false);
        assert!(me.is_at("20.0.0.9:8080".parse().unwrap()));
        assert!(!me.is_at("20.0.0.9:9000".parse().unwrap()), "it may be another server's");
    }
}
