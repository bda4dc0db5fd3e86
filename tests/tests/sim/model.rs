//! The rules' tables, the server and the nodes against a model that was written apart from them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use meetpoint_proto::rules::{self, Admission, NodeFacts, SeedFacts, StunOutcome};
use meetpoint_proto::{AddressClass, ClusterNetwork, Code, EffectiveNetwork, NetworkType};
use meetpoint_tests::model::{self, Answer, Finding, Place, Standing};
use meetpoint_tests::sim::life::{Flaw, Life, LifeReport};

/// Names the one life that `replay` plays.
const SEED_VARIABLE: &str = "MEETPOINT_SIM_SEED";
/// How many lives `lives` plays; a longer run is one variable away.
const CASES_VARIABLE: &str = "MEETPOINT_SIM_CASES";
const DEFAULT_LIVES: u64 = 1_000;
/// Lives in which each of the model's mistakes must be noticed.
const FLAWED_LIVES: u64 = 150;

/// What becomes of nodes in some life, or the lives show too little.
const OUTCOMES: [&str; 14] = [
    "Loopback observed",
    "Private observed",
    "PublicUndefined observed",
    "PublicReachable declared",
    "PublicReachable proven",
    "Unreachable relayed",
    "unreachable",
    "bad_token",
    "node_addr_mismatch",
    "public_node_in_private_cluster",
    "declared_public_but_private",
    "private_node_in_public_cluster",
    "declared_private_in_public_cluster",
    "loopback_in_public_cluster",
];

const DECLARED: [Option<NetworkType>; 3] = [None, Some(NetworkType::Private), Some(NetworkType::Public)];
const PLACES: [(Place, AddressClass); 4] = [
    (Place::Loopback, AddressClass::Loopback),
    (Place::Private, AddressClass::Private),
    (Place::Private, AddressClass::Special),
    (Place::Public, AddressClass::Public),
];
const ADDRESSES: [&str; 10] = [
    "127.0.0.1",
    "10.0.0.2",
    "192.168.7.7",
    "100.64.0.9",
    "169.254.1.1",
    "198.51.100.3",
    "20.0.0.9",
    "20.0.0.10",
    "8.8.8.8",
    "::ffff:20.0.0.9",
];

fn word<T>(result: Result<T, Code>) -> Result<T, &'static str> {
    result.map_err(Code::as_str)
}

#[test]
fn clusters_and_their_seeds() {
    for &kind in ClusterNetwork::ALL {
        // Up to four seeds, each public or not.
        for count in 0..=4 {
            for bits in 0..1u32 << count {
                let public: Vec<bool> = (0..count).map(|at| bits >> at & 1 == 1).collect();
                let facts: Vec<SeedFacts> = public.iter().map(|&public| SeedFacts { public }).collect();
                let found = word(rules::effective(kind, &facts));
                assert_eq!(found, model::effective(kind, &public), "{kind} {public:?}");
            }
        }
    }
    for declared in DECLARED {
        for (place, class) in PLACES {
            let found = word(rules::seed_check(declared, class)).map(|facts| facts.public);
            assert_eq!(found, model::listed_seed(declared, place), "{declared:?} {class:?}");
        }
    }
}

#[test]
fn places_of_nodes() {
    let ips: Vec<IpAddr> = ADDRESSES.iter().map(|text| text.parse().expect("an address")).collect();
    let named = ips.iter().copied().map(Some).chain([None]);
    for named in named {
        for &seen in &ips {
            for &own in &ips {
                let found = word(rules::node_address(seen, own, named));
                let (seen, own) = (seen.to_canonical(), own.to_canonical());
                let expect = model::node_place(seen, own, named.map(|ip| ip.to_canonical()));
                let same =
                    |(place, class): &(Place, AddressClass)| expect == Ok(*place) && found == Ok(*class);
                let agree = PLACES.iter().any(same) || (found.err().is_some() && found.err() == expect.err());
                assert!(agree, "{named:?} {seen} {own}: {found:?}, {expect:?}");
            }
        }
    }
}

