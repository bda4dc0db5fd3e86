//! A REST client over the SDK's way to a server: the same TLS rules, the same refusals.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use meetpoint::ServerUrl;
use meetpoint_proto::id::Fingerprint;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::args::ServerArgs;
use crate::exit::Failure;

/// An answer that takes longer has failed; the server's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Larger than any page.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// No token.
    Public,
    /// The viewer token, if one is given, else the admin token.
    Read,
    /// The admin token.
    Change,
}

/// One server and the right to ask it.
pub(crate) struct Client {
    server: ServerUrl,
    fingerprint: Option<Fingerprint>,
    insecure_http: bool,
    token: Option<String>,
}

impl Client {
    /// Reads the token that the call needs.
    pub(crate) fn new(args: &ServerArgs, access: Access) -> Result<Self, Failure> {
        let server: ServerUrl = args
            .server
            .parse()
            .map_err(|error| Failure::usage(format!("--server {}: {error}", args.server)))?;
        let token = match (access, &args.viewer_token_file) {
            (Access::Public, _) => None,
            (Access::Read, Some(file)) => Some(read_token("--viewer-token-file", file)?),
            (Access::Read, None) | (Access::Change, _) => {
                Some(read_token("--admin-token-file", &args.admin_token_file)?)
            }
        };
        let fingerprint = args.fingerprint.or_else(|| own_fingerprint(&server, &args.admin_token_file));
        Ok(Self { server, fingerprint, insecure_http: args.insecure_http, token })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    /// All pages of a list.
    pub(crate) async fn list(&self, path: &str, page: usize) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let mut answer = self.get(&format!("{path}?limit={page}{after}")).await?;
            if let Value::Array(more) = answer["items"].take() {
                items.extend(more);
            }
            match answer["next"].as_str() {
                Some(cursor) => after = format!("&after={}", segment(cursor)),
                None => return Ok(items),
            }
        }
    }

    /// Any other call.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let exchange = self.exchange(method, path, body);
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let (status, bytes) =
            answer.map_err(|_| Failure::no_server(format!("{} did not answer in time", self.server)))??;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            let bad =
                |error| Failure::failed(format!("{} answered no JSON ({status}): {error}", self.server));
            serde_json::from_slice(&bytes).map_err(bad)?
        };
        if status.is_success() { Ok(value) } else { Err(problem(status, &value)) }
    }

    /// A call whose answer is read as it comes. Its head has to come within `patience`; a refusal is an error.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let ask = self.ask(method, path, headers, Bytes::new());
        let (answer, connection) = tokio::time::timeout(patience, ask)
            .await
            .map_err(|_| Failure::no_server(format!("{} did not answer in time", self.server)))??;
        if answer.status().is_success() {
            return Ok(Answer { response: answer, _connection: connection });
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(problem(status, &serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let body = Bytes::from(body.map(Value::to_string).unwrap_or_default());
        let json = (header::CONTENT_TYPE, "application/json");
        let (response, _connection) = self.ask(method, path, &[json], body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Failure::failed(format!("the answer broke off: {error}")))?;
        Ok((status, body.to_bytes()))
    }

    /// One request on a connection of its own, which lasts as long as what is returned.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Failure> {
        let stream = meetpoint::open_stream(&self.server, self.fingerprint, self.insecure_http).await;
        let stream = stream.map_err(|error| {
            Failure::no_server(format!("{error} (--server or MEETPOINT_SERVER names another one)"))
        })?;
        let broken =
            |error: hyper::Error| Failure::failed(format!("{} broke off: {error}", self.server)).temporary();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // A connection that breaks shows in the answer.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, self.server.authority());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(Failure::failed)?;
        Ok((sender.send_request(request).await.map_err(broken)?, connection))
    }
}

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next piece of its body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.response.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// What a server on this machine proves itself by, if the admin token is read from its data directory: the join
/// token beside it says so. For https; a plain URL stays plain.
fn own_fingerprint(server: &ServerUrl, admin_token_file: &Path) -> Option<Fingerprint> {
    if !server.to_string().starts_with("https:") || !is_here(server) {
        return None;
    }
    let text = std::fs::read_to_string(admin_token_file.with_file_name("join-token")).ok()?;
    text.trim().parse::<meetpoint_proto::JoinToken>().ok()?.fingerprint()
}

/// Whether a server is on this machine by its name alone.
fn is_here(server: &ServerUrl) -> bool {
    let authority = server.authority();
    let host = authority.rsplit_once(':').map_or(&*authority, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn read_token(flag: &str, file: &Path) -> Result<String, Failure> {
    let token = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!(
            "{flag} {}: {error}; the server keeps its tokens in DATA/admin-token and DATA/viewer-token",
            file.display()
        ))
    })?;
    Ok(token.trim().to_owned())
}

/// RFC 9457 problem details, in a sentence.
fn problem(status: StatusCode, value: &Value) -> Failure {
    let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut message = match field("detail") {
        detail if detail.is_empty() => format!("{status} {}", field("title")),
        detail => detail,
    };
    for (name, mark) in [("code", " ["), ("hint", " ")] {
        if let Some(text) = value[name].as_str() {
            // Writing to a string can't fail.
            let _ = write!(message, "{mark}{text}{}", if name == "code" { "]" } else { "" });
        }
    }
    let failure = Failure::failed(message);
    let is_temporary = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    if is_temporary { failure.temporary() } else { failure }
}

/// Percent-encodes what must not be read as part of the path (RFC 3986, section 2.3).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn nothing_escapes_a_segment() {
        assert_eq!(segment("a-b.c_d~9"), "a-b.c_d~9");
        assert_eq!(segment("../x?y#z é"), "..%2Fx%3Fy%23z%20%C3%A9");
    }
}
