//! The use cases on a real registry, with the time as the test says.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use meetpoint_broker::{AdmissionProof, AdmitRequest, ConnId, SecretProof, TokenProof};
use meetpoint_proto::id::{Fingerprint, Nonce, SessionToken};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{Hello, PROTOCOL_VERSION, Profile};
use meetpoint_proto::{
    ClusterNetwork, ClusterSecret, Code, EffectiveNetwork, JoinToken, NodeId, PublicKey, SessionId,
    TokenScope,
};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::admit::SESSION_LIFETIME_MS;
use super::*;
use crate::data_dir::DataDir;
use crate::store::{StoreError, nodes};

const NEW_TOKEN: NewToken =
    NewToken { label: String::new(), scope: TokenScope::Node, names: None, expires_ms: None, max_uses: None };
pub(crate) const CLUSTER: &str = DEFAULT_CLUSTER;
pub(crate) const NOW: UnixMs = UnixMs(1_800_000_000_000);

pub(crate) async fn service(effective: EffectiveNetwork) -> (Service, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&dir.path().join("t.db"), &TaskTracker::new()).await.unwrap();
    let name = CLUSTER.parse().unwrap();
    let row = establish_cluster(&store, NOW, name, ClusterNetwork::Dynamic, [1; 32], Vec::new());
    let row = row.await.unwrap().row;
    let data = Arc::new(DataDir::open(dir.path()).unwrap());
    let keyring = Keyring::open(&store, data, NOW, false).await.unwrap();
    (Service::new(store, vec![Cluster::new(row, effective, false)], Vec::new(), keyring), dir)
}

pub(super) async fn token(service: &Service, expires_ms: Option<i64>, max_uses: Option<i64>) -> JoinToken {
    let new = NewToken { expires_ms, max_uses, ..NEW_TOKEN };
    service.create_token(NOW, &Actor::SERVER, CLUSTER, new, Fingerprint::from_bytes([3; 32])).await.unwrap().1
}

pub(super) fn request(key: u8, name: &str, token: &JoinToken) -> AdmitRequest {
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
        secrets: Vec::new(),
        resume: None,
        certificate: None,
        profile: Profile::default(),
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
        profile: Profile::default(),
        admission: Some(AdmissionProof {
            transcript,
            resume: None,
            token: Some(TokenProof { token: token.id(), signature }),
            secrets: Vec::new(),
        }),
        visitor_until_unix_s: None,
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

/// However many there are, and whether or not a node is known: they are written by few statements.
#[tokio::test]
async fn notes_are_written_together() {
    use meetpoint_proto::{Evidence, NetworkClass};
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let (token, cluster) = (token(&service, None, None).await, CLUSTER.parse().unwrap());
    let id = |key: u8| NodeId::from(&SigningKey::from_bytes(&[key; 32]));
    for (key, name) in [(1, "judged"), (2, "seen"), (3, "left")] {
        let ephemeral = AdmitRequest { ephemeral: key == 3, ..request(key, name, &token) };
        service.admit(NOW, ephemeral).await.unwrap();
    }
    let (later, observed) = (UnixMs(NOW.0 + 1000), "20.0.0.9:5000".parse().ok());
    let verdict = (NetworkClass::PublicReachable, Evidence::Proven, observed);
    service.note_class(later, &cluster, id(1), (NetworkClass::Private, Evidence::Observed, None));
    service.note_class(later, &cluster, id(1), verdict);
    service.note_seen(later, &cluster, id(2));
    for key in 0..=u8::MAX {
        // Most are nobody's, and only an ephemeral one goes.
        service.forget(&cluster, id(key));
        service.note_seen(later, &cluster, NodeId::from_bytes([key; 32]));
    }
    // The writer works in order: behind this one, the notes are stored.
    service.probe(later).await.unwrap();
    let judged = service.node(CLUSTER, &id(1)).await.unwrap();
    let found = (judged.class.unwrap(), judged.evidence.unwrap(), judged.observed);
    assert_eq!((found, judged.last_seen_ms), (verdict, later.0));
    let seen = service.node(CLUSTER, &id(2)).await.unwrap();
    assert_eq!((seen.class, seen.last_seen_ms), (None, later.0));
    assert!(matches!(service.node(CLUSTER, &id(3)).await, Err(ServiceError::UnknownNode)));
    assert_eq!(service.node_count(CLUSTER).await.unwrap(), 2);
}

#[tokio::test]
async fn only_the_bearer_learns_what_is_wrong_with_a_token() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, Some(NOW.0), None).await;
    let mut guess = request(1, "a", &token);
    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    let claims = guess.admission.as_mut().unwrap();
    let signature = claims.transcript.sign(Domain::Admission, &stranger.signing_key());
    claims.token = Some(TokenProof { token: token.id(), signature });
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
async fn a_token_admits_what_it_is_for() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let make = async |new| {
        service
            .create_token(NOW, &Actor::SERVER, CLUSTER, new, Fingerprint::from_bytes([3; 32]))
            .await
            .unwrap()
            .1
    };
    let web = make(NewToken { names: Some("web-*".parse().unwrap()), ..NEW_TOKEN }).await;
    let seed = make(NewToken { scope: TokenScope::Seed, ..NEW_TOKEN }).await;
    let refused = |code, text: &str| Err((code, format!("the join token is for {text}")));
    let like_web = refused(Code::NameNotAllowed, "names like web-*");
    assert_eq!(code(&service, NOW, request(1, "db-1", &web)).await, like_web);
    assert_eq!(code(&service, NOW, request(2, "s", &seed)).await, refused(Code::TokenScope, "a seed"));
    code(&service, NOW, request(1, "web-1", &web)).await.unwrap();
    // A known node gets no other name by it either, nor by its session.
    assert_eq!(code(&service, NOW, request(1, "db-1", &web)).await, like_web);
    let session = join(&service, NOW, request(1, "web-1", &web)).await.unwrap().session_token;
    assert_eq!(
        code(&service, NOW, returns(1, "db-1", session.unwrap())).await.unwrap_err().0,
        Code::TokenRequired
    );
    assert_eq!(service.token(CLUSTER, &web.id()).await.unwrap().uses, 1);
}

