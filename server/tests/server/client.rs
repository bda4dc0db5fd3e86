//! A small HTTP client: one connection a request.

use std::io::Read;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::running::Running;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem detail, whole and with this status and code.
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["type"], format!("/problems/{code}"), "{self:?}");
        for member in ["type", "title", "detail", "hint"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self:?}");
        }
    }
}

/// A request to be sent.
pub(crate) struct Call {
    request: hyper::http::request::Builder,
    body: Vec<u8>,
}

pub(crate) fn call(method: Method, path: &str) -> Call {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    Call { request, body: Vec::new() }
}

pub(crate) fn get(path: &str) -> Call {
    call(Method::GET, path)
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends it in plain HTTP.
    pub(crate) async fn send(self, to: SocketAddr) -> Reply {
        let stream = TcpStream::connect(to).await.unwrap();
        self.send_over(stream).await
    }

    /// Sends it with the server's admin token.
    pub(crate) async fn admin(self, server: &Running) -> Reply {
        self.bearer(&server.admin_token()).send(server.info.http).await
    }

    /// Sends it with the server's viewer token.
    pub(crate) async fn viewer(self, server: &Running) -> Reply {
        self.bearer(&server.viewer_token()).send(server.info.http).await
    }

    pub(crate) async fn send_over(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Reply {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = self.request.body(Full::new(Bytes::from(self.body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        let mut text = Vec::new();
        match parts.headers.get("content-encoding") {
            Some(coding) if coding == "gzip" => {
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap();
            }
            _ => text.extend_from_slice(&body),
        }
        Reply {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}
