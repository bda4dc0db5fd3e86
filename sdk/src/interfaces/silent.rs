//! A system that does not tell of changes, or has not been asked to.

use std::io;

/// See the module.
pub(super) enum Changes {}

impl Changes {
    pub(super) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) async fn wait(&self) {
        match *self {}
    }

    pub(super) fn drain(&self) {
        match *self {}
    }
}
