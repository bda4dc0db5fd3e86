//! A cluster that there is not, of any size, behind the real server's own pages: all but `/v1` is asked of the real
//! server, and `/v1` is answered from what is made up here, the same each time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// When all of it happens. The page's clock is set to a minute later.
pub(super) const NOW_MS: i64 = 1_795_320_000_000;
/// The token that is taken.
pub(super) const TOKEN: &str = "made-up";
/// Names that would do harm if they became markup, or text that runs.
pub(super) const HOSTILE: [&str; 4] = [
    "<img src=x onerror=\"window.harmed=1\">",
    "</script><script>window.harmed=1</script>",
    "\u{202e}gnp.exe' onclick='window.harmed=1",
    "javascript:window.harmed=1//${window.harmed=1}",
];
/// How long a connection that says nothing is kept.
const PATIENCE: Duration = Duration::from_secs(600);
/// Entries of a page, as the page asks for them.
const LIMIT: usize = 500;

/// Who is not among those that are made up.
static NOBODY: Value = Value::Null;

/// What is made up.
pub(super) struct Cluster {
    nodes: Vec<Value>,
    paths: Vec<Value>,
    seeds: Value,
    sessions: Vec<Value>,
}

/// A node's id: it only has to look like one.
pub(super) fn id(number: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let letter = |at: usize| char::from(LETTERS[(number * 7 + at * 11 + number / (at + 1)) % 32]);
    let mut text: String = (0..48).map(letter).collect();
    let _ = write!(text, "{}", ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][number / 1000 % 10]);
    for digit in [number / 100 % 10, number / 10 % 10] {
        text.push(char::from(LETTERS[digit]));
    }
    text.push(char::from(LETTERS[number % 10]));
    text
}

impl Cluster {
    /// So many nodes, one in ten of them away, and some paths each.
    pub(super) fn of(count: usize) -> Self {
        let nodes: Vec<Value> = (0..count).map(node).collect();
        let here: Vec<usize> = (0..count).filter(|number| is_here(*number)).collect();
        let steps = [1, 3, 7];
        let paths = here.iter().enumerate().flat_map(|(at, &a)| {
            let here = &here;
            steps.iter().filter_map(move |step| Some((a, *here.get(at + step)?)))
        });
        let paths = paths.enumerate().map(|(at, (a, b))| path(at, a, b)).collect();
        let sessions = (0..count.min(40)).map(session).collect();
        Self { nodes, paths, seeds: seeds(), sessions }
    }

    fn answer(&self, path: &str, query: &str) -> (u16, Value) {
        let after = query.split('&').find_map(|part| part.strip_prefix("after=")?.parse().ok()).unwrap_or(0);
        let page = |list: &[Value]| {
            let end = list.len().min(after + LIMIT);
            let next = (end < list.len()).then(|| end.to_string());
            json!({ "items": list[after.min(end)..end], "next": next })
        };
        let cluster =
            json!({ "name": "default", "foreign": false, "type": "DYNAMIC", "effective": "PUBLIC" });
        let warning =
            json!({ "code": "open_join", "message": "nodes join without a token, because of --open-join" });
        let words: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let found = match words[..] {
            ["status"] => {
                json!({ "version": "0.1.0", "effective": "PUBLIC", "warnings": [warning], "now_unix_ms": NOW_MS + 60_000 })
            }
            ["clusters"] => json!({ "items": [cluster] }),
            ["clusters", "default", "nodes"] => page(&self.nodes),
            ["clusters", "default", "paths"] => page(&self.paths),
            ["clusters", "default", "seeds"] => self.seeds.clone(),
            ["relay", "sessions"] => page(&self.sessions),
            ["clusters", "default", "nodes", id] => self.node(id).clone(),
            ["clusters", "default", "paths", a, b] => self.between(a, b),
            _ => {
                return (
                    404,
                    json!({ "status": 404, "code": "not_found", "detail": "there is nothing at this path" }),
                );
            }
        };
        (200, found)
    }

    fn node(&self, id: &str) -> &Value {
        self.nodes.iter().find(|node| node["id"] == *id).unwrap_or(&NOBODY)
    }

    fn between(&self, a: &str, b: &str) -> Value {
        let [a, b] = [a, b].map(|id| self.node(id));
        let side = |node: &Value| json!({ "id": node["id"], "name": node["name"], "present": true, "class": node["class"], "mapping": "endpoint-independent", "filtering": "address-dependent" });
        let said = |node: &Value| json!({ "id": node["id"], "class": node["class"], "mapping": null, "filtering": null, "offered": ["host", "srflx"], "said": "direct" });
        let text = format!(
            "{}: a port-restricted NAT; {}: a full-cone NAT; they met directly 90 s ago, after 84 ms",
            a["name"], b["name"]
        );
        json!({ "text": text, "nodes": [side(a), side(b)],
            "introductions": [{ "ago_ms": 90_000, "outcome": "direct", "elapsed_ms": 84, "sides": [said(a), said(b)] }] })
    }

