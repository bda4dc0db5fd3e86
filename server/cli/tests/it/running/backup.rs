//! A copy that is taken while many write.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::server::{Found, PATIENCE, Server, look, meetpoint, run};
use super::small_disk::{fill, on_a_small_disk};
use super::writers::{Acknowledged, WRITERS, Writers, numbers, port, seed};
use crate::scratch::Scratch;

/// Copies taken one after another.
const COPIES: usize = 3;
/// As shells tell of Ctrl-C: 128 and the signal's number.
pub(crate) const INTERRUPTED: i32 = 130;
/// What is left of a full disk for the entry of the audit log that tells of a backup: less than a copy takes.
const ROOM: u64 = 64 << 10;

/// One moment of all writers: each has its first tokens, and its seed is where that many tokens say, or at the one
/// before.
fn check_moment(found: &Found) -> Vec<u32> {
    assert_eq!(found.tokens.len(), found.audited_tokens);
    let mut counts = Vec::new();
    for writer in 0..WRITERS {
        let there = numbers(writer, found);
        let count = there.len() as u32;
        assert_eq!(there.into_iter().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>(), "writer {writer}");
        let at = found.seeds.get(&seed(writer)).copied();
        // Once there are as many tokens as a writer makes, only its puts go on.
        if count < 12 {
            let may_be = [count, count.saturating_sub(1)].map(|puts| (puts > 0).then(|| port(writer, puts)));
            assert!(may_be.contains(&at), "writer {writer}: {count} tokens and {at:?}");
        }
        counts.push(count);
    }
    counts
}

