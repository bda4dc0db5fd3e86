//! The REST interface: who may ask, what is refused and how, pages, and the life of a token.

use hyper::Method;
use serde_json::{Value, json};

use crate::client::{call, get};
use crate::node::Node;
use crate::running::{Running, config};

const TOKENS: &str = "/v1/clusters/default/join-tokens";
const NODES: &str = "/v1/clusters/default/nodes";

#[tokio::test]
async fn status_is_public_and_tells_no_address() {
    let (server, _dir) = Running::fresh(&["--open-join"]).await;
    let reply = get("/v1/status").send(server.info.http).await;
    assert_eq!(reply.status.as_u16(), 200);
    let status = reply.json();
    assert_eq!(status["effective"], "PRIVATE");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["clusters"][0]["name"], "default");
    assert_eq!(status["clusters"][0]["type"], "DYNAMIC");
    assert_eq!(status["clusters"][0]["nodes_present"], 0);
    let codes: Vec<&str> =
        status["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["private_only", "open_join"]);
    assert!(!reply.text.contains("127.0.0.1"), "{}", reply.text);
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(!reply.header("x-request-id").is_empty());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn it_is_alive_and_ready() {
    let (server, _dir) = Running::fresh(&[]).await;
    for path in ["/healthz", "/readyz"] {
        let reply = get(path).send(server.info.http).await;
        assert_eq!((reply.status.as_u16(), reply.json()["status"].clone()), (200, json!("ok")), "{path}");
    }
    server.stop().await.unwrap();
}

/// Every operation of the contract, with its parameters filled in.
fn operations() -> Vec<(Method, String)> {
    let filled = |path: String| path.replace("{cluster}", "default").replace(['{', '}'], "");
    templates().into_iter().map(|(method, path)| (method, filled(path))).collect()
}

/// Every operation of the contract, with its parameters in braces.
pub(crate) fn templates() -> Vec<(Method, String)> {
    let contract = meetpoint_server::openapi_yaml();
    let mut operations = Vec::new();
    let mut path = String::new();
    let paths = contract.lines().skip_while(|line| *line != "paths:").skip(1);
    for line in paths.take_while(|line| line.starts_with(' ')) {
        if let Some(found) = line.strip_prefix("  /").and_then(|rest| rest.strip_suffix(':')) {
            path = format!("/{found}");
        } else if let Some(method) = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(':'))
            && let Ok(method) = method.to_uppercase().parse::<Method>()
            && [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(&method)
        {
            operations.push((method, path.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn all_but_the_public_operations_want_a_token() {
    let (server, _dir) = Running::fresh(&[]).await;
    // Metrics are for this machine too, where this test is.
    let public = ["/healthz", "/readyz", "/metrics", "/v1/status", "/v1/seed-proof"];
    // A seed registers itself by its own signature, and a cluster's signature proves whom it has removed.
    let signed = ["/v1/clusters/default/seeds", "/v1/clusters/default/revocations"];
    let is_public = |method: &Method, path: &str| {
        public.contains(&path) || (method == Method::POST && signed.contains(&path))
    };
    let operations = operations();
    assert!(operations.len() >= 14, "{operations:?}");
    for (method, path) in operations.iter().filter(|(method, path)| !is_public(method, path)) {
        let bad =
            [None, Some("Bearer wrong-token-wrong-token"), Some("Bearer "), Some("Basic YTpi"), Some("")];
        for header in bad {
            let mut request = call(method.clone(), path);
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let reply = request.send(server.info.http).await;
            reply.assert_problem(401, "unauthorized");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{method} {path} {header:?}");
        }
        // Nobody who wants JSON gets a stream without end.
        let with =
            |token: &str| call(method.clone(), path).header("accept", "application/json").bearer(token);
        let reply = with(&server.admin_token()).send(server.info.http).await;
        assert!(![401, 403].contains(&reply.status.as_u16()), "{method} {path}");
        let reply = with(&server.viewer_token()).send(server.info.http).await;
        if method == Method::GET || path == "/v1/events/tickets" {
            assert!(![401, 403].contains(&reply.status.as_u16()), "{method} {path}");
        } else {
            reply.assert_problem(403, "forbidden");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn one_token_is_not_both() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "twice-the-same-token\n").unwrap();
    let file = file.to_str().unwrap();
    let data = dir.path().join("data");
    let flags = ["--admin-token-file", file, "--viewer-token-file", file];
    let refused = Running::start(config(&data, &flags)).await.err().unwrap();
    assert!(refused.to_string().contains("the viewer token is the admin token"), "{refused}");

    let server = Running::start(config(&data, &["--viewer-token-file", file])).await.unwrap();
    let asked = get("/v1/clusters").bearer("twice-the-same-token").send(server.info.http).await;
    assert_eq!(asked.status.as_u16(), 200);
    server.stop().await.unwrap();
    assert!(!data.join("viewer-token").exists(), "one that is given is not written down again");
}

#[tokio::test]
async fn bad_bodies_are_problems() {
    let (server, _dir) = Running::fresh(&[]).await;
    let post = |body: &str| call(Method::POST, TOKENS).header("content-type", "application/json").body(body);
    let huge = format!("{{\"label\":\"{}\"}}", "a".repeat(70_000));
    let deep = format!("{{\"label\":{}", "[".repeat(30_000));
    let long_label = json!({ "label": "a".repeat(101) }).to_string();
    let cases = [
        (post("{"), 400, "bad_json"),
        (post(""), 400, "bad_json"),
        (post("[]"), 422, "invalid"),
        (post("[\"label\",null,null]"), 422, "invalid"),
        (post("{\"lable\":\"x\"}"), 422, "invalid"),
        (post("{\"max_uses\":0}"), 422, "invalid"),
        (post("{\"max_uses\":-1}"), 422, "invalid"),
        (post("{\"max_uses\":1e9}"), 422, "invalid"),
        (post("{\"max_uses\":1.5}"), 422, "invalid"),
        (post("{\"max_uses\":\"1\"}"), 422, "invalid"),
        (post("{\"expires_in_s\":-1.0}"), 422, "invalid"),
        (post("{\"expires_in_s\":1e300}"), 422, "invalid"),
        (post("{\"expires_in_s\":0}"), 422, "invalid"),
        (post("{\"expires_in_s\":99999999999}"), 422, "invalid"),
        (post("{\"label\":\"a\\u0000b\"}"), 422, "invalid"),
        (post(&long_label), 422, "invalid"),
        (post(&deep), 422, "invalid"),
        (post(&huge), 413, "body_too_large"),
        (call(Method::POST, TOKENS).body("{}"), 415, "unsupported_media_type"),
        (
            call(Method::POST, TOKENS).header("content-type", "text/plain").body("{}"),
            415,
            "unsupported_media_type",
        ),
    ];
    for (request, status, code) in cases {
        request.admin(&server).await.assert_problem(status, code);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_requests_are_problems() {
    let (server, _dir) = Running::fresh(&[]).await;
    let node = "a".repeat(52);
    let cases = [
        (get("/nowhere"), 404, "not_found"),
        (get("/v1/"), 404, "not_found"),
        (get("/docs/nothing.js"), 404, "not_found"),
        (call(Method::PUT, "/v1/status"), 405, "method_not_allowed"),
        (call(Method::DELETE, TOKENS), 405, "method_not_allowed"),
        (get("/v1/clusters/nope"), 404, "unknown_cluster"),
        (get("/v1/clusters/%00"), 404, "unknown_cluster"),
        (get("/v1/clusters/%ff"), 400, "bad_request"),
        (get("/v1/clusters/nope/nodes"), 404, "unknown_cluster"),
        (get("/v1/clusters/nope/seeds"), 404, "unknown_cluster"),
        (get("/v1/clusters/nope/join-tokens"), 404, "unknown_cluster"),
        (get("/v1/clusters/default/seeds/nope"), 404, "unknown_seed"),
        (get(&format!("{NODES}/xyz")), 400, "bad_node_id"),
        (get(&format!("{NODES}/{node}")), 404, "unknown_node"),
        (call(Method::DELETE, &format!("{NODES}/{node}")), 404, "unknown_node"),
        (get(&format!("{NODES}?after=xyz")), 400, "bad_cursor"),
        (get(&format!("{NODES}?limit=0")), 400, "bad_limit"),
        (get(&format!("{NODES}?limit=501")), 400, "bad_limit"),
        (get(&format!("{NODES}?limit=x")), 400, "bad_query"),
        (get(&format!("{NODES}?colour=red")), 400, "bad_query"),
        (get(&format!("{TOKENS}/xyz")), 400, "bad_token_id"),
        (get(&format!("{TOKENS}/aaaaaaaaaaaaaaaa")), 404, "unknown_token"),
        (call(Method::DELETE, &format!("{TOKENS}/aaaaaaaaaaaaaaaa")), 404, "unknown_token"),
        (get(&format!("{TOKENS}?after=aaaa")), 400, "bad_cursor"),
        (get("/v1/control"), 426, "upgrade_required"),
        (get("/v1/events").header("upgrade", "websocket"), 426, "upgrade_required"),
        (get("/v1/events").header("accept", "application/json"), 406, "not_acceptable"),
        (get("/v1/events?types=node:announce,node:x"), 400, "bad_query"),
        (get("/v1/events?token=x"), 400, "bad_query"),
        (get("/v1/events?after=x"), 400, "bad_event_id"),
        (get("/v1/events").header("last-event-id", "-1"), 400, "bad_event_id"),
        (get("/v1/events?cluster=nope"), 404, "unknown_cluster"),
        (get("/v1/events?cluster=%00"), 404, "unknown_cluster"),
        (call(Method::POST, "/v1/events"), 405, "method_not_allowed"),
        (get("/v1/audit?limit=501"), 400, "bad_limit"),
        (get("/v1/audit?after=x"), 400, "bad_cursor"),
        (get("/v1/audit?after=-1"), 400, "bad_cursor"),
        (get("/v1/audit?action=nope"), 400, "bad_query"),
        (get("/v1/audit?since_unix_ms=x"), 400, "bad_query"),
        (get("/v1/audit?colour=red"), 400, "bad_query"),
        (call(Method::DELETE, "/v1/audit"), 405, "method_not_allowed"),
    ];
    for (request, status, code) in cases {
        request.admin(&server).await.assert_problem(status, code);
    }
    let reply = call(Method::PUT, "/v1/status").send(server.info.http).await;
    assert_eq!(reply.header("allow"), "GET,HEAD");
    assert_eq!(get("/healthz").send(server.info.http).await.status.as_u16(), 200);
    server.stop().await.unwrap();
}

/// JSON knows no integers, so `2.0` is as good as `2`.
#[tokio::test]
async fn a_whole_number_may_have_a_point() {
    let (server, _dir) = Running::fresh(&[]).await;
    for body in ["{\"max_uses\":2}", "{\"max_uses\":2.0}", "{\"max_uses\":0.2e1,\"expires_in_s\":null}"] {
        let created = call(Method::POST, TOKENS).header("content-type", "application/json").body(body);
        assert_eq!(created.admin(&server).await.json()["token"]["max_uses"], 2, "{body}");
    }
    server.stop().await.unwrap();
}

/// Walks a list page by page.
async fn walk(server: &Running, path: &str, limit: usize) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let page = get(&format!("{path}?limit={limit}{next}")).admin(server).await;
        assert_eq!(page.status.as_u16(), 200, "{page:?}");
        let page = page.json();
        let found = page["items"].as_array().unwrap();
        assert!(found.len() <= limit);
        items.extend(found.iter().cloned());
        match page["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => return items,
        }
    }
}

#[tokio::test]
async fn pages_have_everything_once() {
    let (server, _dir) = Running::fresh(&[]).await;
    for n in 0..6 {
        let reply =
            call(Method::POST, TOKENS).json(&json!({ "label": format!("t{n}") })).admin(&server).await;
        assert_eq!(reply.status.as_u16(), 201);
    }
    // Six, and the one of the start.
    for limit in [1, 2, 3, 6, 7, 8, 500] {
        let items = walk(&server, TOKENS, limit).await;
        let mut labels: Vec<&str> = items.iter().map(|item| item["label"].as_str().unwrap()).collect();
        labels.sort_unstable();
        assert_eq!(labels, ["of the server's start", "t0", "t1", "t2", "t3", "t4", "t5"], "limit {limit}");
        let ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 7);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_lives_and_is_revoked() {
    let (server, _dir) = Running::fresh(&[]).await;
    let body = json!({ "label": "laptops", "expires_in_s": 3600, "max_uses": 1 });
    let created = call(Method::POST, TOKENS).json(&body).admin(&server).await;
    assert_eq!(created.status.as_u16(), 201);
    let secret: meetpoint_proto::JoinToken = created.json()["secret"].as_str().unwrap().parse().unwrap();
    assert_eq!(secret.fingerprint(), Some(server.info.fingerprint));
    let location = created.header("location").to_owned();
    assert_eq!(location, format!("{TOKENS}/{}", secret.id()));
    let state = async || get(&location).admin(&server).await.json();
    let shown = state().await;
    assert_eq!(
        (&shown["state"], &shown["uses"], &shown["max_uses"]),
        (&json!("active"), &json!(0), &json!(1))
    );
    let list = get(TOKENS).admin(&server).await;
    assert!(!list.text.contains(secret.reveal()), "a secret is shown once");

    let first = Node::new(1, "first", &secret);
    drop(first.joins(server.info.http).await);
    assert_eq!(state().await["state"], "used_up");
    let second = Node::new(2, "second", &secret);
    assert_eq!(second.is_refused(server.info.http).await, meetpoint_proto::Code::BadToken);
    // A known node comes back without a use.
    drop(first.joins(server.info.http).await);
    assert_eq!(state().await["uses"], 1);

    for _ in 0..2 {
        let revoked = call(Method::DELETE, &location).admin(&server).await;
        assert_eq!(revoked.status.as_u16(), 204);
    }
    assert_eq!(state().await["state"], "revoked");
    assert_eq!(first.is_refused(server.info.http).await, meetpoint_proto::Code::BadToken);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn clusters_and_seeds_are_shown() {
    let (server, _dir) = Running::fresh(&["--seed", "a@127.0.0.1:9,b@rendezvous.invalid:80"]).await;
    let clusters = get("/v1/clusters").admin(&server).await.json();
    let cluster = get("/v1/clusters/default").admin(&server).await.json();
    assert_eq!(clusters["items"], json!([cluster]));
    assert_eq!(
        (&cluster["type"], &cluster["effective"], &cluster["nodes"]),
        (&json!("DYNAMIC"), &json!("PRIVATE"), &json!(0))
    );
    let seeds = get("/v1/clusters/default/seeds").admin(&server).await.json();
    let names: Vec<&Value> = seeds["items"].as_array().unwrap().iter().map(|seed| &seed["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    let seed = get("/v1/clusters/default/seeds/b").admin(&server).await.json();
    assert_eq!(
        (&seed["host"], &seed["port"], &seed["public"]),
        (&json!("rendezvous.invalid"), &json!(80), &json!(false))
    );
    server.stop().await.unwrap();
}
