//! A child process that cannot outlive its owner, and whose output is waited for rather than slept for.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Lines of standard output that may wait to be asked for. Beyond that the child waits, as on any full pipe.
const STDOUT_QUEUE_LINES: usize = 10_000;

/// Lines kept to explain a failure, of either stream.
const TAIL_LINES: usize = 60;

/// A longer line is cut; the rest of it counts as the next line.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// How long SIGTERM gets to work.
const TERMINATION: Duration = Duration::from_secs(10);

/// How long an ended child's standard error is read on.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often a child that is to end is looked at.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Why a child did not do what was expected of it. Each carries the last lines of its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name} did not start: {source}")]
    Start {
        /// Name of the process.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// It did not write the line in time; it is still running.
    #[error("{name}: no {what} within {waited:?}\n{output}")]
    NoLine {
        /// Name of the process.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last lines of its output.
        output: Output,
    },
    /// It closed its standard output, most likely by ending, without writing the line.
    #[error("{name}: ended without {what}\n{output}")]
    Ended {
        /// Name of the process.
        name: String,
        /// What was waited for.
        what: String,
        /// The last lines of its output.
        output: Output,
    },
    /// It did not end in time; it is still running, unless it was asked to terminate.
    #[error("{name}: still running after {waited:?}\n{output}")]
    StillRunning {
        /// Name of the process.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// The last lines of its output.
        output: Output,
    },
    /// The operating system refused to signal it or to wait for it.
    #[error("{name}: {source}")]
    Io {
        /// Name of the process.
        name: String,
        /// The reason.
        source: io::Error,
    },
}

/// The last lines a process wrote.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Of its standard output, those that were already taken.
    pub stdout: Vec<String>,
    /// Of its standard error.
    pub stderr: Vec<String>,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stream, lines) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            writeln!(f, "--- last lines of its {stream} ---")?;
            for line in lines {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

/// The last lines of a stream.
#[derive(Debug, Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: String) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// A running child. Dropping it kills it with SIGKILL and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Receiver<String>,
    taken: Tail,
    stderr: Arc<Mutex<Tail>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a command with nothing on its standard input. `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Start`]. A program that does not exist inside a lab's host only shows by its early end.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self, ProcessError> {
        let start = |source| ProcessError::Start { name: name.to_owned(), source };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (lines, stdout) = sync_channel(STDOUT_QUEUE_LINES);
        let stderr = Arc::new(Mutex::new(Tail::default()));
        let pipes = (child.stdout.take(), child.stderr.take());
        let mut process = Self {
            name: name.to_owned(),
            child,
            stdout,
            taken: Tail::default(),
            stderr: Arc::clone(&stderr),
            stderr_reader: None,
        };
        if let (Some(out), Some(err)) = pipes {
            read_lines(format!("{name} stdout"), out, move |line| lines.send(line).is_ok()).map_err(start)?;
            let keep = move |line| {
                stderr.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                true
            };
            process.stderr_reader = Some(read_lines(format!("{name} stderr"), err, keep).map_err(start)?);
        }
        Ok(process)
    }

    /// The child's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of what the child wrote, to explain a failure.
    #[must_use]
    pub fn output(&self) -> Output {
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).lines();
        Output { stdout: self.taken.lines(), stderr }
    }

    /// Takes lines of standard output until `matcher` makes something of one. Lines before it are gone, so expect them
    /// in the order they come.
    ///
    /// # Errors
    ///
    /// [`ProcessError::NoLine`] or [`ProcessError::Ended`]; every line so far was taken.
    pub fn expect_line<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut matcher: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, ProcessError> {
        let deadline = Instant::now() + within;
        loop {
            let line = match self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    let (name, what) = (self.name.clone(), what.to_owned());
                    return Err(ProcessError::NoLine { name, what, waited: within, output: self.output() });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.finish_stderr();
                    let (name, what) = (self.name.clone(), what.to_owned());
                    return Err(ProcessError::Ended { name, what, output: self.output() });
                }
            };
            let made = matcher(&line);
            self.taken.push(line);
            if let Some(made) = made {
                return Ok(made);
            }
        }
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    ///
    /// [`ProcessError::StillRunning`] leaves it running.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.finish_stderr();
                    return Ok(status);
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(EXIT_POLL),
                Ok(None) => {
                    let name = self.name.clone();
                    return Err(ProcessError::StillRunning { name, waited: within, output: self.output() });
                }
                Err(source) => return Err(ProcessError::Io { name: self.name.clone(), source }),
            }
        }
    }

    /// Asks the child to end by SIGTERM and waits until it has. One that has already ended just tells how.
    ///
    /// # Errors
    ///
    /// [`ProcessError::StillRunning`] if it does not obey within ten seconds; it is then killed.
    pub fn terminate(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGTERM)?;
        let outcome = self.wait(TERMINATION);
        if outcome.is_err() {
            self.kill()?;
        }
        outcome
    }

    /// Kills the child by SIGKILL, as a power loss would, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Io`] if the operating system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        let io = |source| ProcessError::Io { name: self.name.clone(), source };
        self.child.kill().map_err(io)?;
        self.child.wait().map_err(io)
    }

    /// Sends a signal, unless the child was already reaped: its id may by then belong to another process.
    fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        let io = |source| ProcessError::Io { name: self.name.clone(), source };
        if self.child.try_wait().map_err(io)?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id())
            .map_err(|_| io(io::Error::other("the process id is too large")))?;
        kill(Pid::from_raw(pid), signal).map_err(|errno| io(errno.into()))
    }

    /// Gives the reader of standard error the moment it needs to take in what an ended child left in the pipe. A
    /// grandchild may hold the pipe open for ever, so it gets no more than that.
    fn finish_stderr(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.stderr_reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && Instant::now() < deadline
        {
            thread::sleep(EXIT_POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "could not kill a child");
        }
    }
}

