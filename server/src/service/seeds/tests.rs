//! Seeds on a real registry, with the time as the test says.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use futures_util::FutureExt;
use meetpoint_proto::JoinToken;
use meetpoint_proto::id::Fingerprint;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::super::tests::{CLUSTER, NOW};
use super::super::{Keyring, NewToken, establish_cluster};
use super::*;
use crate::data_dir::DataDir;
use crate::events::Filter;
use crate::seeds::Judged;
use crate::store::Store;

const KIND: [ClusterNetwork; 3] = [ClusterNetwork::Private, ClusterNetwork::Public, ClusterNetwork::Dynamic];
const ACTOR: &Actor = &Actor::SERVER;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn audience() -> PublicKey {
    PublicKey::from(&key(99))
}

fn judged(text: &str, is_public: bool) -> Judged {
    Judged { seed: text.parse().unwrap(), is_public, declared: None }
}

/// A start of the server, and the seeds that came back although they had been deleted.
async fn start(dir: &TempDir, kind: ClusterNetwork, given: Vec<Judged>) -> (Service, Vec<SeedName>) {
    let (store, _) = Store::open(&dir.path().join("t.db"), &TaskTracker::new()).await.unwrap();
    let name = CLUSTER.parse().unwrap();
    let established = establish_cluster(&store, NOW, name, kind, [1; 32], given).await.unwrap();
    let cluster = Cluster::new(established.row, established.effective, false);
    // Each start its own, since the one before may not have ended yet.
    let data = tempfile::tempdir_in(dir.path()).unwrap().keep();
    let keyring = Keyring::open(&store, Arc::new(DataDir::open(&data).unwrap()), NOW, false).await.unwrap();
    (Service::new(store, vec![cluster], Vec::new(), keyring), established.returned)
}

async fn fresh_service(kind: ClusterNetwork) -> (Service, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let given = match kind {
        ClusterNetwork::Public => vec![judged("first@20.0.0.1:80", true)],
        ClusterNetwork::Private | ClusterNetwork::Dynamic => vec![judged("first@10.0.0.1:80", false)],
    };
    (start(&dir, kind, given).await.0, dir)
}

fn new_seed(text: &str) -> NewSeed {
    NewSeed { addr: text.parse().unwrap(), declared: None, public_key: None, approved: true }
}

async fn put(service: &Service, new: NewSeed) -> Result<(SeedRow, bool), ServiceError> {
    service.put_seed(NOW, ACTOR, CLUSTER, new).await
}

fn effective(service: &Service) -> EffectiveNetwork {
    service.cluster(CLUSTER).unwrap().effective
}

async fn seed(service: &Service, name: &str) -> SeedRow {
    service.seed(CLUSTER, name).await.unwrap()
}

async fn check(service: &Service, name: &str, checked: Checked) -> SeedRow {
    let asked = seed(service, name).await;
    service.note_seed_check(NOW, CLUSTER, asked, checked).await.unwrap();
    seed(service, name).await
}

fn proven(byte: u8, ip: &str) -> Checked {
    Checked::Proven { key: PublicKey::from(&key(byte)), ips: vec![ip.parse().unwrap()] }
}

