//! The first routers on the way to a server, as they say it themselves: each drops a datagram whose time to live ends there,
//! and reports that (RFC 792).
//!
//! Each time to live has a socket of its own, so a late report is never taken for another router's. One router follows the
//! other: most homes have one, and then nothing else is sent.

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

/// How often a datagram is sent, since one or its report may be lost, and how long the report of each is waited for. Routers
/// report at their leisure, and those of a mobile network are far away.
const COPIES: usize = 2;
const PATIENCE: Duration = Duration::from_millis(400);

/// Who answers to a time to live of 1, 2 and so on, up to `most` or the internet's first router; `None`: nobody. Empty where
/// the system does not pass reports on.
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
        let hop = hop(egress, &reports, request, ttl).await;
        hops.push(hop);
        if hop.is_some_and(ends_route) {
            break;
        }
    }
    tracing::debug!(%to, ?hops, "the first routers");
    hops
}

/// Who answers to this time to live.
async fn hop(egress: &Egress, reports: &Reports, request: &[u8], ttl: u8) -> Option<IpAddr> {
    for _ in 0..COPIES {
        let socket = SockRef::from(reports.socket());
        if let Err(error) = egress.send_with_ttl(&socket, reports.server(), request, Some(ttl)) {
            tracing::debug!(%error, ttl, "not sent");
        }
        if let Ok(Some(hop)) = timeout(PATIENCE, reports.next(request)).await {
            return Some(hop);
        }
    }
    None
}
