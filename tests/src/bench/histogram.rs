//! Latencies, counted in buckets whose width grows with the value.

use std::time::Duration;

/// Each power of two is cut into this many buckets, so a quantile is at most 1.6 % off.
const BUCKETS_PER_OCTAVE: u64 = 64;
const OCTAVE_BITS: u32 = BUCKETS_PER_OCTAVE.trailing_zeros();
/// Enough for every 64-bit number of nanoseconds.
const BUCKETS: usize = (65 - OCTAVE_BITS as usize) * BUCKETS_PER_OCTAVE as usize;

/// How often each latency occurred.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        // 584 years fit.
        self.counts[bucket(latency.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The latency that this share of all does not exceed, 0 < `share` <= 1. Of all are also those that are `missing`
    /// here because they had no end: nothing is returned if they are among the share, or if nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64, missing: u64) -> Option<Duration> {
        let rank = (((self.total + missing) as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_nanos(upper_bound(index)));
            }
        }
        None
    }
}

/// Values below [`BUCKETS_PER_OCTAVE`] have a bucket each; above, the highest bits choose.
fn bucket(nanos: u64) -> usize {
    let octave = (u64::BITS - nanos.leading_zeros()).saturating_sub(OCTAVE_BITS + 1);
    (u64::from(octave) * BUCKETS_PER_OCTAVE + (nanos >> octave)) as usize
}

/// The largest value of a bucket.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    let octave = (index / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let first = (index - octave * BUCKETS_PER_OCTAVE) << octave;
    first + ((1 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket() {
        let mut last = None;
        for nanos in (0..200_000).chain([1 << 40, u64::MAX - 1, u64::MAX]) {
            let index = bucket(nanos);
            assert!(index < BUCKETS, "{nanos}");
            let upper = upper_bound(index);
            assert!(nanos <= upper && upper - nanos <= nanos / 32, "{nanos} in a bucket up to {upper}");
            assert!(last.is_none_or(|last| last <= index), "{nanos}");
            last = Some(index);
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5, 0), None);
        for nanos in 1..=60 {
            histogram.record(Duration::from_nanos(nanos));
        }
        let check = |share: f64, nanos: u64| {
            assert_eq!(histogram.quantile(share, 0), Some(Duration::from_nanos(nanos)), "{share}");
        };
        check(0.001, 1);
        check(0.5, 30);
        check(0.99, 60);
        check(1.0, 60);
        assert_eq!(histogram.total(), 60);
        assert_eq!(histogram.quantile(0.5, 60), Some(Duration::from_nanos(60)));
        assert_eq!(histogram.quantile(0.51, 60), None);
    }
}
