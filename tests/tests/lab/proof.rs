//! The NAT lab proves itself: every NAT it builds is measured, every pair that can meet is tried, and nothing stays.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::probe::{Measurement, measure};
use meetpoint_cli::lab::punch::{Senders, attempt};
use meetpoint_cli::lab::{Lab, NatKind, Process, SERVER_ADDRS};
use meetpoint_tests::lab::{in_coturns_words, is_installed, lab_or_skip, skip};

use NatKind::{
    AddressRestricted, DoubleNat, FullCone, Open, PortRestricted, PortRestrictedEarlyInbound, Remap,
    SymmetricBlock, SymmetricRandom, SymmetricSequential, UdpBlocked,
};

/// Each kind measures as what its name promises, in the terms of RFC 4787.
#[test]
fn every_kind_is_what_it_promises() {
    let Some(mut lab) = lab_or_skip("every_kind_is_what_it_promises") else { return };
    let mut wrong = Vec::new();
    for kind in NatKind::ALL {
        let node = lab.node(kind).expect("a node");
        let measured = measure(lab.server(), &node).expect("a measurement");
        println!("{kind}: {measured}");
        if measured != kind.promise() {
            wrong.push(format!("{kind}: measured {measured}, promised {}", kind.promise()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A second opinion that shares nothing with the lab: coturn's client measures against coturn's server (RFC 5780). Its
/// vocabulary has no word for "no NAT".
#[test]
fn coturn_measures_the_same() {
    let name = "coturn_measures_the_same";
    if !is_installed("turnserver") || !is_installed("turnutils_natdiscovery") {
        return skip(name, "needs coturn: on Debian, apt-get install coturn");
    }
    let Some(mut lab) = lab_or_skip(name) else { return };
    let _turnserver = start_turnserver(&lab);
    let [server, _] = SERVER_ADDRS.map(|addr| addr.to_string());
    let start = |kind: NatKind| {
        let node = lab.node(kind).expect("a node");
        let mut command = node.command("turnutils_natdiscovery");
        let client = Process::spawn(&kind.to_string(), command.args(["-m", "-f", &server])).expect("a child");
        (kind, client)
    };
    // All at once, because each waits seconds for what a NAT filters.
    let clients: Vec<(NatKind, Process)> = NatKind::ALL.into_iter().map(start).collect();
    for (kind, mut client) in clients {
        let mut finding = |property: &str| {
            let verdict =
                |line: &str| line.strip_prefix("NAT with ")?.strip_suffix(property).map(str::to_owned);
            client.expect_line(property, Duration::from_secs(60), verdict)
        };
        let found = (finding(" Mapping!"), finding(" Filtering!"));
        match (kind.promise(), found) {
            (Measurement::Blocked, (Err(_), Err(_))) => {}
            (Measurement::Passes(behavior), (Ok(mapping), Ok(filtering))) => {
                assert_eq!(mapping, in_coturns_words(behavior.mapping), "mapping of {kind}");
                assert_eq!(filtering, in_coturns_words(behavior.filtering), "filtering of {kind}");
            }
            (promise, found) => panic!("{kind}: promised {promise}, coturn says {found:?}"),
        }
    }
}

/// Starts coturn on the lab's server and waits until it answers on both addresses.
fn start_turnserver(lab: &Lab) -> Process {
    let pid_file = format!("{}/turnserver-{}.pid", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let mut command = lab.server().command("turnserver");
    command.args(["-n", "--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-cli"]);
    command.args(["--log-file", "stdout", "--pidfile", &pid_file]);
    command.args(SERVER_ADDRS.iter().flat_map(|addr| ["-L".to_owned(), addr.to_string()]));
    let turnserver = Process::spawn("turnserver", &mut command).expect("a child");
    let client = lab.server().run_in(|| UdpSocket::bind("0.0.0.0:0")).expect("the server").expect("a socket");
    client.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    // RFC 8489 section 5: a Binding request without attributes.
    let request = *b"\x00\x01\x00\x00\x21\x12\xa4\x42lab is ready";
    let deadline = Instant::now() + Duration::from_secs(30);
    for target in [(SERVER_ADDRS[0], 3478), (SERVER_ADDRS[1], 3479)] {
        while client.send_to(&request, target).is_err() || client.recv_from(&mut [0; 512]).is_err() {
            assert!(Instant::now() < deadline, "turnserver does not answer\n{}", turnserver.output());
        }
    }
    turnserver
}

/// RFC 5128 section 3.3: who can meet whom when both send, and when only the first does. This table is what every
/// model of "a direct path is possible" is held against.
#[test]
fn pairs_meet_as_their_nats_allow() {
    let Some(mut lab) = lab_or_skip("pairs_meet_as_their_nats_allow") else { return };
    let mut check = |first: NatKind, second: NatKind, alone_arrives: bool, together_direct: bool| {
        let (a, b) = (lab.node(first).expect("a node"), lab.node(second).expect("a node"));
        let alone = attempt(lab.server(), &a, &b, Senders::FirstOnly).expect("an outcome");
        assert_eq!(alone.second_heard.is_some(), alone_arrives, "{first} to {second}, one sends: {alone:?}");
        assert_eq!(alone.first_heard, None, "{first} to {second}: nobody answered, yet something came");
        let together = attempt(lab.server(), &a, &b, Senders::Both).expect("an outcome");
        assert_eq!(together.is_direct(), together_direct, "{first} and {second}, both send: {together:?}");
    };
    check(Open, Open, true, true);
    check(PortRestricted, Open, true, true);
    check(PortRestricted, FullCone, true, true);
    check(SymmetricRandom, FullCone, true, true);
    check(AddressRestricted, AddressRestricted, false, true);
    check(PortRestricted, AddressRestricted, false, true);
    check(PortRestricted, PortRestricted, false, true);
    check(PortRestricted, Remap, false, true);
    check(Remap, DoubleNat, false, true);
    check(DoubleNat, DoubleNat, false, true);
    check(SymmetricRandom, AddressRestricted, false, true);
    check(AddressRestricted, SymmetricBlock, false, true);
    // A port-restricted side lets in only the port it sent to, and a symmetric one comes from another.
    check(PortRestricted, SymmetricRandom, false, false);
    check(SymmetricSequential, PortRestricted, false, false);
    check(SymmetricBlock, SymmetricBlock, false, false);
    // Whoever has the sensitive NAT must send first; two of them spoil it for each other.
    check(PortRestrictedEarlyInbound, PortRestricted, false, true);
    check(PortRestricted, PortRestrictedEarlyInbound, false, false);
    check(PortRestrictedEarlyInbound, PortRestrictedEarlyInbound, false, false);
}

/// What has one hop left to live when it comes to a router opens the NAT that it went through, and the other knows
/// nothing of it. Any other early packet moves the mapping that is made next, away from where it is waited for.
#[test]
fn an_opener_opens_one_side_only() {
    let Some(mut lab) = lab_or_skip("an_opener_opens_one_side_only") else { return };
    let near = lab.node(PortRestricted).expect("a node");
    let far = lab.node(PortRestrictedEarlyInbound).expect("a node");
    let arrives = |ttl: u32| {
        let [opener, late] = [&near, &far].map(|host| {
            let socket = host.run_in(|| UdpSocket::bind("0.0.0.0:0")).expect("the host").expect("a socket");
            let port = socket.local_addr().expect("an address").port();
            (socket, SocketAddr::from((host.public_addr(), port)))
        });
        opener.0.set_ttl(ttl).expect("a time to live");
        opener.0.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        opener.0.send_to(b"early", late.1).expect("sent");
        late.0.send_to(b"late", opener.1).expect("sent");
        opener.0.recv_from(&mut [0; 16]).is_ok()
    };
    assert!((0..3).all(|_| arrives(2)), "the opener came to the other side");
    assert!(!(0..5).all(|_| arrives(64)), "early packets harm nobody here");
}

/// Hosts behind one gateway reach each other on their LAN, and look alike from outside.
#[test]
fn one_gateway_serves_many_hosts() {
    let Some(mut lab) = lab_or_skip("one_gateway_serves_many_hosts") else { return };
    let mut gateway = lab.gateway(PortRestricted).expect("a gateway");
    let hosts = [(); 2].map(|()| lab.host_behind(&mut gateway).expect("a host"));
    assert_ne!(hosts[0].addr(), hosts[1].addr());
    for host in &hosts {
        assert_eq!(host.public_addr(), gateway.addr());
        assert_eq!(measure(lab.server(), host).expect("a measurement"), gateway.kind().promise());
    }
}

/// UDP is blocked, and nothing else is: a node there must still be able to use TCP.
#[test]
fn tcp_passes_where_udp_is_blocked() {
    let Some(mut lab) = lab_or_skip("tcp_passes_where_udp_is_blocked") else { return };
    let node = lab.node(UdpBlocked).expect("a node");
    let server = lab.server();
    let listener = server
        .run_in(|| std::net::TcpListener::bind((server.addr(), 0)))
        .expect("the server")
        .expect("bound");
    let target = listener.local_addr().expect("an address");
    let connect = || std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5));
    node.run_in(connect).expect("the node").expect("a connection");
    let (_, source) = listener.accept().expect("the connection");
    assert_eq!(source.ip(), node.public_addr());
}

/// A lab leaves nothing: neither names nor processes, neither after a panic nor after its owner was killed.
#[test]
fn nothing_stays_behind() {
    let Some(mut lab) = lab_or_skip("nothing_stays_behind") else { return };
    let node = lab.node(PortRestricted).expect("a node");
    let other = Lab::new().expect("labs can exist side by side");
    assert_ne!(lab.server().namespace(), other.server().namespace());

    let mut inhabitant =
        Process::spawn("inhabitant", node.command("sh").args(["-c", "echo up; exec sleep 600"]))
            .expect("a child");
    let up = |line: &str| (line == "up").then_some(());
    inhabitant.expect_line("sign of life", Duration::from_secs(10), up).expect("it runs");
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _lab = lab;
        resume_unwind(Box::new("a test fails"));
    }));
    assert!(panicked.is_err());
    let status = inhabitant.wait(Duration::from_secs(10)).expect("it was killed with its lab");
    assert_eq!(status.code(), None, "{status}");
    assert!(!exists(node.namespace()));
    assert!(node.run_in(|| ()).is_err());
    assert!(exists(other.server().namespace()), "another lab was touched");

    // One that lives where processes have other numbers, and is killed.
    let word = format!("{:08x}", std::process::id());
    let (claim, left_over) = (format!("/run/meetpoint-lab/{word}"), format!("mp{word}-server"));
    let mut owner = Command::new("unshare");
    owner.args(["--pid", "--fork", "--kill-child", "flock", "--no-fork", &claim]);
    let mut owner =
        Process::spawn("owner", owner.args(["sh", "-c", "echo up; exec sleep 600"])).expect("a child");
    owner.expect_line("sign of life", Duration::from_secs(10), up).expect("it runs");
    assert!(Command::new("ip").args(["netns", "add", &left_over]).status().expect("ip runs").success());
    drop(Lab::new().expect("a lab"));
    assert!(exists(&left_over), "a living owner's lab was swept away");
    owner.kill().expect("its end");
    // What it had begun ends a moment later. Another lab of this machine may be quicker to sweep.
    if let Ok(file) = fs::File::open(&claim) {
        file.lock().expect("it is nobody's");
    }
    drop(Lab::new().expect("a lab"));
    assert!(!exists(&left_over) && !fs::exists(&claim).expect("the directory can be read"));
    assert!(exists(other.server().namespace()), "a living lab was swept away");
}

fn exists(namespace: &str) -> bool {
    fs::exists(format!("/run/netns/{namespace}")).expect("the directory can be read")
}
