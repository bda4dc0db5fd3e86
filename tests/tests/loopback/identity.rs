//! Who may join, by the command line and against real servers: cluster secrets, two servers for one
//! cluster, what the registry shows of a node, and nodes that were removed.

use std::path::Path;
use std::process::Command;

use meetpoint_tests::binary::{Node, Server, meetpoint};
use serde_json::Value;

/// An operator's command at a server; what it answers as JSON.
fn operate(server: &Server, args: &[&str]) -> Value {
    let mut command = Command::new(meetpoint());
    command.args(args).args(["--json", "--server", &format!("http://{}", server.http)]);
    command.arg("--admin-token-file").arg(server.data.join("admin-token"));
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// A node that keeps key and membership in files of its name, on plain HTTP to loopback.
fn node(server: &Server, folder: &Path, name: &str, args: &[&str]) -> Node {
    let file = |end: &str| folder.join(format!("{name}.{end}")).to_str().expect("UTF-8").to_owned();
    let (key, membership) = (file("key"), file("membership"));
    let files = ["--key", &key, "--membership-file", &membership];
    let url = format!("http://{}", server.http);
    Node::start(Command::new(meetpoint()), &url, name, None, &[&files, args].concat())
}

#[test]
fn members_meet_at_a_second_server() {
    let folder = tempfile::tempdir().expect("a directory");
    let home = Server::on_loopback(&folder.path().join("home"), &[]);
    let made = operate(&home, &["secrets", "create"]);
    let secrets = format!("{}\n", made["value"].as_str().expect("a secret"));
    let secrets = write(&folder.path().join("secrets"), &secrets);
    let by_secret = ["--cluster-secret-file", &secrets];
    let place = ["--datacenter", "fra1", "--rack", "r7", "--meta", "owner=ops", "--capability", "gateway"];
    let mut alice = node(&home, folder.path(), "alice", &[&by_secret[..], &place].concat());
    let mut bob = node(&home, folder.path(), "bob", &by_secret);
    for node in [&mut alice, &mut bob] {
        node.event("joined");
    }
    let listed = operate(&home, &["nodes"]);
    let shown = listed.as_array().expect("nodes").iter().find(|node| node["name"] == "alice").expect("alice");
    assert_eq!((&shown["datacenter"], &shown["rack"]), (&"fra1".into(), &"r7".into()));
    assert_eq!((&shown["metadata"]["owner"], &shown["capabilities"][0]), (&"ops".into(), &"gateway".into()));
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
    }
    let membership = std::fs::read_to_string(folder.path().join("bob.membership")).expect("a membership");
    let (cluster_key, _) = membership.split_once(' ').expect("key and certificate");

    // The second server knows the cluster's public key only. Nobody has a secret or a token there.
    let flag = format!("default={cluster_key}");
    let away = Server::on_loopback(&folder.path().join("away"), &["--foreign-cluster", &flag]);
    let token = away.join_token();
    let mut stranger = Node::start(Command::new(meetpoint()), &away.url(), "stranger", Some(&token), &[]);
    assert_eq!(stranger.event("rejected")["code"], "not_home");
    let mut bob = node(&away, folder.path(), "bob", &["--echo"]);
    bob.event("joined");
    let mut alice = node(&away, folder.path(), "alice", &["--connect", "bob"]);
    alice.event("joined");
    assert_eq!(alice.event("echo")["bytes"], 65_536);

    // A member that its home has removed can't come back there, until the operator lets it.
    let id = shown["id"].as_str().expect("an id");
    operate(&home, &["revocations", "add", id]);
    assert_eq!(operate(&home, &["revocations", "list"])[0]["name"], "alice");
    let mut again = node(&home, folder.path(), "alice", &by_secret);
    assert_eq!(again.event("rejected")["code"], "removed");
    operate(&home, &["revocations", "lift", id]);
    node(&home, folder.path(), "alice", &by_secret).event("joined");

    let listed = operate(&home, &["secrets", "list"]);
    operate(&home, &["secrets", "remove", listed[0]["id"].as_str().expect("an id")]);
    let mut carol = node(&home, folder.path(), "carol", &by_secret);
    assert_eq!(carol.event("rejected")["code"], "bad_secret");
}

#[test]
fn a_token_for_some_names() {
    let folder = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&folder.path().join("data"), &[]);
    let made = operate(&server, &["tokens", "create", "--name-pattern", "web-*", "--max-uses", "2"]);
    let token = made["secret"].as_str().expect("a token");
    let mut web = Node::start(Command::new(meetpoint()), &server.url(), "web-1", Some(token), &[]);
    web.event("joined");
    let mut db = Node::start(Command::new(meetpoint()), &server.url(), "db-1", Some(token), &[]);
    let rejected = db.event("rejected");
    assert_eq!(rejected["code"], "name_not_allowed", "{rejected}");
    let seed = operate(&server, &["tokens", "create", "--scope", "seed"]);
    let seed = seed["secret"].as_str().expect("a token");
    let mut node = Node::start(Command::new(meetpoint()), &server.url(), "web-2", Some(seed), &[]);
    assert_eq!(node.event("rejected")["code"], "token_scope");
}