async fn join(service: &Service, now: UnixMs, request: AdmitRequest) -> Result<Admission, ServiceError> {
    service.admit(now, request).await
}

/// A node that has nothing to show but its session.
fn returns(key: u8, name: &str, session: SessionToken) -> AdmitRequest {
    let mut request = request(key, name, &"not-shown-to-anybody".parse().unwrap());
    let claims = request.admission.as_mut().unwrap();
    (claims.token, claims.resume) = (None, Some(session));
    request
}

#[tokio::test]
async fn a_session_outlives_the_right_that_began_it() {
    let (service, dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, Some(NOW.0 + 1000), Some(1)).await;
    let session = join(&service, NOW, request(1, "a", &token)).await.unwrap().session_token.unwrap();
    service.revoke_token(NOW, &Actor::SERVER, CLUSTER, token.id()).await.unwrap();
    let day = SESSION_LIFETIME_MS;
    let at = |ms| UnixMs(NOW.0 + ms);
    // Each return puts the end off by a day; so does a renewal.
    let back = join(&service, at(day - 1), returns(1, "a", session)).await.unwrap();
    assert!(back.session_token.is_none(), "it goes on");
    let node = NodeId::from(&SigningKey::from_bytes(&[1; 32]));
    let cluster = CLUSTER.parse().unwrap();
    service.renew(at(2 * day - 2), &cluster, node, SessionId::from_bytes([7; 16])).await.unwrap();
    // A server that starts again knows it.
    let (store, _) = Store::open(&dir.path().join("t.db"), &TaskTracker::new()).await.unwrap();
    let row = crate::store::clusters::all(store.reads()).await.unwrap().remove(0);
    let keyring = Keyring::open(&store, Arc::clone(&service.keyring.data), NOW, false).await.unwrap();
    let cluster = Cluster::new(row, EffectiveNetwork::Private, false);
    let restarted = Service::new(store, vec![cluster], Vec::new(), keyring);
    join(&restarted, at(3 * day - 3), returns(1, "a", session)).await.unwrap();
    let expired = code(&restarted, at(4 * day - 3), returns(1, "a", session)).await.unwrap_err();
    assert_eq!(expired.0, Code::TokenRequired);
    // Whoever still has a right is not held up by a session that has ended.
    let other = restarted
        .create_token(NOW, &Actor::SERVER, CLUSTER, NEW_TOKEN, Fingerprint::from_bytes([3; 32]))
        .await
        .unwrap()
        .1;
    let mut both = request(1, "a", &other);
    both.admission.as_mut().unwrap().resume = Some(session);
    let fresh = join(&restarted, at(4 * day - 3), both).await.unwrap().session_token.unwrap();
    assert_eq!(
        code(&restarted, at(4 * day), returns(1, "a", session)).await.unwrap_err().0,
        Code::TokenRequired
    );
    join(&restarted, at(4 * day), returns(1, "a", fresh)).await.unwrap();
    restarted.end_session(NOW, &Actor::SERVER, CLUSTER, node).await.unwrap();
    assert_eq!(
        code(&restarted, at(4 * day), returns(1, "a", fresh)).await.unwrap_err().0,
        Code::TokenRequired
    );
}

