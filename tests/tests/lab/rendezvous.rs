//! Two nodes behind NATs that meet although the server is dead, by way of a third in the open: real binaries, real
//! NATs.

use std::time::{Duration, Instant};

use meetpoint::{Connection, PathKind};
use meetpoint_cli::lab::{Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

/// What goes through a stream and is expected back.
const ECHO_BYTES: usize = 64 * 1024;

fn serve(lab: &Lab, data: &std::path::Path) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let seed = format!("main@{http}");
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    Server::start(lab.server().command(meetpoint()), data, &args)
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn echo(connection: &Connection) -> Result<Vec<u8>, Failure> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&vec![7; ECHO_BYTES]).await?;
    send.finish()?;
    Ok(recv.read_to_end(ECHO_BYTES).await?)
}

/// Alice joins, reaches Carol, sees the server die, and asks for Bob; gives how long that took.
async fn live_without_the_server(server: &mut Server) -> Result<Duration, Failure> {
    let alice =
        meetpoint::Node::builder(&server.url()).name("alice").join_token(server.join_token()).start().await?;
    let carol = alice.connect_when_present("carol").await?;
    assert_eq!(echo(&carol).await?.len(), ECHO_BYTES);
    server.process.kill()?;
    let asked = Instant::now();
    let bob = tokio::time::timeout(PATIENCE, alice.connect("bob")).await??;
    let took = asked.elapsed();
    assert_eq!(bob.path().borrow().kind, PathKind::Direct);
    assert_eq!(echo(&bob).await?, vec![7; ECHO_BYTES]);
    assert_eq!(echo(&carol).await?.len(), ECHO_BYTES, "the other one is as it was");
    Ok(took)
}

fn check(kinds: [NatKind; 2]) {
    let Some(mut lab) = lab_or_skip("two_nodes_meet_although_the_server_is_dead") else { return };
    let [first, second] = kinds.map(|kind| lab.node(kind).expect("a host"));
    let open = lab.node(NatKind::Open).expect("a host");
    let data = tempfile::tempdir().expect("a directory");
    let mut server = serve(&lab, &data.path().join("data"));
    let (url, token) = (server.url(), server.join_token());
    let mut carol = Node::start(open.command(meetpoint()), &url, "carol", Some(&token), &["--echo"]);
    let judged = std::iter::repeat_with(|| carol.event("classified"));
    let is_proven = |event: &serde_json::Value| event["evidence"] == "proven";
    assert!(judged.take(4).any(|event| is_proven(&event)), "the open node is found to be open");
    let args = ["--connect", "carol", "--echo"];
    let mut bob = Node::start(second.command(meetpoint()), &url, "bob", Some(&token), &args);
    bob.event("echo");
    let took = first
        .run_in(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(live_without_the_server(&mut server))
        })
        .expect("the lab")
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", bob.process.output(), carol.process.output()));
    println!("{kinds:?}: met {took:?} after the server was killed");
    for node in [&mut bob, &mut carol] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
    }
}

#[test]
fn two_nodes_meet_although_the_server_is_dead() {
    check([NatKind::PortRestricted, NatKind::PortRestricted]);
}

#[test]
fn two_nodes_behind_other_nats_meet_although_the_server_is_dead() {
    check([NatKind::Remap, NatKind::AddressRestricted]);
}
