//! Network namespaces: how they are made, entered and removed, also after their owner was killed.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabError;
use super::tools::Tools;

/// Where `ip netns` keeps its names.
const NAMESPACE_DIR: &str = "/run/netns";

/// Every name is this, the lab's own word, and a role.
const PREFIX: &str = "mp";

/// Where a lab says that it lives: a file of its word's name, which it holds locked. The kernel unlocks it when its
/// owner dies, however that comes about. Numbers of processes would not do: where machines in containers share their
/// names of namespaces, each counts its processes for itself.
const CLAIM_DIR: &str = "/run/meetpoint-lab";

/// The letters of a lab's word: 32 bits in hexadecimal.
const WORD_LEN: usize = 8;

/// Words that are drawn until one is free: each draw fails by chance once in four billion.
const DRAWS: u32 = 8;

/// A lab's word, which is its own for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    word: String,
    /// Locked.
    _file: File,
}

impl Claim {
    /// Draws a word, and removes what dead labs left behind.
    pub(super) fn new() -> Result<Self, LabError> {
        let failed = |error: io::Error| LabError::namespace(CLAIM_DIR, "claiming a name", &error);
        fs::create_dir_all(CLAIM_DIR).map_err(failed)?;
        sweep();
        let mut last = io::ErrorKind::AlreadyExists.into();
        for _ in 0..DRAWS {
            match Self::draw() {
                Ok(claim) => return Ok(claim),
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    fn draw() -> io::Result<Self> {
        let mut random = [0; WORD_LEN / 2];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let word = format!("{:08x}", u32::from_be_bytes(random));
        let path = claim_path(&word);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.lock()?;
        // A sweep may have come between the two and have taken it for a dead one's.
        if fs::metadata(&path)?.st_ino() == file.metadata()?.st_ino() {
            Ok(Self { word, _file: file })
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    pub(super) fn word(&self) -> &str {
        &self.word
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The next sweep removes what is left.
        let _ = fs::remove_file(claim_path(&self.word));
    }
}

fn claim_path(word: &str) -> PathBuf {
    Path::new(CLAIM_DIR).join(word)
}

/// A named network namespace whose loopback is up. Dropping it kills what still runs inside and removes the name; the
/// kernel then takes down its devices.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn create(tools: &Tools, claim: &Claim, role: &str) -> Result<Self, LabError> {
        let name = format!("{PREFIX}{}-{role}", claim.word());
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

/// Removes what labs left behind whose owners are dead: nobody holds their claims locked. What has no claim is not a
/// lab's, or one's whose claim can't be seen from here, and stays.
fn sweep() {
    let claims = fs::read_dir(CLAIM_DIR).into_iter().flatten().flatten();
    for word in claims.filter_map(|entry| entry.file_name().into_string().ok()) {
        let path = claim_path(&word);
        let Ok(claim) = File::open(&path) else { continue };
        if claim.try_lock().is_err() {
            continue;
        }
        let names = fs::read_dir(NAMESPACE_DIR).into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            if owner(&name) == Some(&word) {
                remove(&name);
            }
        }
        // Still locked, so that nobody takes it for his own meanwhile.
        let _ = fs::remove_file(path);
    }
}

/// The word in a lab's namespace name, and `None` for every other name.
fn owner(name: &str) -> Option<&str> {
    let (word, role) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_word = word.len() == WORD_LEN && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_word && !role.is_empty()).then_some(word)
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
        let check = |name: &str, expected: Option<&str>| assert_eq!(owner(name), expected, "{name}");
        check("mp00c0ffee-server", Some("00c0ffee"));
        check("mp00c0ffee-host1x2", Some("00c0ffee"));
        check("mp00c0ffee-", None);
        check("mp00c0ffee", None);
        check("mp-server", None);
        check("mptcp-1-2", None);
        check("mp00c0ffe-server", None);
        check("mp00c0ffex-server", None);
        check("xmp00c0ffee-server", None);
        check("", None);
    }
}