/// Attack: a stolen session token. What is stored is checked with and without what binds it.
#[tokio::test]
async fn a_stolen_session_is_worth_nothing() {
    let (service, dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, Some(1)).await;
    let session = join(&service, NOW, request(1, "a", &token)).await.unwrap().session_token.unwrap();
    let cluster = service.cluster(CLUSTER).unwrap().id;
    let thief = returns(2, "a", session);

    // Defence off: a session is whoever's who bears it, for as long as the node is known.
    let hash = admit::session_hash(&session);
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT node_id FROM nodes WHERE session_hash = ?")
        .bind(hash.as_slice())
        .fetch_all(service.store.reads())
        .await
        .unwrap();
    assert_eq!(stored.len(), 1, "a bearer token would let the thief in");
    let mut unbound = returns(2, "a", session);
    unbound.node = NodeId::from_bytes(stored[0].clone().try_into().unwrap());
    service.admit(NOW, unbound).await.expect("the session alone, with the key not checked, is enough");

    // On: it is the key's that began it, under its name, for a day, and the registry gives it to nobody.
    assert_eq!(code(&service, NOW, thief).await.unwrap_err().0, Code::TokenRequired);
    let late = UnixMs(NOW.0 + SESSION_LIFETIME_MS);
    assert_eq!(code(&service, late, returns(1, "a", session)).await.unwrap_err().0, Code::TokenRequired);
    let from_registry = SessionToken::from_bytes(hash);
    assert_eq!(code(&service, NOW, returns(1, "a", from_registry)).await.unwrap_err().0, Code::TokenRequired);
    for file in ["t.db", "t.db-wal"] {
        let bytes = std::fs::read(dir.path().join(file)).unwrap();
        assert!(!bytes.windows(32).any(|window| window == session.as_bytes()), "{file}");
    }
    assert_eq!(nodes::count(service.store.reads(), cluster).await.unwrap(), 1);
}

/// Attack: one token, a thousand nodes.
#[tokio::test]
async fn a_token_does_not_make_a_crowd() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    for (max_uses, expect) in [(None, 60), (Some(3), 3)] {
        let token = token(&service, None, max_uses).await;
        let first = if max_uses.is_none() { 1 } else { 101 };
        let mut admitted = 0;
        for key in first..first + 60 {
            admitted +=
                usize::from(code(&service, NOW, request(key, &format!("n{key}"), &token)).await.is_ok());
        }
        assert_eq!(admitted, expect, "{max_uses:?}");
    }
}

