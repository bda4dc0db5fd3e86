//! Seeds that a domain names by SRV records (RFC 2782): `_meetpoint._tcp.DOMAIN`.
//!
//! DNS proves nothing, so a server that is found this way has to be the domain's: its certificate is for the domain, or
//! its key is one that was pinned (RFC 6125, section 6.4). The records are looked up once, at the node's start.

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use meetpoint_agent::ServerRank;
use meetpoint_proto::seed::Host;
use thiserror::Error;

use crate::egress::{Blocked, Egress};
use crate::servers::{MAX_SERVERS, Server, ServerError};
use crate::ws::ServerUrl;

/// Service and protocol of a seed's control port.
const SERVICE: &str = "_meetpoint._tcp";

/// Why a domain's seeds are not known.
#[derive(Debug, Error)]
pub(crate) enum SrvError {
    /// The gate is closed.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No answer, or none that helps.
    #[error("{SERVICE}: {0}")]
    Dns(#[from] NetError),
    /// The domain says that it offers no such service.
    #[error("{SERVICE}: the domain has no seeds")]
    NoneOffered,
}

/// A domain's name is one.
///
/// # Errors
/// [`ServerError::Domain`]
pub(crate) fn check(domain: &str) -> Result<(), ServerError> {
    match domain.parse() {
        Ok(Host::Dns(_)) => Ok(()),
        _ => Err(ServerError::Domain { given: domain.to_owned() }),
    }
}

/// A domain's seeds.
///
/// # Errors
/// [`SrvError`]; nothing was asked if the gate is closed for it.
pub(crate) async fn look_up(
    egress: &Egress,
    domain: &str,
    insecure_http: bool,
) -> Result<Vec<Server>, SrvError> {
    egress.check_look_up()?;
    let domain = domain.trim_end_matches('.');
    let resolver = TokioResolver::builder_tokio()?.build()?;
    let found = resolver.srv_lookup(format!("{SERVICE}.{domain}.")).await?;
    let mut servers = Vec::new();
    for record in found.answers().iter().take(MAX_SERVERS) {
        let RData::SRV(srv) = &record.data else { continue };
        let target = srv.target.to_utf8();
        // A lone dot: decidedly not available at this domain.
        let Ok(Host::Dns(host)) = target.trim_end_matches('.').parse() else { continue };
        servers.push(Server {
            label: format!("{host}:{} ({domain})", srv.port),
            url: ServerUrl::of_host(!insecure_http, host, srv.port),
            rank: ServerRank { priority: srv.priority, weight: srv.weight },
            tls_name: Some(domain.to_owned()),
        });
    }
    if servers.is_empty() { Err(SrvError::NoneOffered) } else { Ok(servers) }
}
