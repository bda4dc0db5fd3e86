//! Judges the operator's seeds: what the cluster amounts to, and which seed is this server.
//!
//! That is what happens once, at the start. While the server runs, [`verifier`] asks the seeds whether they
//! are there ([`dial`]), no more often than [`pace`] lets it; [`me`] answers when this server is asked;
//! [`registrar`] registers it as a seed of another server's cluster; and [`herald`] tells them who was removed.

mod dial;
mod fetch;
pub(crate) mod herald;
pub(crate) mod me;
mod pace;
pub(crate) mod registrar;
mod srv;
pub(crate) mod verifier;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use meetpoint_proto::rules::{self, SeedFacts};
use meetpoint_proto::seed::Host;
use meetpoint_proto::{
    AddressClass, ClusterNetwork, Code, EffectiveNetwork, NetworkType, PublicKey, SeedAddr, SeedName, addr,
};

use crate::config::{ConfigError, ServeConfig};
use crate::listen::{Sockets, listening_ips};

/// A resolver that takes longer than this is down, and the server must start all the same.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one host that are looked at. Nobody needs more, and whoever rules a zone can list any
/// number.
const MAX_ADDRS: usize = 16;
/// The name of the seed that stands in for none.
const DEFAULT_SEED: &str = "default";

/// A seed with the addresses behind its host.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) seed: SeedAddr,
    /// Empty if the name did not resolve.
    pub(crate) ips: Vec<IpAddr>,
}

impl Resolved {
    fn addrs(&self) -> Vec<SocketAddr> {
        self.ips.iter().map(|ip| SocketAddr::new(*ip, self.seed.port)).collect()
    }
}

/// Where this server is.
pub(crate) struct Here<'a> {
    pub(crate) http: SocketAddr,
    pub(crate) external_ip: Option<IpAddr>,
    pub(crate) machine: &'a [IpAddr],
}

/// A seed and the rules' view of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) seed: SeedAddr,
    pub(crate) is_public: bool,
    /// What the operator said of it.
    pub(crate) declared: Option<NetworkType>,
}

/// What came of asking a seed for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The holder of this key answers there.
    Proven {
        key: PublicKey,
        /// The addresses behind the host.
        ips: Vec<IpAddr>,
    },
    /// Not this time.
    Failed {
        code: Code,
        /// And so it was the last times.
        is_down: bool,
    },
    /// What is there contradicts what is registered.
    Refused(Code),
    /// It was not asked, so nothing is known.
    NotAsked(Code),
}

/// What follows from the seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) effective: EffectiveNetwork,
    pub(crate) seeds: Vec<Judged>,
    /// The seed that is this server.
    pub(crate) own: Option<SeedName>,
    /// Where that one is.
    pub(crate) own_addrs: Vec<SocketAddr>,
    /// Seeds whose name did not resolve.
    pub(crate) unresolved: Vec<SeedAddr>,
}

/// The configured seeds, or the one that stands in for none, with their addresses.
pub(crate) async fn resolve(config: &ServeConfig, sockets: &Sockets) -> Vec<Resolved> {
    if config.seeds.is_empty() {
        return vec![default_seed(sockets.http_addr.port())].into_iter().flatten().collect();
    }
    let lookups = config.seeds.iter().map(|seed| async move {
        let ips = lookup(seed).await;
        Resolved { seed: seed.clone(), ips }
    });
    futures_util::future::join_all(lookups).await
}

fn default_seed(port: u16) -> Option<Resolved> {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let name = DEFAULT_SEED.parse().ok()?;
    Some(Resolved { seed: SeedAddr { name, host: Host::Ip(ip), port }, ips: vec![ip] })
}

/// The addresses behind a seed's host: its own, or where it has none those of the targets of its SRV records that
/// serve at the seed's port. None if the name does not resolve.
pub(crate) async fn lookup(seed: &SeedAddr) -> Vec<IpAddr> {
    let name = match &seed.host {
        Host::Ip(ip) => return vec![*ip],
        Host::Dns(name) => name.as_str(),
    };
    let addresses = async {
        match tokio::net::lookup_host((name, seed.port)).await {
            Ok(found) => found.map(|addr| addr.ip()).take(MAX_ADDRS).collect(),
            Err(_) => srv::addresses(name, seed.port).await.unwrap_or_default(),
        }
    };
    tokio::time::timeout(RESOLVE_TIMEOUT, addresses).await.unwrap_or_default()
}