#[tokio::test]
async fn a_removed_node_stays_out_until_it_is_let_in() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let token = token(&service, None, None).await;
    let session = join(&service, NOW, request(1, "a", &token)).await.unwrap().session_token.unwrap();
    let node = NodeId::from(&SigningKey::from_bytes(&[1; 32]));
    let until_unix_s = service.remove_node(NOW, &Actor::SERVER, CLUSTER, node).await.unwrap();
    assert_eq!(until_unix_s, NOW.unsigned() / 1000 + CERTIFICATE_LIFETIME_S);
    let late = UnixMs(NOW.0 + 10 * SESSION_LIFETIME_MS);
    for now in [NOW, late] {
        assert_eq!(code(&service, now, request(1, "a", &token)).await.unwrap_err().0, Code::Removed);
        assert_eq!(code(&service, now, returns(1, "a", session)).await.unwrap_err().0, Code::Removed);
    }
    let cluster = CLUSTER.parse().unwrap();
    let renewal = service.renew(NOW, &cluster, node, SessionId::from_bytes([7; 16])).await;
    assert_eq!(renewal.unwrap_err().code(), Code::Removed);
    // Members are told as long as a certificate may hold; the operator sees it as long as it lasts.
    let told = [InForce { cluster, node, until_unix_s }];
    assert_eq!(service.revocations_in_force(NOW).await.unwrap(), told);
    assert_eq!(service.revocations_in_force(late).await.unwrap(), []);
    assert_eq!(service.revocations(CLUSTER, None, 10).await.unwrap()[0].name.as_str(), "a");
    service.restore_node(NOW, &Actor::SERVER, CLUSTER, node).await.unwrap();
    assert!(matches!(
        service.restore_node(NOW, &Actor::SERVER, CLUSTER, node).await,
        Err(ServiceError::UnknownRevocation)
    ));
    code(&service, NOW, returns(1, "a", session)).await.expect_err("its session went with it");
    code(&service, NOW, request(1, "a", &token)).await.unwrap();
}

/// A node that shows these secrets, the first of them under the wrong key if it is to lie.
fn shows(key: u8, name: &str, secrets: &[&ClusterSecret], lies: bool) -> AdmitRequest {
    let mut request = request(key, name, &"not-shown-to-anybody".parse().unwrap());
    let cluster = CLUSTER.parse().unwrap();
    let claims = request.admission.as_mut().unwrap();
    claims.token = None;
    let proof = |secret: &&ClusterSecret| {
        let mac_key = if lies { ClusterSecret::from_bytes([9; 32]) } else { (*secret).clone() }.key(&cluster);
        SecretProof { secret: secret.id(&cluster), mac: claims.transcript.mac(&mac_key) }
    };
    claims.secrets = secrets.iter().map(proof).collect();
    request
}

