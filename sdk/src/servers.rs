//! The servers a node may go to, and what keeps it from each.

use std::fmt;
use std::sync::Arc;

use meetpoint_agent::ServerRank;
use meetpoint_proto::SeedAddr;
use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::seed::ParseSeedError;
use meetpoint_proto::wire::Refusal;
use thiserror::Error;

use crate::egress::Egress;
#[cfg(feature = "dns")]
use crate::sources::{Again, Dns};
use crate::sources::{FoundSeed, MAX_SOURCES, SeedSource, Told};
use crate::tls::{Pins, Roots};
use crate::ws::{OpenError, OpenOptions, ServerUrl, UrlError};

/// Servers that one node may know: as many as a round may reasonably take.
pub(crate) const MAX_SERVERS: usize = 32;

/// A server as the user named it.
#[derive(Debug, Clone)]
pub(crate) enum Given {
    /// A URL.
    Url(String),
    /// `name@host:port`.
    Seed(String),
    /// A domain whose SRV records name them.
    #[cfg(feature = "dns")]
    Domain(String),
}

/// Why a node knows no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// None was given.
    #[error("no server: give a URL or a seed, NAME@HOST:PORT")]
    None,
    /// More than a node can know.
    #[error("more than {MAX_SERVERS} servers")]
    TooMany,
    /// More places to hear of servers than a node asks.
    #[error("more than {MAX_SOURCES} sources of servers")]
    TooManySources,
    /// Not a URL.
    #[error("rendezvous {given}: {source}")]
    Url {
        /// What was given.
        given: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// Not a seed.
    #[error("seed {given}: {source}")]
    Seed {
        /// What was given.
        given: String,
        /// Which part is missing or wrong.
        source: ParseSeedError,
    },
    /// Not a domain.
    #[error("seeds of {given}: not a DNS name")]
    Domain {
        /// What was given.
        given: String,
    },
}

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// For people; the name of a seed included.
    pub(crate) label: String,
    pub(crate) url: ServerUrl,
    pub(crate) rank: ServerRank,
    /// As in [`crate::ws::OpenOptions`].
    pub(crate) tls_name: Option<String>,
    /// Of its own, besides those that any server may have.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// All servers, each once, and what could not be looked up. Those that need no name server come first.
///
/// # Errors
/// [`ServerError`] if one is not what it should be, before anything is looked up.
pub(crate) async fn all(
    given: &[Given],
    insecure_http: bool,
    egress: &Egress,
) -> Result<(Vec<Server>, Vec<String>), ServerError> {
    let mut servers: Vec<Server> = Vec::new();
    for one in given {
        match one {
            Given::Url(text) => {
                let url: ServerUrl =
                    text.parse().map_err(|source| ServerError::Url { given: text.clone(), source })?;
                servers.push(Server {
                    label: url.to_string(),
                    url,
                    rank: ServerRank::default(),
                    tls_name: None,
                    fingerprint: None,
                });
            }
            Given::Seed(text) => {
                let seed: SeedAddr =
                    text.parse().map_err(|source| ServerError::Seed { given: text.clone(), source })?;
                let url = ServerUrl::of_seed(&seed, insecure_http);
                servers.push(Server {
                    label: seed.to_string(),
                    url,
                    rank: ServerRank::default(),
                    tls_name: None,
                    fingerprint: None,
                });
            }
            #[cfg(feature = "dns")]
            Given::Domain(text) => crate::srv::check(text)?,
        }
    }
    let unknown = look_up(given, insecure_http, egress, &mut servers).await;
    let mut once: Vec<Server> = Vec::new();
    for server in servers {
        if !once.iter().any(|known| known.url == server.url) {
            once.push(server);
        }
    }
    if once.len() > MAX_SERVERS { Err(ServerError::TooMany) } else { Ok((once, unknown)) }
}

/// Adds the servers of the domains; what could not be looked up is told.
#[cfg(feature = "dns")]
async fn look_up(
    given: &[Given],
    insecure_http: bool,
    egress: &Egress,
    servers: &mut Vec<Server>,
) -> Vec<String> {
    let mut unknown = Vec::new();
    for one in given {
        let Given::Domain(domain) = one else { continue };
        match crate::srv::look_up(egress, domain, insecure_http).await {
            Ok(found) => servers.extend(found),
            Err(error) => {
                tracing::warn!(%domain, %error, "no seeds by DNS");
                unknown.push(format!("seeds of {domain}: {error}"));
            }
        }
    }
    unknown
}

#[cfg(not(feature = "dns"))]
#[allow(clippy::unused_async, reason = "as the other one")]
async fn look_up(_: &[Given], _: bool, _: &Egress, _: &mut Vec<Server>) -> Vec<String> {
    Vec::new()
}

/// The domains among the servers are asked again for as long as the node runs: what they name at its start may be gone
/// when it matters. If what they name now is not known, they are asked at once.
///
/// # Errors
/// [`ServerError::Domain`]
#[cfg(feature = "dns")]
pub(crate) fn again(
    given: &[Given],
    insecure_http: bool,
    is_known: bool,
) -> Result<Vec<Arc<dyn SeedSource>>, ServerError> {
    let source = |one: &Given| match one {
        Given::Domain(domain) => Some(Dns::new(domain)),
        Given::Url(_) | Given::Seed(_) => None,
    };
    let again = |dns: Dns| Arc::new(Again::new(dns.insecure_http(insecure_http), is_known)) as _;
    given.iter().filter_map(source).map(|dns| dns.map(again)).collect()
}

