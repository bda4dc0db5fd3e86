//! Times short rounds of a thing and prints the median and the best.

use std::time::Instant;

/// Rounds and runs in each, when measuring.
const MEASURED: (usize, u32) = (301, 2_000);
/// The same when only shown to work, as `cargo test --all-targets` does.
const SHOWN: (usize, u32) = (1, 10);

/// Rounds, and runs in each.
pub(crate) fn extent() -> (usize, u32) {
    if std::env::args().any(|arg| arg == "--bench") { MEASURED } else { SHOWN }
}

/// True if the arguments do not leave this one out.
pub(crate) fn is_wanted(name: &str) -> bool {
    std::env::args().skip(1).all(|arg| arg.starts_with("--") || name.contains(&arg))
}

/// Nanoseconds each run took: the median and the best round.
pub(crate) fn measure(rounds: usize, requests: u32, mut run: impl FnMut()) -> String {
    let round = |_| {
        let start = Instant::now();
        (0..requests).for_each(|_| run());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(requests)
    };
    let mut times: Vec<f64> = (0..rounds).map(round).collect();
    times.sort_by(f64::total_cmp);
    format!("median {:>7.1} ns  best {:>7.1} ns", times[rounds / 2], times[0])
}
