//! Who asks, if reverse proxies stand in between.
//!
//! A header that anybody can write proves nothing, so it counts only if the connection comes from a
//! proxy that the operator named. Each proxy appends the address it was spoken to from, so what is
//! left of the last address that no trusted proxy has is hearsay and is not looked at. A proxy usually
//! writes one of the two headers and passes the other one on as it came: if they disagree, one of them
//! is a lie, and the request is refused.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use meetpoint_proto::addr;
use meetpoint_turn::Cidr;

use super::App;
use super::problem::{Problem, ProblemCode};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// A chain of proxies is short; a client may write as many addresses as a head has room for.
const MAX_HOPS: usize = 32;

/// The proxies whose word counts.
pub(crate) struct TrustedProxies(Vec<Cidr>);

/// Why it can't be told who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unclear {
    /// An address that is none, where the next one would have to be believed.
    Malformed,
    /// More addresses than a chain of proxies has.
    TooLong,
    /// X-Forwarded-For and Forwarded name two.
    Contradiction,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "X-Forwarded-For or Forwarded has something else than an address",
            Self::TooLong => "X-Forwarded-For or Forwarded has more than 32 addresses",
            Self::Contradiction => "X-Forwarded-For and Forwarded disagree",
        })
    }
}

impl TrustedProxies {
    pub(crate) fn new(blocks: Vec<Cidr>) -> Self {
        Self(blocks)
    }

    /// Whether it is one of them.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|block| block.contains(ip))
    }

    /// Who asks. The port is 0 where a proxy did not say it.
    fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<SocketAddr, Unclear> {
        if !self.has(peer.ip()) {
            return Ok(peer);
        }
        let by_list = self.first_stranger(&in_lists(headers)?)?;
        let by_elements = self.first_stranger(&in_elements(headers)?)?;
        match (by_list, by_elements) {
            (None, None) => Ok(peer),
            (Some(client), None) | (None, Some(client)) => Ok(client),
            (Some(a), Some(b)) if a.ip() == b.ip() => Ok(if a.port() == 0 { b } else { a }),
            (Some(_), Some(_)) => Err(Unclear::Contradiction),
        }
    }

    /// From the last address on, the first that is no trusted proxy's; if all are, the first of all.
    fn first_stranger(&self, hops: &[&str]) -> Result<Option<SocketAddr>, Unclear> {
        let mut furthest = None;
        for hop in hops.iter().rev() {
            let hop = address(hop).ok_or(Unclear::Malformed)?;
            furthest = Some(hop);
            if !self.has(hop.ip()) {
                break;
            }
        }
        Ok(furthest)
    }
}

/// What X-Forwarded-For lists, as it is written.
fn in_lists(headers: &HeaderMap) -> Result<Vec<&str>, Unclear> {
    let mut hops = Vec::new();
    for line in headers.get_all(X_FORWARDED_FOR) {
        hops.extend(text(line)?.split(',').take(MAX_HOPS + 1));
        if hops.len() > MAX_HOPS {
            return Err(Unclear::TooLong);
        }
    }
    Ok(hops)
}

/// What Forwarded (RFC 7239) says in its `for` parameters.
fn in_elements(headers: &HeaderMap) -> Result<Vec<&str>, Unclear> {
    let mut hops = Vec::new();
    for line in headers.get_all(FORWARDED) {
        let mut rest = text(line)?;
        let mut said = None;
        loop {
            let (name, after) = rest.split_once('=').ok_or(Unclear::Malformed)?;
            let (value, after) = value(after).ok_or(Unclear::Malformed)?;
            if name.trim().eq_ignore_ascii_case("for") && said.replace(value).is_some() {
                return Err(Unclear::Malformed);
            }
            let (is_end, is_last) = match after.bytes().next() {
                None => (true, true),
                Some(b',') => (true, false),
                Some(b';') => (false, false),
                Some(_) => return Err(Unclear::Malformed),
            };
            if is_end {
                // An element that does not say for whom stands for a hop all the same.
                hops.push(said.take().ok_or(Unclear::Malformed)?);
            }
            if hops.len() > MAX_HOPS {
                return Err(Unclear::TooLong);
            }
            if is_last {
                break;
            }
            rest = &after[1..];
        }
    }
    Ok(hops)
}

/// A token or a quoted string (RFC 9110, section 5.6), and what follows it. An address needs no escapes,
/// so a string that has some is cut at none of them and is no address.
fn value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (!token.contains('"')).then_some((token.trim_end(), rest));
    };
    let mut is_escaped = false;
    let is_end = |byte: u8| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    };
    let end = quoted.bytes().position(is_end)?;
    Some((&quoted[..end], quoted[end + 1..].trim_start()))
}

fn text(line: &HeaderValue) -> Result<&str, Unclear> {
    line.to_str().map_err(|_| Unclear::Malformed)
}

/// `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:80`.
fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let ip = text.parse::<IpAddr>().ok().or_else(|| bracketed().map(IpAddr::V6));
    let addr = ip.map(|ip| SocketAddr::new(ip, 0)).or_else(|| text.parse().ok())?;
    Some(addr::unmap(addr))
}

