//! How far something is that takes long: a line on a terminal, which goes away when it is done.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A terminal needs no more often.
const REDRAW: Duration = Duration::from_millis(100);
/// Of the bar, in characters.
const WIDTH: u64 = 30;

/// A line on stderr, if that is a terminal.
pub(crate) struct Progress {
    is_shown: bool,
    drawn: Cell<Option<Instant>>,
    stage: Cell<&'static str>,
}

impl Progress {
    /// Nothing is drawn yet.
    pub(crate) fn new() -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), drawn: Cell::new(None), stage: Cell::new("") }
    }

    /// `done` of `total`; a total of 0 is one that nobody knows.
    pub(crate) fn tell(&self, stage: &'static str, done: u64, total: u64) {
        let is_new = self.stage.replace(stage) != stage;
        let is_due = self.drawn.get().is_none_or(|at| at.elapsed() >= REDRAW);
        if !self.is_shown || !(is_new || is_due) {
            return;
        }
        self.drawn.set(Some(Instant::now()));
        draw(&line(stage, done, total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.get().is_some() {
            draw("");
        }
    }
}

fn draw(text: &str) {
    let mut out = std::io::stderr().lock();
    // A terminal that went away is no reason to end.
    let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
}

fn line(stage: &str, done: u64, total: u64) -> String {
    if total == 0 {
        return if done == 0 { format!("{stage} ...") } else { format!("{stage} {done} ...") };
    }
    let share = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total));
    let filled = usize::try_from(share(WIDTH).unwrap_or(0)).unwrap_or(0);
    let rest = usize::try_from(WIDTH).unwrap_or(0) - filled;
    format!("{stage} [{}{}] {}%", "#".repeat(filled), ".".repeat(rest), share(100).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines() {
        assert_eq!(line("copying", 0, 0), "copying ...");
        assert_eq!(line("checking", 7, 0), "checking 7 ...");
        assert_eq!(line("copying", 1, 2), format!("copying [{}{}] 50%", "#".repeat(15), ".".repeat(15)));
        assert_eq!(line("copying", u64::MAX, 3), format!("copying [{}] 100%", "#".repeat(30)));
    }
}
