//! A REST client over the SDK's way to a server: the same TLS rules, the same refusals.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use meetpoint::ServerUrl;
use meetpoint_proto::id::Fingerprint;
use serde_json::Value;

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
        let server = args
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
        Ok(Self { server, fingerprint: args.fingerprint, insecure_http: args.insecure_http, token })
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

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream = meetpoint::open_stream(&self.server, self.fingerprint, self.insecure_http).await;
        let stream = stream.map_err(|error| Failure::no_server(format!("{}: {error}", self.server)))?;
        let broken = |error: hyper::Error| Failure::failed(format!("{} broke off: {error}", self.server));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.server.authority())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(Failure::failed)?;
        let ask = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| Failure::failed(format!("the answer broke off: {error}")))?;
            Ok((status, body.to_bytes()))
        };
        let (answer, _) = tokio::join!(ask, connection);
        answer
    }
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
    Failure::failed(message)
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
