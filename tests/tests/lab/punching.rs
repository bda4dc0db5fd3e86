//! What many guesses leave behind, and what becomes of them if the server dies meanwhile, with the real binary.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::{Gateway, Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

/// Sockets that show that ports are being guessed: the symmetric side opens 512.
const MANY: usize = 200;
/// Until the sockets of a punch are closed: a ticket's ten seconds, and what a busy machine needs.
const CLOSED: Duration = Duration::from_secs(30);
/// Between two looks at a node's sockets.
const LOOK: Duration = Duration::from_millis(5);
/// Echoes of an established path that show that it goes on.
const ECHOES: usize = 40;

fn serve(lab: &Lab, data: &Path, more: &[&str]) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let seed = format!("main@{http}");
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    Server::start(lab.server().command(meetpoint()), data, &[&args, more].concat())
}

fn start(server: &Server, host: &Host, name: &str, args: &[&str]) -> Node {
    Node::start(host.command(meetpoint()), &server.url(), name, Some(&server.join_token()), args)
}

/// The UDP sockets of the network namespace that a node has for itself.
fn sockets(node: &Node) -> usize {
    let count = |table: &str| {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", node.process.id()));
        text.expect("the table of a running process").lines().count() - 1
    };
    count("udp") + count("udp6")
}

/// Waits until a node has so many sockets.
fn await_sockets(node: &Node, what: &str, patience: Duration, fits: impl Fn(usize) -> bool) {
    let end = Instant::now() + patience;
    loop {
        let now = sockets(node);
        if fits(now) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {now} sockets are open");
        std::thread::sleep(LOOK);
    }
}

/// Drops what goes from behind a router straight to the other and back.
fn keep_apart(lab: &Lab, gateway: &Gateway, other: &Gateway) {
    let addr = other.addr();
    let rules = format!(
        "table ip apart {{ chain between {{ type filter hook forward priority -20;\n\
         ip daddr {addr} drop\nip saddr {addr} drop\n}}\n}}\n"
    );
    let status = lab.router(gateway).command("nft").arg(rules).status().expect("nft runs");
    assert!(status.success(), "{status}");
}

/// A symmetric node with a peer whose port-restricted NAT it has to be guessed by. All of its sockets but the one that
/// it was met by are closed again, and that one too when nobody needs it.
fn leaves_nothing(name: &str, wins: bool) {
    let Some(mut lab) = lab_or_skip(name) else { return };
    let mut home = lab.gateway(NatKind::SymmetricRandom).expect("a gateway");
    let mut other = lab.gateway(NatKind::PortRestricted).expect("a gateway");
    let (near, far) =
        (lab.host_behind(&mut home).expect("a host"), lab.host_behind(&mut other).expect("a host"));
    if !wins {
        keep_apart(&lab, &home, &other);
    }
    let data = tempfile::tempdir().expect("a directory");
    let relay = SERVER_ADDRS[0].to_string();
    let server = serve(&lab, &data.path().join("data"), &["--relay-ip", &relay, "--admit-relayed"]);
    let mut alice = start(&server, &near, "alice", &["--settle", "--connect", "bob"]);
    alice.event("behavior");
    // The one of the tests is closed.
    await_sockets(&alice, "before", PATIENCE, |count| count <= 2);
    let before = sockets(&alice);
    let mut bob = start(&server, &far, "bob", &["--echo"]);
    bob.event("behavior");
    await_sockets(&alice, "guessing", PATIENCE, |count| count > MANY);
    let kept = usize::from(wins);
    await_sockets(&alice, "after the punch", CLOSED, |count| count <= before + kept);
    let wanted = if wins { "direct" } else { "relayed" };
    while alice.event("path")["kind"] != wanted {}
    assert_eq!(bob.process.terminate().expect("a clean end").code(), Some(0));
    await_sockets(&alice, "alone again", CLOSED, |count| count <= before);
    assert_eq!(alice.process.terminate().expect("a clean end").code(), Some(0));
}

#[test]
fn a_won_punch_leaves_one_socket() {
    leaves_nothing("a_won_punch_leaves_one_socket", true);
}

#[test]
fn a_lost_punch_leaves_no_socket() {
    leaves_nothing("a_lost_punch_leaves_no_socket", false);
}

/// A punch that was under way when the server died: it came to something, or the node says why not. Gives the node, if
/// it is there still.
fn outcome(mut alice: Node) -> Option<Node> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(path) = alice.next_event("path", Duration::from_millis(200)) {
            println!("the punch in flight: {path}");
            return Some(alice);
        }
        if let Ok(status) = alice.process.wait(Duration::ZERO) {
            let said = alice.process.output().to_string();
            println!("the punch in flight failed: {said}");
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("no path to bob"), "{said}");
            return None;
        }
        assert!(Instant::now() < end, "neither a path nor a reason: {}", alice.process.output());
    }
}

/// The server is killed while ports are guessed. Who has a path goes on, the guessing too, and when the server is there
/// again at the same place, nodes are introduced again: those that were there, and new ones.
#[test]
fn a_server_that_dies_in_the_middle_of_a_punch() {
    let Some(mut lab) = lab_or_skip("a_server_that_dies_in_the_middle_of_a_punch") else { return };
    let kinds = [NatKind::SymmetricRandom, NatKind::PortRestricted, NatKind::PortRestricted, NatKind::Remap];
    let [near, far, left, right] = kinds.map(|kind| lab.node(kind).expect("a host"));
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().join("data");
    let mut server = serve(&lab, &data, &[]);
    let mut dave = start(&server, &right, "dave", &["--echo"]);
    dave.event("classified");
    let mut carol = start(&server, &left, "carol", &["--connect", "dave", "--ping-interval", "20ms"]);
    assert_eq!(carol.event("path")["kind"], "direct");
    carol.event("echo");
    let mut bob = start(&server, &far, "bob", &["--echo"]);
    bob.event("behavior");
    let mut alice = start(&server, &near, "alice", &["--settle", "--connect", "bob"]);
    alice.event("behavior");

    await_sockets(&alice, "guessing", PATIENCE, |count| count > MANY);
    server.process.kill().expect("SIGKILL");
    while carol.take_passed("echo").is_some() {}
    (0..ECHOES).for_each(|_| drop(carol.event("echo")));
    assert!(carol.take_passed("path").is_none_or(|path| path["kind"] == "direct"));
    let alice = outcome(alice);

    let server = serve(&lab, &data, &[]);
    // The first was before the server died.
    for node in [&mut bob, &mut carol, &mut dave] {
        node.event("joined");
        node.event("joined");
    }
    let mut erin = start(&server, &near, "erin", &["--settle", "--connect", "bob"]);
    assert_eq!(erin.event("path")["kind"], "direct");
    erin.event("echo");
    carol.event("echo");
    for mut node in [Some(bob), Some(carol), Some(dave), Some(erin), alice].into_iter().flatten() {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
    }
}
