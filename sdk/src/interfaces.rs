//! The machine's addresses, and by which of them it reaches the world.
//!
//! [`Watch`] tells when either may have changed. On Linux the kernel says so at once, on a netlink socket that is only
//! listened on: what it says is not parsed, because the answer to each of its messages is to look anew. Everywhere
//! else, and besides, there is a look every few seconds. (A crate for this, `if-watch`, tells of addresses only, and of
//! an uplink's change mostly the default route is heard first or alone; it would also bring some 20 crates.)

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use if_addrs::IfAddr;
use meetpoint_agent::Interface;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

#[cfg(target_os = "linux")]
#[path = "interfaces/netlink.rs"]
mod kernel;
#[cfg(not(target_os = "linux"))]
#[path = "interfaces/silent.rs"]
mod kernel;

use kernel::Changes;

/// How often to look where nobody tells.
const UNTOLD_INTERVAL: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 15 } else { 2 });
/// An uplink's change is several messages: they are waited for together.
const SETTLING: Duration = Duration::from_millis(10);

/// All addresses of all interfaces that are up, loopback included.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let all = if_addrs::get_if_addrs()?;
    let up = all.into_iter().filter(if_addrs::Interface::is_oper_up);
    Ok(up
        .map(|interface| match interface.addr {
            IfAddr::V4(v4) => Interface { ip: v4.ip.into(), prefix_len: v4.prefixlen },
            IfAddr::V6(v6) => Interface { ip: v6.ip.into(), prefix_len: v6.prefixlen },
        })
        .collect())
}

/// The address by which this machine would send to another one now; `None` if it can't.
///
/// Nothing is sent: connecting a datagram socket only looks the route up.
pub(crate) fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if remote.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

/// The router that IPv4 goes to by default, and the interface it is behind; `None` if there is none or the system does
/// not say.
pub(crate) fn default_gateway() -> Option<Gateway> {
    #[cfg(target_os = "linux")]
    return parse_routes(&std::fs::read_to_string("/proc/net/route").ok()?);
    #[cfg(not(target_os = "linux"))]
    None
}

/// See [`default_gateway`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) ip: Ipv4Addr,
    interface: String,
}

/// Columns of the kernel's table: interface, destination, gateway, flags, ..., metric at 6, mask at 7; addresses as
/// hexadecimal numbers in the machine's byte order.
#[cfg(target_os = "linux")]
fn parse_routes(table: &str) -> Option<Gateway> {
    let defaults = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let address = |at: usize| Some(Ipv4Addr::from(number(at)?.to_ne_bytes()));
        let is_default = number(1)? == 0 && number(7)? == 0;
        let metric: u32 = columns.get(6)?.parse().ok()?;
        let ip = address(2).filter(|ip| is_default && !ip.is_unspecified())?;
        Some((metric, Gateway { ip, interface: (*columns.first()?).to_owned() }))
    });
    defaults.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// See the module.
pub(crate) struct Watch {
    kernel: Option<Changes>,
    untold: Interval,
    /// Something has changed, and whatever belongs to it is here by then.
    settled_at: Option<Instant>,
}

impl Watch {
    /// A system that refuses leaves the looks every few seconds. To be called within a runtime.
    pub(crate) fn new() -> Self {
        let mut untold = interval(UNTOLD_INTERVAL);
        untold.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            kernel: Changes::open()
                .inspect_err(|error| tracing::debug!(%error, "the kernel does not tell of changed addresses"))
                .ok(),
            untold,
            settled_at: None,
        }
    }

    /// Waits until it is time to look. May be dropped and called again without missing anything.
    pub(crate) async fn changed(&mut self) {
        loop {
            if let Some(at) = self.settled_at {
                sleep_until(at).await;
                self.settled_at = None;
                if let Some(kernel) = &self.kernel {
                    kernel.drain();
                }
                return;
            }
            tokio::select! {
                () = told(&self.kernel) => self.settled_at = Some(Instant::now() + SETTLING),
                _ = self.untold.tick() => return,
            }
        }
    }
}

/// Waits for the kernel's word, if it gives any.
async fn told(kernel: &Option<Changes>) {
    match kernel {
        Some(kernel) => kernel.wait().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_towards_oneself_is_oneself() {
        assert_eq!(source_towards("127.0.0.1:9".parse().unwrap()), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_default_gateway_of_the_lowest_metric() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let route = |interface: &str, to: [u8; 4], via: [u8; 4], metric: u32, mask: [u8; 4]| {
            format!("{interface}\t{}\t{}\t0003\t0\t0\t{metric}\t{}\t0\t0\t0\n", hex(to), hex(via), hex(mask))
        };
        let lan = route("eth0", [10, 0, 0, 0], [0; 4], 0, [255, 255, 255, 0]);
        let (first, second) = (
            route("eth0", [0; 4], [10, 0, 0, 1], 200, [0; 4]),
            route("wlan0", [0; 4], [10, 1, 0, 1], 100, [0; 4]),
        );
        let point_to_point = route("ppp0", [0; 4], [0; 4], 0, [0; 4]);
        for (routes, expect) in [
            (vec![], None),
            (vec![&lan], None),
            (vec![&lan, &first], Some("10.0.0.1")),
            (vec![&first, &lan, &second], Some("10.1.0.1")),
            (vec![&point_to_point, &first], Some("10.0.0.1")),
        ] {
            let table: String =
                std::iter::once(head).chain(routes.iter().map(|route| route.as_str())).collect();
            let found = parse_routes(&table).map(|gateway| gateway.ip.to_string());
            assert_eq!(found.as_deref(), expect, "{table}");
        }
        assert_eq!(parse_routes("garbage\n\n1 2 3\nx y z 1 2 3 4 5 6 7 8"), None);
    }
}
