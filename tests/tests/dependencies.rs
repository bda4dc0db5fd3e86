//! What a program takes on that embeds the SDK, in crates.

use std::collections::BTreeSet;
use std::process::Command;

/// By default: meeting peers, and no more.
const MOST_BY_DEFAULT: usize = 120;
/// With every feature.
const MOST_WITH_ALL: usize = 190;

/// The SDK and all that it is built of on this system, each version counting once.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "meetpoint",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // A crate that was shown before is marked.
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn the_sdk_stays_small() {
    let default = crates(&[]);
    println!("{} crates by default, at most {MOST_BY_DEFAULT}", default.len());
    for feature in ["dns", "mdns", "portmap"] {
        let with = crates(&["--features", feature]);
        println!("{} more with {feature}", with.difference(&default).count());
    }
    let all = crates(&["--all-features"]);
    println!("{} crates with all features, at most {MOST_WITH_ALL}", all.len());
    assert!(default.len() <= MOST_BY_DEFAULT, "{default:#?}");
    assert!(all.len() <= MOST_WITH_ALL, "{all:#?}");
    assert!(default.is_subset(&all), "a feature takes nothing away");
}
