//! The first routers on the way to a server, as they say it themselves: each drops a datagram whose time to live ends
//! there, and reports that (RFC 792).
//!
//! Each time to live has a socket of its own, so a late report is never taken for another router's. One router follows
//! the other: most homes have one, and then nothing else is sent.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meetpoint_agent::ends_route;
use socket2::SockRef;
use tokio::time::timeout;

#[cfg(target_os = "linux")]
#[path = "route/reports.rs"]
mod kernel;
#[cfg(not(target_os = "linux"))]
#[path = "route/silent.rs"]
mod kernel;

use kernel::Reports;

use crate::egress::Egress;

/// How long the report of each copy of a datagram is waited for. Reports get lost, and routers of a mobile network are
/// far away; above all routers report seldom: Linux' allow six at once and then one a second to each host, of any kind,
/// and those about a port that nobody asked to be mapped have just been spent.
const WAITS: [Duration; 4] =
    [Duration::from_millis(400), Duration::from_millis(600), Duration::from_secs(1), Duration::from_secs(2)];

/// Who answers to a time to live of 1, 2 and so on, up to `most` or the internet's first router; `None`: nobody. Empty
/// where the system does not pass reports on.
pub(crate) async fn trace(egress: &Egress, to: SocketAddr, request: &[u8], most: u8) -> Vec<Option<IpAddr>> {
    let mut hops = Vec::new();
    for ttl in 1..=most {
        let reports = match Reports::open(to) {
            Ok(reports) => reports,
            Err(error) => {
                tracing::debug!(%error, "no router is asked");
                break;
            }
        };
        // Behind a router that is silent nothing but a proof is of use, and that is rare.
        let waits = if hops.contains(&None) { &WAITS[..1] } else { &WAITS[..] };
        let hop = hop(egress, &reports, request, ttl, waits).await;
        hops.push(hop);
        if hop.is_some_and(ends_route) {
            break;
        }
    }
    tracing::debug!(%to, ?hops, "the first routers");
    hops
}

/// Who answers to this time to live.
async fn hop(
    egress: &Egress,
    reports: &Reports,
    request: &[u8],
    ttl: u8,
    waits: &[Duration],
) -> Option<IpAddr> {
    for wait in waits {
        let socket = SockRef::from(reports.socket());
        if let Err(error) = egress.send_with_ttl(&socket, reports.server(), request, Some(ttl)) {
            tracing::debug!(%error, ttl, "not sent");
        }
        if let Ok(Some(hop)) = timeout(*wait, reports.next(request)).await {
            return Some(hop);
        }
    }
    None
}
