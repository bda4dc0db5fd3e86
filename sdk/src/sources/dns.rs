//! Servers that a domain names by SRV records.

use std::time::Duration;

use tokio::time::sleep;

use super::{FoundSeed, Search, SeedSource, Seeds, SourceError};
use crate::servers::ServerError;
use crate::srv;

/// How often the domain is asked again.
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The servers that the SRV records `_meetpoint._tcp.DOMAIN` name (RFC 2782), asked for again every five minutes. Their
/// certificates have to be for the domain, or of a fingerprint that the node was given.
#[derive(Debug, Clone)]
pub struct Dns {
    domain: String,
    insecure_http: bool,
}

impl Dns {
    /// Of a domain.
    ///
    /// # Errors
    /// [`ServerError::Domain`] if it is none.
    pub fn new(domain: impl Into<String>) -> Result<Self, ServerError> {
        let domain = domain.into();
        srv::check(&domain)?;
        Ok(Self { domain, insecure_http: false })
    }

    /// Speaks to its servers by plain HTTP.
    #[must_use]
    pub fn insecure_http(mut self, allow: bool) -> Self {
        self.insecure_http = allow;
        self
    }
}

impl SeedSource for Dns {
    fn label(&self) -> String {
        format!("DNS of {}", self.domain)
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            loop {
                let servers = srv::look_up(seeds.egress(), &self.domain, self.insecure_http).await;
                for server in servers.map_err(SourceError::new)? {
                    let (priority, tls_name) = (server.rank.priority, server.tls_name);
                    seeds
                        .tell(FoundSeed { priority, tls_name, ..FoundSeed::new(server.url.to_string()) })
                        .await;
                }
                sleep(INTERVAL).await;
            }
        })
    }
}
