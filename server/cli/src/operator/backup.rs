//! `meetpoint backup` and `meetpoint restore`.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::Method;
use meetpoint_server::{BackupError, BackupInfo, restore, verify_backup};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::{Access, Client};
use super::show;
use crate::args::{BackupArgs, RestoreArgs};
use crate::exit::Failure;
use crate::part::Part;
use crate::progress::Progress;
use crate::signals::Stop;

/// The server makes all of it before the first byte comes; its own limit is as long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two pieces: the server breaks off earlier.
const PIECE_PATIENCE: Duration = Duration::from_secs(60);

/// `meetpoint backup`.
pub(crate) async fn backup(args: BackupArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    if args.file.exists() && !args.force {
        let file = args.file.display();
        return Err(Failure::usage(format!("{file}: is there already; give another FILE, or --force")));
    }
    let client = Client::new(&args.server, Access::Change)?;
    let (info, bytes) = tokio::select! {
        outcome = fetch(&client, &args.file) => outcome?,
        signal = stop.wait() => return Err(Failure::stopped(signal, "interrupted; nothing was written")),
    };
    let file = args.file.display().to_string();
    let mut told = describe(&info);
    (told["file"], told["bytes"]) = (json!(file), json!(bytes));
    show(&args.server, &told, || {
        format!(
            "{file}: {bytes} bytes, verified\n{}\nIt holds the keys of the clusters and of this server, and its \
             tokens: keep it as you would keep those.",
            text(&info)
        )
    });
    Ok(())
}

/// Gets, checks, and only then gives it its name.
async fn fetch(client: &Client, file: &Path) -> Result<(BackupInfo, u64), Failure> {
    let progress = Progress::new();
    progress.tell("waiting for the server", 0, 0);
    let at = |error: io::Error| Failure::failed(format!("{}: {error}; nothing was written", file.display()));
    let mut part = Part::create(file).map_err(at)?;
    let mut answer = client.open(Method::POST, "/v1/backup", &[], PATIENCE).await?;
    let total = answer.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let digest = answer.header("repr-digest").map(str::to_owned);
    let (mut hasher, mut done) = (Sha256::new(), 0);
    loop {
        let piece = tokio::time::timeout(PIECE_PATIENCE, answer.next()).await;
        let piece =
            piece.map_err(|_| Failure::failed("the server sends nothing more; nothing was written"))?;
        let broken = |error| Failure::failed(format!("the backup broke off: {error}; nothing was written"));
        let Some(piece) = piece.map_err(broken)? else { break };
        hasher.update(&piece);
        part.write_all(&piece).map_err(at)?;
        done += piece.len() as u64;
        progress.tell("receiving", done, total);
    }
    let expected = format!("sha-256=:{}:", BASE64.encode(&hasher.finalize()));
    if digest.as_deref() != Some(&*expected) || done != total {
        return Err(Failure::failed("what arrived is not what the server sent; nothing was written"));
    }
    progress.tell("checking", 0, 0);
    let info = verify_backup(part.path()).await.map_err(Failure::failed)?;
    part.publish(file).map_err(at)?;
    Ok((info, done))
}

/// `meetpoint restore`.
pub(crate) async fn restore_file(args: RestoreArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let progress = Progress::new();
    if args.verify {
        progress.tell("checking", 0, 0);
        let info = tokio::select! {
            outcome = verify_backup(&args.file) => outcome.map_err(Failure::failed)?,
            signal = stop.wait() => return Err(Failure::stopped(signal, "interrupted; it was not looked at to the end")),
        };
        drop(progress);
        say(args.json, &describe(&info), || format!("{}: whole\n{}", args.file.display(), text(&info)));
        return Ok(());
    }
    let work =
        restore(&args.file, &args.data, args.force, |stage, done, total| progress.tell(stage, done, total));
    let restored = tokio::select! {
        outcome = work => outcome.map_err(refused)?,
        signal = stop.wait() => return Err(Failure::stopped(signal, "interrupted; nothing was changed")),
    };
    drop(progress);
    let (data, info) = (args.data.display(), &restored.info);
    let mut told = describe(info);
    told["data"] = json!(data.to_string());
    told["kept"] = json!(restored.kept.as_ref().map(|kept| kept.display().to_string()));
    say(args.json, &told, || {
        let kept = restored.kept.as_ref().map(|kept| format!("\nwhat was there is in {}", kept.display()));
        format!("{data}: restored\n{}{}", text(info), kept.unwrap_or_default())
    });
    Ok(())
}

fn refused(error: BackupError) -> Failure {
    match error {
        BackupError::Occupied { .. } => Failure::usage(error),
        error => Failure::failed(error),
    }
}

fn say(json: bool, value: &Value, for_people: impl FnOnce() -> String) {
    if json { println!("{value}") } else { println!("{}", for_people()) }
}

fn describe(info: &BackupInfo) -> Value {
    let counts: serde_json::Map<_, _> =
        info.counts.iter().map(|(what, count)| ((*what).to_owned(), json!(count))).collect();
    json!({
        "made_unix_ms": info.made_unix_ms,
        "server_version": info.server_version,
        "schema": info.schema,
        "fingerprint": info.fingerprint,
        "audit_head": info.audit_head.to_string(),
        "files": info.files,
        "counts": counts,
    })
}

fn text(info: &BackupInfo) -> String {
    let counts: Vec<String> =
        info.counts.iter().map(|(what, count)| format!("{count} {}", what.replace('_', " "))).collect();
    format!(
        "made by meetpoint {} at {} ms since 1970, schema {}\nregistry: {}\nfiles: {}\nfingerprint {}\naudit head {}",
        info.server_version,
        info.made_unix_ms,
        info.schema,
        counts.join(", "),
        info.files.join(", "),
        info.fingerprint,
        info.audit_head,
    )
}
