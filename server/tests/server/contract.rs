//! `openapi.yaml` is what the handlers say, and what the running server serves.

use std::path::Path;

use crate::client::get;
use crate::running::Running;

/// Set to write the contract instead of comparing it.
const UPDATE: &str = "MEETPOINT_UPDATE";

#[tokio::test]
async fn the_committed_contract_is_the_served_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi.yaml");
    let generated = meetpoint_server::openapi_yaml();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi.yaml is not what the handlers say; look at the difference after\n    \
         {UPDATE}=1 cargo test -p meetpoint-server --test server contract"
    );
    let (server, _dir) = Running::fresh(&[]).await;
    let served = get("/openapi.yaml").send(server.info.http).await;
    assert_eq!(served.text, committed);
    assert_eq!(served.header("content-type"), "application/yaml");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_documentation_loads_nothing_from_elsewhere() {
    let (server, _dir) = Running::fresh(&[]).await;
    let redirect = get("/docs").send(server.info.http).await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (303, "/docs/"));
    let page = get("/docs/").send(server.info.http).await;
    assert_eq!(page.status.as_u16(), 200);
    assert!(page.header("content-security-policy").starts_with("default-src 'self';"), "{page:?}");
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "{}", page.text);
    let script = get("/docs/swagger-initializer.js").send(server.info.http).await;
    assert_eq!(script.status.as_u16(), 200);
    assert!(script.text.contains("/openapi.yaml"), "{}", script.text);
    assert!(script.text.contains("\"validatorUrl\": \"none\""), "{}", script.text);
    server.stop().await.unwrap();
}