    /// What happens while somebody looks on: once, at the beginning.
    fn events(&self) -> String {
        let mut text = String::new();
        let mut tell = |seq: usize, kind: &str, data: &Value, cluster: &Value| {
            let envelope = json!({ "id": format!("{:016x}-{seq}", 1), "seq": seq, "type": kind, "data": data, "timestamp": NOW_MS + 59_000, "sender": "server", "cluster": cluster });
            let _ = write!(text, "id: 0-{seq}\nevent: {kind}\ndata: {envelope}\n\n");
        };
        tell(0, "system:ping", &json!({}), &Value::Null);
        for (at, node) in self.nodes.iter().take(5).enumerate() {
            let judged = json!({ "node": node["id"], "class": node["class"].as_str().unwrap_or("Private"), "evidence": "observed", "observed": null, "relayed": false, "rule": "x" });
            tell(at + 1, "node:class", &judged, &json!("default"));
        }
        if let Some(path) = self.paths.first() {
            let change = json!({ "nodes": [path["a"], path["b"]], "path": path["path"], "rtt_ms": path["rtt_ms"], "elapsed_ms": 84 });
            tell(6, "path:change", &change, &json!("default"));
        }
        text
    }
}

const fn is_here(number: usize) -> bool {
    number % 10 != 9
}

fn node(number: usize) -> Value {
    let classes =
        ["PublicOpen", "PublicReachable", "PublicUndefined", "Private", "Private", "Loopback", "Unreachable"];
    let name = HOSTILE.get(number).map_or_else(|| format!("node-{number:04}"), |name| (*name).to_owned());
    let addr = format!("20.{}.{}.{}", number / 62_500, number / 250 % 250, number % 250 + 1);
    let presence = is_here(number).then(|| {
        json!({ "session": format!("s{number:025}"), "source": format!("{addr}:51234"), "observed": [format!("{addr}:40001")],
            "mapping": "endpoint-independent", "filtering": "address-dependent", "nat_lifetime_s": 120, "double_nat": false,
            "nat_depth": { "at_most": number % 3 + 1, "proven": number.is_multiple_of(2) }, "udp_blocked": false, "rtt_ms": (number * 37 % 800) as f64 / 10.0, "since_unix_ms": NOW_MS - (number as i64 * 61_000) })
    });
    json!({ "id": id(number), "name": name, "ephemeral": false, "declared": null, "class": classes[number % classes.len()],
        "evidence": "observed", "observed": format!("{addr}:40001"), "version": HOSTILE[number % 4], "capabilities": ["rendezvous", HOSTILE[0]],
        "datacenter": HOSTILE[1], "rack": null, "metadata": { "role": HOSTILE[2], (HOSTILE[3]): "x" },
        "session_expires_unix_ms": NOW_MS, "first_seen_unix_ms": NOW_MS - 86_400_000, "last_seen_unix_ms": NOW_MS - 300_000, "presence": presence })
}

fn path(at: usize, a: usize, b: usize) -> Value {
    let kind = match at % 9 {
        4 | 7 => "relay",
        8 => "none",
        _ => "direct",
    };
    // From half a millisecond to a third of a second, many of them short.
    let rtt = (kind != "none").then(|| ((at * 29 % 97) as f64 / 97.0).powi(3) * 300.0 + 0.5);
    json!({ "a": id(a), "b": id(b), "path": kind, "rtt_ms": rtt, "elapsed_ms": 84, "said_unix_ms": NOW_MS - 90_000 })
}

fn session(number: usize) -> Value {
    let traffic = |factor: usize| json!({ "packets": number * factor, "bytes": number * factor * 1_137 });
    json!({ "id": number.to_string(), "user": HOSTILE.get(number).map_or_else(|| format!("user-{number}"), |name| (*name).to_owned()),
        "client": format!("20.0.0.{}:40001", number + 1), "transport": "udp", "relayed": ["203.0.113.10:50001"], "lifetime_left_s": 540,
        "to_peer": traffic(811), "to_client": traffic(797) })
}

fn seeds() -> Value {
    let seed = |name: &str, host: &str, status: &str, reason: Value| {
        json!({ "name": name, "host": host, "port": 8080, "public": true, "origin": "operator", "approved": true, "network_type": "PUBLIC",
            "public_key": null, "status": status, "reason": reason, "hint": "is it running?", "verified_unix_ms": NOW_MS - 30_000, "created_unix_ms": NOW_MS })
    };
    json!({ "items": [
        seed("main", "203.0.113.10", "up", Value::Null), seed("second", "2001:db8::1", "down", json!("seed_unreachable")),
        seed("third", "rendezvous.example.org", "refused", json!(HOSTILE[0])),
    ] })
}

/// Serves it for as long as the test runs; gives where.
pub(super) fn serve(cluster: Cluster, real: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let cluster: &'static Cluster = Box::leak(Box::new(cluster));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The browser may go away at any time.
            thread::spawn(move || drop(answer(stream, cluster, real)));
        }
    });
    addr
}

fn answer(mut stream: TcpStream, cluster: &Cluster, real: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let target = request.split_whitespace().nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !path.starts_with("/v1/") {
        return pass_on(&mut stream, real, target);
    }
    let is_known = headers.get("authorization").is_some_and(|value| *value == format!("Bearer {TOKEN}"));
    if is_known && path == "/v1/events" {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{head}{}", cluster.events()).as_bytes())?;
        // Until the page goes away.
        return reader.read(&mut [0]).map(drop);
    }
    let (status, body) = if is_known || path == "/v1/status" {
        cluster.answer(path, query)
    } else {
        (401, json!({ "status": 401, "code": "unauthorized", "detail": "the token is not known" }))
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}

fn pass_on(stream: &mut TcpStream, real: SocketAddr, target: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(real)?;
    server.write_all(
        format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    io::copy(&mut server, stream).map(drop)
}
