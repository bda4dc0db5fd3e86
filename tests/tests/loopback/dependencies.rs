//! What a program takes on that embeds the SDK, in crates.

use std::path::Path;

use meetpoint_tests::bench::sdk::{FEATURES, MOST_CRATES, crates, source};

#[test]
fn the_sdk_stays_small() {
    let sdk: &Path = &source();
    let [most_by_default, most_with_all] = MOST_CRATES;
    let default = crates(sdk, &[]).unwrap();
    println!("{} crates by default, at most {most_by_default}", default.len());
    for feature in FEATURES {
        let with = crates(sdk, &["--features", feature]).unwrap();
        println!("{} more with {feature}", with.difference(&default).count());
    }
    let all = crates(sdk, &["--all-features"]).unwrap();
    println!("{} crates with all features, at most {most_with_all}", all.len());
    assert!(default.len() <= most_by_default, "{default:#?}");
    assert!(all.len() <= most_with_all, "{all:#?}");
    assert!(default.is_subset(&all), "a feature takes nothing away");
}
