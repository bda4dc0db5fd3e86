//! Network namespaces: how they are made, entered and removed, also after their owner was killed.

use std::fmt::Display;
use std::fs::{self, File};
use std::os::linux::fs::MetadataExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabError;
use super::tools::Tools;

/// Where `ip netns` keeps its names.
const NAMESPACE_DIR: &str = "/run/netns";

/// Every name is this, the id of the owning process, the number of the lab within that process, and a role.
const PREFIX: &str = "mp";

/// How many labs this process has begun.
static LABS_BEGUN: Mutex<u32> = Mutex::new(0);

/// A named network namespace whose loopback is up. Dropping it kills what still runs inside and removes the name; the
/// kernel then takes down its devices.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn create(tools: &Tools, lab: u32, role: &str) -> Result<Self, LabError> {
        let name = format!("{PREFIX}{}-{lab}-{role}", std::process::id());
        match tools.ip(None, &format!("netns add {name}\n")) {
            Err(LabError::Tool { reason, .. }) if reason.contains("Operation not permitted") => {
                return Err(LabError::Refused { reason });
            }
            outcome => outcome?,
        }
        let namespace = Self { name };
        tools.ip(Some(&namespace.name), "link set lo up\n")?;
        Ok(namespace)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Takes the next lab number and removes what dead processes left behind.
///
/// The first lab of a process also removes names that carry its own id: they are those of a dead process whose id the
/// kernel has given out again.
pub(super) fn begin_lab() -> u32 {
    let mut labs_begun = LABS_BEGUN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let number = *labs_begun;
    *labs_begun += 1;
    let names = fs::read_dir(NAMESPACE_DIR).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|pid| is_left_over(pid, number)) {
            remove(&name);
        }
    }
    number
}

/// Whether a process id that names a lab is that of a dead process.
fn is_left_over(pid: u32, labs_begun: u32) -> bool {
    if pid == std::process::id() {
        labs_begun == 0
    } else {
        !Path::new("/proc").join(pid.to_string()).exists()
    }
}

/// The process id in a lab's namespace name, and `None` for every other name.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    let _lab: u32 = parts.next()?.parse().ok()?;
    parts.next().map(|_role| pid)
}

/// Runs a closure on a fresh thread inside a namespace and hands back what it returns; its panic becomes the caller's.
/// A socket made in there keeps belonging to that namespace wherever it is used later.
pub(super) fn enter<R: Send>(name: &str, inside: impl FnOnce() -> R + Send) -> Result<R, LabError> {
    let failed = |what: &str, error: &dyn Display| LabError::namespace(name, what, error);
    let namespace = File::open(path(name)).map_err(|error| failed("opening it", &error))?;
    let run = || setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| inside());
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, run)
            .map_err(|error| failed("starting a thread", &error))?;
        match thread.join() {
            Ok(outcome) => outcome.map_err(|error| failed("entering it", &error)),
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMESPACE_DIR).join(name)
}

/// Removes one namespace and everything in it. Another process may be sweeping the same name, so that it is already
/// gone is no failure, and any other failure leaves the name to the next sweep.
fn remove(name: &str) {
    let path = path(name);
    kill_inhabitants(&path);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_file(&path)
        && path.exists()
    {
        tracing::warn!(namespace = name, %error, "could not remove a namespace of the lab");
    }
}

/// Kills every process whose namespace this is: a namespace lives, unnamed, as long as a process in it does.
fn kill_inhabitants(namespace: &Path) {
    let Ok(doomed) = fs::metadata(namespace) else { return };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let inhabited = fs::metadata(process.path().join("ns/net"));
        if let (Some(pid), Ok(inhabited)) = (pid, inhabited)
            && (inhabited.st_dev(), inhabited.st_ino()) == (doomed.st_dev(), doomed.st_ino())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labs_own_names_have_an_owner() {
        let check = |name: &str, expected: Option<u32>| assert_eq!(owner(name), expected, "{name}");
        check("mp4711-0-server", Some(4711));
        check("mp4711-12-host1x2", Some(4711));
        check("mp4711-0", None);
        check("mp4711", None);
        check("mp-0-server", None);
        check("mptcp-1-2", None);
        check("mp1x-0-server", None);
        check("xmp4711-0-server", None);
        check("", None);
    }
}
