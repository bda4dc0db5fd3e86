//! Who comes over plain HTTP from the public internet: his tokens can be read on the way, and the operator is told.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meetpoint_proto::{AddressClass, addr};
use tracing::warn;

/// Between two lines in the log: strangers cause them.
const EVERY: Duration = Duration::from_secs(600);

/// Notes it.
#[derive(Default)]
pub(crate) struct PlainHttp {
    is_seen: AtomicBool,
    told: Mutex<Option<Instant>>,
}

impl PlainHttp {
    /// A connection that no trusted proxy made begins without TLS.
    pub(super) fn note(&self, now: Instant, source: IpAddr) {
        if addr::classify(source) != AddressClass::Public {
            return;
        }
        self.is_seen.store(true, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            *told = Some(now);
            warn!(
                %source,
                "PLAIN HTTP FROM A PUBLIC ADDRESS: tokens that travel so can be read on the way; use https://, or name \
                 the proxy that ends TLS by --trusted-proxy"
            );
        }
    }

    /// Whether there was one.
    pub(super) fn is_seen(&self) -> bool {
        self.is_seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_warned_of() {
        let check = |source: &str, expect: bool| {
            let plain = PlainHttp::default();
            plain.note(Instant::now(), source.parse().unwrap());
            assert_eq!(plain.is_seen(), expect, "{source}");
        };
        check("20.0.0.9", true);
        check("::ffff:20.0.0.9", true);
        check("2a00::9", true);
        check("127.0.0.1", false);
        check("10.0.0.9", false);
        check("fd00::9", false);
    }
}