/// Applies the rules.
///
/// # Errors
/// [`ConfigError`] names the seed or flag that contradicts the cluster's type or the facts.
pub(crate) fn judge(
    kind: ClusterNetwork,
    config: &ServeConfig,
    seeds: &[Resolved],
    here: &Here<'_>,
) -> Result<Verdict, ConfigError> {
    if config.seeds.is_empty() && kind == ClusterNetwork::Public {
        let reason = "no --seed was given".to_owned();
        return Err(ConfigError::Cluster { kind, code: Code::NoSeedInPublicCluster, reason });
    }
    let own = own_seed(seeds, here);
    check_declaration(config.node_network_type, own, here)?;
    let mut judged = Vec::with_capacity(seeds.len());
    for resolved in seeds {
        let is_own = own.is_some_and(|own| own.seed == resolved.seed);
        let declared = config.node_network_type.filter(|_| is_own);
        let facts =
            rules::seed_check(declared, class(&resolved.ips)).map_err(|code| wrong_seed(resolved, code))?;
        judged.push((resolved, facts, declared));
    }
    let facts: Vec<SeedFacts> = judged.iter().map(|(_, facts, _)| *facts).collect();
    let effective = rules::effective(kind, &facts).map_err(|code| {
        let at_fault = judged.iter().find(|(_, facts, _)| facts.public == (kind == ClusterNetwork::Private));
        match at_fault {
            Some((resolved, ..)) => wrong_seed(resolved, code),
            None => ConfigError::Cluster { kind, code, reason: "see the seeds".to_owned() },
        }
    })?;
    Ok(Verdict {
        effective,
        own: own.map(|own| own.seed.name.clone()),
        own_addrs: own.map(Resolved::addrs).unwrap_or_default(),
        unresolved: seeds.iter().filter(|s| s.ips.is_empty()).map(|s| s.seed.clone()).collect(),
        seeds: judged
            .into_iter()
            .map(|(resolved, facts, declared)| Judged {
                seed: resolved.seed.clone(),
                is_public: facts.public,
                declared,
            })
            .collect(),
    })
}

/// This server's word on itself must fit its own seed, and failing that the machine.
fn check_declaration(
    declared: Option<NetworkType>,
    own: Option<&Resolved>,
    here: &Here<'_>,
) -> Result<(), ConfigError> {
    let Some(declared) = declared else { return Ok(()) };
    let (found, what) = match own {
        Some(own) => (class(&own.ips), format!("its seed {} is {}", own.seed, describe(&own.ips))),
        None => (class(here.machine), "no seed is this server, and none of its addresses fits".to_owned()),
    };
    let contradiction = match own {
        Some(_) => rules::seed_check(Some(declared), found).err(),
        // Without a seed of its own only the plainest contradiction counts.
        None if declared == NetworkType::Public && found == AddressClass::Loopback => {
            Some(Code::DeclaredPublicButPrivate)
        }
        None => None,
    };
    match contradiction {
        Some(code) => Err(ConfigError::NodeNetworkType { declared, code, reason: what }),
        None => Ok(()),
    }
}

fn wrong_seed(resolved: &Resolved, code: Code) -> ConfigError {
    ConfigError::Seed { seed: Box::new(resolved.seed.clone()), code, reason: describe(&resolved.ips) }
}

/// One public address makes a host public; one private address makes it more than loopback.
pub(crate) fn class(ips: &[IpAddr]) -> AddressClass {
    let has = |class| ips.iter().any(|ip| addr::classify(*ip) == class);
    if has(AddressClass::Public) {
        AddressClass::Public
    } else if ips.is_empty() || has(AddressClass::Private) || has(AddressClass::Special) {
        AddressClass::Private
    } else {
        AddressClass::Loopback
    }
}

pub(crate) fn describe(ips: &[IpAddr]) -> String {
    match ips {
        [] => "its host does not resolve to an address".to_owned(),
        [ip] => format!("{ip} is {}", class_word(addr::classify(*ip))),
        ips => format!("its addresses are {}", class_word(class(ips))),
    }
}

const fn class_word(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Loopback => "a loopback address",
        AddressClass::Private => "private",
        AddressClass::Public => "public",
        AddressClass::Special => "reserved for special purposes",
    }
}

