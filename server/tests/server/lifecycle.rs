//! What is on disk, what survives a restart, and how the server is reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::{Code, JoinToken};
use meetpoint_server::{Server, StartError};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::{call, get};
use crate::node::Node;
use crate::running::{Running, config};

fn modes(dir: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        found.insert(name, entry.metadata().unwrap().permissions().mode() & 0o777);
    }
    found
}

#[tokio::test]
async fn files_are_private() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let server = Running::start(config(&data, &[])).await.unwrap();
    assert_eq!(modes(parent.path())["data"], 0o700);
    let files = modes(&data);
    for name in [
        "meetpoint.db",
        "meetpoint.db-wal",
        "meetpoint.db-shm",
        "join-token",
        "admin-token",
        "viewer-token",
        "seed-key",
    ] {
        assert_eq!(files.get(name), Some(&0o600), "{name}: {files:?}");
    }
    assert_eq!(files["tls"], 0o700);
    assert_eq!(modes(&data.join("tls")), [("cert.pem".into(), 0o600), ("key.pem".into(), 0o600)].into());
    let stored = std::fs::read_to_string(data.join("join-token")).unwrap();
    assert_eq!(stored.trim(), server.join_token().reveal());
    assert_eq!(server.join_token().fingerprint(), Some(server.info.fingerprint));
    server.stop().await.unwrap();
    // Everything is in the one file once the server is down.
    let log = std::fs::metadata(data.join("meetpoint.db-wal")).map_or(0, |meta| meta.len());
    assert_eq!(log, 0);
}

