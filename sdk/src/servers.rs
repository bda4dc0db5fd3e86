//! The servers a node may go to, and what keeps it from each.

use std::fmt;
use std::sync::Arc;

use meetpoint_agent::ServerRank;
use meetpoint_proto::SeedAddr;
use meetpoint_proto::seed::ParseSeedError;
use meetpoint_proto::wire::Refusal;
use thiserror::Error;

use crate::egress::Egress;
use crate::ws::{OpenError, ServerUrl, UrlError};

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
    #[cfg(feature = "srv")]
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
    if given.is_empty() {
        return Err(ServerError::None);
    }
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
                });
            }
            #[cfg(feature = "srv")]
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
#[cfg(feature = "srv")]
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

#[cfg(not(feature = "srv"))]
#[allow(clippy::unused_async, reason = "as the other one")]
async fn look_up(_: &[Given], _: bool, _: &Egress, _: &mut Vec<Server>) -> Vec<String> {
    Vec::new()
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
pub(crate) struct Obstacles(Vec<(String, Option<Obstacle>)>);

impl Obstacles {
    pub(crate) fn new(servers: &[Server]) -> Self {
        Self(servers.iter().map(|server| (server.label.clone(), None)).collect())
    }

    /// What a server is called.
    pub(crate) fn label(&self, server: usize) -> &str {
        self.0.get(server).map_or("", |(label, _)| label)
    }

    /// A server's newest obstacle, or that there is none any more.
    pub(crate) fn set(&mut self, server: usize, obstacle: Option<Obstacle>) {
        if let Some((_, newest)) = self.0.get_mut(server) {
            *newest = obstacle;
        }
    }

    /// The obstacle that waiting does not remove, if that is so of every server: the user has to do something.
    pub(crate) fn hopeless(&self) -> Option<Arc<OpenError>> {
        let hopeless = |(_, obstacle): &(String, Option<Obstacle>)| match obstacle {
            Some(Obstacle::Open(error)) if error.is_hopeless() => Some(Arc::clone(error)),
            _ => None,
        };
        let all: Option<Vec<_>> = self.0.iter().map(hopeless).collect();
        all?.into_iter().next()
    }
}

impl fmt::Display for Obstacles {
    /// Each server by its label; one alone is not confused with others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (label, obstacle)) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { "; " } else { "" })?;
            match obstacle {
                Some(obstacle) => write!(f, "{label}: {obstacle}")?,
                None => write!(f, "{label}: the server did not answer")?,
            }
        }
        Ok(())
    }
}
