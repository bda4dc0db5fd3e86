//! Static users and secrets, changed while clients use the relay.

use hyper::Method;
use meetpoint_turn::message::CREATE_PERMISSION;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::client::{call, get};
use crate::relay::{CREDENTIALS, Client, FLAGS, PATIENCE};
use crate::running::{Running, config};

const USERS: &str = "/v1/relay/users";
const SECRETS: &str = "/v1/relay/secrets";
const ACCEPTED: &str = "accepted_until_unix_ms";

async fn post(server: &Running, path: &str, body: &Value) -> Value {
    let reply = call(Method::POST, path).json(body).admin(server).await;
    assert!(reply.status.is_success(), "{reply:?}");
    reply.json()
}

async fn put(server: &Running, name: &str, body: &Value) -> (u16, Value) {
    let reply = call(Method::PUT, &format!("{USERS}/{name}")).json(body).admin(server).await;
    (reply.status.as_u16(), reply.json())
}

async fn delete(server: &Running, path: &str) {
    let reply = call(Method::DELETE, path).admin(server).await;
    assert_eq!(reply.status.as_u16(), 204, "{reply:?}");
}

async fn secrets(server: &Running) -> Vec<Value> {
    let list = get(SECRETS).admin(server).await;
    assert!(!list.text.contains("value"), "{list:?}");
    list.json()["items"].as_array().unwrap().clone()
}

/// A client with credentials that the server has minted.
async fn minted(server: &Running, user: &str, lifetime_s: u64) -> Client {
    let made = post(server, CREDENTIALS, &json!({ "user": user, "lifetime_s": lifetime_s })).await;
    let [username, password] = ["username", "password"].map(|field| made[field].as_str().unwrap());
    Client::with(server.info.stun[0].primary, username, password).await
}

/// Sends something to a peer and back.
async fn relays(client: &mut Client, peer: &UdpSocket) {
    let to = peer.local_addr().unwrap();
    client.send(to, b"there").await;
    let mut buffer = [0; 64];
    let (len, from) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..len], b"there");
    peer.send_to(b"and back", from).await.unwrap();
    assert_eq!(client.data().await, b"and back");
}

#[tokio::test]
async fn a_new_secret_interrupts_nobody() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let mut old = minted(&server, "old", 3600).await;
    old.allocate().await;
    old.ask(CREATE_PERMISSION, &[], Some(peer.local_addr().unwrap())).await;
    relays(&mut old, &peer).await;

    let made = post(&server, SECRETS, &json!({})).await;
    let listed = secrets(&server).await;
    assert_eq!(
        listed.iter().map(|item| item["state"].as_str().unwrap()).collect::<Vec<_>>(),
        ["current", "accepted"]
    );
    assert_eq!((&listed[0]["id"], &listed[0][ACCEPTED]), (&made["secret"]["id"], &Value::Null));
    // Programs that mint by themselves find the new one where the old one was.
    let file = std::fs::read_to_string(dir.path().join("credential-secret")).unwrap();
    assert_eq!(file.trim(), made["value"]);

    // Under the old one everything goes on, and new clients come in under either.
    assert_eq!(old.refresh().await, None);
    relays(&mut old, &peer).await;
    let mut new = minted(&server, "new", 3600).await;
    let mut own = Client::new(server.info.stun[0].primary, dir.path(), "own").await;
    new.allocate().await;
    own.allocate().await;

    // Dropping the old one ends what was made under it, and nothing else.
    delete(&server, &format!("{SECRETS}/{}", listed[1]["id"].as_str().unwrap())).await;
    assert_eq!(old.refresh().await, Some(401));
    assert_eq!((new.refresh().await, own.refresh().await), (None, None));
    assert_eq!(secrets(&server).await.len(), 1);
    server.stop().await.unwrap();
}

