//! A full disk: reads go on, writes are refused, the server is not ready, and all is well again by itself when there is
//! space.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::client::{Reply, call, get};
use crate::running::{Running, config};

/// More than the server wants to be free, and little enough to be filled quickly.
const SIZE: &str = "size=24m";

/// Runs this where the directory is a small disk of its own, which nobody else sees: a mount belongs to the thread that
/// made it, and to those it starts.
fn on_a_small_disk(dir: &Path, run: impl FnOnce() + Send) {
    let mounted = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        mount(Some("small"), dir, Some("tmpfs"), MsFlags::empty(), Some(SIZE))
    };
    std::thread::scope(|scope| {
        let test = scope.spawn(|| match mounted() {
            Ok(()) => run(),
            Err(error) => eprintln!("skipped: a mount of its own wants root ({error})"),
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn write(server: &Running) -> Reply {
    call(Method::POST, "/v1/clusters/default/join-tokens").json(&json!({})).admin(server).await
}

/// Takes all the space there is.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let block = [7; 4096];
    while file.write_all(&block).is_ok() {}
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