/// The seed whose host and port are one of the listeners', or whose host is the external address.
fn own_seed<'a>(seeds: &'a [Resolved], here: &Here<'_>) -> Option<&'a Resolved> {
    let listening = listening_ips(here.http, here.machine);
    let listens = |resolved: &&Resolved| {
        resolved.seed.port == here.http.port() && resolved.ips.iter().any(|ip| listening.contains(ip))
    };
    let external = |resolved: &&Resolved| here.external_ip.is_some_and(|ip| resolved.ips.contains(&ip));
    let same_port = |resolved: &&Resolved| external(resolved) && resolved.seed.port == here.http.port();
    // A forwarded port may have another number outside, so the address alone counts last.
    let mut by_rank = [seeds.iter().find(listens), seeds.iter().find(same_port), seeds.iter().find(external)];
    by_rank.iter_mut().find_map(Option::take)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::ServeArgs;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    /// Judges the flags on a machine with 127.0.0.1, 10.0.0.5 and 20.0.0.1 that listens on port 8080.
    fn check(flags: &str, expect: Result<(EffectiveNetwork, Option<&str>), &str>) {
        let cli = Cli::try_parse_from(std::iter::once("serve").chain(flags.split_whitespace())).unwrap();
        let config = cli.serve.validate().unwrap();
        let seeds: Vec<Resolved> = match config.seeds.is_empty() {
            true => default_seed(8080).into_iter().collect(),
            false => config.seeds.iter().map(as_resolved).collect(),
        };
        let machine = ["127.0.0.1", "10.0.0.5", "20.0.0.1"].map(|ip| ip.parse().unwrap());
        let here = Here {
            http: "0.0.0.0:8080".parse().unwrap(),
            external_ip: config.external_ip,
            machine: &machine,
        };
        let kind = config.cluster_network_type.unwrap_or(ClusterNetwork::Dynamic);
        match (judge(kind, &config, &seeds, &here), expect) {
            (Ok(verdict), Ok((effective, own))) => {
                assert_eq!(verdict.effective, effective, "{flags}");
                assert_eq!(verdict.own.as_ref().map(SeedName::as_str), own, "{flags}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{flags}: {error}"),
            (found, expect) => panic!("{flags}: {found:?}, expected {expect:?}"),
        }
    }

    fn as_resolved(seed: &SeedAddr) -> Resolved {
        let ips = match &seed.host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(_) => vec![],
        };
        Resolved { seed: seed.clone(), ips }
    }

    #[test]
    fn table() {
        use EffectiveNetwork::{Private, Public};
        check("", Ok((Private, Some("default"))));
        check("--cluster-network-type PRIVATE", Ok((Private, Some("default"))));
        check("--cluster-network-type PUBLIC", Err("no_seed_in_public_cluster"));
        check("--seed a@20.0.0.1:8080", Ok((Public, Some("a"))));
        check("--seed a@20.0.0.1:8081", Ok((Public, None)));
        check("--seed a@10.0.0.5:8080", Ok((Private, Some("a"))));
        check("--seed a@10.0.0.5:8080,b@20.0.0.7:80", Ok((Public, Some("a"))));
        check("--seed a@20.0.0.9:443 --external-ip 20.0.0.9", Ok((Public, Some("a"))));
        check("--seed a@20.0.0.9:443,b@20.0.0.9:8080 --external-ip 20.0.0.9", Ok((Public, Some("b"))));
        check("--seed a@nowhere.invalid:443", Ok((Private, None)));
        check("--cluster-network-type PUBLIC --seed a@20.0.0.1:8080", Ok((Public, Some("a"))));
        check(
            "--cluster-network-type PUBLIC --seed a@20.0.0.1:8080,b@10.0.0.5:80",
            Err("--seed b@10.0.0.5:80: bad_seed_in_public_cluster (10.0.0.5 is private)"),
        );
        check("--cluster-network-type PUBLIC --seed a@nowhere.invalid:443", Err("does not resolve"));
        check(
            "--cluster-network-type PRIVATE --seed a@10.0.0.5:8080,b@20.0.0.1:8080",
            Err("--seed b@20.0.0.1:8080: public_seed_in_private_cluster"),
        );
        check("--node-network-type PUBLIC", Err("--node-network-type PUBLIC: declared_public_but_private"));
        check("--node-network-type PUBLIC --seed a@10.0.0.5:8080", Err("declared_public_but_private"));
        check("--node-network-type PUBLIC --seed a@20.0.0.1:8080", Ok((Public, Some("a"))));
        check("--node-network-type PRIVATE --seed a@20.0.0.1:8080", Err("declared_private_but_public"));
        check("--node-network-type PRIVATE", Ok((Private, Some("default"))));
    }
}
