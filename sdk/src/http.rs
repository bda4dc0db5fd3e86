//! One request by HTTP/1.0: the answer comes in one piece and ends with the connection. For lists and routers; a server
//! is spoken to by its control channel.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// From the request to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head and body of an answer, in bytes, and most headers.
const MAX_HEAD_LEN: usize = 16 << 10;
pub(crate) const MAX_BODY_LEN: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// Not HTTP, too long, or in a form that was not asked for.
    #[error("not an answer that can be read")]
    BadAnswer,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a request, which has to be of HTTP/1.0, and reads the answer.
///
/// # Errors
/// [`HttpError`]
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &str,
) -> Result<Answer, HttpError> {
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        let limit = MAX_HEAD_LEN + MAX_BODY_LEN;
        stream.take(limit as u64 + 1).read_to_end(&mut answer).await?;
        if answer.len() > limit { Err(HttpError::BadAnswer) } else { parse(&answer) }
    };
    timeout(TIMEOUT, exchange).await.map_err(|_| HttpError::TimedOut)?
}

pub(crate) fn parse(answer: &[u8]) -> Result<Answer, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head_len)) = response.parse(answer) else {
        return Err(HttpError::BadAnswer);
    };
    let status = response.code.ok_or(HttpError::BadAnswer)?;
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if header("transfer-encoding").is_some() {
        return Err(HttpError::BadAnswer);
    }
    let mut body = &answer[head_len..];
    if let Some(len) = header("content-length") {
        let len: Option<usize> = std::str::from_utf8(len.value).ok().and_then(|len| len.trim().parse().ok());
        // What is missing was lost.
        body = len.and_then(|len| body.get(..len)).ok_or(HttpError::BadAnswer)?;
    }
    let body = String::from_utf8(body.to_vec()).map_err(|_| HttpError::BadAnswer)?;
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (answer, expect) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", Some((200, "[]"))),
            ("HTTP/1.0 200 OK\r\n\r\n[]\n", Some((200, "[]\n"))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]and more", Some((200, "[]"))),
            ("HTTP/1.1 404 Not Found\r\n\r\n[]", Some((404, "[]"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0\r\n\r\n", None),
            ("", None),
        ] {
            let expect = expect.map(|(status, body)| Answer { status, body: body.to_owned() });
            assert_eq!(parse(answer.as_bytes()).ok(), expect, "{answer}");
        }
    }
}
