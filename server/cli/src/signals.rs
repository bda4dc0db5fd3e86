//! The two signals that mean "stop", and the one that means "read your certificate again".

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failure;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// From a terminal: SIGINT.
    Interrupt,
    /// From whoever manages services: SIGTERM.
    Terminate,
}

/// Waits for SIGINT or SIGTERM. Made before any work, so that none is lost.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Self, Failure> {
        let hook =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("no signal handler: {error}")));
        Ok(Self { interrupt: hook(SignalKind::interrupt())?, terminate: hook(SignalKind::terminate())? })
    }

    pub(crate) async fn wait(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

/// What SIGHUP says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// An operator or a script asks to read files again.
    Reload,
    /// The terminal this process was started from is gone, and with it whoever watched.
    Goodbye,
}

/// Waits for SIGHUP.
pub(crate) struct Hangups {
    signal: Signal,
    has_terminal: bool,
}

impl Hangups {
    pub(crate) fn new() -> Result<Self, Failure> {
        let hook = signal(SignalKind::hangup());
        let signal = hook.map_err(|error| Failure::failed(format!("no signal handler: {error}")))?;
        Ok(Self { signal, has_terminal: std::io::stdin().is_terminal() })
    }

    pub(crate) async fn next(&mut self) -> Hangup {
        if self.signal.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        // A terminal that was closed is none any more.
        if self.has_terminal && !std::io::stdin().is_terminal() { Hangup::Goodbye } else { Hangup::Reload }
    }
}
