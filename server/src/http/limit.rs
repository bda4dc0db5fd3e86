//! How much REST gives to whom: requests by caller, and the length of a request's head.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use meetpoint_proto::wire::CONTROL_PATH;

use super::App;
use super::extract::bearer;
use super::problem::{Problem, ProblemCode};
use crate::api_tokens::Role;
use crate::config::AccessLimits;
use crate::limits::{Block, Key, Limiter, Policy, Quota, Verdict};
use crate::service::UnixMs;

/// What a load balancer asks all the time, perhaps from where others misbehave; and the control
/// channel, whose joins are counted if they fail.
const UNCOUNTED: [&str; 3] = ["/healthz", "/readyz", CONTROL_PATH];
/// Of path and query. The longest path of the contract with the longest names has under 300 bytes.
const MAX_URL_BYTES: usize = 4 * 1024;
/// Of all headers: a bearer token, a browser's cookies for localhost.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// The fields of draft-ietf-httpapi-ratelimit-headers.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Counts REST requests.
pub(super) struct RestLimiter {
    state: Mutex<Counting>,
    #[cfg(feature = "attack-tests")]
    counts_presented_tokens: bool,
}

/// What is counted, and by which policy.
struct Counting {
    limiter: Limiter,
    policy: Policy,
    header: HeaderValue,
}

impl Counting {
    fn new(policy: Policy) -> Self {
        let quota = policy.quota;
        let header = value(format!("\"rest\";q={};w={}", quota.max, quota.window.as_secs()));
        Self { limiter: Limiter::new(policy), policy, header }
    }
}

impl RestLimiter {
    pub(super) fn new(limits: &AccessLimits) -> Self {
        Self {
            state: Mutex::new(Counting::new(limits.rest)),
            #[cfg(feature = "attack-tests")]
            counts_presented_tokens: limits.counts_presented_tokens,
        }
    }

    /// Counts by this policy. If it is another one than before, everybody begins anew.
    pub(super) fn set_policy(&self, policy: Policy) {
        let mut state = self.state();
        if state.policy != policy {
            *state = Counting::new(policy);
        }
    }

    fn state(&self) -> MutexGuard<'_, Counting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, now: Instant, key: Key) -> Verdict {
        self.state().limiter.count(now, key)
    }

    /// Tells the caller what he has left.
    fn tell(&self, response: &mut Response, remaining: u32, reset: Duration) {
        let state = format!("\"rest\";r={remaining};t={}", seconds(reset));
        let header = self.state().header.clone();
        response.headers_mut().insert(POLICY, header);
        response.headers_mut().insert(STATE, value(state));
    }
}

/// Signatures made and verified for one source in a second. Each costs some 20 microseconds.
const SIGNATURES: NonZeroU32 = match NonZeroU32::new(10) {
    Some(count) => count,
    None => NonZeroU32::MIN,
};
/// For those who have proven nothing.
const STRANGERS: Policy =
    Policy { quota: Quota { max: SIGNATURES, window: Duration::from_secs(1) }, block: Block::Off };

/// Counts what is signed and verified for those who have proven nothing.
pub(super) struct Strangers(Mutex<Limiter>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Mutex::new(Limiter::new(STRANGERS)))
    }
}

impl Strangers {
    /// Counts one more of a source, if there may be one more.
    #[expect(clippy::result_large_err, reason = "a handler's answer")]
    pub(super) fn pass(&self, now: Instant, source: IpAddr) -> Result<(), Response> {
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match limiter.count(now, Key::source(source)) {
            Verdict::Pass { .. } => Ok(()),
            Verdict::Refuse { wait } => {
                let problem = Problem::new(ProblemCode::RateLimited, "this address has asked too often");
                let mut response = problem.into_response();
                response.headers_mut().insert(RETRY_AFTER, value(seconds(wait).to_string()));
                Err(response)
            }
        }
    }
}

/// Counts a request, and refuses it if there were too many.
pub(super) async fn rest(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if UNCOUNTED.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match app.limiter.count(Instant::now(), key(&app, client, request.headers())) {
        Verdict::Pass { remaining, reset } => {
            let mut response = next.run(request).await;
            app.limiter.tell(&mut response, remaining, reset);
            response
        }
        Verdict::Refuse { wait } => {
            let Quota { max, window } = app.limiter.state().policy.quota;
            let detail = format!("more than {max} requests in {} seconds", window.as_secs());
            let mut response = Problem::new(ProblemCode::RateLimited, detail).into_response();
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, value(seconds(wait).to_string()));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            app.limiter.tell(&mut response, 0, wait);
            response
        }
    }
}

/// Whose request it is: that of a principal who has proven himself, else that of its source.
fn key(app: &App, client: SocketAddr, headers: &HeaderMap) -> Key {
    let Ok(token) = bearer(headers) else { return Key::source(client.ip()) };
    #[cfg(feature = "attack-tests")]
    if app.limiter.counts_presented_tokens {
        use sha2::Digest;
        return Key::Presented(sha2::Sha256::digest(token).into());
    }
    match app.api_tokens.role_of(UnixMs::now(), token) {
        Some(Role::Admin) => Key::Admin,
        Some(Role::Viewer) => Key::Viewer,
        None => Key::source(client.ip()),
    }
}

/// Refuses a request whose head is too long. The listener reads somewhat more than this, so that the
/// refusal can say so.
pub(super) async fn head(request: Request, next: Next) -> Response {
    let url = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    if url > MAX_URL_BYTES {
        let detail = format!("path and query have {url} bytes");
        return Problem::new(ProblemCode::UrlTooLong, detail).into_response();
    }
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    if headers > MAX_HEADER_BYTES {
        let detail = format!("the headers have {headers} bytes");
        return Problem::new(ProblemCode::HeadersTooLarge, detail).into_response();
    }
    next.run(request).await
}

/// Whole seconds, of which the last one has passed when they are over.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Digits, letters and a few signs always make a header's value.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
