//! What a program takes on that embeds the SDK, in crates.

use std::path::Path;

use meetpoint_tests::bench::sdk::{FEATURES, crates, source};

/// By default: meeting peers, and no more.
const MOST_BY_DEFAULT: usize = 120;
/// With every feature.
const MOST_WITH_ALL: usize = 190;

#[test]
fn the_sdk_stays_small() {
    let sdk: &Path = &source();
    let default = crates(sdk, &[]).unwrap();
    println!("{} crates by default, at most {MOST_BY_DEFAULT}", default.len());
    for feature in FEATURES {
        let with = crates(sdk, &["--features", feature]).unwrap();
        println!("{} more with {feature}", with.difference(&default).count());
    }
    let all = crates(sdk, &["--all-features"]).unwrap();
    println!("{} crates with all features, at most {MOST_WITH_ALL}", all.len());
    assert!(default.len() <= MOST_BY_DEFAULT, "{default:#?}");
    assert!(all.len() <= MOST_WITH_ALL, "{all:#?}");
    assert!(default.is_subset(&all), "a feature takes nothing away");
}
