//! Nodes that are told no server: they hear of one, and it has to prove itself all the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::thread;

use meetpoint_cli::lab::{Lab, NatKind};
use meetpoint_tests::binary::{Node, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

fn node(server: &Server, args: &[&str]) -> Node {
    Node::of_servers(Command::new(meetpoint()), "subject", Some(&server.join_token()), args)
}

/// It joins at this server, which it has heard of from there.
fn joins(mut node: Node, server: &Server, heard_from: &str) {
    let joined = node.event("joined");
    let at = joined["server"].as_str().expect("a label");
    assert!(at.contains(&server.http.port().to_string()), "{at}");
    assert!(at.contains(heard_from), "{at}");
    assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
}

/// A server that accepts connections and says nothing.
fn mute() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket")
}

#[test]
fn the_environment_names_servers_by_url_and_as_seeds() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(data.path(), &[]);
    let dead = mute().local_addr().expect("an address");
    let mut command = Command::new(meetpoint());
    command.env("MEETPOINT_SEEDS", format!("dead@{dead},{}", server.url()));
    joins(Node::of_servers(command, "subject", Some(&server.join_token()), &[]), &server, "https://");
}

/// A file may come after the node, and grow.
#[test]
fn a_file_is_read_again_when_it_changes() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let (mute, file) = (mute(), data.path().join("seeds"));
    let mute = mute.local_addr().expect("an address");
    let node = node(&server, &["--discover", &format!("file:{}", file.display()), "--retry-max", "1s"]);
    write(&file, &format!("# one that does not answer\nmute@{mute}\n"));
    thread::sleep(std::time::Duration::from_millis(100));
    write(&file, &format!("mute@{mute} 1\nmain@{} 2 # the one\n", server.http));
    joins(node, &server, "seeds");
}

/// At once, so that nobody reads half of it.
fn write(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, file)).expect("a file");
}

/// Whoever does not answer keeps nobody: the others are knocked at.
#[test]
fn the_first_to_answer_wins() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(data.path(), &[]);
    let mutes: Vec<TcpListener> = (0..3).map(|_| mute()).collect();
    let mut args: Vec<String> = Vec::new();
    for mute in &mutes {
        let mute = mute.local_addr().expect("an address");
        args.extend(["--rendezvous".to_owned(), format!("https://{mute}")]);
    }
    args.extend(["--rendezvous".to_owned(), server.url()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    joins(node(&server, &args), &server, "https://");
}

/// Answers every request with this document.
fn registry(document: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let addr = listener.local_addr().expect("an address");
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap_or(0);
            let is_right = request[..len].starts_with(b"GET /seeds.json HTTP/1.0\r\n");
            let status = if is_right { "200 OK" } else { "404 Not Found" };
            let _ =
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{document}", document.len());
        }
    });
    addr
}

#[test]
fn a_registry_lists_servers() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(data.path(), &[]);
    let list = format!(r#"[{{"address":"main@{}","priority":5}}]"#, server.http);
    let registry = registry(list);
    let url = format!("http://{registry}/seeds.json");
    joins(node(&server, &["--discover", &url]), &server, "/seeds.json");
    // Over plain HTTP anybody may have written it: a fingerprint that comes with it counts for nothing.
    let fingerprint = meetpoint::Fingerprint::from_bytes([7; 32]);
    let list = format!(r#"[{{"address":"https://{}","fingerprint":"{fingerprint}"}}]"#, server.http);
    let url = format!("http://{}/seeds.json", self::registry(list));
    joins(node(&server, &["--discover", &url]), &server, "/seeds.json");
}

/// Exit code 4 says that there was no server, and why nothing was heard from where.
#[test]
fn who_hears_nothing_says_so() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(data.path(), &[]);
    let url = format!("http://{}/other.json", registry("[]".to_owned()));
    let mut node =
        node(&server, &["--discover", &url, "--discover", "file:/nonexistent", "--give-up-after", "1s"]);
    assert_eq!(node.exit_code(), Some(4));
    let said = node.process.output().stderr.join("\n");
    assert!(said.contains("/other.json: it answers HTTP 404") && said.contains("/nonexistent"), "{said}");
}

fn on_a_lan(lab: &mut Lab, data: &Path) -> (Server, meetpoint_cli::lab::Host) {
    let mut gateway = lab.gateway(NatKind::PortRestricted).expect("a gateway");
    let [machine, host] = [(); 2].map(|()| lab.host_behind(&mut gateway).expect("a host"));
    let (http, stun) = (format!("{}:8080", machine.addr()), format!("{}:3478", machine.addr()));
    let args = ["--http", &http, "--stun", &stun, "--stun-alt-port", "0", "--announce"];
    let args = [&args[..], &["--announce-interval", "200ms", "--cluster-network-type", "PRIVATE"]].concat();
    (Server::start(machine.command(meetpoint()), data, &args), host)
}

/// A sealed node may listen on its LAN too: nothing of that leaves the link.
#[test]
fn servers_on_the_lan_are_heard_of() {
    let Some(mut lab) = lab_or_skip("servers_on_the_lan_are_heard_of") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let (server, host) = on_a_lan(&mut lab, data.path());
    for (place, label) in [("mdns", "mDNS"), ("multicast", "multicast")] {
        for more in [&[][..], &["--cluster-network-type", "PRIVATE"]] {
            let args = [&["--discover", place], more].concat();
            let token = server.join_token();
            let mut node = Node::of_servers(host.command(meetpoint()), "subject", Some(&token), &args);
            let joined = node.event("joined");
            let at = joined["server"].as_str().expect("a label");
            assert!(at.starts_with(&format!("server@{} ({label}", server.http)), "{at}");
            assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
            assert_eq!(node.event("left")["blocked"], 0, "{place} {more:?}");
        }
    }
}

/// What is heard on a LAN opens nothing: without the fingerprint of the join token the server is not believed.
#[test]
fn a_server_that_is_heard_of_has_to_prove_itself() {
    let Some(mut lab) = lab_or_skip("a_server_that_is_heard_of_has_to_prove_itself") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let (_server, host) = on_a_lan(&mut lab, data.path());
    let fingerprint = meetpoint::Fingerprint::from_bytes([7; 32]).to_string();
    let args = ["--discover", "multicast", "--fingerprint", &fingerprint, "--give-up-after", "3s"];
    let mut node = Node::of_servers(host.command(meetpoint()), "subject", None, &args);
    assert_eq!(node.exit_code(), Some(4));
    let said = node.process.output().stderr.join("\n");
    assert!(said.contains("does not match"), "{said}");
}

/// A registry out in the world is nothing for a node that insists on a PRIVATE cluster.
#[test]
fn a_sealed_node_asks_no_registry_outside() {
    let Some(mut lab) = lab_or_skip("a_sealed_node_asks_no_registry_outside") else { return };
    let host = lab.node(NatKind::PortRestricted).expect("a host");
    let args = ["--discover", "https://20.0.0.1/seeds.json", "--cluster-network-type", "PRIVATE"];
    let args = [&args[..], &["--give-up-after", "1s"]].concat();
    let mut node = Node::of_servers(host.command(meetpoint()), "subject", None, &args);
    assert_eq!(node.exit_code(), Some(4));
    let said = node.process.output().stderr.join("\n");
    assert!(said.contains("20.0.0.1:443 is not a private address"), "{said}");
}
