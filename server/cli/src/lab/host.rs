//! A machine of the lab.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;

use super::tools::Tools;
use super::{LabError, namespace};

/// A handle to one host of a [`Lab`](super::Lab). It may outlive its lab, but then nothing can be run on it any more.
#[derive(Debug, Clone)]
pub struct Host {
    tools: Arc<Tools>,
    namespace: String,
    addr: Ipv4Addr,
    public_addr: Ipv4Addr,
}

impl Host {
    pub(super) fn new(tools: &Arc<Tools>, namespace: &str, addr: Ipv4Addr, public_addr: Ipv4Addr) -> Self {
        Self { tools: Arc::clone(tools), namespace: namespace.to_owned(), addr, public_addr }
    }

    /// The name of the host's namespace, as `ip netns` shows it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The host's own address: for the server, the first of [`SERVER_ADDRS`](super::SERVER_ADDRS).
    #[must_use]
    pub const fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// The address under which the public network sees this host.
    #[must_use]
    pub const fn public_addr(&self) -> Ipv4Addr {
        self.public_addr
    }

    /// A command that will run `program` on this host, to be given its arguments and spawned, for example by
    /// [`Process::spawn`](super::Process::spawn). The child's process id is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.tools.exec(&self.namespace);
        command.arg(program);
        command
    }

    /// Runs a closure on a fresh thread of this process that is on this host, and waits for it.
    ///
    /// A socket made inside may be returned and used anywhere: it stays on this host. An async runtime started inside
    /// must be a current-thread one, because threads it starts itself inherit the namespace but those of an outer
    /// runtime are not in it.
    ///
    /// # Errors
    ///
    /// [`LabError::Namespace`] if the lab is gone or the thread cannot enter it.
    ///
    /// # Panics
    ///
    /// A panic of the closure goes on in the caller.
    pub fn run_in<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        namespace::enter(&self.namespace, inside)
    }
}
