//! Runs each target over its corpus, its regressions, and a fixed number of seeded changes of these.
//!
//! `MEETPOINT_FUZZ_RUNS` sets how many changes a share of [`meetpoint_fuzz::Target`] is worth. It is a number and not a
//! time, so that every machine runs the same.

mod able_to_fail;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use meetpoint_fuzz::{Dice, TARGETS, Target, mutate};

/// A share when nothing is said: a second or two in all.
const RUNS_PER_SHARE: usize = 50;

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target)
}

/// The files of a folder by name, so that each machine has the same order. A folder may be missing.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).expect("a file"));
    paths.into_iter().map(read).collect()
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn run(target: &Target, origin: &str, input: &[u8]) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) else { return };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
    std::fs::write(&kept, input).expect("a place for what failed");
    panic!(
        "{} fails on {origin}: {}\nThe input is kept in {}. Once it is understood, put it into {}",
        target.name,
        said(&*panic),
        kept.display(),
        folder("regressions", target.name).display(),
    );
}

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let corpus = inputs(&folder("corpus", name));
    assert!(corpus.len() > 1, "{name} has no corpus");
    let regressions = inputs(&folder("regressions", name));
    for (origin, input) in corpus.iter().chain(&regressions) {
        run(target, origin, input);
    }
    let runs =
        std::env::var("MEETPOINT_FUZZ_RUNS").map_or(RUNS_PER_SHARE, |text| text.parse().expect("a number"));
    for run_number in 0..runs * target.share as usize {
        let mut dice = Dice::new(run_number as u64);
        let (seed, other) = (&corpus[dice.below(corpus.len())], &corpus[dice.below(corpus.len())]);
        let input = mutate(&mut dice, &seed.1, &other.1, target.words, target.max_len);
        run(target, &format!("change {run_number}"), &input);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn each_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), run);
            for folder in ["corpus", "regressions"].map(|kind| folder(kind, "")) {
                let names = folders_of(&folder);
                assert!(names.iter().all(|name| run.contains(&&name[..])), "{names:?}: a folder of no target");
            }
        }
    };
}

fn folders_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let folders = entries.filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

targets!(
    agent certificate cidr flow frames join_token lan meeting relay_client report router seed_list server stream stun_address stun_codecs
    stun_message username words
);
