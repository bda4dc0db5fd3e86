//! Attack: names that are paths, terminal commands or markup. They are refused, what is quoted of them
//! is escaped, and no way of writing a path leads to another one.

use hyper::Method;
use meetpoint_proto::Code;
use meetpoint_proto::wire::{ClientMessage, ServerMessage};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::call;
use crate::node::{Control, Node};
use crate::rest::templates;
use crate::running::Running;

const HOSTILE: [&str; 26] = [
    "..",
    ".",
    "../../etc/passwd",
    "..\\..\\windows",
    "default/nodes",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "a\nb",
    "a\r\nX-Injected: 1",
    "a\u{0}b",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{202e}txt.exe",
    "a\u{feff}",
    "ｄｅｆａｕｌｔ",
    "né",
    "a b",
    " default",
    "default ",
    "a;b",
    "$(reboot)",
    "' OR 1=1 --",
    "%2e%2e%2f",
    "${jndi:ldap://x}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Nothing of a hostile name comes back in a form that means something to a terminal or a page.
fn assert_harmless(text: &str, name: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{name:?}: {text:?}");
    assert!(!text.contains(['<', '>', '&']), "{name:?}: {text:?}");
    assert!(!text.contains("\nX-Injected"), "{name:?}: {text:?}");
}

#[tokio::test]
async fn no_path_takes_a_hostile_name() {
    let (server, _dir) = Running::fresh(&["--relay-ip", "127.0.0.1", "--relay-ports", "50000-50001"]).await;
    let templates = templates();
    let with_names = templates.iter().filter(|(_, path)| path.contains('{'));
    let mut tried = 0;
    for (method, template) in with_names {
        for name in HOSTILE {
            // One name at a time; the others are what they should be.
            for hole in template.match_indices('{').map(|(at, _)| at) {
                let end = hole + template[hole..].find('}').unwrap();
                let path = format!("{}{}{}", &template[..hole], percent_encoded(name), &template[end + 1..]);
                let path = path.replace("{cluster}", "default").replace(['{', '}'], "");
                let mut request = call(method.clone(), &path);
                if ![Method::GET, Method::DELETE].contains(method) {
                    request = request.json(&json!({}));
                }
                let reply = request.admin(&server).await;
                let problem = reply.json();
                let code = problem["code"].as_str().unwrap_or_default();
                assert!(reply.status.is_client_error(), "{method} {template} {name:?}: {reply:?}");
                reply.assert_problem(reply.status.as_u16(), code);
                assert_harmless(&reply.text, name);
                assert!(reply.headers.get("x-injected").is_none());
                tried += 1;
            }
        }
    }
    assert!(tried > 10 * HOSTILE.len(), "{tried}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_quoted_is_escaped() {
    let (server, _dir) = Running::fresh(&[]).await;
    let tokens = "/v1/clusters/default/join-tokens";
    for name in HOSTILE {
        let field = call(Method::POST, tokens).json(&json!({ name: 1 })).admin(&server).await;
        field.assert_problem(422, "invalid");
        assert_harmless(&field.text, name);
        let value = call(Method::POST, tokens).json(&json!({ "max_uses": name })).admin(&server).await;
        value.assert_problem(422, "invalid");
        assert_harmless(&value.text, name);
        let query = format!("{tokens}?{}=1", percent_encoded(name));
        let query = call(Method::GET, &query).admin(&server).await;
        query.assert_problem(400, "bad_query");
        assert_harmless(&query.text, name);
        let cursor = format!("{tokens}?after={}", percent_encoded(name));
        let cursor = call(Method::GET, &cursor).admin(&server).await;
        cursor.assert_problem(400, "bad_cursor");
        assert_harmless(&cursor.text, name);
    }
    let long = call(Method::POST, tokens).json(&json!({ "x".repeat(60_000): 1 })).admin(&server).await;
    long.assert_problem(422, "invalid");
    assert!(long.text.len() < 1_000, "{}", long.text.len());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn no_message_takes_a_hostile_name() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (http, token) = (server.info.http, server.join_token());
    let mut member = Node::new(1, "member", &token).joins(http).await;
    for (request, name) in HOSTILE.into_iter().enumerate() {
        for (field, expect) in [(0, Code::BadName), (1, Code::UnknownCluster)] {
            let mut hello = Node::new(2, "stranger", &token).hello();
            *[&mut hello.name, &mut hello.cluster][field] = name.to_owned();
            let mut control = Control::open(http).await;
            control.send(&ClientMessage::Hello(Box::new(hello))).await;
            let refusal = control.refused().await;
            assert_eq!(refusal.code, expect, "{name:?}");
            let detail = refusal.detail.unwrap_or_default();
            assert!(!detail.chars().any(char::is_control), "{name:?}: {detail:?}");
        }
        let request = request as u32;
        member
            .send(&ClientMessage::Connect { request, peer: name.to_owned(), wait: false, handshake: None })
            .await;
        let refusal = member
            .until(|message| match message {
                ServerMessage::ConnectFailed { request: answered, refusal } => {
                    assert_eq!(answered, request);
                    Some(refusal)
                }
                _ => None,
            })
            .await;
        assert!(matches!(refusal.code, Code::PeerOffline | Code::UnknownPeer), "{name:?}: {refusal:?}");
    }
    server.stop().await.unwrap();
}

/// Sends a request line that no client library would, and gives status and body.
async fn raw(server: &Running, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.info.http).await.unwrap();
    let token = server.admin_token();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {said:?}"));
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_elsewhere() {
    let (server, _dir) = Running::fresh(&[]).await;
    let paths = [
        "/v1//status",
        "//v1/status",
        "/./v1/status",
        "/v1/./status",
        "/v1/x/../status",
        "/v1/clusters/../status",
        "/v1/clusters/%2e%2e/status",
        "/v1/clusters/%2E%2E%2Fstatus",
        "/v1/clusters/..%2f..%2fhealthz",
        "/v1/clusters/default%2fnodes",
        "/v1/clusters/default%2Fjoin-tokens",
        "/v1/clusters/default/nodes/..%2fjoin-tokens",
        "/v1/clusters/default/nodes/../join-tokens",
        "/v1/clusters/default%00",
        "/v1/clusters/default%20",
        "/v1/clusters/default/",
        "/v1/clusters/default;x=y",
        "/v1/clusters/DEFAULT",
        "/V1/status",
        "/%76%31/status",
        "/v1%2fstatus",
        "/v1/status/",
        "/v1/status%00",
        "/v1/status;x",
        "/v1\\status",
        "/docs/../openapi.yaml",
        "/docs/%2e%2e/openapi.yaml",
        "/docs/..%2f..%2f..%2fetc%2fpasswd",
        "/docs//etc/passwd",
        "/openapi.yaml/",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/\u{e9}",
        "*",
        "http://other/v1/nowhere",
        "nonsense",
    ];
    for path in paths {
        let (status, body) = raw(&server, path).await;
        assert!(matches!(&*status, "400" | "404"), "{path}: {status} {body}");
        // What is no request line at all gets a bare 400 and the end of the connection.
        assert!(body.is_empty() || body.contains("\"code\":"), "{path}: {body}");
        assert_harmless(&body, path);
    }
    // The same way, as it should be written.
    assert_eq!(raw(&server, "/v1/status").await.0, "200");
    assert_eq!(raw(&server, "/v1/clusters/%64efault").await.0, "200");
    server.stop().await.unwrap();
}
