//! Headless Chromium: data channels that may go through the relay only.
//!
//! No driver is needed: the page comes from a server of a few lines on the browser's own host and posts its outcome
//! back to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use meetpoint_cli::lab::{Host, Process, SERVER_ADDRS};
use meetpoint_tests::lab::{is_installed, skip};
use serde_json::{Value, json};

use crate::document::{Outcome, Table};
use crate::rig::Rig;

const PAGE: &str = include_str!("page.html");
/// A browser takes seconds to start where others keep the processors busy, and the page gives up after 20 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing the browser asks for is longer.
const MAX_BODY: u64 = 64 * 1024;

/// How the browser comes to the relay: what it takes, how that is told of in its statistics.
const WAYS: [(&str, &str); 3] = [
    ("turn:ADDR:3478?transport=udp", "udp"),
    ("turn:ADDR:3478?transport=tcp", "tcp"),
    ("turns:ADDR:5349?transport=tcp", "tls"),
];

/// Serves the page, and the ICE servers that it is to try, until the browser is gone; the outcome goes to `outcomes`.
fn serve(listener: &TcpListener, servers: &Value, outcomes: &Sender<Value>) {
    for stream in listener.incoming() {
        // A browser opens connections that it never uses.
        let _ = stream.and_then(|stream| answer(stream, servers, outcomes));
    }
}

fn answer(stream: TcpStream, servers: &Value, outcomes: &Sender<Value>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let (mut request, mut len) = (String::new(), 0);
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().unwrap_or(0);
        }
    }
    let (kind, body) = match request.split_whitespace().nth(1) {
        Some("/") => ("text/html; charset=utf-8", PAGE.to_owned()),
        Some("/servers") => ("application/json", servers.to_string()),
        Some("/outcome") => {
            let mut body = Vec::new();
            reader.by_ref().take(MAX_BODY.min(len)).read_to_end(&mut body)?;
            let _ = outcomes.send(serde_json::from_slice(&body)?);
            ("text/plain", String::new())
        }
        _ => ("text/plain", String::new()),
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}", body.len());
    write!(reader.get_mut(), "{head}\r\nconnection: close\r\n\r\n{body}")
}

/// Starts the browser with a profile of its own. It takes the TLS server by its key, as nodes do, because no authority
/// vouches for that.
fn start(host: &Host, profile: &std::path::Path, page: &str, fingerprint: &[u8]) -> Process {
    let mut command = host.command("chromium");
    command.env("HOME", profile).arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--ignore-certificate-errors-spki-list={}", BASE64.encode(fingerprint)));
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
    ]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    command.args(["--disable-sync", page]);
    Process::spawn("chromium", &mut command).expect("it starts")
}

/// The two sides of a way that worked are each told of; both must have come by the relay, and in this way.
fn judge(outcome: &Value, protocol: &str) -> Outcome {
    let wanted = json!({ "local": "relay", "remote": "relay", "protocol": protocol });
    if outcome["selected"] == json!([wanted, wanted]) {
        Outcome::Passes
    } else {
        Outcome::Fails(outcome.to_string())
    }
}

#[test]
fn a_browser_is_relayed() {
    let name = "a_browser_is_relayed";
    if !is_installed("chromium") {
        return skip(name, "needs a browser: on Debian, apt-get install chromium");
    }
    let Some(mut rig) = Rig::start(name) else { return };
    let (host, _) = rig.public_host();
    let addr = SERVER_ADDRS[0].to_string();
    let servers: Value = WAYS
        .iter()
        .map(|(url, protocol)| {
            let credential = rig.credential(protocol);
            json!({ "urls": url.replace("ADDR", &addr), "username": credential.username, "credential": credential.password })
        })
        .collect();
    let listener =
        host.run_in(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("the host").expect("a port");
    let page = format!("http://{}/", listener.local_addr().expect("an address"));
    let (sender, outcomes) = channel();
    thread::spawn(move || serve(&listener, &servers, &sender));
    let profile = tempfile::tempdir().expect("a directory");
    let mut browser = start(&host, profile.path(), &page, &rig.fingerprint());
    let outcomes =
        outcomes.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no outcome\n{}", browser.output()));
    // It writes to its profile to the last.
    let _ = browser.terminate();
    let mut table = Table::new("Chromium", &["connection to the relay", "shows"]);
    let shows = "data channel messages both ways between two relayed candidates";
    for ((url, protocol), at) in WAYS.iter().zip(0..) {
        table.row(&[&format!("`{}`", url.replace("ADDR", "HOST")), shows], &judge(&outcomes[at], protocol));
    }
    table.hold();
}
