//! A server of the test's own, as a process.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use meetpoint_cli::lab::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row, SqliteConnection};

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn meetpoint() -> Command {
    Command::new(env!("CARGO_BIN_EXE_meetpoint"))
}

pub(crate) fn run(args: &[&str]) -> Output {
    meetpoint().args(args).output().expect("it runs")
}

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) stun: SocketAddr,
    pub(crate) stun_tls: SocketAddr,
    pub(crate) fingerprint: String,
    pub(crate) data: PathBuf,
}

impl Server {
    /// On loopback; port 0 takes a free one.
    pub(crate) fn start(data: &Path, port: u16) -> Self {
        Self::start_with(data, port, &[])
    }

    /// The same with these flags.
    pub(crate) fn start_with(data: &Path, port: u16, flags: &[&str]) -> Self {
        let mut command = meetpoint();
        command.arg("serve").arg("--data").arg(data).args(["--http", &format!("127.0.0.1:{port}")]);
        command.args(["--stun", "127.0.0.1:0", "--stun-alt-port", "0", "--stun-threads", "1"]);
        command.args(["--relay-ip", "127.0.0.1"]);
        // The writers are one caller, and mean it.
        command.args(["--limit-rest", "4000000000/1s"]).args(flags);
        let mut process = Process::spawn("server", &mut command).expect("it starts");
        let mut line = |what: &'static str| {
            let of = |line: &str| line.strip_prefix(what).map(str::to_owned);
            process.expect_line(what, PATIENCE, of).unwrap_or_else(|error| panic!("{error}"))
        };
        let http = line("listening http ").parse().expect("an address");
        // Its other port is for those who measure their NAT.
        let stun = line("listening stun ").replace(" port ", ":");
        let stun = stun.split(' ').next().expect("a word").parse().expect("an address");
        let stun_tls = line("listening stun-tls ").parse().expect("an address");
        let fingerprint = line("fingerprint ");
        Self { process, http, stun, stun_tls, fingerprint, data: data.to_owned() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a process id"));
        kill(pid, signal).expect("a signal");
    }

    /// The last lines of its log that have this in them.
    pub(crate) fn log(&self, part: &str) -> Vec<String> {
        let mut lines = self.process.output().stderr;
        lines.retain(|line| line.contains(part));
        lines
    }

    /// Waits until this is in its log.
    pub(crate) fn logs(&self, part: &str) {
        self.logs_until(part, |lines| !lines.is_empty());
    }

    /// Waits until the lines that have this in them are as they should be.
    pub(crate) fn logs_until(&self, part: &str, is_well: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_well(&self.log(part)) {
            assert!(Instant::now() < deadline, "{part}: {}", self.process.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn caller(&self) -> Caller {
        let token = std::fs::read_to_string(self.data.join("admin-token")).expect("an admin token");
        Caller::new(self.http, token.trim())
    }

    /// An operator's command, towards this server.
    pub(crate) fn operate(&self, args: &[&str]) -> Command {
        let mut command = meetpoint();
        command.args(args).args(["--server", &format!("http://{}", self.http), "--admin-token-file"]);
        command.arg(self.data.join("admin-token"));
        command
    }
}

/// A REST client that keeps its connection.
pub(crate) struct Caller {
    http: SocketAddr,
    token: String,
    stream: Option<TcpStream>,
}

impl Caller {
    pub(crate) fn new(http: SocketAddr, token: &str) -> Self {
        Self { http, token: token.to_owned(), stream: None }
    }

    /// The status and the body; `None` if the server went away before it had answered.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.http).ok()?,
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let answer = read_answer(&mut stream)?;
        self.stream = Some(stream);
        Some(answer)
    }
}

fn read_answer(stream: &mut TcpStream) -> Option<(u16, Value)> {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let len = stream.read(&mut chunk).ok().filter(|len| *len > 0)?;
        text.extend_from_slice(&chunk[..len]);
        let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let length: usize = length.parse().ok()?;
        while text.len() < end + 4 + length {
            let len = stream.read(&mut chunk).ok().filter(|len| *len > 0)?;
            text.extend_from_slice(&chunk[..len]);
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        return Some((status, serde_json::from_slice(&text[end + 4..]).unwrap_or_default()));
    }
}

/// What a registry holds of what the writers wrote.
#[derive(Debug)]
pub(crate) struct Found {
    /// Labels of the join tokens by their ids.
    pub(crate) tokens: BTreeMap<String, String>,
    /// Ports of the seeds by their names.
    pub(crate) seeds: BTreeMap<String, u16>,
    /// How many tokens the audit log says were made by the operator.
    pub(crate) audited_tokens: usize,
}

/// Looks into a registry, whose server may be running, and checks its integrity.
pub(crate) fn look(registry: &Path) -> Found {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(registry).read_only(true);
        let mut conn = options.busy_timeout(PATIENCE).connect().await.expect("a registry");
        let verdict: String = scalar(&mut conn, "PRAGMA integrity_check").await;
        assert_eq!(verdict, "ok");
        let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut conn).await.expect("a check");
        assert!(dangling.is_empty());
        let audited: i64 = scalar(
            &mut conn,
            "SELECT count(*) FROM audit WHERE action = 'join_token.create' AND actor = 'admin'",
        )
        .await;
        let tokens = sqlx::query("SELECT lower(hex(token_id)), label FROM join_tokens WHERE label LIKE 'w%'");
        let tokens = tokens.fetch_all(&mut conn).await.expect("tokens");
        let seeds = sqlx::query("SELECT name, port FROM seeds WHERE name LIKE 'w%'").fetch_all(&mut conn);
        let seeds = seeds.await.expect("seeds");
        Found {
            tokens: tokens.iter().map(|row| (row.get(0), row.get(1))).collect(),
            seeds: seeds.iter().map(|row| (row.get(0), row.get::<i64, _>(1) as u16)).collect(),
            audited_tokens: audited as usize,
        }
    })
}

async fn scalar<T>(conn: &mut SqliteConnection, query: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    sqlx::query_scalar(query).fetch_one(conn).await.expect("an answer")
}
