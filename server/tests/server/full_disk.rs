//! A full disk: reads go on, writes are refused, the server is not ready, and all is well again by itself when there is
//! space.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::client::{Reply, call, get};
use crate::running::{Running, config};
use crate::small_disk::{fill, on_a_small_disk};

async fn write(server: &Running) -> Reply {
    call(Method::POST, "/v1/clusters/default/join-tokens").json(&json!({})).admin(server).await
}

async fn body(data: &Path) {
    let server = Running::start(config(data, &[])).await.unwrap();
    let http = server.info.http;
    assert_eq!(write(&server).await.status.as_u16(), 201);
    assert_eq!(get("/readyz").send(http).await.status.as_u16(), 200);
    let filler = data.join("filler");
    fill(&filler);
    // What the log has room for already may still succeed.
    let mut refused = write(&server).await;
    for _ in 0..1000 {
        if refused.status.as_u16() != 201 {
            break;
        }
        refused = write(&server).await;
    }
    refused.assert_problem(507, "disk_full");
    let tokens = get("/v1/clusters/default/join-tokens").admin(&server).await;
    assert_eq!(tokens.status.as_u16(), 200, "reads go on");
    assert_eq!(get("/healthz").send(http).await.status.as_u16(), 200);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let ready = get("/readyz").send(http).await;
    ready.assert_problem(503, "not_ready");
    let failing: Vec<_> = ready.json()["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["name"].clone())
        .collect();
    assert!(failing.contains(&json!("registry")) && failing.contains(&json!("disk")), "{ready:?}");

    std::fs::remove_file(&filler).unwrap();
    assert_eq!(write(&server).await.status.as_u16(), 201, "without a restart");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(get("/readyz").send(http).await.status.as_u16(), 200);
    let scraped = get("/metrics").send(http).await.text;
    let refusals = "meetpoint_http_requests_total{method=\"POST\",route=\"/v1/clusters/{cluster}/join-tokens\",status=\"507\"}";
    assert!(scraped.contains(refusals), "{scraped}");
    server.stop().await.unwrap();
}

#[test]
fn a_full_disk_stops_writes_only_and_only_while_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    on_a_small_disk(&disk, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(&disk.join("data")));
    });
}