#[test]
fn a_copy_under_load_is_one_moment_and_makes_the_same_server() {
    let dir = Scratch::new();
    let mut server = Server::start(&dir.path().join("data"), 0);
    let token = std::fs::read_to_string(server.data.join("join-token")).expect("a token");
    let mut node = meetpoint();
    node.args(["node", "--json", "--name", "alice", "--retry-base", "100ms", "--retry-max", "500ms"]);
    node.args(["--rendezvous", &format!("https://{}", server.http)])
        .env("MEETPOINT_JOIN_TOKEN", token.trim());
    let mut node = Process::spawn("alice", &mut node).expect("it starts");
    let joined = |line: &str| line.contains("\"event\":\"joined\"").then_some(());
    node.expect_line("joined", PATIENCE, joined).unwrap_or_else(|error| panic!("{error}"));

    let writers = Writers::start(&server, vec![Acknowledged::default(); WRITERS]);
    let (mut last, mut written) = (vec![0; WRITERS], Vec::new());
    for copy in 0..COPIES {
        let file = dir.path().join(format!("{copy}.backup"));
        let before = writers.answered.load(Ordering::Relaxed);
        let output = server.operate(&["backup", "--json"]).arg(&file).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mode = file.metadata().expect("a backup").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let counts = check_moment(&look(&file));
        assert!(counts.iter().zip(&last).all(|(now, before)| now >= before), "{counts:?} after {last:?}");
        written.push(writers.answered.load(Ordering::Relaxed) - before);
        last = counts;
    }
    writers.stop();
    assert!(written.iter().all(|writes| *writes > 0), "nobody wrote meanwhile: {written:?}");
    println!("writes answered while each copy was taken: {written:?}");

    // The machine is lost. Another one gets what there is, and the node comes back to it by itself.
    let (port, fingerprint) = (server.http.port(), server.fingerprint.clone());
    server.process.kill().expect("a kill");
    let (again, file) = (dir.path().join("again"), dir.path().join(format!("{}.backup", COPIES - 1)));
    let restored = run(&["restore", "--json", "--data", text(&again), text(&file)]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let told: Value = serde_json::from_slice(&restored.stdout).expect("JSON");
    assert_eq!(told["fingerprint"], fingerprint.as_str());
    assert_eq!(check_moment(&look(&again.join("meetpoint.db"))), last);
    let mut server = Server::start(&again, port);
    assert_eq!(server.fingerprint, fingerprint);
    node.expect_line("joined again", PATIENCE, joined).unwrap_or_else(|error| panic!("{error}"));
    server.process.terminate().expect("a clean end");
    let verified = run(&[
        "audit",
        "verify",
        "--data",
        text(&again),
        "--head",
        told["audit_head"].as_str().expect("a head"),
    ]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let bytes = std::fs::read(again.join("meetpoint.db")).expect("a registry");
    let key = std::fs::read_to_string(again.join("tls/key.pem")).expect("a key");
    let line = key.lines().nth(1).expect("a line of the key");
    assert!(
        !bytes.windows(line.len()).any(|window| window == line.as_bytes()),
        "a registry holds no key of TLS"
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = dir
        .read_dir()
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Whatever goes wrong, there is no half of a backup.
#[test]
fn a_backup_is_whole_or_not_there() {
    let dir = Scratch::new();
    let mut server = Server::start(&dir.path().join("data"), 0);
    let target = dir.path().join("backups");
    std::fs::create_dir(&target).expect("a directory");
    let file = target.join("a");

    // A disk on which a few kilobytes fit.
    let command = server.operate(&["backup"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]).arg(command.get_program());
    let output = limited.args(command.get_args()).arg(&file).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("too large") && said.contains("nothing was written"), "{said}");
    assert!(names(&target).is_empty(), "{:?}", names(&target));

    // One that was killed leaves a part, which the next one takes away.
    std::fs::write(target.join("a.part"), "left").expect("written");
    for (flags, code) in [(&[][..], 0), (&[], 2), (&["--force"], 0)] {
        let output = server.operate(&["backup"]).args(flags).arg(&file).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(names(&target), ["a"]);
    }
    assert!(!server.data.join("backup.draft").exists());

    // What was changed on its way, or is something else, is no backup.
    let whole = std::fs::read(&file).expect("a backup");
    let damaged = dir.path().join("damaged");
    for (bytes, says) in [
        (whole[..whole.len() / 2].to_vec(), "damaged"),
        (b"SQLite format 3\0".to_vec(), "not a backup"),
        (Vec::new(), "not a backup"),
        (std::fs::read(server.data.join("admin-token")).expect("a token"), "not a backup"),
    ] {
        std::fs::write(&damaged, bytes).expect("written");
        let output = run(&["restore", "--verify", text(&damaged)]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(says), "{says}: {said}");
    }
    // The registry of a server is none either: it lacks the keys.
    server.process.terminate().expect("a clean end");
    let output = run(&["restore", "--verify", text(&server.data.join("meetpoint.db"))]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a backup"));
}

/// Waits until it is so.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ctrl-C while the server is at work, and while bytes come: it takes a connection and says nothing, or half of it.
#[test]
fn an_interrupted_backup_leaves_nothing() {
    const HALF: usize = 1 << 16;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
    for says in [Vec::new(), [head.as_bytes(), &vec![7; HALF]].concat()] {
        let dir = Scratch::new();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (token, file) = (dir.path().join("token"), dir.path().join("a"));
        std::fs::write(&token, b"some-token-or-other").expect("written");
        std::fs::write(&file, b"an older one").expect("written");
        let mut command = meetpoint();
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        command.args([
            "backup",
            "--force",
            "--server",
            &server,
            "--admin-token-file",
            text(&token),
            text(&file),
        ]);
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let (mut stream, _) = listener.accept().expect("a connection");
        // An answer before the request would be an error.
        assert_ne!(stream.read(&mut [0; 4096]).expect("the request"), 0);
        stream.write_all(&says).expect("sent");
        let part = dir.path().join("a.part");
        let expected = if says.is_empty() { 0 } else { HALF as u64 };
        wait_for("its part", || part.metadata().is_ok_and(|part| part.len() == expected));
        interrupt(&process);
        assert_eq!(process.wait().expect("an end").code(), Some(INTERRUPTED));
        let mut said = String::new();
        process.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert!(said.contains("interrupted; nothing was written"), "{said}");
        assert_eq!(names(dir.path()), ["a", "token"]);
        assert_eq!(std::fs::read(&file).expect("the older one"), b"an older one");
    }
}

/// As Ctrl-C does.
pub(crate) fn interrupt(process: &Child) {
    kill(Pid::from_raw(process.id().try_into().expect("a process id")), Signal::SIGINT).expect("a signal");
}

/// The server's own disk fills up while it makes one.
#[test]
fn a_backup_that_the_server_has_no_room_for_harms_nothing() {
    let dir = Scratch::new();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).expect("a directory");
    on_a_small_disk(&disk, || {
        let server = Server::start(&disk.join("data"), 0);
        let (file, filler) = (dir.path().join("a"), disk.join("filler"));
        let back_up = || server.operate(&["backup"]).arg(&file).output().expect("it runs");
        // Room for what the registry writes itself, and not for a copy of it.
        fill(&filler);
        let full = std::fs::OpenOptions::new().write(true).open(&filler).expect("the filler");
        full.set_len(full.metadata().expect("its size").len() - ROOM).expect("some room");
        // Whoever has it open keeps its room.
        drop(full);
        let output = back_up();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("disk_full") && said.contains("free space"), "{said}");
        assert_eq!(names(dir.path()), ["disk"]);
        let drafts = names(&server.data).into_iter().filter(|name| name.contains("draft"));
        assert_eq!(drafts.collect::<Vec<_>>(), [""; 0]);
        let call = |method, path| server.caller().call(method, path, "{}").expect("an answer").0;
        assert_eq!(call("GET", "/v1/clusters/default/join-tokens"), 200, "reads go on");
        assert_eq!(call("POST", "/v1/clusters/default/join-tokens"), 201, "there is room for that");

        std::fs::remove_file(&filler).expect("room");
        let output = back_up();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(look(&file).audited_tokens, 1);
    });
}
