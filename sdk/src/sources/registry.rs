//! Servers that a web server lists.

use std::sync::Arc;
use std::time::Duration;

use meetpoint_proto::id::Fingerprint;
use thiserror::Error;
use tokio::time::sleep;

use super::{Search, SeedSource, Seeds, SourceError, text};
use crate::http::{self, HttpError};
use crate::tls::{Pins, Roots};
use crate::ws::{self, OpenError, OpenOptions, ServerUrl, UrlError};

/// How often it is asked again.
const INTERVAL: Duration = Duration::from_secs(60);
/// Why a registry is none, or did not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Not a URL.
    #[error("registry {given}: {source}")]
    Url {
        /// What was given.
        given: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// No connection; plain HTTP to another machine is refused like that to a server.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No answer that can be read.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answers something else.
    #[error("it answers HTTP {0}")]
    Status(u16),
}

/// An address of the web at which a list of servers is found: a JSON array, or lines ([`super::SeedFile`]). It is asked
/// again every minute.
///
/// By https, with a certificate that a public authority vouches for or that has a fingerprint known to the node, its
/// list may name fingerprints of servers; by plain HTTP, which goes to this machine only unless the user insists, it is
/// a hint.
#[derive(Debug, Clone)]
pub struct Registry {
    server: ServerUrl,
    path: String,
    pins: Pins,
    insecure_http: bool,
    interval: Duration,
}

impl Registry {
    /// From its URL: `https://HOST[:PORT]/PATH`.
    ///
    /// # Errors
    /// [`RegistryError::Url`]
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        let wrong = |source| RegistryError::Url { given: url.to_owned(), source };
        let after_scheme = url.find("://").map_or(0, |at| at + "://".len());
        let path_at = url[after_scheme..].find(['/', '?']).map_or(url.len(), |at| at + after_scheme);
        let (server, path) = url.split_at(path_at);
        let server = server.parse().map_err(wrong)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path.chars().any(|c| !c.is_ascii_graphic()) {
            return Err(wrong(UrlError::new("the path has to be of visible ASCII characters")));
        }
        let path = path.split('#').next().unwrap_or("/").to_owned();
        Ok(Self { server, path, pins: Pins::default(), insecure_http: false, interval: INTERVAL })
    }

    /// The fingerprint of its certificate, if no public authority vouches for it. May be given several times.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.pins = self.pins.with(fingerprint);
        self
    }

    /// Allows plain HTTP to another machine.
    #[must_use]
    pub fn insecure_http(mut self, allow: bool) -> Self {
        self.insecure_http = allow;
        self
    }

    /// How often it is asked again.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    async fn get(&self, seeds: &Seeds) -> Result<(String, bool), RegistryError> {
        let options = OpenOptions {
            server: self.server.clone(),
            tls_name: None,
            pins: self.pins.clone(),
            insecure_http: self.insecure_http,
            roots: Roots::Native,
            egress: Arc::clone(seeds.egress()),
        };
        let (mut stream, is_secure) = ws::stream(&options).await?;
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
            self.path,
            self.server.authority()
        );
        let answer = http::exchange(&mut stream, &request).await?;
        if answer.status == 200 {
            Ok((answer.body, is_secure))
        } else {
            Err(RegistryError::Status(answer.status))
        }
    }
}

impl SeedSource for Registry {
    fn label(&self) -> String {
        format!("{}{}", self.server, self.path)
    }

    fn search<'a>(&'a self, seeds: &'a Seeds) -> Search<'a> {
        Box::pin(async move {
            loop {
                let (body, is_secure) = self.get(seeds).await.map_err(SourceError::new)?;
                for mut seed in text::any(&body).map_err(SourceError::new)? {
                    seed.fingerprint = seed.fingerprint.filter(|_| is_secure);
                    seeds.tell(seed).await;
                }
                sleep(self.interval).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, expect) in [
            ("https://a.example", Some(("https://a.example:443", "/"))),
            ("https://a.example/seeds.json", Some(("https://a.example:443", "/seeds.json"))),
            ("http://127.0.0.1:99/a/b?c=d#e", Some(("http://127.0.0.1:99", "/a/b?c=d"))),
            ("https://[::1]:5?x", Some(("https://[::1]:5", "/?x"))),
            ("a.example/seeds", None),
            ("ftp://a.example/seeds", None),
            ("https://a.example/a b", None),
            ("https://a.example/a\r\nb", None),
            ("", None),
        ] {
            let found = Registry::new(url).ok().map(|found| (found.server.to_string(), found.path));
            let expect = expect.map(|(server, path)| (server.to_owned(), path.to_owned()));
            assert_eq!(found, expect, "{url}");
        }
    }
}
