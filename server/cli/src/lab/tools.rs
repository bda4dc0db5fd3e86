//! The two programs that build the lab: `ip` and `nft`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::LabError;

/// Where Debian keeps administrators' programs, which the search path of a `su` shell may lack.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The programs found on this machine.
#[derive(Debug)]
pub(super) struct Tools {
    ip: PathBuf,
    nft: PathBuf,
}

impl Tools {
    pub(super) fn find() -> Result<Self, LabError> {
        Ok(Self { ip: find("ip", "iproute2")?, nft: find("nft", "nftables")? })
    }

    /// The port-mapping service, which only some routers need.
    pub(super) fn portal() -> Result<PathBuf, LabError> {
        find("miniupnpd", "miniupnpd")
    }

    /// Runs a batch of `ip` commands, one a line, inside a namespace or, for what spans several, outside.
    pub(super) fn ip(&self, namespace: Option<&str>, batch: &str) -> Result<(), LabError> {
        let mut command = Command::new(&self.ip);
        if let Some(namespace) = namespace {
            command.args(["-netns", namespace]);
        }
        feed(command.args(["-batch", "-"]), batch)
    }

    /// Loads a rule set into a namespace, all of it or nothing.
    pub(super) fn nft(&self, namespace: &str, rules: &str) -> Result<(), LabError> {
        let mut command = self.exec(namespace);
        feed(command.arg(&self.nft).args(["-f", "-"]), rules)
    }

    /// A command line that still lacks the program to run inside the namespace. `ip` replaces itself by that program,
    /// so the child's process id is the program's.
    pub(super) fn exec(&self, namespace: &str) -> Command {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", namespace]);
        command
    }
}

fn find(tool: &'static str, package: &'static str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ADMIN_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|candidate| candidate.is_file())
        .ok_or(LabError::MissingTool { tool, package })
}

/// Runs a command with `input` on its standard input and turns failure into its own words.
fn feed(command: &mut Command, input: &str) -> Result<(), LabError> {
    let mut run = || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        // A tool that gave up early closes the pipe; what it wrote to stderr says more than the broken pipe does.
        child.wait_with_output().map(|output| (fed, output))
    };
    let outcome: std::io::Result<_> = run();
    let reason = match outcome {
        Ok((Ok(()), output)) if output.status.success() => return Ok(()),
        Ok((_, output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(LabError::Tool { command: format!("{command:?}"), reason })
}
