//! The loop, without sockets: who does not read is disconnected, and nobody else notices.

use clap::Parser;
use ed25519_dalek::SigningKey;
use meetpoint_proto::id::Nonce;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{Hello, PROTOCOL_VERSION, Profile, Proof, decode_server};
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, NodeId};
use tempfile::TempDir;

use super::handle::OUTBOUND;
use super::*;
use crate::config::LimitArgs;
use crate::data_dir::DataDir;
use crate::service::{Cluster, DEFAULT_CLUSTER, Keyring, establish_cluster};
use crate::store::Store;

struct Rig {
    handle: Handle,
    halt: CancellationToken,
    cluster: ClusterName,
    /// The STUN server's end, with one place.
    stun: mpsc::Receiver<StunRequest>,
    _dir: TempDir,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    limits: LimitArgs,
}

fn access() -> AccessLimits {
    Flags::parse_from(["flags"]).limits.validate().unwrap()
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let tasks = TaskTracker::new();
    let (store, _) = Store::open(&dir.path().join("t.db"), &tasks).await.unwrap();
    let cluster: ClusterName = DEFAULT_CLUSTER.parse().unwrap();
    let now = UnixMs::now();
    let row = establish_cluster(&store, now, cluster.clone(), ClusterNetwork::Dynamic, [1; 32], Vec::new());
    let open = Cluster::new(row.await.unwrap().row, EffectiveNetwork::Private, true);
    let data = Arc::new(DataDir::open(dir.path()).unwrap());
    let keyring = Keyring::open(&store, data, now, false).await.unwrap();
    let service = Arc::new(Service::new(store, vec![open], Vec::new(), keyring));
    let (_, observations) = mpsc::channel(1);
    let (requests, stun_requests) = mpsc::channel(1);
    let stun = StunChannels { observations, requests };
    let (rendezvous, handle) =
        Rendezvous::new(Limits::default(), &access(), [3; 32], service, stun, tasks.clone());
    let halt = CancellationToken::new();
    tasks.spawn(rendezvous.run(CancellationToken::new(), halt.clone()));
    Rig { handle, halt, cluster, stun: stun_requests, _dir: dir }
}

async fn hear(connection: &mut Connection) -> Option<ServerMessage> {
    Some(match connection.outbound.recv().await? {
        Outgoing::Message(message) => *message,
        Outgoing::Frame(frame) => decode_server(&frame).unwrap(),
    })
}

async fn join(rig: &Rig, key: u8) -> Connection {
    let key = SigningKey::from_bytes(&[key; 32]);
    let mut connection = rig.handle.open("127.0.0.1:9".parse().unwrap()).await.unwrap();
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        cluster: rig.cluster.to_string(),
        name: format!("n{}", NodeId::from(&key)).chars().take(20).collect(),
        node_id: NodeId::from(&key),
        nonce: Nonce::from_bytes([4; 32]),
        token: None,
        declared: None,
        node_addr: None,
        local_ip: [127, 0, 0, 1].into(),
        expect: None,
        ephemeral: false,
        version: "test".to_owned(),
        secrets: Vec::new(),
        resume: None,
        certificate: None,
        profile: Profile::default(),
    };
    let opening = ClientMessage::Hello(Box::new(hello.clone()));
    rig.handle.message(connection.id, opening).await.unwrap();
    let Some(ServerMessage::Challenge { nonce, cluster_key, .. }) = hear(&mut connection).await else {
        panic!("no challenge");
    };
    let transcript = Transcript::new(&hello, &nonce, &cluster_key);
    let proof = Proof { node: transcript.sign(Domain::Node, &key), admission: None, secrets: Vec::new() };
    rig.handle.message(connection.id, ClientMessage::Proof(proof)).await.unwrap();
    assert!(matches!(hear(&mut connection).await, Some(ServerMessage::Welcome(_))));
    connection
}

#[tokio::test]
async fn who_does_not_read_is_disconnected() {
    let rig = rig().await;
    let mut reader = join(&rig, 1).await;
    let slow = join(&rig, 2).await;
    let present = async || {
        let cluster = rig.cluster.clone();
        rig.handle.query(move |broker| broker.present(&cluster)).await.unwrap()
    };
    assert_eq!(present().await, 2);
    for seq in 0..OUTBOUND as u64 + 1 {
        rig.handle.message(slow.id, ClientMessage::Ping { seq }).await.unwrap();
    }
    let kicked = tokio::time::timeout(Duration::from_secs(20), slow.too_slow.cancelled());
    kicked.await.expect("the node that does not read is kept");
    assert_eq!(present().await, 1);
    // The other one is told, and served as before.
    rig.handle.message(reader.id, ClientMessage::Ping { seq: 7 }).await.unwrap();
    let mut heard = Vec::new();
    while !matches!(heard.last(), Some(ServerMessage::Pong { seq: 7 })) {
        heard.push(hear(&mut reader).await.unwrap());
    }
    assert!(heard.iter().any(|message| matches!(message, ServerMessage::PeerLeft { .. })), "{heard:?}");
    rig.halt.cancel();
}

/// However slowly the STUN server listens, it hears of every pair and of every session's end, and of
/// a session's end behind its pairs.
#[tokio::test]
async fn the_stun_server_hears_of_pairs_in_their_order() {
    const PAIRS: u32 = 5;
    let mut rig = rig().await;
    let (mut asker, target) = (join(&rig, 1).await, join(&rig, 2).await);
    for (node, port) in [(&asker, 5001), (&target, 5002)] {
        let host = vec![SocketAddr::from(([127, 0, 0, 1], port))];
        rig.handle
            .message(node.id, ClientMessage::Candidates { host, relay: Vec::new(), mapped: Vec::new() })
            .await
            .unwrap();
    }
    let peer = NodeId::from(&SigningKey::from_bytes(&[2; 32])).to_string();
    for request in 0..PAIRS {
        let connect = ClientMessage::Connect { request, peer: peer.clone(), wait: false, handshake: None };
        rig.handle.message(asker.id, connect).await.unwrap();
    }
    let mut introductions = 0;
    while introductions < PAIRS {
        let heard = hear(&mut asker).await.unwrap();
        introductions += u32::from(matches!(heard, ServerMessage::Introduction(_)));
    }
    for node in [&target, &asker] {
        rig.handle.message(node.id, ClientMessage::Leave).await.unwrap();
    }
    let mut heard = vec![];
    while heard.len() < PAIRS as usize + 2 {
        heard.push(tokio::time::timeout(Duration::from_secs(20), rig.stun.recv()).await.unwrap().unwrap());
    }
    let ended = heard.split_off(PAIRS as usize);
    let [StunRequest::Ended { session: first }, StunRequest::Ended { session: second }] = ended[..] else {
        panic!("{ended:?}");
    };
    assert_ne!(first, second);
    for request in heard {
        let StunRequest::Introduced { a, b, until } = request else { panic!("{request:?}") };
        assert_eq!((a, b), (second, first));
        assert!(until > Instant::now() + PAIR_LIFETIME / 2);
    }
    rig.halt.cancel();
}

#[tokio::test]
async fn the_end_of_the_loop_is_noticed() {
    let rig = rig().await;
    rig.halt.cancel();
    while rig.handle.query(|_| ()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(rig.handle.open("127.0.0.1:9".parse().unwrap()).await.is_err());
}
