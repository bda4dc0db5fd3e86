//! A target that can't fail finds nothing. Here the server loses its defences one by one, and the play misses each; and
//! each exemption of the differential check is one that still happens.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use meetpoint_fuzz::{Difference, differences, is_relayed, play};
use meetpoint_turn::Defence;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a file")).collect()
}

#[test]
fn each_defence_is_missed() {
    let corpus = corpus("server");
    let check = |defence: Defence| {
        let fails = |bytes: &Vec<u8>| {
            catch_unwind(AssertUnwindSafe(|| play(bytes, |server| server.switch_off(defence)))).is_err()
        };
        assert!(corpus.iter().any(fails), "nobody misses {defence:?}");
    };
    check(Defence::BoundNonce);
    check(Defence::PeerRules);
    check(Defence::Canonical);
    check(Defence::OwnPorts);
    check(Defence::Quotas);
    check(Defence::Introductions);
}

#[test]
fn each_difference_still_happens() {
    let found: BTreeSet<_> = corpus("stun_codecs").iter().flat_map(|bytes| differences(bytes)).collect();
    assert_eq!(found, BTreeSet::from(Difference::ALL));
}

/// What is only ever refused shows nothing about what is granted.
#[test]
fn the_relay_is_got() {
    let relayed = corpus("relay_client").iter().filter(|bytes| is_relayed(bytes)).count();
    assert!(relayed > 1, "{relayed} inputs");
}
