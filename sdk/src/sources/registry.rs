//! Servers that a web server lists.

use std::sync::Arc;
use std::time::Duration;

use meetpoint_proto::id::Fingerprint;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Search, SeedSource, Seeds, SourceError, text};
use crate::tls::{Pins, Roots};
use crate::ws::{self, OpenError, OpenOptions, ServerUrl, UrlError};

/// How often it is asked again.
const INTERVAL: Duration = Duration::from_secs(60);
/// From the request to the last byte of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of an answer, in bytes, and most headers.
const MAX_HEAD_LEN: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

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
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
    /// Not HTTP, too long, or in a form that was not asked for.
    #[error("not an answer that can be read")]
    BadAnswer,
    /// It answers something else.
    #[error("it answers HTTP {0}")]
    Status(u16),
}

/// An address of the web at which a list of servers is found: a JSON array, or lines ([`super::SeedFile`]). It is asked
/// again every minute.
///
/// By https, with a certificate that a public authority vouches for or that has a fingerprint known to the node, its list
/// may name fingerprints of servers; by plain HTTP, which goes to this machine only unless the user insists, it is a hint.
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
        let exchange = async {
            // By HTTP/1.0, so that the answer ends with the connection and comes in one piece.
            let request = format!(
                "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
                self.path,
                self.server.authority()
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let limit = MAX_HEAD_LEN + text::MAX_LEN;
            (&mut stream).take(limit as u64 + 1).read_to_end(&mut answer).await?;
            if answer.len() > limit {
                return Err(RegistryError::BadAnswer);
            }
            body(&answer)
        };
        let body = timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| RegistryError::TimedOut)??;
        Ok((body, is_secure))
    }
}

/// The body of an answer.
fn body(answer: &[u8]) -> Result<String, RegistryError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head_len)) = response.parse(answer) else {
        return Err(RegistryError::BadAnswer);
    };
    match response.code {
        Some(200) => {}
        Some(other) => return Err(RegistryError::Status(other)),
        None => return Err(RegistryError::BadAnswer),
    }
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if header("transfer-encoding").is_some() {
        return Err(RegistryError::BadAnswer);
    }
    let mut body = &answer[head_len..];
    if let Some(len) = header("content-length") {
        let len: Option<usize> = std::str::from_utf8(len.value).ok().and_then(|len| len.trim().parse().ok());
        // What is missing was lost.
        body = len.and_then(|len| body.get(..len)).ok_or(RegistryError::BadAnswer)?;
    }
    String::from_utf8(body.to_vec()).map_err(|_| RegistryError::BadAnswer)
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

    #[test]
    fn answers() {
        for (answer, expect) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", Some("[]")),
            ("HTTP/1.0 200 OK\r\n\r\n[]\n", Some("[]\n")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]and more", Some("[]")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]", None),
            ("HTTP/1.1 404 Not Found\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(body(answer.as_bytes()).ok().as_deref(), expect, "{answer}");
        }
    }
}