/// This one has minted nothing, so nobody needs it. How long one that has is kept, the service's own
/// tests tell, in virtual time.
#[tokio::test]
async fn an_old_secret_goes_by_itself() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let mut client = Client::new(server.info.stun[0].primary, dir.path(), "own").await;
    client.allocate().await;
    post(&server, SECRETS, &json!({ "overlap_s": 0 })).await;
    let gone = async {
        while secrets(&server).await.len() > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    assert_eq!(client.refresh().await, Some(401));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn secrets_outlive_a_restart() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let admin = server.admin_token();
    let old = post(&server, CREDENTIALS, &json!({ "user": "old" })).await;
    post(&server, SECRETS, &json!({ "secret": "a secret that an application has too".replace(' ', "-") }))
        .await;
    put(&server, "alice", &json!({ "password": "winter garden" })).await;
    server.stop().await.unwrap();
    // The operator puts a secret of his own into the file.
    std::fs::write(dir.path().join("credential-secret"), "the north wind and the sun\n").unwrap();

    let server = Running::start(config(dir.path(), &FLAGS)).await.unwrap();
    let listed = get(SECRETS).bearer(&admin).send(server.info.http).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let stun = server.info.stun[0].primary;
    let [username, password] = ["username", "password"].map(|field| old[field].as_str().unwrap());
    Client::with(stun, username, password).await.allocate().await;
    Client::new(stun, dir.path(), "own").await.allocate().await;
    Client::with(stun, "alice", "winter garden").await.allocate().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_static_user_comes_and_goes() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let stun = server.info.stun[0].primary;
    let (status, made) = put(&server, "alice@example.org", &json!({})).await;
    assert_eq!((status, &made["user"]["name"]), (201, &json!("alice@example.org")));
    let password = made["password"].as_str().unwrap();
    let mut alice = Client::with(stun, "alice@example.org", password).await;
    alice.allocate().await;
    let (status, given) = put(&server, "bob", &json!({ "password": "summer house" })).await;
    assert_eq!((status, given.get("password")), (201, None));
    let mut bob = Client::with(stun, "bob", "summer house").await;
    bob.allocate().await;
    assert_eq!((alice.refresh().await, bob.refresh().await), (None, None));

    // Another password is in force at once, for what there is as well.
    let (status, _) = put(&server, "bob", &json!({ "password": "autumn barn" })).await;
    assert_eq!(status, 200);
    assert_eq!(bob.refresh().await, Some(401));
    bob.log_in("autumn barn");
    assert_eq!(bob.refresh().await, None);

    put(&server, "carol", &json!({})).await;
    let first = get(&format!("{USERS}?limit=2")).admin(&server).await.json();
    let second =
        get(&format!("{USERS}?limit=2&after={}", first["next"].as_str().unwrap())).admin(&server).await;
    let names = [first, second.json()].map(|page| {
        page["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect::<Vec<_>>()
    });
    assert_eq!(names, [vec!["alice@example.org", "bob"], vec!["carol"]]);

    delete(&server, &format!("{USERS}/bob")).await;
    assert_eq!((alice.refresh().await, bob.refresh().await), (None, Some(401)));
    let gone = call(Method::DELETE, &format!("{USERS}/bob")).admin(&server).await;
    gone.assert_problem(404, "unknown_relay_user");
    server.stop().await.unwrap();

    let database = std::fs::read(dir.path().join("meetpoint.db")).unwrap();
    for password in [password, "summer house", "autumn barn"] {
        assert!(!database.windows(password.len()).any(|window| window == password.as_bytes()), "{password}");
    }
}

#[tokio::test]
async fn what_is_no_user_or_secret_is_said() {
    let (server, _dir) = Running::fresh(&FLAGS).await;
    for name in ["1700000000:alice", "node:alice", "al%20ice", "%C3%A9", &"x".repeat(64)] {
        let (status, problem) = put(&server, name, &json!({})).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid")), "{name}");
    }
    for password in ["short", "umlaut \u{e4}\u{f6}", &"x".repeat(129)] {
        let (status, _) = put(&server, "alice", &json!({ "password": password })).await;
        assert_eq!(status, 422, "{password}");
    }
    let file = ["a-secret-that-is-known"; 2];
    post(&server, SECRETS, &json!({ "secret": file[0] })).await;
    for body in [
        json!({ "secret": "fifteen-or-less" }),
        json!({ "secret": "there are blanks in this one" }),
        json!({ "overlap_s": 604_801 }),
    ] {
        call(Method::POST, SECRETS).json(&body).admin(&server).await.assert_problem(422, "invalid");
    }
    let known = call(Method::POST, SECRETS).json(&json!({ "secret": file[1] })).admin(&server).await;
    known.assert_problem(409, "known_relay_secret");
    for _ in 0..2 {
        post(&server, SECRETS, &json!({})).await;
    }
    call(Method::POST, SECRETS).json(&json!({})).admin(&server).await.assert_problem(409, "relay_full");
    let current = secrets(&server).await[0]["id"].as_str().unwrap().to_owned();
    let delete = |id: &str| call(Method::DELETE, &format!("{SECRETS}/{id}")).admin(&server);
    delete(&current).await.assert_problem(409, "current_relay_secret");
    delete("99").await.assert_problem(404, "unknown_relay_secret");
    delete("x").await.assert_problem(404, "unknown_relay_secret");
    for path in [USERS, SECRETS] {
        get(path).send(server.info.http).await.assert_problem(401, "unauthorized");
    }
    server.stop().await.unwrap();

    let (server, _dir) = Running::fresh(&[]).await;
    for path in [USERS, SECRETS] {
        get(path).admin(&server).await.assert_problem(409, "relay_off");
    }
    server.stop().await.unwrap();
}

/// RFC 8489, section 9.2.5: the bit makes clients send a hash, so it is off unless asked for.
#[tokio::test]
async fn username_anonymity_is_a_switch() {
    for (flags, cookie) in [
        (&FLAGS[..], "obMatJos2gAAA"),
        (&[&FLAGS[..], &["--relay-username-anonymity"]].concat()[..], "obMatJos2wAAA"),
    ] {
        let (server, dir) = Running::fresh(flags).await;
        put(&server, "alice", &json!({})).await;
        let client = Client::new(server.info.stun[0].primary, dir.path(), "own").await;
        assert!(client.nonce.starts_with(cookie.as_bytes()));
        server.stop().await.unwrap();
    }
}
