//! Servers that a domain names by SRV records.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::{FoundSeed, Search, SeedSource, Seeds, SourceError};
use crate::servers::{Server, ServerError};
use crate::srv;

/// How often the domain is asked again.
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The servers that the SRV records `_meetpoint._tcp.DOMAIN` name (RFC 2782), asked for again every five minutes. Their
/// certificates have to be for the domain, or of a fingerprint that the node was given.
#[derive(Clone)]
pub struct Dns {
    domain: String,
    insecure_http: bool,
    interval: Duration,
    /// Whom to ask instead of the system's.
    #[cfg(test)]
    resolver: Option<hickory_resolver::TokioResolver>,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Dns {
    /// Of a domain.
    ///
    /// # Errors
    /// [`ServerError::Domain`] if it is none.
    pub fn new(domain: impl Into<String>) -> Result<Self, ServerError> {
        let domain = domain.into();
        srv::check(&domain)?;
        Ok(Self {
            domain,
            insecure_http: false,
            interval: INTERVAL,
            #[cfg(test)]
            resolver: None,
        })
    }

    /// How often it is asked again; every five minutes if not set.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    async fn servers(&self, seeds: &Seeds) -> Result<Vec<Server>, srv::SrvError> {
        #[cfg(test)]
        if let Some(resolver) = &self.resolver {
            return srv::ask(resolver, &self.domain, self.insecure_http).await;
        }
        srv::look_up(seeds.egress(), &self.domain, self.insecure_http).await
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
                for server in self.servers(seeds).await.map_err(SourceError::new)? {
                    let (priority, tls_name) = (server.rank.priority, server.tls_name);
                    seeds
                        .tell(FoundSeed { priority, tls_name, ..FoundSeed::new(server.url.to_string()) })
                        .await;
                }
                sleep(self.interval).await;
            }
        })
    }
}

/// A domain whose servers were looked up before.
#[derive(Debug)]
pub(crate) struct Again {
    dns: Dns,
    /// What it says now is known; it is asked after an interval.
    is_known: AtomicBool,
}

impl Again {
    pub(crate) fn new(dns: Dns, is_known: bool) -> Self {
        Self { dns, is_known: is_known.into() }
    }
}

impl SeedSource for Again {
    fn label(&self) -> String {
        self.dns.label()
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            if self.is_known.swap(false, Ordering::Relaxed) {
                sleep(self.dns.interval).await;
            }
            self.dns.search(seeds).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::egress::Egress;
    use crate::servers::{self, Given};
    use crate::sources::Sources;
    use crate::srv::testing::{NameServer, resolver};

    const INTERVAL: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that the domain names later is heard of, once, and whoever knows the first answer waits for the next.
    #[tokio::test]
    async fn the_domain_is_asked_again() {
        for is_known in [false, true] {
            let names = NameServer::start(vec![(10, 0, 8080, "one.example.net.")]).await;
            let dns = Dns { resolver: Some(resolver(&names)), ..Dns::new("example.org").unwrap() };
            let source = Again::new(dns.interval(INTERVAL), is_known);
            let started = Instant::now();
            let mut sources = Sources::start(&[Arc::new(source)], &Arc::new(Egress::default()));
            let mut next = async || timeout(PATIENCE, sources.next()).await.expect("in time").unwrap();
            assert_eq!(next().await.seed.address, "https://one.example.net:8080");
            assert!(!is_known || started.elapsed() >= INTERVAL);
            names.set(vec![(10, 0, 8080, "one.example.net."), (20, 0, 443, "two.example.net.")]);
            let told = next().await;
            assert_eq!(told.seed.address, "https://two.example.net:443");
            assert_eq!((told.seed.priority, told.seed.tls_name.as_deref()), (20, Some("example.org")));
            assert!(names.asked() >= 2, "each time anew");
        }
    }

    #[test]
    fn domains_among_the_servers_are_asked_again() {
        let given = [Given::Url("https://a.example".to_owned()), Given::Domain("example.org".to_owned())];
        let again = servers::again(&given, false, true).unwrap();
        assert_eq!(again.iter().map(|source| source.label()).collect::<Vec<_>>(), ["DNS of example.org"]);
        assert!(servers::again(&[Given::Domain("a b".to_owned())], false, true).is_err());
    }
}
