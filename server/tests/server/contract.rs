//! `openapi.yaml` is what the handlers say, and what the running server serves.

use std::collections::BTreeMap;
use std::path::Path;

use hyper::Method;
use serde_json::Value;

use crate::client::{call, get};
use crate::running::Running;
use crate::schema::{misfit, resolve};

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

/// Who does not ask for what is packed gets text.
#[tokio::test]
async fn the_documentation_is_packed_for_who_takes_it() {
    let (server, _dir) = Running::fresh(&[]).await;
    for (path, begins) in
        [("/docs/", "<!"), ("/docs/swagger-ui.css", "."), ("/docs/swagger-ui-bundle.js", "/*!")]
    {
        for (takes, coding) in
            [(None, ""), (Some("br"), ""), (Some("gzip;q=0"), ""), (Some("gzip, br"), "gzip")]
        {
            let asked = get(path);
            let asked = takes.into_iter().fold(asked, |asked, takes| asked.header("accept-encoding", takes));
            let reply = asked.send(server.info.http).await;
            assert_eq!(
                (reply.status.as_u16(), reply.header("content-encoding")),
                (200, coding),
                "{path} {takes:?}"
            );
            assert_eq!(reply.header("vary"), "accept-encoding");
            let text = reply.text.trim_start();
            assert!(text.starts_with(begins), "{path} {takes:?}: {}", &text[..40]);
            let head = call(Method::HEAD, path).send(server.info.http).await;
            assert_eq!((head.status.as_u16(), head.header("content-encoding"), &*head.text), (200, "", ""));
        }
    }
    server.stop().await.unwrap();
}

/// The contract as a tree.
fn contract() -> Value {
    yaml_serde::from_str(&meetpoint_server::openapi_yaml()).expect("YAML")
}

/// Each operation: its method, its path, and what the contract says of it.
fn operations(contract: &Value) -> Vec<(String, &Value)> {
    let paths = contract["paths"].as_object().expect("paths").iter();
    let all = paths.flat_map(|(path, item)| {
        item.as_object()
            .expect("methods")
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    all.collect()
}

/// Checks that a body has an example that is as its schema says; `named` ones are each checked.
fn check_examples(contract: &Value, name: &str, content: &Value) {
    let content = content.as_object().unwrap_or_else(|| panic!("{name}: no content"));
    for (media_type, content) in content {
        let named = content["examples"]
            .as_object()
            .into_iter()
            .flat_map(|named| named.values().map(|one| &resolve(contract, &one["$ref"])["value"]));
        let examples: Vec<&Value> = content.get("example").into_iter().chain(named).collect();
        assert!(
            !examples.is_empty(),
            "{name}, {media_type}: no example; see server/src/http/docs/examples.json"
        );
        for example in examples {
            let found = misfit(contract, &content["schema"], example);
            assert_eq!(found, None, "{name}, {media_type}: {example}");
        }
    }
}

#[test]
fn each_operation_is_summed_up_and_has_examples_and_errors() {
    let contract = contract();
    let operations = operations(&contract);
    assert!(operations.len() > 40);
    for (name, operation) in operations {
        assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{name}: no summary");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = parameter.get("$ref").map_or(parameter, |found| resolve(&contract, found));
            let is_required = parameter["required"] == true;
            assert!(
                !is_required || parameter["example"].is_string(),
                "{name}: no example of {}",
                parameter["name"]
            );
        }
        if let Some(body) = operation.get("requestBody") {
            check_examples(&contract, &format!("{name}, request"), &body["content"]);
        }
        let mut errors = 0;
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let response = response.get("$ref").map_or(response, |found| resolve(&contract, found));
            let is_error = status.starts_with(['4', '5']);
            let is_empty = ["101", "204", "304"].contains(&&**status);
            if is_error || !(is_empty || status == "default") {
                check_examples(&contract, &format!("{name}, {status}"), &response["content"]);
            }
            let problems = &response["content"]["application/problem+json"]["examples"];
            for (code, problem) in problems.as_object().into_iter().flatten() {
                let problem = resolve(&contract, &problem["$ref"]);
                assert!(
                    is_error
                        && Some(&problem["value"]["status"])
                            == status.parse::<u16>().ok().map(Value::from).as_ref(),
                    "{name}: {code} under {status}"
                );
                assert_eq!(problem["value"]["code"], **code, "{name}");
                errors += 1;
            }
        }
        assert!(errors >= 4, "{name}: which problems can it answer with?");
        let is_public = operation.get("security").is_none();
        assert!(is_public || operation["responses"].get("401").is_some(), "{name}: it wants a token");
    }
}

/// A refusal that several operations share stands among the components, once.
#[test]
fn no_refusal_is_said_twice() {
    let contract = contract();
    let (mut inline, mut named) = (Vec::new(), BTreeMap::new());
    for (name, operation) in operations(&contract) {
        for response in operation["responses"].as_object().expect("responses").values() {
            match response["$ref"].as_str() {
                Some(found) => *named.entry(found.to_owned()).or_insert(0) += 1,
                None if response["content"].get("application/problem+json").is_some() => {
                    assert!(!inline.contains(&response), "{name}: {response}");
                    inline.push(response);
                }
                None => {}
            }
        }
    }
    let shared = contract["components"]["responses"].as_object().expect("shared ones");
    assert!(shared.len() > 20 && shared.len() == named.len());
    assert!(named.values().all(|uses| *uses > 1), "{named:?}");
}
