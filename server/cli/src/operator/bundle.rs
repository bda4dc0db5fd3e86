//! `meetpoint bundle`: what helps to find a fault, in one archive, without secrets.
//!
//! Whatever can't be had is told in the archive instead: a server that is down is a reason to make one.

mod redact;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Method;
use serde_json::{Value, json};

use self::redact::Redactor;
use super::client::{Access, Client, segment};
use super::{PAGE, audit, events, show};
use crate::args::{BundleArgs, ServerArgs};
use crate::config;
use crate::exit::Failure;
use crate::part::Part;
use crate::progress::Progress;
use crate::signals::Stop;

/// The end of a log tells what went wrong.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// Larger than what a server of many series exports.
const MAX_METRICS_BYTES: usize = 8 << 20;
/// For the head of an answer.
const PATIENCE: Duration = Duration::from_secs(15);

type Parts = Vec<(String, Result<String, Failure>)>;

/// `meetpoint bundle`.
pub(crate) async fn bundle(args: BundleArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let file = args.file.display().to_string();
    if args.file.exists() {
        return Err(Failure::usage(format!("{file}: is there already; give another FILE")));
    }
    let parts = tokio::select! {
        parts = gather(&args) => parts,
        signal = stop.wait() => return Err(Failure::stopped(signal, "interrupted; nothing was written")),
    };
    let redactor = Redactor::new(&args.server);
    write(&args.file, &parts, &redactor).map_err(|error| Failure::failed(format!("{file}: {error}")))?;
    let (whole, missing): (Vec<_>, Vec<_>) = parts.iter().partition(|(_, part)| part.is_ok());
    let names = |parts: &[&(String, Result<String, Failure>)]| -> Vec<String> {
        parts.iter().map(|(name, _)| name.clone()).collect()
    };
    let (whole, missing) = (names(&whole), names(&missing));
    show(&args.server, &json!({ "file": file, "parts": whole, "missing": missing }), || {
        let missing =
            if missing.is_empty() { String::new() } else { format!("\nmissing: {}", missing.join(", ")) };
        format!(
            "{file}: {}{missing}\nTokens and keys are taken out; names and addresses are not.",
            whole.join(", ")
        )
    });
    Ok(())
}

async fn gather(args: &BundleArgs) -> Parts {
    let progress = Progress::new();
    let total = 9 + args.logs.len() as u64;
    let mut parts: Parts = Vec::new();
    let mut add = |name: &str, part: Result<String, Failure>| {
        parts.push((name.to_owned(), part));
        progress.tell("gathering", parts.len() as u64, total);
    };
    let server = &args.server;
    let version =
        format!("meetpoint {}\nschema {}\n", env!("CARGO_PKG_VERSION"), meetpoint_server::newest_schema());
    add("version.txt", Ok(version));
    let settings = config::of_environment().map(|settings| config::table(&settings)).map_err(Failure::usage);
    add("config.txt", settings);
    add("status.json", get(server, Access::Public, "/v1/status").await);
    add("readyz.json", get(server, Access::Public, "/readyz").await);
    add("nodes.json", of_clusters(server, "nodes").await);
    add("seeds.json", of_clusters(server, "seeds").await);
    add("relay-sessions.json", get(server, Access::Read, "/v1/relay/sessions?limit=200").await);
    add("events.json", recent(server).await);
    let head = audit::verify_served(server, None).await;
    add("audit.txt", head.map(|head| format!("intact: {} entries\nhead {head}\n", head.seq)));
    add("metrics.txt", metrics(server).await);
    for (at, log) in args.logs.iter().enumerate() {
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tail = tail(log).map_err(|error| Failure::failed(format!("{}: {error}", log.display())));
        add(&format!("logs/{}-{name}", at + 1), tail);
    }
    parts
}

async fn get(server: &ServerArgs, access: Access, path: &str) -> Result<String, Failure> {
    Ok(pretty(&Client::new(server, access)?.get(path).await?))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A list of each cluster that this server is the home of.
async fn of_clusters(server: &ServerArgs, what: &str) -> Result<String, Failure> {
    let client = Client::new(server, Access::Read)?;
    let status = client.get("/v1/status").await?;
    let mut told = serde_json::Map::new();
    for name in
        status["clusters"].as_array().into_iter().flatten().filter_map(|cluster| cluster["name"].as_str())
    {
        let path = format!("/v1/clusters/{}/{what}", segment(name));
        let list = match what {
            "seeds" => client.get(&path).await.map(|list| list["items"].clone()),
            _ => client.list(&path, PAGE).await.map(Value::Array),
        };
        // One that this server is not the home of has none here.
        told.insert(name.to_owned(), list.unwrap_or_else(|failure| json!({ "error": failure.message() })));
    }
    Ok(pretty(&Value::Object(told)))
}

async fn recent(server: &ServerArgs) -> Result<String, Failure> {
    let events = events::kept(&Client::new(server, Access::Read)?).await?;
    Ok(events.iter().map(|event| format!("{event}\n")).collect())
}

/// Text, where the server has them at its own address.
async fn metrics(server: &ServerArgs) -> Result<String, Failure> {
    let client = Client::new(server, Access::Read)?;
    let mut answer = client.open(Method::GET, "/metrics", &[], PATIENCE).await?;
    let mut text = Vec::new();
    while let Some(piece) = answer.next().await.map_err(Failure::failed)? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_METRICS_BYTES {
            return Err(Failure::failed("the metrics are too long"));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_LOG_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write(file: &Path, parts: &Parts, redactor: &Redactor) -> io::Result<()> {
    let mut part = Part::create(file)?;
    let mut archive = tar::Builder::new(GzEncoder::new(&mut part, Compression::default()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (name, content) in parts {
        let (name, text) = match content {
            Ok(text) => (format!("meetpoint-bundle/{name}"), text.clone()),
            Err(failure) => (format!("meetpoint-bundle/{name}.missing"), format!("{}\n", failure.message())),
        };
        let text = redactor.clean(&text);
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()?;
    part.publish(file)
}
