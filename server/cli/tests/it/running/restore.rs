//! A restoration that is killed, refused, or tried on a server that runs.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::backup::{INTERRUPTED, interrupt};
use super::server::{Server, look, meetpoint, run};
use crate::scratch::Scratch;

/// Restorations that are killed.
const KILLS: u32 = 24;
/// And interrupted.
const INTERRUPTS: u32 = 16;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A data directory with one token of this label, and a backup of it.
fn prepared(dir: &Path, label: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let (data, file) = (dir.join(label), dir.join(format!("{label}.backup")));
    let mut server = Server::start(&data, 0);
    let body = format!("{{\"label\":\"{label}\"}}");
    let made = server.caller().call("POST", "/v1/clusters/default/join-tokens", &body).expect("an answer");
    assert_eq!(made.0, 201);
    let output = server.operate(&["backup"]).arg(&file).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = run(&["restore", "--force", "--data", text(&data), text(&file)]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("another server uses"), "{said}");
    server.process.terminate().expect("a clean end");
    (data, file)
}

fn labels(data: &Path) -> Vec<String> {
    look(&data.join("meetpoint.db")).tokens.into_values().collect()
}

fn join_token(data: &Path) -> String {
    std::fs::read_to_string(data.join("join-token")).expect("a token")
}

/// At whatever moment: what is opened next is the old directory or the new one, all of it.
#[test]
fn a_killed_restoration_is_done_or_undone() {
    let dir = Scratch::new();
    let (old, _) = prepared(dir.path(), "w0-1");
    let (new, file) = prepared(dir.path(), "w1-1");
    let tokens = [join_token(&old), join_token(&new)];
    let whole = Instant::now();
    let copy = dir.path().join("copy");
    let begin = |data: &Path| {
        let mut command = meetpoint();
        command.args(["restore", "--force", "--data", text(data), text(&file)]).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().expect("it starts")
    };
    let fresh = || {
        std::fs::remove_dir_all(&copy).unwrap_or_default();
        let copied = Command::new("cp").arg("-a").arg(&old).arg(&copy).status().expect("cp runs");
        assert!(copied.success());
    };
    fresh();
    assert!(begin(&copy).wait().expect("an end").success());
    let span = whole.elapsed();
    let mut outcomes = [0, 0];
    for kill in 0..KILLS {
        fresh();
        let mut process = begin(&copy);
        std::thread::sleep(span * kill / KILLS);
        process.kill().expect("a kill");
        process.wait().expect("an end");
        // Whoever opens the directory next finishes what was decided; this one then refuses to go on.
        let next = run(&["restore", "--data", text(&copy), text(&file)]);
        assert_eq!(next.status.code(), Some(2), "{}", String::from_utf8_lossy(&next.stderr));
        let is_new = labels(&copy) == ["w1-1"];
        assert!(is_new || labels(&copy) == ["w0-1"], "{:?}", labels(&copy));
        assert_eq!(
            join_token(&copy),
            tokens[usize::from(is_new)],
            "one directory's registry with the other's keys"
        );
        outcomes[usize::from(is_new)] += 1;
        if is_new {
            assert_eq!(labels(&copy.join("replaced")), ["w0-1"], "what was there is kept");
        }
    }
    println!("killed within {span:.0?}: {} undone, {} done", outcomes[0], outcomes[1]);
    assert!(outcomes[0] > 0, "no kill came early enough");
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = dir.read_dir().expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Ctrl-C at whatever moment: it says that nothing was changed, and that is so; or it was done before.
#[test]
fn an_interrupted_restoration_changes_nothing() {
    let dir = Scratch::new();
    let (old, _) = prepared(dir.path(), "w0-1");
    let (_, file) = prepared(dir.path(), "w1-1");
    let copy = dir.path().join("copy");
    let (mut span, mut interrupted) = (Duration::ZERO, 0);
    for at in 0..=INTERRUPTS {
        std::fs::remove_dir_all(&copy).unwrap_or_default();
        let copied = Command::new("cp").arg("-a").arg(&old).arg(&copy).status().expect("cp runs");
        assert!(copied.success());
        let before = names(&copy);
        let begun = Instant::now();
        let mut command = meetpoint();
        command.args(["restore", "--force", "--data", text(&copy), text(&file)]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        // The first one shows how long it takes.
        if at > 0 {
            std::thread::sleep(span * at / (INTERRUPTS + 1));
            interrupt(&process);
        }
        let status = process.wait().expect("an end");
        let mut said = String::new();
        process.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        if status.success() {
            assert_eq!(labels(&copy), ["w1-1"]);
            span = if at == 0 { begun.elapsed() } else { span };
            continue;
        }
        // By the signal itself, before it listens to signals.
        assert!(status.code().is_none() || status.code() == Some(INTERRUPTED), "{status}: {said}");
        assert!(status.code().is_none() || said.contains("interrupted; nothing was changed"), "{said}");
        assert_eq!(names(&copy), before, "something is left behind");
        assert_eq!((labels(&copy), join_token(&copy)), (vec!["w0-1".to_owned()], join_token(&old)));
        interrupted += usize::from(status.code().is_some());
    }
    assert!(interrupted > 0, "no signal came in time");
}

#[test]
fn a_registry_is_replaced_only_by_force() {
    let dir = Scratch::new();
    let (old, _) = prepared(dir.path(), "w0-1");
    let (_, file) = prepared(dir.path(), "w1-1");
    let before = std::fs::read(old.join("meetpoint.db")).expect("a registry");
    let refused = run(&["restore", "--data", text(&old), text(&file)]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(old.join("meetpoint.db")).expect("a registry"), before);
    for kept in ["replaced", "replaced.1"] {
        let restored = run(&["restore", "--force", "--data", text(&old), text(&file)]);
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        assert!(old.join(kept).join("meetpoint.db").exists(), "{kept}");
    }
    let mut server = Server::start(&old, 0);
    assert_eq!(labels(&old), ["w1-1"]);
    server.process.terminate().expect("a clean end");
}
