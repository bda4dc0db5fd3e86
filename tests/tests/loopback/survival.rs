//! What survives a server that dies without warning.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meetpoint::{Connection, Event, Node};
use meetpoint_proto::JoinToken;
use meetpoint_tests::binary::{PATIENCE, Server, meetpoint};
use tokio::task::JoinSet;

/// Joins that must be acknowledged before the server is killed.
const JOINS: usize = 40;

fn node(server: &Server, name: &str, keys: &Path) -> meetpoint::Builder {
    Node::builder(&server.url())
        .name(name)
        .join_token(server.join_token())
        .key_file(keys.join(name))
        .backoff(Duration::from_millis(50), Duration::from_millis(500))
}

/// Joins ever new nodes and leaves again, until told to stop; gives the names that were welcomed.
async fn join_in_a_loop(
    url: String,
    token: String,
    keys: std::path::PathBuf,
    lane: usize,
    stop: Arc<AtomicBool>,
    count: Arc<std::sync::atomic::AtomicUsize>,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("loop-{lane}-{number}");
        let builder = Node::builder(&url)
            .name(&name)
            .join_token(&token)
            .key_file(keys.join(&name))
            .start_timeout(Duration::from_millis(500));
        if let Ok(node) = builder.start().await {
            acknowledged.push(name);
            count.fetch_add(1, Ordering::Relaxed);
            drop(node);
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_join_survives_sigkill() {
    let folder = tempfile::tempdir().expect("a directory");
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    std::fs::create_dir(&keys).expect("a directory");
    let mut server = Server::on_loopback(&data, &[]);
    let steady = node(&server, "steady", &keys).start().await.expect("a join");
    let mut events = steady.events();
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut lanes = JoinSet::new();
    for lane in 0..4 {
        let (url, token) = (server.url(), server.join_token());
        lanes.spawn(join_in_a_loop(url, token, keys.clone(), lane, Arc::clone(&stop), Arc::clone(&count)));
    }
    let enough = async {
        while count.load(Ordering::Relaxed) < JOINS {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, enough).await.expect("joins go on");
    server.process.kill().expect("SIGKILL");
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = lanes.join_all().await.concat();
    assert!(acknowledged.len() >= JOINS);

    // The same address again, as a supervisor would.
    let http = server.http.to_string();
    let again = ["--http", &http, "--stun", "127.0.0.1:0", "--stun-alt-port", "0"];
    let server = Server::start(Command::new(meetpoint()), &data, &again);
    let rejoined = async {
        loop {
            match events.next().await {
                Some(Event::Joined { again: true, .. }) => return,
                Some(_) => {}
                None => panic!("the node gave up"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, rejoined).await.expect("the node comes back by itself");
    steady.leave().await;

    let listed = registered(&server);
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !listed.contains(*name)).collect();
    assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
    drop(server);
    assert_eq!(integrity(&data).await, "ok");
}

/// A stream that stays open: a word goes there and back.
async fn said(send: &mut meetpoint::SendStream, recv: &mut meetpoint::RecvStream, word: &[u8; 4]) {
    send.write_all(word).await.expect("it goes");
    let mut back = [0; 4];
    recv.read_exact(&mut back).await.expect("it comes back");
    assert_eq!(&back, word);
}

async fn echo(connection: Connection) {
    let (mut send, mut recv) = connection.accept_bi().await.expect("a stream");
    let mut word = [0; 4];
    while recv.read_exact(&mut word).await.is_ok() {
        send.write_all(&word).await.expect("it goes back");
    }
}

/// A server that ends with notice: its nodes go to another one before it is gone, and nothing between them ends.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_move_from_a_server_that_drains_and_keep_their_stream() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut home = Server::on_loopback(&folder.path().join("home"), &["--drain-timeout", "9s"]);
    let scout = node(&home, "scout", folder.path()).start().await.expect("a join");
    let membership = scout.membership().expect("a member");
    let (cluster_key, _) = membership.split_once(' ').expect("key and certificate");
    scout.leave().await;
    let flag = format!("default={cluster_key}");
    let away = Server::on_loopback(&folder.path().join("away"), &["--foreign-cluster", &flag]);
    let away_token: JoinToken = away.join_token().parse().expect("a token");
    let fingerprint = away_token.fingerprint().expect("a fingerprint");
    let member = async |name: &str| {
        let node = node(&home, name, folder.path()).server(away.url()).fingerprint(fingerprint);
        node.start().await.expect("a join")
    };
    let (alice, bob) = (member("alice").await, member("bob").await);
    let (to_bob, to_alice) = tokio::join!(alice.connect_when_present("bob"), bob.accept());
    let (to_bob, to_alice) = (to_bob.expect("a connection"), to_alice.expect("a connection"));
    let echoing = tokio::spawn(echo(to_alice));
    let (mut send, mut recv) = to_bob.open_bi().await.expect("a stream");
    said(&mut send, &mut recv, b"here").await;

    let (mut of_alice, mut of_bob) = (alice.events(), bob.events());
    let ended = tokio::task::spawn_blocking(move || (home.process.terminate(), home));
    let moved = async |events: &mut meetpoint::Events| {
        while !matches!(events.next().await.expect("the node lives on"), Event::Joined { again: true, .. }) {}
    };
    let both = async { tokio::join!(moved(&mut of_alice), moved(&mut of_bob)) };
    tokio::time::timeout(PATIENCE, both).await.expect("they go on at the other server");
    said(&mut send, &mut recv, b"away").await;
    let (status, home) = ended.await.expect("it ends");
    assert!(status.expect("in time").success());
    let log = home.process.output().to_string();
    assert!(log.contains("drained: nobody is here any more"), "{log}");
    said(&mut send, &mut recv, b"gone").await;
    echoing.abort();
}

fn registered(server: &Server) -> Vec<String> {
    let output = Command::new(meetpoint())
        .args(["nodes", "--json", "--server", &format!("http://{}", server.http), "--admin-token-file"])
        .arg(server.data.join("admin-token"))
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let nodes: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect()
}

async fn integrity(data: &Path) -> String {
    use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
    let database = std::fs::read_dir(data)
        .expect("a directory")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "db" || ending == "sqlite"))
        .expect("a database");
    let options = SqliteConnectOptions::new().filename(database);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("it opens");
    sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.expect("an answer")
}