/// Every node in every cluster, with everything that STUN can find.
#[test]
fn admission_and_discovery() {
    let findings = [
        (Finding::Silence, StunOutcome::NoAnswer),
        (Finding::Mapping, StunOutcome::Answered),
        (Finding::WayIn, StunOutcome::Proven),
        (Finding::WayInForPeers, StunOutcome::Unsolicited),
    ];
    let mut count = 0;
    for &effective in EffectiveNetwork::ALL {
        for &kind in ClusterNetwork::ALL {
            for (place, address) in PLACES {
                for declared in DECLARED {
                    let answer = model::admission(effective, kind, place, declared);
                    let verdict = rules::admit(&NodeFacts { effective, kind, address, declared });
                    let same = match (verdict, answer) {
                        (Admission::Admit { class, evidence }, Answer::In(c, e)) => {
                            (class, evidence) == (c, e)
                        }
                        (Admission::Discover(found), Answer::Stun(class, must_prove)) => {
                            (found.answered, found.must_prove) == (class, must_prove)
                        }
                        (Admission::Reject(code), Answer::Out(reason)) => code.as_str() == reason,
                        _ => false,
                    };
                    assert!(same, "{effective} {kind} {place:?} {declared:?}: {verdict:?}, {answer:?}");
                    let Admission::Discover(discovery) = verdict else { continue };
                    for (finding, outcome) in findings {
                        for admit_relayed in [false, true] {
                            let (_, found) = rules::refine(discovery, outcome, admit_relayed);
                            let found = word(found).map(|found| Standing {
                                class: found.class,
                                evidence: found.evidence,
                                relayed: found.relayed,
                            });
                            assert_eq!(found, model::standing(answer, finding, admit_relayed), "{outcome:?}");
                            count += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(count >= 40, "only {count} discoveries were compared");
}

fn complain(seed: u64, report: &LifeReport) -> String {
    let LifeReport { story, divergences, .. } = report;
    format!(
        "{}\n{divergences:#?}\nreplay: {SEED_VARIABLE}={seed} cargo test -p meetpoint-tests --test sim model::replay -- --nocapture",
        story.join("\n"),
    )
}

/// Lives the seeds from 0 on two threads; gives those in which the model and the rest were not of one mind, and all
/// that became of nodes.
fn live(lives: u64, flaw: Flaw, enough: usize) -> (Vec<(u64, String)>, BTreeSet<String>) {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let outcomes = Mutex::new(BTreeSet::new());
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= lives || found.lock().expect("no panic").len() >= enough {
                return;
            }
            let mut report = Life::new(seed, flaw).run();
            outcomes.lock().expect("no panic").append(&mut report.outcomes);
            if !report.divergences.is_empty() {
                found.lock().expect("no panic").push((seed, complain(seed, &report)));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(play);
        scope.spawn(play);
    });
    let mut found = found.into_inner().expect("no panic");
    found.sort();
    (found, outcomes.into_inner().expect("no panic"))
}

#[test]
fn lives() {
    let lives = std::env::var(CASES_VARIABLE).map_or(DEFAULT_LIVES, |n| n.parse().expect("a number"));
    let start = Instant::now();
    let (found, outcomes) = live(lives, Flaw::None, usize::MAX);
    println!("{lives} lives in {:.2?}", start.elapsed());
    let seeds: Vec<u64> = found.iter().map(|(seed, _)| *seed).collect();
    assert!(found.is_empty(), "{} lives diverge: {seeds:?}; the first:\n{}", found.len(), found[0].1);
    let missing: Vec<&str> =
        OUTCOMES.iter().copied().filter(|outcome| !outcomes.contains(*outcome)).collect();
    assert!(missing.is_empty() || lives < DEFAULT_LIVES, "{missing:?} never happened");
}

/// The comparison sees: whatever mistake the model makes, some life shows it.
#[test]
fn each_mistake_is_noticed() {
    for flaw in Flaw::ALL {
        assert!(!live(FLAWED_LIVES, flaw, 1).0.is_empty(), "{flaw:?} went unnoticed");
    }
}

/// Plays the one life that `MEETPOINT_SIM_SEED` names.
#[test]
fn replay() {
    let Ok(seed) = std::env::var(SEED_VARIABLE) else { return };
    let seed = seed.parse().expect("a number");
    let report = Life::new(seed, Flaw::None).run();
    println!("{}", report.story.join("\n"));
    assert!(report.divergences.is_empty(), "{}", complain(seed, &report));
}
