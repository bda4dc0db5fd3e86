//! How a command ends when it does not end well.

use std::fmt::Display;
use std::process::ExitCode;

/// A failure with its exit code. The message says what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Something went wrong: exit code 1.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Bad usage or configuration: exit code 2.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// The cluster said no: exit code 3.
    pub(crate) fn rejected(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// No server answered: exit code 4.
    pub(crate) fn no_server(message: impl Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says it on stderr.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("meetpoint: {}", self.message);
        ExitCode::from(self.code)
    }
}
