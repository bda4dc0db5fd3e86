//! What the unit tests share.

use std::time::Instant;

/// Any instant: the machines only look at distances.
#[allow(clippy::disallowed_methods, reason = "there is no other way to make one")]
pub(crate) fn start_of_time() -> Instant {
    Instant::now()
}