/// Reads lines on a thread of its own until the stream ends or `keep` has no more use for them.
fn read_lines(
    thread_name: String,
    stream: impl Read + Send + 'static,
    keep: impl Fn(String) -> bool + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(thread_name).spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            if !keep(String::from_utf8_lossy(&line).trim_end().to_owned()) {
                return;
            }
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::spawn("script", Command::new("sh").args(["-c", script])).expect("sh starts")
    }

    #[test]
    fn lines_are_taken_in_order() {
        let mut script = shell("echo one; echo two; echo 3; sleep 60");
        let number = |line: &str| line.parse::<u32>().ok();
        assert_eq!(script.expect_line("a number", SOON, number).expect("3"), 3);
        assert_eq!(script.output().stdout, ["one", "two", "3"]);
    }

    #[test]
    fn a_missing_line_is_told_with_all_output() {
        let mut script = shell("echo something else; echo a reason >&2; exec >&-; sleep 60");
        let error = script.expect_line("greeting", SOON, |line| (line == "hello").then_some(())).unwrap_err();
        assert!(matches!(&error, ProcessError::Ended { .. }), "{error}");
        let told = error.to_string();
        assert!(["greeting", "something else"].iter().all(|part| told.contains(part)), "{told}");
        let mut silent = shell("sleep 60");
        let error = silent.expect_line("greeting", Duration::ZERO, |_| Some(())).unwrap_err();
        assert!(matches!(error, ProcessError::NoLine { .. }), "{error}");
    }

    #[test]
    fn an_early_end_is_told_with_its_last_words() {
        let mut script = shell("echo a reason >&2; exit 3");
        let error = script.expect_line("greeting", SOON, |_| Some(())).unwrap_err();
        assert!(
            matches!(&error, ProcessError::Ended { .. }) && error.to_string().contains("a reason"),
            "{error}"
        );
        assert_eq!(script.wait(SOON).expect("it has ended").code(), Some(3));
        assert_eq!(script.terminate().expect("ending twice is fine").code(), Some(3));
    }

    #[test]
    fn terminate_lets_it_clean_up_and_kill_does_not() {
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let ready = |line: &str| (line == "ready").then_some(());
        let mut polite = shell(script);
        polite.expect_line("readiness", SOON, ready).expect("ready");
        assert_eq!(polite.terminate().expect("it ends").code(), Some(7));
        let mut killed = shell(script);
        killed.expect_line("readiness", SOON, ready).expect("ready");
        assert_eq!(killed.kill().expect("it is gone").code(), None);
    }

    #[test]
    fn dropping_kills() {
        let mut script = shell("echo $$; exec sleep 60");
        let pid = script.expect_line("its id", SOON, |line| line.parse::<i32>().ok()).expect("its id");
        drop(script);
        assert!(kill(Pid::from_raw(pid), None).is_err(), "it is still there");
    }
}
