//! Every block of commands in the README and the quick start is run, top to bottom, by a shell of its own on a machine
//! of its own, so that what people paste first is what works.
//!
//! A line that begins with `$ ` is a command, and goes on after a backslash. It has to end, with exit code 0. What the
//! reader is asked to see and replace by himself is replaced here (see [`PLACES`]); and a comment on the line above
//! the block says what else there is to know:
//!
//! ```text
//! <!-- runs until: TEXT -->    its commands go on, side by side, once one of them has said this
//! <!-- not run: REASON -->     it can't be run here; there are at most MOST_NOT_RUN of these
//! ```
//!
//! What goes on is ended by the next `meetpoint` command of the same name that goes on too, as an operator would end a
//! server before starting it in another way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use meetpoint_tests::binary::meetpoint;
use meetpoint_tests::lab::lab_or_skip;

/// A block that isn't run proves nothing: running the tests, and building what the tests have built.
const MOST_NOT_RUN: usize = 2;

/// What stands in the documents, and what a shell of the test sees in its place: addresses that documents must use are
/// no public ones to our own classifier; the token is what the first start wrote, and the fingerprint what each start
/// says; and the binary is the one under test.
const PLACES: [(&str, &str); 4] = [
    ("203.0.113.", "20.0.0."),
    ("mpj1...", "$(cat meetpoint-data/join-token)"),
    ("--fingerprint ...", "--fingerprint $(sed -n 's/^fingerprint //p' said-* | tail -n 1)"),
    ("cargo run --release --", "meetpoint"),
];

/// The addresses of the machine, as the documents have them.
const ADDRESSES: [&str; 3] = ["203.0.113.10", "203.0.113.11", "203.0.113.20"];

/// What the script of a document begins with. Seconds are those of a busy machine.
const PRELUDE: &str = r##"
set -u
mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns
ip link set lo up
declare -A running=()
finish() {
    # Without a number `wait` would wait for all that is running.
    [ -n "${running[$1]:-}" ] || return
    kill ${running[$1]}
    wait ${running[$1]}
    unset "running[$1]"
} 2>/dev/null
finish_all() { for name in "${!running[@]}"; do finish "$name"; done; }
trap finish_all EXIT
run() {
    echo "\$ $1"
    timeout 60 bash -c "$1" </dev/null && return
    echo "FAILED with $?: $1"
    exit 1
}
start() {
    echo "\$ $2 &"
    bash -c "exec $2" </dev/null >"said-$3" 2>&1 &
    running[$1]="${running[$1]:-} $!"
}
said() {
    local text=$1 second
    shift
    for second in $(seq 300); do
        grep -qF -- "$text" "$@" && return
        sleep 0.2
    done
    tail -n 20 "$@"
    echo "FAILED: nobody said: $text"
    exit 1
}
"##;

/// A fenced block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    mark: Mark,
    commands: Vec<String>,
}

/// What the comment above a block says.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Ends,
    RunsUntil(String),
    NotRun(String),
}

impl Mark {
    fn of(line: &str) -> Self {
        let said =
            |word| Some(line.strip_prefix("<!-- ")?.strip_prefix(word)?.strip_suffix(" -->")?.to_owned());
        match (said("runs until: "), said("not run: ")) {
            (Some(text), _) => Self::RunsUntil(text),
            (None, Some(reason)) => Self::NotRun(reason),
            (None, None) => Self::Ends,
        }
    }
}

/// The blocks of a document, in order.
fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut before = "";
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if ["```console", "```sh", "```bash", "```shell"].contains(&line) {
            let inside: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let text = inside.join("\n").replace("\\\n", "");
            let commands =
                text.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect();
            found.push(Block { line: number + 1, mark: Mark::of(before), commands });
        }
        before = line;
    }
    found
}

/// The shell script that runs them.
fn script(blocks: &[Block]) -> String {
    let mut script = PRELUDE.to_owned();
    for addr in ADDRESSES {
        writeln!(script, "ip addr add {}/32 dev lo", in_place(addr)).expect("a string takes it");
    }
    for block in blocks {
        let commands: Vec<String> = block.commands.iter().map(|command| in_place(command)).collect();
        match &block.mark {
            Mark::NotRun(_) => {}
            Mark::Ends => script.extend(commands.iter().map(|command| format!("run {}\n", quoted(command)))),
            Mark::RunsUntil(text) => script.push_str(&side_by_side(block.line, &commands, text)),
        }
    }
    script
}

