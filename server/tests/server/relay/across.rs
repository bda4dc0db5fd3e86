//! Several threads, each with some of the clients, are one server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, Class, Message};
use meetpoint_turn::{SessionId, ShardId, attr};

use super::{Client, FLAGS, SESSIONS};
use crate::client::get;
use crate::running::Running;

/// Clients to try until there are some on two threads: with three threads it takes seldom more than
/// three.
const MAX_CLIENTS: usize = 64;

async fn server() -> (Running, tempfile::TempDir) {
    Running::fresh(&[&FLAGS[..], &["--stun-threads", "3", "--relay-allocations-per-user", "100"]].concat())
        .await
}

/// The thread that has the client of this relayed address.
async fn thread_of(server: &Running, relayed: SocketAddr) -> ShardId {
    let listed = get(&format!("{SESSIONS}?limit=100")).admin(server).await.json();
    let items = listed["items"].as_array().unwrap();
    let relayed = relayed.to_string();
    let session = items.iter().find(|item| item["relayed"][0] == *relayed).unwrap();
    SessionId::from_number(session["id"].as_str().unwrap().parse().unwrap()).shard()
}

async fn client(server: &Running, data: &Path) -> Client {
    Client::new(server.info.stun[0].primary, data, "alice").await
}

#[tokio::test]
async fn clients_of_different_threads_meet() {
    let (server, dir) = server().await;
    let mut clients = Vec::new();
    let mut threads = BTreeSet::new();
    while threads.len() < 2 {
        assert!(clients.len() < MAX_CLIENTS, "the kernel deals clients to all threads");
        let mut client = client(&server, dir.path()).await;
        let relayed = client.allocate().await;
        threads.insert(thread_of(&server, relayed).await);
        clients.push((client, relayed));
    }
    let addrs: Vec<_> = clients.iter().map(|(_, relayed)| *relayed).collect();
    for (client, own) in &mut clients {
        for other in addrs.iter().filter(|addr| *addr != own) {
            assert_eq!(client.ask(CREATE_PERMISSION, &[], Some(*other)).await.0, Class::Success);
        }
    }
    for from in 0..clients.len() {
        for to in (0..clients.len()).filter(|to| *to != from) {
            clients[from].0.send(addrs[to], &[from as u8, to as u8]).await;
            assert_eq!(clients[to].0.data().await, [from as u8, to as u8]);
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_reserved_port_goes_to_the_thread_its_client_comes_to() {
    let (server, dir) = server().await;
    let transport = (attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0][..]);
    let mut has_moved = false;
    for _ in 0..MAX_CLIENTS {
        let mut first = client(&server, dir.path()).await;
        let answer = first.signed(ALLOCATE, &[transport, (attr::EVEN_PORT, &[0x80])], None).await;
        let token = Message::parse(&answer).unwrap().attribute(attr::RESERVATION_TOKEN).unwrap().to_vec();
        let mut second = client(&server, dir.path()).await;
        let (class, relayed) =
            second.ask(ALLOCATE, &[transport, (attr::RESERVATION_TOKEN, &token)], None).await;
        assert_eq!(class, Class::Success);
        let relayed = relayed.unwrap();
        assert_eq!(relayed.port() % 2, 1, "the one behind the even one");
        let even = SocketAddr::new(relayed.ip(), relayed.port() - 1);
        has_moved = thread_of(&server, even).await != thread_of(&server, relayed).await;

        // The socket has come along: it sends and receives.
        let peer = tokio::net::UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let peer_addr = peer.local_addr().unwrap();
        assert_eq!(second.ask(CREATE_PERMISSION, &[], Some(peer_addr)).await.0, Class::Success);
        second.send(peer_addr, b"out").await;
        let mut buffer = [0; 16];
        assert_eq!(peer.recv_from(&mut buffer).await.unwrap(), (3, relayed));
        peer.send_to(b"in", relayed).await.unwrap();
        assert_eq!(second.data().await, b"in");
        if has_moved {
            break;
        }
    }
    assert!(has_moved, "the kernel deals clients to all threads");
    server.stop().await.unwrap();
}
