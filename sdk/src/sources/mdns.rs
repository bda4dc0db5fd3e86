//! Servers that announce themselves by mDNS (RFC 6762, RFC 6763), as services `_meetpoint._tcp.local`.

use std::fmt;
use std::net::IpAddr;

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::announce::{self, Announcement};
use super::{FoundSeed, Search, SeedSource, Seeds, SourceError};

const SERVICE: &str = "_meetpoint._tcp.local.";
/// Addresses of one server that are tried.
const MAX_ADDRESSES: usize = 4;

/// Servers that are announced by mDNS. It asks, and listens, on interfaces with private addresses only; mDNS stays on
/// the link by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mdns;

impl SeedSource for Mdns {
    fn label(&self) -> String {
        "mDNS".to_owned()
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            let daemon = Daemon::new().map_err(SourceError::new)?;
            let events = daemon.0.browse(SERVICE).map_err(SourceError::new)?;
            while let Ok(event) = events.recv_async().await {
                let ServiceEvent::ServiceResolved(service) = event else { continue };
                for seed in found(&service) {
                    seeds.tell(seed).await;
                }
            }
            Err(SourceError::new("mDNS ended"))
        })
    }
}

fn found(service: &ResolvedService) -> Vec<FoundSeed> {
    let ips: Vec<IpAddr> = service.get_addresses_v4().into_iter().map(IpAddr::from).collect();
    resolved(service.get_fullname(), service.get_property_val_str("name"), &ips, service.get_port())
}

/// The servers of a service: its own word for its name counts, and addresses of the LAN only.
pub(crate) fn resolved(full_name: &str, named: Option<&str>, ips: &[IpAddr], port: u16) -> Vec<FoundSeed> {
    let name = full_name.strip_suffix(SERVICE).unwrap_or_default().trim_end_matches('.');
    let name = named.unwrap_or(name);
    let mut ips: Vec<IpAddr> = ips.iter().copied().filter(|ip| announce::is_local(*ip)).collect();
    ips.sort();
    ips.iter().take(MAX_ADDRESSES).filter_map(|ip| announce::hint(name, *ip, port)).collect()
}

/// Speaks mDNS until it is dropped; what it has announced is taken back then.
pub(super) struct Daemon(ServiceDaemon);

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Daemon")
    }
}

impl Daemon {
    fn new() -> mdns_sd::Result<Self> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(IfKind::All)?;
        let is_local =
            IfPredicate::new(|interface| interface.ip().is_ipv4() && announce::is_local(interface.ip()));
        daemon.enable_interface(IfKind::Predicate(is_local))?;
        Ok(Self(daemon))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.shutdown();
    }
}

/// Announces a server for as long as the daemon is kept.
pub(super) fn announce(announcement: &Announcement, only: Option<IpAddr>) -> mdns_sd::Result<Daemon> {
    let Announcement { id, name, port, capabilities, version, address, .. } = announcement;
    let capabilities = capabilities.join(",");
    let properties =
        [("id", id.as_str()), ("name", name), ("capabilities", &capabilities), ("version", version)];
    // Two servers may have one name, and a host may run both.
    let short: String = id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let (instance, host) = (format!("{name}-{short}"), format!("meetpoint-{short}.local."));
    let info = match only.or(*address) {
        Some(ip) => ServiceInfo::new(SERVICE, &instance, &host, ip, *port, &properties[..])?,
        None => ServiceInfo::new(SERVICE, &instance, &host, "", *port, &properties[..])?.enable_addr_auto(),
    };
    let daemon = Daemon::new()?;
    daemon.0.register(info)?;
    Ok(daemon)
}
