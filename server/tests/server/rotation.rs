//! Every secret is replaced while nodes come and go, and none of them is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use meetpoint_proto::{ClusterSecret, JoinToken};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::running::Running;

const NODES: u8 = 36;
const TOKENS: &str = "/v1/clusters/default/join-tokens";
const SECRETS: &str = "/v1/clusters/default/secrets";
const RELAY_SECRETS: &str = "/v1/relay/secrets";
/// Joins that are to happen around each step of a rotation.
const JOINS_PER_STEP: usize = 3 * NODES as usize;

/// What the operator hands out. A node reads it whenever it joins anew.
struct HandedOut {
    token: JoinToken,
    secrets: Vec<ClusterSecret>,
}

struct Crowd {
    handed_out: RwLock<HandedOut>,
    joins: AtomicUsize,
    stop: AtomicBool,
}

impl Crowd {
    /// Joins and breaks off again and again. A third of the nodes holds the token, a third the secrets, and
    /// a third comes back by its session as long as it has one.
    async fn node(self: Arc<Self>, addr: std::net::SocketAddr, n: u8) {
        let mut session = None;
        while !self.stop.load(Ordering::Relaxed) {
            // Held until the node is in: what the operator replaces is no longer on its way then.
            let handed_out = self.handed_out.read().await;
            let base = Node::new(n + 1, &format!("n{n}"), &handed_out.token);
            let node = match n % 3 {
                0 => base,
                1 => Node { token: None, secrets: handed_out.secrets.clone(), ..base },
                _ => Node { session, ..base },
            };
            let mut control = Control::open(addr).await;
            let welcome = control.join(&node).await;
            let welcome = welcome.unwrap_or_else(|refusal| panic!("{} was refused: {refusal:?}", node.name));
            session = welcome.session_token.or(session);
            assert!(welcome.stun.is_none());
            self.joins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the crowd has joined so many times more, and each node at least once on average.
    async fn goes_on(&self) {
        let goal = self.joins.load(Ordering::Relaxed) + JOINS_PER_STEP;
        let wait = async {
            while self.joins.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("nobody joins any more");
    }
}

/// Asks with this token, and expects success.
async fn ask(server: &Running, token: &str, method: Method, path: &str, body: &Value) -> Value {
    let reply = call(method, path).json(body).bearer(token).send(server.info.http).await;
    assert!(reply.status.is_success(), "{path}: {reply:?}");
    if reply.text.is_empty() { Value::Null } else { reply.json() }
}

/// What the server makes of a token.
async fn status(server: &Running, token: &str) -> u16 {
    get("/v1/clusters").bearer(token).send(server.info.http).await.status.as_u16()
}

/// Waits until it does.
async fn becomes(server: &Running, token: &str, expected: u16) {
    let wait = async {
        while status(server, token).await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the token is not what it should be");
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_secret_is_replaced_and_no_node_is_dropped() {
    let (server, dir) = Running::fresh(&["--relay-ip", "127.0.0.1"]).await;
    let token = server.admin_token();
    let admin = async |method, path: &str, body: &Value| ask(&server, &token, method, path, body).await;
    let delete = async |path: &str| drop(admin(Method::DELETE, path, &Value::Null).await);
    let first_secret = admin(Method::POST, SECRETS, &json!({})).await;
    let secret = |made: &Value| made["value"].as_str().unwrap().parse::<ClusterSecret>().unwrap();
    let handed_out = HandedOut { token: server.join_token(), secrets: vec![secret(&first_secret)] };
    let crowd = Arc::new(Crowd {
        handed_out: RwLock::new(handed_out),
        joins: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    });
    // One that stays: rotation must not disturb it either.
    let mut witness = Node::new(200, "witness", &server.join_token()).joins(server.info.http).await;
    let mut nodes = JoinSet::new();
    for n in 0..NODES {
        nodes.spawn(Arc::clone(&crowd).node(server.info.http, n));
    }
    crowd.goes_on().await;

    // Join token: a new one, handed out, then the old one is revoked.
    let made = admin(Method::POST, TOKENS, &json!({})).await;
    let old = std::mem::replace(
        &mut crowd.handed_out.write().await.token,
        made["secret"].as_str().unwrap().parse().unwrap(),
    );
    crowd.goes_on().await;
    delete(&format!("{TOKENS}/{}", old.id())).await;
    crowd.goes_on().await;

    // Cluster secret: the same in three steps, with both held for a while.
    let second_secret = admin(Method::POST, SECRETS, &json!({})).await;
    crowd.goes_on().await;
    crowd.handed_out.write().await.secrets.insert(0, secret(&second_secret));
    crowd.goes_on().await;
    delete(&format!("{SECRETS}/{}", id(&first_secret["secret"]))).await;
    crowd.goes_on().await;
    crowd.handed_out.write().await.secrets.truncate(1);
    crowd.goes_on().await;

    // The secret that credentials are minted with.
    let list = admin(Method::GET, RELAY_SECRETS, &Value::Null).await;
    admin(Method::POST, RELAY_SECRETS, &json!({})).await;
    crowd.goes_on().await;
    delete(&format!("{RELAY_SECRETS}/{}", id(&list["items"][0]))).await;
    crowd.goes_on().await;

    // The tokens of the REST interface: by a request, with the one before accepted for a while, and by the
    // operator's hand.
    let made = admin(Method::POST, "/v1/api-tokens/admin", &json!({ "overlap_s": 600 })).await;
    let second = made["value"].as_str().unwrap();
    assert_eq!((status(&server, &token).await, status(&server, second).await), (200, 200));
    assert_eq!(std::fs::read_to_string(dir.path().join("admin-token")).unwrap().trim(), second);
    crowd.goes_on().await;
    ask(&server, second, Method::DELETE, "/v1/api-tokens/admin/before", &Value::Null).await;
    assert_eq!((status(&server, &token).await, status(&server, second).await), (401, 200));
    crowd.goes_on().await;
    let (third, viewer) = ("a-third-admin-token", "another-viewer-token");
    std::fs::write(dir.path().join("admin-token"), third).unwrap();
    std::fs::write(dir.path().join("viewer-token"), viewer).unwrap();
    assert_eq!((status(&server, third).await, status(&server, viewer).await), (401, 401));
    server.reload.request();
    becomes(&server, third, 200).await;
    becomes(&server, viewer, 200).await;
    assert_eq!(status(&server, second).await, 401);
    crowd.goes_on().await;

    crowd.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = nodes.join_next().await {
        ended.expect("a node was dropped");
    }
    witness.send(&meetpoint_proto::wire::ClientMessage::Ping { seq: 99 }).await;
    let answered =
        |message| matches!(message, meetpoint_proto::wire::ServerMessage::Pong { seq: 99 }).then_some(());
    witness.until(answered).await;
    server.stop().await.unwrap();
}
