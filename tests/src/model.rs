//! The cluster rules once more, as plain sentences in code: an executable model that shares nothing with the
//! tables of `sdk/proto/src/rules`, so that the two can be held against each other.
//!
//! Where the tables are rows that are searched, this is a person who reads and answers. Reasons are words here
//! and not codes, for a code that was renamed would change what nodes of another version understand.

use std::net::{IpAddr, Ipv4Addr};

use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, Evidence, NetworkClass, NetworkType};

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Loopback,
    /// On a private network, or nowhere that packets of the internet go to.
    Private,
    /// On the internet.
    Public,
}

/// Where an IPv4 address is, by the registries of special-purpose addresses.
#[must_use]
pub fn place(ip: IpAddr) -> Place {
    let IpAddr::V4(ip) = ip.to_canonical() else { return Place::Private };
    let within =
        |net: [u8; 4], len: u32| u32::from(ip) & (u32::MAX << (32 - len)) == u32::from(Ipv4Addr::from(net));
    let is_special = ip.is_private()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_documentation()
        || ip.is_multicast()
        || within([0, 0, 0, 0], 8)
        || within([100, 64, 0, 0], 10)
        || within([198, 18, 0, 0], 15)
        || within([240, 0, 0, 0], 4);
    match ip {
        ip if ip.is_loopback() => Place::Loopback,
        _ if is_special => Place::Private,
        _ => Place::Public,
    }
}

/// What a cluster amounts to; or why there can't be such a cluster. A seed is here nothing but whether it is
/// public and reachable, be it up or down.
///
/// # Errors
/// The reason.
pub fn effective(kind: ClusterNetwork, public_seeds: &[bool]) -> Result<EffectiveNetwork, &'static str> {
    let public = public_seeds.iter().filter(|public| **public).count();
    match kind {
        // Always PRIVATE; never lifted.
        ClusterNetwork::Private if public > 0 => Err("public_seed_in_private_cluster"),
        ClusterNetwork::Private => Ok(EffectiveNetwork::Private),
        // At least one seed, and every one public and reachable.
        ClusterNetwork::Public if public_seeds.is_empty() => Err("no_seed_in_public_cluster"),
        ClusterNetwork::Public if public < public_seeds.len() => Err("bad_seed_in_public_cluster"),
        ClusterNetwork::Public => Ok(EffectiveNetwork::Public),
        // PUBLIC from the moment one is.
        ClusterNetwork::Dynamic if public > 0 => Ok(EffectiveNetwork::Public),
        ClusterNetwork::Dynamic => Ok(EffectiveNetwork::Private),
    }
}

/// A seed in the operator's own list: whether it is public, or why it can't be what was said of it.
///
/// # Errors
/// The reason.
pub fn listed_seed(declared: Option<NetworkType>, found: Place) -> Result<bool, &'static str> {
    match (declared, found == Place::Public) {
        (Some(NetworkType::Public), false) => Err("declared_public_but_private"),
        (Some(NetworkType::Private), true) => Err("declared_private_but_public"),
        // A public host in the operator's own list counts as PUBLIC.
        (_, is_public) => Ok(is_public),
    }
}

/// Where a node is judged to be, which the server sees at `seen`, and which itself uses `own` towards it.
///
/// # Errors
/// The reason.
pub fn node_place(seen: IpAddr, own: IpAddr, named: Option<IpAddr>) -> Result<Place, &'static str> {
    if named.is_some_and(|named| named != seen) {
        // It counts only if its IP is the one that the server observes.
        return Err("node_addr_mismatch");
    }
    // What is behind a NAT that nobody named is private.
    let is_behind = named.is_none() && own != seen && place(seen) == Place::Public;
    Ok(if is_behind { Place::Private } else { place(seen) })
}

/// What the admission table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// In.
    In(NetworkClass, Evidence),
    /// STUN decides; the class without proof, and whether proof is needed.
    Stun(NetworkClass, bool),
    /// Out.
    Out(&'static str),
}

/// Whether a node may join, and as what.
#[must_use]
pub fn admission(
    effective: EffectiveNetwork,
    kind: ClusterNetwork,
    place: Place,
    declared: Option<NetworkType>,
) -> Answer {
    use NetworkType::{Private, Public};
    let reachable = Answer::In(NetworkClass::PublicReachable, Evidence::Declared);
    if effective == EffectiveNetwork::Private {
        return match (place, declared) {
            (Place::Public, _) => Answer::Out("public_node_in_private_cluster"),
            (_, Some(Public)) => Answer::Out("declared_public_but_private"),
            (Place::Loopback, _) => Answer::In(NetworkClass::Loopback, Evidence::Observed),
            (Place::Private, _) => Answer::In(NetworkClass::Private, Evidence::Observed),
        };
    }
    match (kind, place, declared) {
        // There is no such cluster.
        (ClusterNetwork::Private, ..) => Answer::Out("public_node_in_private_cluster"),
        (ClusterNetwork::Public, Place::Loopback | Place::Private, _) => {
            Answer::Out("private_node_in_public_cluster")
        }
        (_, Place::Public, Some(Public)) => reachable,
        (ClusterNetwork::Public, Place::Public, Some(Private)) => {
            Answer::Out("declared_private_in_public_cluster")
        }
        (ClusterNetwork::Public, Place::Public, None) => Answer::Stun(NetworkClass::PublicUndefined, true),
        (ClusterNetwork::Dynamic, Place::Loopback, _) => Answer::Out("loopback_in_public_cluster"),
        (ClusterNetwork::Dynamic, Place::Private, Some(Public)) => Answer::Out("declared_public_but_private"),
        (ClusterNetwork::Dynamic, Place::Private, _) => Answer::Stun(NetworkClass::Private, false),
        (ClusterNetwork::Dynamic, Place::Public, _) => Answer::Stun(NetworkClass::PublicUndefined, false),
    }
}

/// What STUN found out, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// No answer.
    Silence,
    /// A mapping, and no way in.
    Mapping,
    /// A nonce arrived from where nothing was sent to.
    WayIn,
    /// Besides, a peer's check did, after ten minutes of silence towards it.
    WayInForPeers,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its class.
    pub class: NetworkClass,
    /// What that rests on.
    pub evidence: Evidence,
    /// It can only be relayed.
    pub relayed: bool,
}

/// What becomes of a node in the end.
///
/// # Errors
/// The reason why it is no member.
pub fn standing(answer: Answer, found: Finding, admit_relayed: bool) -> Result<Standing, &'static str> {
    let plain = |class, evidence| Ok(Standing { class, evidence, relayed: false });
    match (answer, found) {
        (Answer::Out(reason), _) => Err(reason),
        (Answer::In(class, evidence), _) => plain(class, evidence),
        (Answer::Stun(..), Finding::WayInForPeers) => plain(NetworkClass::PublicOpen, Evidence::Proven),
        (Answer::Stun(..), Finding::WayIn) => plain(NetworkClass::PublicReachable, Evidence::Proven),
        (Answer::Stun(class, false), Finding::Mapping) => plain(class, Evidence::Observed),
        (Answer::Stun(_, false), Finding::Silence) if admit_relayed => {
            Ok(Standing { class: NetworkClass::Unreachable, evidence: Evidence::Observed, relayed: true })
        }
        (Answer::Stun(..), Finding::Mapping | Finding::Silence) => Err("unreachable"),
    }
}
