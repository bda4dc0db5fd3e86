//! The benchmark still measures: each kind of work for a moment, against the real server.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use meetpoint_tests::bench::engine::Span;
use meetpoint_tests::bench::fleet::{self, JoinsArgs};
use meetpoint_tests::bench::meter::Meter;
use meetpoint_tests::bench::turn::Credentials;
use meetpoint_tests::bench::workload::{Figure, Settings, Sources, Target, Workload, measure};
use meetpoint_tests::binary::{self, PATIENCE, Server};
use meetpoint_turn::Secret;

/// On loopback every address of 127.0.0.0/8 is this machine's. Peers must not be at the relay's own.
const RELAY: &str = "127.0.0.1";
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SOURCES: Sources = Sources { first: Ipv4Addr::new(127, 1, 0, 1), count: 64 };

const SETTINGS: Settings = Settings {
    span: Span { warm_up: Duration::from_millis(20), measured: Duration::from_millis(200) },
    per_s: Some(200.0),
    idle: 20,
    settle: Duration::ZERO,
    flood_per_s: 2000,
    flood_packets: 0,
    tamper: false,
};

/// A server that relays on loopback, and what the benchmark has to know of it.
fn start(data: &tempfile::TempDir) -> (Server, Target) {
    let flags = ["--relay-ip", RELAY, "--relay-allow-peer", "127.0.0.0/8"];
    let mut server = Server::on_loopback(&data.path().join("data"), &flags);
    let port =
        |line: &str| line.strip_prefix("listening stun 127.0.0.1 port ")?.split(' ').next()?.parse().ok();
    let port = server.process.expect_line("its STUN port", PATIENCE, port).unwrap_or_else(|e| panic!("{e}"));
    let secret = std::fs::read_to_string(server.data.join("credential-secret")).expect("a secret");
    let secret = Secret::new(secret.trim().as_bytes()).expect("a good secret");
    let target = Target {
        server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        credentials: Some(Credentials::Secret(secret)),
        meter: Some(Meter::new(server.process.id()).expect("its clock")),
        local: Ipv4Addr::LOCALHOST,
        peer: PEER,
        sources: Some(SOURCES),
        nobody: None,
    };
    (server, target)
}

fn value(figures: &[Figure], name: &str) -> f64 {
    let found = figures.iter().find(|figure| figure.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {figures:?}")).value
}

#[test]
fn every_workload_gives_figures() {
    let data = tempfile::tempdir().expect("a directory");
    let (_server, target) = start(&data);
    for workload in Workload::ALL {
        let figures = measure(workload, &target, &SETTINGS).unwrap_or_else(|e| panic!("{workload:?}: {e}"));
        assert!(figures.iter().all(|figure| figure.value.is_finite()), "{workload:?}: {figures:?}");
        assert!(figures[0].value > 0.0, "{workload:?}: nothing was done: {figures:?}");
        if workload != Workload::Idle {
            assert_eq!(value(&figures, "wrong"), 0.0, "{workload:?}: {figures:?}");
        }
    }
}

#[test]
fn a_changed_byte_is_noticed() {
    let data = tempfile::tempdir().expect("a directory");
    let (_server, target) = start(&data);
    let settings = Settings { tamper: true, ..SETTINGS };
    for workload in [Workload::Channel, Workload::Send, Workload::Latency] {
        let figures = measure(workload, &target, &settings).unwrap_or_else(|e| panic!("{workload:?}: {e}"));
        assert_eq!(value(&figures, "round trips/s"), 0.0, "{workload:?}: {figures:?}");
        assert!(value(&figures, "wrong") > 0.0, "{workload:?}: {figures:?}");
    }
}

/// All join, stay, and come back after a restart; that none did would be an error.
#[test]
fn joins_are_measured() {
    let data = tempfile::tempdir().unwrap();
    let args = JoinsArgs {
        nodes: 20,
        rate: 200.0,
        tls: true,
        hold: 0.1,
        meetpoint: Some(binary::meetpoint().to_owned()),
        meetpoint_arg: vec![],
        data: Some(data.path().to_owned()),
    };
    fleet::run(&args).unwrap();
    let none = JoinsArgs { nodes: 0, ..args };
    assert!(fleet::run(&none).unwrap_err().to_string().contains("more than 0"));
}