/// Puts who asks in the place of who connected.
pub(super) async fn resolve(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match app.proxies.client(addr::unmap(peer), request.headers()) {
        Ok(client) => {
            request.extensions_mut().insert(ConnectInfo(client));
            next.run(request).await
        }
        Err(unclear) => Problem::new(ProblemCode::BadForwarded, unclear.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1:4000";
    const STRANGER: &str = "20.0.0.9:4000";

    fn check(peer: &str, headers: &[(&HeaderName, &str)], expect: Result<&str, Unclear>) {
        let proxies =
            TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let client = proxies.client(peer.parse().unwrap(), &map).map(|client| client.to_string());
        assert_eq!(client.as_deref(), expect.as_ref().copied(), "{peer} {headers:?}");
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        check(STRANGER, &[], Ok(STRANGER));
        check(STRANGER, &[(&X_FORWARDED_FOR, "30.0.0.1")], Ok(STRANGER));
        check(STRANGER, &[(&FORWARDED, "for=30.0.0.1")], Ok(STRANGER));
        check(STRANGER, &[(&X_FORWARDED_FOR, "nonsense")], Ok(STRANGER));
        check(PROXY, &[], Ok(PROXY));
        check("[::ffff:10.0.0.1]:4000", &[(&X_FORWARDED_FOR, "30.0.0.1")], Ok("30.0.0.1:0"));
    }

    #[test]
    fn the_last_stranger_counts() {
        let x = |text: &str, expect| check(PROXY, &[(&X_FORWARDED_FOR, text)], expect);
        x("30.0.0.1", Ok("30.0.0.1:0"));
        x("1.1.1.1, 30.0.0.1", Ok("30.0.0.1:0"));
        x("1.1.1.1,30.0.0.1,10.0.0.7, 10.9.9.9", Ok("30.0.0.1:0"));
        x("<script>, 30.0.0.1", Ok("30.0.0.1:0"));
        x("10.0.0.5, 10.0.0.6", Ok("10.0.0.5:0"));
        x("30.0.0.1:55", Ok("30.0.0.1:55"));
        x("2a00::7", Ok("[2a00::7]:0"));
        x("[2a00::7]", Ok("[2a00::7]:0"));
        x("[2a00::7]:55", Ok("[2a00::7]:55"));
        x("30.0.0.1, 2001:db8::1", Ok("30.0.0.1:0"));
        x("::ffff:30.0.0.1", Ok("30.0.0.1:0"));
        x("::ffff:10.0.0.2", Ok("10.0.0.2:0"));
        check(PROXY, &[(&X_FORWARDED_FOR, "1.1.1.1"), (&X_FORWARDED_FOR, "30.0.0.1")], Ok("30.0.0.1:0"));
        for unclear in [
            "",
            "unknown",
            "30.0.0.1,",
            "30.0.0.1, unknown",
            "30.0.0",
            "1.1.1.1, x, 10.0.0.2",
            "30.0.0.1 40.0.0.1",
        ] {
            x(unclear, Err(Unclear::Malformed));
        }
        x(&["10.0.0.2"; MAX_HOPS + 1].join(","), Err(Unclear::TooLong));
    }

    #[test]
    fn elements_are_read_as_their_standard_says() {
        let f = |text: &str, expect| check(PROXY, &[(&FORWARDED, text)], expect);
        f("for=30.0.0.1", Ok("30.0.0.1:0"));
        f("For=30.0.0.1;proto=https;by=10.0.0.1", Ok("30.0.0.1:0"));
        f("proto=https ; for=\"30.0.0.1:55\" ; host=\"a,for=1.1.1.1\"", Ok("30.0.0.1:55"));
        f("for=\"[2a00::7]:55\", for=10.0.0.2", Ok("[2a00::7]:55"));
        f("for=1.1.1.1, for=30.0.0.1, for=10.0.0.2", Ok("30.0.0.1:0"));
        f("for=_hidden, for=30.0.0.1", Ok("30.0.0.1:0"));
        f("for=\"a\\\"b,c\", for=30.0.0.1", Ok("30.0.0.1:0"));
        for unclear in [
            "",
            "for",
            "for=",
            "for=unknown",
            "proto=https",
            "for=30.0.0.1,",
            "for=30.0.0.1;",
            "for=\"30.0.0.1",
            "for=30.0.0.1\"",
            "for=\"30.0.0.1\"x",
            "for=1.1.1.1;for=30.0.0.1",
            "for=30.0.0.1, proto=https",
            "for=\", for=30.0.0.1",
        ] {
            f(unclear, Err(Unclear::Malformed));
        }
        f(&["for=10.0.0.2"; MAX_HOPS + 1].join(","), Err(Unclear::TooLong));
    }

    #[test]
    fn two_headers_have_to_agree() {
        let both = |x: &str, f: &str, expect| check(PROXY, &[(&X_FORWARDED_FOR, x), (&FORWARDED, f)], expect);
        both("30.0.0.1", "for=30.0.0.1", Ok("30.0.0.1:0"));
        both("30.0.0.1", "for=\"30.0.0.1:7\"", Ok("30.0.0.1:7"));
        both("30.0.0.1", "for=40.0.0.1", Err(Unclear::Contradiction));
        both("30.0.0.1", "nonsense", Err(Unclear::Malformed));
    }
}
