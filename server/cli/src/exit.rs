//! How a command ends when it does not end well.

use std::fmt::Display;
use std::process::ExitCode;

use crate::signals::StopSignal;

/// No server answered.
const NO_SERVER: u8 = 4;
/// Bad usage or configuration.
const USAGE: u8 = 2;

/// A failure with its exit code. The message says what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    is_temporary: bool,
}

impl Failure {
    /// Something went wrong: exit code 1.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string(), is_temporary: false }
    }

    /// Bad usage or configuration: exit code 2.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: USAGE, message: message.to_string(), is_temporary: false }
    }

    /// The cluster said no: exit code 3.
    pub(crate) fn rejected(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string(), is_temporary: false }
    }

    /// No server answered: exit code 4.
    pub(crate) fn no_server(message: impl Display) -> Self {
        Self { code: NO_SERVER, message: message.to_string(), is_temporary: false }
    }

    /// It was told to stop before it was done: 128 and the signal's number, as shells have it.
    pub(crate) fn stopped(by: StopSignal, message: impl Display) -> Self {
        let code = match by {
            StopSignal::Interrupt => 130,
            StopSignal::Terminate => 143,
        };
        Self { code, message: message.to_string(), is_temporary: false }
    }

    /// It may go well if it is tried again later.
    pub(crate) fn temporary(mut self) -> Self {
        self.is_temporary = true;
        self
    }

    /// Whether it may.
    pub(crate) fn is_temporary(&self) -> bool {
        self.is_temporary || self.code == NO_SERVER
    }

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says it on stderr.
    pub(crate) fn report(self) -> ExitCode {
        let message = match self.code {
            // One line, for whoever reads the end of a log.
            USAGE => self.message.lines().map(str::trim).collect::<Vec<_>>().join(" "),
            _ => self.message,
        };
        eprintln!("meetpoint: {message}");
        ExitCode::from(self.code)
    }
}