#[tokio::test]
async fn a_dynamic_cluster_is_lifted_by_a_public_seed_until_the_last_one_is_deleted() {
    use EffectiveNetwork::{Private, Public};
    let (service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
    let mut changes = service.changes();
    let mut expect = |network: EffectiveNetwork, heard: bool| {
        assert_eq!(effective(&service), network);
        assert_eq!(changes.has_changed().unwrap(), heard, "{network}");
        changes.mark_unchanged();
    };
    expect(Private, false);
    put(&service, new_seed("b@10.0.0.2:80")).await.unwrap();
    expect(Private, false);
    put(&service, new_seed("c@20.0.0.3:80")).await.unwrap();
    expect(Public, true);
    put(&service, new_seed("d@20.0.0.4:80")).await.unwrap();
    expect(Public, false);
    let down = Checked::Failed { code: Code::SeedUnreachable, is_down: true };
    for name in ["c", "d"] {
        assert_eq!(check(&service, name, down.clone()).await.status, SeedStatus::Down);
    }
    expect(Public, false);
    service.delete_seed(NOW, ACTOR, CLUSTER, "c").await.unwrap();
    expect(Public, false);
    service.approve_seed(NOW, ACTOR, CLUSTER, "d", false).await.unwrap();
    expect(Private, true);
    service.approve_seed(NOW, ACTOR, CLUSTER, "d", true).await.unwrap();
    expect(Public, true);
    // It moves to where it is not public.
    put(&service, new_seed("d@10.0.0.4:80")).await.unwrap();
    expect(Private, true);
    assert!(matches!(
        service.delete_seed(NOW, ACTOR, CLUSTER, "nobody").await,
        Err(ServiceError::UnknownSeed)
    ));
}

#[tokio::test]
async fn whoever_watches_is_told() {
    let (service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
    let mut watch = service.events().subscribe(None, Filter::default());
    let mut told = || {
        let mut told = Vec::new();
        while let Some(frame) = watch.next().now_or_never() {
            let event: Value = serde_json::from_slice(&frame.json()).unwrap();
            let data = &event["data"];
            let words = [&event["type"], &data["name"], &data["status"], &data["effective"], &data["reason"]];
            let words = words.into_iter().filter_map(Value::as_str);
            told.push(words.collect::<Vec<_>>().join(" "));
        }
        told
    };
    put(&service, new_seed("b@20.0.0.2:80")).await.unwrap();
    assert_eq!(told(), ["seed:status b unverified", "cluster:state PUBLIC seeds"]);
    check(&service, "b", proven(7, "20.0.0.2")).await;
    check(&service, "b", proven(7, "20.0.0.2")).await;
    assert_eq!(told(), ["seed:status b up"], "what is as it was is told once");
    check(&service, "b", Checked::Failed { code: Code::SeedUnreachable, is_down: true }).await;
    assert_eq!(told(), ["seed:status b down seed_unreachable"]);
    service.delete_seed(NOW, ACTOR, CLUSTER, "b").await.unwrap();
    assert_eq!(told(), ["seed:status b deleted seed_unreachable", "cluster:state PRIVATE seeds"]);
}

#[tokio::test]
async fn the_rules_refuse_seeds_and_name_them() {
    use ClusterNetwork::{Dynamic, Private, Public};
    use NetworkType as N;
    let cases = [
        (Private, "b@20.0.0.2:80", None, Err(Code::PublicSeedInPrivateCluster)),
        (Private, "b@[64:ff9b::1400:2]:80", None, Err(Code::PublicSeedInPrivateCluster)),
        (Private, "b@10.0.0.2:80", None, Ok(false)),
        (Private, "b@10.0.0.2:80", Some(N::Public), Err(Code::DeclaredPublicButPrivate)),
        (Public, "b@10.0.0.2:80", None, Err(Code::BadSeedInPublicCluster)),
        (Public, "b@[::ffff:10.0.0.2]:80", None, Err(Code::BadSeedInPublicCluster)),
        (Public, "b@nowhere.invalid:80", None, Err(Code::BadSeedInPublicCluster)),
        (Public, "b@20.0.0.2:80", Some(N::Private), Err(Code::DeclaredPrivateButPublic)),
        (Public, "b@20.0.0.2:80", Some(N::Public), Ok(true)),
        // It would be the last public one.
        (Public, "first@10.0.0.2:80", None, Err(Code::BadSeedInPublicCluster)),
        (Dynamic, "b@10.0.0.2:80", Some(N::Public), Err(Code::DeclaredPublicButPrivate)),
        (Dynamic, "b@224.0.0.1:80", None, Err(Code::SeedAddressRefused)),
        (Dynamic, "b@0.0.0.0:80", None, Err(Code::SeedAddressRefused)),
        (Dynamic, "b@nowhere.invalid:80", None, Ok(false)),
        (Dynamic, "b@20.0.0.2:80", None, Ok(true)),
    ];
    for kind in KIND {
        let (service, _dir) = fresh_service(kind).await;
        for (_, text, declared, expect) in cases.iter().filter(|case| case.0 == kind) {
            let before = service.seeds(CLUSTER).await.unwrap();
            let outcome = put(&service, NewSeed { declared: *declared, ..new_seed(text) }).await;
            match (outcome, expect) {
                (Ok((row, _)), Ok(is_public)) => assert_eq!(row.is_public, *is_public, "{kind} {text}"),
                (Err(ServiceError::SeedRefused { seed, code, reason }), Err(expect)) => {
                    assert_eq!((code, &seed.to_string()), (*expect, &(*text).to_owned()), "{kind}");
                    assert!(!reason.is_empty());
                    assert_eq!(service.seeds(CLUSTER).await.unwrap(), before, "{kind} {text}");
                }
                (outcome, expect) => panic!("{kind} {text}: {outcome:?}, expected {expect:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_public_cluster_keeps_its_last_seed() {
    let (service, _dir) = fresh_service(ClusterNetwork::Public).await;
    let last = |outcome: Result<SeedRow, ServiceError>| match outcome {
        Err(ServiceError::SeedRefused { seed, code: Code::NoSeedInPublicCluster, .. }) => {
            assert_eq!(seed.name.as_str(), "first");
        }
        other => panic!("{other:?}"),
    };
    last(service.delete_seed(NOW, ACTOR, CLUSTER, "first").await);
    last(service.approve_seed(NOW, ACTOR, CLUSTER, "first", false).await);
    put(&service, new_seed("b@20.0.0.2:80")).await.unwrap();
    service.delete_seed(NOW, ACTOR, CLUSTER, "first").await.unwrap();
    assert_eq!(effective(&service), EffectiveNetwork::Public);
}

#[tokio::test]
async fn what_was_found_out_is_noted() {
    let (service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
    put(&service, new_seed("b@10.0.0.2:80")).await.unwrap();
    let failed = |is_down| Checked::Failed { code: Code::SeedUnreachable, is_down };
    let row = check(&service, "b", failed(false)).await;
    assert_eq!((row.status, row.reason), (SeedStatus::Unverified, Some(Code::SeedUnreachable)));
    let up = check(&service, "b", proven(7, "10.0.0.2")).await;
    assert_eq!((up.status, up.reason, up.verified_ms), (SeedStatus::Up, None, Some(NOW.0)));
    assert_eq!(up.public_key, Some(PublicKey::from(&key(7))), "the first answer's key is pinned");
    assert_eq!(check(&service, "b", failed(false)).await, up, "one lost packet makes no seed less");
    assert_eq!(check(&service, "b", failed(true)).await.status, SeedStatus::Down);
    assert_eq!(check(&service, "b", proven(7, "10.0.0.2")).await.status, SeedStatus::Up);
    let refused = check(&service, "b", Checked::Refused(Code::SeedWrongKey)).await;
    assert_eq!((refused.status, refused.reason), (SeedStatus::Refused, Some(Code::SeedWrongKey)));

    // The same words again change nothing; another place or key does.
    let (same, is_new) = put(&service, new_seed("b@10.0.0.2:80")).await.unwrap();
    assert_eq!((same.public_key, is_new), (up.public_key, false));
    let asked = seed(&service, "b").await;
    let moved = put(&service, new_seed("b@10.0.0.3:80")).await.unwrap().0;
    assert_eq!((moved.public_key, moved.status), (None, SeedStatus::Unverified));
    service.note_seed_check(NOW, CLUSTER, asked, proven(7, "10.0.0.2")).await.unwrap();
    assert_eq!(seed(&service, "b").await.status, SeedStatus::Unverified, "that was said of another place");
    let pinned = NewSeed { public_key: Some(PublicKey::from(&key(8))), ..new_seed("b@10.0.0.3:80") };
    assert_eq!(put(&service, pinned).await.unwrap().0.public_key, Some(PublicKey::from(&key(8))));
    // Who is asked may be deleted meanwhile.
    let gone = seed(&service, "b").await;
    service.delete_seed(NOW, ACTOR, CLUSTER, "b").await.unwrap();
    service.note_seed_check(NOW, CLUSTER, gone, proven(8, "10.0.0.3")).await.unwrap();
    assert!(matches!(service.seed(CLUSTER, "b").await, Err(ServiceError::UnknownSeed)));
}

/// A name that did not resolve may come to stand for an address that befits the cluster, or does not.
#[tokio::test]
async fn a_name_is_judged_by_what_it_comes_to_stand_for() {
    use ClusterNetwork::{Dynamic, Private};
    use EffectiveNetwork as E;
    let cases = [
        (Dynamic, None, "20.0.0.2", E::Public, SeedStatus::Up, None),
        (Dynamic, None, "10.0.0.2", E::Private, SeedStatus::Up, None),
        (
            Dynamic,
            Some(NetworkType::Private),
            "20.0.0.2",
            E::Private,
            SeedStatus::Refused,
            Some(Code::DeclaredPrivateButPublic),
        ),
        (Private, None, "20.0.0.2", E::Private, SeedStatus::Refused, Some(Code::PublicSeedInPrivateCluster)),
    ];
    for (kind, declared, ip, network, status, reason) in cases {
        let (service, _dir) = fresh_service(kind).await;
        put(&service, NewSeed { declared, ..new_seed("b@nowhere.invalid:80") }).await.unwrap();
        assert_eq!(effective(&service), E::Private);
        let row = check(&service, "b", proven(7, ip)).await;
        assert_eq!((row.status, row.reason), (status, reason), "{kind} {ip}");
        assert_eq!(effective(&service), network, "{kind} {ip}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_operators_seeds_and_brings_back_those_of_the_flags() {
    let dir = tempfile::tempdir().unwrap();
    let given = || vec![judged("a@10.0.0.1:80", false), judged("b@20.0.0.2:80", true)];
    let names = async |service: &Service| -> Vec<(String, SeedOrigin)> {
        let rows = service.seeds(CLUSTER).await.unwrap();
        rows.iter().map(|row| (row.addr.name.to_string(), row.origin)).collect()
    };
    let flag = |name: &str| (name.to_owned(), SeedOrigin::Flag);
    let operators = |name: &str| (name.to_owned(), SeedOrigin::Operator);
    let (service, returned) = start(&dir, ClusterNetwork::Dynamic, given()).await;
    assert_eq!((effective(&service), returned.len()), (EffectiveNetwork::Public, 0));
    check(&service, "a", proven(7, "10.0.0.1")).await;
    put(&service, new_seed("c@10.0.0.3:80")).await.unwrap();
    service.delete_seed(NOW, ACTOR, CLUSTER, "b").await.unwrap();
    assert_eq!(effective(&service), EffectiveNetwork::Private);
    assert_eq!(names(&service).await, [flag("a"), operators("c")]);

    let (service, returned) = start(&dir, ClusterNetwork::Dynamic, given()).await;
    assert_eq!(returned, ["b".parse().unwrap()]);
    assert_eq!(effective(&service), EffectiveNetwork::Public);
    assert_eq!(names(&service).await, [flag("a"), flag("b"), operators("c")]);
    assert_eq!(seed(&service, "a").await.public_key, Some(PublicKey::from(&key(7))), "it is still pinned");
    put(&service, new_seed("d@20.0.0.4:80")).await.unwrap();

    // What is no longer given is no longer there; the operator's public seed counts all the same.
    let (service, returned) = start(&dir, ClusterNetwork::Dynamic, given()[..1].to_vec()).await;
    assert!(returned.is_empty(), "once is enough: {returned:?}");
    assert_eq!(names(&service).await, [flag("a"), operators("c"), operators("d")]);
    assert_eq!(effective(&service), EffectiveNetwork::Public);
}

async fn token(service: &Service, max_uses: Option<i64>) -> JoinToken {
    scoped(service, TokenScope::Seed, None, max_uses).await
}

async fn scoped(
    service: &Service,
    scope: TokenScope,
    names: Option<&str>,
    max_uses: Option<i64>,
) -> JoinToken {
    let names = names.map(|pattern| pattern.parse().unwrap());
    let new = NewToken { label: String::new(), scope, names, expires_ms: None, max_uses };
    let made = service.create_token(NOW, ACTOR, CLUSTER, new, Fingerprint::from_bytes([3; 32]));
    made.await.unwrap().1
}

/// A registration as its seed signs it, so many milliseconds from now.
fn registration(byte: u8, text: &str, token: &JoinToken, later_ms: i64) -> SignedRegistration {
    let registration = Registration {
        cluster: CLUSTER.to_owned(),
        audience: audience(),
        seed: text.parse().unwrap(),
        declared: None,
        public_key: PublicKey::from(&key(byte)),
        token: token.id(),
        issued_unix_ms: UnixMs(NOW.0 + later_ms).unsigned(),
    };
    let (by_seed, by_token) =
        (registration.sign(&key(byte)), registration.sign_by_token(&token.signing_key()));
    SignedRegistration { registration, by_seed, by_token }
}

async fn register(service: &Service, signed: SignedRegistration) -> Result<(SeedRow, bool), ServiceError> {
    service.register_seed(NOW, CLUSTER, [10, 9, 9, 9].into(), signed).await
}

#[tokio::test]
async fn a_seed_that_named_itself_counts_once_it_is_approved() {
    let (service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
    let token = token(&service, Some(1)).await;
    let (row, is_new) = register(&service, registration(1, "b@20.0.0.2:80", &token, 0)).await.unwrap();
    assert_eq!((row.origin, row.approved, row.is_public, is_new), (SeedOrigin::Own, false, true, true));
    assert_eq!(row.registered_from, Some([10, 9, 9, 9].into()));
    check(&service, "b", proven(1, "20.0.0.2")).await;
    assert_eq!(effective(&service), EffectiveNetwork::Private);
    // It may move, as long as nobody stands by it; it uses the token once.
    let (row, is_new) = register(&service, registration(1, "b@20.0.0.3:80", &token, 1)).await.unwrap();
    assert_eq!((row.status, is_new), (SeedStatus::Unverified, false));
    let used_up = register(&service, registration(1, "c@20.0.0.3:80", &token, 2)).await;
    assert!(matches!(used_up, Err(ServiceError::BadToken("is used up"))));
    service.approve_seed(NOW, ACTOR, CLUSTER, "b", true).await.unwrap();
    assert_eq!(effective(&service), EffectiveNetwork::Public);
    let moved = register(&service, registration(1, "b@10.0.0.3:80", &token, 3)).await;
    assert!(matches!(moved, Err(ServiceError::SeedApproved(_))), "{moved:?}");
    let (row, is_new) = register(&service, registration(1, "b@20.0.0.3:80", &token, 4)).await.unwrap();
    assert_eq!((row.approved, is_new), (true, false));
    let again = register(&service, registration(1, "b@20.0.0.3:80", &token, 4)).await;
    assert!(matches!(again, Err(ServiceError::StaleRegistration)), "{again:?}");
}

#[tokio::test]
async fn registrations_are_signed_for_this_server_just_now() {
    let (service, _dir) = fresh_service(ClusterNetwork::Private).await;
    let token = token(&service, None).await;
    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    let of_nodes = scoped(&service, TokenScope::Node, None, None).await;
    let of_others = scoped(&service, TokenScope::Seed, Some("eu-*"), None).await;
    let good = |later_ms| registration(1, "b@10.0.0.2:80", &token, later_ms);
    let skew_ms = i64::try_from(MAX_SKEW_MS).unwrap();
    let public = registration(1, "b@20.0.0.2:80", &token, 0);
    let other_words = {
        let mut signed = good(0);
        signed.registration.seed = "b@10.0.0.3:80".parse().unwrap();
        signed
    };
    let other_key = SignedRegistration { by_seed: good(0).registration.sign(&key(2)), ..good(0) };
    let other_token = {
        let mut signed = good(0);
        signed.by_token = signed.registration.sign_by_token(&stranger.signing_key());
        signed
    };
    let cases = [
        (good(skew_ms + 1), "ms from now"),
        (good(-skew_ms - 1), "ms from now"),
        (other_words, "not signed by the seed's key"),
        (other_key, "not signed by the seed's key"),
        (other_token, "does not fit the signature"),
        (registration(1, "b@10.0.0.2:80", &stranger, 0), "is not known here"),
        (registration(1, "b@10.0.0.2:80", &of_nodes, 0), "node"),
        (registration(1, "b@10.0.0.2:80", &of_others, 0), "eu-*"),
        (public, "public_seed_in_private_cluster"),
    ];
    for (signed, part) in cases {
        let error = register(&service, signed).await.unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(matches!(service.seed(CLUSTER, "b").await, Err(ServiceError::UnknownSeed)));
    register(&service, good(skew_ms)).await.unwrap();
    register(&service, registration(1, "eu-1@10.0.0.3:80", &of_others, 0)).await.unwrap();
}

/// Seed poisoning: a stranger with a token writes over the entry of another seed, so that its nodes come
/// to him.
#[tokio::test]
async fn a_seed_is_written_by_its_key_or_the_operator() {
    let poison = async |off: Option<Defence>| {
        let (mut service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
        service.defences.off = off;
        let token = token(&service, None).await;
        register(&service, registration(1, "b@10.0.0.2:80", &token, 0)).await.unwrap();
        service.approve_seed(NOW, ACTOR, CLUSTER, "b", true).await.unwrap();
        put(&service, new_seed("c@10.0.0.3:80")).await.unwrap();
        let mut written = Vec::new();
        for name in ["first", "b", "c"] {
            let evil = registration(66, &format!("{name}@20.0.0.66:80"), &token, 1);
            let outcome = register(&service, evil).await;
            let row = seed(&service, name).await;
            assert_eq!(outcome.is_ok(), row.addr.port == 80 && row.is_public);
            if let Err(error) = outcome {
                assert!(matches!(error, ServiceError::SeedNameTaken(_)), "{error}");
            } else {
                written.push(name);
            }
        }
        written
    };
    assert_eq!(poison(Some(Defence::Owner)).await, ["first", "b", "c"], "the attack works");
    assert!(poison(None).await.is_empty());
}

#[tokio::test]
async fn there_are_so_many_seeds() {
    let (service, _dir) = fresh_service(ClusterNetwork::Dynamic).await;
    let token = token(&service, None).await;
    for n in 0..MAX_PENDING {
        let signed = registration(1, &format!("p{n}@10.1.0.{n}:80"), &token, 0);
        register(&service, signed).await.unwrap();
    }
    let full = |outcome: Result<(SeedRow, bool), ServiceError>| {
        assert!(matches!(outcome, Err(ServiceError::TooManySeeds)), "{outcome:?}");
    };
    full(register(&service, registration(1, "more@10.1.0.99:80", &token, 0)).await);
    // The operator is kept from nothing.
    for n in 1..MAX_SEEDS {
        put(&service, new_seed(&format!("s{n}@10.2.0.{n}:80"))).await.unwrap();
    }
    full(put(&service, new_seed("more@10.2.0.99:80")).await);
    put(&service, new_seed("s1@10.2.0.99:80")).await.unwrap();
    let taken = put(&service, new_seed("s2@10.2.0.99:80")).await;
    assert!(matches!(taken, Err(ServiceError::SeedAddressTaken(name)) if name.as_str() == "s1"));
}