#[tokio::test]
async fn the_registry_holds_no_secret() {
    let (server, dir) = Running::fresh(&[]).await;
    let (join, admin) = (server.join_token(), server.admin_token());
    drop(Node::new(1, "alice", &join).joins(server.info.http).await);
    server.stop().await.unwrap();
    let database = std::fs::read(dir.path().join("meetpoint.db")).unwrap();
    let key = join.signing_key().to_bytes();
    for secret in [join.reveal().as_bytes(), admin.as_bytes(), key.as_slice()] {
        assert!(!database.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn a_restart_keeps_identity_tokens_and_nodes() {
    let (server, dir) = Running::fresh(&[]).await;
    let (info, admin) = (server.info.clone(), server.admin_token());
    let alice = Node::new(1, "alice", &server.join_token());
    drop(alice.joins(info.http).await);
    server.stop().await.unwrap();

    let again = Running::start(config(dir.path(), &[])).await.unwrap();
    assert_eq!(again.info.fingerprint, info.fingerprint);
    assert_eq!(again.join_token().reveal(), info.join_token.unwrap().reveal());
    assert!(again.info.new_admin_token.is_none(), "the stored one is not shown again");
    let path = format!("/v1/clusters/default/nodes/{}", alice.id());
    let node = get(&path).bearer(&admin).send(again.info.http).await;
    assert_eq!(node.json()["name"], "alice");
    drop(alice.joins(again.info.http).await);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn the_cluster_type_never_changes() {
    let (server, dir) = Running::fresh(&["--cluster-network-type", "PRIVATE"]).await;
    server.stop().await.unwrap();
    let other = config(dir.path(), &["--cluster-network-type", "DYNAMIC"]);
    let error = Server::bind(other).await.err().unwrap();
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(message.contains("--cluster-network-type DYNAMIC") && message.contains("PRIVATE"), "{message}");
    // Left out, the stored one holds, and so do its rules.
    let public_seed = config(dir.path(), &["--seed", "a@20.0.0.1:80"]);
    let error = Server::bind(public_seed).await.err().unwrap();
    assert!(error.to_string().contains("public_seed_in_private_cluster"), "{error}");
    let same = Running::start(config(dir.path(), &[])).await.unwrap();
    assert_eq!(same.info.kind.as_str(), "PRIVATE");
    same.stop().await.unwrap();
}

#[tokio::test]
async fn one_directory_serves_one_server() {
    let (server, dir) = Running::fresh(&[]).await;
    let error = Server::bind(config(dir.path(), &[])).await.err().unwrap();
    assert!(matches!(error, StartError::Data(_)), "{error:?}");
    assert_eq!(error.exit_code(), 1);
    server.stop().await.unwrap();
    Running::start(config(dir.path(), &[])).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn given_tokens_are_used_and_not_stored() {
    let (join, admin) = ("correct-horse-battery", "administrators-only");
    let (server, dir) = Running::fresh(&["--join-token", join, "--admin-token", admin]).await;
    assert!(server.info.new_admin_token.is_none());
    let token: JoinToken = join.parse().unwrap();
    drop(Node::new(1, "alice", &token).joins(server.info.http).await);
    assert_eq!(get("/v1/clusters").bearer(admin).send(server.info.http).await.status.as_u16(), 200);
    server.stop().await.unwrap();
    let files = modes(dir.path());
    assert!(!files.contains_key("join-token") && !files.contains_key("admin-token"), "{files:?}");

    let file = dir.path().join("given");
    std::fs::write(&file, "another-admin-token\n").unwrap();
    let flags = ["--admin-token-file", file.to_str().unwrap()];
    let server = Running::start(config(dir.path(), &flags)).await.unwrap();
    let reply = get("/v1/clusters").bearer("another-admin-token").send(server.info.http).await;
    assert_eq!(reply.status.as_u16(), 200);
    let reply = get("/v1/clusters").bearer(admin).send(server.info.http).await;
    assert_eq!(reply.status.as_u16(), 401);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_of_the_start_stays_revoked() {
    let (server, dir) = Running::fresh(&[]).await;
    let (token, admin) = (server.join_token(), server.admin_token());
    let path = format!("/v1/clusters/default/join-tokens/{}", token.id());
    let reply = call(Method::DELETE, &path).admin(&server).await;
    assert_eq!(reply.status.as_u16(), 204);
    server.stop().await.unwrap();
    let server = Running::start(config(dir.path(), &[])).await.unwrap();
    assert!(server.info.join_token.is_none());
    assert!(server.info.warnings.iter().any(|warning| warning.code() == "join_token_revoked"));
    assert_eq!(Node::new(1, "alice", &token).is_refused(server.info.http).await, Code::BadToken);
    let reply = get(&path).bearer(&admin).send(server.info.http).await;
    assert_eq!(reply.json()["state"], "revoked");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn another_certificate_rewrites_the_join_token() {
    let (server, dir) = Running::fresh(&[]).await;
    let before = server.join_token();
    server.stop().await.unwrap();
    let (cert_file, key_file) = write_pair(dir.path());
    let flags = ["--tls-cert", &cert_file, "--tls-key", &key_file];
    let server = Running::start(config(dir.path(), &flags)).await.unwrap();
    let after = server.join_token();
    assert_eq!(after.fingerprint(), Some(server.info.fingerprint));
    assert_ne!(after.fingerprint(), before.fingerprint());
    assert_eq!(after.id(), before.id(), "it is the same right");
    let stored = std::fs::read_to_string(dir.path().join("join-token")).unwrap();
    assert_eq!(stored.trim(), after.reveal());
    assert_eq!(tls_fingerprint(&server).await, server.info.fingerprint);
    drop(Node::new(1, "alice", &before).joins(server.info.http).await);
    server.stop().await.unwrap();
}

/// Another key and its certificate, in two files of always the same names.
fn write_pair(dir: &Path) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (dir.join("c.pem"), dir.join("k.pem"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert_file.to_str().unwrap().to_owned(), key_file.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_new_certificate_is_taken_while_running() {
    let (files, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cert_file, key_file) = write_pair(files.path());
    let flags = ["--tls-cert", &cert_file, "--tls-key", &key_file];
    let server = Running::start(config(dir.path(), &flags)).await.unwrap();
    let before = server.info.fingerprint;
    let admin = server.admin_token();
    let open = tls(server.info.http).await;

    // A pair that does not fit is refused, and the one before stays.
    let good = std::fs::read(&cert_file).unwrap();
    write_pair(files.path());
    std::fs::write(&cert_file, good).unwrap();
    server.reload.request();
    assert_eq!(tls_fingerprint(&server).await, before);

    write_pair(files.path());
    server.reload.request();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let after = loop {
        let fingerprint = tls_fingerprint(&server).await;
        if fingerprint != before {
            break fingerprint;
        }
        assert!(tokio::time::Instant::now() < deadline, "the old certificate is still in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // Who was connected notices nothing; who comes now is told of the new key.
    let reply = get("/v1/clusters").bearer(&admin).send_over(open).await;
    assert_eq!(reply.status.as_u16(), 200);
    let made = call(Method::POST, "/v1/clusters/default/join-tokens").json(&json!({}));
    let made = made.bearer(&admin).send(server.info.http).await.json();
    let made: JoinToken = made["secret"].as_str().unwrap().parse().unwrap();
    assert_eq!(made.fingerprint(), Some(after));
    let repinned = || {
        let stored = std::fs::read_to_string(dir.path().join("join-token")).unwrap();
        stored.trim().parse::<JoinToken>().unwrap().fingerprint() == Some(after)
    };
    while !repinned() {
        assert!(tokio::time::Instant::now() < deadline, "the stored token has the old fingerprint");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn one_port_speaks_tls_and_plain_http() {
    let (server, _dir) = Running::fresh(&[]).await;
    assert_eq!(get("/healthz").send(server.info.http).await.status.as_u16(), 200);
    let stream = tls(server.info.http).await;
    assert_eq!(get("/healthz").send_over(stream).await.status.as_u16(), 200);
    assert_eq!(tls_fingerprint(&server).await, server.info.fingerprint);
    server.stop().await.unwrap();
}

/// Connects, whatever the certificate.
pub(crate) async fn tls(to: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    meetpoint_server::tls_with_anybody().unwrap().connect(name, stream).await.unwrap()
}

/// SHA-256 over the public key of the certificate that the server presents, taken from the
/// certificate itself, not from the key.
async fn tls_fingerprint(server: &Running) -> Fingerprint {
    use sha2::{Digest, Sha256};
    let stream = tls(server.info.http).await;
    let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
    let certificate = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
    Fingerprint::from_bytes(Sha256::digest(certificate.subject_public_key_info()).into())
}

/// The threads that serve STUN are not the runtime's, and end with it all the same.
#[test]
fn a_server_whose_runtime_is_gone_gives_its_ports_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, _dir) = runtime.block_on(Running::fresh(&[]));
    let stun = server.info.stun[0].primary;
    assert!(std::net::UdpSocket::bind(stun).is_err(), "it is served");
    drop(runtime);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while std::net::UdpSocket::bind(stun).is_err() {
        assert!(std::time::Instant::now() < deadline, "the threads are still there");
        std::thread::yield_now();
    }
}
