//! The use cases on a real registry, with the time as the test says.

use ed25519_dalek::SigningKey;
use meetpoint_broker::{AdmitRequest, ConnId, TokenProof};
use meetpoint_proto::id::{Fingerprint, Nonce};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{Hello, PROTOCOL_VERSION};
use meetpoint_proto::{ClusterNetwork, Code, EffectiveNetwork, JoinToken, NodeId, PublicKey, SessionId};
use meetpoint_turn::Secret;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::store::{StoreError, nodes};

const CLUSTER: &str = DEFAULT_CLUSTER;
const NOW: UnixMs = UnixMs(1_800_000_000_000);

async fn service(effective: EffectiveNetwork) -> (Service, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&dir.path().join("t.db"), &TaskTracker::new()).await.unwrap();
    let name = CLUSTER.parse().unwrap();
    let row =
        establish_cluster(&store, NOW, name, ClusterNetwork::Dynamic, [1; 32], Vec::new()).await.unwrap();
    let secrets = Secrets::new(vec![Secret::new(&[2; 32]).unwrap()]).unwrap();
    (Service::new(store, vec![Cluster::new(row, effective, false)], Vec::new(), secrets), dir)
}

async fn token(service: &Service, expires_ms: Option<i64>, max_uses: Option<i64>) -> JoinToken {
    let new = NewToken { label: String::new(), expires_ms, max_uses };
    service.create_token(NOW, CLUSTER, new, Fingerprint::from_bytes([3; 32])).await.unwrap().1
}

fn request(key: u8, name: &str, token: &JoinToken) -> AdmitRequest {
    let key = SigningKey::from_bytes(&[key; 32]);
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        cluster: CLUSTER.to_owned(),
        name: name.to_owned(),
        node_id: NodeId::from(&key),
        nonce: Nonce::from_bytes([4; 32]),
        token: Some(token.id()),
        declared: None,
        node_addr: None,
        local_ip: [10, 0, 0, 1].into(),
        expect: None,
        ephemeral: false,
        version: "test".to_owned(),
    };
    let transcript = Transcript::new(&hello, &Nonce::from_bytes([5; 32]), &PublicKey::from_bytes([6; 32]));
    let signature = transcript.sign(Domain::Admission, &token.signing_key());
    AdmitRequest {
        conn: ConnId(1),
        session: SessionId::from_bytes([7; 16]),
        cluster: CLUSTER.parse().unwrap(),
        node: hello.node_id,
        name: name.parse().unwrap(),
        ephemeral: false,
        declared: None,
        source: [10, 0, 0, 1].into(),
        version: hello.version,
        admission: Some(TokenProof { token: token.id(), transcript, signature }),
        name_holder: None,
    }
}

async fn code(service: &Service, now: UnixMs, request: AdmitRequest) -> Result<(), (Code, String)> {
    service.admit(now, request).await.map(drop).map_err(|error| (error.code(), error.to_string()))
}

#[tokio::test]
async fn a_token_ends_at_its_time() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, Some(NOW.0 + 1000), None).await;
    code(&service, UnixMs(NOW.0 + 999), request(1, "a", &token)).await.unwrap();
    let expired = Err((Code::BadToken, "the join token has expired".to_owned()));
    assert_eq!(code(&service, UnixMs(NOW.0 + 1000), request(2, "b", &token)).await, expired);
    // A known node needs a valid token too.
    assert_eq!(code(&service, UnixMs(NOW.0 + 1000), request(1, "a", &token)).await, expired);
}

#[tokio::test]
async fn only_the_bearer_learns_what_is_wrong_with_a_token() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, Some(NOW.0), None).await;
    let mut guess = request(1, "a", &token);
    if let Some(proof) = &mut guess.admission {
        let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
        proof.signature = proof.transcript.sign(Domain::Admission, &stranger.signing_key());
    }
    let (code, detail) = code(&service, NOW, guess).await.unwrap_err();
    assert_eq!((code, detail.as_str()), (Code::BadToken, "the join token does not fit the signature"));
}

#[tokio::test]
async fn uses_are_counted_once_for_each_new_node() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, Some(2)).await;
    for (key, name) in [(1, "a"), (1, "a"), (2, "b"), (1, "renamed")] {
        code(&service, NOW, request(key, name, &token)).await.unwrap();
    }
    let used_up = Err((Code::BadToken, "the join token is used up".to_owned()));
    assert_eq!(code(&service, NOW, request(3, "c", &token)).await, used_up);
    // A refused join has changed nothing, also if it is refused late.
    let taken = code(&service, NOW, request(2, "renamed", &token)).await.unwrap_err();
    assert_eq!(taken.0, Code::NameTaken);
    assert_eq!(service.token(CLUSTER, &token.id()).await.unwrap().uses, 2);
    assert_eq!(service.node_count(CLUSTER).await.unwrap(), 2);
}

#[tokio::test]
async fn concurrent_joins_share_no_use() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, Some(10)).await;
    let joins = (1..=40).map(|key| code(&service, NOW, request(key, &format!("n{key}"), &token)));
    let outcomes = futures_util::future::join_all(joins).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    assert_eq!(service.node_count(CLUSTER).await.unwrap(), 10);
}

#[tokio::test]
async fn credentials_are_for_public_clusters() {
    let (private, _dir) = service(EffectiveNetwork::Private).await;
    let private_token = token(&private, None, None).await;
    let admission = private.admit(NOW, request(1, "a", &private_token)).await.unwrap();
    assert!(admission.credential.is_none());
    assert_eq!(admission.not_after_unix_s, 1_800_000_000 + 24 * 3600);

    let (public, _dir) = service(EffectiveNetwork::Public).await;
    let public_token = token(&public, None, None).await;
    let admission = public.admit(NOW, request(1, "a", &public_token)).await.unwrap();
    let credential = admission.credential.unwrap();
    let session = meetpoint_turn::node_session(&credential.username);
    assert_eq!(session, Some(SessionId::from_bytes([7; 16])));
}

#[tokio::test]
async fn a_full_cluster_takes_back_whom_it_knows() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, None).await;
    code(&service, NOW, request(1, "a", &token)).await.unwrap();
    let fill = service.store.write(|tx| {
        Box::pin(async move {
            sqlx::query("UPDATE node_counts SET nodes = 100000").execute(tx).await.map_err(StoreError::from)
        })
    });
    fill.await.unwrap();
    assert_eq!(code(&service, NOW, request(2, "b", &token)).await.unwrap_err().0, Code::ServerFull);
    code(&service, NOW, request(1, "a", &token)).await.unwrap();
}

#[tokio::test]
async fn nodes_of_an_earlier_run_are_forgotten_if_ephemeral() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, None).await;
    let guest = |key, name| AdmitRequest { ephemeral: true, ..request(key, name, &token) };
    code(&service, NOW, request(1, "registered", &token)).await.unwrap();
    code(&service, NOW, guest(2, "gone")).await.unwrap();
    code(&service, UnixMs(NOW.0 + 5), guest(3, "back")).await.unwrap();
    assert_eq!(service.forget_unseen(UnixMs(NOW.0 + 5)).await.unwrap(), 1);
    let id = service.cluster(CLUSTER).unwrap().id;
    let mut left: Vec<String> = nodes::page(service.store.reads(), id, None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.name.to_string())
        .collect();
    left.sort();
    assert_eq!(left, ["back", "registered"]);
    assert_eq!(service.node_count(CLUSTER).await.unwrap(), 2);
}
