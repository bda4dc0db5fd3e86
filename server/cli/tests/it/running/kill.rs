//! SIGKILL, again and again, while many write.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::server::{PATIENCE, Server, look, run};
use super::writers::{Acknowledged, WRITERS, Writers, check};
use crate::scratch::Scratch;

/// Kills of an ordinary run, some 15 seconds; another number with the environment variable.
const KILLS: u32 = 100;
const MORE: &str = "MEETPOINT_KILLS";
/// Which moments are drawn; another one with the environment variable.
const SEED: u64 = 1;
const OTHER_SEED: &str = "MEETPOINT_KILL_SEED";
/// The server is killed within so many milliseconds after the first write was answered.
const SPAN_MS: u64 = 60;

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[test]
fn no_acknowledged_write_is_lost() {
    let (kills, mut moments) = (number(MORE, KILLS), number(OTHER_SEED, SEED));
    let dir = Scratch::new();
    let data = dir.path().join("data");
    let mut states = vec![Acknowledged::default(); WRITERS];
    let (begin, mut starting, mut cut) = (Instant::now(), Duration::ZERO, 0);
    for _ in 0..kills {
        let start = Instant::now();
        let mut server = Server::start(&data, 0);
        starting += start.elapsed();
        let writers = Writers::start(&server, states);
        let deadline = Instant::now() + PATIENCE;
        while writers.answered.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "{}", server.process.output());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(draw(&mut moments) % SPAN_MS));
        server.process.kill().expect("a kill");
        states = writers.stop();
        cut += states.iter().filter(|state| state.open_put).count();
        check(&mut states, &look(&data.join("meetpoint.db")));
    }
    let mut server = Server::start(&data, 0);
    check(&mut states, &look(&data.join("meetpoint.db")));
    server.process.terminate().expect("a clean end");
    let verified = run(&["audit", "verify", "--data", data.to_str().expect("UTF-8")]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let [tokens, puts] = [
        states.iter().map(|state| state.tokens.len()).sum::<usize>(),
        states.iter().map(|state| state.puts as usize).sum::<usize>(),
    ];
    assert!(tokens > 0 && puts > 0 && cut > 0, "the kills came when nobody wrote");
    println!(
        "{kills} kills in {:.1?}, {:.0?} to start; {tokens} tokens and {puts} puts acknowledged, {cut} puts cut off",
        begin.elapsed(),
        starting / kills.max(1),
    );
}
