//! Bad configuration: the message names flag and value, the exit code is 2, nothing is left on disk.

use std::net::{TcpListener, UdpSocket};

use meetpoint_server::{Server, StartError};

use crate::running::{Running, args};

/// What became of a set of flags.
async fn refusal(data: &std::path::Path, flags: &[&str]) -> Option<String> {
    let args = match args(data, flags) {
        Ok(args) => args,
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            return Some(error.to_string());
        }
    };
    let config = match args.validate() {
        Ok(config) => config,
        Err(error) => return Some(error.to_string()),
    };
    match Server::bind(config).await {
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(matches!(error, StartError::Config(_)), "{error:?}");
            Some(error.to_string())
        }
    }
}

async fn check(flags: &[&str], parts: &[&str]) {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let message = refusal(&data, flags).await.unwrap_or_else(|| panic!("{flags:?} was taken"));
    for part in parts {
        assert!(message.contains(part), "{flags:?}: {part:?} is not in: {message}");
    }
    assert!(!data.exists(), "{flags:?} left a data directory");
}

#[tokio::test]
async fn each_bad_flag_is_named() {
    check(&["--http", "nonsense"], &["--http", "nonsense", "IP:PORT"]).await;
    check(&["--http", "localhost:80"], &["--http", "localhost:80", "IP:PORT"]).await;
    check(&["--http", "239.1.1.1:80"], &["--http 239.1.1.1", "not an address of one host"]).await;
    check(&["--http", "20.255.255.1:0"], &["--http 20.255.255.1:0", "address of this machine"]).await;
    check(&["--stun", "x"], &["--stun", "IP:PORT"]).await;
    check(&["--stun", "20.255.255.1:0"], &["--stun 20.255.255.1:0", "address of this machine"]).await;
    let three = "127.0.0.1:1,127.0.0.2:1,127.0.0.3:1";
    check(&["--stun", three], &["--stun 127.0.0.3:1", "at most 2"]).await;
    check(&["--stun", "127.0.0.1:7000,127.0.0.2:7001"], &["--stun 127.0.0.2:7001", "same port"]).await;
    check(&["--stun", "127.0.0.1:7000,127.0.0.1:7000"], &["--stun 127.0.0.1:7000", "different"]).await;
    check(&["--stun", "127.0.0.1:7000,0.0.0.0:7000"], &["--stun 0.0.0.0:7000", "concrete"]).await;
    check(&["--stun", "127.0.0.1:7000", "--stun-alt-port", "7000"], &["--stun-alt-port 7000"]).await;
    check(&["--stun-alt-port", "70000"], &["--stun-alt-port", "70000"]).await;
    check(&["--stun-tcp", "here"], &["--stun-tcp", "here", "IP:PORT", "off"]).await;
    check(&["--stun-tcp", "off,127.0.0.1:0"], &["--stun-tcp", "not both"]).await;
    check(&["--stun-tls", "239.1.1.1:80"], &["--stun-tls 239.1.1.1", "not an address of one host"]).await;
    check(&["--stun-tls", "20.255.255.1:0"], &["--stun-tls 20.255.255.1:0", "address of this machine"]).await;
    let three = "127.0.0.1:0,[::1]:0,127.0.0.2:0,127.0.0.3:0";
    check(&["--stun-tls", three], &["--stun-tls 127.0.0.3:0", "at most 2 addresses per family"]).await;
    check(&["--external-ip", "here"], &["--external-ip", "IP address"]).await;
    check(&["--external-ip", "0.0.0.0"], &["--external-ip 0.0.0.0"]).await;
    check(&["--relay-ip", "here"], &["--relay-ip", "IP address"]).await;
    check(&["--relay-ip", "0.0.0.0"], &["--relay-ip 0.0.0.0", "not an address of one host"]).await;
    check(&["--relay-ip", "20.255.255.1"], &["--relay-ip 20.255.255.1:0", "address of this machine"]).await;
    check(&["--relay-ip", "127.0.0.1,127.0.0.2"], &["--relay-ip 127.0.0.2", "one address per family"]).await;
    for ports in ["5", "0-5", "6-5", "1-65536", "a-b"] {
        check(&["--relay-ports", ports], &["--relay-ports", ports, "MIN-MAX"]).await;
    }
    check(&["--relay-allow-peer", "10.0.0.1/8"], &["--relay-allow-peer", "behind its prefix"]).await;
    check(&["--relay-deny-peer", "x"], &["--relay-deny-peer", "ADDRESS/BITS"]).await;
    check(&["--cluster-network-type", "OPEN"], &["--cluster-network-type", "OPEN", "PRIVATE|PUBLIC|DYNAMIC"])
        .await;
    check(&["--node-network-type", "X"], &["--node-network-type", "X", "PRIVATE|PUBLIC"]).await;
    check(&["--seed", "10.0.0.1:80"], &["--seed", "NAME@10.0.0.1:80"]).await;
    check(&["--seed", "a@h"], &["--seed", "a@h:PORT"]).await;
    check(&["--seed", "a@10.0.0.1:80,a@10.0.0.2:80"], &["--seed a@10.0.0.2:80", "twice"]).await;
    check(&["--seed", "a@10.0.0.1:80,b@10.0.0.1:80"], &["--seed b@10.0.0.1:80", "twice"]).await;
    check(&["--join-token", "tooshort"], &["--join-token", "at least 16"]).await;
    check(&["--join-token", "mpj1aaaaaaaaaaaaaaaaaaaa"], &["--join-token", "damaged"]).await;
    check(&["--admin-token", "tooshort"], &["--admin-token", "16 to 256"]).await;
    check(&["--admin-token-file", "/nonexistent/f"], &["--admin-token-file /nonexistent/f"]).await;
    check(&["--admin-token", "aaaaaaaaaaaaaaaa", "--admin-token-file", "f"], &["--admin-token-file"]).await;
    check(&["--tls-cert", "c.pem"], &["--tls-key"]).await;
    check(&["--tls-cert", "/nonexistent/c", "--tls-key", "/nonexistent/k"], &["--tls-cert /nonexistent/c"])
        .await;
}