fn side_by_side(line: usize, commands: &[String], text: &str) -> String {
    let names: Vec<String> = commands.iter().map(|command| quoted(&name(command))).collect();
    let mut script: String = names.iter().map(|name| format!("finish {name}\n")).collect();
    let mut said = String::new();
    for (at, (command, name)) in commands.iter().zip(&names).enumerate() {
        writeln!(script, "start {name} {} {line}-{at}", quoted(command)).expect("a string takes it");
        write!(said, " said-{line}-{at}").expect("a string takes it");
    }
    writeln!(script, "said {}{said}", quoted(text)).expect("a string takes it");
    script
}

/// The program and its subcommand.
fn name(command: &str) -> String {
    command.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn in_place(text: &str) -> String {
    PLACES.iter().fold(text.to_owned(), |text, (stands, is)| text.replace(stands, is))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn source(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a document's blocks on a machine without any other network.
fn check(file: &str) {
    if lab_or_skip(file).is_none() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(meetpoint(), home.path().join("meetpoint")).expect("a link");
    // An answer of 401 is no success, and a meter of progress nothing to read here.
    std::fs::write(home.path().join(".curlrc"), "fail\nsilent\nshow-error\n").expect("a file");
    let script = script(&blocks(&source(file)));
    let output = machine(home.path()).arg(&script).output().expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{file}:\n{said}\n{complaints}");
}

/// A shell in namespaces that end with it, and the processes that it started with them.
fn machine(home: &Path) -> Command {
    let path = format!("{}:{}:/usr/sbin:/sbin", home.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]);
    command.env_clear().env("PATH", path).env("HOME", home).env("TMPDIR", home).current_dir(home);
    command
}

#[test]
fn the_readme_runs() {
    check("README.md");
}

#[test]
fn the_quick_start_runs() {
    check("docs/quick-start.md");
}

#[test]
fn few_blocks_are_not_run_and_each_has_a_reason() {
    let all = [source("README.md"), source("docs/quick-start.md")].map(|document| blocks(&document));
    let all: Vec<&Block> = all.iter().flatten().collect();
    let left: Vec<_> = all.iter().filter(|block| matches!(&block.mark, Mark::NotRun(_))).collect();
    assert!(all.len() > 10, "that can't be all: {all:#?}");
    assert!(left.len() <= MOST_NOT_RUN, "more than {MOST_NOT_RUN} blocks are not run: {left:#?}");
    for block in &all {
        assert!(!block.commands.is_empty(), "a block without a command at line {}", block.line);
        assert_ne!(block.mark, Mark::NotRun(String::new()), "line {}", block.line);
    }
}

#[test]
fn a_document_is_read_as_it_is_meant() {
    let document = "x\n<!-- runs until: up -->\n```console\n$ a b \\\n    c\nanswer\n$ d\n```\n\
                    <!-- not run: slow -->\n```sh\n$ e\n```\n```rust\n$ f\n```\n```console\n$ meetpoint x 203.0.113.10\n```\n";
    let block = |line, mark, commands: &[&str]| Block {
        line,
        mark,
        commands: commands.iter().map(|c| (*c).to_owned()).collect(),
    };
    let read = blocks(document);
    assert_eq!(
        read,
        [
            block(3, Mark::RunsUntil("up".to_owned()), &["a b     c", "d"]),
            block(10, Mark::NotRun("slow".to_owned()), &["e"]),
            block(16, Mark::Ends, &["meetpoint x 203.0.113.10"]),
        ]
    );
    let script = script(&read);
    let ran = script.strip_prefix(PRELUDE).expect("the prelude").lines().skip(ADDRESSES.len());
    assert_eq!(
        ran.collect::<Vec<_>>(),
        [
            "finish 'a b'",
            "finish 'd'",
            "start 'a b' 'a b     c' 3-0",
            "start 'd' 'd' 3-1",
            "said 'up' said-3-0 said-3-1",
            "run 'meetpoint x 20.0.0.10'",
        ]
    );
}