#[cfg(not(feature = "dns"))]
#[allow(clippy::unnecessary_wraps, reason = "as the other one")]
pub(crate) fn again(_: &[Given], _: bool, _: bool) -> Result<Vec<Arc<dyn SeedSource>>, ServerError> {
    Ok(Vec::new())
}

impl Server {
    /// One that a source has told of; `None` if that is no address of a server.
    pub(crate) fn of_told(told: &Told, insecure_http: bool) -> Option<Self> {
        let FoundSeed { address, fingerprint, priority, tls_name } = &told.seed;
        let url = match address.parse::<SeedAddr>() {
            Ok(seed) => ServerUrl::of_seed(&seed, insecure_http && fingerprint.is_none()),
            Err(_) => address.parse().ok()?,
        };
        Some(Self {
            label: format!("{address} ({})", told.source),
            url,
            rank: ServerRank { priority: *priority, ..ServerRank::default() },
            tls_name: tls_name.clone(),
            fingerprint: *fingerprint,
        })
    }
}

/// The servers that a node knows, as the agent numbers them: how to open a channel to each.
pub(crate) struct Pool {
    servers: Vec<OpenOptions>,
    pins: Pins,
    insecure_http: bool,
    egress: Arc<Egress>,
}

impl Pool {
    pub(crate) fn new(servers: &[Server], pins: Pins, insecure_http: bool, egress: Arc<Egress>) -> Self {
        let mut pool = Self { servers: Vec::new(), pins, insecure_http, egress };
        for server in servers {
            pool.push(server);
        }
        pool
    }

    pub(crate) fn get(&self, server: usize) -> Option<&OpenOptions> {
        self.servers.get(server)
    }

    /// Takes one that a source has told of, if it is news and there is room.
    pub(crate) fn add(&mut self, told: &Told) -> Option<Server> {
        let server = Server::of_told(told, self.insecure_http)?;
        let is_known = self.servers.iter().any(|known| known.server == server.url);
        if is_known {
            return None;
        }
        if self.servers.len() >= MAX_SERVERS {
            tracing::warn!(server = %server.label, "a node knows {MAX_SERVERS} servers at most: this one is left out");
            return None;
        }
        self.push(&server);
        Some(server)
    }

    fn push(&mut self, server: &Server) {
        self.servers.push(OpenOptions {
            server: server.url.clone(),
            tls_name: server.tls_name.clone(),
            pins: server.fingerprint.map_or_else(|| self.pins.clone(), |print| self.pins.with(print)),
            insecure_http: self.insecure_http,
            roots: Roots::Native,
            egress: Arc::clone(&self.egress),
        });
    }
}

/// Why a server did not take the node.
#[derive(Debug, Clone)]
pub(crate) enum Obstacle {
    /// There was no control channel.
    Open(Arc<OpenError>),
    /// The server said so.
    Refused(Refusal),
    /// The channel broke.
    Broke,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Refused(refusal) => write!(f, "{}: {}", refusal.code, refusal.hint),
            Self::Broke => f.write_str("the connection broke"),
        }
    }
}

/// The newest obstacle of each server.
#[derive(Debug, Clone)]
pub(crate) struct Obstacles {
    servers: Vec<(String, Option<Obstacle>)>,
    /// Sources may tell of more servers.
    may_grow: bool,
}

impl Obstacles {
    pub(crate) fn new(servers: &[Server], may_grow: bool) -> Self {
        Self { servers: servers.iter().map(|server| (server.label.clone(), None)).collect(), may_grow }
    }

    /// One more server.
    pub(crate) fn add(&mut self, label: String) {
        self.servers.push((label, None));
    }

    /// What a server is called.
    pub(crate) fn label(&self, server: usize) -> &str {
        self.servers.get(server).map_or("", |(label, _)| label)
    }

    /// A server's newest obstacle, or that there is none any more.
    pub(crate) fn set(&mut self, server: usize, obstacle: Option<Obstacle>) {
        if let Some((_, newest)) = self.servers.get_mut(server) {
            *newest = obstacle;
        }
    }

    /// The obstacle that waiting does not remove, if that is so of every server there will be: the user has to do
    /// something.
    pub(crate) fn hopeless(&self) -> Option<Arc<OpenError>> {
        let hopeless = |(_, obstacle): &(String, Option<Obstacle>)| match obstacle {
            Some(Obstacle::Open(error)) if error.is_hopeless() => Some(Arc::clone(error)),
            _ => None,
        };
        if self.may_grow {
            return None;
        }
        let all: Option<Vec<_>> = self.servers.iter().map(hopeless).collect();
        all?.into_iter().next()
    }
}

impl fmt::Display for Obstacles {
    /// Each server by its label; one alone is not confused with others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (label, obstacle)) in self.servers.iter().enumerate() {
            f.write_str(if at > 0 { "; " } else { "" })?;
            match obstacle {
                Some(obstacle) => write!(f, "{label}: {obstacle}")?,
                None => write!(f, "{label}: the server did not answer")?,
            }
        }
        Ok(())
    }
}
