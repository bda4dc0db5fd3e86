//! Words that people and programs write: blocks of addresses, tokens, names, seeds, ids. Whatever is accepted prints
//! as a text that is read as the same, and is what its form says.

use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::str::FromStr;

use meetpoint_proto::id::{Fingerprint, TokenId};
use meetpoint_proto::name::MAX_NAME_LEN;
use meetpoint_proto::seed::Host;
use meetpoint_proto::token::{MAX_GIVEN_LEN, MIN_GIVEN_LEN};
use meetpoint_proto::{ClusterName, JoinToken, NodeId, NodeName, SeedAddr, SeedName, Signature, TicketId};
use meetpoint_turn::Cidr;

use crate::input::Input;

/// Reads a text; if it is a value, its own text is the same value.
fn round_trip<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>();
            assert_eq!(again.ok().as_ref(), Some(&value), "{value} is another value");
            Some(value)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Reads the bytes as a block of addresses, behind an address to look for in it.
pub fn cidr(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let ip: IpAddr = match input.byte() % 2 {
        0 => input.array::<4>().into(),
        _ => input.array::<16>().into(),
    };
    let Ok(text) = str::from_utf8(input.rest()) else { return };
    let Some(block) = round_trip::<Cidr>(text) else { return };
    let shown = block.to_string();
    let (network, len) = shown.split_once('/').expect("ADDRESS/BITS");
    let (network, len): (IpAddr, usize) = (network.parse().expect("an address"), len.parse().expect("bits"));
    assert!(block.contains(network));
    assert_eq!(block.contains(ip), has_prefix(network, ip, len), "{block} {ip}");
    let bits = bits(network);
    assert!(bits[len..].iter().all(|bit| !bit), "{block} has bits behind its prefix");
    let is_mapped = matches!(network, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    assert!(!is_mapped || len < 96, "{block} is an IPv4 block");
}

fn bits(ip: IpAddr) -> Vec<bool> {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
}

fn has_prefix(network: IpAddr, ip: IpAddr, len: usize) -> bool {
    network.is_ipv4() == ip.is_ipv4() && bits(network)[..len] == bits(ip)[..len]
}

/// Reads the bytes as a join token.
pub fn join_token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(token) = text.parse::<JoinToken>() else { return };
    assert!((MIN_GIVEN_LEN..=MAX_GIVEN_LEN).contains(&text.len()));
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    // A minted token may be written in capitals; one that somebody thought of is taken letter by letter.
    let is_minted = token.fingerprint().is_some();
    assert!(token.reveal() == text || (is_minted && token.reveal().eq_ignore_ascii_case(text)));
    assert!(!format!("{token:?}").contains(token.reveal()), "a secret is shown");
    let again: JoinToken = token.reveal().parse().expect("its own text");
    assert_eq!((again.id(), again.fingerprint()), (token.id(), token.fingerprint()));
    let renewed = token.with_fingerprint(Fingerprint::from_bytes([7; 32]));
    assert_eq!((renewed.id(), renewed.fingerprint().is_some()), (token.id(), is_minted));
    assert_eq!(is_minted, text.starts_with("mpj1"));
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=MAX_NAME_LEN).contains(&text.len())
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Reads the bytes as a name, a seed, a host and each kind of id.
pub fn words(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert_eq!(round_trip::<NodeName>(text).is_some(), is_name(text));
    assert_eq!(round_trip::<ClusterName>(text).is_some(), is_name(text));
    assert_eq!(round_trip::<SeedName>(text).is_some(), is_name(text));
    if let Some(host) = round_trip::<Host>(text) {
        host_is_harmless(&host);
    }
    if let Some(seed) = round_trip::<SeedAddr>(text) {
        assert!(seed.port != 0 && is_name(seed.name.as_str()));
        host_is_harmless(&seed.host);
    }
    round_trip::<NodeId>(text).inspect(|id| drop(id.key()));
    round_trip::<Signature>(text);
    round_trip::<TicketId>(text);
    round_trip::<TokenId>(text);
}

/// A host goes into URLs and messages: nothing in it means anything there.
fn host_is_harmless(host: &Host) {
    let shown = host.to_string();
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.:[]".contains(c);
    assert!(shown.chars().all(is_plain) && shown.len() <= 254, "{shown}");
    if let Host::Dns(name) = host {
        assert!(name.parse::<IpAddr>().is_err() && !name.contains(':'), "{name}");
    }
}
