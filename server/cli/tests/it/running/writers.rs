//! Many who write at once, and remember what they were told.
//!
//! Each writes in an order of its own: its token `n`, then its seed at the port that stands for `n`, then the next.
//! So whatever is a consistent copy holds, of each, the first `k` tokens and the seed at `k` or at the one before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::server::{Caller, Found, Server};

/// How many write at once.
pub(crate) const WRITERS: usize = 6;
/// Each seed has ports of its own: an address is one seed's.
const PORTS: u16 = 8000;
/// A cluster has at most 10,000 tokens: more than so many in one run of the server are replaced by changes of the seed.
const TOKENS_A_RUN: u32 = 12;

/// What one writer was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged {
    /// The numbers of its tokens.
    pub(crate) tokens: BTreeSet<u32>,
    /// The number that was asked for last.
    pub(crate) asked: u32,
    /// How often its seed was put.
    pub(crate) puts: u32,
    /// The last put has no answer: it may have been done or not.
    pub(crate) open_put: bool,
}

pub(crate) fn label(writer: usize, number: u32) -> String {
    format!("w{writer}-{number}")
}

pub(crate) fn seed(writer: usize) -> String {
    format!("w{writer}")
}

/// Where a seed is after so many puts.
pub(crate) fn port(writer: usize, puts: u32) -> u16 {
    10_000 + PORTS * writer as u16 + (puts % u32::from(PORTS)) as u16
}

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    /// Answered writes of all.
    pub(crate) answered: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Acknowledged>>,
}

impl Writers {
    /// Goes on where they were.
    pub(crate) fn start(server: &Server, before: Vec<Acknowledged>) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let threads = before.into_iter().enumerate().map(|(writer, state)| {
            let (caller, stop, answered) = (server.caller(), Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || write(writer, state, caller, &stop, &answered))
        });
        Self { threads: threads.collect(), stop, answered }
    }

    /// Ends them, if the server's death has not.
    pub(crate) fn stop(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a writer")).collect()
    }
}

fn write(
    writer: usize,
    mut state: Acknowledged,
    mut caller: Caller,
    stop: &AtomicBool,
    answered: &AtomicU32,
) -> Acknowledged {
    let last = state.asked + TOKENS_A_RUN;
    while !stop.load(Ordering::Relaxed) {
        if state.asked < last {
            state.asked += 1;
            let body = format!("{{\"label\":\"{}\"}}", label(writer, state.asked));
            let Some((status, _)) = caller.call("POST", "/v1/clusters/default/join-tokens", &body) else {
                break;
            };
            assert_eq!(status, 201);
            state.tokens.insert(state.asked);
            answered.fetch_add(1, Ordering::Relaxed);
        }
        let puts = state.puts + 1;
        let body = format!("{{\"host\":\"127.0.0.1\",\"port\":{}}}", port(writer, puts));
        let path = format!("/v1/clusters/default/seeds/{}", seed(writer));
        state.open_put = true;
        let Some((status, answer)) = caller.call("PUT", &path, &body) else { break };
        assert!(status == 200 || status == 201, "{status} {answer}");
        (state.puts, state.open_put) = (puts, false);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    state
}

/// Nothing that was acknowledged is missing, and nothing is there that nobody asked for. What had no answer and is
/// there counts from now on.
pub(crate) fn check(states: &mut [Acknowledged], found: &Found) {
    let (tokens, audited) = (found.tokens.len(), found.audited_tokens);
    assert_eq!(tokens, audited, "a token without its entry in the audit log, or an entry alone");
    let mut known = 0;
    for (writer, state) in states.iter_mut().enumerate() {
        let there: BTreeSet<u32> = numbers(writer, found);
        let lost: Vec<&u32> = state.tokens.difference(&there).collect();
        assert!(lost.is_empty(), "writer {writer}: the tokens {lost:?} are lost");
        assert!(
            there.iter().all(|number| state.tokens.contains(number) || *number == state.asked),
            "{there:?}"
        );
        known += there.len();
        state.tokens = there;
        let at = found.seeds.get(&seed(writer)).copied();
        let open = Some(port(writer, state.puts + 1));
        if state.open_put && at == open {
            state.puts += 1;
        }
        state.open_put = false;
        let expected = (state.puts > 0).then(|| port(writer, state.puts));
        assert_eq!(at, expected, "writer {writer}");
    }
    assert_eq!(tokens, known, "tokens that nobody has asked for");
}

/// The numbers of a writer's tokens.
pub(crate) fn numbers(writer: usize, found: &Found) -> BTreeSet<u32> {
    let prefix = label(writer, 0);
    let prefix = prefix.trim_end_matches('0');
    found.tokens.values().filter_map(|label| label.strip_prefix(prefix)?.parse().ok()).collect()
}

/// What the check is for: it is not blind.
mod blindness {
    use std::collections::BTreeMap;

    use super::{Acknowledged, Found, check, label, port, seed};

    fn states() -> Vec<Acknowledged> {
        vec![Acknowledged { tokens: [1, 2].into(), asked: 3, puts: 2, open_put: false }]
    }

    fn found(tokens: &[u32], audited_tokens: usize, puts: u32) -> Found {
        let tokens = tokens.iter().map(|number| (number.to_string(), label(0, *number))).collect();
        Found { tokens, seeds: BTreeMap::from([(seed(0), port(0, puts))]), audited_tokens }
    }

    #[test]
    fn what_may_be_is_taken() {
        for tokens in [&[1, 2][..], &[1, 2, 3]] {
            check(&mut states(), &found(tokens, tokens.len(), 2));
        }
    }

    #[test]
    fn what_may_not_be_is_noticed() {
        for (what, found) in [
            ("a token is lost", found(&[1], 1, 2)),
            ("a token is nobody's", found(&[1, 2, 4], 3, 2)),
            ("a put is lost", found(&[1, 2], 2, 1)),
            ("a put is nobody's", found(&[1, 2], 2, 3)),
            ("a write is half done", found(&[1, 2], 1, 2)),
        ] {
            let noticed = std::panic::catch_unwind(|| check(&mut states(), &found));
            assert!(noticed.is_err(), "{what}");
        }
    }
}
