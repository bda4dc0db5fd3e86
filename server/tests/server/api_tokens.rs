//! The tokens of the REST interface are replaced while it is in use.

use hyper::Method;
use serde_json::json;

use crate::client::{call, get};
use crate::running::{Running, config};

const ADMIN: &str = "/v1/api-tokens/admin";

async fn status(server: &Running, token: &str) -> u16 {
    get("/v1/api-tokens").bearer(token).send(server.info.http).await.status.as_u16()
}

#[tokio::test]
async fn a_replaced_token_lasts_as_long_as_it_was_given_and_not_a_second_time() {
    let (server, dir) = Running::fresh(&[]).await;
    let first = server.admin_token();
    let replace = async |token: &str, overlap_s: u64| {
        let reply = call(Method::POST, ADMIN).json(&json!({ "overlap_s": overlap_s })).bearer(token);
        let reply = reply.send(server.info.http).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        reply.json()["value"].as_str().unwrap().to_owned()
    };
    let second = replace(&first, 600).await;
    let list = get("/v1/api-tokens").bearer(&first).send(server.info.http).await.json();
    assert!(list["items"][0]["before_until_unix_ms"].is_i64(), "{list}");
    assert!(list["items"][1]["before_until_unix_ms"].is_null(), "{list}");
    // Replaced again, the first one is no longer accepted.
    let third = replace(&second, 600).await;
    for (token, expected) in [(&first, 401), (&second, 200), (&third, 200)] {
        assert_eq!(status(&server, token).await, expected);
    }
    // A restart forgets neither.
    server.stop().await.unwrap();
    let server = Running::start(config(dir.path(), &[])).await.unwrap();
    for (token, expected) in [(&first, 401), (&second, 200), (&third, 200)] {
        assert_eq!(status(&server, token).await, expected);
    }
    let at_once = call(Method::POST, ADMIN).json(&json!({ "overlap_s": 0 })).bearer(&second);
    let fourth = at_once.send(server.info.http).await.json()["value"].as_str().unwrap().to_owned();
    for (token, expected) in [(&second, 401), (&third, 401), (&fourth, 200)] {
        assert_eq!(status(&server, token).await, expected);
    }
    let none =
        call(Method::DELETE, "/v1/api-tokens/admin/before").bearer(&fourth).send(server.info.http).await;
    none.assert_problem(404, "no_token_before");
    let audit = get("/v1/audit?action=api_token.replace").bearer(&fourth).send(server.info.http).await;
    assert_eq!(audit.json()["items"].as_array().unwrap().len(), 3, "{audit:?}");
    // What lies in the data directory is digests, but for the token in use.
    let files =
        std::fs::read_dir(dir.path()).unwrap().filter_map(|file| std::fs::read(file.unwrap().path()).ok());
    let said: Vec<Vec<u8>> = files.collect();
    let holds =
        |token: &String| said.iter().any(|file| file.windows(token.len()).any(|at| at == token.as_bytes()));
    assert!(holds(&fourth) && ![&first, &second, &third].into_iter().any(holds));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn who_may_not_or_asks_for_too_much_changes_nothing() {
    let (server, _dir) = Running::fresh(&[]).await;
    let post = |path: &str| call(Method::POST, path).json(&json!({}));
    post(ADMIN).viewer(&server).await.assert_problem(403, "forbidden");
    post(ADMIN).send(server.info.http).await.assert_problem(401, "unauthorized");
    post("/v1/api-tokens/other").admin(&server).await.assert_problem(404, "not_found");
    let long = call(Method::POST, ADMIN).json(&json!({ "overlap_s": 604_801 })).admin(&server).await;
    long.assert_problem(422, "invalid");
    assert_eq!(status(&server, &server.admin_token()).await, 200);
    server.stop().await.unwrap();

    let given = "a-token-of-the-flags";
    let (server, _dir) = Running::fresh(&["--admin-token", given]).await;
    post(ADMIN).bearer(given).send(server.info.http).await.assert_problem(409, "given_token");
    server.stop().await.unwrap();
}
