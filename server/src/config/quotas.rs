//! How much STUN and the relay give to whom.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};

use clap::Args;
use meetpoint_turn::{ByteRate, Limits, Rate, RelayLimits};

/// A rate's burst is what it gives in a fifth of a second, so that a bit of jitter does not cost
/// packets.
const BURSTS_PER_S: u64 = 5;
/// Yet one datagram of the longest kind always fits.
const MIN_BURST_BYTES: u64 = 65_536;

/// How much is given to whom, over all threads together. Nothing is unlimited.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Quotas")]
pub struct QuotaArgs {
    /// STUN answers a second to one source (an IPv4 address or an IPv6 /64), and twice as many at once.
    /// In all, five times as many may be longer than their question, beyond a plain Binding's.
    #[arg(long, env = "MEETPOINT_STUN_BUDGET", value_name = "PER_SECOND", default_value = "200", value_parser = super::count)]
    pub stun_budget: NonZeroU32,
    /// Allocations in all.
    #[arg(long, env = "MEETPOINT_RELAY_ALLOCATIONS", value_name = "N", default_value = "8192", value_parser = super::count)]
    pub relay_allocations: NonZeroU32,
    /// Allocations of one user.
    #[arg(long, env = "MEETPOINT_RELAY_ALLOCATIONS_PER_USER", value_name = "N", default_value = "16", value_parser = super::count)]
    pub relay_allocations_per_user: NonZeroU32,
    /// Allocations from one source (an IPv4 address or an IPv6 /64).
    #[arg(long, env = "MEETPOINT_RELAY_ALLOCATIONS_PER_SOURCE", value_name = "N", default_value = "512", value_parser = super::count)]
    pub relay_allocations_per_source: NonZeroU32,
    /// Permissions of one allocation, and as many channels.
    #[arg(long, env = "MEETPOINT_RELAY_PEERS", value_name = "N", default_value = "128", value_parser = super::small_count)]
    pub relay_peers: NonZeroU16,
    /// Bytes a second that one allocation relays, both ways together. All rates take k, M and G.
    #[arg(long, env = "MEETPOINT_RELAY_RATE", value_name = "BYTES", default_value = "12.5M", value_parser = bytes)]
    pub relay_rate: NonZeroU64,
    /// Bytes a second that one user's allocations relay.
    #[arg(long, env = "MEETPOINT_RELAY_RATE_PER_USER", value_name = "BYTES", default_value = "25M", value_parser = bytes)]
    pub relay_rate_per_user: NonZeroU64,
    /// Bytes a second that one source's allocations relay.
    #[arg(long, env = "MEETPOINT_RELAY_RATE_PER_SOURCE", value_name = "BYTES", default_value = "62.5M", value_parser = bytes)]
    pub relay_rate_per_source: NonZeroU64,
    /// Bytes a second that the server relays.
    #[arg(long, env = "MEETPOINT_RELAY_RATE_TOTAL", value_name = "BYTES", default_value = "125M", value_parser = bytes)]
    pub relay_rate_total: NonZeroU64,
}

impl QuotaArgs {
    /// What the machine is told.
    pub(super) fn limits(&self) -> Limits {
        let budget = self.stun_budget.get();
        let answers = |per_s: u32| Rate::new(per_s, per_s.saturating_mul(2));
        let defaults = Limits::default();
        Limits {
            source: answers(budget),
            amplified: answers(budget.saturating_mul(5)),
            redirected: answers(budget),
            relay: RelayLimits {
                allocations_per_user: self.relay_allocations_per_user.get(),
                allocations_per_source: self.relay_allocations_per_source.get(),
                allocations: self.relay_allocations.get(),
                permissions: self.relay_peers.get(),
                channels: self.relay_peers.get(),
                permissions_total: self.relay_allocations.get().saturating_mul(8),
                channels_total: self.relay_allocations.get().saturating_mul(8),
                rate: byte_rate(self.relay_rate),
                rate_per_user: byte_rate(self.relay_rate_per_user),
                rate_per_source: byte_rate(self.relay_rate_per_source),
                rate_total: byte_rate(self.relay_rate_total),
            },
            ..defaults
        }
    }
}

fn byte_rate(per_s: NonZeroU64) -> ByteRate {
    ByteRate::new(per_s.get(), (per_s.get() / BURSTS_PER_S).max(MIN_BURST_BYTES))
}

/// A number of bytes, with a decimal prefix if it has one: `500k`, `12.5M`.
fn bytes(text: &str) -> Result<NonZeroU64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(number) if text.ends_with('k') => (number, 1_000),
        Some(number) if text.ends_with('M') => (number, 1_000_000),
        Some(number) => (number, 1_000_000_000),
        None => (text, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    // Nine digits behind the point are as many as the largest unit has.
    let is_good = !whole.is_empty() && is_number(whole) && is_number(fraction) && fraction.len() <= 9;
    let value = is_good.then(|| {
        let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
        let whole: u64 = whole.parse().ok()?;
        // At most 10^18.
        whole.checked_mul(unit)?.checked_add(fraction * unit / 1_000_000_000)
    });
    let value = value.flatten().and_then(NonZeroU64::new);
    value.ok_or_else(|| "expected bytes a second, at least 1, for example 500k, 12.5M or 1G".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        quotas: QuotaArgs,
    }

    #[test]
    fn what_nothing_is_said_of_is_as_the_machine_has_it() {
        let flags = Flags::parse_from(["flags"]);
        assert_eq!(flags.quotas.limits(), Limits::default());
    }

    #[test]
    fn byte_table() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(bytes(text).ok().map(NonZeroU64::get), expect, "{text:?}");
        };
        check("1", Some(1));
        check("500k", Some(500_000));
        check("12.5M", Some(12_500_000));
        check("1G", Some(1_000_000_000));
        check("1.000000001G", Some(1_000_000_001));
        check("18446744073709551615", Some(u64::MAX));
        for bad in
            ["", "0", "0.4", ".5M", "-1", "+1", "1.2.3", "1 M", "M", "1m", "99999999999G", "1.0000000001G"]
        {
            check(bad, None);
        }
    }
}