#[tokio::test]
async fn cluster_secrets_are_a_keyring() {
    let (service, dir) = service(EffectiveNetwork::Private).await;
    let (old_row, old) = service.add_secret(NOW, &Actor::SERVER, CLUSTER, None).await.unwrap();
    let given = ClusterSecret::from_bytes([5; 32]);
    let wrong = Err((Code::BadSecret, "none of the node's cluster secrets is in use".to_owned()));
    assert_eq!(code(&service, NOW, shows(1, "a", &[&given], false)).await, wrong);
    assert_eq!(code(&service, NOW, shows(1, "a", &[&old], true)).await, wrong);
    code(&service, NOW, shows(1, "a", &[&old], false)).await.unwrap();
    // Both are in use for a while; a node may hold either, or both in any order.
    service.add_secret(UnixMs(NOW.0 + 1), &Actor::SERVER, CLUSTER, Some(given.clone())).await.unwrap();
    let again = service.add_secret(NOW, &Actor::SERVER, CLUSTER, Some(given.clone())).await;
    assert!(matches!(again, Err(ServiceError::KnownSecret)));
    let listed: Vec<_> = service.secrets(CLUSTER).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(listed, [given.id(&CLUSTER.parse().unwrap()), old_row.id]);
    for (key, held) in [(2, vec![&old]), (3, vec![&given]), (4, vec![&given, &old]), (5, vec![&old, &given])]
    {
        code(&service, NOW, shows(key, &format!("n{key}"), &held, false)).await.unwrap();
    }
    service.drop_secret(NOW, &Actor::SERVER, CLUSTER, old_row.id).await.unwrap();
    assert!(matches!(
        service.drop_secret(NOW, &Actor::SERVER, CLUSTER, old_row.id).await,
        Err(ServiceError::UnknownSecret)
    ));
    assert_eq!(code(&service, NOW, shows(6, "b", &[&old], false)).await, wrong);
    code(&service, NOW, shows(6, "b", &[&old, &given], false)).await.unwrap();
    // The registry holds what checks a proof, not the secret.
    for file in ["t.db", "t.db-wal"] {
        let bytes = std::fs::read(dir.path().join(file)).unwrap();
        assert!(!bytes.windows(32).any(|window| window == [5; 32]), "{file}");
    }
    while service.add_secret(NOW, &Actor::SERVER, CLUSTER, None).await.is_ok() {}
    assert_eq!(service.secrets(CLUSTER).await.unwrap().len(), meetpoint_proto::wire::MAX_SECRETS);
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

const HOUR_MS: i64 = 3_600_000;

fn at(hours: i64) -> UnixMs {
    UnixMs(NOW.0 + hours * HOUR_MS)
}

/// The accepted secrets, the current one first, and for how many hours the others are.
async fn accepted(service: &Service) -> Vec<(i64, i64)> {
    let rows = service.relay_secrets().await;
    rows.iter().map(|row| (row.id, (row.needed_until_ms - NOW.0) / HOUR_MS)).collect()
}

#[tokio::test]
async fn a_secret_is_accepted_as_long_as_it_is_needed() {
    let (service, _dir) = service(EffectiveNetwork::Private).await;
    let keys = service.relay_keys();
    let mint = async |now: UnixMs, hours: u64| {
        let expires_unix_s = now.unsigned() / 1000 + hours * 3600;
        service.mint(now, "alice", expires_unix_s).await.unwrap()
    };
    let first = mint(NOW, 24).await;
    // An allocation may outlive them by an hour. An eighth more is noted: what is minted within the
    // next hours changes nothing.
    assert_eq!(accepted(&service).await, [(1, 28)]);
    mint(at(3), 24).await;
    mint(at(3), 8).await;
    assert_eq!(accepted(&service).await, [(1, 28)]);

    service.add_relay_secret(at(4), &Actor::SERVER, None, 12 * 3600).await.unwrap();
    assert_eq!(accepted(&service).await, [(2, 4), (1, 28)]);
    assert_ne!(mint(NOW, 24).await.1, first.1, "the new one mints");
    service.add_relay_secret(at(5), &Actor::SERVER, None, 40 * 3600).await.unwrap();
    assert_eq!(accepted(&service).await, [(3, 5), (2, 45), (1, 28)]);

    for (hours, left) in
        [(27, vec![3, 2, 1]), (28, vec![3, 2]), (44, vec![3, 2]), (45, vec![3]), (900, vec![3])]
    {
        service.drop_unneeded_relay_secrets(at(hours)).await.unwrap();
        let ids: Vec<_> = accepted(&service).await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, left, "{hours} h");
    }
    assert!(keys.has_changed().unwrap());
}

#[tokio::test]
async fn the_secret_in_the_file_is_the_current_one() {
    let (service, dir) = service(EffectiveNetwork::Private).await;
    let file = dir.path().join("credential-secret");
    let store = service.store.clone();
    let data = Arc::clone(&service.keyring.data);
    let open = async |now| Keyring::open(&store, Arc::clone(&data), now, false).await;
    let current = service.relay_secrets().await[0].secret.clone();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), current);

    // A lost file is written again; a known secret in it does not count as a new one.
    std::fs::remove_file(&file).unwrap();
    open(at(0)).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), current);
    service.add_relay_secret(at(1), &Actor::SERVER, None, 3600).await.unwrap();
    std::fs::write(&file, &current).unwrap();
    open(at(1)).await.unwrap();
    let second = service.relay_secrets().await[0].secret.clone();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), second);

    // An unknown one is taken over, with what may have been minted with it elsewhere.
    std::fs::write(&file, "the north wind and the sun").unwrap();
    let keyring = open(at(1)).await.unwrap();
    let service = Service::new(store.clone(), Vec::new(), Vec::new(), keyring);
    assert_eq!(accepted(&service).await, [(3, 1 + 7 * 24), (2, 13), (1, 2)]);

    std::fs::write(&file, "too short").unwrap();
    assert!(matches!(open(at(1)).await.err(), Some(ServiceError::CredentialFile(_))));
    std::fs::remove_file(&file).unwrap();

    // A refused change leaves the file as it was.
    service.add_relay_secret(at(1), &Actor::SERVER, None, 3600).await.unwrap();
    let before = std::fs::read_to_string(&file).unwrap();
    let full = service.add_relay_secret(at(1), &Actor::SERVER, None, 3600).await;
    assert!(matches!(full.err(), Some(ServiceError::RelayFull(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
}