#[tokio::test]
async fn cluster_rules_are_checked_before_anything_is_stored() {
    check(
        &["--cluster-network-type", "PUBLIC"],
        &["--cluster-network-type PUBLIC", "no_seed_in_public_cluster"],
    )
    .await;
    check(
        &["--cluster-network-type", "PUBLIC", "--seed", "a@20.0.0.1:80,b@10.0.0.1:80"],
        &["--seed b@10.0.0.1:80", "bad_seed_in_public_cluster", "private"],
    )
    .await;
    check(
        &["--cluster-network-type", "PRIVATE", "--seed", "a@20.0.0.1:80"],
        &["--seed a@20.0.0.1:80", "public_seed_in_private_cluster"],
    )
    .await;
    check(&["--node-network-type", "PUBLIC"], &["--node-network-type PUBLIC", "declared_public_but_private"])
        .await;
    check(
        &["--external-ip", "20.0.0.1", "--seed", "a@20.0.0.1:80", "--node-network-type", "PRIVATE"],
        &["--node-network-type PRIVATE", "declared_private_but_public"],
    )
    .await;
}

#[tokio::test]
async fn secrets_are_not_repeated() {
    let parent = tempfile::tempdir().unwrap();
    for flags in [["--join-token", "sh0rt"], ["--admin-token", "sh0rt"]] {
        let message = refusal(&parent.path().join("data"), &flags).await.unwrap();
        assert!(!message.contains("sh0rt"), "{message}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    check(&["--http", &addr], &["--http", &addr, "in use"]).await;
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    check(&["--stun", &addr], &["--stun", &addr, "in use"]).await;
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    for flag in ["--stun-tcp", "--stun-tls"] {
        check(&[flag, &addr], &[flag, &addr, "in use"]).await;
    }
}

/// Nobody asked for TCP, so its port being taken is no reason not to start.
#[tokio::test]
async fn a_port_that_nobody_named_may_be_in_use() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let flags = ["--stun", &addr.to_string(), "--stun-tls", "off"];
    let (server, _dir) = Running::fresh(&flags).await;
    assert_eq!((&server.info.stun_tcp, &server.info.stun_tls), (&vec![], &vec![]));
    let told = server.info.warnings.iter().find(|warning| warning.code() == "no_stun_stream").unwrap();
    assert!(told.to_string().contains(&format!("{addr}, where --stun-tcp is")), "{told}");
    server.stop().await.unwrap();
    let (server, _dir) = Running::fresh(&["--stun-tcp", "127.0.0.1:0,[::1]:0"]).await;
    assert_eq!((server.info.stun_tcp.len(), server.info.stun_tls.len()), (2, 1));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_certificates_are_named() {
    let parent = tempfile::tempdir().unwrap();
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let write = |name: &str, text: &str| {
        let path = parent.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ((cert, key), (_, other_key)) = (pair(), pair());
    let (cert, key) = (write("cert", &cert), write("key", &key));
    let (other, garbage) = (write("other", &other_key), write("garbage", "no PEM"));
    check(&["--tls-cert", &garbage, "--tls-key", &key], &["--tls-cert", &garbage, "PEM certificate"]).await;
    check(&["--tls-cert", &cert, "--tls-key", &garbage], &["--tls-key", &garbage, "PEM private key"]).await;
    check(&["--tls-cert", &cert, "--tls-key", &other], &["--tls-cert", &cert, "does not fit the key"]).await;
}
