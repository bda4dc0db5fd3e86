//! What a server refuses to be made of.

use meetpoint_turn::{Config, ConfigError, Limits, ListenerId, ListenerRole, Rate, StunServer};

use crate::common::{addr, config, listeners, lone, square};

use ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};

fn outcome(config: Config) -> Option<ConfigError> {
    StunServer::new(config, [0; 32]).err()
}

#[test]
fn listeners_form_two_addresses_with_two_ports() {
    let check = |places: &[(ListenerRole, &str)], expected: Option<ConfigError>| {
        assert_eq!(outcome(config(listeners(places))), expected, "{places:?}");
    };
    check(&[(PrimaryMain, "20.0.0.1:3478")], None);
    check(&[(PrimaryMain, "0.0.0.0:3478"), (PrimaryAlt, "0.0.0.0:3479")], None);
    check(&[(PrimaryMain, "20.0.0.1:3478"), (AlternateMain, "20.0.0.2:3478")], None);
    check(&[(PrimaryMain, "20.0.0.1:3478"), (AlternateAlt, "20.0.0.2:9")], None);
    check(&[(PrimaryMain, "20.0.0.1:3478"), (PrimaryMain, "[2a00::1]:3478")], None);

    check(&[], Some(ConfigError::ListenerCount));
    check(&[(PrimaryMain, "20.0.0.1:1"); 9], Some(ConfigError::ListenerCount));
    check(&[(PrimaryMain, "20.0.0.1:0")], Some(ConfigError::NoPort(addr("20.0.0.1:0"))));
    check(
        &[(PrimaryMain, "20.0.0.1:1"), (PrimaryMain, "20.0.0.1:2")],
        Some(ConfigError::DuplicateRole { role: PrimaryMain, family: "IPv4" }),
    );
    check(&[(AlternateMain, "[2a00::1]:1")], Some(ConfigError::NoPrimary("IPv6")));
    check(&[(PrimaryMain, "20.0.0.1:1"), (PrimaryAlt, "20.0.0.2:2")], Some(ConfigError::NotASquare("IPv4")));
    check(
        &[(PrimaryMain, "20.0.0.1:1"), (AlternateMain, "20.0.0.1:2")],
        Some(ConfigError::NotASquare("IPv4")),
    );
}

#[test]
fn ids_are_indices() {
    let mut all = square();
    all[2].id = ListenerId(7);
    assert_eq!(outcome(config(all)), Some(ConfigError::ListenerId { index: 2, id: 7 }));
}

#[test]
fn a_realm_is_short_and_plain() {
    let check = |realm: &str, is_good: bool| {
        let config = Config { realm: realm.to_owned(), ..config(lone()) };
        assert_eq!(outcome(config).is_none(), is_good, "{realm:?}");
    };
    check("meetpoint", true);
    check("a realm of our own", true);
    check(&"r".repeat(127), true);
    check(&"r".repeat(128), false);
    check("", false);
    check("a\"b", false);
    check("a\\b", false);
    check("a\nb", false);
    check("\u{e9}", false);
}

#[test]
fn budgets_allow_something_and_fit_memory() {
    let check = |change: fn(&mut Limits), expected: Option<ConfigError>| {
        let mut limits = Limits::default();
        change(&mut limits);
        assert_eq!(outcome(Config { limits, ..config(lone()) }), expected, "{limits:?}");
    };
    check(|_| {}, None);
    check(|l| l.source = Rate::unlimited(), None);
    check(|l| l.source_slots = 1, None);
    check(|l| l.source_slots = 0, Some(ConfigError::SourceSlots));
    check(|l| l.source_slots = u32::MAX, Some(ConfigError::SourceSlots));
    check(|l| l.source = Rate::new(0, 1), Some(ConfigError::Budget));
    check(|l| l.amplified = Rate::new(1, 0), Some(ConfigError::Budget));
    check(|l| l.redirected = Rate::new(0, 0), Some(ConfigError::Budget));
}
